package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
	"bluekey/server/config"
	"bluekey/server/drill"
	"bluekey/server/phone"
	"bluekey/signing/permit"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bluekey": main})
}

// TestScripts runs the stories in testdata/script against the real binary. Their own
// commands:
//
//	appliance start [FLAG...]   bluekey serve --rehearsal in the folder data, until it is
//	                            ready; sets $PUBLIC and $OPS
//	appliance stop|kill         end it with SIGTERM, and well; or with SIGKILL
//	readvar NAME                sets $NAME to the last command's standard output
//	[!] await REGEXP PROG...    runs a program until its standard output matches (or not)
//	exits CODE PROG...          runs a program and checks its exit code
//	[!] leaks KEYS.json         whether the last standard output holds a key of the file
//	edit FILE OLD NEW           replaces the first OLD of a file
//	flip FILES OFFSET           flips a bit of the first of the files that match
//
// $PHONE_JS is the JavaScript client, and the condition phone-js whether it can run: its
// packages are installed (npm ci). In CI it must.
func TestScripts(t *testing.T) {
	phoneJS, err := filepath.Abs("testdata/phone-js")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			a := &runningAppliance{}
			env.Values[applianceKey{}] = a
			env.Setenv("BLUEKEY_CONSOLE_LISTEN", "127.0.0.1:0") // many at once
			env.Defer(func() { a.end(syscall.SIGKILL) })
			env.Setenv("PHONE_JS", phoneJS)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "phone-js" {
				return false, fmt.Errorf("unknown condition %s", cond)
			}
			_, err := os.Stat(filepath.Join(phoneJS, "node_modules"))
			return err == nil || os.Getenv("CI") == "true", nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"appliance": scriptAppliance,
			"readvar": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
			},
			"await": scriptAwait,
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				code := 0
				if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
					code = exit.ExitCode()
				} else {
					ts.Check(err)
				}
				if fmt.Sprint(code) != args[0] {
					ts.Fatalf("exit code %d, want %s", code, args[0])
				}
			},
			"leaks": func(ts *testscript.TestScript, neg bool, args []string) {
				var keys []struct{ Key string }
				ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &keys))
				out := strings.ToLower(ts.ReadFile("stdout"))
				for _, k := range keys {
					if strings.Contains(out, strings.ToLower(k.Key[:12])) != !neg {
						ts.Fatalf("standard output and the keys of %s", args[0])
					}
				}
			},
			"flip": func(ts *testscript.TestScript, _ bool, args []string) {
				files, err := filepath.Glob(ts.MkAbs(args[0]))
				ts.Check(err)
				if len(files) == 0 {
					ts.Fatalf("%s: no such file", args[0])
				}
				at, err := strconv.Atoi(args[1])
				ts.Check(err)
				b, err := os.ReadFile(files[0])
				ts.Check(err)
				b[at] ^= 1
				ts.Check(os.WriteFile(files[0], b, 0o644))
			},
			"edit": func(ts *testscript.TestScript, _ bool, args []string) {
				text := ts.ReadFile(args[0])
				if !strings.Contains(text, args[1]) {
					ts.Fatalf("%s does not hold %q", args[0], args[1])
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, args[1], args[2], 1)), 0o644))
			},
		},
	})
}

type applianceKey struct{}

// runningAppliance is the bluekey serve of one script.
type runningAppliance struct {
	cmd    *exec.Cmd
	stderr strings.Builder
	drain  chan struct{} // closed when standard output has ended
}

func scriptAppliance(ts *testscript.TestScript, _ bool, args []string) {
	a := ts.Value(applianceKey{}).(*runningAppliance)
	switch args[0] {
	case "start":
		a.start(ts, args[1:])
	case "kill":
		a.end(syscall.SIGKILL)
	case "stop":
		if err := a.end(syscall.SIGTERM); err != nil {
			ts.Fatalf("serve did not end well: %v\n%s", err, &a.stderr)
		}
	default:
		ts.Fatalf("appliance %s: want start, stop or kill", args[0])
	}
}

