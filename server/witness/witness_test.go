package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
	"bluekey/signing"
)

func TestVectors(t *testing.T) {
	logKeys, witnesses := vectorKeys(t)
	checkpoint := string(vector(t, "checkpoint.txt"))
	for i, keys := range witnesses {
		s := newSite(t, parseLog(t, vector(t, "policy.txt")))
		s.keys = keys
		if err := s.start(); err != nil {
			t.Fatal(err)
		}
		// The vectors were cosigned one and two seconds after the log signed.
		s.now = published.Add(time.Duration(i+1) * time.Second)
		s.mustAdd(vector(t, "add-checkpoint-0-5.txt"))
		own := strings.SplitAfter(s.mustAdd(formatRequest(request{old: 5, checkpoint: []byte(checkpoint)})), "\n")
		if !strings.Contains(checkpoint, own[i]) {
			t.Errorf("the cosignature of %s is not that of the vectors:\n%s", keys.Name(), own[i])
		}
		if record := s.shown(logKeys.Name()).body; !strings.HasPrefix(checkpoint, strings.TrimSuffix(record, own[0]+own[1])) {
			t.Error("the record does not hold the lines of the log")
		}

		s = newSite(t, parseLog(t, vector(t, "policy.txt")))
		s.mustAdd(newLog(t, 3).ask(0))
		s.mustAdd(vector(t, "add-checkpoint-3-5.txt"))
	}
}

func TestCosigns(t *testing.T) {
	log := newLog(t, 0)
	s := newSite(t, parseLog(t, log.policy()))
	if a := s.shown(log.keys.Name()); a.status != http.StatusNotFound {
		t.Fatalf("before the first cosignature the witness shows %d %s", a.status, a.body)
	}
	size := uint64(0)
	for _, n := range []int{0, 1, 1, 5, 0, 300} {
		log.grow(n, "entry")
		s.now = s.now.Add(time.Minute)
		own := s.mustAdd(log.ask(size))
		size = log.tree.Size()
		record := s.shown(log.keys.Name())
		if record.status != http.StatusOK || record.contentType != "text/plain; charset=utf-8" || record.body != string(log.checkpoint())+own {
			t.Fatalf("at %d entries the witness shows %d %s", size, record.status, record.body)
		}
		for kind := range 2 {
			o, err := s.quorum(log.keys, kind).Verify([]byte(record.body))
			if err != nil || o.Size != size || !o.Both || len(o.Cosigners) != 1 || !o.Cosigners[0].Time.Equal(s.now) {
				t.Fatalf("at %d entries, key %d: %+v, %v", size, kind, o, err)
			}
		}
	}
}

// flip changes one bit of a line's base64, near its end.
func flip(line string) string {
	i := len(line) - 8
	b := byte('A')
	if line[i] == b {
		b = 'B'
	}
	return line[:i] + string(b) + line[i+1:]
}

