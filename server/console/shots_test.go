package console

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKeepPapers writes every PDF in both languages into the folder that BLUEKEY_SHOTS
// names, for a person to look at.
func TestKeepPapers(t *testing.T) {
	dir := os.Getenv("BLUEKEY_SHOTS")
	if dir == "" && os.Getenv("CI") != "true" {
		t.Skip("BLUEKEY_SHOTS names no folder")
	}
	if dir == "" {
		dir = t.TempDir()
	}
	s := newSite(t)
	b := s.admin()
	s.anDuong(b)
	for _, l := range []string{"vi", "en"} {
		b.post("/language", "lang", l, "back", "/")
		paths := []string{"/teams/tally.pdf", "/adoption/report.pdf"}
		for _, name := range posterNames {
			paths = append(paths, fmt.Sprintf("/outreach/%s.pdf?unit=312&lang=%s", name, l))
		}
		for _, path := range paths {
			res := b.do(httptest.NewRequest("GET", path, nil))
			name, _, _ := strings.Cut(filepath.Base(path), "?")
			f, err := os.Create(filepath.Join(dir, l+"-"+name))
			if err != nil {
				t.Fatal(err)
			}
			if n, err := f.ReadFrom(res.Body); err != nil || res.StatusCode != 200 || n < 1000 {
				t.Errorf("%s: status %d, %d bytes, %v", path, res.StatusCode, n, err)
			}
			f.Close()
		}
	}
}
