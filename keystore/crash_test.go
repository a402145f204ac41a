package keystore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"bluekey/keystore/diagnosis"
)

// story is what a workload has asked of a store, and what was answered.
type story struct {
	mu sync.Mutex
	told
}

type told struct {
	uploads []attempt
	windows []publication
	applied int // windows of which Applied has returned
}

type attempt struct {
	code   string
	keys   []diagnosis.Key
	own    int // how many of keys no other upload holds; they come first
	expiry time.Time
	answer *Receipt // nil: none yet
}

type publication struct {
	end    time.Time
	size   uint64 // of the log, with it
	keys   map[diagnosis.Secret]bool
	erased int  // windows from the first that are erased with it
	done   bool // Commit has returned
}

func (h *story) copy() told {
	h.mu.Lock()
	defer h.mu.Unlock()
	return told{
		uploads: append([]attempt(nil), h.uploads...),
		windows: append([]publication(nil), h.windows...),
		applied: h.applied,
	}
}

func (h *story) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// moment is a disk after a crash, with what had been answered before it and what had been
// asked when it came.
type moment struct {
	name          string
	disk          *vfs.MemFS
	now           time.Time
	before, after told
}

// TestCrashAtEveryWrite runs uploads and publications, and at writes of the disk keeps
// what a power loss would leave of it. Each such disk must open and hold every
// acknowledged upload whole, every other one whole or not at all, and no key that is due
// though it was published. All writes are tried with BLUEKEY_EXHAUSTIVE=1, else a sample.
func TestCrashAtEveryWrite(t *testing.T) {
	every, rounds := int64(7), 4
	if os.Getenv("BLUEKEY_EXHAUSTIVE") != "" {
		every, rounds = 1, 6
	}
	disk, clock, h := vfs.NewCrashableMem(), newClock(), &story{}
	moments := make(chan moment, 64)
	var mu sync.Mutex
	var writes int64
	r := rand.New(rand.NewPCG(5, 6))
	keep := func(op errorfs.Op) {
		mu.Lock()
		defer mu.Unlock()
		if writes++; writes%every != 0 {
			return
		}
		m := moment{name: fmt.Sprintf("write %d (%s)", writes, op.Path), now: clock.Now(), before: h.copy()}
		m.disk = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(writes / every % 3 * 50), RNG: r})
		m.after = h.copy()
		moments <- m
	}
	fs := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			keep(op)
		}
		return nil
	}))
	go func() {
		defer close(moments)
		tellStory(t, fs, clock, h, rounds)
	}()
	tried := 0
	for m := range moments {
		if !t.Failed() {
			m.check(t)
		}
		tried++
	}
	t.Logf("%d crashes at %d writes", tried, writes)
	if tried < 20 {
		t.Error("too few crashes tried")
	}
}