func (a *runningAppliance) start(ts *testscript.TestScript, flags []string) {
	var path string
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		path = filepath.Join(dir, "bluekey")
		if _, err := os.Stat(path); err == nil {
			break
		}
	}
	a.cmd = exec.Command(path, append([]string{"serve", "--rehearsal", "--data", "data", "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0", "--console-listen", "127.0.0.1:0"}, flags...)...)
	a.cmd.Dir, a.cmd.Env, a.cmd.Stderr = ts.MkAbs("."), []string{"PATH=" + ts.Getenv("PATH")}, &a.stderr
	out, err := a.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(a.cmd.Start())
	a.drain = make(chan struct{})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if name == "export" { // the last line before it serves
			go func() { io.Copy(io.Discard, out); close(a.drain) }()
			ts.Check(ready(ts.Getenv("OPS")))
			return
		}
		ts.Setenv(strings.ToUpper(name), value)
	}
	close(a.drain)
	err = a.end(syscall.SIGKILL)
	ts.Fatalf("serve did not start: %v\n%s", err, &a.stderr)
}

// ready waits until an appliance does all it is for: phones need a keyring that is published.
func ready(ops string) error {
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		res, err := http.Get(ops + "/readyz")
		if err != nil {
			return err // it listens already
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err == nil && res.StatusCode == http.StatusOK {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s %v", text, err)
		}
	}
}

func (a *runningAppliance) end(sig os.Signal) error {
	if a.cmd == nil {
		return nil
	}
	c := a.cmd
	a.cmd = nil
	c.Process.Signal(sig)
	<-a.drain
	return c.Wait()
}

func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		err = ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("still not after a minute: %v", err)
		}
	}
}

// TestKillUnderLoad kills a real process while phones upload, again and again. Whatever it
// had acknowledged is published once it is let live.
func TestKillUnderLoad(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "bluekey")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	ctx := context.Background()
	var acked []diagnosis.Key
	sim := drill.NewSimulation(3)
	serve := func() (*exec.Cmd, string) {
		c := exec.Command(program, "serve", "--rehearsal", "--data", data, "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0", "--console-listen", "127.0.0.1:0", "--code-cap", "100000", "--reply-after", "0s")
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
		lines := bufio.NewScanner(out)
		lines.Scan()
		url, ok := strings.CutPrefix(lines.Text(), "public ")
		if !ok {
			t.Fatalf("serve said %q", lines.Text())
		}
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "export ") {
		}
		go io.Copy(io.Discard, out)
		return c, url
	}
	for kill := range 5 {
		c, url := serve()
		issue := issueCmd{Data: data, Report: "confirmed-test", Count: 400, Long: true}
		codes, err := issue.issue(ctx)
		if err != nil {
			t.Fatal(err)
		}
		// Whole cases, made before the clock runs: one for each code.
		cases := make([][]diagnosis.Key, len(codes))
		for i := range cases {
			cases[i] = sim.Phone(diagnosis.Schemes[i%2], time.Now().Add(-2*time.Hour), 3)
		}
		client, err := phone.NewClient(phone.Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, err := client.Keyring(ctx); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		var next atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for i := int(next.Add(1)) - 1; i < len(codes); i = int(next.Add(1)) - 1 {
					if err := handIn(ctx, client, codes[i], cases[i]); err != nil {
						return // killed
					}
					mu.Lock()
					acked = append(acked, cases[i]...)
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(100+60*kill) * time.Millisecond)
		c.Process.Kill()
		wg.Wait()
		c.Wait()
	}
	_, url := serve()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(300 * time.Millisecond) {
		n, err := phone.Published(ctx, []string{url}, acked)
		if err != nil {
			t.Fatal(err)
		}
		if n == len(acked) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d acknowledged keys are public", n, len(acked))
		}
	}
	if len(acked) < 100 {
		t.Fatalf("only %d keys were acknowledged: the load was no load", len(acked))
	}
	t.Logf("%d acknowledged keys, none lost", len(acked))
}

