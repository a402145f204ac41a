package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// Predecessor is the log that a new one follows: where its tree is, and the policy of that
// log alone, pinned by whoever starts the new one.
type Predecessor struct {
	Tree   tree.Source
	Policy *exportlog.Policy
}

// ErrClosed means that the log has its closing entry. Nothing but erasures may follow.
var ErrClosed = errors.New("the log is closed: another one follows it")

// openAfter gives a new log the opening entry that names its predecessor. A log that has
// begun must have it: it cannot be added later.
func (p *Publisher) openAfter(ctx context.Context, r *round) error {
	if p.Predecessor == nil {
		return nil
	}
	keys, err := p.Predecessor.Policy.LogKeys()
	if err != nil {
		return err
	}
	name := keys[0].Name()
	if p.store.LogSize() > 0 {
		first, err := p.entry(0)
		if err != nil {
			return err
		}
		if o, ok := first.(exportlog.Opening); !ok || o.Origin != name {
			return fmt.Errorf("this log began without naming %s as its predecessor: that needs a new data folder", name)
		}
		return nil
	}
	for i, own := range p.LogKeys.VKeys() {
		if p.Origin == name || bytes.Equal(own.Public(), keys[i].Public()) {
			return fmt.Errorf("%s is the predecessor: a new log needs another origin and another seed", name)
		}
	}
	signed, err := tree.ReadAll(ctx, p.Predecessor.Tree, exportlog.CheckpointPath, exportlog.MaxCheckpoint)
	if err != nil {
		return err
	}
	old, err := p.Predecessor.Policy.Verify(signed)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Predecessor.Tree, err)
	}
	text, err := exportlog.Opening{Time: p.Now().Unix(), Origin: old.Origin, Size: old.Size, Root: old.Root}.Format()
	r.entries = append(r.entries, text)
	return err
}

// CloseLog ends the log in favour of its successor: the log of the policy, whose opening
// entry, proved under that policy, must name this log as it is or was. From now on the
// store refuses uploads. The closing entry follows as soon as every key is public: by the
// time returned, or already if that is zero. Afterwards only erasures are logged, until the
// last export has expired. Calling it again tells how far this is. Run must be running.
func (p *Publisher) CloseLog(ctx context.Context, policy, opening []byte) (by time.Time, err error) {
	err = p.do(ctx, func(ctx context.Context) error {
		c, err := p.successor(policy, opening)
		if err != nil {
			return err
		}
		if err := p.retire(c); err != nil {
			return err
		}
		if err := p.finish(ctx); err != nil {
			return err
		}
		by, err = p.closeLog(ctx)
		return err
	})
	return by, err
}

// successor makes the closing entry, if the other log says that it follows this one.
func (p *Publisher) successor(policy, opening []byte) (exportlog.Closing, error) {
	c, err := exportlog.NewClosing(p.Now(), policy)
	if err != nil {
		return c, err
	}
	pinned, err := exportlog.ParsePolicy(policy)
	if err != nil {
		return c, err
	}
	proved, err := exportlog.VerifyProof(opening, pinned)
	if err != nil {
		return c, fmt.Errorf("the opening entry of %s: %w", c.Origin, err)
	}
	o, ok := proved.Entry.(exportlog.Opening)
	if !ok || proved.Index != 0 || o.Origin != p.Origin {
		return c, fmt.Errorf("%s does not begin with an opening entry that names %s: it must be started as its successor", c.Origin, p.Origin)
	}
	return c, p.compareWith("the opening entry of "+c.Origin, exportlog.Checkpoint{Origin: o.Origin, Size: o.Size, Root: o.Root})
}

// retire ends the taking of uploads and remembers why, through every restart.
func (p *Publisher) retire(c exportlog.Closing) error {
	if note, ok := p.store.Retired(); ok {
		before, err := closingOf(note)
		if err != nil {
			return err
		}
		if c.Time = before.Time; c != before {
			return fmt.Errorf("the log is being closed in favour of %s already, with the policy of SHA-256 %x", before.Origin, before.Policy)
		}
		return nil
	}
	text, err := c.Format()
	if err != nil {
		return err
	}
	if err := p.store.Retire(string(text)); err != nil {
		return err
	}
	p.Log.Info("uploads are refused from now on; the log closes when every key is public", "successor", c.Origin)
	return nil
}

func closingOf(note string) (exportlog.Closing, error) {
	e, err := exportlog.ParseEntry([]byte(note))
	if err != nil {
		return exportlog.Closing{}, fmt.Errorf("why the store was retired: %w", err)
	}
	c, ok := e.(exportlog.Closing)
	if !ok {
		return c, fmt.Errorf("the store was retired for a %T", e)
	}
	return c, nil
}

// closeLog adds the closing entry if the store is retired and nothing is left to publish.
// Else it tells by when that will be so.
func (p *Publisher) closeLog(ctx context.Context) (by time.Time, err error) {
	note, retired := p.store.Retired()
	if p.closed || !retired {
		return time.Time{}, nil
	}
	newest, some, err := p.store.Unpublished()
	if err != nil {
		return time.Time{}, err
	}
	// A window that has ended goes first: the log must not fall silent before its end.
	if ended := len(p.ended()) > 0; some || ended {
		latest := p.Now()
		if some && newest.After(latest) {
			latest = newest
		}
		return floor(latest.Add(p.Hold+p.Period), p.Period).Add(p.Period), nil
	}
	c, err := closingOf(note)
	if err != nil {
		return time.Time{}, err
	}
	c.Time = p.Now().Unix()
	text, err := c.Format()
	if err != nil {
		return time.Time{}, err
	}
	if err := p.commit(ctx, &round{entries: [][]byte{text}}); err != nil {
		return time.Time{}, fmt.Errorf("closing the log: %w", err)
	}
	p.closed = true
	p.grown()
	p.Log.Info("the log is closed", "successor", c.Origin)
	return time.Time{}, nil
}

// learnClosed finds out whether the log has its closing entry. A store that was put back
// from a backup may have learnt of it from its tree only.
func (p *Publisher) learnClosed() error {
	for i := p.store.LogSize(); i > 0; i-- {
		e, err := p.entry(i - 1)
		if err != nil {
			return err
		}
		switch e := e.(type) {
		case exportlog.Erasure:
			continue
		case exportlog.Closing:
			p.closed = true
			if _, retired := p.store.Retired(); retired {
				return nil
			}
			return p.retire(e)
		}
		return nil
	}
	return nil
}

// runOut erases what has been public for the retention, in a log that is closed.
func (p *Publisher) runOut(ctx context.Context) error {
	var r round
	if err := p.expire(&r, floor(p.Now(), p.Period)); err != nil {
		return fmt.Errorf("expiring old windows: %w", err)
	}
	if len(r.entries) == 0 {
		return nil
	}
	if err := p.commit(ctx, &r); err != nil {
		return err
	}
	p.grown()
	return nil
}

// allowed keeps everything but erasures out of a closed log.
func (p *Publisher) allowed(r *round) error {
	if p.closed && (len(r.windows) > 0 || len(r.entries) > len(r.erase)) {
		return ErrClosed
	}
	return nil
}

func (p *Publisher) grown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.LogSize = p.store.LogSize()
}

// entry reads an entry back from the log.
func (p *Publisher) entry(i uint64) (exportlog.Entry, error) {
	text, err := p.store.Entry(i)
	if err != nil {
		return nil, err
	}
	e, err := exportlog.ParseEntry(text)
	if err != nil {
		return nil, fmt.Errorf("log entry %d: %w", i, err)
	}
	return e, nil
}
