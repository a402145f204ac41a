package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// PrebuildOptions say what is made, and by whose word.
type PrebuildOptions struct {
	// Policy must accept every checkpoint, quorum included; nil means that of each tree,
	// which proves nothing about who runs it.
	Policy *exportlog.Policy
	// Kinds are what every window gets that its publisher did not make: exportlog.IDSet,
	// exportlog.KeySet, or both.
	Kinds []exportlog.FileKind
	// Workers is how many windows are worked on at once; 0 means one for each core.
	Workers int
	// MaxHashes bounds the hashes that all workers hold together, 16 bytes each; 0 means
	// 8 million.
	MaxHashes int
	Tier      string           // kernels of package match; empty means the fastest
	Now       func() time.Time // nil means time.Now
	Progress  func(done, all int)
}

// Prebuilt is what was done for one tree.
type Prebuilt struct {
	Source   string   `json:"source"`
	Origin   string   `json:"origin,omitempty"`
	Folder   string   `json:"folder,omitempty"` // below the place
	Windows  int      `json:"windows"`          // that have keys and lacked something
	Made     int      `json:"made"`             // files
	Bytes    int64    `json:"bytes"`            // in them
	Kept     int      `json:"kept"`             // files of an earlier run
	Removed  int      `json:"removed"`          // files whose window is gone
	Problems []string `json:"problems"`         // what could not be trusted, and was left out
	Notes    []string `json:"notes"`
}

// Prebuild makes the files that publishers did not: for the exports of many provinces' logs,
// what a CDN wants to serve beside them. Each log has a folder of its own in the place:
//
//	exports/<start>-<end>-<16 hex of SHA-256>.ids    or .keys, named as in a tree
//	exports/….tlog-proof     of the export that it was made from: the window, in its log
//	prebuilt.txt             the list of the files, last
//
// Every export that is read is held against the log first, as Verify does; a window that
// does not hold is a problem in the result and gets no file. The bytes of a file follow from
// the export and from nothing else, so to check one is to make it again.
//
// Files become visible whole, and each with its proof after it, by which a run that was
// stopped is taken up where it ended. Files go when the tree no longer lists their window,
// and one period after its retention even if the tree is out of reach.
//
// The results are in the order of the sources; the error joins what kept any of them from
// being finished.
func Prebuild(ctx context.Context, sources []tree.Source, place Place, o PrebuildOptions) ([]*Prebuilt, error) {
	b, err := newPrebuilder(place, o)
	if err != nil {
		return nil, fmt.Errorf("prebuilding: %w", err)
	}
	all := make([]*Prebuilt, len(sources))
	var errs []error
	var jobs []*prebuildJob
	taken := map[string]bool{}
	for i, s := range sources {
		f := &prebuiltFolder{Prebuilt: &Prebuilt{Source: s.String(), Problems: []string{}, Notes: []string{}}, wanted: map[string]bool{}}
		all[i] = f.Prebuilt
		more, err := b.open(ctx, s, f, taken)
		if err != nil {
			errs = append(errs, fmt.Errorf("prebuilding for %s: %w", s, err))
			continue
		}
		jobs = append(jobs, more...)
	}
	errs = append(errs, b.run(ctx, jobs), b.finish(), b.expire(taken))
	return all, errors.Join(errs...)
}

type prebuilder struct {
	PrebuildOptions
	Place
	now     time.Time
	folders []*prebuiltFolder // of the trees that could be read
}

// prebuiltFolder is the folder of one log.
type prebuiltFolder struct {
	*Prebuilt
	home *home // for one window at a time; see read

	mu      sync.Mutex // of all below and of Prebuilt while windows are worked on
	folder  *tree.Folder
	staging *tree.Staging
	there   map[string][]string // files of an earlier run, by the text of their window
	wanted  map[string]bool     // files that stay
	failed  bool                // not all windows were finished: nothing is removed
}

