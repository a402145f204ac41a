package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"bluekey/keystore"
	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
	"bluekey/signing/permit"
)

// The operator of these tests wants to know which code brought which keys. It has every
// file of the store after the window was sealed, decoded; the log; the metrics, read
// before and after each request; the journal of codes issued; and the order of all
// requests, with the kind of each. All cases are of one epoch, report type and day of
// onset: that crowd is what the protocol promises. Phones upload in an order of their own,
// as their cover schedules make them do.

const crowd = 48 // cases

// TestOperatorsView lets the operator link codes to uploads. It ranks codes by each thing it
// knows of them and uploads by each thing it knows of those, and links equal ranks, or
// opposite ones. A link by chance is right once in crowd: of each such strategy the links
// that are right are Poisson with mean 1, and 12 of them come by chance once in 10^9. Ranks
// that are nearly the same would show in Spearman's coefficient, which by chance has a
// standard deviation of 1/7: 0.8 is 5.5 of them.
func TestOperatorsView(t *testing.T) {
	disk := vfs.NewMem()
	a := startOn(t, disk)
	o := &operator{t: t, a: a, phone: a.phone(connect.WithInterceptors(withHeaders{}))}
	o.live()
	open := decodedRows(t, disk, true)
	o.seal()
	sealed := decodedRows(t, disk, false)

	codes, uploads := o.knowledge(sealed)
	links, rho, how := best(codes, uploads)
	t.Logf("best of %d strategies: %d of %d links are right (chance: 1 each), Spearman at most %.2f, by %s", 2*len(codes)*len(uploads), links, crowd, rho, how)
	if links >= 12 || rho > 0.8 {
		t.Errorf("the operator links %d of %d codes to uploads, Spearman %.2f, by %s", links, crowd, rho, how)
	}
	// It would see a phone that uploads in the order in which codes were redeemed.
	blind := codes[slices.IndexFunc(codes, func(k known) bool { return k.name == "order of redeems" })]
	if links, _, _ := best([]known{blind}, []known{{"the same", blind.of}}); links != crowd {
		t.Errorf("the scores are blind: %d links", links)
	}

	// Nor does it find out which keys came together: neighbours in a table are of one case
	// as often as by chance. While the window is open they are.
	before, _ := o.neighbours(open, func(r row) []byte { return binary.BigEndian.AppendUint64(nil, r.seq) })
	after, chance := o.neighbours(sealed, func(r row) []byte { return r.name })
	bySeq, _ := o.neighbours(sealed, func(r row) []byte { return binary.BigEndian.AppendUint64(nil, r.seq) })
	t.Logf("neighbours of one case: %d in the open log, %d in the sealed tables, %.1f by chance", before, after, chance)
	if bound := chance + 6*math.Sqrt(chance) + 6; float64(after) > bound || float64(bySeq) > bound {
		t.Errorf("%d neighbours by name and %d by number are of one case, by chance %.1f", after, bySeq, chance)
	}
	if before < len(o.owner)/2 {
		t.Errorf("the search for neighbours is blind: %d", before)
	}
	for _, r := range sealed {
		if strings.ContainsRune("ckdm", rune(r.name[0])) && r.seq != 0 {
			t.Errorf("a %c row has the number %d", r.name[0], r.seq)
		}
	}
	o.canaries(disk, sealed)
}

type withHeaders struct{}

const (
	canaryAgent   = "canary-agent/7"
	canaryAddress = "203.0.113.77"
)

func (withHeaders) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		req.Header().Set("User-Agent", canaryAgent)
		req.Header().Set("X-Forwarded-For", canaryAddress)
		return next(ctx, req)
	}
}
func (withHeaders) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}
func (withHeaders) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// operator sees everything; of the cases it has only what the comments on the tests say.
// The rest is for whoever checks its guesses.
type operator struct {
	t     *testing.T
	a     *appliance
	phone bluekeyv1connect.PhoneServiceClient

	cases   []*patient
	redeems []int // cases in the order of redeeming
	uploads []int // and of uploading
	owner   map[diagnosis.Secret]int
	log     string
	metrics string
}

type patient struct {
	code    string
	pending *permit.Pending
	blinded [32]byte
	held    *permit.Held
	keys    []diagnosis.Key
}

