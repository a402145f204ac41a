package keystore

import (
	"bytes"
	"testing"

	"bluekey/keystore/diagnosis"
)

func TestCoarseMetadata(t *testing.T) {
	for onset := -diagnosis.DaysSinceOnset(14); onset <= 14; onset++ {
		k := at(diagnosis.GAEN, 1, 144, 144)
		k.Onset, k.Risk = onset, 8
		got := Coarse(k)
		want, risk := diagnosis.DaysSinceOnset(6), uint8(2)
		if onset >= -2 && onset <= 3 {
			want, risk = 0, 5
		}
		if got.Onset != want || got.Risk != risk {
			t.Errorf("onset %d becomes %d with risk %d, want %d with %d", onset, got.Onset, got.Risk, want, risk)
		}
	}
	for from, to := range map[diagnosis.ReportType]diagnosis.ReportType{
		diagnosis.ConfirmedTest: diagnosis.ConfirmedTest, diagnosis.ConfirmedClinical: diagnosis.ConfirmedTest,
		diagnosis.SelfReport: diagnosis.SelfReport,
	} {
		k := at(diagnosis.GAEN, 1, 144, 144)
		k.Report = from
		if got := Coarse(k).Report; got != to {
			t.Errorf("%v becomes %v, want %v", from, got, to)
		}
	}
}

func TestCoarseStart(t *testing.T) {
	const day = diagnosis.Interval(20000)
	for _, row := range []struct {
		name         string
		scheme       diagnosis.Scheme
		start, want  diagnosis.Interval // within the day
		count, wantN int
	}{
		{"a whole GAEN day", diagnosis.GAEN, 0, 0, 144, 144},
		{"a part of a GAEN day", diagnosis.GAEN, 30, 0, 20, 144},
		{"to the end of the day", diagnosis.GAEN, 100, 0, 44, 144},
		{"across midnight", diagnosis.GAEN, 100, 100, 45, 45},
		{"a whole Bluezone day", diagnosis.Bluezone, 0, 0, 96, 96},
		{"from interval 1", diagnosis.Bluezone, 1, 16, 95, 80},
		{"from interval 16", diagnosis.Bluezone, 16, 16, 80, 80},
		{"from interval 79", diagnosis.Bluezone, 79, 80, 17, 16},
		{"from interval 80", diagnosis.Bluezone, 80, 80, 16, 16},
		{"from interval 81: nothing would be left", diagnosis.Bluezone, 81, 81, 15, 15},
		{"from interval 95", diagnosis.Bluezone, 95, 95, 1, 1},
	} {
		k := at(row.scheme, 7, day*row.scheme.PerDay()+row.start, row.count)
		if err := k.Check(); err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		got := Coarse(k)
		if got.Start-day*row.scheme.PerDay() != row.want || int(got.Count) != row.wantN {
			t.Errorf("%s: %d+%d, want %d+%d", row.name, got.Start-day*row.scheme.PerDay(), got.Count, row.want, row.wantN)
		}
		if err := got.Check(); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
		if Coarse(got) != got {
			t.Errorf("%s: not the same when applied twice", row.name)
		}
		// A Bluezone key still gives the IDs it gave before, of the intervals it kept.
		if row.scheme == diagnosis.Bluezone && !bytes.HasSuffix(k.Expand(nil), got.Expand(nil)) {
			t.Errorf("%s: other IDs than before", row.name)
		}
	}
}
