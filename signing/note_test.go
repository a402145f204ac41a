package signing

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"filippo.io/mldsa"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
)

func vector(t testing.TB, name string, into any) {
	t.Helper()
	data, err := os.ReadFile("../testdata/vectors/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type keyVector struct {
	Role, Name, Type, VKey string
	Seed                   string `json:"seed_hex"`
	Public                 string `json:"public_key_hex"`
	ID                     string `json:"key_id"`
}

func (k keyVector) kind() Kind {
	return map[string]Kind{"0x01": Ed25519Log, "0x04": Ed25519Cosignature, "0x06": MLDSA44Cosignature}[k.Type]
}

func keyVectors(t testing.TB) (keys []keyVector) {
	vector(t, "c2sp/keys.json", &keys)
	return keys
}

func TestNoteKeysOfTheVectors(t *testing.T) {
	for _, v := range keyVectors(t) {
		k, err := newNoteKey(v.Name, v.kind(), [32]byte(unhex(t, v.Seed)))
		if err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(k.Public()) != v.Public || fmt.Sprintf("%08x", k.ID()) != v.ID || k.VKey.String() != v.VKey {
			t.Errorf("%s: public key, id or vkey differ", v.Role)
		}
		parsed, err := ParseVKey(v.VKey)
		if err != nil {
			t.Fatal(err)
		}
		if parsed.Name() != v.Name || parsed.Kind() != v.kind() || parsed.String() != v.VKey {
			t.Errorf("%s: vkey parsed as %s, kind %v", v.Role, parsed.Name(), parsed.Kind())
		}
		if v.kind() == MLDSA44Cosignature {
			other, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), unhex(t, v.Seed))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(other.PublicKey().Bytes(), k.Public()) {
				t.Errorf("%s: two implementations disagree on the public key", v.Role)
			}
		}
	}
}

type checkpointVector struct {
	Body, Origin string
	Size         uint64
	Root         string `json:"root_hex"`
	Signatures   []struct {
		Role, Line, Name string
		ID               string `json:"key_id"`
		Message          string `json:"signed_message_hex"`
		Payload          string `json:"line_payload_hex"`
		Timestamp        uint64
	}
}

func (c checkpointVector) statement(t testing.TB, at uint64) Statement {
	return Statement{Origin: c.Origin, Size: c.Size, Root: [32]byte(unhex(t, c.Root)), Time: at}
}

// Each line of the vector checkpoint: the exact bytes signed, the payload, the line, and
// what another ML-DSA implementation says to both.
func TestNoteSignaturesOfTheVectors(t *testing.T) {
	var c checkpointVector
	vector(t, "c2sp/checkpoint.json", &c)
	if got := string(c.statement(t, 0).Body()); got != c.Body {
		t.Errorf("body %q", got)
	}
	for i, key := range keyVectors(t) {
		want := c.Signatures[i]
		k, err := newNoteKey(key.Name, key.kind(), [32]byte(unhex(t, key.Seed)))
		if err != nil {
			t.Fatal(err)
		}
		s := c.statement(t, want.Timestamp)
		msg, err := s.signed(k.kind, k.name)
		if err != nil || hex.EncodeToString(msg) != want.Message {
			t.Errorf("%s: signs %x, %v", want.Role, msg, err)
		}
		sig, err := k.sign(s)
		if err != nil || sig.Line() != want.Line {
			t.Errorf("%s: another line: %q, %v", want.Role, sig.Line(), err)
		}
		payload := unhex(t, want.Payload)[4:]
		if at, ok := k.Verify(c.statement(t, 99), payload); !ok || at != want.Timestamp {
			t.Errorf("%s: verified %v at %d", want.Role, ok, at)
		}
		if k.kind == MLDSA44Cosignature {
			other, err := mldsa.NewPublicKey(mldsa.MLDSA44(), k.Public())
			if err != nil {
				t.Fatal(err)
			}
			if err := mldsa.Verify(other, msg, sig.Bytes[8:], nil); err != nil {
				t.Errorf("%s: another implementation refuses our signature: %v", want.Role, err)
			}
			private, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), unhex(t, key.Seed))
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := private.Sign(nil, msg, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := k.Verify(s, append(sig.Bytes[:8:8], theirs...)); !ok {
				t.Errorf("%s: we refuse another implementation's signature", want.Role)
			}
		}
	}
}

