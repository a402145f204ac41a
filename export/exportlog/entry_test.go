package exportlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"bluekey/keystore/diagnosis"
)

const day = 86400

// window is a manifest of two archives and a key set.
func window() Manifest {
	m := Manifest{
		Origin: "bluekey.example/hai-phong", Region: "VN-HP", Scheme: diagnosis.GAEN,
		Start: 20454 * day, End: 20454*day + 14400, Period: 14400, Hold: 14400, Retain: 14 * day,
		Keys: 700, Metadata: Coarse, Encoder: "1", Signers: []string{"452-v2", "452-v1"},
	}
	for _, f := range []struct {
		kind FileKind
		data string
		keys int
	}{{Archive, "first archive", 500}, {Archive, "second archive", 200}, {KeySet, "key set", 700}} {
		m.Files = append(m.Files, NewFile(m.Start, m.End, f.kind, int64(len(f.data)), sha256.Sum256([]byte(f.data)), f.keys))
	}
	return m
}

func emptyWindow() Manifest {
	m := window()
	m.Scheme, m.Keys, m.Signers, m.Files = diagnosis.Bluezone, 0, nil, nil
	return m
}

func signer(t testing.TB) SignerChange {
	t.Helper()
	scalar := sha256.Sum256([]byte("a test key"))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar[:])
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return SignerChange{Time: 20454 * day, KeyID: "org.example-452", Version: "v1", From: 20455 * day, SPKI: spki}
}

func ExampleManifest_Format() {
	text, err := window().Format()
	fmt.Printf("%s%v\n", text, err)
	// Output:
	// bluekey window v1
	// origin bluekey.example/hai-phong
	// region VN-HP
	// scheme gaen
	// start 1767225600
	// end 1767240000
	// period 14400
	// hold 14400
	// retain 1209600
	// keys 700
	// metadata coarse
	// encoder 1
	// signer 452-v2
	// signer 452-v1
	// file exports/1767225600-1767240000-3d191299420f1e0a.zip 13 3d191299420f1e0a81f3fcf887c431c4a0149faf240f1481262a8aaff34e0f40 500
	// file exports/1767225600-1767240000-cb7469f44122ba75.zip 14 cb7469f44122ba751d137a8fef6a36b8e56c6b524a35d7abfa7677955a252a4d 200
	// file exports/1767225600-1767240000-688b746781748a93.keys 7 688b746781748a935807b809744ee75197d9c0ff41de1b58fb145c0d4999a100 700
	// <nil>
}

func entries(t testing.TB) []Entry {
	enters := signer(t)
	retires := enters
	retires.Retires = true
	return []Entry{
		window(), emptyWindow(), enters, retires,
		SmallFile{Time: 20454 * day, Path: KeyringPath, Size: 512, SHA256: sha256.Sum256([]byte("k"))},
		SmallFile{Path: "notice/vi/index.html"},
		Erasure{Time: 20470 * day, Scheme: diagnosis.Bluezone, Through: 20456 * day},
		Incident{Time: 20454 * day, Text: "Máy chủ ngừng từ 02:00 đến 05:00 (mất điện)."},
		opening(), closing(t),
	}
}

func TestEntriesKeepTheirValue(t *testing.T) {
	for _, e := range entries(t) {
		text, err := e.Format()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseEntry(text)
		if err != nil || !reflect.DeepEqual(back, e) {
			t.Errorf("%s\ncame back as %+v, %v", text, back, err)
		}
	}
}

