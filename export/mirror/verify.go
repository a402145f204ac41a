package mirror

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/signing"
)

// VerifyOptions says whom to trust. Whoever names neither key nor policy is served from
// the tree itself, where there is one, and told on every line that this proves nothing
// about who runs it.
type VerifyOptions struct {
	// PublicKey must have signed every archive; nil means the keys that the tree names.
	PublicKey *ecdsa.PublicKey
	// Policy must accept every checkpoint, quorum included; nil means that of the tree.
	Policy *exportlog.Policy
}

// Line is what Verify found out about one file, or about a tree as a whole.
type Line struct {
	Name    string   // the file as a person finds it: a path or a URL
	Checked []string // what holds, in the order in which it was checked
	Notes   []string // what a reader must know about it
	Problem string   // why it failed; empty if it did not
}

// OK reports whether everything held.
func (l Line) OK() bool { return l.Problem == "" }

// String is the line as printed, without its end.
func (l Line) String() string {
	verdict, parts := "ok      ", []string{strings.Join(l.Checked, ", ")}
	if !l.OK() {
		verdict, parts = "FAILED  ", []string{l.Problem}
		if len(l.Checked) > 0 {
			parts = append(parts, "held: "+strings.Join(l.Checked, ", "))
		}
	}
	return verdict + l.Name + ": " + strings.Join(append(parts, l.Notes...), "; ")
}

func (l *Line) held(format string, args ...any) {
	l.Checked = append(l.Checked, fmt.Sprintf(format, args...))
}

// fail ends a line with the flaw that err is. Any other error comes back.
func (l *Line) fail(err error) error {
	f, err := flawOf(err)
	if f != nil {
		l.Problem = f.Error()
	}
	return err
}

// ownWord says that a tree was judged by a policy of its own.
const ownWord = "the log's key taken from the tree itself: proves nothing about who runs it"

// suffixes of the files that Verify looks for in folders and at the end of URLs.
var suffixes = []string{".zip", ".keys", ".ids", exportlog.KeyringPath}

// Verify checks each target: an export file, a small file or the URL of an export or keyring, the root of a tree (folder or URL
// with index.json), or a folder of export files. Of a tree it reads the whole log, so that
// no index can hide a window, and every file that should be listed. report gets a line for
// every file as it is done, and one for every tree. ok is whether all of them held. An
// error means that the checks could not be finished.
func Verify(ctx context.Context, targets []string, o VerifyOptions, report func(Line)) (ok bool, err error) {
	ok = true
	v := &verifier{VerifyOptions: o, sum: newSummer(), report: func(l Line) {
		ok = ok && l.OK()
		report(l)
	}}
	for _, target := range targets {
		place, err := tree.Locate(target, suffixes...)
		if err != nil {
			return false, fmt.Errorf("finding %s: %w", target, err)
		}
		if place.Files == nil {
			err = v.tree(ctx, place.Source)
		}
		for _, name := range place.Files {
			if err = v.loose(ctx, place.Source, name); err != nil {
				break
			}
		}
		if err != nil {
			return false, fmt.Errorf("verifying %s: %w", target, err)
		}
	}
	return ok, nil
}

type verifier struct {
	VerifyOptions
	sum    summer
	report func(Line)
}

// home is a tree that a file came from.
type home struct {
	source tree.Source       // nil if only a policy is known
	policy *exportlog.Policy // nil if the tree has none and none was given
	notes  []string          // on whose word the policy is taken
	keys   map[string]*ecdsa.PublicKey
	log    *audit // that walked the whole log, nil if none did
}

// openHome finds the policy to judge a tree by.
func (v *verifier) openHome(ctx context.Context, s tree.Source) (*home, error) {
	h := &home{source: s, policy: v.Policy, keys: map[string]*ecdsa.PublicKey{}}
	if h.policy != nil {
		return h, nil
	}
	text, err := tree.ReadAll(ctx, s, exportlog.PolicyPath, exportlog.MaxPolicy)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return nil, tooLarge(CodePolicy, err)
	}
	if h.policy, err = exportlog.ParsePolicy(text); err != nil {
		return nil, flawf(CodePolicy, "%w", err)
	}
	h.notes = []string{ownWord}
	return h, nil
}