// live lets a crowd of cases come in among cover, and looks at log and metrics between any
// two requests.
func (o *operator) live() {
	o.owner = map[diagnosis.Secret]int{}
	for i, code := range o.a.codes(crowd) {
		p := &patient{code: code, keys: teks(7 + rand.IntN(8))}
		for _, k := range p.keys {
			o.owner[k.Secret] = i
		}
		o.cases = append(o.cases, p)
		o.redeems, o.uploads = append(o.redeems, i), append(o.uploads, i)
	}
	shuffle := func(v []int) { rand.Shuffle(len(v), func(i, j int) { v[i], v[j] = v[j], v[i] }) }
	shuffle(o.redeems)
	shuffle(o.uploads)
	first, err := permit.CoverRedeem()
	if err == nil {
		_, err = o.a.askBy(o.phone, permit.OpRedeem, first) // from here on there is a count
	}
	if err != nil {
		o.t.Fatal(err)
	}
	o.log, o.metrics = o.look()
	for _, i := range o.redeems {
		o.cover()
		p := o.cases[i]
		if p.pending, err = permit.NewPending(); err != nil {
			o.t.Fatal(err)
		}
		p.blinded = p.pending.Redeem(p.code).Blinded
		if p.held, err = o.a.redeemBy(o.phone, p.pending, p.code); err != nil {
			o.t.Fatal(err)
		}
		o.unseen("a redeem")
	}
	for _, i := range o.uploads {
		o.cover()
		p := o.cases[i]
		if _, err := o.a.uploadBy(o.phone, p.held, p.keys); err != nil {
			o.t.Fatal(err)
		}
		o.unseen("an upload")
	}
}

// cover is a cover or refused request, or none.
func (o *operator) cover() {
	var plain []byte
	var err error
	op := permit.OpUpload
	switch rand.IntN(4) {
	case 0:
		op = permit.OpRedeem
		plain, err = permit.CoverRedeem()
	case 1:
		plain, err = permit.CoverUpload(names, diagnosis.GAEN, today())
	case 2:
		if plain, err = permit.CoverUpload(names, diagnosis.GAEN, today()); err == nil {
			plain[2] = 0 // a permit that is none
		}
	default:
		return
	}
	if err == nil {
		_, err = o.a.askBy(o.phone, op, plain)
	}
	if err != nil {
		o.t.Fatal(err)
	}
	o.unseen("cover")
}

// look reads the log, and the metrics without those that count requests of all kinds
// together.
func (o *operator) look() (log, metrics string) {
	_, b := o.a.do(http.MethodGet, o.a.ops+"/metrics", nil)
	lines := slices.DeleteFunc(strings.Split(string(b), "\n"), func(l string) bool {
		return strings.HasPrefix(l, `bluekey_requests_total{route="phone",status="answered"} `) || strings.HasPrefix(l, `bluekey_requests_in_flight{route="phone"} `)
	})
	return o.a.log.String(), strings.Join(lines, "\n")
}

// unseen fails if a request left a trace other than having been one.
func (o *operator) unseen(kind string) {
	o.t.Helper()
	log, metrics := o.look()
	if log != o.log {
		o.t.Errorf("%s left in the log: %s", kind, log[len(o.log):])
	}
	if o.metrics != metrics {
		o.t.Errorf("%s left in the metrics:\n%s\nbefore:\n%s", kind, metrics, o.metrics)
	}
	o.log, o.metrics = log, metrics
}

// seal closes the window and publishes it, as far as the store goes.
func (o *operator) seal() {
	s, ctx := o.a.store, o.t.Context()
	o.a.clock.advance(4 * time.Hour)
	end := o.a.clock.Now().Truncate(4 * time.Hour)
	if d, err := s.CloseWindow(ctx, diagnosis.GAEN, end); err != nil || d.Count != len(o.owner) {
		o.t.Fatalf("%d keys due, want %d: %v", d.Count, len(o.owner), err)
	}
	if err := s.Ungroup(ctx); err != nil {
		o.t.Fatal(err)
	}
	err := s.Commit(keystore.Publication{
		Windows: []keystore.Window{{Scheme: diagnosis.GAEN, Start: s.WindowStart(diagnosis.GAEN), End: end, Published: true, Through: end}},
		Entries: [][]byte{[]byte("entry")}, Hashes: make([][32]byte, 1), Checkpoint: []byte("checkpoint"),
	})
	if err != nil {
		o.t.Fatal(err)
	}
}

// row is a row of a table.
type row struct {
	name, value []byte
	seq         uint64
}

