package publish

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"bluekey/keystore/diagnosis"
)

func TestFailures(t *testing.T) {
	f := failures{longest: time.Minute}
	now := noon
	for i, row := range []struct {
		after time.Duration
		text  string
		wait  time.Duration
		tell  bool
	}{
		{0, "full", 5 * time.Second, true},
		{5 * time.Second, "full", 10 * time.Second, false},
		{10 * time.Second, "fuller", 20 * time.Second, true},
		{20 * time.Second, "fuller", 40 * time.Second, false},
		{40 * time.Second, "full", time.Minute, true},
		{59 * time.Minute, "full", time.Minute, false},
		{time.Minute, "full", time.Minute, true},
		{time.Minute, "", 0, false}, // went well
		{time.Minute, "full", 5 * time.Second, true},
	} {
		now = now.Add(row.after)
		if row.text == "" {
			f.over()
			continue
		}
		if wait, tell := f.next(errors.New(row.text), now); wait != row.wait || tell != row.tell {
			t.Errorf("try %d: wait %v, told %v, want %v, %v", i, wait, tell, row.wait, row.tell)
		}
	}
	short := failures{longest: 2 * time.Second}
	if wait, _ := short.next(errors.New("full"), noon); wait != 2*time.Second {
		t.Errorf("with a period of 2 s it waits %v", wait)
	}
}

// TestFullDiskOverNight runs an appliance whose disk has no room for files for a night: it
// tries less and less often, tells once an hour, and publishes in the morning.
func TestFullDiskOverNight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		var log bytes.Buffer
		start := time.Now()
		ctx, cancel := context.WithCancel(context.Background())
		var tries atomic.Int64
		f := newFixture(t, func(f *fixture) {
			f.conf.Now = time.Now
			f.conf.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
			f.disk = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
				if full.Load() && op.Kind == errorfs.OpCreate && strings.HasPrefix(op.Path, dataDir+"/staging") {
					tries.Add(1)
					return syscall.ENOSPC
				}
				return nil
			}))
		})
		f.now = time.Now()
		f.upload(f.phone(rand.New(rand.NewPCG(51, 51)), diagnosis.GAEN, 3))
		full.Store(true)
		ended := make(chan error)
		go func() { ended <- f.pub.Run(ctx) }()
		time.Sleep(24*time.Hour + time.Minute) // a minute into a window
		synctest.Wait()
		if n := tries.Load(); n < 12 || n > 40 {
			t.Errorf("%d tries in a night", n)
		}
		if lines := strings.Count(log.String(), "publishing failed"); lines < 5 || lines > 10 {
			t.Errorf("%d lines in a night", lines)
		}
		if f.pub.Status().Err == nil {
			t.Error("the status does not know")
		}
		full.Store(false)
		time.Sleep(4 * time.Hour)
		synctest.Wait()
		if n := len(f.published(".keys")); n != 3 {
			t.Errorf("%d keys published after the night of %v", n, time.Since(start))
		}
		if err := f.pub.Status().Err; err != nil {
			t.Errorf("the status still says %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		f.close()
	})
}

// TestFailedRoundLeavesNoLitter: what a failed round has staged, and a later one makes
// differently, does not lie about until the next start.
func TestFailedRoundLeavesNoLitter(t *testing.T) {
	var full atomic.Bool
	var files atomic.Int64
	f := newFixture(t, func(f *fixture) {
		f.disk = errorfs.Wrap(f.disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if full.Load() && op.Kind == errorfs.OpCreate && strings.HasPrefix(op.Path, dataDir+"/staging") && files.Add(1) > 1 {
				return syscall.ENOSPC
			}
			return nil
		}))
	})
	f.upload(f.phone(rand.New(rand.NewPCG(52, 52)), diagnosis.GAEN, 3))
	full.Store(true)
	f.now = f.now.Add(4 * time.Hour)
	if err := f.pub.Round(context.Background()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if len(f.files(dataDir+"/staging")) == 0 {
		t.Fatal("nothing was staged")
	}
	full.Store(false)
	f.after(4 * time.Hour) // the window is longer by now, and its files are others
	if left := f.files(dataDir + "/staging"); len(left) > 0 {
		t.Errorf("%d files are left in the staging folder", len(left))
	}
}
