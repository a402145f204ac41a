package seal

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// testKeyring has keys from fixed bytes: permit keys that are only shaped like some, and
// real sealing keys, for FORMAT-keyring.md to quote.
func testKeyring(t testing.TB, days ...uint32) *Keyring {
	t.Helper()
	k := &Keyring{Origin: origin, Region: "VN-HP"}
	for _, d := range days {
		key, err := LoadPrivateKey(origin, d, bytes.Repeat([]byte{byte(d)}, SeedLen))
		if err != nil {
			t.Fatal(err)
		}
		k.Permits = append(k.Permits, PermitKey{d, [32]byte(bytes.Repeat([]byte{byte(d)}, 32))})
		k.Seals = append(k.Seals, SealKey{d, [PublicLen]byte(key.Public().Bytes())})
	}
	return k
}

func format(t testing.TB, k *Keyring) []byte {
	t.Helper()
	text, err := k.Format()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestKeyring(t *testing.T) {
	k := testKeyring(t, today, today+1, today+2)
	text := format(t, k)
	got, err := ParseKeyring(text)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(format(t, got), text) || got.Origin != origin || got.Region != "VN-HP" || !slices.Equal(got.Seals, k.Seals) || !slices.Equal(got.Permits, k.Permits) {
		t.Error("read differently than written")
	}
	if key, ok := got.Permit(today + 1); !ok || key != k.Permits[1].Key {
		t.Error("the permit key of a day is not found")
	}
	if _, ok := got.Permit(today + 3); ok {
		t.Error("a permit key of a day without one")
	}
	if _, err := got.Seal(today + 3); err == nil {
		t.Error("a sealing key of a day without one")
	}

	// A phone seals with the key of its day, and the ring that the keyring came from opens.
	ring := new(Ring)
	key := newKey(t, today)
	if err := ring.Add(key); err != nil {
		t.Fatal(err)
	}
	k.Seals = ring.Public()
	if got, err = ParseKeyring(format(t, k)); err != nil {
		t.Fatal(err)
	}
	public, err := got.Seal(today)
	if err != nil {
		t.Fatal(err)
	}
	request, _ := sealTo(t, public, plainRequest(9))
	if _, err := ring.Open(request, noon(today)); err != nil {
		t.Error(err)
	}
}

// TestMalformedKeyrings has a row for each second spelling and each missing part.
func TestMalformedKeyrings(t *testing.T) {
	good := string(format(t, testKeyring(t, today, today+1)))
	lines := strings.SplitAfter(good, "\n")
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("nothing to replace: %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	unreduced := slices.Repeat([]byte{0xff}, PublicLen)
	for name, text := range map[string]string{
		"empty":                      "",
		"one LF":                     "\n",
		"first line only":            lines[0],
		"another version":            replace("v1", "v2"),
		"no LF at the end":           good[:len(good)-1],
		"an empty line at the end":   good + "\n",
		"an empty line":              replace("region", "\nregion"),
		"CR":                         strings.ReplaceAll(good, "\n", "\r\n"),
		"CR inside base64":           replace("LCws", "LC\rws"),
		"space at the end of a line": replace("\npermit", " \npermit"),
		"two spaces":                 replace("permit 20780 ", "permit  20780 "),
		"tab":                        replace("permit 20780 ", "permit\t20780 "),
		"origin missing":             strings.Join(slices.Delete(slices.Clone(lines), 1, 2), ""),
		"region missing":             strings.Join(slices.Delete(slices.Clone(lines), 2, 3), ""),
		"region before origin":       lines[0] + lines[2] + lines[1] + strings.Join(lines[3:], ""),
		"empty origin":               replace(origin, ""),
		"origin of two words":        replace(origin, "keys example"),
		"no permit key":              lines[0] + lines[1] + lines[2] + lines[5] + lines[6],
		"no sealing key":             strings.Join(lines[:5], ""),
		"sealing keys first":         lines[0] + lines[1] + lines[2] + lines[5] + lines[6] + lines[3] + lines[4],
		"permit after seal":          lines[0] + lines[1] + lines[2] + lines[3] + lines[5] + lines[4],
		"permit days swapped":        lines[0] + lines[1] + lines[2] + lines[4] + lines[3] + lines[5] + lines[6],
		"seal days swapped":          strings.Join(lines[:5], "") + lines[6] + lines[5],
		"two permit keys for a day":  replace(lines[3], lines[3]+lines[3]),
		"two sealing keys for a day": replace(lines[5], lines[5]+lines[5]),
		"another kind":               replace("permit 20781", "export 20781"),
		"upper case":                 replace("permit 20780", "Permit 20780"),
		"leading zero":               replace("permit 20780", "permit 020780"),
		"sign":                       replace("permit 20780", "permit +20780"),
		"a day beyond 32 bits":       replace("permit 20781", "permit 4294967296"),
		"no day":                     replace("permit 20780 ", "permit "),
		"no key":                     replace(lines[3], "permit 20780\n"),
		"a short key":                replace(lines[3], "permit 20780 "+base64.StdEncoding.EncodeToString(make([]byte, 31))+"\n"),
		"a long key":                 replace(lines[3], "permit 20780 "+base64.StdEncoding.EncodeToString(make([]byte, 33))+"\n"),
		"unpadded":                   replace("=\npermit 20781", "\npermit 20781"),
		"spare bits set":             replace("LCw=\npermit", "LCx=\npermit"),
		"URL alphabet":               replace(lines[3], "permit 20780 "+base64.URLEncoding.EncodeToString(slices.Repeat([]byte{0xff}, 32))+"\n"),
		"unreduced sealing key":      replace(lines[5], "seal 20780 "+base64.StdEncoding.EncodeToString(unreduced)+"\n"),
		"a third field":              replace("LCw=\n", "LCw= x\n"),
		"more than the limit":        good + strings.Repeat("x", MaxKeyring),
	} {
		if k, err := ParseKeyring([]byte(text)); err == nil || k != nil {
			t.Errorf("%s: read", name)
		}
	}
}

func TestKeyringsThatAreNotWritten(t *testing.T) {
	change := func(f func(*Keyring)) *Keyring { k := testKeyring(t, today, today+1); f(k); return k }
	many := make([]uint32, 60)
	for i := range many {
		many[i] = today + uint32(i)
	}
	for name, k := range map[string]*Keyring{
		"no origin":       change(func(k *Keyring) { k.Origin = "" }),
		"region with LF":  change(func(k *Keyring) { k.Region = "a\nb" }),
		"no permits":      change(func(k *Keyring) { k.Permits = nil }),
		"no seals":        change(func(k *Keyring) { k.Seals = nil }),
		"not ascending":   change(func(k *Keyring) { slices.Reverse(k.Seals) }),
		"a day twice":     change(func(k *Keyring) { k.Permits[1].Day = today }),
		"a key unreduced": change(func(k *Keyring) { copy(k.Seals[0].Key[:], slices.Repeat([]byte{0xff}, PublicLen)) }),
		"too many":        testKeyring(t, many...),
	} {
		if _, err := k.Format(); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func TestContradictions(t *testing.T) {
	a := testKeyring(t, today, today+1)
	later := testKeyring(t, today+1, today+2)
	if err := a.Contradicts(later); err != nil {
		t.Errorf("a keyring and the next: %v", err)
	}
	permit, seal, region := testKeyring(t, today+1, today+2), testKeyring(t, today+1, today+2), testKeyring(t, today+1)
	permit.Permits[0].Key[0] ^= 1
	seal.Seals[0].Key = later.Seals[1].Key
	region.Region = "VN-HN"
	for want, other := range map[string]*Keyring{
		"two permit keys for day 20781": permit, "two sealing keys for day 20781": seal, "VN-HN": region,
	} {
		for _, err := range []error{a.Contradicts(other), other.Contradicts(a)} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("want %q, have %v", want, err)
			}
		}
	}
}

// TestFormatPage: the example in FORMAT-keyring.md is a keyring that was really written,
// its long lines cut.
func TestFormatPage(t *testing.T) {
	page, err := os.ReadFile("FORMAT-keyring.md")
	if err != nil {
		t.Fatal(err)
	}
	long := regexp.MustCompile(`(?m)^(seal \d+ .{24}).*(.{8})$`)
	example := long.ReplaceAllString(string(format(t, testKeyring(t, today, today+1))), "$1…$2")
	if !strings.Contains(string(page), "```\n"+example+"```\n") {
		t.Errorf("the page lacks the example\n%s", example)
	}
	for _, figure := range []string{fmt.Sprintf("%d bytes", PublicLen), fmt.Sprintf("%d bytes", MaxKeyring)} {
		if !strings.Contains(strings.ReplaceAll(string(page), ",", ""), figure) {
			t.Errorf("the page lacks %q", figure)
		}
	}
}

// FuzzParseKeyring: whatever is accepted is formatted to the bytes it came from.
func FuzzParseKeyring(f *testing.F) {
	text := format(f, testKeyring(f, today, today+1))
	f.Add(text)
	f.Add(text[:200])
	f.Add([]byte("bluekey keyring v1\norigin a\nregion b\npermit 0 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nseal 0 \n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKeyring(b)
		if err != nil {
			return
		}
		if again, err := k.Format(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("a second spelling: %v", err)
		}
	})
}
