package publish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
)

// Outlet keeps a bucket that says what the public tree says, so that a CDN reads there and
// the appliance is never hit. It runs beside the Publisher and only reads what that has
// written: a bucket that is slow or gone delays nothing and is made up for later.
type Outlet struct {
	publisher *Publisher
	from      tree.FolderSource
	to        *tree.Bucket
	copied    string // stamp of the tree that the bucket has; empty before the first

	mu     sync.Mutex
	status OutletStatus
}

// OutletStatus says how an Outlet goes.
type OutletStatus struct {
	Behind time.Time // since when the bucket lacks something; zero if it lacks nothing
	Err    error     // why the last try failed, nil if it did not
}

// Times of an Outlet.
const (
	outletLook  = 2 * time.Second // between looks at the folder, and before the first retry
	outletWait  = time.Minute     // between tries at most
	outletGrace = 5 * time.Minute // that a bucket may be out of reach without anybody being called
)

// NewOutlet makes an Outlet of the publisher's public tree, which lies in folder from.
func NewOutlet(p *Publisher, from tree.FolderSource, to *tree.Bucket) *Outlet {
	return &Outlet{publisher: p, from: from, to: to, status: OutletStatus{Behind: p.Now()}}
}

// Run copies whenever the tree has changed, until ctx is done. It returns an error, ErrFork,
// only if this log has signed something else that is in the bucket: two data folders
// publish as one then, and going on would be wrong.
func (o *Outlet) Run(ctx context.Context) error {
	wait := outletLook
	for {
		err := o.Copy(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrFork):
			return err
		case err != nil:
			o.publisher.Log.Warn("publishing to the bucket failed; trying again", "error", err)
			wait = min(2*wait, outletWait)
		default:
			wait = outletLook
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// Copy makes the bucket say what the tree says, if that has changed since the last Copy
// that went well. It is what Run repeats, and not for two goroutines at once.
func (o *Outlet) Copy(ctx context.Context) error {
	stamp, err := o.from.Stamp(treeOrder)
	if err == nil && stamp != o.copied {
		o.lacks()
		if err = o.pass(ctx); err == nil {
			o.copied = stamp
		}
	}
	o.tried(err)
	return err
}

// treeOrder is the order in which a tree is copied: that of the classes, but for proofs,
// which have a checkpoint of their own and come with their files.
func treeOrder(path string) (int, bool) {
	row, ok := exportlog.Lookup(path)
	if row.Class == exportlog.ClassProof {
		row, _ = exportlog.Lookup(strings.TrimSuffix(path, exportlog.ProofSuffix))
	}
	return int(row.Class), ok
}

// pass makes the bucket say what the folder says, unless it is somebody else's.
func (o *Outlet) pass(ctx context.Context) error {
	p := o.publisher
	signed, err := tree.ReadAll(ctx, o.to, exportlog.CheckpointPath, exportlog.MaxCheckpoint)
	if err == nil {
		var theirs exportlog.Opened
		if theirs, err = p.policy.Open(signed); err != nil {
			return fmt.Errorf("%s has a checkpoint that this log did not sign: name another prefix, or empty it: %w", o.to, err)
		}
		err = p.compareWith(o.to.String(), theirs.Checkpoint)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	done, err := o.to.Sync(ctx, o.from, treeOrder)
	if err == nil && done.Put+done.Removed > 0 {
		p.Log.Info("published to the bucket", "bucket", o.to.String(), "files", done.Put, "bytes", done.Bytes, "removed", done.Removed)
	}
	return err
}

// lacks notes that the tree has something that the bucket has not.
func (o *Outlet) lacks() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.status.Behind.IsZero() {
		o.status.Behind = o.publisher.Now()
	}
}

func (o *Outlet) tried(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.status.Err = err
	if err == nil {
		o.status.Behind = time.Time{}
	}
}

// Status reports how the Outlet goes.
func (o *Outlet) Status() OutletStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.status
}

// Behind is for how long the bucket has lacked something; zero if it lacks nothing.
func (o *Outlet) Behind() time.Duration {
	s := o.Status()
	if s.Behind.IsZero() {
		return 0
	}
	return o.publisher.Now().Sub(s.Behind)
}

// Ready is why a person should look, nil if none should: a bucket may be out of reach for
// minutes without that.
func (o *Outlet) Ready() error {
	s := o.Status()
	if s.Err == nil || o.Behind() < outletGrace {
		return nil
	}
	return fmt.Errorf("the bucket is behind since %s: %w", s.Behind.UTC().Format(time.RFC3339), s.Err)
}
