// Package console is the pages of the people who run the service: an officer who issues a
// code, a district that reports adoption, a team at a checkpoint, whoever looks after the
// machine at night. It is for them what a terminal is for others.
//
// Pages are made on the server, in Vietnamese first and English second, and need no
// script: passkeys have one, where a password does as well, and so has a button that prints.
// Nothing is loaded from elsewhere. The console has a listener of its own: none of its routes answers on the
// public one.
//
// It works on keystore/desk alone and sees no diagnosis key. A code is on the page that
// answers its making, once, and in no log, journal or address.
//
// Who may do what is one table, routes. A request is looked at in this order: the right
// host, the right origin, a session, the role, the form.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
)

// Codes issues and ends upload codes. *desk.Office is one that writes a journal.
type Codes interface {
	Issue(ctx context.Context, r desk.Request) ([]string, error)
	Revoke(ctx context.Context, who, typed string) (bool, error)
}

// DoorCodes issues and ends the six digits that a Bluezone app has a field for. *desk.Office
// is one that writes a journal.
type DoorCodes interface {
	IssueDoor(ctx context.Context, officer string, report diagnosis.ReportType, onset uint32) (string, error)
	RevokeDoor(ctx context.Context, who, typed string) (bool, error)
}

// Config says what a console stands on. Office, Codes and URL must be set.
type Config struct {
	Office *desk.Office
	Codes  Codes
	// Door is where the Bluezone door is open; nil: there is none, and no codes for it.
	Door DoorCodes
	// Retired tells whether the service has ended in favour of another one: no codes are
	// issued then. nil: it never does.
	Retired func() (note string, ok bool)
	// URL is where staff reach the console: https://console.example.gov.vn. Plain http is
	// taken for this machine only. Passkeys are bound to its host.
	URL string
	// InstallURL is where people get the app: it is in the QR of posters. Empty: posters
	// cannot be made yet, and the page says so.
	InstallURL string
	// PublicURL is where anybody finds exports and this province's page.
	PublicURL string
	// Origin and Region name the service.
	Origin, Region string
	// PolicyDigest is the SHA-256 of /policy in hex, for posters; empty leaves it out.
	PolicyDigest func() string
	// Status is what the status page shows; nil leaves the page out.
	Status func() Status
	// Exports are the newest exports, for the public page; nil shows none.
	Exports func() []Export
	// API answers the calls of a laboratory system, for the officer that its key stands
	// for (bluekey.v1.CodeService, under its full path); nil: there is no such door, and
	// no keys are made.
	API func(officer string) http.Handler

	Logger *slog.Logger // nil means slog.Default
}

// Console serves the pages.
type Console struct {
	Config
	host     string // as a browser names it
	secure   bool   // https
	pages    *pages
	passkeys *webauthn.WebAuthn
	handler  http.Handler

	ceremonies   ceremonies
	onces        onces
	certificates certificates
	homes        map[lang]*kept
	figures      kept // /adoption.json
}

// New prepares a console. It starts nothing.
func New(cfg Config) (*Console, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("console URL %q: want https and a host, without a path", cfg.URL)
	}
	if u.Scheme == "http" && !onThisMachine(u.Hostname()) {
		return nil, fmt.Errorf("console URL %q: passwords need https, except on this machine", cfg.URL)
	}
	if cfg.InstallURL != "" {
		install, err := url.Parse(cfg.InstallURL)
		if err != nil || install.Scheme != "https" || install.Host == "" || len(cfg.InstallURL) > 200 {
			return nil, fmt.Errorf("install URL %q: want https and at most 200 characters", cfg.InstallURL)
		}
	}
	c := &Console{Config: cfg, host: u.Host, secure: u.Scheme == "https", homes: map[lang]*kept{vietnamese: {}, english: {}}}
	c.passkeys, err = webauthn.New(&webauthn.Config{
		RPID: u.Hostname(), RPDisplayName: "bluekey " + cfg.Region, RPOrigins: []string{cfg.URL},
	})
	if err != nil && net.ParseIP(u.Hostname()) == nil {
		return nil, fmt.Errorf("set up passkeys: %w", err)
	}
	if net.ParseIP(u.Hostname()) != nil {
		c.passkeys = nil // browsers bind passkeys to names, not to addresses
	}
	if c.pages, err = newPages(); err != nil {
		return nil, err
	}
	c.handler = c.route()
	return c, nil
}

func onThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// handle answers a request. An error it gives back is a page: *sorry for what people can
// mend, anything else is the machine's and is logged.
type handle func(*Console, *visit) error

// route is one line of the table.
type route struct {
	pattern string
	roles   []desk.Role // who may; nil: whoever comes, without a session
	do      handle
}

