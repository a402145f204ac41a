package witness

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"bluekey/export/exportlog"
	"bluekey/signing"
)

const vectorDir = "../../testdata/vectors/c2sp/"

func vector(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(vectorDir + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// vectorKeys are the keys of the vectors: the log, witness 1 (0x04 in the vectors) and
// witness 2 (0x06).
func vectorKeys(t testing.TB) (log signing.LogKeys, witness [2]signing.WitnessKeys) {
	t.Helper()
	var rows []struct {
		Name string
		Seed string `json:"seed_hex"`
	}
	if err := json.Unmarshal(vector(t, "keys.json"), &rows); err != nil {
		t.Fatal(err)
	}
	seed := func(i int) [32]byte {
		b, err := hex.DecodeString(rows[i].Seed)
		if err != nil {
			t.Fatal(err)
		}
		return [32]byte(b)
	}
	var errs [3]error
	log, errs[0] = signing.NewLogKeys(rows[0].Name, seed(0), seed(1))
	witness[0], errs[1] = signing.NewWitnessKeys(rows[2].Name, seed(2), [32]byte{})
	witness[1], errs[2] = signing.NewWitnessKeys(rows[3].Name, [32]byte{}, seed(3))
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return log, witness
}

// testLog is a log under the test's hand, honest or not.
type testLog struct {
	t    testing.TB
	keys signing.LogKeys
	tree exportlog.Tree
}

func newLog(t testing.TB, entries int) *testLog {
	keys, _ := vectorKeys(t)
	l := &testLog{t: t, keys: keys}
	l.grow(entries, "entry")
	return l
}

// grow adds entries; those of the vectors are named "entry".
func (l *testLog) grow(n int, name string) {
	for range n {
		l.tree.Append(fmt.Appendf(nil, "%s %d\n", name, l.tree.Size()))
	}
}

// fork is a second history of the log with the same entries so far.
func (l *testLog) fork() *testLog {
	f := newLog(l.t, int(l.tree.Size()))
	if f.tree.Root() != l.tree.Root() {
		l.t.Fatal("a log forks here only while its entries are those of the vectors")
	}
	return f
}

func (l *testLog) at(size uint64) exportlog.Checkpoint {
	l.t.Helper()
	root, err := exportlog.Root(size, &l.tree)
	if err != nil {
		l.t.Fatal(err)
	}
	return exportlog.Checkpoint{Origin: l.keys.Name(), Size: size, Root: root}
}

// published is when the log signs.
var published = time.Unix(1767225600, 0).UTC()

func (l *testLog) sign(c exportlog.Checkpoint) []byte {
	l.t.Helper()
	signed, err := exportlog.SignCheckpoint(c, published, l.keys)
	if err != nil {
		l.t.Fatal(err)
	}
	return signed
}

func (l *testLog) checkpoint() []byte { return l.sign(l.at(l.tree.Size())) }

func (l *testLog) prove(old uint64) ([][32]byte, error) {
	return exportlog.ProveConsistency(old, l.tree.Size(), &l.tree)
}

// ask is the request that takes a witness from a size to the log's own.
func (l *testLog) ask(old uint64) []byte {
	l.t.Helper()
	proof, err := l.prove(old)
	if err != nil {
		l.t.Fatal(err)
	}
	return formatRequest(request{old: old, proof: proof, checkpoint: l.checkpoint()})
}

func (l *testLog) policy() []byte {
	l.t.Helper()
	full, _, err := exportlog.FormatPolicies(exportlog.PolicyTerms{Log: l.keys.VKeys()})
	if err != nil {
		l.t.Fatal(err)
	}
	return full
}

func parseLog(t testing.TB, policy []byte) Log {
	t.Helper()
	l, err := ParseLog(policy)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// disk is the files below a witness. It may fail, before or after it has replaced a file.
type disk struct {
	mu     sync.Mutex
	files  map[string][]byte
	writes int
	fail   func() (late bool, err error)
	unread error // of every read
}

func (d *disk) read(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unread != nil {
		return nil, d.unread
	}
	if data, ok := d.files[name]; ok {
		return data, nil
	}
	return nil, fs.ErrNotExist
}

func (d *disk) write(name string, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var late bool
	var err error
	if d.fail != nil {
		late, err = d.fail()
	}
	if err == nil || late {
		d.files = maps.Clone(d.files)
		if d.files == nil {
			d.files = map[string][]byte{}
		}
		d.files[name] = bytes.Clone(data)
		d.writes++
	}
	return err
}

// site is a witness behind a web server, on a disk and a clock under the test's hand.
type site struct {
	t    testing.TB
	keys signing.WitnessKeys
	logs []Log
	disk disk
	now  time.Time
	said bytes.Buffer // its log
	w    *Witness
	web  *httptest.Server
}

func newSite(t testing.TB, logs ...Log) *site {
	t.Helper()
	_, keys := vectorKeys(t)
	s := &site{t: t, keys: keys[0], logs: logs, now: published.Add(time.Minute)}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.web.Close() })
	return s
}

// start starts the witness, or starts it again on what is on the disk.
func (s *site) start() (err error) {
	s.w, err = New(Config{
		Keys: s.keys, Logs: s.logs, State: Files(s.disk.read, s.disk.write),
		Now: func() time.Time { return s.now },
		Log: slog.New(slog.NewTextHandler(&s.said, nil)),
	})
	if err != nil {
		return err
	}
	if s.web != nil {
		s.web.Close()
	}
	s.web = httptest.NewServer(s.w.Handler())
	return nil
}

type answer struct {
	status      int
	contentType string
	body        string
}

func (s *site) do(method, path string, body []byte) answer {
	s.t.Helper()
	req, err := http.NewRequest(method, s.web.URL+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := s.web.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header.Get("Content-Type"), string(data)}
}

func (s *site) add(body []byte) answer {
	s.t.Helper()
	return s.do(http.MethodPost, "/add-checkpoint", body)
}

// mustAdd submits a request that has to be granted.
func (s *site) mustAdd(body []byte) string {
	s.t.Helper()
	a := s.add(body)
	if a.status != http.StatusOK {
		s.t.Fatalf("answered %d %s", a.status, a.body)
	}
	return a.body
}

// shown is what the monitoring address serves for a log.
func (s *site) shown(origin string) answer {
	s.t.Helper()
	return s.do(http.MethodGet, "/"+RecordName(origin), nil)
}

// quorum is the policy of somebody who trusts a log if the witness has cosigned, by its key
// of either kind.
func (s *site) quorum(log signing.LogKeys, kind int) *exportlog.Policy {
	s.t.Helper()
	p, err := exportlog.ParsePolicy(fmt.Appendf(nil, "log %s\nwitness own %s\nwitness w %s\ngroup both all own w\nquorum both\n",
		log.VKeys()[0], log.VKeys()[1], s.keys.VKeys()[kind]))
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *site) witness() exportlog.PolicyWitness {
	keys := s.keys.VKeys()
	return exportlog.PolicyWitness{Name: "w", Ed25519: keys[0], MLDSA44: keys[1], URL: s.web.URL}
}
