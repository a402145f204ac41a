package server

import (
	"bufio"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/signing/permit"
)

// TestReplyLeavesOnTime: whatever a request is, its reply leaves reply_after later to the
// nanosecond, or, if the disk was slower than that, at a multiple of it.
func TestReplyLeavesOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const after = 500 * time.Millisecond
		var sync atomic.Int64 // how long one takes
		p, ring := bareService(t, slowSyncs(vfs.NewMem(), &sync), after)
		codes, err := p.store.Desk().Issue(t.Context(), desk.Request{Officer: "test", Report: diagnosis.ConfirmedTest, OnsetDay: today(), Count: 100, Long: true})
		if err != nil {
			t.Fatal(err)
		}
		next := 0
		kinds := requestKinds(p, func() string { next++; return codes[next-1] })
		for _, row := range []struct {
			sync, leaves time.Duration
		}{
			{0, after}, {time.Millisecond, after}, {after - time.Millisecond, after},
			{after + time.Millisecond, 2 * after}, {2*after - 1, 2 * after}, {3*after + 1, 4 * after},
		} {
			for _, kind := range kinds {
				plain, err := kind.plain()
				if err != nil {
					t.Fatal(err)
				}
				sealed, sent, err := sealTo(ring, today(), plain)
				if err != nil {
					t.Fatal(err)
				}
				if kind.op == 0 { // does not open
					sealed[len(sealed)-1] ^= 1
				}
				came, left := time.Now(), time.Duration(-1)
				ctx := context.WithValue(t.Context(), visitKey{}, &visit{came: came, leave: func() { left = time.Since(came) }})
				sync.Store(int64(row.sync))
				res, err := p.Exchange(ctx, &v1.ExchangeRequest{Sealed: sealed})
				took := time.Since(came)
				sync.Store(0)
				if err != nil {
					t.Fatalf("%s: %v", kind.name, err)
				}
				work, leaves := row.sync, row.leaves
				if kind.op == 0 { // nothing is stored
					work, leaves = 0, after
				}
				// It gives its place free after one sync, whatever it is, and not after the wait.
				if took != leaves || left != work {
					t.Errorf("%s with a sync of %v: it worked for %v and took %v, want %v", kind.name, row.sync, left, took, leaves)
				}
				if kind.op == 0 {
					continue
				}
				opened, err := sent.Open(res.Sealed)
				if err != nil {
					t.Fatal(err)
				}
				if reply, err := permit.DecodeReply(kind.op, opened); err != nil {
					t.Error(err)
				} else if no, ok := reply.(permit.Refusal); ok != (kind.reason != 0) || no.Reason != kind.reason {
					t.Errorf("%s: %v", kind.name, reply)
				}
			}
		}
	})
}

// TestReplyAfterLastByte: a slow sender waits as long for its reply as a fast one.
func TestReplyAfterLastByte(t *testing.T) {
	const after = 200 * time.Millisecond
	a := start(t, func(c *Config) { c.ReplyAfter = after })
	cover, err := permit.CoverRedeem()
	if err != nil {
		t.Fatal(err)
	}
	sealed, sent, err := a.seal(cover)
	if err != nil {
		t.Fatal(err)
	}
	request := frame(sealed)
	c := a.speak(request[:1000])
	time.Sleep(after / 2)
	rest := &call{frame: request[1000:], sent: sent, op: permit.OpRedeem}
	if err := rest.make(c, bufio.NewReader(c)); err != nil {
		t.Fatal(err)
	}
	if _, err := rest.answered(); err != nil || rest.took < after {
		t.Errorf("answered %v after the last byte, want %v: %v", rest.took, after, err)
	}
}

