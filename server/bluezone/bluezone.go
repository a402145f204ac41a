// Package bluezone is the door for apps built from Bluezone, the Vietnamese app of 2020, with
// this server's address in place of the one compiled into them. No stock build can be pointed
// here.
//
// Such an app hands over far more than it should: with a health officer's six digits it
// sends InfoF, which holds the root key of the phone and its daily key of two weeks ago, from
// which every later day derives; its whole contact history; its phone number and its push
// token. It sends InfoF twice, side by side, once with the history and once without.
//
// The door makes day seeds of InfoF, in memory, and hands those of the last days to the store
// together with the six digits. Nothing else of a request is kept anywhere: history, number
// and token are read past through a small buffer, keys are overwritten when the request is
// answered, and no error or log line repeats what a phone sent. This is a promise about what
// is kept, not about what was seen: the phone did send its root key. So the door must stand
// only where nobody else can read along; see Config.
//
// All other calls of the app are answered so that it goes on working, and change nothing
// here: no phone number, name, token, log or health declaration is taken.
//
//	POST /api/AppHistoryContact/ReportHistory_ConfirmDeclare[_NoFile]   the case
//	POST /api/App/..., /api/AppHistoryContact/..., /api/AppLog/SaveFile   nothing kept
//	GET  /api/App/configApp.json, versionApp.json, resourceApp.json       from Settings
//
// Facts about the app: its sources, version 3.0.3, and captures of its requests.
package bluezone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"bluekey/keystore"
)

// Config says what a door needs. Store must be set.
//
// A door must be mounted only on a listener on which this process ends TLS itself, or which
// is on the loopback interface: a proxy or CDN that ends TLS before it would see root keys.
// It is for whoever mounts it to refuse any other listener.
type Config struct {
	Store *keystore.Store
	// Settings are what the app is told.
	Settings Settings
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger hears of failures of the server's own, at most once a minute; nil means
	// slog.Default.
	Logger *slog.Logger
}

// Door answers the app. It holds no goroutine.
type Door struct {
	cfg    Config
	calls  map[string]call
	papers map[string][]byte // by path
	logged atomic.Int64      // minute of the last failure that was logged
}

// call answers a request for which the body was bounded. The Status is 0 for success.
type call func(d *Door, r *http.Request) status

// New prepares a door. The error says which of the Settings is wrong.
func New(cfg Config) (*Door, error) {
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	papers, err := cfg.Settings.render()
	if err != nil {
		return nil, fmt.Errorf("settings of the Bluezone door: %w", err)
	}
	d := &Door{cfg: cfg, calls: map[string]call{}, papers: papers}
	for path, answer := range ignored {
		d.calls[path] = func(d *Door, r *http.Request) status { return ignore(r, answer) }
	}
	for _, path := range casePaths {
		d.calls[path] = (*Door).declare
	}
	return d, nil
}

// Paths are all paths that the door answers, sorted.
func (d *Door) Paths() []string {
	paths := slices.AppendSeq(slices.Collect(maps.Keys(d.calls)), maps.Keys(d.papers))
	slices.Sort(paths)
	return paths
}

// Handles reports whether the door answers a path.
func (d *Door) Handles(path string) bool {
	_, isPaper := d.papers[path]
	return isPaper || d.calls[path] != nil
}

// ServeHTTP answers the requests for Paths.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if paper, ok := d.papers[r.URL.Path]; ok {
		servePaper(w, r, paper)
		return
	}
	answer, ok := d.calls[r.URL.Path]
	switch {
	case !ok:
		http.NotFound(w, r)
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "this is a call: POST", http.StatusMethodNotAllowed)
		return
	}
	// An upload with the history may take longer than the server's own limit allows, and
	// may not take for ever. It fails for connections without deadlines, which only tests make.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience))
	answer(d, r).write(w)
}

// patience is how long a request may take to come in: a history of some megabytes over a
// slow mobile line.
const patience = time.Minute

