package publish

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/export/exportlog"
)

// toldWitness cosigns nothing and holds what the test says.
type toldWitness struct {
	name string
	held func(ctx context.Context) ([]byte, error)
}

func (w toldWitness) Name() string { return w.name }
func (w toldWitness) Cosign(context.Context, []byte, func(uint64) ([][32]byte, error)) ([]byte, error) {
	return nil, errors.New("the witness knows a larger tree of this log")
}
func (w toldWitness) Held(ctx context.Context, _ string) ([]byte, error) { return w.held(ctx) }

// An old data folder was put back, with its tree. Whichever witness knows better stops it
// before a second history is signed: beside one that hangs, and also if it cannot be
// reached yet when the process starts. If it is reached too late, it stops the next.
func TestWitnessesStopAnOldFolder(t *testing.T) {
	mem := vfs.NewCrashableMem()
	f := newFixture(t, func(f *fixture) { f.disk = mem })
	backup := func() *fixture {
		r := &fixture{t: t, disk: mem.CrashClone(vfs.CrashCloneCfg{}), now: f.now}
		r.conf = newConfig(t, r)
		return r
	}
	r := backup()
	late := backup()
	reached := backup()
	f.after(4 * time.Hour)
	known := []byte(f.public()[exportlog.CheckpointPath])
	knows := func(context.Context) ([]byte, error) { return known, nil }
	f.close()

	r.conf.Witnesses = []Witness{
		toldWitness{"hangs", func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }},
		toldWitness{"knows", knows},
	}
	start := time.Now()
	if err := r.open(); !errors.Is(err, ErrFork) {
		t.Errorf("beside a witness that hangs: %v", err)
	}
	if took := time.Since(start); took > witnessPatience/2 {
		t.Errorf("the one that knew was heard after %v", took)
	}
	r.close()

	var asked atomic.Int64
	late.conf.Witnesses = []Witness{toldWitness{"late", func(context.Context) ([]byte, error) {
		if asked.Add(1) < 3 {
			return nil, errors.New("no route to host")
		}
		return known, nil
	}}}
	if err := late.open(); err != nil {
		t.Fatal(err)
	}
	late.now = late.now.Add(5 * time.Hour)
	size := late.store.LogSize()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := late.pub.Run(ctx); !errors.Is(err, ErrFork) || late.store.LogSize() != size {
		t.Errorf("with a network that came late: %v; %d entries, %d before", err, late.store.LogSize(), size)
	}
	late.close()

	asked.Store(0)
	reached.conf.Witnesses = []Witness{toldWitness{"away", func(context.Context) ([]byte, error) {
		if asked.Add(1) == 1 {
			return nil, fs.ErrNotExist // a monitor that was not up to date
		}
		return known, nil
	}}}
	if err := reached.open(); err != nil {
		t.Fatal(err)
	}
	if _, err := reached.pub.cosign(context.Background()); !errors.Is(err, ErrFork) {
		t.Errorf("a witness that refuses, and shows a larger log: %v", err)
	}
	reached.close()
}
