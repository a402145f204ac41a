package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"bluekey/export/exportlog"
	"bluekey/signing"
)

// judge finds a program that somebody else wrote, built by .ci/judges into the folder
// BLUEKEY_JUDGES. Without it the test is skipped, but not in CI.
func judge(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("BLUEKEY_JUDGES")
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); dir != "" && err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("no %s in BLUEKEY_JUDGES=%q: run .ci/judges", name, dir)
	}
	t.Skipf("no %s: BLUEKEY_JUDGES=$(.ci/judges) go test", name)
	return ""
}

// noteKey is a private key as golang.org/x/mod/sumdb/note writes it.
func noteKey(key *signing.VKey, seed [32]byte) string {
	return fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", key.Name(), key.ID(), base64.StdEncoding.EncodeToString(append([]byte{byte(key.Kind())}, seed[:]...)))
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a program to its end and gives what it said.
func run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(name), err, out)
	}
	return string(out)
}

// serve starts a program that listens at an address given by its flag, waits until it does,
// and gives its URL.
func serve(t *testing.T, name, flag string, args ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	var said bytes.Buffer
	cmd := exec.Command(name, append(args, flag+"="+addr)...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(name), &said)
		}
	})
	for range 100 {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return "http://" + addr
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s does not listen", filepath.Base(name))
	return ""
}

// judgeWitness takes a witness through the life of a log: first checkpoint, growth, a
// client that knows nothing, a fork.
func judgeWitness(t *testing.T, log *testLog, w exportlog.PolicyWitness) {
	t.Helper()
	ctx := context.Background()
	c := newClient(t, w)
	for _, grow := range []int{3, 2, 0, 300} {
		log.grow(grow, "entry")
		if grow == 2 {
			c = newClient(t, w)
		}
		lines, err := c.Cosign(ctx, log.checkpoint(), log.prove)
		if err != nil {
			t.Fatalf("at %d entries: %v", log.tree.Size(), err)
		}
		for _, key := range c.keys {
			p, err := exportlog.ParsePolicy(fmt.Appendf(nil, "log %s\nwitness own %s\nwitness w %s\ngroup both all own w\nquorum both\n", log.keys.VKeys()[0], log.keys.VKeys()[1], key))
			if err != nil {
				t.Fatal(err)
			}
			o, err := p.Verify(append(log.checkpoint(), lines...))
			if err != nil {
				t.Fatalf("at %d entries: %v", log.tree.Size(), err)
			}
			if age := time.Since(o.Cosigners[0].Time); age < -2*time.Second || age > time.Minute {
				t.Errorf("cosigned %v ago", age)
			}
		}
	}
	fork := newLog(t, 3)
	fork.keys = log.keys
	fork.grow(400, "other")
	if lines, err := c.Cosign(ctx, fork.checkpoint(), fork.prove); err == nil {
		t.Errorf("a fork was cosigned: %q", lines)
	}
}

// TestLitewitness has our checkpoints cosigned by the witness of filippo.io/torchwood. It
// knows Ed25519 only.
func TestLitewitness(t *testing.T) {
	program, log, dir := judge(t, "litewitness"), newLog(t, 0), t.TempDir()
	seed := [32]byte{4}
	keys, err := signing.NewWitnessKeys("witness.example/lite", seed, seed)
	if err != nil {
		t.Fatal(err)
	}
	// Its key is in an agent, its list of logs in a database.
	private := ed25519.NewKeyFromSeed(seed[:])
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(ring, conn)
		}
	}()
	run(t, fmt.Sprintf(`CREATE TABLE log(origin TEXT PRIMARY KEY, tree_size INTEGER NOT NULL, tree_hash TEXT NOT NULL);
		CREATE TABLE key(origin TEXT NOT NULL, key TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin));
		INSERT INTO log VALUES('%s', 0, '47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=');
		INSERT INTO key VALUES('%[1]s', '%s');`, log.keys.Name(), log.keys.VKeys()[0]), "sqlite3", filepath.Join(dir, "db"))
	url := serve(t, program, "-listen", "-name="+keys.Name(), "-db="+filepath.Join(dir, "db"), "-ssh-agent="+filepath.Join(dir, "agent"), "-key="+ssh.FingerprintSHA256(public))
	judgeWitness(t, log, exportlog.PolicyWitness{Name: "lite", Ed25519: keys.VKeys()[0], URL: url})
}