// TestNoticesReachPhones: what two persons of the staff agreed on is what a phone shows, and
// a withdrawn announcement leaves it.
func TestNoticesReachPhones(t *testing.T) {
	conf := config.Serve{
		Data: t.TempDir(), Listen: "127.0.0.1:0", Ops: "127.0.0.1:0", Console: "127.0.0.1:0",
		Metadata: "coarse", KeyID: "452", KeyVer: "v1", CodeCap: 10, Rehearsal: true,
	}
	a, err := openAppliance(t.Context(), conf, slog.New(slog.DiscardHandler), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	staff := func(name string, token string, err error) desk.Account {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		account, _, err := a.office.Join(token, name, name, "mưa rơi trên mái tôn")
		if err != nil {
			t.Fatal(err)
		}
		return account
	}
	link, err := a.office.SetUpLink()
	hoa := staff("hoa", link, err)
	link, err = a.office.Invite(desk.Local, desk.Admin, "")
	lan := staff("lan", link, err)

	client, err := phone.NewClient(phone.Options{URL: a.publicURL()})
	if err != nil {
		t.Fatal(err)
	}
	var known *phone.Notices
	await := func(what string, there func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !there(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the phone shows %+v, %+v", what, known.Warning("vi"), known.Announcements(time.Now(), "vi"))
			}
			if next, err := client.Notices(ctx, known); err == nil {
				known = next
			}
		}
	}
	await("the keyring", func() bool { _, err := client.Keyring(ctx); return err == nil })
	text := desk.Wording{VI: "Gọi đường dây nóng.", EN: "Call the hotline."}
	warning, err := a.office.Propose(hoa, desk.Notice{Kind: desk.Warning, Title: text, Text: text, ToDo: text, Hotline: "1900 9095", Matching: desk.Matching{Minutes: 7, Tolerance: 60, OnsetFrom: -2, OnsetTo: 9}})
	if err != nil {
		t.Fatal(err)
	}
	news, err := a.office.Propose(hoa, desk.Notice{Kind: desk.Announcement, Title: text, Text: text, Until: "2199-12-31"})
	if err != nil {
		t.Fatal(err)
	}
	await("an announcement", func() bool { return len(known.Announcements(time.Now(), "en")) == 1 })
	if known.Warning("vi").Hotline != "" {
		t.Error("a warning shows that one person wrote")
	}
	if err := a.office.Approve(lan, warning.Number); err != nil {
		t.Fatal(err)
	}
	if err := a.office.Withdraw(lan, news.Number); err != nil {
		t.Fatal(err)
	}
	await("the warning", func() bool { return known.Warning("vi").Hotline == "1900 9095" })
	if w := known.Warning("en"); w.ToDo != text.EN || known.Matching().Minutes != 7 || len(known.Announcements(time.Now(), "vi")) != 0 {
		t.Errorf("the phone shows %+v, %+v", w, known.Matching())
	}
}

// handIn redeems a code and uploads at once.
func handIn(ctx context.Context, client *phone.Client, code string, keys []diagnosis.Key) error {
	pending, err := permit.NewPending()
	if err != nil {
		return err
	}
	held, onset, err := client.Redeem(ctx, code, pending)
	if err != nil {
		return err
	}
	_, err = client.Upload(ctx, held, phone.CoarseOnset(keys, onset))
	return err
}

// mayImport says which packages of ours each package may import directly. A package
// that is not listed must be added here by hand, with a thought about where it belongs.
var mayImport = map[string][]string{
	"keystore/diagnosis": {},
	"keystore/desk":      {"keystore/diagnosis"},
	"keystore":           {"keystore/desk", "keystore/diagnosis"},

	"signing":        {},
	"signing/permit": {"keystore/diagnosis"},
	"signing/seal":   {},

	"export":             {"keystore/diagnosis", "signing"},
	"export/exportlog":   {"keystore/diagnosis", "signing"},
	"export/tree":        {},
	"export/match":       {"keystore/diagnosis"},
	"export/match/idset": {"export/match", "keystore/diagnosis"},
	"export/publish":     {"keystore", "keystore/diagnosis", "export", "export/exportlog", "export/tree", "export/match/idset", "signing"},
	"export/mirror":      {"keystore/diagnosis", "export", "export/exportlog", "export/tree", "export/match/idset", "signing", "signing/seal"},

	"server":                                 {"keystore", "keystore/diagnosis", "keystore/desk", "signing/permit", "signing/seal", "export/exportlog", "export/tree", "server/api/bluekey/v1", "server/api/bluekey/v1/bluekeyv1connect"},
	"server/gaen":                            {"keystore", "keystore/diagnosis"},
	"server/bluezone":                        {"keystore", "keystore/desk", "keystore/diagnosis"},
	"server/console":                         {"keystore/desk", "keystore/diagnosis"},
	"server/witness":                         {"export/exportlog", "signing"},
	"server/api":                             {},
	"server/api/bluekey/v1":                  {},
	"server/api/bluekey/v1/bluekeyv1connect": {"server/api/bluekey/v1"},
	"server/phone":                           {"keystore/diagnosis", "export", "export/exportlog", "export/tree", "export/match", "export/match/idset", "signing", "signing/permit", "signing/seal", "server/api/bluekey/v1", "server/api/bluekey/v1/bluekeyv1connect"},
	"server/config":                          {},
	"server/drill":                           {"server/phone", "keystore/diagnosis", "server/api/bluekey/v1", "server/api/bluekey/v1/bluekeyv1connect"},
}