// TestPhoneGone: a phone that hangs up ends the wait and undoes nothing.
func TestPhoneGone(t *testing.T) {
	p, ring := bareService(t, vfs.NewMem(), time.Hour)
	held, err := permitOf(p)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := held.Upload(names, teks(3))
	if err != nil {
		t.Fatal(err)
	}
	sealed, _, err := sealTo(ring, today(), plain)
	if err != nil {
		t.Fatal(err)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	left := make(chan struct{})
	ctx = context.WithValue(ctx, visitKey{}, &visit{came: time.Now(), leave: func() { close(left) }})
	if _, err := p.Exchange(ctx, &v1.ExchangeRequest{Sealed: sealed}); !errors.Is(err, errGone) {
		t.Errorf("%v", err)
	}
	<-left
	d, err := p.store.CloseWindow(t.Context(), diagnosis.GAEN, p.now().Truncate(time.Second))
	if err != nil || d.Count != 3 {
		t.Errorf("%d keys are stored, want 3: %v", d.Count, err)
	}
}

// TestHangUp: a phone that hangs up while its request waits for its turn at the store leaves
// there what it would have left otherwise, real, cover or refused.
func TestHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			crowd   = 64 // as many as the store has in hand at once
			framing = 40 // bytes that a log may add between records
		)
		var sync atomic.Int64 // how long one takes
		disk := vfs.NewMem()
		p, ring := bareService(t, slowSyncs(disk, &sync), 0)
		logged := func() (n int64) {
			t.Helper()
			list, err := disk.List("data/store")
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range list {
				if strings.HasSuffix(name, ".log") {
					info, err := disk.Stat("data/store/" + name)
					if err != nil {
						t.Fatal(err)
					}
					n += info.Size()
				}
			}
			return n
		}
		codes, err := p.store.Desk().Issue(t.Context(), desk.Request{Officer: "test", Report: diagnosis.ConfirmedTest, OnsetDay: today(), Count: 100, Long: true})
		if err != nil {
			t.Fatal(err)
		}
		next := 0
		// written is how much the store's log grows by a request, if there is one.
		written := func(kind *requestKind, busy, hangUp bool) int64 {
			t.Helper()
			before := logged()
			if busy {
				sync.Store(int64(time.Second))
				for range crowd {
					go p.store.ScratchCode(t.Context())
				}
				synctest.Wait()
			}
			if kind != nil {
				plain, err := kind.plain()
				if err != nil {
					t.Fatal(err)
				}
				sealed, _, err := sealTo(ring, today(), plain)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.WithValue(t.Context(), visitKey{}, &visit{came: time.Now(), leave: func() {}}))
				go p.Exchange(ctx, &v1.ExchangeRequest{Sealed: sealed})
				synctest.Wait()
				if hangUp {
					cancel()
				}
				defer cancel()
			}
			time.Sleep(10 * time.Second)
			sync.Store(0)
			return logged() - before
		}
		alone := written(nil, true, false)
		for _, kind := range requestKinds(p, func() string { next++; return codes[next-1] }) {
			if kind.op == 0 {
				continue // nothing is stored
			}
			want := written(&kind, false, false)
			got := written(&kind, true, true) - alone
			if want <= framing || got < want-framing || got > want+framing {
				t.Errorf("%s: %d bytes after hanging up, %d otherwise", kind.name, got, want)
			}
		}
	})
}

// slowSyncs is a disk whose syncs take so long.
func slowSyncs(disk vfs.FS, long *atomic.Int64) vfs.FS {
	return errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			time.Sleep(time.Duration(long.Load()))
		}
		return nil
	}))
}

// requestKind is a kind of request that nobody outside may tell from the others.
type requestKind struct {
	name   string
	op     permit.Operation // 0: it is altered on its way
	reason permit.Reason    // why it is refused, 0 if it is done
	plain  func() ([]byte, error)
}

// requestKinds are all kinds, as cases of 14 keys. newCode gives a long code for each real
// redeem.
func requestKinds(p *phoneService, newCode func() string) []requestKind {
	pending := func(code func() string, change func(*permit.RedeemRequest)) func() ([]byte, error) {
		return func() ([]byte, error) {
			q, err := permit.NewPending()
			if err != nil {
				return nil, err
			}
			r := q.Redeem(code())
			change(&r)
			return r.Encode()
		}
	}
	same := func(*permit.RedeemRequest) {}
	wrong := func() string { return "0123456789ABCDEF" }
	upload := func(change func([]diagnosis.Key), after func([]byte)) func() ([]byte, error) {
		return func() ([]byte, error) {
			h, err := permitOf(p)
			if err != nil {
				return nil, err
			}
			keys := teks(14)
			change(keys)
			plain, err := h.Upload(names, keys)
			after(plain)
			return plain, err
		}
	}
	asIs, unaltered := func([]diagnosis.Key) {}, func([]byte) {}
	return []requestKind{
		{"redeem", permit.OpRedeem, 0, pending(newCode, same)},
		{"cover redeem", permit.OpRedeem, 0, permit.CoverRedeem},
		{"redeem of a wrong code", permit.OpRedeem, permit.ReasonCode, pending(wrong, same)},
		{"redeem of no element", permit.OpRedeem, permit.ReasonMalformed, pending(wrong, func(r *permit.RedeemRequest) { clear(r.Blinded[:]) })},
		{"upload", permit.OpUpload, 0, upload(asIs, unaltered)},
		{"cover upload", permit.OpUpload, 0, func() ([]byte, error) { return permit.CoverUpload(names, diagnosis.GAEN, today()) }},
		{"upload with a wrong permit", permit.OpUpload, permit.ReasonPermit, upload(asIs, func(b []byte) { b[100] ^= 1 })},
		{"upload with a wrong signature", permit.OpUpload, permit.ReasonPermit, upload(asIs, func(b []byte) { b[1020] ^= 1 })},
		{"upload of an old key", permit.OpUpload, permit.ReasonTooOld, upload(func(k []diagnosis.Key) { k[13].Start -= 6 * 144 }, unaltered)},
		{"upload of a key of tomorrow", permit.OpUpload, permit.ReasonFuture, upload(func(k []diagnosis.Key) { k[0].Start += 3 * 144 }, unaltered)},
		{"upload of overlapping keys", permit.OpUpload, permit.ReasonOverlap, upload(func(k []diagnosis.Key) { k[3].Start += 10 }, unaltered)},
		{"upload with a byte that is to be zero", permit.OpUpload, permit.ReasonMalformed, upload(asIs, func(b []byte) { b[6] = 1 })},
		{"upload altered on its way", 0, 0, upload(asIs, unaltered)},
	}
}

// permitOf is a permit that needs no code.
func permitOf(p *phoneService) (*permit.Held, error) {
	return (&benchServer{keys: p.keys}).permit()
}