// status is a number that the app knows.
type status int

const (
	done         status = 0
	serverFault  status = 1 // the app says that something went wrong, and to try again
	badRequest   status = 2
	badPhone     status = 23
	badPhoneCode status = 33
	badCode      status = 51
	expiredCode  status = 52
	badGUID      status = 61
)

// write sends the envelope that the app reads. It looks at the envelope only where HTTP says
// 200, so that is what every answer says.
func (s status) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	// An error here means that the phone is gone.
	_, _ = fmt.Fprintf(w, `{"isOk":%t,"isError":%t,"Status":%d,"Object":{}}`, s == done, s != done, s)
}

// casePaths take a case. The app calls both at once.
var casePaths = []string{
	"/api/AppHistoryContact/ReportHistory_ConfirmDeclare",
	"/api/AppHistoryContact/ReportHistory_ConfirmDeclare_NoFile",
}

// ignored are the other calls of the app and how each is answered. Where a yes would make a
// person believe that somebody took note of something, the answer is no: phone numbers are
// not confirmed, and health declarations are the health authority's business.
var ignored = map[string]status{
	"/api/App/RegisterUser":                                      done,
	"/api/App/UpdateTokenFirebase":                               done,
	"/api/App/CreateAndSendOTPCode":                              badPhone,
	"/api/App/ConfirmOTPCode":                                    badPhoneCode,
	"/api/App/DeclareInformation":                                badRequest,
	"/api/AppHistoryContact/ReportHistory_ConfirmContact":        done,
	"/api/AppHistoryContact/ReportHistory_ConfirmContact_NoFile": done,
	"/api/AppHistoryContact/ReportHistory_GetInfo":               done,
	"/api/AppHistoryContact/ReportHistory_GetInfo_NoFile":        done,
	"/api/AppHistoryContact/DeclareInformation":                  badGUID,
	"/api/AppHistoryContact/PushInfoApp":                         done,
	"/api/AppLog/SaveFile":                                       done,
}

// ignore reads past the body, so that a phone that is still sending hears the answer.
func ignore(r *http.Request, answer status) status {
	var scratch [scratchLen]byte
	defer clear(scratch[:])
	body := io.LimitReader(r.Body, maxBody)
	for {
		if _, err := body.Read(scratch[:]); err != nil {
			return answer
		}
	}
}

// declare takes a case.
func (d *Door) declare(r *http.Request) status {
	if r.ContentLength > maxBody || r.Header.Get("Content-Encoding") != "" {
		return badRequest
	}
	now := d.cfg.Now()
	var f form
	defer f.wipe()
	if err := f.read(r.Body); err != nil {
		return badRequest
	}
	var c record
	defer c.wipe()
	if err := c.parse(f.info(), now); err != nil {
		return badRequest
	}
	err := d.cfg.Store.Declare(r.Context(), keystore.Declaration{
		Code:    string(f.code()),
		Content: c.claim(),
		Seeds:   c.seeds(now),
	})
	return d.outcome(r.Context(), err)
}

// outcome is what the app is told.
func (d *Door) outcome(ctx context.Context, err error) status {
	refused := (*keystore.Refusal)(nil)
	switch {
	case err == nil:
		return done
	case errors.As(err, &refused):
		switch refused.Reason {
		case keystore.BadCode, keystore.SpentCode:
			return badCode
		case keystore.ExpiredCode:
			return expiredCode
		case keystore.Paused, keystore.Busy, keystore.Closed:
			return serverFault
		}
		return badRequest
	case ctx.Err() == nil:
		d.log(err)
	}
	return serverFault
}

// log tells of a failure of the server's own. Errors of the store never repeat what it was
// given.
func (d *Door) log(err error) {
	minute := time.Now().Unix() / 60
	if d.logged.Swap(minute) != minute {
		d.cfg.Logger.Error("the Bluezone door could not store a case", "error", err)
	}
}
