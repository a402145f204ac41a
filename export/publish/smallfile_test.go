package publish

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

func (f *fixture) putSmall(path, text string) {
	f.t.Helper()
	if err := f.pub.putSmallFile(context.Background(), path, []byte(text)); err != nil {
		f.t.Fatal(err)
	}
}

// sound demands that the tree is, small files and their proofs included.
func (f *fixture) sound(what string) {
	f.t.Helper()
	if err := f.checkTree(map[diagnosis.Secret]map[string]bool{}); err != nil {
		f.t.Fatalf("%s: %v", what, err)
	}
}

// TestSmallFile: a small file holds by the newest entry that names it, with a proof of that
// entry beside it; and what the log names is told from what merely lies there.
func TestSmallFile(t *testing.T) {
	const path, proof = exportlog.KeyringPath, exportlog.KeyringPath + exportlog.ProofSuffix
	f := newFixture(t)
	size := f.store.LogSize()
	grown := func(what string, by uint64) {
		t.Helper()
		if size += by; f.store.LogSize() != size {
			t.Fatalf("%s: %d entries, want %d", what, f.store.LogSize(), size)
		}
		f.sound(what)
	}
	f.putSmall(path, "one")
	grown("a first file", 1)
	first := f.public()[proof]
	f.putSmall(path, "one")
	grown("the same again", 0)
	f.after(4 * time.Hour)
	size = f.store.LogSize()
	if f.public()[proof] != first {
		t.Error("a proof that needs no quorum was written again")
	}
	f.putSmall(path, "two")
	grown("its successor", 1)
	if f.public()[proof] == first {
		t.Error("the proof is still that of the first file")
	}
	f.putSmall("notice/vi/a.html", "<p>")
	grown("a notice", 1)

	// Somebody puts the old file back: the log says otherwise.
	for _, there := range []string{"one", "two two", ""} {
		f.close()
		f.remove(path)
		f.remove(proof)
		if there != "" {
			if err := (memDisk{f.disk}).write(dataDir+"/public/"+path, there); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.open(); err != nil {
			t.Fatal(err)
		}
		if err := f.pub.Status().Err; err == nil || !strings.Contains(err.Error(), path) {
			t.Fatalf("%q in the place of a file: status %v", there, err)
		}
		f.putSmall(path, "two")
		grown("put back", 0)
		if err := f.pub.Status().Err; err != nil {
			t.Fatalf("after it was put back: %v", err)
		}
	}
	f.close()
	if err := (memDisk{f.disk}).write(dataDir+"/public/"+path, "one"); err != nil {
		t.Fatal(err)
	}
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	f.putSmall(path, "one")
	grown("what lay there, now meant", 1)

	for what, spoil := range map[string]func(){
		"no proof":               func() { f.remove(proof) },
		"the proof of another":   func() { f.write(proof, first) },
		"a torn proof":           func() { f.write(proof, first[:100]) },
		"the proof of a notice":  func() { f.write(proof, f.public()["notice/vi/a.html"+exportlog.ProofSuffix]) },
		"no proof of the notice": func() { f.remove("notice/vi/a.html" + exportlog.ProofSuffix) },
	} {
		spoil()
		f.reopen()
		grown(what, 0)
	}

	for what, row := range map[string]struct {
		path string
		data []byte
	}{
		"too large":       {path, make([]byte, exportlog.MaxSmall+1)},
		"a proof":         {proof, []byte("x")},
		"an export":       {f.path(".tlog-proof"), []byte("x")},
		"outside":         {"notice/../keyring", []byte("x")},
		"the policy":      {exportlog.PolicyPath, []byte("x")},
		"a kind of files": {"notice/a.exe", []byte("x")},
	} {
		if err := f.pub.putSmallFile(context.Background(), row.path, row.data); err == nil {
			t.Errorf("%s: published", what)
		}
		grown(what, 0)
	}
}

func (f *fixture) path(part string) string { return paths(f.public(), part)[0] }

func (f *fixture) write(path, text string) {
	f.t.Helper()
	if err := (memDisk{f.disk}).write(dataDir+"/public/"+path, text); err != nil {
		f.t.Fatal(err)
	}
}

func (d memDisk) write(name, text string) error {
	w, err := d.Create(name)
	if err != nil {
		return err
	}
	_, err = w.Write([]byte(text))
	return errors.Join(err, w.Sync(), w.Close())
}

// TestSmallFileWithoutRoom: the folder of the tree is full when a file is replaced. It is in
// the log then, and what was staged finishes it; if that is gone, the file that lies there,
// of the same size, is not taken for it.
func TestSmallFileWithoutRoom(t *testing.T) {
	for _, gone := range []bool{false, true} {
		var full atomic.Bool
		f := newFixture(t, func(f *fixture) {
			f.disk = errorfs.Wrap(f.disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if full.Load() && op.Kind == errorfs.OpRename && len(op.Path) == len(dataDir+"/staging/")+64 {
					return syscall.ENOSPC
				}
				return nil
			}))
		})
		f.putSmall(exportlog.KeyringPath, "one")
		full.Store(true)
		size := f.store.LogSize()
		if err := f.pub.putSmallFile(context.Background(), exportlog.KeyringPath, []byte("two")); err == nil {
			t.Fatal("no error from a full disk")
		}
		full.Store(false)
		f.close()
		if gone {
			for name := range f.files(dataDir + "/staging") {
				if err := f.disk.Remove(dataDir + "/staging/" + name); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := f.open(); err != nil {
			t.Fatal(err)
		}
		if f.store.LogSize() != size+1 {
			t.Fatalf("%d entries, want %d", f.store.LogSize(), size+1)
		}
		if err := f.pub.Status().Err; (err != nil) != gone {
			t.Fatalf("what was staged is gone: %v; status: %v", gone, err)
		}
		f.putSmall(exportlog.KeyringPath, "two")
		if f.store.LogSize() != size+1 || f.pub.Status().Err != nil {
			t.Fatalf("%d entries, want %d; status: %v", f.store.LogSize(), size+1, f.pub.Status().Err)
		}
		f.sound("put again")
	}
}

// TestSmallFileIsWitnessed: witnesses are asked as soon as a file is in the log, and again
// while they are away; its proof follows, and is frozen until the file is replaced.
func TestSmallFileIsWitnessed(t *testing.T) {
	keys, err := signing.NewWitnessKeys("witness.example/w1", [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	w := &askedWitness{keys: keys}
	f := newFixture(t, func(f *fixture) {
		f.conf.Witnesses = []Witness{w}
		f.conf.PolicyWitnesses = []exportlog.PolicyWitness{{Name: "w1", Ed25519: keys.VKeys()[0], MLDSA44: keys.VKeys()[1], URL: "http://127.0.0.1/"}}
		f.conf.Quorum = 1
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- f.pub.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	const proof = exportlog.KeyringPath + exportlog.ProofSuffix
	put := func(text string) string {
		t.Helper()
		if err := f.pub.PutSmallFile(ctx, exportlog.KeyringPath, []byte(text)); err != nil {
			t.Fatal(err)
		}
		for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
			data := f.public()[proof]
			proved, err := exportlog.VerifyProof([]byte(data), f.pub.policy)
			if err == nil && proved.Entry.(exportlog.SmallFile).Size == int64(len(text)) {
				return data
			}
		}
		t.Fatal("no cosigned proof, with the next window hours away")
		return ""
	}
	first := put("keyring")
	second := put("another keyring")
	if first == second {
		t.Error("the proof was not replaced with its file")
	}
	put2 := put("another keyring")
	if put2 != second {
		t.Error("a proof that met the quorum was written again")
	}
}

// TestAskingWitnessesAgain: those that leave the quorum unmet are asked less and less often.
func TestAskingWitnessesAgain(t *testing.T) {
	keys, err := signing.NewWitnessKeys("witness.example/w1", [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	w := &askedWitness{keys: keys, away: true}
	f := newFixture(t, func(f *fixture) {
		f.conf.Witnesses = []Witness{w}
		f.conf.PolicyWitnesses = []exportlog.PolicyWitness{{Name: "w1", Ed25519: keys.VKeys()[0], MLDSA44: keys.VKeys()[1], URL: "http://127.0.0.1/"}}
		f.conf.Quorum = 1
	})
	var c cosigning
	run := func() {
		t.Helper()
		if err := c.run(context.Background(), f.pub); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute} {
		run()
		if got := c.again(f.now); got != want {
			t.Fatalf("asked again after %v, want %v", got, want)
		}
		f.now = f.now.Add(want)
	}
	w.away = false
	run()
	if got := c.again(f.now); got < 100*time.Hour {
		t.Errorf("with the quorum met asked again after %v", got)
	}
	w.held = nil
	run()
	if w.held != nil {
		t.Error("asked again about a checkpoint that met the quorum")
	}
	w.away = true
	f.putSmall(exportlog.KeyringPath, "keyring")
	run()
	if got := c.again(f.now); got != askAgain {
		t.Errorf("about a new checkpoint asked again after %v", got)
	}
	if signed := []byte(f.public()[exportlog.CheckpointPath]); bytes.Contains(signed, []byte("witness.example")) {
		t.Error("the new checkpoint has lines of the old one")
	}
}