// TestRefuses goes through every answer but 200. A witness that has cosigned three entries
// is asked for five.
func TestRefuses(t *testing.T) {
	log := newLog(t, 3)
	first := log.ask(0)
	log.grow(2, "entry")
	good := string(log.ask(3))
	head, signed, _ := strings.Cut(good, "\n\n")
	body, signatures, _ := strings.Cut(signed, "\n\n")
	sigs := strings.SplitAfter(signatures, "\n")
	ed, pq := sigs[0], sigs[1]
	proof := strings.SplitAfter(head+"\n", "\n")[1:5]
	with := func(old string, proof []string, body string, lines ...string) string {
		return "old " + old + "\n" + strings.Join(proof, "") + "\n" + body + "\n\n" + strings.Join(lines, "")
	}

	liar := newLog(t, 3)
	liar.grow(2, "other")
	// forge signs what an honest log would not.
	forge := func(size uint64, root [32]byte) (string, []string) {
		signed := string(liar.sign(exportlog.Checkpoint{Origin: liar.keys.Name(), Size: size, Root: root}))
		body, lines, _ := strings.Cut(signed, "\n\n")
		return body, strings.SplitAfter(lines, "\n")
	}
	otherBody, otherLines := forge(3, log.at(5).Root)
	forkBody, forkLines := forge(5, liar.at(5).Root)
	otherKeys, err := signing.NewLogKeys(log.keys.Name(), [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := exportlog.SignCheckpoint(log.at(5), published, otherKeys)
	if err != nil {
		t.Fatal(err)
	}
	_, forgedLines, _ := strings.Cut(string(forged), "\n\n")
	stranger := newLog(t, 5)
	if stranger.keys, err = signing.NewLogKeys("elsewhere.example/log", [32]byte{1}, [32]byte{2}); err != nil {
		t.Fatal(err)
	}
	extended := strings.TrimSuffix(body, "\n") + "\nextension"

	for _, row := range []struct {
		what   string
		status int
		body   string
	}{
		{"empty", 400, ""},
		{"an empty line", 400, "\n\n"},
		{"no checkpoint", 400, head + "\n\n"},
		{"no empty line", 400, head + "\n"},
		{"the checkpoint alone", 400, signed},
		{"no word old", 400, with("3", proof, body, ed, pq)[4:]},
		{"old in capitals", 400, strings.Replace(good, "old", "OLD", 1)},
		{"old with a leading zero", 400, with("03", proof, body, ed, pq)},
		{"old with a sign", 400, with("+3", proof, body, ed, pq)},
		{"old below zero", 400, with("-3", proof, body, ed, pq)},
		{"old with a space", 400, with("3 ", proof, body, ed, pq)},
		{"old of 2^64", 400, with("18446744073709551616", proof, body, ed, pq)},
		{"old empty", 400, with("", proof, body, ed, pq)},
		{"old above the size", 400, with("6", proof, body, ed, pq)},
		{"CRLF", 400, strings.ReplaceAll(good, "\n", "\r\n")},
		{"CR in the proof", 400, with("3", []string{strings.Replace(proof[0], "=\n", "=\r\n", 1)}, body, ed, pq)},
		{"a short hash", 400, with("3", []string{proof[0][4:]}, body, ed, pq)},
		{"a hash without padding", 400, with("3", []string{strings.Replace(proof[0], "=", "", 1)}, body, ed, pq)},
		{"a hash with set trailing bits", 400, with("3", []string{"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n"}, body, ed, pq)},
		{"64 hashes", 400, with("3", strings.SplitAfter(strings.Repeat(proof[0], 64), "\n"), body, ed, pq)},
		{"no signatures", 400, with("3", proof, body)},
		{"no signature block", 400, head + "\n\n" + body + "\n"},
		{"two lines of body", 400, with("3", proof, strings.Join(strings.Split(body, "\n")[:2], "\n"), ed, pq)},
		{"size with a leading zero", 400, with("3", proof, strings.Replace(body, "\n5\n", "\n05\n", 1), ed, pq)},
		{"size of 2^63", 400, with("3", proof, strings.Replace(body, "\n5\n", "\n9223372036854775808\n", 1), ed, pq)},
		{"a root of 31 bytes", 400, with("3", proof, strings.Join(strings.Split(body, "\n")[:2], "\n")+"\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==", ed, pq)},
		{"extension lines", 400, with("3", proof, extended, ed, pq)},
		{"a signature cut short", 400, strings.TrimSuffix(good, "\n")},
		{"text after the signatures", 400, good + "more\n"},
		{"bytes that are not UTF-8", 400, good + "\u2014 \xff AAAAAAAA\n"},
		{"a line with a hyphen", 400, with("3", proof, body, ed, pq, "- x AAAAAAAA\n")},
		{"more than 100 lines", 400, with("3", proof, body, ed, pq, strings.Repeat("\u2014 x AAAAAAAA\n", 99))},

		{"another log", 404, string(stranger.ask(3))},
		{"the log's name with a slash more", 404, strings.Replace(good, log.keys.Name()+"\n", log.keys.Name()+"/\n", 1)},

		{"Ed25519 only", 403, with("3", proof, body, ed)},
		{"ML-DSA-44 only", 403, with("3", proof, body, pq)},
		{"unknown keys of the log's name", 403, with("3", proof, body, forgedLines)},
		{"lines of strangers", 403, with("3", proof, body, "\u2014 x AAAAAAAA\n")},
		{"Ed25519 wrong", 403, with("3", proof, body, flip(ed), pq)},
		{"ML-DSA-44 wrong", 403, with("3", proof, body, ed, flip(pq))},
		{"ML-DSA-44 of another key", 403, with("3", proof, body, ed, strings.SplitAfter(forgedLines, "\n")[1])},
		{"a wrong line, then the right one", 403, with("3", proof, body, flip(ed), ed, pq)},
		{"signatures of another checkpoint", 403, with("3", proof, body, otherLines...)},
		{"another size than signed", 403, with("3", proof, strings.Replace(body, "\n5\n", "\n4\n", 1), ed, pq)},
		{"not signed, and of a wrong old size", 403, with("2", proof, body, ed)},

		{"old 0", 409, with("0", nil, body, ed, pq)},
		{"old too small", 409, string(log.ask(2))},
		{"old too large", 409, string(log.ask(4))},
		{"old too large, and no proof", 409, with("5", nil, body, ed, pq)},
		{"a smaller tree", 409, string(newLog(t, 2).ask(2))},
		{"a fork from below", 409, string(liar.ask(2))},

		{"no proof", 422, with("3", nil, body, ed, pq)},
		{"a proof without its last hash", 422, with("3", proof[:3], body, ed, pq)},
		{"a proof with one hash more", 422, with("3", append(proof, proof[0]), body, ed, pq)},
		{"a proof in another order", 422, with("3", []string{proof[1], proof[0], proof[2], proof[3]}, body, ed, pq)},
		{"a wrong hash", 422, with("3", append([]string{"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"}, proof[1:]...), body, ed, pq)},
		{"a fork with the proof of the truth", 422, with("3", proof, forkBody, forkLines...)},
		{"the same size, another root", 422, with("3", nil, otherBody, otherLines...)},
		{"the same tree with a proof", 422, string(first[:4]) + "3\n" + proof[0] + strings.TrimPrefix(string(first), "old 0\n")},

		{"a huge request", 413, good + strings.Repeat("\u2014 x "+strings.Repeat("A", 4096)+"\n", 40)},
	} {
		s := newSite(t, parseLog(t, log.policy()))
		s.mustAdd(first)
		before := s.shown(log.keys.Name())
		s.now = s.now.Add(time.Minute)
		a := s.add([]byte(row.body))
		if a.status != row.status {
			t.Errorf("%s: answered %d %q, want %d", row.what, a.status, a.body, row.status)
		}
		if row.status == 409 && (a.body != "3\n" || a.contentType != "text/x.tlog.size") {
			t.Errorf("%s: answered %q of type %s", row.what, a.body, a.contentType)
		}
		if strings.Contains(a.body, "\u2014") {
			t.Errorf("%s: a cosignature in the answer", row.what)
		}
		if s.shown(log.keys.Name()) != before || s.disk.writes != 1 {
			t.Errorf("%s: the record has changed", row.what)
		}
		s.mustAdd([]byte(good)) // nothing is held against the log
		s.web.Close()
	}
}

func TestRefusesFirstCheckpoint(t *testing.T) {
	log := newLog(t, 5)
	proof, err := log.prove(3)
	if err != nil {
		t.Fatal(err)
	}
	empty := log.at(5)
	empty.Size = 0
	for what, row := range map[string]struct {
		status int
		body   []byte
	}{
		"old size of a log never seen":  {409, log.ask(3)},
		"a proof from nothing":          {422, formatRequest(request{proof: proof, checkpoint: log.checkpoint()})},
		"an empty tree with a root":     {422, formatRequest(request{checkpoint: log.sign(empty)})},
		"an empty tree":                 {200, formatRequest(request{checkpoint: log.sign(log.at(0))})},
		"a tree":                        {200, log.ask(0)},
		"a tree, with lines of others":  {200, append(log.ask(0), "\u2014 x AAAAAAAA\n"...)},
		"a tree, the log's lines twice": {200, append(log.ask(0), log.checkpoint()[len(log.at(5).Body())+1:]...)},
	} {
		s := newSite(t, parseLog(t, log.policy()))
		if a := s.add(row.body); a.status != row.status {
			t.Errorf("%s: answered %d %q, want %d", what, a.status, a.body, row.status)
		} else if a.status == 409 && a.body != "0\n" {
			t.Errorf("%s: answered %q", what, a.body)
		} else if record := s.shown(log.keys.Name()).body; a.status == 200 && strings.Count(record, "\u2014") != 4 {
			t.Errorf("%s: the record holds lines that nobody has verified:\n%s", what, record)
		}
		s.web.Close()
	}
}

func TestOtherAddresses(t *testing.T) {
	log := newLog(t, 3)
	s := newSite(t, parseLog(t, log.policy()))
	s.mustAdd(log.ask(0))
	record := "/" + RecordName(log.keys.Name())
	for _, row := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/add-checkpoint", 405},
		{"PUT", "/add-checkpoint", 405},
		{"POST", record, 405},
		{"POST", "/add-checkpoint/", 404},
		{"GET", "/", 404},
		{"GET", "/" + strings.Repeat("0", 64) + "/checkpoint", 404},
		{"GET", strings.ToUpper(record[:60]) + record[60:], 404},
		{"GET", "/" + log.keys.Name() + "/checkpoint", 404},
		{"GET", record, 200},
	} {
		if a := s.do(row.method, row.path, nil); a.status != row.status {
			t.Errorf("%s %s: answered %d", row.method, row.path, a.status)
		}
	}
}

// TestOneWins offers a witness many trees of one size at once. It cosigns one.
func TestOneWins(t *testing.T) {
	log := newLog(t, 3)
	s := newSite(t, parseLog(t, log.policy()))
	s.mustAdd(log.ask(0))
	s.disk.fail = func() (bool, error) { time.Sleep(5 * time.Millisecond); return false, nil } // time to meet
	const n = 16
	requests := make([][]byte, n)
	for i := range requests {
		fork := log.fork()
		fork.grow(2, fmt.Sprint("history ", i))
		requests[i] = fork.ask(3)
	}
	var answers [n]answer
	var all sync.WaitGroup
	for i := range requests {
		all.Go(func() { answers[i] = s.add(requests[i]) })
	}
	all.Wait()
	count := map[int]int{}
	for _, a := range answers {
		count[a.status]++
		if a.status == 409 && a.body != "5\n" {
			t.Errorf("answered %q", a.body)
		}
	}
	if count[200] != 1 || count[409] != n-1 {
		t.Errorf("answers by status: %v", count)
	}
}

// TestStoreFails lets the disk fail before and after it replaced the record: either way no
// cosignature leaves, not even at the monitoring address.
func TestStoreFails(t *testing.T) {
	for _, late := range []bool{false, true} {
		log := newLog(t, 3)
		s := newSite(t, parseLog(t, log.policy()))
		s.mustAdd(log.ask(0))
		before := s.shown(log.keys.Name())
		fork := log.fork()
		log.grow(2, "entry")
		fork.grow(2, "other")

		s.disk.fail = func() (bool, error) { return late, errors.New("no space left") }
		for range 2 {
			if a := s.add(log.ask(3)); a.status != http.StatusInternalServerError || strings.Contains(a.body, "\u2014") {
				t.Errorf("late %v: answered %d %q", late, a.status, a.body)
			}
			if s.shown(log.keys.Name()) != before {
				t.Errorf("late %v: a record is shown that may not be durable", late)
			}
		}
		if !strings.Contains(s.said.String(), "no space left") {
			t.Errorf("late %v: nobody is told: %s", late, &s.said)
		}
		// A restart must not show it before it is durable, either.
		if err := s.start(); err == nil {
			t.Errorf("late %v: started without storing", late)
		}
		s.disk.fail = nil
		if err := s.start(); err != nil {
			t.Fatal(err)
		}
		want := map[bool]int{false: 200, true: 409}[late]
		if a := s.add(fork.ask(3)); a.status != want {
			t.Errorf("late %v: after the restart another tree is answered %d, want %d", late, a.status, want)
		}
	}
}

// TestNeverTwoHistories lets a log with two histories, a failing disk, a turning clock and
// restarts loose on a witness, and looks at all it ever gave away.
func TestNeverTwoHistories(t *testing.T) {
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 2))
		log := newLog(t, 3)
		histories := [2]*testLog{log, log.fork()}
		s := newSite(t, parseLog(t, log.policy()))
		released := map[uint64]map[[32]byte]bool{}
		release := func(text string) {
			o, err := s.quorum(log.keys, 0).Verify([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if released[o.Size] == nil {
				released[o.Size] = map[[32]byte]bool{}
			}
			released[o.Size][o.Root] = true
		}
		s.disk.fail = func() (bool, error) {
			if random.IntN(4) > 0 {
				return false, nil
			}
			return random.IntN(2) == 0, errors.New("disk")
		}
		granted := 0
		for range 120 {
			i := random.IntN(2)
			l := histories[i]
			switch random.IntN(6) {
			case 0:
				l.grow(1, fmt.Sprint("history ", i))
			case 1:
				for s.start() != nil {
				}
			case 2:
				s.now = s.now.Add(time.Duration(random.IntN(5)-1) * time.Second)
			default:
				old := uint64(random.IntN(int(l.tree.Size()) + 1))
				a := s.add(l.ask(old))
				if a.status == http.StatusConflict {
					if _, err := fmt.Sscan(a.body, &old); err != nil {
						t.Fatal(err)
					}
					if old <= l.tree.Size() {
						a = s.add(l.ask(old))
					}
				}
				if a.status == http.StatusOK {
					granted++
					release(string(l.checkpoint()) + a.body)
				}
			}
			if a := s.shown(log.keys.Name()); a.status == http.StatusOK {
				release(a.body)
			}
		}
		holds := func(l *testLog) bool {
			for size, roots := range released {
				if len(roots) > 1 || size > l.tree.Size() || !roots[l.at(size).Root] {
					return false
				}
			}
			return true
		}
		if !holds(histories[0]) && !holds(histories[1]) {
			t.Errorf("seed %d: cosignatures of both histories were given away", seed)
		}
		if granted < 5 {
			t.Errorf("seed %d: only %d checkpoints were cosigned", seed, granted)
		}
		s.web.Close()
	}
}