func TestNoteSignatureOfAnythingElseFails(t *testing.T) {
	var c checkpointVector
	vector(t, "c2sp/checkpoint.json", &c)
	for i, key := range keyVectors(t) {
		k, err := ParseVKey(key.VKey)
		if err != nil {
			t.Fatal(err)
		}
		good, payload := c.statement(t, 0), unhex(t, c.Signatures[i].Payload)[4:]
		rows := map[string]func(s *Statement, sig []byte) []byte{
			"origin":    func(s *Statement, sig []byte) []byte { s.Origin += "x"; return sig },
			"size":      func(s *Statement, sig []byte) []byte { s.Size++; return sig },
			"root":      func(s *Statement, sig []byte) []byte { s.Root[31] ^= 1; return sig },
			"extension": func(s *Statement, sig []byte) []byte { s.Extension = "x\n"; return sig },
			"first bit": func(s *Statement, sig []byte) []byte { sig[0] ^= 1; return sig },
			"last bit":  func(s *Statement, sig []byte) []byte { sig[len(sig)-1] ^= 1; return sig },
			"time":      func(s *Statement, sig []byte) []byte { sig[7] ^= 1; return sig },
			"short":     func(s *Statement, sig []byte) []byte { return sig[:len(sig)-1] },
			"long":      func(s *Statement, sig []byte) []byte { return append(sig, 0) },
			"empty":     func(s *Statement, sig []byte) []byte { return nil },
		}
		for name, change := range rows {
			s := good
			sig := change(&s, bytes.Clone(payload))
			if _, ok := k.Verify(s, sig); ok {
				t.Errorf("%s: verifies with another %s", key.Role, name)
			}
		}
		if _, ok := k.Verify(good, payload); !ok {
			t.Errorf("%s: the unchanged one must verify", key.Role)
		}
	}
}

// The bytes of circl's ML-DSA-44, with a context, are those of the permit vectors: a
// change of the library would show here.
func TestMLDSAOfTheVectors(t *testing.T) {
	var v struct {
		Seed    string `json:"mldsa44_seed"`
		Public  string `json:"mldsa44_public"`
		Sig     string `json:"mldsa44_signature"`
		EdPub   string `json:"ed25519_public"`
		EdSig   string `json:"ed25519_signature"`
		Message string
		Context string
	}
	vector(t, "permit/signatures.json", &v)
	msg, ctx := unhex(t, v.Message), unhex(t, v.Context)
	pub, priv := mldsa44.NewKeyFromSeed((*[32]byte)(unhex(t, v.Seed)))
	sig := make([]byte, mldsa44.SignatureSize)
	if err := mldsa44.SignTo(priv, msg, ctx, false, sig); err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(pub.Bytes()) != v.Public || hex.EncodeToString(sig) != v.Sig {
		t.Error("public key or signature differ from the vector")
	}
	if mldsa44.Verify(pub, msg, nil, sig) {
		t.Error("the context does not matter")
	}
	if !ed25519.Verify(unhex(t, v.EdPub), msg, unhex(t, v.EdSig)) {
		t.Error("Ed25519 signature of the vector")
	}
}

const base64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

