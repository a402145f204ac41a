package phone

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"bluekey/keystore/diagnosis"
)

func TestParseKeysRefuses(t *testing.T) {
	good := `[{"key":"00112233445566778899aabbccddeeff","start":2976480,"count":144,"risk":3}]`
	keys, err := ParseKeys(diagnosis.GAEN, []byte(good))
	if err != nil || len(keys) != 1 || keys[0].Risk != 3 {
		t.Fatalf("%v, %v", keys, err)
	}
	for name, bad := range map[string]string{
		"empty":          ``,
		"object":         `{}`,
		"cut":            good[:len(good)-1],
		"more":           good + `[]`,
		"unknown member": strings.Replace(good, `"risk"`, `"risc"`, 1),
		"not hex":        strings.Replace(good, "0011", "zz11", 1),
		"short":          strings.Replace(good, "0011", "00", 1),
		"no intervals":   strings.Replace(good, `144`, `0`, 1),
		"too many":       strings.Replace(good, `144`, `145`, 1),
		"risk":           strings.Replace(good, `"risk":3`, `"risk":9`, 1),
		"negative start": strings.Replace(good, `2976480`, `-1`, 1),
	} {
		if _, err := ParseKeys(diagnosis.GAEN, []byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "445566") {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
}

func TestParseSightings(t *testing.T) {
	heard, ids, err := ParseSightings(strings.NewReader("00112233445566778899AABBccddeeff,1606089600\r\n\n0102030405060708090a0b0c,5\n"))
	if err != nil || len(heard) != 2 || heard[0].Scheme != diagnosis.GAEN || heard[1].Scheme != diagnosis.Bluezone || heard[1].Seen != 5 {
		t.Fatalf("%v, %v", heard, err)
	}
	if !slices.Equal(ids, []string{"00112233445566778899AABBccddeeff", "0102030405060708090a0b0c"}) {
		t.Errorf("IDs as spelled: %q", ids)
	}
	for _, bad := range []string{"x", "0102030405060708090a0b0c", "0102030405060708090a0b0c,", "0102030405060708090a0b0c,-1", "0102030405060708090a0b0c, 5", "0102030405060708090a0b,5", "zz02030405060708090a0b0c,5"} {
		if _, _, err := ParseSightings(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(`[{"key":"00112233445566778899aabbccddeeff","start":2976480,"count":144}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, scheme := range diagnosis.Schemes {
			keys, err := ParseKeys(scheme, data)
			if err != nil {
				continue
			}
			again, err := ParseKeys(scheme, FormatKeys(keys))
			if err != nil || !slices.Equal(again, keys) {
				t.Fatalf("formatted and read again: %v", err)
			}
		}
	})
}

func FuzzParseSightings(f *testing.F) {
	f.Add([]byte("00112233445566778899aabbccddeeff,1606089600\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		heard, ids, err := ParseSightings(bytes.NewReader(data))
		if err == nil && len(heard) != len(ids) {
			t.Fatal("an ID is missing")
		}
		for _, s := range heard {
			again, _, err := ParseSightings(strings.NewReader(FormatSighting(s)))
			if err != nil || again[0] != s {
				t.Fatalf("formatted and read again: %v, %v", again, err)
			}
		}
	})
}
