package publish

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
)

// TestFsck has a tree of ours read by the checker of Tessera, which rebuilds the log from
// its entries. .ci/judges builds it into the folder BLUEKEY_JUDGES; without it the test is
// skipped, but not in CI. It knows the Ed25519 line of a checkpoint only.
func TestFsck(t *testing.T) {
	dir := os.Getenv("BLUEKEY_JUDGES")
	program := filepath.Join(dir, "fsck")
	if _, err := os.Stat(program); dir == "" || err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no fsck in BLUEKEY_JUDGES=%q: run .ci/judges", dir)
		}
		t.Skip("no fsck: BLUEKEY_JUDGES=$(.ci/judges) go test")
	}

	// More than one full tile, and a partial one of every size that had a checkpoint.
	f := newFixture(t)
	random := rand.New(rand.NewPCG(9, 9))
	for f.pub.store.LogSize() <= exportlog.TileWidth+3 {
		if f.pub.store.LogSize()%20 == 1 {
			f.upload(f.phone(random, diagnosis.GAEN, 3))
		}
		f.after(f.conf.Period)
	}
	size := f.pub.store.LogSize()
	files, root := f.public(), t.TempDir()
	lay := func(path, data string) {
		t.Helper()
		name := filepath.Join(root, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for path, data := range files {
		lay(path, data)
	}
	key := filepath.Join(t.TempDir(), "log.vkey")
	if err := os.WriteFile(key, []byte(f.conf.LogKeys.VKeys()[0].String()), 0o600); err != nil {
		t.Fatal(err)
	}
	// Its exit code is 0 whatever it finds, and on some damage it waits for ever: only the
	// line counts.
	check := func(patience time.Duration) (ok bool, said string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, program, "--ui=false", "--N=64", "--storage_url=file://"+root+"/", "--public_key="+key).CombinedOutput()
		if err != nil && ctx.Err() == nil {
			t.Log(err)
		}
		return strings.Contains(string(out), fmt.Sprintf("Successfully fsck'd log with size %d ", size)), string(out)
	}
	if ok, said := check(time.Minute); !ok {
		t.Fatalf("fsck refuses the tree of %d entries:\n%s", size, said)
	}

	// It is no judge of ours if it takes everything.
	last := size % exportlog.TileWidth
	for _, path := range []string{"checkpoint", "tile/0/000", fmt.Sprintf("tile/0/001.p/%d", last), "tile/1/000.p/1", "tile/entries/000", fmt.Sprintf("tile/entries/001.p/%d", last)} {
		data := []byte(files[path])
		data[30] ^= 1 // of the checkpoint's root, of a hash, of an entry
		lay(path, string(data))
		if ok, _ := check(5 * time.Second); ok {
			t.Errorf("fsck takes %s with a flipped bit", path)
		}
		lay(path, files[path])
	}
}
