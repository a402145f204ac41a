package console

import (
	"crypto/sha256"
	"embed"
	"fmt"
	"path"
)

//go:embed assets
var assetFiles embed.FS

// asset is a file that pages load.
type asset struct {
	kind    string
	data    []byte
	version string
}

// assets are all of them by name; nothing else under assets/ is served.
var assets = readAssets(map[string]string{
	"console.css":            "text/css; charset=utf-8",
	"passkey.js":             "text/javascript; charset=utf-8",
	"print.js":               "text/javascript; charset=utf-8",
	"NotoSans-Regular.woff2": "font/woff2",
	"NotoSans-Bold.woff2":    "font/woff2",
})

func readAssets(kinds map[string]string) map[string]asset {
	made := map[string]asset{}
	for name, kind := range kinds {
		data, err := assetFiles.ReadFile(path.Join("assets", name))
		if err != nil {
			panic(err) // it was there when this was compiled
		}
		made[name] = asset{kind, data, fmt.Sprintf("%x", sha256.Sum256(data))[:12]}
	}
	return made
}

func (c *Console) asset(v *visit) error {
	a, known := assets[v.r.PathValue("name")]
	if !known {
		return notFound
	}
	v.w.Header().Set("Content-Type", a.kind)
	if v.r.URL.Query().Get("v") == a.version {
		v.w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	_, _ = v.w.Write(a.data)
	return nil
}
