package mirror

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bluekey/export/tree"
)

// nginxServer is what README tells those who serve a mirror with nginx to write, but for
// the address and the folder: two %s.
const nginxServer = `
map $uri $tree_cache {
    default                          "public, max-age=300, stale-if-error=86400";
    /checkpoint                      "public, max-age=5, stale-if-error=86400";
    ~^/tile/                         "public, max-age=31536000, immutable";
    ~^/exports/.*\.(zip|keys|ids)$   "public, max-age=86400, immutable";
}
server {
    listen %s;
    root %s;
    default_type application/octet-stream;
    types {
        text/plain             txt tlog-proof;
        text/html              html;
        text/css               css;
        application/json       json;
        application/zip        zip;
        application/x-pem-file pem;
        application/pdf        pdf;
        image/svg+xml          svg;
        image/png              png;
        image/webp             webp;
    }
    charset utf-8;
    charset_types text/plain text/html text/css;
    add_header Cache-Control $tree_cache;
    add_header Access-Control-Allow-Origin *;
    add_header X-Content-Type-Options nosniff;
    location = /checkpoint     { default_type text/plain; }
    location = /policy         { default_type text/plain; }
    location = /policy-ed25519 { default_type text/plain; }
    location /exports/         { try_files $uri =410; }
    location ~ \.new$          { return 404; }
}
`

// A mirrored folder behind nginx is a tree with the right content types and cache classes,
// and clean.
func TestNginxServesAMirror(t *testing.T) {
	if path := os.Getenv("PATH"); !strings.Contains(path, "/usr/sbin") {
		t.Setenv("PATH", path+":/usr/sbin")
	}
	path := program(t, "nginx", "nginx is missing; Debian has it as nginx-light")
	s, now := history(t, 7)
	dir := t.TempDir()
	pass(t, s.copy(), dir, s.pinned(), now)
	if err := os.WriteFile(filepath.Join(dir, "checkpoint.new"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	work, addr := t.TempDir(), freePort(t)
	temp := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, work, kind)
	}
	conf := fmt.Sprintf("daemon off; master_process off; pid %s/pid; error_log stderr;\nevents {}\nhttp {\naccess_log off;\n%s%s}\n", work, temp, fmt.Sprintf(nginxServer, addr, dir))
	if err := os.WriteFile(filepath.Join(work, "nginx.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, addr, exec.Command(path, "-p", work, "-e", "stderr", "-c", filepath.Join(work, "nginx.conf")))

	url := "http://" + addr
	source, err := tree.NewSource(url)
	if err != nil {
		t.Fatal(err)
	}
	found(t, auditAt(t, source, s.pinned(), nil, now), "")
	if ok, lines := verify(t, VerifyOptions{Policy: s.pinned()}, url); !ok {
		t.Error(lines)
	}
	for path := range readFolder(t, dir).files {
		if path != "checkpoint.new" {
			served(t, url, path)
		}
	}
	for path, want := range map[string]int{"/checkpoint.new": 404, "/nothing": 404, "/exports/1-2-0011223344556677.zip": 410, "/exports/": 410} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, resp.Status, want)
		}
	}
}
