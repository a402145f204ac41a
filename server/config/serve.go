package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Serve is what an appliance can be told. The tags are read by the command line: the help
// texts are the manual, and README groups them by need. After Settle no pointer is nil.
type Serve struct {
	Data              string         `default:"./bluekey-data" placeholder:"DIR" help:"Data folder (${default}); made if missing."`
	Listen            string         `default:"127.0.0.1:8080" placeholder:"ADDR" help:"Public address: phones, exports (${default}). Port 0 takes a free one."`
	Ops               string         `default:"127.0.0.1:8081" placeholder:"ADDR" help:"Operations address: /livez /readyz /metrics (${default})."`
	TLSCert           string         `name:"tls-cert" placeholder:"FILE" help:"Certificate with which the public address ends TLS; read again when it changes."`
	TLSKey            string         `name:"tls-key" placeholder:"FILE" help:"Its key."`
	Doors             []string       `placeholder:"gaen,bluezone" help:"Protocols of other apps to take uploads by. A door sees code and keys in one request."`
	GAENAuthorities   string         `name:"gaen-authorities" placeholder:"FILE" help:"YAML: whose verification certificates the GAEN door takes."`
	BluezoneSettings  string         `name:"bluezone-settings" placeholder:"FILE" help:"YAML: what apps at the Bluezone door are told."`
	Origin            string         `placeholder:"NAME" help:"Name of this service in its log, as keys.example.gov.vn/hai-phong. Fixed at the first start; needed for a public address."`
	Region            string         `placeholder:"CODE" help:"Region in exports (VN-HP). Fixed at the first start."`
	Period            *time.Duration `placeholder:"4h" help:"Length of a window: how often exports come (4h)."`
	MinKeys           *int           `placeholder:"150" help:"Fewer due keys of a scheme than this wait for others, then are padded (150)."`
	Hold              *time.Duration `placeholder:"4h" help:"How long they wait (one period)."`
	Retention         *time.Duration `placeholder:"336h" help:"How long an export stays public (336h)."`
	Metadata          string         `default:"coarse" enum:"coarse,exact" placeholder:"coarse|exact" help:"Exact dates and risks let outsiders group the keys of one case (${default})."`
	KeyID             string         `default:"452" placeholder:"MCC" help:"Key id in export.sig: the mobile country code (${default})."`
	KeyVer            string         `name:"key-version" default:"v1" placeholder:"V" help:"Key version in export.sig (${default})."`
	Signer            []string       `placeholder:"ID-VERSION@TIME" help:"A further signer of export.sig from a time on (RFC 3339). Up to nine."`
	Profiles          string         `placeholder:"SCHEME=FILES,…" help:"Files of a window, as gaen=archive+keys+ids,bluezone=ids-only (gaen=archive+keys,bluezone=keys)."`
	IDSetBits         int            `name:"id-set-bits" default:"28" placeholder:"F" help:"One answer of an ID set in 2^F is a false yes; each bit more costs one a published ID (${default})."`
	MatchTier         string         `placeholder:"TIER" help:"Kernels that make ID sets: purego, nishani or avx512 (the fastest that this machine has)."`
	PublishTo         string         `placeholder:"s3://…" help:"A bucket that says what the public tree says, for a CDN to read: s3://bucket[/prefix][?endpoint=https://host]. Keys come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION."`
	Console           string         `name:"console-listen" default:"127.0.0.1:8082" placeholder:"ADDR" help:"Address of the staff console (${default}); empty: there is none."`
	ConsoleAt         string         `name:"console-url" placeholder:"URL" help:"Where staff reach the console, https unless on this machine."`
	ConsoleTLSCert    string         `name:"console-tls-cert" placeholder:"FILE" help:"Certificate with which the console ends TLS; read again when it changes. Goes with --console-url."`
	ConsoleTLSKey     string         `name:"console-tls-key" placeholder:"FILE" help:"Its key."`
	Install           string         `name:"install-url" placeholder:"URL" help:"Where people get the app: the QR of posters."`
	PublicAt          string         `name:"public-url" placeholder:"URL" help:"Where anybody finds exports and the public page."`
	Witnesses         string         `placeholder:"FILE" help:"Witnesses to ask for cosignatures, as 'bluekey witness' prints them: lines witness NAME VKEY URL."`
	Quorum            int            `default:"0" placeholder:"N" help:"How many of them a reader should demand (${default})."`
	Outside           string         `placeholder:"TREE" help:"A mirror of this tree outside the VM: a restored data folder catches up with it instead of forking the log."`
	Predecessor       string         `placeholder:"TREE" help:"Start as the successor of another log: the folder or URL of its tree. Decided at the first start."`
	PredecessorPolicy string         `placeholder:"FILE" help:"Pinned policy of that log."`
	ReplyAfter        *time.Duration `placeholder:"500ms" help:"When replies to phones leave, so that their time says nothing (500ms)."`
	CodeCap           int            `default:"1000" placeholder:"N" help:"Codes that one officer may issue a day (${default})."`
	Rehearsal         bool           `help:"Make a data folder for trying things: short periods, no crowd, loopback only, marked so for ever."`
}

