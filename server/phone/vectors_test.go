package phone

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"

	"bluekey/keystore/diagnosis"
	"bluekey/signing/permit"
)

const vectors = "../../testdata/vectors/phone/"

// TestVectors makes the vectors of PHONES.md anew and compares every byte: what another
// client was checked with is what this one says. Where they have to change,
// BLUEKEY_UPDATE_VECTORS=1 writes them.
//
// Labels, input, signed message and the keys of a reply are put together here a second
// time, from the page alone.
func TestVectors(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 20697)
	s := newService(t)
	files := map[string][]byte{}
	add := func(name string, v any) {
		t.Helper()
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetIndent("", " ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		files[name] = b.Bytes()
	}
	add("codes.json", codeVectors(t))
	bought := permitVectors(t, s)
	add("permit.json", bought)
	uploads := uploadVectors(t, s, bought)
	add("uploads.json", uploads)
	add("replies.json", replyVectors(t))
	add("sealed.json", sealedVectors(t, s, bought, uploads))
	treeFiles, index, at := treeVectors(t)
	add("tree.json", index)
	add("notices.json", noticesVectors(t, at))
	for path, data := range treeFiles {
		files["tree/"+path] = data
	}
	compareFiles(t, files)
}

func compareFiles(t *testing.T, files map[string][]byte) {
	t.Helper()
	if os.Getenv("BLUEKEY_UPDATE_VECTORS") == "1" {
		if err := os.RemoveAll(vectors); err != nil {
			t.Fatal(err)
		}
		for name, data := range files {
			if err := os.MkdirAll(filepath.Dir(vectors+name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(vectors+name, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		stored, err := os.ReadFile(vectors + name)
		if err != nil || !bytes.Equal(stored, files[name]) {
			t.Errorf("%s differs from what is said now (%v): clients that were checked with it would fail", name, err)
		}
	}
	err := fs.WalkDir(os.DirFS(vectors), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && files[path] == nil {
			t.Errorf("%s belongs to nothing", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// hexes is bytes in the vectors.
type hexes []byte

func (h hexes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

type typedCode struct {
	Typed string `json:"typed"`
	Code  string `json:"code"`
}

type codesFile struct {
	About   string      `json:"about"`
	Good    []typedCode `json:"good"`
	Refused []string    `json:"refused"`
}

func codeVectors(t *testing.T) codesFile {
	f := codesFile{About: "codes as typed and in canonical form; texts that are no codes"}
	for _, typed := range []string{goodCode, "57 23-89 127", "000000000", "135792468", "S7231-5T9ZK-QM04X-W", "0123456789abcdef", "oOiIlL0000000000", "0110-1111-0000-0000", "1234567890123456"} {
		code, err := ParseCode(typed)
		if err != nil {
			t.Fatalf("%q: %v", typed, err)
		}
		f.Good = append(f.Good, typedCode{typed, code})
	}
	f.Refused = []string{"", "57238912", "5723891277", "572389128", "752389127", "57238912A", "S72315T9ZKQM04XU", "S72315T9ZKQM04X", "S72315T9ZKQM04XWW", "572389127\n", "５72389127"}
	for _, typed := range f.Refused {
		if _, err := ParseCode(typed); !errors.Is(err, ErrCode) {
			t.Fatalf("%q is a code", typed)
		}
	}
	return f
}

type redeemReplyVector struct {
	Name  string `json:"name"`
	Today uint32 `json:"today"` // the phone's
	Plain hexes  `json:"reply_plain"`
}

type permitFile struct {
	About     string              `json:"about"`
	Origin    string              `json:"origin"`
	Region    string              `json:"region"`
	Epoch     uint32              `json:"epoch"`
	Report    int                 `json:"report_type"`
	Seed      hexes               `json:"issuer_seed"`
	Published map[uint32]hexes    `json:"published"` // permit keys of the keyring, by day
	ESeed     hexes               `json:"e_seed"`
	E         hexes               `json:"e"`
	Nonce     hexes               `json:"nonce"`
	Input     hexes               `json:"input"`
	Blind     hexes               `json:"blind"`
	Blinded   hexes               `json:"blinded"`
	Code      string              `json:"code"`
	Request   hexes               `json:"request_plain"`
	Info      hexes               `json:"info"`
	Evaluated hexes               `json:"evaluated"`
	Proof     hexes               `json:"proof"`
	OnsetDay  uint32              `json:"onset_day"`
	Output    hexes               `json:"output"`
	Spent     hexes               `json:"output_hash"`
	Taken     []redeemReplyVector `json:"taken"`
	Stops     []redeemReplyVector `json:"phone_stops"`

	held *permit.Held
}

func encoded(t *testing.T, r permit.Reply) hexes {
	t.Helper()
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func permitInfo(report diagnosis.ReportType, epoch uint32) []byte {
	return fmt.Appendf(nil, "bluekey/v1 permit\n%s\n%s\n%d\n%d\n", origin, region, report, epoch)
}

// permitVectors is one permit from the code on, and replies by which a phone would be marked.
func permitVectors(t *testing.T, s *service) *permitFile {
	t.Helper()
	p, err := permit.NewPending()
	if err != nil {
		t.Fatal(err)
	}
	stored := p.Bytes()
	seed := [32]byte{7}
	f := &permitFile{
		About:  "one permit, from code to output, and replies to its Redeem; bytes in hex; days since 1970-01-01 UTC; issuer_seed as in ../permit/poprf.json",
		Origin: origin, Region: region, Epoch: day, Report: int(s.info.Report), Seed: seed[:], Published: map[uint32]hexes{},
		ESeed: stored[:32], Nonce: stored[32:64], Blind: stored[64:], Code: goodCode, OnsetDay: day - 4,
	}
	for _, k := range s.keyring().Permits[:3] {
		f.Published[k.Day] = k.Key[:]
	}
	published := func(epoch uint32) (k [32]byte, ok bool) {
		copy(k[:], f.Published[epoch])
		return k, f.Published[epoch] != nil
	}
	f.E = hexes(ed25519.NewKeyFromSeed(f.ESeed).Public().(ed25519.PublicKey))
	input := sha512.Sum512(slices.Concat([]byte("bluekey/v1 permit input\n"), f.E, f.Nonce))
	f.Input = input[:32]
	request := p.Redeem(goodCode)
	f.Blinded = request.Blinded[:]
	if f.Request, err = request.Encode(); err != nil {
		t.Fatal(err)
	}
	f.Info = permitInfo(s.info.Report, day)
	evaluate := func(info permit.Info) permit.Evaluation {
		e, err := s.issuer.Evaluate(info, request.Blinded)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := evaluate(s.info)
	f.Evaluated, f.Proof = e.Element[:], e.Proof[:]
	good := permit.RedeemReply{Info: s.info, OnsetDay: f.OnsetDay, Evaluation: e}
	if f.held, err = p.Finalize(s.names, good, day, published); err != nil {
		t.Fatal(err)
	}
	f.Output = f.held.Output[:]
	spent := sha256.Sum256(append([]byte("bluekey/v1 permit spent\n"), f.Output...))
	f.Spent = spent[:]
	if spent != f.held.Spent() {
		t.Error("output hash: the page says otherwise")
	}

	of := func(report diagnosis.ReportType, epoch uint32, e permit.Evaluation) permit.RedeemReply {
		return permit.RedeemReply{Info: permit.Info{Report: report, Epoch: epoch}, OnsetDay: f.OnsetDay, Evaluation: e}
	}
	info := func(report diagnosis.ReportType, epoch uint32) permit.Info {
		return permit.Info{Report: report, Epoch: epoch}
	}
	other, err := permit.NewIssuer(s.names, [32]byte{8})
	if err != nil {
		t.Fatal(err)
	}
	marked, err := other.Evaluate(s.info, request.Blinded)
	if err != nil {
		t.Fatal(err)
	}
	decoy, err := s.issuer.EvaluateDecoy(s.info, request.Blinded)
	if err != nil {
		t.Fatal(err)
	}
	flipped := e
	flipped.Proof[40] ^= 1
	yesterday := info(diagnosis.ConfirmedTest, day-1)
	rows := []struct {
		name  string
		today uint32
		reply permit.RedeemReply
		taken bool
	}{
		{"today", day, good, true},
		{"another proof", day, of(s.info.Report, day, evaluate(s.info)), true},
		{"yesterday's epoch", day, of(yesterday.Report, yesterday.Epoch, evaluate(yesterday)), true},
		{"self report, no onset", day, permit.RedeemReply{Info: info(diagnosis.SelfReport, day), Evaluation: evaluate(info(diagnosis.SelfReport, day))}, true},
		{"a key of this phone's own", day, of(s.info.Report, day, marked), false},
		{"the decoy key", day, of(s.info.Report, day, decoy), false},
		{"the key of the day before", day, of(s.info.Report, day, evaluate(yesterday)), false},
		{"evaluated as another report type", day, of(diagnosis.SelfReport, day, e), false},
		{"tomorrow's epoch", day - 1, good, false},
		{"an epoch two days old", day + 2, good, false},
		{"a flipped bit in the proof", day, of(s.info.Report, day, flipped), false},
		{"an epoch that the keyring has not", day + 3, of(s.info.Report, day+3, evaluate(info(s.info.Report, day+3))), false},
	}
	for _, row := range rows {
		_, err := p.Finalize(s.names, row.reply, row.today, published)
		if (err == nil) != row.taken {
			t.Errorf("%s: %v", row.name, err)
		}
		v := redeemReplyVector{row.name, row.today, encoded(t, row.reply)}
		if row.taken {
			f.Taken = append(f.Taken, v)
		} else {
			f.Stops = append(f.Stops, v)
		}
	}
	return f
}

type keyVector struct {
	Secret hexes  `json:"secret"`
	Start  uint32 `json:"start"`
	Count  uint8  `json:"count"`
	Risk   uint8  `json:"risk"`
	Onset  int8   `json:"days_since_onset"` // as sent or published
	Exact  *int   `json:"exact_days_since_onset,omitempty"`
}

type uploadVector struct {
	Name   string      `json:"name"`
	Scheme int         `json:"scheme"`
	Keys   []keyVector `json:"keys"` // in the phone's order
	Signed hexes       `json:"signed"`
	Plain  hexes       `json:"request_plain"`
}

type uploadsFile struct {
	About    string         `json:"about"`
	OnsetDay uint32         `json:"onset_day"`
	Uploads  []uploadVector `json:"uploads"`
}

// uploadVectors hand in keys under the permit of permit.json.
func uploadVectors(t *testing.T, s *service, p *permitFile) *uploadsFile {
	t.Helper()
	f := &uploadsFile{About: "uploads under the permit of permit.json: keys in the phone's order, the message that e signs, the whole plaintext; hex", OnsetDay: p.OnsetDay}
	gaen := daily(day-1, 14)
	for i := range gaen {
		gaen[i].Risk = uint8(i % 9)
	}
	gaen[13].Count = 72
	slices.Reverse(gaen)
	seeds := make([]diagnosis.Key, 16)
	for i := range seeds {
		seeds[i] = diagnosis.Key{Scheme: diagnosis.Bluezone, Start: diagnosis.Interval(day-16+i) * 96, Count: 96}
		for j := range seeds[i].Secret {
			seeds[i].Secret[j] = byte(7*i + j)
		}
	}
	seeds[15].Start, seeds[15].Count = seeds[15].Start+30, 66
	full := slices.Concat(daily(day-1, 15), daily(day-1, 15))
	for i := range full[15:] {
		full[15+i].Secret[2] = 0xff
	}
	late := daily(day, 1)
	for _, row := range []struct {
		name string
		keys []diagnosis.Key
	}{{"14 GAEN keys, the newest first", gaen}, {"16 Bluezone seeds", seeds}, {"30 GAEN keys, two of each start", full}, {"one late key", late}} {
		keys := CoarseOnset(row.keys, f.OnsetDay)
		plain, err := p.held.Upload(s.names, keys)
		if err != nil {
			t.Fatal(err)
		}
		v := uploadVector{Name: row.name, Scheme: int(keys[0].Scheme), Plain: plain}
		for i := range keys {
			k := &keys[i]
			exact := int(k.Scheme.Day(k.Start)) - int(f.OnsetDay)
			v.Keys = append(v.Keys, keyVector{k.Bytes(), uint32(k.Start), k.Count, k.Risk, int8(k.Onset), &exact})
		}
		v.Signed = binary.BigEndian.AppendUint16([]byte("bluekey/v1 upload\n"), uint16(len(p.Info)))
		v.Signed = slices.Concat(v.Signed, p.Info, p.Spent, plain[:960])
		if !ed25519.Verify(ed25519.PublicKey(p.E), v.Signed, plain[960:]) {
			t.Errorf("%s: the signed message is not as the page says", row.name)
		}
		f.Uploads = append(f.Uploads, v)
	}
	return f
}

// TestThePageNamesTheVectors: PHONES.md names every file, and every member that it has.
func TestThePageNamesTheVectors(t *testing.T) {
	page, err := os.ReadFile("../PHONES.md")
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(vectors + "*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, path := range paths {
		_, about, ok := strings.Cut(string(page), "**`phone/"+filepath.Base(path)+"`**")
		if !ok {
			t.Errorf("%s is not on the page", path)
			continue
		}
		about, _, _ = strings.Cut(about, "\n\n")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for name := range members(t, data) {
			if name != "about" && !strings.Contains(about, "`"+name+"`") {
				t.Errorf("%s: the page does not name %q", path, name)
			}
		}
	}
}

// members gives the names in a JSON text, but for days.
func members(t *testing.T, data []byte) map[string]bool {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			for name, x := range v {
				if strings.Trim(name, "0123456789") != "" {
					names[name] = true
				}
				walk(x)
			}
		}
	}
	walk(v)
	return names
}