func newPrebuilder(place Place, o PrebuildOptions) (*prebuilder, error) {
	if len(o.Kinds) == 0 {
		return nil, errors.New("nothing to make: want ids, keys or both")
	}
	for _, kind := range o.Kinds {
		if kind != exportlog.IDSet && kind != exportlog.KeySet {
			return nil, fmt.Errorf("a .%s is signed by its publisher and cannot be made by others", kind)
		}
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.MaxHashes <= 0 {
		o.MaxHashes = 8 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	return &prebuilder{PrebuildOptions: o, Place: place, now: o.Now()}, nil
}

// open reads what a tree lists and finds out what is to be done for it.
func (b *prebuilder) open(ctx context.Context, s tree.Source, f *prebuiltFolder, taken map[string]bool) ([]*prebuildJob, error) {
	index, err := tree.ReadAll(ctx, s, exportlog.IndexPath, exportlog.MaxIndex)
	if err != nil {
		return nil, fmt.Errorf("reading its index: %w", err)
	}
	v := &verifier{VerifyOptions: VerifyOptions{Policy: b.Policy}, sum: newSummer()}
	line := new(Line)
	h, x, err := v.treeLine(ctx, s, index, line)
	if err := line.fail(err); err != nil {
		return nil, err
	}
	f.Notes = append(f.Notes, line.Notes...)
	if !line.OK() {
		f.Problems = append(f.Problems, line.Problem)
		return nil, nil
	}
	f.home, f.Origin, f.Folder = h, x.Origin, folderOf(x.Origin)
	if taken[f.Folder] {
		return nil, fmt.Errorf("folder %s is taken by another of the sources", f.Folder)
	}
	taken[f.Folder] = true
	if err := b.prepare(f); err != nil {
		return nil, err
	}
	b.folders = append(b.folders, f)
	var jobs []*prebuildJob
	for _, e := range x.Exports {
		job, err := b.job(v, f, e)
		if err != nil {
			return nil, err
		}
		if job != nil {
			jobs = append(jobs, job)
		}
	}
	f.Windows = len(jobs)
	return jobs, nil
}

// prepare opens the folder of a log and finds what an earlier run has left.
func (b *prebuilder) prepare(f *prebuiltFolder) (err error) {
	root := filepath.Join(b.Root, f.Folder)
	if f.folder, err = tree.NewFolder(b.Disk, root); err != nil {
		return err
	}
	// What is not listed is removed later, so this must not be somebody's tree.
	for _, path := range []string{exportlog.CheckpointPath, exportlog.IndexPath} {
		if blob, err := b.Disk.Open(filepath.Join(root, path)); !errors.Is(err, fs.ErrNotExist) {
			if err == nil {
				blob.Close()
			}
			return fmt.Errorf("%s is a tree: what is prebuilt needs a place of its own", root)
		}
	}
	if f.staging, err = tree.NewStaging(b.Disk, filepath.Join(b.Root, ".staging", f.Folder)); err != nil {
		return err
	}
	if err := f.staging.Sweep(nil); err != nil {
		return err
	}
	f.there = map[string][]string{}
	return b.each(f.folder, f.Folder, func(path string, window []byte, _ *exportlog.Manifest) error {
		f.there[string(window)] = append(f.there[string(window)], path)
		return nil
	})
}

// each tells of the files in a folder that have their proof beside them, in no order.
func (b *prebuilder) each(folder *tree.Folder, dir string, tell func(path string, window []byte, m *exportlog.Manifest) error) error {
	names, err := b.exports(dir)
	if err != nil {
		return err
	}
	for _, path := range names {
		text, err := folder.Get(path+exportlog.ProofSuffix, exportlog.MaxProof)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		proof, err := exportlog.ParseProof(text)
		if err != nil {
			continue // not whole: its file is made again
		}
		entry, err := exportlog.ParseEntry(proof.Extra)
		if m, ok := entry.(exportlog.Manifest); ok && err == nil {
			if err := tell(path, proof.Extra, &m); err != nil {
				return err
			}
		}
	}
	return nil
}

// exports are the files of a folder that are no proofs.
func (b *prebuilder) exports(dir string) ([]string, error) {
	names, err := b.Disk.List(filepath.Join(b.Root, dir, "exports"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing what is prebuilt: %w", err)
	}
	var paths []string
	for _, n := range names {
		if _, err := exportlog.ParseExportPath("exports/" + n); err == nil {
			paths = append(paths, "exports/"+n)
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// run does the jobs, several at once.
func (b *prebuilder) run(ctx context.Context, jobs []*prebuildJob) error {
	var mu sync.Mutex
	done := 0
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(b.Workers)
	for _, j := range jobs {
		group.Go(func() error {
			err := ctx.Err()
			if err == nil {
				err = j.do(ctx, b)
			}
			if err != nil {
				j.folder.mu.Lock()
				j.folder.failed = true
				j.folder.mu.Unlock()
				return fmt.Errorf("prebuilding for %s: %w", j.folder.Source, err)
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			b.Progress(done, len(jobs))
			return nil
		})
	}
	return group.Wait()
}

// finish removes, of each log that was read to its end, the files of windows that it no
// longer lists, and writes the list of those that stay.
func (b *prebuilder) finish() error {
	var errs []error
	for _, f := range b.folders {
		if f.failed {
			continue
		}
		n, err := b.keep(f.folder, f.Folder, func(path string) bool { return f.wanted[path] })
		f.Removed += n
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// keep removes the files that do not stay, with their proofs, and lists the others.
func (b *prebuilder) keep(folder *tree.Folder, dir string, stays func(path string) bool) (removed int, err error) {
	paths, err := b.exports(dir)
	if err != nil {
		return 0, err
	}
	var list, gone []string
	for _, path := range paths {
		if stays(path) {
			list = append(list, path)
		} else {
			gone = append(gone, path, path+exportlog.ProofSuffix)
		}
	}
	text, err := exportlog.FormatPrebuilt(list)
	if err != nil {
		return 0, err
	}
	// The list first: what it names is there, and what it no longer names may go.
	if err := folder.Put(exportlog.PrebuiltPath, text); err != nil {
		return 0, err
	}
	return len(gone) / 2, folder.Remove(gone...)
}

// expire removes what is past its retention from the folders of logs that were not read.
func (b *prebuilder) expire(read map[string]bool) error {
	dirs, err := b.Disk.List(b.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing what is prebuilt: %w", err)
	}
	for _, dir := range dirs {
		blob, err := b.Disk.Open(filepath.Join(b.Root, dir, exportlog.PrebuiltPath))
		if read[dir] || err != nil {
			continue // done, or none of ours
		}
		if err := blob.Close(); err != nil {
			return err
		}
		folder, err := tree.NewFolder(b.Disk, filepath.Join(b.Root, dir))
		if err != nil {
			return err
		}
		stays := map[string]bool{}
		err = b.each(folder, dir, func(path string, _ []byte, m *exportlog.Manifest) error {
			stays[path] = b.now.Unix() <= goneBy(m)
			return nil
		})
		if err != nil {
			return err
		}
		if _, err := b.keep(folder, dir, func(path string) bool { return stays[path] }); err != nil {
			return err
		}
	}
	return nil
}