// TestOmniwitness has them cosigned by the witness of transparency-dev, with a key of
// either kind.
func TestOmniwitness(t *testing.T) {
	program, log, dir := judge(t, "omniwitness"), newLog(t, 0), t.TempDir()
	ed, pq := [32]byte{5}, [32]byte{6}
	keys, err := signing.NewWitnessKeys("witness.example/omni", ed, pq)
	if err != nil {
		t.Fatal(err)
	}
	logs := write(t, filepath.Join(dir, "logs.yaml"), fmt.Sprintf("Logs:\n  - Origin: %s\n    PublicKey: %s\n    URL: http://127.0.0.1:1/\n", log.keys.Name(), log.keys.VKeys()[0]))
	url := serve(t, program, "--listen", "--metrics_listen=", "--logtostderr", "--additional_logs="+logs,
		"--private_key_path="+write(t, filepath.Join(dir, "ed"), noteKey(keys.VKeys()[0], ed)+"\n"),
		"--private_key_path="+write(t, filepath.Join(dir, "pq"), noteKey(keys.VKeys()[1], pq)+"\n"))
	w := exportlog.PolicyWitness{Name: "omni", Ed25519: keys.VKeys()[0], MLDSA44: keys.VKeys()[1], URL: url}
	judgeWitness(t, log, w)
	lines, err := newClient(t, w).Cosign(context.Background(), log.checkpoint(), log.prove)
	if err != nil || bytes.Count(lines, []byte("\n")) != 2 {
		t.Errorf("%d cosignatures, %v", bytes.Count(lines, []byte("\n")), err)
	}
}

// TestTesseraLog has our witness cosign the checkpoints of a log of Tessera, which asks it
// by itself and publishes nothing before it has answered.
func TestTesseraLog(t *testing.T) {
	program, dir := judge(t, "posix-oneshot"), t.TempDir()
	seed := [32]byte{7}
	keys, err := signing.NewLogKeys("log.example/tessera", seed, seed)
	if err != nil {
		t.Fatal(err)
	}
	log := keys.VKeys()[0]
	s := newSite(t, parseLog(t, fmt.Appendf(nil, "log %s\nquorum none\n", log)))
	s.now = time.Now()
	policy := fmt.Sprintf("log %s\nwitness w %s %s\nquorum w\n", log, s.keys.VKeys()[0], s.web.URL)
	reader, err := exportlog.ParsePolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--storage_dir=" + filepath.Join(dir, "log"),
		"--private_key=" + write(t, filepath.Join(dir, "key"), noteKey(log, seed)),
		"--witness_policy_file=" + write(t, filepath.Join(dir, "policy"), policy)}
	size := uint64(0)
	for round, n := range []int{3, 1, 40} {
		entries := filepath.Join(dir, fmt.Sprint("entries", round))
		if err := os.Mkdir(entries, 0o700); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			write(t, filepath.Join(entries, fmt.Sprint(i)), fmt.Sprintf("entry %d of round %d", i, round))
		}
		size += uint64(n)
		said := run(t, "", program, append(args, "--entries="+filepath.Join(entries, "*"))...)
		signed, err := os.ReadFile(filepath.Join(dir, "log", "checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		o, err := reader.Verify(signed)
		if err != nil || o.Size != size || len(o.Cosigners) != 1 {
			t.Fatalf("round %d: %+v, %v\n%s\n%s", round, o, err, signed, said)
		}
	}
	if shown := s.shown(keys.Name()); !strings.HasPrefix(shown.body, fmt.Sprintf("%s\n%d\n", keys.Name(), size)) {
		t.Errorf("the witness shows %d %s", shown.status, shown.body)
	}
}