var (
	anyone   []desk.Role
	everyone = []desk.Role{desk.Admin, desk.Officer, desk.District, desk.Auditor}
	staff    = []desk.Role{desk.Admin, desk.Officer, desk.District}
	issuers  = []desk.Role{desk.Admin, desk.Officer}
	writers  = []desk.Role{desk.Admin, desk.District}
	readers  = []desk.Role{desk.Admin, desk.Auditor}
	admins   = []desk.Role{desk.Admin}
)

// routes is who may do what.
var routes = []route{
	{"GET /assets/{name}", anyone, (*Console).asset},
	{"GET /signin", anyone, (*Console).signInPage},
	{"POST /signin", anyone, (*Console).signIn},
	{"POST /signin/recover", anyone, (*Console).recover},
	{"GET /join/{token}", anyone, (*Console).joinPage},
	{"POST /join/{token}", anyone, (*Console).join},
	{"POST /language", anyone, (*Console).language},
	{"GET /team/{token}", anyone, (*Console).teamPage},
	{"POST /team/{token}", anyone, (*Console).teamCount},
	{"POST /passkey/signin/begin", anyone, (*Console).passkeySignInBegin},
	{"POST /passkey/signin/finish", anyone, (*Console).passkeySignInFinish},

	{"GET /{$}", everyone, (*Console).start},
	{"POST /signout", everyone, (*Console).signOut},
	{"GET /help", everyone, (*Console).help},
	{"GET /help/{chapter}", everyone, (*Console).help},
	{"GET /account", everyone, (*Console).accountPage},
	{"POST /account/password", everyone, (*Console).changePassword},
	{"POST /account/recovery", everyone, (*Console).newRecovery},
	{"POST /account/passkey/begin", everyone, (*Console).passkeyAddBegin},
	{"POST /account/passkey/finish", everyone, (*Console).passkeyAddFinish},
	{"POST /account/passkey/remove", everyone, (*Console).passkeyRemove},

	{"GET /codes", issuers, (*Console).codesPage},
	{"POST /codes", issuers, (*Console).issue},
	{"POST /codes/again", issuers, (*Console).issueAgain},
	{"POST /codes/revoke", issuers, (*Console).revoke},
	{"POST /codes/sheet", issuers, (*Console).sheet},

	{"GET /adoption", everyone, (*Console).adoptionPage},
	{"GET /adoption/unit/{code}", everyone, (*Console).unitPage},
	{"GET /adoption/report.csv", everyone, (*Console).reportCSV},
	{"GET /adoption/report.pdf", everyone, (*Console).reportPDF},
	{"GET /adoption/public", everyone, (*Console).publicPreview},
	{"GET /adoption/import", writers, (*Console).importPage},
	{"POST /adoption/import", writers, (*Console).importFigures},
	{"POST /adoption/unit/{code}/figure", writers, (*Console).addFigure},
	{"POST /adoption/unit/{code}/withdraw", writers, (*Console).withdrawFigure},
	{"POST /adoption/unit/{code}/quote", writers, (*Console).addQuote},
	{"GET /adoption/units", admins, (*Console).unitsPage},
	{"POST /adoption/units", admins, (*Console).importUnits},
	{"POST /adoption/goal", admins, (*Console).setGoal},

	{"GET /teams", everyone, (*Console).teamsPage},
	{"POST /teams", staff, (*Console).newTeam},
	{"POST /teams/end", staff, (*Console).endTeam},
	{"GET /teams/tally.pdf", everyone, (*Console).tallySheet},

	{"GET /outreach", everyone, (*Console).outreachPage},
	{"GET /outreach/{file}", everyone, (*Console).outreachPDF},
	{"POST /outreach/text", staff, (*Console).setText},

	{"GET /notices", everyone, (*Console).noticesPage},
	{"POST /notices/preview", writers, (*Console).previewNotice},
	{"POST /notices", writers, (*Console).propose},
	{"POST /notices/approve", writers, (*Console).approve},
	{"POST /notices/withdraw", writers, (*Console).withdraw},

	{"GET /journal", readers, (*Console).journalPage},
	{"GET /journal.txt", readers, (*Console).journalText},
	{"GET /status", everyone, (*Console).statusPage},
	{"POST /status/backup", admins, (*Console).noteBackup},
	{"GET /accounts", readers, (*Console).accountsPage},
	{"POST /accounts/invite", admins, (*Console).invite},
	{"POST /accounts/reset", admins, (*Console).resetAccount},
	{"POST /accounts/role", admins, (*Console).setRole},
	{"POST /accounts/end", admins, (*Console).endAccount},
	{"POST /accounts/key", admins, (*Console).makeKey},
	{"POST /accounts/key/end", admins, (*Console).endKey},
	{"POST /bluekey.v1.CodeService/{call}", anyone, (*Console).call},
}

