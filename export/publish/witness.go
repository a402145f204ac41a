package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
)

// Witness is somebody outside who cosigns checkpoints if they continue what it has seen.
type Witness interface {
	// Name is what the policy calls the witness.
	Name() string
	// Cosign gives verified cosignature lines for a signed checkpoint. prove proves that
	// the checkpoint continues the log at a smaller size.
	Cosign(ctx context.Context, checkpoint []byte, prove func(old uint64) ([][32]byte, error)) ([]byte, error)
	// Held is the newest checkpoint that the witness cosigned, unverified; fs.ErrNotExist
	// if it has or shows none.
	Held(ctx context.Context, origin string) ([]byte, error)
}

// witnessPatience bounds the wait for all witnesses together. Exports are out by then:
// nothing but the cosignatures waits.
const witnessPatience = 20 * time.Second

// cosigning remembers for Run which checkpoint the witnesses were asked about. Those of the
// last process may lack cosignatures, so the first is always asked about.
type cosigning struct {
	size uint64        // of the checkpoint that they were asked about last
	asks bool          // they were asked at all
	met  bool          // and the quorum is met
	last time.Time     // when they were asked
	wait time.Duration // until they are asked again, if it is not
}

// Witnesses that leave the quorum unmet are asked again after these times: the first, twice
// as long each time, at most the last. Phones wait for the quorum, too.
const (
	askAgain     = 15 * time.Second
	askAgainLast = 10 * time.Minute
)

// run asks the witnesses if the log has grown or it is time to ask again.
func (c *cosigning) run(ctx context.Context, p *Publisher) error {
	size := p.store.LogSize()
	grown := !c.asks || size > c.size
	if !grown && c.again(p.Now()) > 0 {
		return nil
	}
	met, err := p.cosign(ctx)
	if err != nil {
		return err
	}
	if c.wait = min(2*c.wait, askAgainLast); grown {
		c.wait = askAgain
	}
	c.size, c.asks, c.met, c.last = size, true, met, p.Now()
	return nil
}

// again is how long to wait before the witnesses are asked about the same checkpoint again;
// for ever if they need not be.
func (c *cosigning) again(now time.Time) time.Duration {
	if c.met || !c.asks {
		return math.MaxInt64
	}
	return c.last.Add(c.wait).Sub(now)
}