// tellStory runs rounds of uploads, each with a publication in the middle of them.
func tellStory(t *testing.T, fs vfs.FS, clock *testClock, h *story, rounds int) {
	ctx := context.Background()
	s, err := Open(testOptions(fs, clock))
	if err != nil {
		t.Error(err)
		return
	}
	const phones = 9
	for round := range rounds {
		codes, err := issueCodes(s, phones)
		if err != nil {
			t.Error(err)
			return
		}
		expiry := clock.Now().Add(24 * time.Hour)
		var group sync.WaitGroup
		for p := range 3 {
			group.Go(func() {
				for i := p; i < phones; i += 3 {
					n := uint64(round*phones + i)
					keys := caseKeys(t, diagnosis.GAEN, n, testStart, 1+i%7)
					own := len(keys)
					if i%2 == 1 { // one key of another phone, in hand at about the same time
						keys = append(keys, dayKey(t, diagnosis.GAEN, 1<<32+uint64(round), testStart, 9))
					}
					upload(t, s, h, attempt{code: codes[i], keys: keys, own: own, expiry: expiry})
				}
			})
		}
		if round > 0 {
			publishStory(ctx, t, s, h, clock)
		}
		group.Wait()
		clock.advance(testPeriod)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func upload(t *testing.T, s *Store, h *story, a attempt) {
	var i int
	h.change(func() { i, h.uploads = len(h.uploads), append(h.uploads, a) })
	answer, err := handIn(context.Background(), s, a.code, a.keys)
	if err != nil {
		t.Error(err)
		return
	}
	h.change(func() { h.uploads[i].answer = &answer })
}

func publishStory(ctx context.Context, t *testing.T, s *Store, h *story, clock *testClock) {
	end := clock.Now().Truncate(testPeriod)
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	_, err := s.CloseWindow(ctx, diagnosis.GAEN, end)
	must(err)
	padding := []diagnosis.Key{dayKey(t, diagnosis.GAEN, uint64(end.Unix()), testStart, 2)}
	must(s.AddPadding(ctx, padding))
	must(s.Ungroup(ctx))
	p := publicationOf(s, diagnosis.GAEN, end, true)
	p.Plan = []byte("make " + end.String())
	w := publication{end: end, size: p.First + 1, keys: map[diagnosis.Secret]bool{}}
	for k, err := range s.DueKeys(diagnosis.GAEN, end) {
		must(err)
		w.keys[k.Secret] = true
	}
	var i int
	h.change(func() {
		if i = len(h.windows); i >= 2 {
			w.erased = i - 1
			p.EraseThrough = map[diagnosis.Scheme]time.Time{diagnosis.GAEN: h.windows[i-2].end}
		}
		h.windows = append(h.windows, w)
	})
	must(s.Commit(p))
	h.change(func() { h.windows[i].done = true })
	must(s.Applied())
	h.change(func() { h.applied = i + 1 })
	must(s.Scrub(ctx))
}

// check opens the disk of m and compares it with the story.
func (m *moment) check(t *testing.T) {
	t.Helper()
	clock := &testClock{}
	clock.set(m.now)
	s, err := Open(testOptions(m.disk, clock))
	if err != nil {
		t.Errorf("%s: %v", m.name, err)
		return
	}
	defer mustClose(t, s)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: %s", m.name, fmt.Sprintf(format, args...))
	}

	// Windows and log are those of a number of publications, at least of those done.
	committed := 0
	for i, w := range m.after.windows {
		if !w.end.After(s.WindowStart(diagnosis.GAEN)) {
			committed = i + 1
		}
	}
	published, erased := map[diagnosis.Secret]bool{}, map[diagnosis.Secret]bool{}
	for i, w := range m.after.windows[:committed] {
		maps.Copy(published, w.keys)
		if i+1 == committed {
			for _, old := range m.after.windows[:w.erased] {
				maps.Copy(erased, old.keys)
			}
		}
	}
	for i, w := range m.before.windows {
		if w.done && i >= committed {
			fail("publication %d was committed and is gone", i)
		}
	}
	m.checkLog(t, s, committed)

	// Keys.
	due, stored := keysIn(t, s, s.chain(diagnosis.GAEN).through), keysIn(t, s, 0)
	for i, a := range m.after.uploads {
		acknowledged := i < len(m.before.uploads) && m.before.uploads[i].answer != nil
		there, own := 0, 0
		for j, k := range a.keys {
			n := stored[k.Secret]
			if n > 0 || erased[k.Secret] {
				if there++; j < a.own {
					own++
				}
			}
			switch {
			case n > 1 || due[k.Secret] > 1:
				fail("a key of upload %d is there %d times", i, n)
			case published[k.Secret] && due[k.Secret] != 0:
				fail("a key of upload %d is published and due", i)
			case !published[k.Secret] && due[k.Secret] != n:
				fail("a key of upload %d is stored, not published and not due", i)
			}
		}
		if acknowledged && there != len(a.keys) {
			fail("upload %d was acknowledged, %d of %d keys are there", i, there, len(a.keys))
		}
		if !acknowledged && own != 0 && own != a.own {
			fail("upload %d is torn: %d of its %d keys are there", i, own, a.own)
		}
		m.checkCode(t, s, i, acknowledged)
	}
}

func keysIn(t *testing.T, s *Store, from uint32) map[diagnosis.Secret]int {
	t.Helper()
	keys := map[diagnosis.Secret]int{}
	if err := s.scan(diagnosis.GAEN, from, 1<<32-1, func(k diagnosis.Key, err error) bool {
		keys[k.Secret]++
		return true
	}); err != nil {
		t.Error(err)
	}
	return keys
}

func (m *moment) checkLog(t *testing.T, s *Store, committed int) {
	t.Helper()
	plan, outstanding, err := s.Outstanding()
	if err != nil {
		t.Errorf("%s: %v", m.name, err)
	}
	checkpoint, err := s.Checkpoint()
	if err != nil {
		t.Errorf("%s: %v", m.name, err)
	}
	if committed == 0 {
		if outstanding || checkpoint != nil || s.LogSize() != 0 {
			t.Errorf("%s: a log of %d without a publication", m.name, s.LogSize())
		}
		return
	}
	w := m.after.windows[committed-1]
	if s.LogSize() != w.size || !bytes.Equal(checkpoint, binary.BigEndian.AppendUint64([]byte("checkpoint "), w.size)) {
		t.Errorf("%s: log of %d, want %d with its checkpoint", m.name, s.LogSize(), w.size)
	}
	if _, err := s.Entry(w.size - 1); err != nil {
		t.Errorf("%s: %v", m.name, err)
	}
	if outstanding && string(plan) != "make "+w.end.String() {
		t.Errorf("%s: outstanding %q", m.name, plan)
	}
	if !outstanding && m.after.applied < committed-1 {
		t.Errorf("%s: publication %d has lost its plan", m.name, committed)
	}
	if outstanding && m.before.applied >= committed {
		t.Errorf("%s: publication %d was applied and is outstanding again", m.name, committed)
	}
}

// checkCode sends upload i again: it is answered as before if it was acknowledged, and
// taken now if it was not. Then its code is spent for any other.
func (m *moment) checkCode(t *testing.T, s *Store, i int, acknowledged bool) {
	t.Helper()
	a := m.after.uploads[i]
	if !a.expiry.After(m.now) {
		return
	}
	got, err := handIn(context.Background(), s, a.code, a.keys)
	if err != nil {
		t.Errorf("%s: upload %d again: %v", m.name, i, err)
		return
	}
	if acknowledged && got != *m.before.uploads[i].answer {
		t.Errorf("%s: upload %d answered %v, before %v", m.name, i, got, *m.before.uploads[i].answer)
	}
	stored := keysIn(t, s, 0)
	for _, k := range a.keys {
		if stored[k.Secret] > 1 {
			t.Errorf("%s: a key of upload %d is stored %d times when sent again", m.name, i, stored[k.Secret])
		}
	}
	_, err = handIn(context.Background(), s, a.code, []diagnosis.Key{dayKey(t, diagnosis.GAEN, 1<<40+uint64(i), testStart, 1)})
	wantRefusal(t, err, SpentCode)
}
