package console

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"bluekey/keystore/desk"
)

// thousand fills a province of a thousand communes.
func (s *site) thousand(b *browser) {
	s.t.Helper()
	var units, figures strings.Builder
	units.WriteString("code,parent,level,name,closed\n31,,province,Thành phố Hải Phòng,\n")
	figures.WriteString(strings.Join(desk.FigureHeader, ",") + "\n")
	for i := range 1000 {
		fmt.Fprintf(&units, "x%d,31,commune,Phường số %d,\n", i, i)
		for week := range 4 {
			fmt.Fprintf(&figures, "x%d,installs,subscribers,%d,2026-10-%02d,báo cáo tuần,\n", i, 100+i*week, 1+7*week)
		}
		fmt.Fprintf(&figures, "x%d,smartphones,smartphones,%d,2026-10-01,báo cáo,\nx%d,people,people,%d,2026-10-01,báo cáo,\n", i, 5000+i, i, 9000+i)
	}
	if code, page := b.upload("/adoption/units", units.String()); code != 200 {
		s.t.Fatal(code, page)
	}
	if code, page := b.upload("/adoption/import", figures.String()); code != 200 {
		s.t.Fatal(code, page)
	}
	if code, page := b.post("/adoption/goal", "target", "50.000.000", "of", "users", "people", "97.580.000", "until", "2026-12-31", "source", "Bộ Y tế"); code != 303 {
		s.t.Fatal(code, page)
	}
}

// BenchmarkPages measures each page with 1,000 units, as the median server time.
//
//	go test -run xxx -bench Pages -benchtime 40x ./server/console
func BenchmarkPages(b *testing.B) {
	s := newSite(b)
	admin := s.admin()
	s.thousand(admin)
	for _, path := range []string{"/", "/codes", "/adoption", "/adoption/unit/31", "/adoption/unit/x7", "/adoption/public", "/adoption/units", "/teams", "/outreach", "/notices", "/journal", "/status", "/accounts", "/adoption/report.csv"} {
		b.Run(strings.ReplaceAll(strings.Trim(path, "/"), "/", "-"), func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if code, _ := admin.get(path); code != 200 {
					b.Fatal(code)
				}
				took = append(took, time.Since(began))
			}
			b.ReportMetric(float64(median(took).Microseconds())/1000, "median-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
	// As long as whoever comes first waits: the others are given the same page.
	for name, made := range map[string]func() ([]byte, error){"public": func() ([]byte, error) { return s.home(vietnamese) }, "adoption.json": s.adoptionJSON} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := made(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func median(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)/2]
}
