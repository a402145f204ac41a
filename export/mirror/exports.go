package mirror

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// maxKeyAge is how old a key may be when it is accepted, and dueAfter how long after its
// end it becomes due, for clocks differ.
const (
	maxKeyAge = 15 * 24 * time.Hour
	dueAfter  = 2 * time.Hour
)

func shaOf(data []byte) [32]byte { return sha256.Sum256(data) }

// beside is how many windows are checked at once, at least: a web server is far away.
const beside = 4

// exports opens every export file that should be there, and looks for those that should
// not. Windows are checked side by side.
func (a *audit) exports(ctx context.Context) error {
	for _, w := range append(a.ledger.live[:len(a.ledger.live):len(a.ledger.live)], a.ledger.gone...) {
		a.progress.Listed += len(w.Files)
	}
	sum := newSummer()
	var mu sync.Mutex
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(max(beside, runtime.GOMAXPROCS(0)))
	each := func(list []*publication, check func(context.Context, *publication) error) {
		for _, w := range list {
			group.Go(func() error {
				if err := running.Err(); err != nil {
					return err
				}
				err := check(running, w)
				mu.Lock()
				defer mu.Unlock()
				a.progress.Files += len(w.Files)
				a.Progress(a.progress)
				return err
			})
		}
	}
	each(a.ledger.live, func(ctx context.Context, w *publication) error { return a.window(ctx, w, sum) })
	each(a.ledger.gone, a.absent)
	if err := group.Wait(); err != nil {
		return err
	}
	return a.strays(ctx)
}

// window checks every file of one window.
func (a *audit) window(ctx context.Context, w *publication, sum summer) error {
	list, err := files(&w.Manifest)
	if err != nil {
		return err
	}
	total, good := sums{}, true
	found := make([]*contents, len(list))
	defer func() { closeAll(found) }()
	for i, l := range list {
		c, err := l.check(ctx, a.source, sum, a.signerKey)
		f, err := flawOf(err)
		if err != nil {
			return err
		}
		found[i] = c
		switch {
		case f != nil && f.code == CodeFileMissing && a.now.Unix() >= keptUntil(&w.Manifest):
			// It may go from now on; whether the log says so in time is the ledger's business.
			good = false
			continue
		case f != nil:
			good = false
			a.report.findEntry(f.code, w.entry, l.file.Path, "%v", f)
		default:
			a.ages(w, l, c)
			total.add(l, c)
		}
		if a.expired(&w.Manifest) {
			a.late(w, l.file.Path)
		}
		if err := a.proof(ctx, w, l.file.Path+exportlog.ProofSuffix); err != nil {
			return err
		}
	}
	a.count(len(list), total)
	if !good {
		return nil
	}
	if err := total.compare(); err != nil {
		a.report.findEntry(CodeDisagree, w.entry, list[slices.IndexFunc(list, isKeySet)].file.Path, "%v", err)
		return nil
	}
	return a.idSets(ctx, w, list, found)
}

// idSets holds the ID sets of a window against its keys, if it has any, and counts them.
func (a *audit) idSets(ctx context.Context, w *publication, list []listed, found []*contents) error {
	compared, err := compareIDs(ctx, list, found)
	f, err := flawOf(err)
	if err != nil {
		return err
	}
	for i, l := range list {
		switch {
		case l.kind != exportlog.IDSet:
		case f != nil:
			a.report.findEntry(f.code, w.entry, l.file.Path, "%v", f)
		default:
			a.report.idSet(found[i].ids, compared)
		}
	}
	return nil
}

func (a *audit) count(files int, total sums) {
	a.report.mu.Lock()
	defer a.report.mu.Unlock()
	a.report.Files += files
	keys := 0
	for _, s := range total {
		keys = max(keys, s.keys)
	}
	a.report.Keys += keys
}

// signerKey gives the key that the log introduced. Whether a signer may sign is judged by
// the ledger, so one that is unknown is not reported again.
func (a *audit) signerKey(name string) (*ecdsa.PublicKey, error) {
	s := a.ledger.signers[name]
	if s == nil {
		return nil, flawf(CodeSignature, "export.sig cannot be checked: the log has not introduced %s", name)
	}
	return s.Public()
}