func TestManifestRefuses(t *testing.T) {
	ids := NewFile(window().Start, window().End, IDSet, 5, sha256.Sum256([]byte("x")), 700)
	for what, change := range map[string]func(m *Manifest){
		"origin of two lines":       func(m *Manifest) { m.Origin = "a\nb" },
		"no region":                 func(m *Manifest) { m.Region = "" },
		"space in region":           func(m *Manifest) { m.Region = "VN HP" },
		"no scheme":                 func(m *Manifest) { m.Scheme = 0 },
		"end before start":          func(m *Manifest) { m.End = m.Start },
		"negative start":            func(m *Manifest) { m.Start = -1 },
		"no period":                 func(m *Manifest) { m.Period = 0 },
		"negative hold":             func(m *Manifest) { m.Hold = -1 },
		"no retention":              func(m *Manifest) { m.Retain = 0 },
		"negative keys":             func(m *Manifest) { m.Keys = -700 },
		"keys without files":        func(m *Manifest) { m.Signers, m.Files = nil, nil },
		"files without keys":        func(m *Manifest) { m.Keys = 0 },
		"too few keys in archives":  func(m *Manifest) { m.Files[1].Keys-- },
		"too many keys in archives": func(m *Manifest) { m.Files[1].Keys++ },
		"too few keys in key set":   func(m *Manifest) { m.Files[2].Keys-- },
		"metadata":                  func(m *Manifest) { m.Metadata = "rough" },
		"no encoder":                func(m *Manifest) { m.Encoder = "" },
		"archives without signer":   func(m *Manifest) { m.Signers = nil },
		"signers without archives":  func(m *Manifest) { m.Files = m.Files[2:] },
		"signer twice":              func(m *Manifest) { m.Signers[1] = m.Signers[0] },
		"signer without version":    func(m *Manifest) { m.Signers[1] = "452" },
		"eleven signers": func(m *Manifest) {
			for i := range 9 {
				m.Signers = append(m.Signers, fmt.Sprintf("452-w%d", i))
			}
		},
		"Bluezone archive":       func(m *Manifest) { m.Scheme = diagnosis.Bluezone },
		"key set before archive": func(m *Manifest) { m.Files[1], m.Files[2] = m.Files[2], m.Files[1] },
		"file twice":             func(m *Manifest) { m.Files = append(m.Files, m.Files[2]) },
		"ID set before key set":  func(m *Manifest) { m.Files[2], m.Files = ids, append(m.Files, m.Files[2]) },
		"archive twice for two":  func(m *Manifest) { m.Files[0].Keys = 350; m.Files[1] = m.Files[0] },
		"empty file":             func(m *Manifest) { m.Files[0].Size = 0 },
		"file without keys":      func(m *Manifest) { m.Files[0].Keys, m.Files[1].Keys = 0, 700 },
		"path of another digest": func(m *Manifest) { m.Files[0].SHA256[0]++ },
		"path of another window": func(m *Manifest) { m.Start-- },
		"path elsewhere":         func(m *Manifest) { m.Files[0].Path = "../" + m.Files[0].Path },
		"larger than an entry": func(m *Manifest) {
			m.Files, m.Keys = nil, 600
			for i := range 600 {
				m.Files = append(m.Files, NewFile(m.Start, m.End, Archive, 1, sha256.Sum256([]byte{byte(i), byte(i >> 8)}), 1))
			}
		},
	} {
		m := window()
		change(&m)
		if text, err := m.Format(); err == nil {
			t.Errorf("%s: accepted\n%s", what, text)
		}
		text := m.append([]byte("bluekey window v1\n"))
		if _, err := ParseEntry(text); err == nil {
			t.Errorf("%s: parsed\n%s", what, text)
		}
	}
}