// Bodies, in bytes. A file of figures has a limit of its own in desk.
const (
	maxForm = 256 << 10
	maxFile = desk.MaxFile + 64<<10
)

// policy lets a page load this console's own files and nothing else, run the two
// scripts it has, be framed by nobody and send forms nowhere else.
const policy = "default-src 'none'; style-src 'self'; font-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func (c *Console) route() http.Handler {
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.Handle(r.pattern, c.serve(r))
	}
	mux.Handle("/", c.serve(route{roles: anyone, do: func(c *Console, v *visit) error { return notFound }}))
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(c.serve(route{roles: anyone, do: func(c *Console, v *visit) error {
		return &sorry{http.StatusForbidden, "error.origin", nil}
	}}))
	inner := cross.Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if c.secure {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		// Another name for this address is somebody's trick to reach it from their page.
		if !strings.EqualFold(r.Host, c.host) {
			http.Error(w, "Trang làm việc ở địa chỉ / The console is at: "+c.URL, http.StatusMisdirectedRequest)
			return
		}
		inner.ServeHTTP(w, r)
	})
}

// ServeHTTP answers on the console's listener.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.handler.ServeHTTP(w, r) }

// serve wraps a line of the table.
func (c *Console) serve(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := &visit{Console: c, w: w, r: r, lang: c.languageOf(r)}
		defer func() {
			if p := recover(); p != nil {
				if p != http.ErrAbortHandler {
					c.Logger.Error("a page of the console failed", "route", rt.pattern, "err", describe(p))
				}
				panic(http.ErrAbortHandler)
			}
		}()
		if err := c.admit(rt, v); err != nil {
			c.apologise(rt, v, err)
			return
		}
		limit := int64(maxForm)
		if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
			limit = maxFile
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		if err := rt.do(c, v); err != nil {
			c.apologise(rt, v, err)
		}
	})
}

// admit finds out who it is and whether they may.
func (c *Console) admit(rt route, v *visit) error {
	if cookie, err := v.r.Cookie(c.cookieName("session")); err == nil {
		v.account, err = c.Office.Who(cookie.Value)
		switch {
		case err == nil:
			v.token = cookie.Value
		case !errors.Is(err, desk.ErrSession):
			return err
		}
	}
	if rt.roles == nil {
		return nil
	}
	if v.token == "" {
		return errSignIn
	}
	for _, role := range rt.roles {
		if role == v.account.Role {
			return nil
		}
	}
	return &sorry{http.StatusForbidden, "error.role", nil}
}

// sorry is an error that the visitor reads: a key of the catalog and its arguments.
type sorry struct {
	status int
	key    string
	args   []any
}

func (s *sorry) Error() string { return s.key }

var (
	notFound  = &sorry{http.StatusNotFound, "error.notfound", nil}
	errSignIn = errors.New("not signed in")
)

// errorData is what went wrong. Typed: with a form, which the browser still has.
type errorData struct {
	Text  string
	Typed bool
}

// apologise answers with an error.
func (c *Console) apologise(rt route, v *visit, err error) {
	if errors.Is(err, errSignIn) {
		if v.r.Method == http.MethodGet {
			http.Redirect(v.w, v.r, "/signin", http.StatusSeeOther)
			return
		}
		err = &sorry{http.StatusUnauthorized, "error.session", nil}
	}
	s := v.words(err)
	if s.status == http.StatusInternalServerError {
		c.Logger.Error("a page of the console failed", "route", rt.pattern, "err", err)
	}
	if err := v.show(s.status, "error", "error.title", errorData{v.T(s.key, s.args...), v.r.Method != http.MethodGet}); err != nil {
		c.Logger.Error("a page of the console failed", "route", rt.pattern, "err", err)
	}
}

// describe tells where a handler panicked, without values.
func describe(p any) error {
	what := fmt.Sprintf("%T", p)
	if e, ok := p.(runtime.Error); ok {
		what = e.Error()
	}
	var callers [16]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(4, callers[:])])
	for {
		f, more := frames.Next()
		what += fmt.Sprintf(" < %s:%d", f.Function, f.Line)
		if !more {
			return errors.New("panic: " + what)
		}
	}
}

// Run serves l until ctx ends, then lets requests in flight finish. It closes l. Meanwhile
// it looks after the certificates of its own addresses.
func (c *Console) Run(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           c,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		// Its lines name the addresses of clients.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	watch, unwatch := context.WithCancel(ctx)
	wg.Go(func() { c.watchCertificates(watch) })
	wg.Go(func() {
		select {
		case <-ctx.Done():
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			if srv.Shutdown(limit) != nil {
				srv.Close()
			}
		case <-stop:
		}
	})
	err := srv.Serve(l)
	close(stop)
	unwatch()
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving the console: %w", err)
}
