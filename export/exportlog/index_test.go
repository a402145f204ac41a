package exportlog

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func index(t testing.TB) Index {
	all := texts(t, window(), emptyWindow())
	return Index{Origin: "bluekey.example/hai-phong", Region: "VN-HP", Size: 9,
		Exports: []IndexEntry{{3, string(all[0])}, {8, string(all[1])}}}
}

func TestIndex(t *testing.T) {
	for _, x := range []Index{index(t), {Origin: "o", Region: "r", Exports: []IndexEntry{}}} {
		text, err := x.Format()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseIndex(text)
		if err != nil || !reflect.DeepEqual(back, x) {
			t.Errorf("came back as %+v, %v", back, err)
		}
	}
	for what, change := range map[string]func(x *Index){
		"no origin":             func(x *Index) { x.Origin = "" },
		"another origin":        func(x *Index) { x.Origin += "x" },
		"another region":        func(x *Index) { x.Region += "x" },
		"entry beyond the log":  func(x *Index) { x.Size = 8 },
		"entries out of order":  func(x *Index) { x.Exports[0].Entry = 8 },
		"not a manifest":        func(x *Index) { x.Exports[0].Manifest = string(texts(t, Incident{Text: "x"})[0]) },
		"not an entry":          func(x *Index) { x.Exports[0].Manifest += "\n" },
		"no region, no exports": func(x *Index) { *x = Index{Origin: "o"} },
	} {
		x := index(t)
		change(&x)
		if _, err := x.Format(); err == nil {
			t.Errorf("%s: formatted", what)
		}
		text, err := x.render()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseIndex(text); err == nil {
			t.Errorf("%s: parsed", what)
		}
	}
}

func TestIndexHasOneSpelling(t *testing.T) {
	text, err := index(t).Format()
	if err != nil {
		t.Fatal(err)
	}
	good := string(text)
	for what, bad := range map[string]string{
		"no last LF":       good[:len(good)-1],
		"leading space":    " " + good,
		"unknown member":   strings.Replace(good, `"size"`, `"more": 1, "size"`, 1),
		"repeated member":  strings.Replace(good, `"size": 9`, `"size": 1, "size": 9`, 1),
		"another case":     strings.Replace(good, `"size"`, `"Size"`, 1),
		"escaped letter":   strings.Replace(good, "VN-HP\"", `\u0056N-HP"`, 1),
		"size as 9e0":      strings.Replace(good, `"size": 9`, `"size": 9e0`, 1),
		"null exports":     `{"origin":"o","region":"r","size":0,"exports":null}`,
		"two values":       good + "{}\n",
		"beyond the limit": good + strings.Repeat(" ", MaxIndex),
		"an array":         "[]\n",
		"empty":            "",
	} {
		if _, err := ParseIndex([]byte(bad)); err == nil || bad == good {
			t.Errorf("%s: parsed", what)
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	text, err := index(f).Format()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := ParseIndex(data)
		if err != nil {
			return
		}
		if again, err := x.Format(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q is a second spelling of %q, %v", data, again, err)
		}
	})
}

func TestLookup(t *testing.T) {
	export := window().Files[0].Path
	for path, want := range map[string]Row{
		"checkpoint":                  {ClassCheckpoint, typeText, cacheCheckpoint},
		"tile/0/000.p/5":              {ClassTile, typeBytes, cacheForever},
		"tile/entries/001":            {ClassTile, typeBytes, cacheForever},
		"policy":                      {ClassPolicy, typeText, cacheMinutes},
		"policy-ed25519":              {ClassPolicy, typeText, cacheMinutes},
		"index.json":                  {ClassIndex, typeJSON, cacheMinutes},
		export:                        {ClassExport, "application/zip", cacheExport},
		"keyring.tlog-proof":          {ClassProof, typeText, cacheMinutes},
		"feeds.json.tlog-proof":       {ClassProof, typeText, cacheMinutes},
		"notice/vi/x.html.tlog-proof": {ClassProof, typeText, cacheMinutes},
		export + ProofSuffix:          {ClassProof, typeText, cacheMinutes},
		window().Files[2].Path:        {ClassExport, typeBytes, cacheExport},
		"gaen/index.txt":              {ClassIndex, typeText, cacheMinutes},
		"gaen/keys/452-v1.pem":        {ClassSigner, "application/x-pem-file", cacheMinutes},
		"keyring":                     {ClassSmall, typeBytes, cacheMinutes},
		"feeds.json":                  {ClassSmall, typeJSON, cacheMinutes},
		"notice/vi/index.html":        {ClassSmall, "text/html; charset=utf-8", cacheMinutes},
	} {
		if row, ok := Lookup(path); !ok || row != want {
			t.Errorf("%s: %+v, %v", path, row, ok)
		}
	}
	for _, path := range []string{
		"", "/checkpoint", "checkpoint/", "Checkpoint", "seed", "store/MANIFEST", "tile", "tile/0", "exports", "exports/",
		"keyring.tlog-proof.tlog-proof", "policy.tlog-proof", "index.json.tlog-proof", "checkpoint.tlog-proof",
		"gaen/keys/452-v1.pem.tlog-proof", "notice/x.exe.tlog-proof", "notice/.tlog-proof", ".tlog-proof",
		export + ".gz", export + ProofSuffix + ProofSuffix, "exports/../seed", "exports/0-1-0123456789ABCDEF.zip",
		"exports/1-1-0123456789abcdef.zip", "exports/0-01-0123456789abcdef.zip", "exports/0-1-0123456789abcdef.exe",
		"exports/0-1-0123456789abcde.zip", "exports/0-1-0123456789abcdef.", "exports/a/0-1-0123456789abcdef.zip",
		"gaen/keys/.pem", "gaen/keys/452.pem", "gaen/keys/../../seed-1.pem", "gaen/keys/a/b-1.pem", "gaen/index.txt/",
		"notice", "notice/", "notice/x", "notice/x.exe", "notice/../x.html", "notice/.x.html", "notice//x.html",
		"notice/x y.html", "notice/x%2e.html", "notice/\u00e1.html", "notice/" + strings.Repeat("a/", 100) + "x.html",
	} {
		if row, ok := Lookup(path); ok {
			t.Errorf("%q is taken as %+v", path, row)
		}
	}
}

func FuzzParseExportPath(f *testing.F) {
	f.Add(window().Files[0].Path)
	f.Fuzz(func(t *testing.T, path string) {
		if p, err := ParseExportPath(path); err == nil && p.String() != path {
			t.Errorf("%q is a second spelling of %q", path, p)
		}
	})
}