func TestOtherEntriesRefuse(t *testing.T) {
	change := func(f func(s *SignerChange)) SignerChange {
		s := signer(t)
		s.SPKI = bytes.Clone(s.SPKI)
		f(&s)
		return s
	}
	p384, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), append(make([]byte, 47), 7))
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.MarshalPKIXPublicKey(&p384.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for what, e := range map[string]Entry{
		"small file over the checkpoint": SmallFile{Path: CheckpointPath},
		"small file over an export":      SmallFile{Path: window().Files[0].Path},
		"small file outside":             SmallFile{Path: "notice/../checkpoint.txt"},
		"small file, absolute":           SmallFile{Path: "/keyring"},
		"small file, negative size":      SmallFile{Path: KeyringPath, Size: -1},
		"small file, negative time":      SmallFile{Path: KeyringPath, Time: -1},
		"erasure of the future":          Erasure{Time: 5, Scheme: diagnosis.GAEN, Through: 6},
		"erasure of no scheme":           Erasure{Time: 5, Through: 5},
		"incident without text":          Incident{},
		"incident of two lines":          Incident{Text: "a\nb"},
		"incident with an override":      Incident{Text: "a\u202eb"},
		"incident with bad UTF-8":        Incident{Text: "a\xff"},
		"incident with space at its end": Incident{Text: "a "},
		"incident too long":              Incident{Text: strings.Repeat("a", maxIncident+1)},
		"signer without key id":          change(func(s *SignerChange) { s.KeyID = "" }),
		"signer, version with hyphen":    change(func(s *SignerChange) { s.Version = "v-1" }),
		"signer, negative from":          change(func(s *SignerChange) { s.From = -1 }),
		"signer off the curve":           change(func(s *SignerChange) { s.SPKI[len(s.SPKI)-1] ^= 1 }),
		"signer on P-384":                change(func(s *SignerChange) { s.SPKI = other }),
		"signer with an element more": change(func(s *SignerChange) {
			s.SPKI = append(s.SPKI, 5, 0) // NULL, inside the outer SEQUENCE: crypto/x509 takes it
			s.SPKI[1] += 2
		}),
		"signer with bytes after": change(func(s *SignerChange) { s.SPKI = append(s.SPKI, 0) }),
		"signer without key":      change(func(s *SignerChange) { s.SPKI = nil }),
	} {
		if text, err := e.Format(); err == nil {
			t.Errorf("%s: accepted\n%s", what, text)
		}
	}
}

// Every way to write an entry differently is refused.
func TestEntriesHaveOneSpelling(t *testing.T) {
	for _, e := range entries(t) {
		good, err := e.Format()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(strings.TrimSuffix(string(good), "\n"), "\n")
		swapped := append([]string{lines[0], lines[2], lines[1]}, lines[3:]...)
		for what, text := range map[string]string{
			"no last LF":     string(good[:len(good)-1]),
			"two LF":         string(good) + "\n",
			"CRLF":           strings.ReplaceAll(string(good), "\n", "\r\n"),
			"leading space":  " " + string(good),
			"trailing space": strings.Replace(string(good), "\n", " \n", 1),
			"two spaces":     strings.Replace(string(good), lines[1], strings.Replace(lines[1], " ", "  ", 1), 1),
			"lines swapped":  strings.Join(swapped, "") + "\n",
			"line twice":     lines[0] + lines[1] + strings.Join(lines[1:], "") + "\n",
			"line missing":   lines[0] + strings.Join(lines[2:], "") + "\n",
			"unknown line":   string(good) + "note x\n",
			"v2":             strings.Replace(string(good), " v1\n", " v2\n", 1),
		} {
			if e, err := ParseEntry([]byte(text)); err == nil {
				t.Errorf("%s: parsed %q as %+v", what, text, e)
			}
		}
	}
	good, _ := window().Format()
	hexDigest := fmt.Sprintf("%x", window().Files[0].SHA256)
	for what, r := range map[string][2]string{
		"leading zero": {"keys 700", "keys 0700"}, "plus sign": {"keys 700", "keys +700"},
		"2^63": {"start 1767225600", "start 9223372036854775808"}, "upper-case digest": {hexDigest, strings.ToUpper(hexDigest)},
	} {
		text := strings.ReplaceAll(string(good), r[0], r[1])
		if _, err := ParseEntry([]byte(text)); err == nil || text == string(good) {
			t.Errorf("%s: parsed", what)
		}
	}
}

// The decoder of the standard library skips line ends inside base64.
func TestBase64HasOneSpelling(t *testing.T) {
	text := string(texts(t, signer(t))[0])
	i := strings.Index(text, "spki ") + 9
	if _, err := ParseEntry([]byte(text[:i] + "\r" + text[i:])); err == nil {
		t.Error("a CR inside spki")
	}
	body := string(Checkpoint{Origin: "o", Root: EmptyRoot()}.Body())
	if _, err := ParseCheckpoint([]byte(body[:9] + "\r" + body[9:])); err == nil {
		t.Error("a CR inside a root hash")
	}
}

func FuzzParseEntry(f *testing.F) {
	for _, e := range entries(f) {
		text, err := e.Format()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := ParseEntry(text)
		if err != nil {
			return
		}
		if again, err := e.Format(); err != nil || !bytes.Equal(again, text) {
			t.Errorf("%q is a second spelling of %q, %v", text, again, err)
		}
	})
}