func TestForkIsReportedOnce(t *testing.T) {
	log := newLog(t, 3)
	s := newSite(t, parseLog(t, log.policy()))
	fork := log.fork()
	log.grow(2, "entry")
	fork.grow(2, "other")
	s.mustAdd(log.ask(0))
	for range 3 {
		if a := s.add(fork.ask(3)); a.status != http.StatusConflict {
			t.Fatalf("answered %d", a.status)
		}
	}
	if n := strings.Count(s.said.String(), "two trees of one size"); n != 1 {
		t.Errorf("reported %d times", n)
	}
	if !strings.Contains(s.said.String(), strings.Split(string(fork.checkpoint()), "\n")[2]) {
		t.Error("the report does not hold the evidence")
	}
}

func TestClock(t *testing.T) {
	log := newLog(t, 3)
	s := newSite(t, parseLog(t, log.policy()))
	s.now = time.Unix(0, 0)
	if a := s.add(log.ask(0)); a.status != http.StatusServiceUnavailable {
		t.Errorf("in 1970 answered %d", a.status)
	}
	s.now = published
	own := s.mustAdd(log.ask(0))
	if again := s.mustAdd(log.ask(3)); again != own || s.disk.writes != 1 {
		t.Errorf("the same checkpoint twice in a second: %d writes", s.disk.writes)
	}
	s.now = published.Add(-time.Second)
	log.grow(1, "entry")
	for range 2 {
		if a := s.add(log.ask(3)); a.status != http.StatusServiceUnavailable {
			t.Errorf("with the clock turned back answered %d", a.status)
		}
		if err := s.start(); err != nil {
			t.Fatal(err)
		}
	}
	s.now = published
	if s.mustAdd(log.ask(3)) == own {
		t.Error("a larger tree in the same second has the old cosignature")
	}
	s.now = published.Add(time.Second)
	s.mustAdd(log.ask(4))
	o, err := s.quorum(log.keys, 1).Verify([]byte(s.shown(log.keys.Name()).body))
	if err != nil || !o.Cosigners[0].Time.Equal(s.now) {
		t.Errorf("a second later the cosignature is of %v, %v", o.Cosigners, err)
	}
}

