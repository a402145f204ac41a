package keystore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"bluekey/keystore/diagnosis"
)

// A disk that fails a sync or is full: what was acknowledged before is there after the
// process ended and the disk works again, and nothing is acknowledged that is not.
func TestFailingDisk(t *testing.T) {
	for _, row := range []struct {
		name  string
		fails func(errorfs.OpKind) bool
		with  error
	}{
		{"failing fsync", func(k errorfs.OpKind) bool {
			return k == errorfs.OpFileSync || k == errorfs.OpFileSyncData || k == errorfs.OpFileSyncTo
		}, syscall.EIO},
		{"disk full", func(k errorfs.OpKind) bool {
			return k == errorfs.OpFileWrite || k == errorfs.OpFileWriteAt || k == errorfs.OpCreate
		}, syscall.ENOSPC},
	} {
		t.Run(row.name, func(t *testing.T) {
			var broken atomic.Bool
			disk, clock := vfs.NewCrashableMem(), newClock()
			o := testOptions(errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if broken.Load() && row.fails(op.Kind) {
					return row.with
				}
				return nil
			})), clock)
			// The goroutine ends where the process would.
			var fatal atomic.Int64
			o.fatal = func(string) { fatal.Add(1); runtime.Goexit() }
			s := mustOpen(t, o)
			codes := mustIssue(t, s, 160)

			var mu sync.Mutex
			acknowledged := map[int]Receipt{}
			var group sync.WaitGroup
			for g := range 8 {
				group.Go(func() {
					for i := g; i < len(codes); i += 8 {
						r, err := handIn(context.Background(), s, codes[i], caseKeys(t, diagnosis.GAEN, uint64(i), testStart, 3))
						if err != nil {
							continue
						}
						mu.Lock()
						acknowledged[i] = r
						if len(acknowledged) == 60 {
							broken.Store(true)
						}
						mu.Unlock()
					}
				})
			}
			group.Wait()
			if fatal.Load() == 0 {
				t.Error("the process went on")
			}
			// At most the uploads whose sync was over when the disk broke.
			if n := len(acknowledged); n < 60 || n > 60+8 {
				t.Errorf("%d uploads acknowledged of the 60 before the fault and 8 under way", n)
			}

			after := mustOpen(t, testOptions(disk.CrashClone(vfs.CrashCloneCfg{}), clock))
			defer mustClose(t, after)
			stored := keysIn(t, after, 0)
			for i, r := range acknowledged {
				keys := caseKeys(t, diagnosis.GAEN, uint64(i), testStart, 3)
				for _, k := range keys {
					if stored[k.Secret] != 1 {
						t.Fatalf("upload %d was acknowledged, and a key is not there", i)
					}
				}
				if again := mustUpload(t, after, codes[i], keys); again != r {
					t.Errorf("upload %d answered %v, before %v", i, again, r)
				}
			}
		})
	}
}

// A full disk while the window is sealed: nothing is reported as sealed.
func TestUngroupOnFullDisk(t *testing.T) {
	var broken atomic.Bool
	o := testOptions(errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind == errorfs.OpFileWrite && strings.HasSuffix(op.Path, ".sst") {
			return syscall.ENOSPC
		}
		return nil
	})), newClock())
	s := mustOpen(t, o)
	mustUpload(t, s, mustIssue(t, s, 1)[0], caseKeys(t, diagnosis.GAEN, 1, testStart, 3))
	broken.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := s.Ungroup(ctx); err == nil {
		t.Error("ungrouped on a full disk")
	}
	if s.Healthy() == nil {
		t.Error("healthy on a full disk")
	}
	broken.Store(false)
	if err := s.Ungroup(context.Background()); err != nil {
		t.Errorf("with space again: %v", err)
	}
	if err := s.Healthy(); err != nil {
		t.Errorf("with space again: %v", err)
	}
	mustClose(t, s)
}

// child runs this test binary again for the one test, in a role.
func child(t *testing.T, role, dir string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "BLUEKEY_ROLE="+role, "BLUEKEY_DIR="+dir)
	return cmd
}

func TestFailedSyncEndsTheProcess(t *testing.T) {
	if os.Getenv("BLUEKEY_ROLE") == "upload" {
		var broken atomic.Bool
		o := testOptions(errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if broken.Load() && op.Kind == errorfs.OpFileSyncData {
				return syscall.EIO
			}
			return nil
		})), newClock())
		s := mustOpen(t, o)
		code := mustIssue(t, s, 1)[0]
		broken.Store(true)
		_, err := handIn(context.Background(), s, code, caseKeys(t, diagnosis.GAEN, 1, testStart, 3))
		fmt.Println("answered", err)
		return
	}
	out, err := child(t, "upload", "").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("%v, want exit code 2", err)
	}
	if strings.Contains(string(out), "answered") {
		t.Errorf("the upload was answered: %s", out)
	}
}

// A real process on a real disk, killed under load some times.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("BLUEKEY_DIR"); dir != "" {
		uploadForEver(t, dir)
		return
	}
	dir := t.TempDir()
	var acknowledged []string // "code number"
	for range 3 {
		cmd := child(t, "upload", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if n == 40 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			acknowledged = append(acknowledged, lines.Text())
		}
		cmd.Wait() // says that it was killed
	}
	s := mustOpen(t, testOptionsOnDisk(dir))
	defer mustClose(t, s)
	stored := keysIn(t, s, 0)
	for _, line := range acknowledged {
		var code string
		var n uint64
		if _, err := fmt.Sscan(line, &code, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		keys := caseKeys(t, diagnosis.GAEN, n, testStart, 5)
		for _, k := range keys {
			if stored[k.Secret] != 1 {
				t.Fatalf("upload %d was acknowledged, and a key is not there", n)
			}
		}
		mustUpload(t, s, code, keys)
	}
	if len(acknowledged) < 120 {
		t.Errorf("only %d uploads acknowledged", len(acknowledged))
	}
}

func testOptionsOnDisk(dir string) Options {
	o := testOptions(nil, newClock())
	o.Dir = dir
	return o
}

func uploadForEver(t *testing.T, dir string) {
	s := mustOpen(t, testOptionsOnDisk(dir))
	from := uint64(time.Now().UnixNano())
	var next atomic.Uint64
	for range 4 {
		go func() {
			for {
				codes, err := issueCodes(s, 50)
				if err != nil {
					panic(err)
				}
				for _, code := range codes {
					n := from + next.Add(1)
					if _, err := handIn(context.Background(), s, code, caseKeys(t, diagnosis.GAEN, n, testStart, 5)); err != nil {
						panic(err)
					}
					// One write a line, so that a kill leaves no half of one.
					io.WriteString(os.Stdout, fmt.Sprintf("%s %d\n", code, n))
				}
			}
		}()
	}
	select {}
}
