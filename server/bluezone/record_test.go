package bluezone

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
)

// vectors are what the app's own classes computed.
type vectors struct {
	Chains []struct {
		Name    string
		BaseKey string `json:"base_key"`
		BaseDay int64  `json:"base_day_s"`
		Max     int
		Days    []struct {
			TimeStart int64  `json:"time_start_s"`
			DailyKey  string `json:"daily_key"`
			Seed      string
		}
	}
}

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	data, err := os.ReadFile("../../testdata/vectors/bluezone/vectors.json")
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func infoF(base string, first int64, daily string, start int64) string {
	return fmt.Sprintf(`{"base_id":"%s","time":%d,"daily_key":"%s","time_start":%d}`, base, first, daily, start)
}

func TestSeedsAreTheAppsOwn(t *testing.T) {
	for _, c := range readVectors(t).Chains {
		if c.Max != 96 {
			continue
		}
		for from := range c.Days {
			now := time.Unix(c.Days[len(c.Days)-1].TimeStart, 0).Add(5 * time.Hour)
			var r record
			if err := r.parse([]byte(infoF(c.BaseKey, c.BaseDay, c.Days[from].DailyKey, c.Days[from].TimeStart)), now); err != nil {
				t.Fatalf("%s, from day %d: %v", c.Name, from, err)
			}
			seeds := r.seeds(now)
			if len(seeds) != len(c.Days)-from {
				t.Fatalf("%s, from day %d: %d seeds", c.Name, from, len(seeds))
			}
			for i, k := range seeds {
				day := c.Days[from+i]
				if err := k.Check(); err != nil {
					t.Error(err)
				}
				if got := strings.ToUpper(hex.EncodeToString(k.Bytes())); got != day.Seed || k.Scheme.Time(k.Start).Unix() != day.TimeStart {
					t.Errorf("%s, day %d: another seed or day", c.Name, from+i)
				}
			}
		}
	}
}

// The same phone makes the same claim, whatever day it is.
func TestClaim(t *testing.T) {
	c := readVectors(t).Chains[0]
	now := time.Unix(c.Days[14].TimeStart, 0)
	claims := map[[32]byte]bool{}
	for _, day := range c.Days {
		var r record
		if err := r.parse([]byte(infoF(c.BaseKey, c.BaseDay, day.DailyKey, day.TimeStart)), now); err != nil {
			t.Fatal(err)
		}
		claims[r.claim()] = true
	}
	if len(claims) != 1 {
		t.Errorf("%d claims", len(claims))
	}
}

func TestOldRecordGivesLastDaysOnly(t *testing.T) {
	c := readVectors(t).Chains[0]
	now := time.Unix(c.BaseDay, 0).Add(400*24*time.Hour + time.Hour)
	var r record
	if err := r.parse([]byte(infoF(c.BaseKey, c.BaseDay, c.BaseKey, c.BaseDay)), now); err != nil {
		t.Fatal(err)
	}
	seeds := r.seeds(now)
	if len(seeds) != 16 {
		t.Fatalf("%d seeds", len(seeds))
	}
	last := seeds[len(seeds)-1]
	if last.Scheme.Day(last.Start) != uint32(now.Unix()/daySeconds) {
		t.Error("the last seed is not today's")
	}
}