// never lists what a package must not reach, however far away. "x/..." is x and all below.
var never = []struct{ from, to, why string }{
	{"server", "export/match", "the server cannot match people"},
	{"server/gaen", "export/match", "the server cannot match people"},
	{"server/bluezone", "export/match", "the server cannot match people"},
	{"server/gaen", "export/publish", "an upload cannot time a publication"},
	{"server/bluezone", "export/publish", "an upload cannot time a publication"},
	{"server/console", "export/match", "the server cannot match people"},
	{"server/witness", "keystore", "a witness has no database"},
	{"server", "export/publish", "an upload cannot time a publication"},
	{"export/publish", "server/...", "an upload cannot time a publication"},
	{"export", "keystore", "verifying links no database"},
	{"export/exportlog", "keystore", "verifying links no database"},
	{"export/match", "keystore", "verifying links no database"},
	{"export/mirror", "keystore", "verifying links no database"},
	{"signing", "keystore", "verifying links no database"},
	{"server/phone", "keystore", "a phone has no database"},
}

// homes names the only trees that may import a module, so that each can be replaced in
// one place.
var homes = map[string][]string{
	"github.com/cockroachdb/pebble/v2": {"keystore"},
	"github.com/cloudflare/circl":      {"signing"},
	"connectrpc.com":                   {"server"},
	"google.golang.org/protobuf":       {"server", "export"},
	"github.com/minio/minio-go/v7":     {"export/tree"},
	"github.com/go-webauthn":           {"server/console"},
	"codeberg.org/go-pdf/fpdf":         {"server/console"},
	"rsc.io/qr":                        {"server/console"},
	"golang.org/x/mod":                 {"export/exportlog", "signing"},
	"github.com/alecthomas/kong":       {"."},
	"go.yaml.in/yaml/v3":               {"server/config", "server/gaen", "server/bluezone"},
	"net/http":                         {".", "server", "export/tree"},
}

// TestImports enforces the house's rules on every file that is not a test.
func TestImports(t *testing.T) {
	direct := map[string]map[string]bool{} // our packages -> our packages
	for _, f := range sourceFiles(t) {
		pkg := path.Dir(f.name)
		if direct[pkg] == nil {
			direct[pkg] = map[string]bool{}
		}
		for _, spec := range f.ast.Imports {
			imported := strings.Trim(spec.Path.Value, `"`)
			if ours, ok := strings.CutPrefix(imported, "bluekey/"); ok {
				direct[pkg][ours] = true
				if ours == "server/phone" && pkg != "." && pkg != "server/drill" {
					t.Errorf("%s: the phone's library is for main and the drill", f.name)
				}
				if allowed, known := mayImport[pkg]; pkg != "." && (!known || !slices.Contains(allowed, ours)) {
					t.Errorf("%s: %s may not import %s", f.name, pkg, ours)
				}
			}
			for module, trees := range homes {
				if (imported == module || strings.HasPrefix(imported, module+"/")) && !slices.ContainsFunc(trees, func(tree string) bool { return within(pkg, tree) }) {
					t.Errorf("%s: %s is at home in %v", f.name, module, trees)
				}
			}
		}
	}
	for _, rule := range never {
		for _, to := range slices.Sorted(maps.Keys(reach(direct, rule.from))) {
			if to == rule.to || strings.HasSuffix(rule.to, "/...") && within(to, strings.TrimSuffix(rule.to, "/...")) {
				t.Errorf("%s reaches %s: %s", rule.from, to, rule.why)
			}
		}
	}
}

// TestNoAmbientInput keeps arguments, environment and global flags in main, incoming requests
// (with the addresses they carry) in the server tree, and keys out of what staff write. It
// looks names up in the imports of each file, so that another name for a package is no way
// round.
func TestNoAmbientInput(t *testing.T) {
	for _, f := range sourceFiles(t) {
		for _, use := range breaches(f) {
			t.Error(use)
		}
	}
}

