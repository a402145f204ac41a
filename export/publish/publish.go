// Package publish turns due keys into public files: it closes the window of each scheme,
// renders the exports, commits them together with their log entries, and applies the
// commit to the public tree.
//
//	close   no new key falls into the window
//	crowd   a thin window waits, then is padded
//	ungroup nothing on disk tells any more which keys came together
//	stage   files are written and synced, named by digest, not yet visible
//	commit  one synced batch: windows, log entries, tree hashes, checkpoint as signed
//	apply   files, proofs, tiles, then checkpoint, then index
//
// The commit is the one point that counts. Whatever stops the process before it has left
// nothing but litter in the staging folder; whatever stops it after is finished by Recover,
// which runs the same apply again. A checkpoint leaves the process only after its batch is
// on disk, so the log never has two roots for one size.
//
// The package knows nothing of uploads: it meets them in the store, and only in windows
// that are closed.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"sync"
	"time"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/match/idset"
	"bluekey/export/tree"
	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// Config says what is published, when and by whom. Random, Now, Log, witnesses and URL may
// be left out.
type Config struct {
	Origin string // name of the log, its checkpoints and its keys
	Region string // as GAEN names it, "VN-HP"

	Period    time.Duration // length of a window, whole seconds
	Hold      time.Duration // how long a due key may wait for a crowd
	Retention time.Duration // how long files and keys stay after their window's end
	MinKeys   int           // fewer due keys of a scheme than this are held back
	Exact     bool          // whether the store takes exact metadata: named in manifests
	// Profiles says which kinds of file a window of a scheme gets. A scheme that is not in
	// it gets DefaultProfiles.
	Profiles map[diagnosis.Scheme][]exportlog.FileKind
	// IDSetBits is f of the ID sets, idset.MinF to idset.MaxF: one answer in 2^f is a false
	// "yes", and an ID costs about f + 1.62 bits. 0 means idset.DefaultF. A set says what it
	// was made with, so this may be another from one start to the next.
	IDSetBits int
	// Tier names the kernels that make ID sets; empty means the fastest that there are.
	Tier string
	// Split is the largest number of keys in one archive; 0 means export.MaxArchiveKeys.
	Split int

	// Predecessor is the log that this one follows, if it is a successor. It is looked at
	// when the log has no entry yet.
	Predecessor *Predecessor

	// Signers of export.sig that the log introduces if it does not know them. Those that it
	// knows from a rotation sign too: their keys derive from Seed.
	Signers []*signing.ExportSigner
	Seed    signing.Seed
	LogKeys signing.LogKeys // of the checkpoints

	// Witnesses are asked to cosign every checkpoint; PolicyWitnesses are the same and
	// perhaps more, as /policy names them, and Quorum says how many of those must have
	// cosigned for a reader to be content.
	Witnesses       []Witness
	PolicyWitnesses []exportlog.PolicyWitness
	Quorum          int
	URL             string // of the public tree, for /policy; may be empty

	Random io.Reader        // where padding comes from; nil means crypto/rand
	Now    func() time.Time // nil means time.Now
	Log    *slog.Logger     // nil means slog.Default
}

// Publisher is the one writer of a store's windows and of its public tree.
type Publisher struct {
	Config
	store   *keystore.Store
	folder  *tree.Folder
	staging *tree.Staging
	policy  *exportlog.Policy // of the log itself, as published
	terms   []term            // signers that the log has introduced, oldest first
	pending []term            // those that the commit under way introduces
	calls   chan func(context.Context)
	closed  bool // the log has its closing entry
	small   struct {
		files map[string]loggedFile // by path; see smallFiles
		read  uint64                // entries that were read for it
	}

	heard map[string]bool // witnesses that have told what they hold of this log

	mu     sync.Mutex
	status Status
	lost   map[string]error // by path: why a file of the tree is missing for good
}