// Settle fills in what depends on other options, refuses what cannot be together, and warns
// of what is unusual.
func (c *Serve) Settle(log *slog.Logger) error {
	period, retention, minKeys, replyAfter := 4*time.Hour, 14*24*time.Hour, 150, 500*time.Millisecond
	if c.Rehearsal {
		period, retention, minKeys, replyAfter = 2*time.Second, time.Hour, 1, 50*time.Millisecond
	}
	or(&c.ReplyAfter, replyAfter)
	or(&c.Period, period)
	or(&c.Hold, *c.Period)
	or(&c.Retention, retention)
	or(&c.MinKeys, minKeys)
	if *c.ReplyAfter < 0 || *c.ReplyAfter > 10*time.Second {
		return fmt.Errorf("reply_after %v: want 0 to 10s", *c.ReplyAfter)
	}
	if c.Rehearsal && !(Loopback(c.Listen) && Loopback(c.Ops) && (c.Console == "" || Loopback(c.Console))) {
		return fmt.Errorf("listen %s, ops %s, console %s: a rehearsal listens on loopback only", c.Listen, c.Ops, c.Console)
	}
	if len(Socket(c.Data)) > maxSocket {
		return fmt.Errorf("data %s: the path is too long for a socket in it: choose one of at most %d bytes", c.Data, maxSocket-len(Socket("x"))+1)
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("give tls_cert and tls_key together, or neither")
	}
	if (c.ConsoleTLSCert == "") != (c.ConsoleTLSKey == "") {
		return errors.New("give console_tls_cert and console_tls_key together, or neither")
	}
	if c.ConsoleTLSCert != "" && !strings.HasPrefix(c.ConsoleAt, "https://") {
		return errors.New("console_tls_cert: say under which name of the certificate staff reach the console, as console_url: https://…")
	}
	if slices.Contains(c.Doors, "bluezone") && c.TLSCert == "" && !Loopback(c.Listen) {
		return fmt.Errorf("doors: bluezone: an app hands over its root key there, so nothing may read along: end TLS here (tls_cert, tls_key) or listen on loopback, not on %s", c.Listen)
	}
	if c.Origin == "" && !Loopback(c.Listen) {
		if _, err := os.Stat(c.Data); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("listen %s: a public address needs a chosen --origin, the name under which this service signs", c.Listen)
		}
	}
	if !c.Rehearsal {
		c.warn(log)
	}
	return nil
}

// warn says what is allowed, but hardly meant.
func (c *Serve) warn(log *slog.Logger) {
	if *c.ReplyAfter < 100*time.Millisecond {
		log.Warn("replies this early let their time tell real requests from cover", "reply_after", *c.ReplyAfter)
	}
	if *c.Period < time.Hour {
		log.Warn("a period this short publishes small groups of keys: for trials only", "period", *c.Period)
	}
	if *c.Retention < 14*24*time.Hour {
		log.Warn("a phone that was off for longer than the retention misses exports", "retention", *c.Retention)
	}
	if *c.MinKeys < 50 {
		log.Warn("with so few keys to a window, a case may be alone in its export", "min_keys", *c.MinKeys)
	}
	if c.Origin != "" && (c.Witnesses == "" || c.Quorum == 0) {
		log.Warn("without a quorum of witnesses nothing shows phones that this service gives all of them the same keys (SECURITY.md)", "witnesses", c.Witnesses, "quorum", c.Quorum)
	}
	if c.Console != "" && !Loopback(c.Console) && c.ConsoleTLSCert == "" {
		log.Warn("the console listens to other machines without TLS: whatever ends it (console_url) should be the only one that can reach it", "console_listen", c.Console)
	}
	if !Loopback(c.Ops) {
		log.Warn("the operations address can be reached from outside", "ops", c.Ops)
	}
}

func or[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

// Socket is where local administration is, in a data folder.
func Socket(data string) string { return filepath.Join(data, "admin.sock") }

// maxSocket leaves room for the temporary name under which the socket is made, within the
// 108 bytes that Linux gives a unix address.
const maxSocket = 90

// Loopback reports whether an address to listen at is on this machine only.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}
