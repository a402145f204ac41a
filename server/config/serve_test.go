package config

import (
	"cmp"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestSettle: what cannot be together is refused in words, and changes nothing on the disk.
func TestSettle(t *testing.T) {
	minus := -time.Second
	for _, row := range []struct {
		name  string
		serve Serve
		says  string // "" is accepted
	}{
		{"defaults", Serve{}, ""},
		{"TLS at both", Serve{TLSCert: "c", TLSKey: "k", ConsoleTLSCert: "c", ConsoleTLSKey: "k", ConsoleAt: "https://console.example.vn"}, ""},
		{"half a certificate", Serve{TLSCert: "c"}, "tls_cert and tls_key"},
		{"half a certificate of the console", Serve{ConsoleTLSKey: "k"}, "console_tls_cert and console_tls_key"},
		{"a console without its name", Serve{ConsoleTLSCert: "c", ConsoleTLSKey: "k"}, "console_url"},
		{"a console in the clear", Serve{ConsoleTLSCert: "c", ConsoleTLSKey: "k", ConsoleAt: "http://localhost:1"}, "console_url"},
		{"a rehearsal for everybody", Serve{Rehearsal: true, Listen: ":8080"}, "loopback only"},
		{"a rehearsal's console for everybody", Serve{Rehearsal: true, Console: "0.0.0.0:8082"}, "loopback only"},
		{"no name for a public address", Serve{Listen: "192.0.2.1:80"}, "chosen --origin"},
		{"a public address", Serve{Listen: "192.0.2.1:80", Origin: "keys.example.vn"}, ""},
		{"root keys in the clear", Serve{Listen: "192.0.2.1:80", Origin: "keys.example.vn", Doors: []string{"bluezone"}}, "nothing may read along"},
		{"replies before requests", Serve{ReplyAfter: &minus}, "reply_after"},
		{"a long path", Serve{Data: "/" + strings.Repeat("x", 100)}, "too long"},
	} {
		c := row.serve
		for p, preset := range map[*string]string{&c.Data: "missing", &c.Listen: "127.0.0.1:8080", &c.Ops: "localhost:8081"} {
			if *p == "" {
				*p = preset
			}
		}
		err := c.Settle(slog.New(slog.DiscardHandler))
		if row.says == "" && err != nil || row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says)) {
			t.Errorf("%s: %v", row.name, err)
		}
		if err == nil && (*c.Period != 4*time.Hour || *c.Hold != *c.Period || *c.Retention != 14*24*time.Hour || *c.MinKeys != 150 || *c.ReplyAfter != 500*time.Millisecond) {
			t.Errorf("%s: not the defaults that README gives", row.name)
		}
	}
}

// TestHoldFollowsPeriod: one period, unless it was chosen.
func TestHoldFollowsPeriod(t *testing.T) {
	hour, minute := time.Hour, time.Minute
	c := Serve{Data: "x", Listen: "127.0.0.1:0", Ops: "127.0.0.1:0", Period: &hour}
	if err := c.Settle(slog.New(slog.DiscardHandler)); err != nil || *c.Hold != time.Hour {
		t.Errorf("hold %v, %v", *c.Hold, err)
	}
	c.Hold = &minute
	if err := c.Settle(slog.New(slog.DiscardHandler)); err != nil || *c.Hold != time.Minute {
		t.Errorf("hold %v, %v", *c.Hold, err)
	}
}

// TestWarnings: a service for the public hears what it does without, one that does well
// hears nothing.
func TestWarnings(t *testing.T) {
	for _, row := range []struct {
		conf Serve
		want string
	}{
		{Serve{Origin: "keys.example.org", Witnesses: "witnesses", Quorum: 1}, ""},
		{Serve{Origin: "keys.example.org"}, "without a quorum"},
		{Serve{Origin: "keys.example.org", Witnesses: "witnesses"}, "without a quorum"},
		{Serve{Ops: "0.0.0.0:8081"}, "operations address"},
		{Serve{Console: "0.0.0.0:8082"}, "without TLS"},
	} {
		c := row.conf
		c.Data, c.Metadata = t.TempDir(), "coarse"
		c.Listen, c.Ops = "127.0.0.1:8080", cmp.Or(c.Ops, "127.0.0.1:8081")
		var said strings.Builder
		if err := c.Settle(slog.New(slog.NewTextHandler(&said, nil))); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(said.String(), row.want) || row.want == "" && said.Len() > 0 {
			t.Errorf("%+v: %s, want %q", row.conf, said.String(), row.want)
		}
	}
}