// Status says how publishing goes.
type Status struct {
	LastWindow time.Time     // end of the newest window that was published
	LastDelay  time.Duration // how long the oldest key of the last export had been due
	// Held counts the due keys that wait for a crowd since the last window of their scheme
	// ended. A scheme is missing if none wait, and before the first window of this run ends.
	Held      map[diagnosis.Scheme]int
	LogSize   uint64               // entries of the log
	Witnessed map[string]time.Time // when each witness last cosigned
	// Err is why the last round failed, or else that files of the tree are missing that
	// nobody can make again; nil if all is well.
	Err error
}

// ErrFork means that the public tree and the store tell different stories. Nothing may be
// published until a person has looked.
var ErrFork = errors.New("the public tree and the store disagree")

// New makes a Publisher. Call Recover before anything else.
func New(cfg Config, store *keystore.Store, folder *tree.Folder, staging *tree.Staging) (*Publisher, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Random == nil {
		cfg.Random = systemRandom
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Split == 0 {
		cfg.Split = defaultSplit
	}
	if cfg.IDSetBits == 0 {
		cfg.IDSetBits = idset.DefaultF
	}
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	text, _, err := exportlog.FormatPolicies(cfg.policyTerms())
	if err != nil {
		return nil, err
	}
	policy, err := exportlog.ParsePolicy(text)
	if err != nil {
		return nil, err
	}
	p := &Publisher{Config: cfg, store: store, folder: folder, staging: staging, policy: policy, calls: make(chan func(context.Context))}
	p.status.Witnessed, p.status.Held = map[string]time.Time{}, map[diagnosis.Scheme]int{}
	p.lost = map[string]error{}
	p.small.files = map[string]loggedFile{}
	p.heard = map[string]bool{}
	return p, nil
}

// Check finds settings that cannot work together.
func (c *Config) Check() error {
	switch {
	case c.Period < time.Second || c.Period%time.Second != 0:
		return fmt.Errorf("period %v: want whole seconds, at least one", c.Period)
	case c.Hold < 0 || c.Hold%time.Second != 0:
		return fmt.Errorf("hold %v: want whole seconds, at least 0", c.Hold)
	case c.Retention < c.Period || c.Retention%time.Second != 0:
		return fmt.Errorf("retention %v: want whole seconds, at least one period", c.Retention)
	case c.MinKeys < 1:
		return fmt.Errorf("min_keys %d: want at least 1", c.MinKeys)
	case c.Origin != "" && c.tryManifest() != nil:
		return fmt.Errorf("origin %q, region %q: %w", c.Origin, c.Region, c.tryManifest())
	case c.IDSetBits != 0 && (c.IDSetBits < idset.MinF || c.IDSetBits > idset.MaxF):
		return fmt.Errorf("id_set_bits %d: want %d to %d", c.IDSetBits, idset.MinF, idset.MaxF)
	case len(c.Signers) > signing.MaxSigners:
		return fmt.Errorf("%d signers: an archive takes at most %d", len(c.Signers), signing.MaxSigners)
	}
	return c.checkProfiles()
}

// tryManifest writes a manifest with origin and region: one that cannot be written would
// keep every window from being published.
func (c *Config) tryManifest() error {
	m := exportlog.Manifest{Origin: c.Origin, Region: c.Region, Scheme: diagnosis.GAEN, End: 1, Period: 1, Retain: 1, Metadata: exportlog.Coarse, Encoder: export.Encoder}
	_, err := m.Format()
	return err
}

// Recover finishes what a stopped process left: it compares the tree with the store, puts
// back files that are missing, applies a commit that was not applied, sweeps the staging
// folder, gives a new log its first entries, and ends an erasure that was interrupted. It
// must succeed before Run or Round is called.
func (p *Publisher) Recover(ctx context.Context) (err error) {
	if err := p.compare(ctx); err != nil {
		return err
	}
	if p.terms, err = p.logSigners(); err != nil { // who signed what is rendered again
		return err
	}
	if err := p.restore(ctx); err != nil {
		return fmt.Errorf("restoring the public tree: %w", err)
	}
	if err := p.finish(ctx); err != nil {
		return err
	}
	if err := p.staging.Sweep(nil); err != nil {
		return err
	}
	if err := p.introduce(ctx); err != nil {
		return fmt.Errorf("the first entries of the log: %w", err)
	}
	if err := p.putFixed(); err != nil { // the policy may be another since the last start
		return err
	}
	if err := p.store.Scrub(ctx); err != nil {
		return fmt.Errorf("erasing expired keys: %w", err)
	}
	p.mu.Lock()
	p.status.LogSize = p.store.LogSize()
	p.mu.Unlock()
	return nil
}

// finish applies the last commit if that has not been done, and learns whether it closed
// the log.
func (p *Publisher) finish(ctx context.Context) error {
	plan, outstanding, err := p.store.Outstanding()
	if err == nil && outstanding {
		err = p.apply(ctx, plan)
	}
	if err != nil {
		return fmt.Errorf("finishing the last publication: %w", err)
	}
	return p.learnClosed()
}

// compare holds the store against its tree and against what the witnesses have seen. A tree
// that is ahead teaches a restored store what it lost; one that contradicts it stops
// everything.
func (p *Publisher) compare(ctx context.Context) error {
	published, err := p.folder.Get(exportlog.CheckpointPath, exportlog.MaxCheckpoint)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("reading the tree's checkpoint: %w", err)
	default:
		theirs, err := p.policy.Open(published)
		if err != nil {
			return fmt.Errorf("%w: the tree's checkpoint: %w", ErrFork, err)
		}
		if theirs.Size > p.store.LogSize() {
			if err := p.catchUp(ctx, theirs); err != nil {
				return fmt.Errorf("catching up with the tree: %w", err)
			}
		}
		if err := p.compareWith("the tree", theirs.Checkpoint); err != nil {
			return err
		}
	}
	return p.compareOutside(ctx)
}

