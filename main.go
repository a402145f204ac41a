// Command bluekey is the key server of an exposure-notification system, and the tools
// around it: what staff, phones, auditors and app developers do, one command each. README
// says how to use them.
//
// This file parses, opens, wires, waits and closes. What a command does lives in a package.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sync/errgroup"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/mirror"
	"bluekey/export/publish"
	"bluekey/export/tree"
	"bluekey/keystore"
	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
	"bluekey/server"
	bluekeyv1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/bluezone"
	"bluekey/server/config"
	"bluekey/server/console"
	"bluekey/server/drill"
	"bluekey/server/gaen"
	"bluekey/server/phone"
	"bluekey/server/witness"
	"bluekey/signing"
	"bluekey/signing/permit"
)

// Exit codes, a contract (README, "Exit codes").
const (
	exitCheckFailed = 1
	exitNotDone     = 2
)

// errCheck ends a command whose work was done and whose verdict is no.
var errCheck = errors.New("a check failed")

type commands struct {
	Serve serveCmd `cmd:"" help:"Run the appliance."`
	Code  struct {
		Issue  issueCmd  `cmd:"" help:"Issue upload codes: one a line, nothing else on standard output."`
		Revoke revokeCmd `cmd:"" help:"End a code that has not been used."`
	} `cmd:"" help:"Upload codes, through the socket of a running appliance."`
	Simulate simulateCmd `cmd:"" help:"Make the keys of a phone of past, finished days, and what a neighbour heard of it."`
	Upload   uploadCmd   `cmd:"" help:"Hand in the keys of a confirmed case."`
	Verify   verifyCmd   `cmd:"" help:"Check export files or whole trees."`
	Match    matchCmd    `cmd:"" help:"Look for what a phone heard in published exports."`
	Audit    auditCmd    `cmd:"" help:"Check everything a log has ever said against everything its tree serves."`
	Mirror   mirrorCmd   `cmd:"" help:"Audit logs and keep copies that can be served."`
	Rotate   struct {
		Signer rotateSignerCmd `cmd:"" help:"Introduce a new key for export.sig through the log, and retire the present ones."`
		Log    rotateLogCmd    `cmd:"" help:"End the log in favour of a successor with keys and a name of its own: uploads are refused from now on."`
	} `cmd:"" help:"Change keys, through the socket of a running appliance."`
	Republish republishCmd `cmd:"" help:"Render every window still held again and compare; the appliance must not run."`
	Prebuild  prebuildCmd  `cmd:"" help:"Build matching artifacts for the exports of many logs, for CDNs and national aggregators."`
	Witness   witnessCmd   `cmd:"" help:"Cosign the checkpoints of other logs."`
	Admin     struct {
		Invite     inviteCmd     `cmd:"" help:"Print a link for a new account of the console; also when nobody can get in any more."`
		NoteBackup noteBackupCmd `cmd:"" help:"Record that a backup was just made, for the status page."`
	} `cmd:"" help:"Look after the console, through the socket of a running appliance."`
	Journal struct {
		Verify journalVerifyCmd `cmd:"" help:"Check that no line of the journal was changed, dropped or put in."`
	} `cmd:"" help:"The journal of what staff did."`
	Keys    keysCmd    `cmd:"" help:"Print what to pin: the keys of a log, its policy, and the policy's digest."`
	Drill   drillCmd   `cmd:"" help:"Rehearse the whole service with simulated phones."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var cli commands
	parser, err := kong.New(&cli,
		kong.Name("bluekey"),
		kong.Description("Key server of an exposure-notification system. Every option of serve is also a line of its config file (min_keys: 150) and a variable (BLUEKEY_MIN_KEYS=150); flag before variable before file."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.PostBuild(serveVariables),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Exit(func(code int) {
			if code != 0 {
				code = exitNotDone // kong's usage errors have a code of their own
			}
			os.Exit(code)
		}),
	)
	if err != nil {
		panic(err) // the commands above contradict each other
	}
	command, err := parser.Parse(os.Args[1:])
	parser.FatalIfErrorf(err)
	switch err := command.Run(); {
	case errors.Is(err, errCheck):
		os.Exit(exitCheckFailed)
	case errors.Is(err, drill.ErrFailed):
		fmt.Fprintln(os.Stderr, "bluekey:", err)
		os.Exit(exitCheckFailed)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bluekey:", err)
		os.Exit(exitNotDone)
	}
}

// serveFlags are the options of the appliance.
func serveFlags(k *kong.Kong) []*kong.Flag {
	i := slices.IndexFunc(k.Model.Children, func(command *kong.Node) bool { return command.Name == "serve" })
	return k.Model.Children[i].Flags
}

// serveVariables gives every flag of serve its variable. The other commands have none: a
// folder set for the appliance must not become the target of a drill.
func serveVariables(k *kong.Kong) error {
	for _, flag := range serveFlags(k) {
		name := "BLUEKEY_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		flag.Envs = []string{name}
		flag.Value.Tag.Envs = flag.Envs
	}
	return nil
}

// serveCmd runs the appliance.
type serveCmd struct {
	Config configFile `placeholder:"FILE" help:"YAML file with any of these options, '-' written as '_'."`
	config.Serve
}

func (c *serveCmd) Run(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	a, err := openAppliance(ctx, c.Serve, log, os.Stderr)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // asked to stop before it was ready: the next start goes on from here
	}
	if err != nil {
		return err
	}
	if _, err := fmt.Printf("public %s\nops %s\ndata %s\n%s\n", a.publicURL(), a.opsURL(), c.Data, a.firstExport()); err != nil {
		return errors.Join(err, a.close())
	}
	if err := a.greet(); err != nil {
		return errors.Join(err, a.close())
	}
	return a.run(ctx)
}

// greet tells where staff find their pages, and how the first of them gets in.
func (a *appliance) greet() error {
	if a.console == nil {
		return nil
	}
	link, err := a.console.SetUp()
	switch {
	case err != nil:
		return err
	case link != "":
		fmt.Fprintf(a.say, "The console waits for its first account. Open this link, which works once:\n\n  %s\n\n", link)
	default:
		fmt.Fprintln(a.say, "The console is at", a.conf.ConsoleAt)
	}
	return nil
}

// publishing is what the options say of publishing.
func publishing(c *config.Serve) (conf publish.Config, err error) {
	conf = publish.Config{
		Period: *c.Period, Hold: *c.Hold, Retention: *c.Retention, MinKeys: *c.MinKeys, Exact: c.Metadata == "exact",
		Tier: c.MatchTier, IDSetBits: c.IDSetBits, URL: c.PublicAt,
	}
	if conf.Profiles, err = publish.ParseProfiles(c.Profiles); err != nil {
		return conf, err
	}
	return conf, conf.Check()
}

// appliance is everything that serve runs.
type appliance struct {
	conf      config.Serve
	say       io.Writer // hears what people should know
	store     *keystore.Store
	publisher *publish.Publisher
	keys      *server.PhoneKeys
	tokenKey  [32]byte   // seals the GAEN door's revision tokens
	gaen      *gaen.Door // nil without that door
	server    *server.Server
	// nil where something else ends TLS
	certificate, staffCertificate *server.Certificate
	outlet                        *publish.Outlet // nil without a bucket
	office                        *desk.Office
	console                       *console.Console // nil without console_listen
	staff                         net.Listener     // the console's
	log                           *slog.Logger
	listeners                     server.Listeners
}

// openAppliance opens the data folder and everything that stands on it, and finishes what
// a stopped process left.
func openAppliance(ctx context.Context, c config.Serve, log *slog.Logger, say io.Writer) (*appliance, error) {
	a := &appliance{conf: c, say: say, log: log}
	if err := a.open(ctx, log); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

func (a *appliance) open(ctx context.Context, log *slog.Logger) error {
	if err := a.openPublisher(ctx, log); err != nil {
		return err
	}
	doors, err := a.openDoors(log)
	if err != nil {
		return err
	}
	if a.conf.TLSCert != "" {
		if a.certificate, err = server.LoadCertificate(a.conf.TLSCert, a.conf.TLSKey); err != nil {
			return err
		}
	}
	home, adoption, err := a.openConsole(log)
	if err != nil {
		return err
	}
	var invite func(role, unit string) (string, time.Time, error)
	if a.console != nil {
		invite = a.console.Invite
	}
	a.server, err = server.New(server.Config{
		Store:        a.store,
		Keys:         a.keys,
		ReplyAfter:   *a.conf.ReplyAfter,
		Certificate:  a.certificate,
		Doors:        doors,
		Office:       a.office,
		Tree:         string(a.public()),
		Home:         home,
		Adoption:     adoption,
		Ready:        a.ready,
		Behind:       a.behind(),
		Published:    func() (time.Time, time.Duration) { s := a.publisher.Status(); return s.LastWindow, s.LastDelay },
		RotateSigner: a.publisher.RotateSigner,
		CloseLog:     a.publisher.CloseLog,
		Invite:       invite,
		Logger:       log,
	})
	if err != nil {
		return err
	}
	return a.listen()
}

// openDoors opens what answers other protocols, by path.
func (a *appliance) openDoors(log *slog.Logger) (doors map[string]http.Handler, err error) {
	doors = map[string]http.Handler{}
	for _, name := range a.conf.Doors {
		switch name {
		case "gaen":
			text, err := os.ReadFile(a.conf.GAENAuthorities)
			if err != nil {
				return nil, fmt.Errorf("doors: gaen: gaen_authorities: %w", err)
			}
			conf := gaen.Config{Store: a.store, Region: a.publisher.Region, TokenKey: a.tokenKey, Logger: log}
			if conf.Authorities, err = gaen.ParseAuthorities(text); err != nil {
				return nil, fmt.Errorf("%s: %w", a.conf.GAENAuthorities, err)
			}
			if a.gaen, err = gaen.New(conf); err != nil {
				return nil, err
			}
			doors[gaen.Path] = a.gaen
		case "bluezone":
			conf := bluezone.Config{Store: a.store, Logger: log}
			if a.conf.BluezoneSettings != "" {
				text, err := os.ReadFile(a.conf.BluezoneSettings)
				if err == nil {
					conf.Settings, err = bluezone.ParseSettings(text)
				}
				if err != nil {
					return nil, fmt.Errorf("bluezone_settings: %w", err)
				}
			}
			door, err := bluezone.New(conf)
			if err != nil {
				return nil, err
			}
			for _, path := range door.Paths() {
				doors[path] = door
			}
		default:
			return nil, fmt.Errorf("doors: %q: want gaen, bluezone or both", name)
		}
	}
	return doors, nil
}

// openConsole opens the pages for staff, if there is an address for them.
func (a *appliance) openConsole(log *slog.Logger) (home, adoption http.Handler, err error) {
	if a.office, err = desk.OpenOffice(a.store.Desk()); err != nil || a.conf.Console == "" {
		return nil, nil, err
	}
	if a.staff, err = net.Listen("tcp", a.conf.Console); err != nil {
		return nil, nil, err
	}
	_, port, _ := net.SplitHostPort(a.staff.Addr().String())
	if a.conf.ConsoleTLSCert != "" {
		if a.staffCertificate, err = server.LoadCertificate(a.conf.ConsoleTLSCert, a.conf.ConsoleTLSKey); err != nil {
			return nil, nil, err
		}
		a.staff = a.staffCertificate.Listen(a.staff)
	}
	if a.conf.ConsoleAt == "" {
		a.conf.ConsoleAt = "http://localhost:" + port // passkeys need a name
	}
	var door console.DoorCodes
	if slices.Contains(a.conf.Doors, "bluezone") {
		door = a.office
	}
	a.console, err = console.New(console.Config{
		Office: a.office, Codes: a.office, Door: door, Retired: a.store.Retired,
		URL: a.conf.ConsoleAt, InstallURL: a.conf.Install, PublicURL: a.conf.PublicAt,
		Origin: a.publisher.Origin, Region: a.publisher.Region,
		PolicyDigest: a.public().PolicyDigest,
		Status:       a.consoleStatus,
		Exports:      a.newestExports,
		API:          func(officer string) http.Handler { return a.server.CodeAPI(officer) },
		Logger:       log,
	})
	if err != nil {
		return nil, nil, err
	}
	return a.console.Home(), a.console.AdoptionJSON(), nil
}

// heldFloor is how many waiting keys staff are shown: fewer could be one case, or two.
const heldFloor = 50

// consoleStatus is how the machine stands, for the status page.
func (a *appliance) consoleStatus() console.Status {
	p := a.publisher.Status()
	s := console.Status{
		LastExport: p.LastWindow, Delay: p.LastDelay, NextExport: a.publisher.NextEnd(),
		LogSize: p.LogSize, Checkpoint: a.public().CheckpointTime(), Version: version(),
	}
	if p.Err != nil {
		s.Problem = p.Err.Error()
	}
	s.HeldFloor, s.Held = heldFloor, map[string]int{}
	for _, scheme := range diagnosis.Schemes {
		s.Held[scheme.String()] = p.Held[scheme]
	}
	for name := range p.Witnessed {
		s.Witnesses = append(s.Witnesses, name)
	}
	slices.Sort(s.Witnesses)
	for _, scheme := range diagnosis.Schemes {
		if end := a.store.WindowStart(scheme); end.After(s.WindowEnd) {
			s.WindowEnd = end
		}
	}
	if exports := a.newestExports(); s.LastExport.IsZero() && len(exports) > 0 {
		s.LastExport = exports[0].End // of an earlier run
	}
	s.DiskUsed, s.DiskFree = console.DiskSpace(a.conf.Data)
	for _, c := range []*server.Certificate{a.certificate, a.staffCertificate} {
		if c == nil {
			continue
		}
		if ends, err := c.Expires(); err == nil && (s.CertEnds.IsZero() || ends.Before(s.CertEnds)) {
			s.CertEnds = ends
		}
	}
	return s
}

// newestExports are the files of the newest windows, for the public page.
func (a *appliance) newestExports() (list []console.Export) {
	for _, f := range a.public().Newest(shownExports) {
		list = append(list, console.Export(f))
	}
	return list
}

// shownExports is how many files the public page lists.
const shownExports = 10

// publishNotices keeps the published notices what the console says.
func (a *appliance) publishNotices(ctx context.Context) error {
	a.office.KeepNotices(ctx, func(ctx context.Context, file []byte) error {
		return a.publisher.PutSmallFile(ctx, "notice/notices.json", file)
	}, func(err error) {
		a.log.Error("publishing notices failed; trying again in a minute", "error", err)
	})
	return nil
}

// access is what the environment gives for buckets, by the names that every tool for S3 knows.
func access() tree.Access {
	return tree.Access{
		KeyID:    os.Getenv("AWS_ACCESS_KEY_ID"),
		Secret:   os.Getenv("AWS_SECRET_ACCESS_KEY"),
		Token:    os.Getenv("AWS_SESSION_TOKEN"),
		Region:   os.Getenv("AWS_REGION"),
		Endpoint: os.Getenv("AWS_ENDPOINT_URL_S3"),
	}
}

// ready is why a person should look at the publishing, nil if none should.
func (a *appliance) ready() error {
	err := a.publisher.Status().Err
	if a.outlet != nil {
		err = errors.Join(err, a.outlet.Ready())
	}
	return err
}

// behind measures the bucket, if there is one.
func (a *appliance) behind() func() time.Duration {
	if a.outlet == nil {
		return nil
	}
	return a.outlet.Behind
}

func (a *appliance) public() server.Public {
	return server.Public(filepath.Join(a.conf.Data, "public"))
}

// openPublisher opens all but the network.
func (a *appliance) openPublisher(ctx context.Context, log *slog.Logger) error {
	c := &a.conf
	if err := c.Settle(log); err != nil {
		return err
	}
	conf, err := publishing(c)
	if err != nil {
		return err
	}
	for _, line := range conf.Bill() {
		log.Warn(line)
	}
	if err := keystore.MakeDir(c.Data); err != nil {
		return err
	}
	seed, made, err := openSeed(c.Data)
	if err != nil {
		return err
	}
	a.store, err = keystore.Open(keystore.Options{
		Dir:       c.Data,
		CodeKey:   seed.Derive32("code hash"),
		DedupeKey: seed.Derive32("dedupe hash"),
		Period:    *c.Period,
		Hold:      *c.Hold,
		Exact:     c.Metadata == "exact",
		CodeCap:   c.CodeCap,
		Logger:    log,
	})
	if err != nil {
		return err
	}
	id, err := chooseIdentity(c, a.store, seed)
	if err != nil {
		return err
	}
	logKeys, err := signing.NewLogKeys(id.origin, seed.Derive32("log ed25519"), seed.Derive32("log mldsa44"))
	if err != nil {
		return err
	}
	if id.logKey, err = a.store.FixedOr("log key", logKeys.VKeys()[0].String(), ""); err != nil {
		return fmt.Errorf("the seed is not the one this data folder was made with: restore it (%w)", err)
	}
	signers, err := signing.NewExportSigners(seed, c.KeyID, c.KeyVer, c.Signer)
	if err != nil {
		return err
	}
	folder, err := tree.NewFolder(tree.Disk{}, string(a.public()))
	if err != nil {
		return err
	}
	staging, err := tree.NewStaging(tree.Disk{}, filepath.Join(c.Data, "staging"))
	if err != nil {
		return err
	}
	conf.Origin, conf.Region = id.origin, id.region
	conf.Seed, conf.Signers, conf.LogKeys, conf.Log = seed, signers, logKeys, log
	if err := addWitnesses(c, &conf); err != nil {
		return err
	}
	if err := addPredecessor(c, &conf); err != nil {
		return err
	}
	if a.publisher, err = publish.New(conf, a.store, folder, staging); err != nil {
		return err
	}
	if c.PublishTo != "" {
		bucket, err := tree.NewBucket(c.PublishTo, access(), mirror.Headers)
		if err != nil {
			return err
		}
		a.outlet = publish.NewOutlet(a.publisher, tree.FolderSource(a.public()), bucket)
		if c.Outside == "" {
			c.Outside = c.PublishTo
		}
	}
	if err := id.fix(a.store); err != nil {
		return err
	}
	if c.Outside != "" {
		if err := a.catchUp(ctx, logKeys); err != nil {
			return err
		}
	}
	if err := a.publisher.Recover(ctx); err != nil {
		return err
	}
	if made {
		fmt.Fprintf(a.say, welcome, c.Data, id.origin, id.region)
	}
	a.tokenKey = seed.Derive32("gaen revision tokens")
	a.keys, err = a.openPhoneKeys(seed, log)
	return err
}

// openPhoneKeys opens the keys that phones use. It comes after Recover, which may have brought
// the keyring with a tree from outside.
func (a *appliance) openPhoneKeys(seed signing.Seed, log *slog.Logger) (*server.PhoneKeys, error) {
	seeds, err := keystore.OpenSeeds(filepath.Join(a.conf.Data, "sealing"))
	if err != nil {
		return nil, err
	}
	return server.OpenPhoneKeys(server.KeysConfig{
		Origin: a.publisher.Origin, Region: a.publisher.Region,
		PermitSeed: seed.Derive32("permit epochs"), Seeds: seeds,
		Published: a.public().Keyring,
		Announce: func(ctx context.Context, keyring []byte) error {
			return a.publisher.PutSmallFile(ctx, exportlog.KeyringPath, keyring)
		},
		Retired: func() bool { _, retired := a.store.Retired(); return retired },
		Now:     time.Now, Logger: log,
	})
}

// welcome is what the first start of a data folder says.
const welcome = `Made the data folder %[1]s, for the service %[2]s in region %[3]s.
  seed     every key derives from it: back it up, and keep it secret
  store    codes and keys that are not public yet
  public   what everybody may see: exports, log, index.json; any web server can serve it
Next: issue a code with    bluekey code issue --data %[1]s
      check what is public with    bluekey verify %[1]s/public
`

// seed reads the seed, or makes one in a new data folder only: beside a store a missing
// seed is a loss that a new one would hide.
func openSeed(data string) (seed signing.Seed, made bool, err error) {
	path := filepath.Join(data, "seed")
	if _, err := os.Stat(filepath.Join(data, "VERSION")); err == nil {
		seed, err = signing.LoadSeed(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s is missing, and this data folder cannot go on without it: restore it from a backup", path)
		}
		return seed, false, err
	}
	return signing.LoadOrCreateSeed(path)
}

// identity is what may not change once something was published under it.
type identity struct{ origin, region, rehearsal, logKey string }

// identity reads what the first start has fixed, or takes what is chosen, or else a preset.
func chooseIdentity(c *config.Serve, store *keystore.Store, seed signing.Seed) (id identity, err error) {
	if id.rehearsal, err = store.FixedOr("rehearsal", fmt.Sprint(c.Rehearsal), ""); err != nil {
		return id, fmt.Errorf("%w: a folder for rehearsals stays one, and a real one never becomes one", err)
	}
	selfMade := fmt.Sprintf("bluekey.invalid/%x", seed.Derive("self-made origin", 4))
	if id.origin, err = store.FixedOr("origin", c.Origin, selfMade); err != nil {
		return id, err
	}
	if id.region, err = store.FixedOr("region", c.Region, "VN-HP"); err != nil {
		return id, err
	}
	if id.origin == selfMade && !config.Loopback(c.Listen) {
		return id, fmt.Errorf("listen %s: a public address needs a chosen --origin, the name under which this service signs", c.Listen)
	}
	return id, nil
}

// fix stores the identity, once nothing can refuse the start any more.
func (id identity) fix(store *keystore.Store) error {
	for name, value := range map[string]string{"rehearsal": id.rehearsal, "origin": id.origin, "region": id.region, "log key": id.logKey} {
		if _, err := store.Fix(name, value); err != nil {
			return err
		}
	}
	return nil
}

// witnesses reads the list of witnesses into the publisher's configuration.
func addWitnesses(c *config.Serve, conf *publish.Config) error {
	if c.Witnesses == "" {
		return nil
	}
	text, err := os.ReadFile(c.Witnesses)
	if err != nil {
		return err
	}
	if conf.PolicyWitnesses, err = witness.ParseWitnesses(text); err != nil {
		return fmt.Errorf("%s: %w", c.Witnesses, err)
	}
	for _, w := range conf.PolicyWitnesses {
		client, err := witness.NewClient(w)
		if err != nil {
			return fmt.Errorf("%s: witness %s: %w", c.Witnesses, w.Name, err)
		}
		conf.Witnesses = append(conf.Witnesses, client)
	}
	conf.Quorum = c.Quorum
	return nil
}

// predecessor reads where the log before this one is into the publisher's configuration.
func addPredecessor(c *config.Serve, conf *publish.Config) error {
	if c.Predecessor == "" && c.PredecessorPolicy == "" {
		return nil
	}
	if c.Predecessor == "" || c.PredecessorPolicy == "" {
		return errors.New("give --predecessor and --predecessor-policy together, or neither")
	}
	source, err := tree.OpenSource(c.Predecessor, access())
	if err != nil {
		return err
	}
	policy, err := mirror.ReadPolicies([]string{c.PredecessorPolicy})
	if err != nil {
		return err
	}
	conf.Predecessor = &publish.Predecessor{Tree: source, Policy: policy}
	return nil
}

// catchUp follows the copy outside, if it is ahead.
func (a *appliance) catchUp(ctx context.Context, keys signing.LogKeys) error {
	outside, err := tree.OpenSource(a.conf.Outside, access())
	if err != nil {
		return err
	}
	err = mirror.CatchUp(ctx, outside, string(a.public()), keys.VKeys())
	if errors.Is(err, mirror.ErrNotCompared) {
		// A province must not go silent because its mirror is down.
		a.log.Warn("starting without the copy outside", "outside", a.conf.Outside, "error", err)
		return nil
	}
	return err
}

func (a *appliance) listen() (err error) {
	if a.listeners.Public, err = net.Listen("tcp", a.conf.Listen); err != nil {
		return err
	}
	if a.listeners.Ops, err = net.Listen("tcp", a.conf.Ops); err != nil {
		return err
	}
	a.listeners.Admin, err = server.ListenAdmin(config.Socket(a.conf.Data))
	return err
}

func (a *appliance) publicURL() string {
	scheme := "http://"
	if a.conf.TLSCert != "" {
		scheme = "https://"
	}
	return scheme + a.listeners.Public.Addr().String()
}
func (a *appliance) opsURL() string { return "http://" + a.listeners.Ops.Addr().String() }

// firstExport says when there will be something to see, and why not now.
func (a *appliance) firstExport() string {
	end := a.publisher.NextEnd()
	return fmt.Sprintf("export %s at the earliest: windows last %v; a window of fewer than %d due keys waits %v more and is padded; a key is due 2h after its last day ended",
		end.UTC().Format(time.RFC3339), *a.conf.Period, *a.conf.MinKeys, *a.conf.Hold)
}

// run serves and publishes until ctx is done or either fails, then closes everything.
func (a *appliance) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.server.Run(ctx, a.listeners) })
	group.Go(func() error { return a.publisher.Run(ctx) })
	group.Go(func() error { return a.keys.Run(ctx) })
	if a.gaen != nil {
		group.Go(func() error { return a.gaen.Run(ctx) })
	}
	if a.outlet != nil {
		group.Go(func() error { return a.outlet.Run(ctx) })
	}
	if a.console != nil {
		group.Go(func() error { return a.console.Run(ctx, a.staff) })
		group.Go(func() error { return a.publishNotices(ctx) })
	}
	err := group.Wait()
	a.listeners, a.staff = server.Listeners{}, nil // Run has closed them
	return errors.Join(err, a.close())
}

func (a *appliance) close() error {
	var errs []error
	for _, l := range []net.Listener{a.listeners.Public, a.listeners.Ops, a.listeners.Admin, a.staff} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	return errors.Join(errs...)
}

// configFile reads serve's options from YAML before kong settles them.
type configFile string

// BeforeResolve implements kong's hook.
func (f configFile) BeforeResolve(k *kong.Context, trace *kong.Path) error {
	path := string(k.FlagValue(trace.Flag).(configFile))
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	values, err := config.Parse(data, func(flag string) bool {
		return flag != "config" && slices.ContainsFunc(serveFlags(k.Kong), func(f *kong.Flag) bool { return f.Name == flag })
	})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	k.AddResolver(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		for _, env := range flag.Envs {
			if _, set := os.LookupEnv(env); set {
				return nil, nil
			}
		}
		if value, ok := values[flag.Name]; ok {
			return value, nil
		}
		return nil, nil
	}))
	return nil
}

type issueCmd struct {
	Data   string `default:"./bluekey-data" placeholder:"DIR" help:"Data folder of the running appliance (${default})."`
	Report string `default:"confirmed-test" enum:"confirmed-test,clinical,self-report" help:"What the diagnosis rests on: confirmed-test, clinical or self-report (${default})."`
	Onset  string `placeholder:"YYYY-MM-DD" help:"Day of the first symptoms, or of the test if there were none (today)."`
	Count  uint32 `default:"1" help:"How many codes (${default})."`
	Door   bool   `help:"Six digits for apps that come through the Bluezone door; they live ten minutes."`
	Long   bool   `help:"16 characters that live up to a day, for slips and QR, instead of 9 digits that live an hour."`
}

func (c *issueCmd) Run(ctx context.Context) error {
	codes, err := c.issue(ctx)
	for _, code := range codes {
		fmt.Println(code)
	}
	return refused(err)
}

// refused says what the appliance refused, and turns that into a failed check.
func refused(err error) error {
	if text, ok := server.Refused(err); ok {
		fmt.Fprintln(os.Stderr, "bluekey:", text)
		return errCheck
	}
	return err
}

func (c *issueCmd) issue(ctx context.Context) ([]string, error) {
	report, err := diagnosis.ParseReportType(c.Report)
	if err != nil {
		return nil, err
	}
	onset := time.Now().UTC()
	if c.Onset != "" {
		if onset, err = time.Parse(time.DateOnly, c.Onset); err != nil {
			return nil, fmt.Errorf("onset %q: want YYYY-MM-DD", c.Onset)
		}
	}
	if c.Count < 1 || onset.Unix() < 86400 {
		return nil, errors.New("want a count of at least 1, and an onset of our time")
	}
	resp, err := localClient(c.Data).Issue(ctx, &bluekeyv1.IssueRequest{
		Report:   bluekeyv1.ReportType(report),
		OnsetDay: uint32(onset.Unix() / 86400),
		Count:    c.Count,
		Long:     c.Long,
		Door:     c.Door,
	})
	if err != nil {
		return nil, fmt.Errorf("issuing codes: %w", err)
	}
	return resp.Codes, nil
}

type revokeCmd struct {
	Data string `default:"./bluekey-data" placeholder:"DIR" help:"Data folder of the running appliance (${default})."`
	Code string `arg:"" help:"The code."`
}

func (c *revokeCmd) Run(ctx context.Context) error {
	resp, err := localClient(c.Data).Revoke(ctx, &bluekeyv1.RevokeRequest{Code: c.Code})
	if err != nil {
		return refused(fmt.Errorf("revoking the code: %w", err))
	}
	if !resp.Revoked {
		fmt.Fprintln(os.Stderr, "bluekey: no such code is alive: it was mistyped, used, revoked, or has expired")
		return errCheck
	}
	return nil
}

type republishCmd struct {
	Check bool `required:"" help:"Only compare. There is no other way yet: what is published stays as it was published."`
	serveCmd
}

func (c *republishCmd) Run(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	a := &appliance{conf: c.Serve, say: os.Stderr, log: log}
	err := a.openPublisher(ctx, log)
	ok := false
	if err == nil {
		ok, err = a.publisher.Check(ctx, func(line string) { fmt.Println(line) })
	}
	if err = errors.Join(err, a.close()); err == nil && !ok {
		err = errCheck
	}
	return err
}

type rotateSignerCmd struct {
	Data    string        `default:"./bluekey-data" placeholder:"DIR" help:"Data folder of the running appliance (${default})."`
	Version string        `required:"" placeholder:"V" help:"Key version of the new key, as v2."`
	Notice  time.Duration `default:"24h" help:"How long until it signs (${default})."`
	Overlap time.Duration `default:"336h" help:"How long the present keys sign beside it (${default})."`
}

func (c *rotateSignerCmd) Run(ctx context.Context) error {
	from := time.Now().Add(c.Notice)
	_, err := localClient(c.Data).RotateSigner(ctx, &bluekeyv1.RotateSignerRequest{
		Version: c.Version, From: from.Unix(), Retire: from.Add(c.Overlap).Unix(),
	})
	if err != nil {
		return refused(fmt.Errorf("rotating the signer: %w", err))
	}
	fmt.Printf("from %s\nretire %s\n", from.UTC().Format(time.RFC3339), from.Add(c.Overlap).UTC().Format(time.RFC3339))
	return nil
}

type rotateLogCmd struct {
	Data            string `default:"./bluekey-data" placeholder:"DIR" help:"Data folder of the running appliance whose log ends (${default})."`
	Successor       string `required:"" placeholder:"TREE" help:"Folder or URL of the tree of the log that follows, which was started with --predecessor."`
	SuccessorPolicy string `required:"" placeholder:"FILE" help:"Pinned policy of that log."`
}

func (c *rotateLogCmd) Run(ctx context.Context) error {
	policy, err := os.ReadFile(c.SuccessorPolicy)
	if err != nil {
		return err
	}
	source, err := tree.OpenSource(c.Successor, access())
	if err != nil {
		return err
	}
	opening, err := mirror.OpeningProof(ctx, source, policy)
	if err != nil {
		return err
	}
	resp, err := localClient(c.Data).CloseLog(ctx, &bluekeyv1.CloseLogRequest{Policy: policy, Opening: opening})
	if err != nil {
		return fmt.Errorf("closing the log: %w", err)
	}
	if resp.ClosesBy == 0 {
		fmt.Println("closed")
		return nil
	}
	fmt.Println("closes_by", time.Unix(resp.ClosesBy, 0).UTC().Format(time.RFC3339))
	return nil
}

// localClient speaks to the socket in a data folder.
func localClient(data string) server.LocalClient {
	return server.AdminClient(config.Socket(data))
}

type inviteCmd struct {
	Data string `default:"./bluekey-data" placeholder:"DIR" help:"Data folder of the running appliance (${default})."`
	Role string `default:"admin" enum:"admin,officer,district,auditor" help:"What the account may do: admin, officer, district or auditor (${default})."`
	Unit string `placeholder:"CODE" help:"Unit within which it writes figures (everywhere)."`
}

func (c *inviteCmd) Run(ctx context.Context) error {
	res, err := localClient(c.Data).Invite(ctx, &bluekeyv1.InviteRequest{Role: c.Role, Unit: c.Unit})
	if err != nil {
		return refused(err)
	}
	fmt.Fprintf(os.Stderr, "works once, until %s:\n", time.Unix(res.Expires, 0).UTC().Format(time.RFC3339))
	_, err = fmt.Println(res.Url)
	return err
}

type noteBackupCmd struct {
	Data string `default:"./bluekey-data" placeholder:"DIR" help:"Data folder of the running appliance (${default})."`
}

func (c *noteBackupCmd) Run(ctx context.Context) error {
	_, err := localClient(c.Data).NoteBackup(ctx, &bluekeyv1.NoteBackupRequest{})
	return refused(err)
}

type journalVerifyCmd struct {
	Data  string `default:"./bluekey-data" placeholder:"DIR" help:"Data folder of the running appliance whose journal to check, without a file (${default})."`
	Noted string `placeholder:"HEAD" help:"End of the journal as noted down earlier: it must still lie in it."`
	File  string `arg:"" optional:"" help:"A journal, as the console's page gives it."`
}

func (c *journalVerifyCmd) Run(ctx context.Context) (err error) {
	var noted desk.Head
	if c.Noted != "" {
		if noted, err = desk.ParseHead(c.Noted); err != nil {
			return err
		}
	}
	text, err := c.read(ctx)
	if err != nil {
		return err
	}
	head, met, err := desk.VerifyJournal(bytes.NewReader(text), noted)
	switch {
	case errors.Is(err, desk.ErrJournal):
		fmt.Println("FAIL", err)
		return errCheck
	case err != nil:
		return err
	case !met:
		fmt.Printf("FAIL the journal of %d lines, up to %s, does not go through %s\n", head.Number, head, noted)
		return errCheck
	}
	_, err = fmt.Printf("ok %d lines, up to %s\n", head.Number, head)
	return err
}

func (c *journalVerifyCmd) read(ctx context.Context) ([]byte, error) {
	if c.File != "" {
		return os.ReadFile(c.File)
	}
	var text bytes.Buffer
	err := localClient(c.Data).WriteJournal(ctx, &text)
	return text.Bytes(), err
}

type simulateCmd struct {
	Scheme    string `required:"" enum:"gaen,bluezone" help:"gaen or bluezone."`
	Keys      string `required:"" placeholder:"KEYS.json" help:"Where to write the phone's keys."`
	Sightings string `required:"" placeholder:"HEARD.csv" help:"Where to write what the neighbour heard: three intervals of the phone among passers-by."`
	Days      int    `default:"3" help:"Finished days, at most 14 (${default})."`
	Seed      uint64 `default:"1" help:"The same seed and day give the same phone (${default})."`
}

func (c *simulateCmd) Run() error {
	scheme, err := diagnosis.ParseScheme(c.Scheme)
	if err != nil {
		return err
	}
	keys, heard, err := drill.Neighbours(scheme, time.Now(), c.Days, c.Seed)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Keys, phone.FormatKeys(keys), 0o600); err != nil {
		return err
	}
	var csv strings.Builder
	for _, h := range heard {
		csv.WriteString(phone.FormatSighting(h) + "\n")
	}
	return os.WriteFile(c.Sightings, []byte(csv.String()), 0o600)
}

type uploadCmd struct {
	URL    string   `required:"" placeholder:"URL" help:"Public URL of the appliance."`
	Tree   string   `placeholder:"TREE" help:"Where its public tree is, with the keys to seal to (the same URL)."`
	Policy []string `placeholder:"POLICY" help:"Pinned policy of its log. Without it the tree is judged by the policy that lies in it, and a server could mark this phone with keys of its own."`
	Now    bool     `help:"Hand the keys in at once instead of at a random time within four hours: that shows which code they came with."`
	Code   string   `required:"" help:"The upload code."`
	Scheme string   `required:"" enum:"gaen,bluezone" help:"gaen or bluezone."`
	Keys   string   `required:"" placeholder:"KEYS.json" help:"[{\"key\":\"<hex>\",\"start\":<interval number since the epoch>,\"count\":<n>,\"risk\":<0-8, optional>}]"`
}

func (c *uploadCmd) Run(ctx context.Context) error {
	scheme, err := diagnosis.ParseScheme(c.Scheme)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(c.Keys)
	if err != nil {
		return err
	}
	keys, err := phone.ParseKeys(scheme, data)
	if err != nil {
		return err
	}
	o := phone.UploadOptions{
		URL: c.URL, Tree: c.Tree, Code: c.Code, Scheme: scheme, Keys: keys, Now: c.Now,
		Note: func(note string) { fmt.Fprintln(os.Stderr, "note:", note) },
	}
	if len(c.Policy) > 0 {
		if o.Policy, err = mirror.ReadPolicies(c.Policy); err != nil {
			return err
		}
	}
	publishBy, err := phone.Upload(ctx, o)
	if refused := (permit.Refusal{}); errors.As(err, &refused) || errors.Is(err, phone.ErrCode) {
		fmt.Fprintln(os.Stderr, "bluekey:", err)
		return errCheck
	} else if err != nil {
		return err
	}
	fmt.Println("publish_by", publishBy.Format(time.RFC3339))
	return nil
}

type verifyCmd struct {
	Key     string   `placeholder:"PUBLIC.pem" help:"Public key of export.sig. Without it the key is taken from the tree itself, which proves nothing about who runs it."`
	Policy  []string `placeholder:"POLICY" help:"Pinned policy of the log; may be repeated, one a log. Without it the policy is taken from the tree itself."`
	Targets []string `arg:"" name:"target" help:"A .zip or .keys file or its URL; a tree (URL, or folder with index.json); a folder of files."`
}

func (c *verifyCmd) Run(ctx context.Context) error {
	var o mirror.VerifyOptions
	if c.Key != "" {
		text, err := os.ReadFile(c.Key)
		if err != nil {
			return err
		}
		if o.PublicKey, err = signing.ParsePublicPEM(text); err != nil {
			return fmt.Errorf("%s: %w", c.Key, err)
		}
	}
	if len(c.Policy) > 0 {
		var err error
		if o.Policy, err = mirror.ReadPolicies(c.Policy); err != nil {
			return err
		}
	}
	ok, err := mirror.Verify(ctx, c.Targets, o, func(l mirror.Line) { fmt.Println(l) })
	if err == nil && !ok {
		err = errCheck
	}
	return err
}

type matchCmd struct {
	Observed  string   `required:"" placeholder:"HEARD.csv" help:"What the phone heard: lines \"hex id,unix seconds\"."`
	Policy    []string `placeholder:"POLICY" help:"Pinned policy of the log; may be repeated, one a log. Without it a tree is judged by the policy that lies in it, which proves nothing about who runs it."`
	MatchTier string   `placeholder:"TIER" help:"Kernels to use: purego, nishani or avx512 (the fastest that this machine has)."`
	Targets   []string `arg:"" name:"target" help:"A .zip, .keys or .ids file or its URL; a tree (URL, or folder with index.json); a folder of files, or one that prebuild made."`
}

func (c *matchCmd) Run(ctx context.Context) error {
	f, err := os.Open(c.Observed)
	if err != nil {
		return err
	}
	defer f.Close()
	o := phone.MatchOptions{Tier: c.MatchTier, Note: func(note string) { fmt.Fprintln(os.Stderr, "note:", note) }}
	if len(c.Policy) > 0 {
		if o.Policy, err = mirror.ReadPolicies(c.Policy); err != nil {
			return err
		}
	}
	return phone.MatchReport(ctx, f, c.Targets, o, os.Stdout)
}

type auditCmd struct {
	Policy  []string `required:"" placeholder:"FILE" help:"Pinned policies of the logs, got from elsewhere than the trees; may be repeated, one a log."`
	State   string   `placeholder:"FILE" help:"Remembers the checkpoints seen; a log that later shows another past is caught."`
	JSON    bool     `help:"Print the reports as JSON, one a line."`
	Targets []string `arg:"" name:"tree" help:"Trees: URL, or folder."`
}

func (c *auditCmd) Run(ctx context.Context) error {
	policy, err := mirror.ReadPolicies(c.Policy)
	if err != nil {
		return err
	}
	o := mirror.AuditOptions{Policy: policy, Progress: progressBar()}
	if c.State != "" {
		if o.State, err = mirror.LoadState(c.State); err != nil {
			return err
		}
	}
	sources, err := tree.OpenSources(c.Targets, access())
	if err != nil {
		return err
	}
	reports, err := mirror.AuditAll(ctx, sources, o)
	clean := true
	for _, r := range reports {
		clean = clean && r.Clean
		if printErr := c.print(r); printErr != nil {
			return printErr
		}
	}
	if err == nil && c.State != "" {
		err = o.State.Save(c.State)
	}
	if err == nil && !clean {
		err = errCheck
	}
	return err
}

func (c *auditCmd) print(r *mirror.Report) error {
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	_, err := fmt.Print(r)
	return err
}

// progressBar draws on standard error if that is a terminal.
func progressBar() func(mirror.Progress) {
	info, err := os.Stderr.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	return func(p mirror.Progress) {
		fmt.Fprintf(os.Stderr, "\r%d of %d entries, %d of %d files ", p.Entries, p.Size, p.Files, p.Listed)
		if p.Entries == p.Size && p.Files == p.Listed {
			fmt.Fprint(os.Stderr, "\r\x1b[K")
		}
	}
}

type mirrorCmd struct {
	To     string        `required:"" placeholder:"DIR|s3://…" help:"Where the copy is kept: with one URL the tree itself, with several one folder each and a feeds.json."`
	Policy []string      `required:"" placeholder:"FILE" help:"Pinned policies of the logs; may be repeated, one a log."`
	Every  time.Duration `placeholder:"5m" help:"Do it again and again."`
	URLs   []string      `arg:"" name:"url" help:"Trees to follow: URL, or folder."`
}

func (c *mirrorCmd) Run(ctx context.Context) error {
	policy, err := mirror.ReadPolicies(c.Policy)
	if err != nil {
		return err
	}
	sources, err := tree.OpenSources(c.URLs, access())
	if err != nil {
		return err
	}
	place := mirror.Place{Disk: tree.Disk{}, Root: c.To}
	if strings.HasPrefix(c.To, "s3://") {
		bucket, err := tree.NewBucket(c.To, access(), mirror.Headers)
		if err != nil {
			return err
		}
		place.Disk, place.Root = bucket.Disk(ctx), "."
	} else {
		lock, err := place.Lock()
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	o := mirror.AuditOptions{Policy: policy, Progress: progressBar()}
	for {
		err := c.once(ctx, sources, place, o)
		if c.Every <= 0 || ctx.Err() != nil {
			return err
		}
		if err != nil && !errors.Is(err, errCheck) {
			fmt.Fprintln(os.Stderr, "bluekey:", err) // the copy stands as it was; try again
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Every):
		}
	}
}

func (c *mirrorCmd) once(ctx context.Context, sources []tree.Source, place mirror.Place, o mirror.AuditOptions) error {
	copies, err := mirror.Keep(ctx, sources, place, o)
	moved := true
	for _, one := range copies {
		fmt.Print(one)
		moved = moved && one.Good()
	}
	if err == nil && !moved {
		err = errCheck
	}
	return err
}

type prebuildCmd struct {
	To        string   `required:"" placeholder:"DIR" help:"Where the artifacts are kept, one folder a log."`
	Profiles  []string `default:"ids" placeholder:"ids,keys" help:"What every window gets that its publisher did not make: ids, keys (${default})."`
	Policy    []string `placeholder:"FILE" help:"Pinned policies of the logs; may be repeated. Without one each tree's own is taken, which proves nothing about who runs it."`
	MatchTier string   `placeholder:"TIER" help:"Kernels to use: purego, nishani or avx512."`
	Trees     []string `arg:"" name:"tree" help:"Trees: URL, or folder."`
}

func (c *prebuildCmd) Run(ctx context.Context) error {
	o := mirror.PrebuildOptions{Tier: c.MatchTier}
	for _, kind := range c.Profiles {
		if kind != string(exportlog.IDSet) && kind != string(exportlog.KeySet) {
			return fmt.Errorf("profiles: %q: want ids, keys or both", kind)
		}
		o.Kinds = append(o.Kinds, exportlog.FileKind(kind))
	}
	if len(c.Policy) > 0 {
		var err error
		if o.Policy, err = mirror.ReadPolicies(c.Policy); err != nil {
			return err
		}
	}
	sources, err := tree.OpenSources(c.Trees, access())
	if err != nil {
		return err
	}
	place := mirror.Place{Disk: tree.Disk{}, Root: c.To}
	lock, err := place.Lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	built, err := mirror.Prebuild(ctx, sources, place, o)
	ok := true
	for _, b := range built {
		fmt.Println(b)
		ok = ok && len(b.Problems) == 0
	}
	if err == nil && !ok {
		err = errCheck
	}
	return err
}

type witnessCmd struct {
	Data   string   `required:"" placeholder:"DIR" help:"Folder of the witness: its seed and what it has seen. Never put it back from a backup."`
	Listen string   `default:"127.0.0.1:8090" placeholder:"ADDR" help:"Where logs ask for cosignatures (${default})."`
	Name   string   `required:"" help:"Name under which it cosigns, as witness.example.org/w1."`
	Logs   []string `required:"" placeholder:"FILE" help:"Policies of the logs to watch, one file a log; may be repeated."`
}

func (c *witnessCmd) Run(ctx context.Context) error {
	if err := keystore.MakeDir(c.Data); err != nil {
		return err
	}
	// Two witnesses on the same records could cosign two histories.
	lock, err := tree.Lock(filepath.Join(c.Data, "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	seed, _, err := signing.LoadOrCreateSeed(filepath.Join(c.Data, "seed"))
	if err != nil {
		return err
	}
	keys, err := signing.NewWitnessKeys(c.Name, seed.Derive32("witness ed25519\n"+c.Name), seed.Derive32("witness mldsa44\n"+c.Name))
	if err != nil {
		return err
	}
	records, err := tree.NewFolder(tree.Disk{}, filepath.Join(c.Data, "seen"))
	if err != nil {
		return err
	}
	conf := witness.Config{
		Keys:  keys,
		State: witness.Files(func(name string) ([]byte, error) { return records.Get(name, witness.MaxRecord) }, records.Put),
	}
	if conf.Logs, err = witness.ReadLogs(c.Logs); err != nil {
		return err
	}
	w, err := witness.New(conf)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	// What a log's --witnesses file says of this witness.
	if _, err := fmt.Print(witness.FormatWitness(keys, "http://"+listener.Addr().String())); err != nil {
		return errors.Join(err, listener.Close())
	}
	return w.Run(ctx, listener)
}

type keysCmd struct {
	Data string `xor:"from" required:"" placeholder:"DIR" help:"Data folder of an appliance."`
	URL  string `xor:"from" required:"" placeholder:"URL" help:"Or the URL of a tree: then compare the digest with print before you trust it."`
}

func (c *keysCmd) Run(ctx context.Context) error {
	source, err := tree.OpenSource(c.URL, access())
	if c.Data != "" {
		source, err = tree.FolderSource(filepath.Join(c.Data, "public")), nil
	}
	if err != nil {
		return err
	}
	text, err := tree.ReadAll(ctx, source, exportlog.PolicyPath, exportlog.MaxPolicy)
	if err != nil {
		return err
	}
	if _, err := exportlog.ParsePolicy(text); err != nil {
		return err
	}
	_, err = os.Stdout.Write(exportlog.AnnotatePolicy(text))
	return err
}

type drillCmd struct {
	URL       string `placeholder:"URL" help:"Public URL of a running appliance; without it the drill starts its own in a temporary folder."`
	Data      string `placeholder:"DIR" help:"Data folder of that appliance, for codes."`
	Provinces int    `default:"1" placeholder:"N" help:"Appliances of its own that the drill starts, with one mirror of all from which phones read (${default})."`
	Phones    int    `default:"200" help:"Simulated phones, half of each scheme (${default})."`
	Cases     int    `default:"5" help:"How many become cases (${default})."`
	Seed      uint64 `default:"1" help:"The same seed gives the same phones (${default})."`
}

func (c *drillCmd) Run(ctx context.Context) (err error) {
	if (c.URL == "") != (c.Data == "") {
		return errors.New("give --url and --data together, or neither")
	}
	if c.Provinces < 1 || c.Provinces > 34 || c.Provinces > 1 && c.URL != "" {
		return errors.New("provinces: want 1 to 34, and no --url with more than one")
	}
	conf := drill.Config{
		Phones: c.Phones, Cases: c.Cases, Seed: c.Seed,
		Progress: func(line string) { fmt.Fprintln(os.Stderr, line) },
	}
	if c.URL != "" {
		conf.Provinces = []drill.Province{{URL: c.URL, Issue: c.issuer(c.Data)}}
		return drill.Run(ctx, conf, os.Stdout)
	}
	dir, err := os.MkdirTemp("", "bluekey-drill-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	conf.Folder = dir
	health, authorities, err := c.authority(dir)
	if err != nil {
		return err
	}
	var policies []string
	for i := range c.Provinces {
		data := filepath.Join(dir, fmt.Sprint("province-", i+1))
		a, stop, err := c.start(ctx, data, authorities)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
		policies = append(policies, filepath.Join(data, "public", exportlog.PolicyPath))
		conf.Provinces = append(conf.Provinces, drill.Province{
			URL: a.publicURL(), Issue: c.issuer(data), IssueDoor: c.doorIssuer(data), Authority: health,
		})
	}
	if c.Provinces > 1 {
		if conf.Mirror, err = c.mirror(conf.Provinces, policies, filepath.Join(dir, "mirror")); err != nil {
			return err
		}
	}
	return drill.Run(ctx, conf, os.Stdout)
}

func (c *drillCmd) issuer(data string) func(context.Context, int) ([]string, error) {
	return func(ctx context.Context, n int) ([]string, error) {
		issue := issueCmd{Data: data, Report: diagnosis.ConfirmedTest.String(), Count: uint32(n)}
		return issue.issue(ctx)
	}
}

func (c *drillCmd) doorIssuer(data string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		issue := issueCmd{Data: data, Report: diagnosis.ConfirmedTest.String(), Count: 1, Door: true}
		codes, err := issue.issue(ctx)
		if err != nil {
			return "", err
		}
		return codes[0], nil
	}
}

// authority founds the health authority of all provinces and writes the file by which their
// GAEN doors know it.
func (c *drillCmd) authority(dir string) (health *drill.Authority, file string, err error) {
	if health, err = drill.NewAuthority(); err != nil {
		return nil, "", err
	}
	text, err := health.Listed()
	if err != nil {
		return nil, "", err
	}
	file = filepath.Join(dir, "authorities.yaml")
	return health, file, os.WriteFile(file, text, 0o600)
}

// mirror gives what brings the one mirror of all provinces up to date and says where phones
// read then.
func (c *drillCmd) mirror(provinces []drill.Province, policies []string, to string) (func(context.Context) ([]string, error), error) {
	policy, err := mirror.ReadPolicies(policies)
	if err != nil {
		return nil, err
	}
	var sources []tree.Source
	for _, p := range provinces {
		source, err := tree.NewSource(p.URL)
		if err != nil {
			return nil, err
		}
		sources = append(sources, source)
	}
	return func(ctx context.Context) ([]string, error) { return mirror.Gather(ctx, sources, to, policy) }, nil
}

// start runs an appliance with both doors for this drill only.
func (c *drillCmd) start(ctx context.Context, dir, authorities string) (a *appliance, stop func() error, err error) {
	conf := config.Serve{
		Data: dir, Listen: "127.0.0.1:0", Ops: "127.0.0.1:0", Doors: []string{"gaen", "bluezone"}, GAENAuthorities: authorities,
		Metadata: "coarse", KeyID: "452", KeyVer: "v1", CodeCap: c.Cases, Rehearsal: true,
	}
	if a, err = openAppliance(ctx, conf, slog.New(slog.DiscardHandler), io.Discard); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	return a, func() error {
		cancel()
		return <-done
	}, nil
}

// version is that of the binary, for people.
func version() string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	return info.Main.Version
}

type versionCmd struct {
	JSON bool `help:"As JSON: version, revision, toolchain."`
}

func (c *versionCmd) Run() error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this binary carries no build information")
	}
	v := map[string]string{"version": info.Main.Version, "go": info.GoVersion, "encoder": export.Encoder}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" || s.Key == "vcs.time" || s.Key == "GOARCH" {
			v[strings.ToLower(strings.TrimPrefix(s.Key, "vcs."))] = s.Value
		}
	}
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(v)
	}
	_, err := fmt.Printf("bluekey %s %s\n", v["version"], v["go"])
	return err
}
