package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

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

// cosign asks the witnesses about the newest checkpoint, writes it again with the lines
// that came, and remakes proofs that had missed the quorum so far. A witness that does
// not answer is only noted.
func (p *Publisher) cosign(ctx context.Context) error {
	if len(p.Witnesses) == 0 {
		return nil
	}
	checkpoint, err := p.store.Checkpoint()
	if err != nil {
		return err
	}
	size := p.store.LogSize()
	ctx, cancel := context.WithTimeout(ctx, min(witnessPatience, p.Period/2))
	defer cancel()
	lines := make([][]byte, len(p.Witnesses))
	var wg sync.WaitGroup
	for i, w := range p.Witnesses {
		wg.Go(func() {
			var err error
			lines[i], err = w.Cosign(ctx, checkpoint, func(old uint64) ([][32]byte, error) {
				return exportlog.ProveConsistency(old, size, p.store)
			})
			p.witnessed(w.Name(), err)
		})
	}
	wg.Wait()
	cosigned := append(bytes.Clone(checkpoint), bytes.Join(lines, nil)...)
	if len(cosigned) == len(checkpoint) {
		return nil
	}
	if err := p.folder.Put(exportlog.CheckpointPath, cosigned); err != nil {
		return err
	}
	opened, err := p.policy.Open(cosigned)
	if err != nil || !opened.Quorum {
		return err
	}
	return p.remakeProofs(size, cosigned)
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
				old, err := p.folder.Get(f.Path+exportlog.ProofSuffix, exportlog.MaxProof)
				if err == nil {
					if _, err = exportlog.VerifyProof(old, p.policy); err == nil {
						continue
					}
				}
				proof, err := p.proof(w.Entry, size, cosigned)
				if err != nil {
					return err
				}
				if err := p.folder.Put(f.Path+exportlog.ProofSuffix, proof); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// compareOutside asks the witnesses what they have seen of this log. A data folder that was
// put back from a backup would otherwise sign a second history.
func (p *Publisher) compareOutside(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, witnessPatience)
	defer cancel()
	for _, w := range p.Witnesses {
		held, err := w.Held(ctx, p.Origin)
		if err != nil {
			continue // none, or out of reach: Cosign will tell
		}
		// Only what this log itself has signed can stop it: a witness, or somebody on the
		// way to it, may answer anything.
		seen, err := p.policy.Open(held)
		if err != nil {
			p.Log.Warn("a witness holds a checkpoint that this log did not sign", "witness", w.Name(), "error", err)
			continue
		}
		if err := p.compareWith("the witness "+w.Name(), seen.Checkpoint); err != nil {
			return err
		}
	}
	return nil
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