func TestStart(t *testing.T) {
	log := newLog(t, 5)
	good := newSite(t, parseLog(t, log.policy()))
	good.mustAdd(log.ask(0))
	name := RecordName(log.keys.Name())
	record := good.disk.files[name]
	start := func(text []byte, change func(*site)) (*site, error) {
		s := &site{t: t, keys: good.keys, logs: good.logs, now: good.now}
		s.disk.files = map[string][]byte{name: text}
		if change != nil {
			change(s)
		}
		err := s.start()
		if err == nil {
			t.Cleanup(s.web.Close)
		}
		return s, err
	}

	s, err := start(record, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := s.add(log.ask(0)); a.status != 409 || a.body != "5\n" {
		t.Errorf("after a restart answered %d %q", a.status, a.body)
	}
	if s.shown(log.keys.Name()) != good.shown(log.keys.Name()) {
		t.Error("after a restart another record is shown")
	}

	for what, change := range map[string]func(*site){
		"another name": func(s *site) {
			s.keys, err = signing.NewWitnessKeys("w.example/new", [32]byte{1}, [32]byte{2})
		},
		"another seed": func(s *site) { s.keys, err = signing.NewWitnessKeys(good.keys.Name(), [32]byte{1}, [32]byte{2}) },
		"a log twice":  func(s *site) { s.logs = append(s.logs, s.logs[0]) },
		"no log":       func(s *site) { s.logs = nil },
		"a record under another log's name": func(s *site) {
			other, err := signing.NewLogKeys("elsewhere.example/log", [32]byte{1}, [32]byte{2})
			if err != nil {
				t.Fatal(err)
			}
			s.logs = []Log{parseLog(t, (&testLog{t: t, keys: other}).policy())}
			s.disk.files = map[string][]byte{RecordName(other.Name()): record}
		},
		"a disk that cannot be read": func(s *site) { s.disk.unread = errors.New("input/output error") },
	} {
		if _, err := start(record, change); err == nil {
			t.Errorf("%s: started", what)
		}
	}

	// A flipped bit is refused, or it lies in the name of a line of the log, which is then
	// one of a key unknown: it must not change what is cosigned.
	for i := range record {
		if i%97 != 0 && i > 400 {
			continue // the payloads of ML-DSA-44
		}
		damaged := bytes.Clone(record)
		damaged[i] ^= 1
		s, err := start(damaged, nil)
		if err == nil && (s.w.logs[log.keys.Name()].newest.tree != log.at(5) || !bytes.HasSuffix(record, s.w.logs[log.keys.Name()].newest.own)) {
			t.Errorf("a flipped bit in byte %d changes the record", i)
		}
	}
	for cut := range len(record) {
		if cut%53 == 0 {
			if _, err := start(record[:cut], nil); err == nil {
				t.Errorf("started on a record cut at %d", cut)
			}
		}
	}
}

func TestPolicies(t *testing.T) {
	log := newLog(t, 3)
	both, ed25519, err := exportlog.FormatPolicies(exportlog.PolicyTerms{Log: log.keys.VKeys()})
	if err != nil {
		t.Fatal(err)
	}
	_, witnesses := vectorKeys(t)
	ed, pq := log.keys.VKeys()[0], log.keys.VKeys()[1]
	for what, row := range map[string]struct {
		policy string
		keys   int // 0: refused
	}{
		"as published":       {string(both), 2},
		"the vectors'":       {string(vector(t, "policy.txt")), 2},
		"without ML-DSA":     {string(ed25519), 1},
		"two log lines":      {fmt.Sprintf("log %s\nlog %s\nquorum none\n", ed, pq), 2},
		"a key on two lines": {fmt.Sprintf("log %s\nlog %s\nwitness x %s\nquorum none\n", ed, pq, pq), 2},
		"tabs and comments":  {fmt.Sprintf("# log\n\n\tlog\t%s  https://x\n witness a\u00a0b %s\nquorum none", ed, pq), 2},
		"other witnesses":    {fmt.Sprintf("log %s\nwitness a %s\nquorum none\n", ed, witnesses[0].VKeys()[1]), 1},
		"no log":             {fmt.Sprintf("witness x %s\nquorum x\n", pq), 0},
		"two logs":           {fmt.Sprintf("log %s\nlog elsewhere+%s\nquorum none\n", ed, "00000000+AQ=="), 0},
		"empty":              {"", 0},
	} {
		l, err := ParseLog([]byte(row.policy))
		if (err == nil) != (row.keys > 0) || len(l.Keys) != row.keys {
			t.Errorf("%s: %d keys, %v", what, len(l.Keys), err)
		}
	}
	elsewhere, err := signing.NewLogKeys("elsewhere.example/log", [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseLog(fmt.Appendf(nil, "log %s\nlog %s\nquorum none\n", ed, elsewhere.VKeys()[0])); err == nil {
		t.Error("a policy of two logs was accepted")
	}

	// A policy with one key is served, and said aloud.
	s := newSite(t, parseLog(t, ed25519))
	if !strings.Contains(s.said.String(), "0x06") {
		t.Errorf("no warning: %s", &s.said)
	}
	signed := bytes.SplitAfter(log.checkpoint(), []byte("\n"))
	s.mustAdd(formatRequest(request{checkpoint: bytes.Join(signed[:5], nil)}))
}

func TestParseWitnesses(t *testing.T) {
	_, keys := vectorKeys(t)
	ed, pq := keys[0].VKeys()[0], keys[0].VKeys()[1]
	log := newLog(t, 0).keys.VKeys()[0]
	got, err := ParseWitnesses(fmt.Appendf(nil, "# ours\nwitness a %s https://a.example/w\n\nwitness b %s http://b.example\n\twitness a  %s https://a.example/w", ed, pq, pq))
	if err != nil || len(got) != 2 || got[0].Name != "a" || got[0].URL != "https://a.example/w" || got[1].Name != "b" ||
		got[0].Ed25519.String() != ed.String() || got[0].MLDSA44.String() != pq.String() || got[1].Ed25519 != nil || got[1].MLDSA44.String() != pq.String() {
		t.Errorf("%+v, %v", got, err)
	}
	for what, list := range map[string]string{
		"no URL":        fmt.Sprintf("witness a %s", ed),
		"a file":        fmt.Sprintf("witness a %s file:///etc", ed),
		"a password":    fmt.Sprintf("witness a %s https://me:you@x", ed),
		"another word":  fmt.Sprintf("log a %s https://x", ed),
		"no key":        "witness a b https://x",
		"a log's key":   fmt.Sprintf("witness a %s https://x", log),
		"a key twice":   fmt.Sprintf("witness a %s https://x\nwitness a %s https://x", ed, ed),
		"two URLs":      fmt.Sprintf("witness a %s https://x\nwitness a %s https://y", ed, pq),
		"one item more": fmt.Sprintf("witness a %s https://x y", ed),
		"too long":      strings.Repeat("#\n", exportlog.MaxPolicy),
	} {
		if got, err := ParseWitnesses([]byte(list)); err == nil {
			t.Errorf("%s: accepted as %+v", what, got)
		}
	}
}

// TestFolder keeps the records where the command keeps them.
func TestFolder(t *testing.T) {
	log, dir := newLog(t, 3), t.TempDir()
	s := newSite(t, parseLog(t, log.policy()))
	var folder *tree.Folder
	open := func() *Witness {
		var err error
		if folder, err = tree.NewFolder(tree.Disk{}, dir+"/witness"); err != nil {
			t.Fatal(err)
		}
		read := func(name string) ([]byte, error) { return folder.Get(name, MaxRecord) }
		w, err := New(Config{Keys: s.keys, Logs: s.logs, State: Files(read, folder.Put), Now: func() time.Time { return s.now }})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	own, err := open().addCheckpoint(log.ask(0))
	if err != nil {
		t.Fatal(err)
	}
	want := string(log.checkpoint()) + string(own)
	if got, err := os.ReadFile(dir + "/witness/" + RecordName(log.keys.Name())); err != nil || string(got) != want {
		t.Errorf("the record is %q, %v", got, err)
	}
	if got := open().held(RecordName(log.keys.Name())); string(got) != want {
		t.Errorf("after a restart the record is %q", got)
	}
}

// TestRun starts the whole service, lets a client be slow, and ends it.
func TestRun(t *testing.T) {
	log := newLog(t, 3)
	s := newSite(t, parseLog(t, log.policy()))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.w.Run(ctx, l) }()
	resp, err := http.Post("http://"+l.Addr().String()+"/add-checkpoint", "", bytes.NewReader(log.ask(0)))
	if err != nil {
		t.Fatal(err)
	}
	own, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 200 || bytes.Count(own, []byte("\n")) != 2 {
		t.Errorf("answered %d %q, %v", resp.StatusCode, own, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("it still listens")
	}
	rec := s.add(log.ask(3)) // a request that outlived the server
	if rec.status != http.StatusServiceUnavailable {
		t.Errorf("after the end answered %d", rec.status)
	}

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	s = newSite(t, parseLog(t, log.policy()))
	if err := s.w.Run(context.Background(), closed); err == nil {
		t.Error("serving on a closed listener was no error")
	}
}