// ages holds the ends of the keys of a file against the terms of its window.
func (a *audit) ages(w *publication, l listed, c *contents) {
	if c == nil || c.ids != nil || c.sum.keys == 0 {
		return
	}
	end := time.Unix(w.End, 0)
	earliest, latest := w.Scheme.Time(c.earliest), w.Scheme.Time(c.latest)
	if oldest := end.Add(-maxKeyAge - dueAfter - term(w.Hold)); earliest.Before(oldest) {
		a.report.findEntry(CodeKeyOld, w.entry, l.file.Path, "it holds a key that ended at %s, before %s", at(earliest.Unix()), at(oldest.Unix()))
	}
	if latest.Add(dueAfter).After(end) {
		a.report.findEntry(CodeKeyEarly, w.entry, l.file.Path, "it holds a key that ends at %s and was due %v later, after its window", at(latest.Unix()), dueAfter)
	}
}

func (a *audit) late(w *publication, path string) {
	a.report.findEntry(CodeFileLate, w.entry, path, "its retention ended at %s, more than a period ago, and it is still served", at(keptUntil(&w.Manifest)))
}

// proof checks the proof beside a file.
func (a *audit) proof(ctx context.Context, w *publication, path string) error {
	data, err := tree.ReadAll(ctx, a.source, path, exportlog.MaxProof)
	missing, err := absent(err)
	if err != nil {
		return err
	}
	proved, wrong := a.openProof(data, missing)
	if wrong == nil && proved.Index != w.entry {
		wrong = &Finding{Code: CodeProof, Detail: fmt.Sprintf("it proves entry %d", proved.Index)}
	}
	if wrong != nil {
		wrong.Entry, wrong.Path = &w.entry, path
		a.report.add(*wrong)
	}
	return nil
}

// absent looks for files of a window that the log says were erased.
func (a *audit) absent(ctx context.Context, w *publication) error {
	if !a.expired(&w.Manifest) {
		return nil
	}
	for _, f := range w.Files {
		blob, err := a.source.Open(ctx, f.Path, min(f.Size, maxIDSet)+slack)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err == nil:
			if err := blob.Close(); err != nil {
				return fmt.Errorf("reading %s: %w", f.Path, err)
			}
		case !errors.Is(err, tree.ErrTooLarge): // whatever else lies there
			return err
		}
		a.late(w, f.Path)
	}
	return nil
}

// strays looks, where the source can be listed as folders and buckets can, for export files
// of no window that the log still has.
func (a *audit) strays(ctx context.Context) error {
	source, ok := a.source.(tree.Lister)
	if !ok {
		return nil
	}
	known := map[string]bool{}
	for _, w := range append(a.ledger.live[:len(a.ledger.live):len(a.ledger.live)], a.ledger.gone...) {
		for _, f := range w.Files {
			known[f.Path], known[f.Path+exportlog.ProofSuffix] = true, true
		}
	}
	names, err := source.List(ctx, "exports")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing the exports: %w", err)
	}
	for _, name := range names {
		// A proof that was being rewritten when the power failed is neither served nor a
		// key of anybody.
		if path := "exports/" + name; !known[path] && !strings.HasSuffix(path, exportlog.ProofSuffix+".new") && !a.coming(path) {
			a.report.find(CodeFileStray, path, "no window within retention names it")
		}
	}
	return nil
}

// coming reports whether a file is of a window that has ended after every one of the log:
// it is there before the checkpoint that covers it, as it should be.
func (a *audit) coming(path string) bool {
	p, err := exportlog.ParseExportPath(strings.TrimSuffix(path, exportlog.ProofSuffix))
	if err != nil || a.ledger.future(p.End) {
		return false
	}
	for _, c := range a.ledger.chains {
		if p.End <= c.manifest.End {
			return false
		}
	}
	return true
}