// key gives the public key of a signer: the one that was asked for, or the tree's own. It
// is nil where there is neither.
func (v *verifier) key(ctx context.Context, h *home) signerKey {
	if v.PublicKey == nil && h.source == nil {
		return nil
	}
	return func(signer string) (*ecdsa.PublicKey, error) {
		if v.PublicKey != nil {
			return v.PublicKey, nil
		}
		if pub := h.keys[signer]; pub != nil {
			return pub, nil
		}
		path := "gaen/keys/" + signer + ".pem"
		text, err := read(ctx, h.source, path, maxPEM, CodeSignerKey)
		if err != nil {
			return nil, err
		}
		pub, err := signing.ParsePublicPEM(text)
		if err != nil {
			return nil, flawf(CodeSignerKey, "%s: %w", path, err)
		}
		h.keys[signer] = pub
		return pub, nil
	}
}

// maxPEM bounds the text of one public key in bytes.
const maxPEM = 4 << 10

// tree checks a tree: its checkpoint, the log under it, the lists, and every file in them.
func (v *verifier) tree(ctx context.Context, s tree.Source) error {
	line := Line{Name: s.String()}
	index, err := tree.ReadAll(ctx, s, exportlog.IndexPath, exportlog.MaxIndex)
	if err != nil && !errors.Is(err, tree.ErrTooLarge) {
		return fmt.Errorf("reading the index of a tree: %w", err)
	}
	var h *home
	var x *exportlog.Index
	if err = tooLarge(CodeIndex, err); err == nil {
		h, x, err = v.treeLine(ctx, s, index, &line)
	}
	if err == nil {
		x, err = v.wholeLog(ctx, h, x, &line)
	}
	if err := line.fail(err); err != nil {
		return err
	}
	v.report(line)
	if h == nil || x == nil {
		return nil
	}
	for _, e := range x.Exports {
		if err := v.window(ctx, h, e); err != nil {
			return err
		}
	}
	return nil
}

// treeLine checks what concerns the tree as a whole. home and index are nil where they
// could not be read.
func (v *verifier) treeLine(ctx context.Context, s tree.Source, index []byte, line *Line) (*home, *exportlog.Index, error) {
	h, err := v.openHome(ctx, s)
	if err == nil && h.policy == nil {
		err = flawf(CodePolicy, "the tree has no policy and none was given: nothing in it can be verified")
	}
	if err != nil {
		return nil, nil, err
	}
	line.Notes = h.notes
	x, err := exportlog.ParseIndex(index)
	if err != nil {
		return nil, nil, flawf(CodeIndex, "%w", err)
	}
	signed, err := read(ctx, s, exportlog.CheckpointPath, exportlog.MaxCheckpoint, CodeCheckpoint)
	if err != nil {
		return h, &x, err
	}
	opened, err := h.policy.Verify(signed)
	if err != nil {
		return h, &x, flawf(CodeCheckpoint, "%w", err)
	}
	line.held("checkpoint of %d entries", opened.Size)
	line.signatures(opened)
	if x.Origin != opened.Origin || x.Size > opened.Size {
		return h, &x, flawf(CodeIndex, "the index is of %s with %d entries, the checkpoint of %s with %d", x.Origin, x.Size, opened.Origin, opened.Size)
	}
	line.held("index of %d windows", len(x.Exports))
	return h, &x, nil
}

func (l *Line) signatures(o exportlog.Opened) {
	if o.Both {
		l.held("both signatures of the log")
	} else {
		l.held("the one signature of the log that the policy asks for")
	}
	if len(o.Cosigners) > 0 {
		l.held("quorum with %d cosignatures", len(o.Cosigners))
	} else {
		l.held("quorum")
	}
}