func TestParseVKeyRefusesSecondSpellings(t *testing.T) {
	good := keyVectors(t)[0].VKey
	name, id, b64 := "bluekey.example/hai-phong", "35a79f49", good[strings.LastIndex(good[:len(good)-44], "+")+1:]
	if good != name+"+"+id+"+"+b64 {
		t.Fatalf("the vector is %q", good)
	}
	padded := keyVectors(t)[1].VKey // ends in a digit with two free bits and one "="
	last := strings.IndexByte(base64Digits, padded[len(padded)-2])
	for what, s := range map[string]string{
		"upper-case id":       name + "+35A79F49+" + b64,
		"another id":          name + "+35a79f48+" + b64,
		"another name":        name + "x+" + id + "+" + b64,
		"trailing LF":         good + "\n",
		"LF inside base64":    name + "+" + id + "+" + b64[:8] + "\n" + b64[8:],
		"no padding":          strings.TrimRight(padded, "="),
		"set trailing bits":   padded[:len(padded)-2] + string(base64Digits[last|1]) + "=",
		"empty name":          "+" + id + "+" + b64,
		"space in name":       "a b+" + id + "+" + b64,
		"no base64":           name + "+" + id + "+",
		"two parts":           name + "+" + id,
		"empty":               "",
		"unknown kind":        name + "+" + id + "+" + "Ag" + b64[2:],
		"private form":        "PRIVATE+KEY+" + good,
		"Ed25519, 31 bytes":   name + "+" + id + "+" + b64[:40],
		"ML-DSA-44, 32 bytes": name + "+" + id + "+" + "Bg" + b64[2:],
	} {
		if k, err := ParseVKey(s); err == nil {
			t.Errorf("%s: parsed as %v", what, k)
		}
	}
}

func TestLogAndWitnessKeys(t *testing.T) {
	keys := keyVectors(t)
	seed := func(i int) [32]byte { return [32]byte(unhex(t, keys[i].Seed)) }
	var c checkpointVector
	vector(t, "c2sp/checkpoint.json", &c)
	s := c.statement(t, c.Signatures[1].Timestamp)

	log, err := NewLogKeys(c.Origin, seed(0), seed(1))
	if err != nil {
		t.Fatal(err)
	}
	sigs, err := log.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	for i, sig := range sigs {
		if sig.Line() != c.Signatures[i].Line || log.VKeys()[i].String() != keys[i].VKey {
			t.Errorf("line or vkey %d of the log differs", i)
		}
	}
	witness, err := NewWitnessKeys("witness.example/w1", seed(2), seed(3))
	if err != nil {
		t.Fatal(err)
	}
	s.Time = c.Signatures[2].Timestamp
	if sigs, err = witness.Sign(s); err != nil || sigs[0].Line() != c.Signatures[2].Line {
		t.Errorf("line of the witness: %v", err)
	}

	refused := s
	refused.Origin = "other.example"
	if _, err := log.Sign(refused); err == nil {
		t.Error("a log signs for another origin")
	}
	refused = s
	refused.Time = 0
	if _, err := witness.Sign(refused); err == nil {
		t.Error("a witness signs without a time")
	}
	refused = s
	refused.Extension = "x\n"
	if _, err := log.Sign(refused); err == nil {
		t.Error("a log signs an extension line")
	}
	for _, name := range []string{"", "a b", "a+b", "a\tb", "a\x00b", "\xff", strings.Repeat("a", 256)} {
		if _, err := NewLogKeys(name, seed(0), seed(1)); err == nil {
			t.Errorf("origin %q accepted", name)
		}
	}
}

func TestNoteKeysPrintRedacted(t *testing.T) {
	seed := [32]byte([]byte("an ed25519 seed nobody may read!"))
	log, err := NewLogKeys("log.example", seed, seed)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		fmt.Fprintf(&b, verb+verb, log, []LogKeys{log})
	}
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "keys", log)
	//lint:ignore SA9005 nothing of it may be exported: that is what is tested
	json.NewEncoder(&b).Encode(log)
	for _, secret := range []string{string(seed[:]), hex.EncodeToString(seed[:8]), fmt.Sprint(seed[:8])[1:]} {
		if strings.Contains(b.String(), strings.TrimSuffix(secret, "]")) {
			t.Fatalf("printed: %s", b.String())
		}
	}
	if !strings.Contains(b.String(), "[private keys of log.example]") {
		t.Errorf("printed %s", b.String())
	}
	if s := fmt.Sprint(LogKeys{}); s != "[no keys]" {
		t.Errorf("the zero value prints %s", s)
	}
}

func FuzzParseVKey(f *testing.F) {
	for _, k := range keyVectors(f)[:1] {
		f.Add(k.VKey)
	}
	f.Add("a+00000000+AQ==")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseVKey(s); err == nil && k.String() != s {
			t.Errorf("%q is a second spelling of %q", s, k)
		}
	})
}
