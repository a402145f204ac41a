package diagnosis

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

func readVectors(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile("../../testdata/vectors/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGAENVectors(t *testing.T) {
	var v struct {
		TEK      string   `json:"tek"`
		Start    uint32   `json:"rolling_start_interval_number"`
		Period   int      `json:"rolling_period"`
		RPIKey   string   `json:"rpi_key"`
		AEMKey   string   `json:"aem_key"`
		Metadata string   `json:"metadata"`
		RPIs     []string `json:"rpis"`
		AEMs     []string `json:"aems"`
	}
	readVectors(t, "gaen/rpi.json", &v)
	if len(v.RPIs) != 144 || len(v.AEMs) != 144 {
		t.Fatalf("vectors hold %d RPIs and %d AEMs", len(v.RPIs), len(v.AEMs))
	}
	tek := TEK(unhex(t, v.TEK))
	rpik, aemk := RPIKey(tek), AEMKey(tek)
	if hex.EncodeToString(rpik[:]) != v.RPIKey || hex.EncodeToString(aemk[:]) != v.AEMKey {
		t.Fatalf("RPIK %x AEMK %x", rpik, aemk)
	}
	k, err := New(GAEN, tek[:], Interval(v.Start), v.Period)
	if err != nil {
		t.Fatal(err)
	}
	ids := k.Expand(nil)
	for i := range 144 {
		rpi := RPI(rpik, k.Start+Interval(i))
		if hex.EncodeToString(rpi[:]) != v.RPIs[i] || !bytes.Equal(ids[16*i:16*i+16], rpi[:]) {
			t.Fatalf("RPI %d = %x, want %s", i, rpi, v.RPIs[i])
		}
		if aem := AEM(aemk, rpi, unhex(t, v.Metadata)); hex.EncodeToString(aem) != v.AEMs[i] {
			t.Fatalf("AEM %d = %x, want %s", i, aem, v.AEMs[i])
		}
	}
}

func TestBluezoneVectors(t *testing.T) {
	type ids struct {
		SHA256  string   `json:"ids_sha256"`
		FirstID string   `json:"first_id"`
		LastID  string   `json:"last_id"`
		IDs     []string `json:"ids"`
	}
	var v struct {
		Chains []struct {
			Name string
			Base string `json:"base_key"`
			Max  int
			Days []struct {
				ids
				TimeStart  int64  `json:"time_start_s"`
				DailyKey   string `json:"daily_key"`
				Seed       string `json:"seed"`
				LastSubKey string `json:"last_subkey"`
			}
		}
		Safe []struct {
			ids
			DayS  int64 `json:"day_s"`
			Start int
			Count int
			Seed  string
		} `json:"safe_seeds"`
	}
	readVectors(t, "bluezone/vectors.json", &v)

	check := func(name string, k *Key, want ids) {
		t.Helper()
		flat := k.Expand(nil)
		var lines []string
		for i := 0; i < len(flat); i += 12 {
			lines = append(lines, strings.ToUpper(hex.EncodeToString(flat[i:i+12])))
		}
		if lines[0] != want.FirstID || lines[len(lines)-1] != want.LastID {
			t.Fatalf("%s: IDs %s..%s, want %s..%s", name, lines[0], lines[len(lines)-1], want.FirstID, want.LastID)
		}
		for i, id := range want.IDs {
			if lines[i] != id {
				t.Fatalf("%s: ID %d = %s, want %s", name, i, lines[i], id)
			}
		}
		if got := fmt.Sprintf("%X", sha256.Sum256(flat)); got != want.SHA256 {
			t.Fatalf("%s: digest of the IDs %s, want %s", name, got, want.SHA256)
		}
	}
	checked := 0
	for _, c := range v.Chains {
		if c.Max != 96 {
			continue // other window counts exist in the app's code and nowhere on the air
		}
		daily := [32]byte(unhex(t, c.Base))
		for i, d := range c.Days {
			if i > 0 {
				daily = NextDailyKey(daily)
			}
			if strings.ToUpper(hex.EncodeToString(daily[:])) != d.DailyKey {
				t.Fatalf("%s day %d: daily key %X", c.Name, i, daily)
			}
			seed := DaySeed(daily)
			if strings.ToUpper(hex.EncodeToString(seed[:])) != d.Seed {
				t.Fatalf("%s day %d: seed %X, want %s", c.Name, i, seed, d.Seed)
			}
			k, err := New(Bluezone, seed[:], Interval(d.TimeStart/900), 96)
			if err != nil {
				t.Fatal(err)
			}
			check(fmt.Sprintf("%s day %d", c.Name, i), &k, d.ids)
			last := seed
			for range 95 {
				last = NextSubKey(last)
			}
			if strings.ToUpper(hex.EncodeToString(last[:])) != d.LastSubKey {
				t.Fatalf("%s day %d: last sub-key %X", c.Name, i, last)
			}
			checked++
		}
	}
	for _, s := range v.Safe {
		k, err := New(Bluezone, unhex(t, s.Seed), Interval(s.DayS/900)+Interval(s.Start), s.Count)
		if err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprintf("safe seed from %d", s.Start), &k, s.ids)
		checked++
	}
	if checked < 10 {
		t.Fatalf("only %d days checked", checked)
	}
}