// cosign asks the witnesses about the newest checkpoint, writes it again with the lines
// that came, and remakes proofs that had missed the quorum so far. A witness that does
// not answer is only noted. met tells whether the quorum is.
func (p *Publisher) cosign(ctx context.Context) (met bool, err error) {
	if len(p.Witnesses) == 0 {
		return true, nil // nobody to ask again
	}
	checkpoint, err := p.store.Checkpoint()
	if err != nil {
		return false, err
	}
	size := p.store.LogSize()
	asking, cancel := context.WithTimeout(ctx, min(witnessPatience, p.Period/2))
	defer cancel()
	lines, forks := make([][]byte, len(p.Witnesses)), make([]error, len(p.Witnesses))
	var wg sync.WaitGroup
	for i, w := range p.Witnesses {
		wg.Go(func() {
			var err error
			lines[i], err = w.Cosign(asking, checkpoint, func(old uint64) ([][32]byte, error) {
				return exportlog.ProveConsistency(old, size, p.store)
			})
			p.witnessed(w.Name(), err)
			if err != nil { // perhaps because it knows another history
				_, forks[i] = p.compareHeld(asking, w)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(forks...); err != nil {
		return false, err
	}
	cosigned := append(bytes.Clone(checkpoint), bytes.Join(lines, nil)...)
	if len(cosigned) > len(checkpoint) {
		if err := p.folder.Put(exportlog.CheckpointPath, cosigned); err != nil {
			return false, err
		}
	}
	opened, err := p.policy.Open(cosigned)
	if err != nil || !opened.Quorum {
		return false, err
	}
	return true, p.remakeProofs(size, cosigned)
}

func (p *Publisher) witnessed(name string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.status.Witnessed[name] = p.Now()
		return
	}
	p.Log.Warn("a witness did not cosign", "witness", name, "error", err)
}

// remakeProofs writes the proofs that did not meet the quorum again, on a checkpoint that
// does. One that met it is never touched again.
func (p *Publisher) remakeProofs(size uint64, cosigned []byte) error {
	for _, scheme := range diagnosis.Schemes {
		windows, err := p.store.Windows(scheme)
		if err != nil {
			return err
		}
		for _, w := range windows {
			if !w.Published {
				continue
			}
			m, err := p.manifest(w.Entry)
			if err != nil {
				return err
			}
			for _, f := range m.Files {
				if err := p.remakeProof(f.Path, w.Entry, size, cosigned); err != nil {
					return err
				}
			}
		}
	}
	logged, err := p.smallFiles()
	if err != nil {
		return err
	}
	for path, f := range logged {
		if p.isLost(path) {
			continue
		}
		if err := p.remakeProof(path, f.entry, size, cosigned); err != nil {
			return err
		}
	}
	return nil
}

func (p *Publisher) remakeProof(path string, entry, size uint64, cosigned []byte) error {
	old, err := p.folder.Get(path+exportlog.ProofSuffix, exportlog.MaxProof)
	if err == nil && p.proves(old, entry) {
		if _, err = exportlog.VerifyProof(old, p.policy); err == nil {
			return nil
		}
	}
	proof, err := p.proof(entry, size, cosigned)
	if err != nil {
		return err
	}
	return p.folder.Put(path+exportlog.ProofSuffix, proof)
}

// compareOutside asks the witnesses what they have seen of this log. A data folder that was
// put back from a backup would otherwise sign a second history. Those that answered are not
// asked again.
func (p *Publisher) compareOutside(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, witnessPatience)
	defer cancel()
	heard := make([]bool, len(p.Witnesses))
	asked, ctx := errgroup.WithContext(ctx) // the first that knows better is enough
	for i, w := range p.Witnesses {
		if !p.heard[w.Name()] {
			asked.Go(func() (err error) {
				heard[i], err = p.compareHeld(ctx, w)
				return err
			})
		}
	}
	err := asked.Wait()
	for i, w := range p.Witnesses {
		p.heard[w.Name()] = p.heard[w.Name()] || heard[i]
	}
	return err
}

// compareHeld asks one witness what it holds and compares it with the store. heard is whether
// it answered.
func (p *Publisher) compareHeld(ctx context.Context, w Witness) (heard bool, err error) {
	held, err := w.Held(ctx, p.Origin)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist), nil // else out of reach: Cosign will tell
	}
	// Only what this log itself has signed can stop it: a witness, or somebody on the way to
	// it, may answer anything.
	seen, err := p.policy.Open(held)
	if err != nil {
		p.Log.Warn("a witness holds a checkpoint that this log did not sign", "witness", w.Name(), "error", err)
		return true, nil
	}
	return true, p.compareWith("the witness "+w.Name(), seen.Checkpoint)
}

// After a start the network may come up later than this process: before the first round
// witnesses that did not answer are asked again, after outsideAgain each time, for at most
// outsideWait. No later export ever waits for a witness.
const (
	outsideAgain = 2 * time.Second
	outsideWait  = 30 * time.Second
)

// awaitOutside waits for the witnesses that have not been heard.
func (p *Publisher) awaitOutside(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(outsideWait, p.Period/8))
	defer cancel()
	for {
		if err := p.compareOutside(ctx); err != nil {
			return err
		}
		if !slices.ContainsFunc(p.Witnesses, func(w Witness) bool { return !p.heard[w.Name()] }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(outsideAgain):
		}
	}
}

// compareWith holds a checkpoint that is known elsewhere against the store. One of a larger
// log is errAhead.
func (p *Publisher) compareWith(where string, c exportlog.Checkpoint) error {
	size := p.store.LogSize()
	if c.Size > size {
		return fmt.Errorf("%w: %s knows %d log entries, the store %d: %w", ErrFork, where, c.Size, size, errAhead)
	}
	if c.Size == 0 {
		return nil
	}
	root, err := exportlog.Root(c.Size, p.store)
	if err != nil {
		return fmt.Errorf("comparing with %s: %w", where, err)
	}
	if root != c.Root {
		return fmt.Errorf("%w: at %d entries %s has the root %x, the store %x: find out who else publishes as %s", ErrFork, c.Size, where, c.Root, root, p.Origin)
	}
	return nil
}

var errAhead = errors.New("an old data folder was put back; start with --outside naming a tree or mirror that has the newest log, to catch up with it")

// policyTerms are what the policy files are rendered from.
func (c *Config) policyTerms() exportlog.PolicyTerms {
	return exportlog.PolicyTerms{Log: c.LogKeys.VKeys(), URL: strings.TrimSuffix(c.URL, "/"), Witnesses: c.PolicyWitnesses, Quorum: c.Quorum}
}
