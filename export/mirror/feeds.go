package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// Feeds is /feeds.json of a place that keeps copies of several logs, one folder each.
type Feeds struct {
	Feeds []Feed `json:"feeds"` // ascending by origin
}

// Feed is one of them.
type Feed struct {
	Origin string `json:"origin"`
	Path   string `json:"path"`   // of its tree, relative to feeds.json, ending in a slash
	Policy string `json:"policy"` // SHA-256 of the tree's /policy, hex: compare it with print
}

// Keep keeps copies: of one tree as the tree itself, of several as MirrorAll does.
func Keep(ctx context.Context, sources []tree.Source, place Place, o AuditOptions) ([]*Copied, error) {
	if len(sources) == 1 {
		copied, err := Mirror(ctx, sources[0], place, o)
		return []*Copied{copied}, err
	}
	return MirrorAll(ctx, sources, place, o)
}

// Gather brings copies of several trees up to date in a folder of the disk, and gives the
// folder of each. A tree that is refused is an error.
func Gather(ctx context.Context, sources []tree.Source, dir string, policy *exportlog.Policy) ([]string, error) {
	copies, err := MirrorAll(ctx, sources, Place{Disk: tree.Disk{}, Root: dir}, AuditOptions{Policy: policy})
	for _, one := range copies {
		if err == nil && !one.Moved {
			err = fmt.Errorf("the mirror refused a tree:\n%s", one)
		}
	}
	if err != nil {
		return nil, err
	}
	feeds, err := ReadFeeds(ctx, tree.FolderSource(dir))
	var trees []string
	for _, f := range feeds.Feeds {
		trees = append(trees, filepath.Join(dir, f.Path))
	}
	return trees, err
}

// MirrorAll keeps a copy of several trees, one folder each, and a feeds.json of all copies
// that lie there. A tree that cannot be read or is refused stops no other. The results are
// in the order of the sources; the error joins what kept any of them from being finished.
func MirrorAll(ctx context.Context, sources []tree.Source, place Place, o AuditOptions) ([]*Copied, error) {
	all := make([]*Copied, len(sources))
	var errs []error
	taken := map[string]bool{}
	for i, s := range sources {
		var err error
		all[i], err = mirrorOne(ctx, s, place, o, taken)
		errs = append(errs, err)
	}
	return all, errors.Join(append(errs, writeFeeds(place))...)
}

func mirrorOne(ctx context.Context, s tree.Source, place Place, o AuditOptions, taken map[string]bool) (*Copied, error) {
	none := &Copied{Report: newAudit(s, o).report}
	signed, err := tree.ReadAll(ctx, s, exportlog.CheckpointPath, exportlog.MaxCheckpoint)
	if err != nil && !errors.Is(err, tree.ErrTooLarge) {
		return none, fmt.Errorf("mirroring %s: %w", s, err)
	}
	opened, err := o.Policy.Open(signed)
	if err != nil {
		// It has no folder. The audit says what is wrong with it.
		none.Report, err = Audit(ctx, s, o)
		return none, err
	}
	dir := folderOf(opened.Origin)
	if taken[dir] {
		return none, fmt.Errorf("mirroring %s: folder %s is taken by another of the sources", s, dir)
	}
	taken[dir] = true
	place.Root = filepath.Join(place.Root, dir)
	return mirrorLog(ctx, s, place, o, opened.Origin)
}

// folderOf names the folder of an origin: what a file system or a bucket may not take in a
// name becomes an underscore.
func folderOf(origin string) string {
	name := []byte(origin)
	for i, b := range name {
		letter := b|0x20 >= 'a' && b|0x20 <= 'z'
		if !letter && !(b >= '0' && b <= '9') && b != '-' && (b != '.' || i == 0) {
			name[i] = '_'
		}
	}
	return string(name)
}

// Headers says how the files of a copy are to be served from a bucket, be the copy a tree
// itself or the folders that MirrorAll makes. It is a tree.Headers.
func Headers(path string) (contentType, cacheControl string, ok bool) {
	row, ok := exportlog.Lookup(path)
	if _, below, inFolder := strings.Cut(path, "/"); !ok && inFolder {
		row, ok = exportlog.Lookup(below)
	}
	return row.ContentType, row.CacheControl, ok
}

// writeFeeds lists the copies that lie in a place.
func writeFeeds(place Place) error {
	feeds := Feeds{Feeds: []Feed{}}
	folder, err := tree.NewFolder(place.Disk, place.Root)
	if err != nil {
		return err
	}
	names, err := place.Disk.List(place.Root)
	if err != nil {
		return fmt.Errorf("listing the copies: %w", err)
	}
	for _, dir := range names {
		signed, err1 := folder.Get(dir+"/"+exportlog.CheckpointPath, exportlog.MaxCheckpoint)
		policy, err2 := folder.Get(dir+"/"+exportlog.PolicyPath, exportlog.MaxPolicy)
		s := new(State)
		if err1 != nil || err2 != nil || s.see(signed) != nil {
			continue // not a copy, or not yet
		}
		digest := sha256.Sum256(policy)
		for origin := range s.logs {
			feeds.Feeds = append(feeds.Feeds, Feed{Origin: origin, Path: dir + "/", Policy: hex.EncodeToString(digest[:])})
		}
	}
	slices.SortFunc(feeds.Feeds, func(a, b Feed) int { return strings.Compare(a.Origin, b.Origin) })
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(feeds); err != nil {
		return err
	}
	return folder.Put(exportlog.FeedsPath, b.Bytes())
}

// maxFeeds bounds feeds.json: some hundred bytes a province.
const maxFeeds = 1 << 20

// ReadFeeds reads the feeds.json of a place that keeps several copies.
func ReadFeeds(ctx context.Context, source tree.Source) (Feeds, error) {
	var feeds Feeds
	data, err := tree.ReadAll(ctx, source, exportlog.FeedsPath, maxFeeds)
	if err != nil {
		return feeds, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&feeds); err != nil {
		return feeds, fmt.Errorf("reading %s: %w", exportlog.FeedsPath, err)
	}
	for _, f := range feeds.Feeds {
		if tree.CheckPath(strings.TrimSuffix(f.Path, "/")) != nil {
			return feeds, fmt.Errorf("reading %s: %q is no path below it", exportlog.FeedsPath, f.Path)
		}
	}
	return feeds, nil
}