// decodedRows reads every table in the data folder. With replay it works on a copy of which
// the log was turned into tables first, as at a start after a crash.
func decodedRows(t *testing.T, disk *vfs.MemFS, replay bool) (rows []row) {
	t.Helper()
	if replay {
		copied := vfs.NewMem()
		if _, err := vfs.Clone(disk, copied, "data/store", "data/store"); err != nil {
			t.Fatal(err)
		}
		db, err := pebble.Open("data/store", &pebble.Options{FS: copied, DisableAutomaticCompactions: true, FormatMajorVersion: 24, Logger: quietLog{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		disk = copied
	}
	// The database may be moving rows from one table to another still, or not have removed
	// the old one yet.
	for range 500 {
		before, err := disk.List("data/store")
		if err != nil {
			t.Fatal(err)
		}
		rows, err = readTables(disk, before)
		after, listErr := disk.List("data/store")
		slices.Sort(before)
		slices.Sort(after)
		if err == nil && listErr == nil && slices.Equal(before, after) && !keysTwice(rows) {
			return rows
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the store does not come to rest")
	return nil
}

func keysTwice(rows []row) bool {
	seen := map[string]bool{}
	for _, r := range rows {
		if r.name[0] == 'k' && seen[string(r.name)] {
			return true
		}
		seen[string(r.name)] = true
	}
	return false
}

func readTables(disk vfs.FS, list []string) (rows []row, err error) {
	o := new(pebble.Options)
	o.EnsureDefaults()
	for _, name := range list {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		more, err := readTable(disk, "data/store/"+name, o)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

func readTable(disk vfs.FS, path string, o *pebble.Options) (rows []row, err error) {
	f, err := disk.Open(path)
	if err != nil {
		return nil, err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(context.Background(), readable, o.MakeReaderOptions())
	if err != nil {
		return nil, errors.Join(err, readable.Close())
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return nil, err
	}
	for kv := it.First(); kv != nil; kv = it.Next() {
		v, _, err := kv.Value(nil)
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		rows = append(rows, row{bytes.Clone(kv.K.UserKey), bytes.Clone(v), uint64(kv.K.SeqNum())})
	}
	return rows, it.Close()
}

type quietLog struct{}

func (quietLog) Infof(string, ...any)         {}
func (quietLog) Errorf(string, ...any)        {}
func (quietLog) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

// known is one thing that is known of every case.
type known struct {
	name string
	of   [crowd][]byte // ranked as texts
}

// knowledge is what the operator knows of codes and of uploads, filed under the case that
// each belongs to, which it does not know.
func (o *operator) knowledge(rows []row) (codes, uploads []known) {
	o.t.Helper()
	num := func(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	number := func(name string, order []int) known {
		k := known{name: name}
		for at, i := range order {
			k.of[i] = num(at)
		}
		return k
	}
	issued := known{name: "order of issuing"}
	for i := range crowd {
		issued.of[i] = num(i)
	}
	codes = []known{issued, number("order of redeems", o.redeems), {name: "name of the row"}, {name: "number of the row"}, {name: "expiry"}, {name: "what is kept of the element"}, {name: "the whole row"}}
	uploads = []known{number("order of uploads", o.uploads), {name: "name of the row"}, {name: "number of the row"}, {name: "e"}, {name: "keys"}, {name: "promised time"}, {name: "first key's row"}}

	byName := map[string]row{}
	firstKey := map[int][]byte{}
	for _, r := range rows {
		byName[string(r.name)] = r
		if r.name[0] == 'k' {
			if i, ok := o.owner[secretOf(r)]; ok && (firstKey[i] == nil || bytes.Compare(r.name, firstKey[i]) < 0) {
				firstKey[i] = r.name
			}
		}
	}
	for i, p := range o.cases {
		canonical, _, err := desk.Parse(p.code)
		if err != nil {
			o.t.Fatal(err)
		}
		id := o.a.store.Desk().ID(canonical)
		c, ok := byName["c"+string(id[:])]
		if !ok || len(c.value) != 6+1+32+4 {
			o.t.Fatalf("the row of a code: %v, %d bytes", ok, len(c.value))
		}
		spent := p.held.Spent()
		u, ok := byName[string(append(binary.BigEndian.AppendUint32([]byte{'m'}, p.held.Epoch), spent[:]...))]
		if !ok || len(u.value) != 37 {
			o.t.Fatalf("the row of a permit: %v, %d bytes", ok, len(u.value))
		}
		for n, v := range [][]byte{c.name, num(int(c.seq)), c.value[:6], c.value[7:39], c.value} {
			codes[2+n].of[i] = v
		}
		for n, v := range [][]byte{u.name, num(int(u.seq)), u.value[:32], u.value[32:33], u.value[33:], firstKey[i]} {
			uploads[1+n].of[i] = v
		}
	}
	return codes, uploads
}

func secretOf(r row) (s diagnosis.Secret) {
	copy(s[:16], r.name[6:])
	return s
}

// ranks gives each case its place in the order of k. Equal ones are in any order.
func (k *known) ranks() (r [crowd]int) {
	order := rand.Perm(crowd)
	slices.SortStableFunc(order, func(i, j int) int { return bytes.Compare(k.of[i], k.of[j]) })
	for at, i := range order {
		r[i] = at
	}
	return r
}

// best is how many links of the best strategy are right, and the largest coefficient of
// any.
func best(codes, uploads []known) (links int, rho float64, how string) {
	for i := range codes {
		for j := range uploads {
			c, u := codes[i].ranks(), uploads[j].ranks()
			same, opposite, squares := 0, 0, 0
			for n := range crowd {
				if c[n] == u[n] {
					same++
				}
				if c[n] == crowd-1-u[n] {
					opposite++
				}
				squares += (c[n] - u[n]) * (c[n] - u[n])
			}
			if n := max(same, opposite); n > links {
				links, how = n, codes[i].name+" and "+uploads[j].name
			}
			rho = max(rho, math.Abs(1-6*float64(squares)/(crowd*(crowd*crowd-1))))
		}
	}
	return links, rho, how
}

// neighbours orders the rows of keys and counts those that follow one of the same case; and
// how many do by chance.
func (o *operator) neighbours(rows []row, by func(row) []byte) (n int, chance float64) {
	var keys []row
	of := make([]float64, crowd)
	for _, r := range rows {
		if r.name[0] == 'k' {
			keys = append(keys, r)
			of[o.owner[secretOf(r)]]++
		}
	}
	if len(keys) != len(o.owner) {
		o.t.Fatalf("%d keys in tables, want %d", len(keys), len(o.owner))
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	slices.SortStableFunc(keys, func(a, b row) int { return bytes.Compare(by(a), by(b)) })
	for i := 1; i < len(keys); i++ {
		if o.owner[secretOf(keys[i])] == o.owner[secretOf(keys[i-1])] {
			n++
		}
	}
	for _, k := range of {
		chance += k * (k - 1) / float64(len(keys))
	}
	return n, chance
}

// canaries looks for what must be nowhere, and for what must be in rows of its own only.
func (o *operator) canaries(disk *vfs.MemFS, rows []row) {
	o.t.Helper()
	files := map[string][]byte{}
	var walk func(dir string)
	walk = func(dir string) {
		list, err := disk.List(dir)
		if err != nil {
			o.t.Fatal(err)
		}
		for _, name := range list {
			path := disk.PathJoin(dir, name)
			info, err := disk.Stat(path)
			if err == nil && info.IsDir() {
				walk(path)
				continue
			}
			f, err := disk.Open(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue // a table that was no longer needed
			}
			if err != nil {
				o.t.Fatal(err)
			}
			b, err := io.ReadAll(f)
			if err != nil {
				o.t.Fatal(err)
			}
			f.Close()
			files[path] = b
		}
	}
	walk("data")
	for _, r := range rows { // tables are compressed
		kind := string(r.name[:1])
		files["rows "+kind] = append(append(files["rows "+kind], r.name...), r.value...)
	}
	files["log"], files["metrics"] = []byte(o.log), []byte(o.metrics)
	search := func(what string, needle []byte, allowed ...string) {
		for name, b := range files {
			if bytes.Contains(b, needle) && !slices.ContainsFunc(allowed, func(a string) bool { return strings.Contains(name, a) }) {
				o.t.Errorf("%s is in %s", what, name)
			}
		}
	}
	search("a user agent", []byte(canaryAgent))
	search("an address", []byte(canaryAddress))
	search("an address", []byte("127.0.0.1"))
	for _, p := range o.cases {
		search("a code", []byte(p.code))
		search("a code", []byte(strings.ReplaceAll(p.code, "-", "")))
		search("a blinded element", p.blinded[:])
		search("a nonce", p.held.Nonce[:])
		search("an output", p.held.Output[:])
		search("e", p.held.E[:], "rows m", ".sst")
		for _, k := range p.keys {
			// Tables hold the rows, and a MANIFEST the first and last name of each table.
			search("a key", k.Bytes(), "rows k", ".sst", "MANIFEST")
		}
	}
}