// ambient are the names that bring arguments and environment, by package; nil is all of it.
var ambient = map[string][]string{
	"os":      {"Args", "Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "Unsetenv", "Clearenv"},
	"syscall": {"Getenv", "Environ", "Setenv", "Unsetenv", "Clearenv"},
	"flag":    nil,
}

// breaches are the uses of a file's imports that its package may not make.
func breaches(f sourceFile) (list []string) {
	pkg := path.Dir(f.name)
	imports := map[string]string{} // path, by the name in the file
	for _, spec := range f.ast.Imports {
		imported := strings.Trim(spec.Path.Value, `"`)
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "." {
			list = append(list, fmt.Sprintf("%s imports the names of %s as its own: nobody sees what it uses", f.name, imported))
		}
		imports[name] = imported
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok {
			return true
		}
		from, name := imports[x.Name], sel.Sel.Name
		names, isAmbient := ambient[from]
		switch {
		case isAmbient && pkg != "." && (names == nil || slices.Contains(names, name)):
			list = append(list, fmt.Sprintf("%s uses %s.%s outside main", f.name, from, name))
		case from == "net/http" && name == "Request" && !within(pkg, "server") && f.name != "export/tree/source.go":
			list = append(list, fmt.Sprintf("%s sees an http.Request: it carries an address", f.name))
		case from == "bluekey/keystore/diagnosis" && name == "Key" && within(pkg, "keystore/desk"):
			list = append(list, fmt.Sprintf("%s names diagnosis.Key: staff write codes and never see a key", f.name))
		}
		return true
	})
	return list
}

// TestBreaches shows the rules what they are to find.
func TestBreaches(t *testing.T) {
	for _, row := range []struct{ name, code, says string }{
		{"keystore/x.go", `import "os"; var x = os.Getenv("X")`, "uses os.Getenv outside main"},
		{"keystore/x.go", `import e "os"; var x = e.Args`, "uses os.Args outside main"},
		{"keystore/x.go", `import "os"; var x = os.ExpandEnv("$X")`, "uses os.ExpandEnv outside main"},
		{"keystore/x.go", `import "syscall"; var x, _ = syscall.Getenv("X")`, "uses syscall.Getenv outside main"},
		{"keystore/x.go", `import f "flag"; var x = f.Bool("x", false, "")`, "uses flag.Bool outside main"},
		{"keystore/x.go", `import . "os"; var x = Args`, "imports the names of os as its own"},
		{"keystore/x.go", `import "os"; var x = os.ErrNotExist`, ""},
		{"keystore/x.go", `var os struct{ Args int }; var x = os.Args`, ""},
		{"main.go", `import "os"; var x = os.Args`, ""},
		{"export/tree/x.go", `import web "net/http"; var x web.Request`, "it carries an address"},
		{"server/x.go", `import "net/http"; var x http.Request`, ""},
		{"keystore/desk/x.go", `import d "bluekey/keystore/diagnosis"; var x []d.Key`, "names diagnosis.Key"},
		{"keystore/desk/x.go", `import "bluekey/keystore/diagnosis"; var x diagnosis.ReportType`, ""},
		{"keystore/x.go", `import "bluekey/keystore/diagnosis"; var x diagnosis.Key`, ""},
	} {
		tree, err := parser.ParseFile(token.NewFileSet(), row.name, "package x; "+row.code, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(breaches(sourceFile{row.name, tree}), "\n")
		if !strings.Contains(got, row.says) || row.says == "" && got != "" {
			t.Errorf("%s: %s\ngives %q, want %q", row.name, row.code, got, row.says)
		}
	}
}

type sourceFile struct {
	name string
	ast  *ast.File
}

func sourceFiles(t *testing.T) []sourceFile {
	t.Helper()
	var files []sourceFile
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), "_") || strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		tree, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		files = append(files, sourceFile{name, tree})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func within(pkg, tree string) bool {
	return pkg == tree || tree != "." && strings.HasPrefix(pkg, tree+"/")
}

// reach is everything that from imports, directly or not.
func reach(direct map[string]map[string]bool, from string) map[string]bool {
	seen := map[string]bool{}
	var walk func(string)
	walk = func(pkg string) {
		for next := range direct[pkg] {
			if !seen[next] {
				seen[next] = true
				walk(next)
			}
		}
	}
	walk(from)
	return seen
}
