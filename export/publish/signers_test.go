package publish

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
)

// TestRotationOnFullDisk: the rotation is in the log, and then its files find no room. It
// holds all the same: once there is room the PEM is public, and the windows are signed as the
// log says, without a restart.
func TestRotationOnFullDisk(t *testing.T) {
	var full atomic.Bool
	f := newFixture(t, fullTree(&full))
	f.after(4 * time.Hour)
	ctx := context.Background()
	rotate := func(version string) (err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			err = f.pub.RotateSigner(ctx, version, f.now, f.now.Add(4*time.Hour))
		}()
		(<-f.pub.calls)(ctx)
		<-done
		return err
	}
	full.Store(true)
	if err := rotate("v2"); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "452-v2 is in the log") {
		t.Fatalf("a rotation on a full disk: %v", err)
	}
	full.Store(false)
	random := rand.New(rand.NewPCG(41, 41))
	for i, want := range []string{"452-v2 452-v1", "452-v2"} {
		f.upload(f.phone(random, diagnosis.GAEN, 2))
		f.after(4 * time.Hour)
		all := f.windows(diagnosis.GAEN)
		if got := strings.Join(all[len(all)-1].Signers, " "); got != want {
			t.Errorf("window %d is signed by %s, want %s", i, got, want)
		}
		if !slices.Contains(paths(f.public(), "gaen/keys"), "gaen/keys/452-v2.pem") {
			t.Errorf("window %d: the new key signs and is not public", i)
		}
	}
	if err := rotate("v2"); err == nil {
		t.Error("the version is taken, and it was introduced again")
	}
	if err := f.checkTree(map[diagnosis.Secret]map[string]bool{}); err != nil {
		t.Error(err)
	}
}