// window checks the files of one window that the index lists.
func (v *verifier) window(ctx context.Context, h *home, e exportlog.IndexEntry) error {
	entry, err := exportlog.ParseEntry([]byte(e.Manifest))
	if err != nil {
		return err // ParseIndex has parsed it
	}
	m := entry.(exportlog.Manifest)
	list, err := files(&m)
	if err != nil {
		return err
	}
	lines := make([]Line, len(list))
	total, good := sums{}, true
	found := make([]*contents, len(list))
	defer func() { closeAll(found) }()
	for i, l := range list {
		lines[i] = Line{Name: inside(h.source, l.file.Path), Notes: h.notes}
		c, err := v.indexed(ctx, h, e, l, &lines[i])
		if err := lines[i].fail(err); err != nil {
			return err
		}
		found[i] = c
		total.add(l, c)
		good = good && lines[i].OK()
	}
	if good {
		if err := total.compare(); err != nil {
			lines[slices.IndexFunc(list, isKeySet)].Problem = err.Error()
		} else if err := v.idSets(ctx, list, found, lines); err != nil {
			return err
		}
	}
	for _, l := range lines {
		v.report(l)
	}
	return nil
}

// idSets holds the ID sets of a window against its keys, if it has any.
func (v *verifier) idSets(ctx context.Context, list []listed, found []*contents, lines []Line) error {
	compared, err := compareIDs(ctx, list, found)
	for i, l := range list {
		if l.kind != exportlog.IDSet {
			continue
		}
		if err := lines[i].fail(err); err != nil {
			return err
		}
		if compared {
			lines[i].held("the IDs of the window's keys and no others")
		} else if err == nil {
			lines[i].Notes = append(slices.Clone(lines[i].Notes), "published without keys: whose IDs they are cannot be checked")
		}
	}
	return nil
}

// inside names a file of a source for people.
func inside(s tree.Source, path string) string {
	return strings.TrimPrefix(strings.TrimRight(s.String(), "/")+"/"+path, "./")
}

// indexed checks one file that the index lists, by the proof beside it.
func (v *verifier) indexed(ctx context.Context, h *home, e exportlog.IndexEntry, l listed, line *Line) (*contents, error) {
	_, proved, err := h.prove(ctx, e, l)
	if err != nil {
		return nil, err
	}
	line.proof(proved)
	c, err := l.check(ctx, h.source, v.sum, v.key(ctx, h))
	if err != nil {
		return nil, err
	}
	v.contents(line, h, l, c)
	return c, nil
}

// prove checks the proof beside a file that the index lists.
func (h *home) prove(ctx context.Context, e exportlog.IndexEntry, l listed) (proof []byte, proved exportlog.Proved, err error) {
	proof, err = read(ctx, h.source, l.file.Path+exportlog.ProofSuffix, exportlog.MaxProof, CodeProof)
	if err != nil {
		return nil, proved, err
	}
	proved, err = exportlog.VerifyProof(proof, h.policy)
	if err != nil {
		return nil, proved, flawf(CodeProof, "%w", err)
	}
	if h.log != nil {
		if f := h.log.agrees(proved, proof); f != nil {
			return nil, proved, flawf(f.Code, "%s", f.Detail)
		}
	}
	text, err := proved.Entry.Format()
	if err != nil || proved.Index != e.Entry || string(text) != e.Manifest {
		return nil, proved, flawf(CodeIndex, "the index gives entry %d another text than the log", e.Entry)
	}
	return proof, proved, nil
}

func (l *Line) proof(p exportlog.Proved) {
	l.held("entry %d in a checkpoint of %d", p.Index, p.Size)
	l.signatures(p.Opened)
}

// contents says what was found in a file that a proof names.
func (v *verifier) contents(line *Line, h *home, l listed, c *contents) {
	line.held("digest")
	if c.ids != nil {
		line.held("%d IDs of %d keys, one false answer in %.0f", c.ids.ids, c.sum.keys, c.ids.oneFalseIn)
		return
	}
	line.held("%d keys", c.sum.keys)
	switch {
	case c.Archive == nil:
	case v.PublicKey != nil:
		line.held("export.sig by the key given")
	case h.source == nil:
		line.Notes = append(slices.Clone(line.Notes), "export.sig was not checked: no key was given (--key)")
	default:
		line.held("export.sig by %s (key taken from the tree)", strings.Join(l.manifest.Signers, " and "))
	}
}