func TestRecordForms(t *testing.T) {
	c := readVectors(t).Chains[0]
	now := time.Unix(c.Days[14].TimeStart, 0).Add(time.Hour)
	base, daily, first, start := c.BaseKey, c.Days[2].DailyKey, c.BaseDay, c.Days[2].TimeStart
	android := infoF(base, first, daily, start)
	for _, row := range []struct {
		name, info string
		ok         bool
	}{
		{"as Android writes it", android, true},
		{"as iOS may write it", fmt.Sprintf(`{"time_start":%d.0,"daily_key":"%s","time":%d.0,"base_id":"%s"}`, start, daily, first, base), true},
		{"spaces and lower case", " {\n\t\"base_id\" : \"" + strings.ToLower(base) + "\",\r\n \"time\": " + fmt.Sprint(first) + ", \"daily_key\":\"" + daily + "\",\"time_start\":" + fmt.Sprint(start) + " } ", true},
		{"from a phone without a key", "", false},
		{"null", "null", false},
		{"cut", android[:len(android)-1], false},
		{"more behind it", android + "{}", false},
		{"an array", "[" + android + "]", false},
		{"a field missing", fmt.Sprintf(`{"base_id":"%s","time":%d,"daily_key":"%s"}`, base, first, daily), false},
		{"a field twice", fmt.Sprintf(`{"base_id":"%s","time":%d,"time":%d,"daily_key":"%s","time_start":%d}`, base, first, first, daily, start), false},
		{"a field instead", strings.Replace(android, "base_id", "BASE_ID", 1), false},
		{"a field more", strings.Replace(android, "}", `,"x":1}`, 1), false},
		{"an escape", strings.Replace(android, "base_id", `\u0062ase_id`, 1), false},
		{"62 digits", infoF(base[2:], first, daily, start), false},
		{"66 digits", infoF(base+"00", first, daily, start), false},
		{"no hex", infoF("G"+base[1:], first, daily, start), false},
		{"a key as a number", strings.Replace(android, `"`+base+`"`, "1", 1), false},
		{"a time as text", strings.Replace(android, fmt.Sprint(first), `"`+fmt.Sprint(first)+`"`, 1), false},
		{"a time with a zero before", strings.Replace(android, fmt.Sprint(first), "0"+fmt.Sprint(first), 1), false},
		{"half a second", strings.Replace(android, fmt.Sprint(first), fmt.Sprint(first)+".5", 1), false},
		{"a point only", strings.Replace(android, fmt.Sprint(first), fmt.Sprint(first)+".", 1), false},
		{"an exponent", strings.Replace(android, fmt.Sprint(first), "1e9", 1), false},
		{"a negative time", infoF(base, -86400, daily, start), false},
		{"a huge time", strings.Replace(android, fmt.Sprint(first), "99999999999999999999", 1), false},
		{"milliseconds", infoF(base, first*1000, daily, start*1000), false},
		{"no midnight", infoF(base, first+1, daily, start+1), false},
		{"before there was an app", infoF(base, 86400, base, 86400), false},
		{"from tomorrow", infoF(base, c.Days[14].TimeStart+86400, base, c.Days[14].TimeStart+86400), false},
		{"daily key before base key", infoF(daily, start, base, first), false},
		{"daily key of another day", infoF(base, first, daily, start+86400), false},
		{"daily key of another phone", infoF(base, first, strings.Repeat("AB", 32), start), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			var r record
			err := r.parse([]byte(row.info), now)
			if (err == nil) != row.ok {
				t.Fatalf("error %v", err)
			}
			if err != nil && strings.ContainsAny(err.Error(), "0123456789") {
				t.Errorf("the error repeats what was sent: %v", err)
			}
			r.wipe()
			if r != (record{}) {
				t.Error("keys are left")
			}
		})
	}
}

// FuzzRecord compares the reader with encoding/json.
func FuzzRecord(f *testing.F) {
	c := readVectors(f).Chains[0]
	f.Add([]byte(infoF(c.BaseKey, c.BaseDay, c.BaseKey, c.BaseDay)))
	f.Add([]byte(`{"time_start":1598227200.0, "base_id":"00"}`))
	f.Add([]byte(`{"time":1,"time":1,"time":1,"time":1}`))
	f.Fuzz(func(t *testing.T, info []byte) {
		before := slices.Clone(info)
		var r record
		ok := r.scan(info)
		if !slices.Equal(before, info) {
			t.Fatal("the input was changed")
		}
		if !ok {
			return
		}
		var other struct {
			Base  string  `json:"base_id"`
			Daily string  `json:"daily_key"`
			First float64 `json:"time"`
			Start float64 `json:"time_start"`
		}
		if err := json.Unmarshal(info, &other); err != nil {
			t.Fatalf("no JSON, and accepted: %v", err)
		}
		if !strings.EqualFold(other.Base, hex.EncodeToString(r.base[:])) || !strings.EqualFold(other.Daily, hex.EncodeToString(r.daily[:])) ||
			int64(other.First) != int64(r.first)*daySeconds || int64(other.Start) != int64(r.start)*daySeconds {
			t.Fatal("read in another way")
		}
	})
}

var sink []diagnosis.Key

func BenchmarkRecord(b *testing.B) {
	c := readVectors(b).Chains[0]
	info := []byte(infoF(c.BaseKey, c.BaseDay, c.BaseKey, c.BaseDay))
	now := time.Unix(c.BaseDay, 0).Add(6 * 365 * 24 * time.Hour)
	for b.Loop() {
		var r record
		if err := r.parse(info, now); err != nil {
			b.Fatal(err)
		}
		sink = r.seeds(now)
	}
}