// Run publishes at the end of every period until ctx is done. A round that fails is tried
// again, less and less often. Run returns an error only if going on would be wrong.
func (p *Publisher) Run(ctx context.Context) error {
	if err := p.awaitOutside(ctx); err != nil {
		return err
	}
	failing := failures{longest: p.Period}
	var cosigning cosigning
	for {
		err := p.Round(ctx)
		if err == nil {
			err = cosigning.run(ctx, p)
		}
		p.mu.Lock()
		p.status.Err = err
		p.mu.Unlock()
		wait := min(p.NextEnd().Sub(p.Now()), cosigning.again(p.Now()))
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrFork):
			return err
		case err != nil:
			again, tell := failing.next(err, p.Now())
			if tell {
				p.Log.Error("publishing failed; trying again", "error", err)
			}
			wait = min(again, max(wait, time.Second))
		default:
			failing.over()
		}
		select {
		case <-ctx.Done():
			return nil
		case call := <-p.calls:
			call(ctx)
		case <-time.After(max(wait, 0)):
		}
	}
}

// NextEnd is when the window that is now open ends.
func (p *Publisher) NextEnd() time.Time { return floor(p.Now(), p.Period).Add(p.Period) }

// Status reports how publishing goes.
func (p *Publisher) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.Witnessed, s.Held = maps.Clone(s.Witnessed), maps.Clone(s.Held)
	if s.Err == nil {
		s.Err = p.lostError()
	}
	return s
}

// floor is the last multiple of period since the epoch that is not after t.
func floor(t time.Time, period time.Duration) time.Time {
	seconds := int64(period / time.Second)
	return time.Unix(t.Unix()/seconds*seconds, 0).UTC()
}

// Round closes every window that has ended, publishes what is due, and erases what has
// been public for the retention. In a log that is closed it erases only.
func (p *Publisher) Round(ctx context.Context) error {
	if err := p.finish(ctx); err != nil {
		return err
	}
	// What a round that failed has staged, nobody will adopt.
	if err := p.staging.Sweep(nil); err != nil {
		return err
	}
	if p.closed {
		return p.runOut(ctx)
	}
	if err := p.seal(ctx); err != nil {
		return err
	}
	_, err := p.closeLog(ctx)
	return err
}

// ended are the schemes whose open window has ended.
func (p *Publisher) ended() (list []diagnosis.Scheme) {
	end := floor(p.Now(), p.Period)
	for _, scheme := range diagnosis.Schemes {
		if end.After(p.store.WindowStart(scheme)) {
			list = append(list, scheme)
		}
	}
	return list
}

// seal closes the windows that have ended, in one commit.
func (p *Publisher) seal(ctx context.Context) error {
	now := p.Now()
	end := floor(now, p.Period)
	for _, scheme := range diagnosis.Schemes {
		if start := p.store.WindowStart(scheme); now.Before(start) {
			return fmt.Errorf("the clock says %s, before the end of the last window (%s): nothing is published until it is right", now.UTC().Format(time.RFC3339), start.Format(time.RFC3339))
		}
	}
	ended := p.ended()
	if len(ended) == 0 {
		return nil
	}
	r := p.newRound()
	for _, scheme := range ended {
		w, err := p.closeWindow(ctx, scheme, end)
		if err != nil {
			return fmt.Errorf("closing the %s window: %w", scheme, err)
		}
		r.windows = append(r.windows, w)
	}
	if err := p.store.Ungroup(ctx); err != nil {
		return fmt.Errorf("ungrouping the closed windows: %w", err)
	}
	for i := range r.windows {
		if err := p.render(ctx, &r, &r.windows[i]); err != nil {
			return fmt.Errorf("rendering the %s window: %w", r.windows[i].Scheme, err)
		}
	}
	if err := p.expire(&r, end); err != nil {
		return fmt.Errorf("expiring old windows: %w", err)
	}
	if err := p.commit(ctx, &r); err != nil {
		return err
	}
	p.mu.Lock()
	p.status.LastWindow, p.status.LogSize = end, p.store.LogSize()
	for _, w := range r.windows {
		if w.keys > 0 {
			p.status.LastDelay = p.Now().Sub(w.oldest)
		}
		if w.held > 0 {
			p.status.Held[w.Scheme] = w.held
		} else {
			delete(p.status.Held, w.Scheme)
		}
	}
	p.mu.Unlock()
	return nil
}

// round collects what one commit changes.
type round struct {
	create  func() (output, error) // where files are written
	windows []window
	entries [][]byte
	plan    plan
	erase   map[diagnosis.Scheme]time.Time
}

// output is a file being written: staged, or only hashed.
type output interface {
	io.Writer
	Finish() (tree.Staged, error)
	Discard() error
}

// newRound makes a round whose files are staged.
func (p *Publisher) newRound() round {
	return round{create: func() (output, error) { return p.staging.Create() }}
}

// window is one closed window and what became of it.
type window struct {
	keystore.Window
	keys   int                             // to publish; 0 if the window is empty or held back
	held   int                             // due, but held back
	idBits int                             // f of its ID set, where that is not Config.IDSetBits; else 0
	walk   iter.Seq2[diagnosis.Key, error] // those keys, in the order of their secrets
	oldest time.Time                       // the oldest bucket of those keys: due then at the earliest
}

// closeWindow decides whether the due keys of a scheme are published now, and pads a crowd
// that is too small and has waited long enough.
func (p *Publisher) closeWindow(ctx context.Context, scheme diagnosis.Scheme, end time.Time) (window, error) {
	w := window{Window: keystore.Window{Scheme: scheme, Start: p.store.WindowStart(scheme), End: end}}
	due, err := p.store.CloseWindow(ctx, scheme, end)
	if err != nil {
		return w, err
	}
	waitedLongEnough := end.Sub(due.Oldest) > p.Hold
	if due.Count == 0 || due.Count < p.MinKeys && !waitedLongEnough {
		w.held = due.Count
		return w, nil
	}
	w.keys, w.oldest = due.Count, due.Oldest
	if missing := p.MinKeys - due.Count; missing > 0 {
		made := madeUpCases(scheme, missing, end, p.Random)
		if err := p.store.AddPadding(ctx, made); err != nil {
			return w, fmt.Errorf("padding: %w", err)
		}
		w.keys += len(made)
	}
	w.Published, w.Through = true, end
	return w, nil
}
