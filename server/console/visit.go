package console

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"golang.org/x/text/message"
	"golang.org/x/text/number"

	"bluekey/keystore/desk"
)

//go:embed pages/*.html
var pageFiles embed.FS

// pages are the templates and the words.
type pages struct {
	templates map[string]*template.Template
	texts     map[string]entry
	printers  map[lang]*message.Printer
}

func newPages() (*pages, error) {
	p := &pages{templates: map[string]*template.Template{}}
	var err error
	if p.texts, err = loadTexts(textFiles); err != nil {
		return nil, err
	}
	if p.printers, err = printers(p.texts); err != nil {
		return nil, err
	}
	layout, err := template.New("").Funcs(template.FuncMap{"args": args}).ParseFS(pageFiles, "pages/layout.html")
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "layout" {
			continue
		}
		t, err := template.Must(layout.Clone()).ParseFS(pageFiles, file)
		if err != nil {
			return nil, err
		}
		p.templates[name] = t
	}
	return p, nil
}

// args hands a template the view V and a row R of its data.
func args(v view, row any) map[string]any { return map[string]any{"V": v, "R": row} }

// visit is one request and who makes it.
type visit struct {
	*Console
	w       http.ResponseWriter
	r       *http.Request
	account desk.Account // the zero Account: nobody is signed in
	token   string       // of the session
	lang    lang
}

// view is what a template sees: words and forms of the language, and its data as D.
type view struct {
	words
	Title    string
	Path     string
	Who      desk.Account
	SignedIn bool
	D        any
}

// May reports whether the visitor has one of the roles. It only spares people links that
// would be refused.
func (v view) May(roles ...string) bool {
	for _, r := range roles {
		if desk.Role(r) == v.Who.Role {
			return true
		}
	}
	return false
}

// At reports whether the page is one of a section, whose first page is at path.
func (v view) At(path string) bool { return v.Path == path || strings.HasPrefix(v.Path, path+"/") }

// Asset is the address of a file of ours; its digest lets browsers keep it.
func (v view) Asset(name string) string { return "/assets/" + name + "?v=" + assets[name].version }

// show answers with a page.
func (v *visit) show(status int, page, title string, data any) error {
	var b bytes.Buffer
	vw := view{
		words: words{v.pages.printers[v.lang], v.lang}, Path: v.r.URL.Path,
		Who: v.account, SignedIn: v.token != "", D: data,
	}
	vw.Title = vw.T(title)
	if err := v.pages.templates[page].ExecuteTemplate(&b, "layout", vw); err != nil {
		return fmt.Errorf("make page %s: %w", page, err)
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	_, _ = v.w.Write(b.Bytes()) // whoever left does not read errors
	return nil
}

// file answers with a file to be kept, or shown in place.
func (v *visit) file(kind, name string, data []byte, inline bool) error {
	disposition := "attachment"
	if inline {
		disposition = "inline"
	}
	v.w.Header().Set("Content-Type", kind)
	v.w.Header().Set("Content-Disposition", fmt.Sprintf("%s; filename=%q", disposition, name))
	_, _ = v.w.Write(data)
	return nil
}

// see sends the browser to another page, after a form was done. where is ours.
func (v *visit) see(where string) error {
	http.Redirect(v.w, v.r, where, http.StatusSeeOther)
	return nil
}

// T is a text in the visitor's language.
func (v *visit) T(key string, args ...any) string {
	return words{v.pages.printers[v.lang], v.lang}.T(key, args...)
}

func (v *visit) say() words { return words{v.pages.printers[v.lang], v.lang} }

// form reads the fields of the request.
func (v *visit) form() error {
	err := v.r.ParseForm()
	if err == nil && strings.HasPrefix(v.r.Header.Get("Content-Type"), "multipart/form-data") {
		err = v.r.ParseMultipartForm(maxFile)
	}
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return &sorry{http.StatusRequestEntityTooLarge, "error.large", nil}
		}
		return &sorry{http.StatusBadRequest, "error.form", nil}
	}
	return nil
}

// words turns an error into what a visitor reads.
func (v *visit) words(err error) *sorry {
	var (
		s     *sorry
		field *desk.FieldError
		wait  *desk.WaitError
		large *http.MaxBytesError
	)
	if errors.As(err, &s) {
		return s
	}
	if errors.As(err, &large) {
		return &sorry{http.StatusRequestEntityTooLarge, "error.large", nil}
	}
	if errors.As(err, &field) {
		name, problem := v.fieldName(field.Field), v.T("problem."+field.Problem)
		if field.Row > 0 {
			return &sorry{http.StatusUnprocessableEntity, "error.row", []any{field.Row, field.Field, problem}}
		}
		return &sorry{http.StatusUnprocessableEntity, "error.field", []any{name, problem}}
	}
	if errors.As(err, &wait) {
		return &sorry{http.StatusTooManyRequests, "error.wait", []any{int(wait.Wait.Seconds()) + 1}}
	}
	for _, known := range []struct {
		err    error
		status int
		key    string
	}{
		{desk.ErrSignIn, http.StatusUnprocessableEntity, "error.signin"},
		{desk.ErrBusy, http.StatusServiceUnavailable, "error.busy"},
		{desk.ErrLink, http.StatusGone, "error.link"},
		{desk.ErrName, http.StatusUnprocessableEntity, "error.name"},
		{desk.ErrDisplay, http.StatusUnprocessableEntity, "error.display"},
		{desk.ErrTaken, http.StatusConflict, "error.taken"},
		{desk.ErrNoAccount, http.StatusNotFound, "error.account"},
		{desk.ErrLastAdmin, http.StatusConflict, "error.lastadmin"},
		{desk.ErrPasswordShort, http.StatusUnprocessableEntity, "error.password.short"},
		{desk.ErrPasswordLong, http.StatusUnprocessableEntity, "error.password.long"},
		{desk.ErrPasswordCommon, http.StatusUnprocessableEntity, "error.password.common"},
		{desk.ErrOfficerCap, http.StatusTooManyRequests, "error.cap"},
		{desk.ErrShortFull, http.StatusTooManyRequests, "error.full"},
		{desk.ErrDoorFull, http.StatusTooManyRequests, "error.doorfull"},
		{desk.ErrRequest, http.StatusUnprocessableEntity, "error.request"},
		{desk.ErrForm, http.StatusUnprocessableEntity, "error.code"},
		{desk.ErrNoUnit, http.StatusNotFound, "error.unit"},
		{desk.ErrNotYours, http.StatusForbidden, "error.notyours"},
		{desk.ErrMeanwhile, http.StatusConflict, "error.meanwhile"},
		{desk.ErrTally, http.StatusUnprocessableEntity, "error.tally"},
		{desk.ErrTwoPersons, http.StatusForbidden, "error.twopersons"},
		{desk.ErrNoticesFull, http.StatusConflict, "error.notices"},
		{desk.ErrNoNotice, http.StatusConflict, "error.notice"},
	} {
		if errors.Is(err, known.err) {
			return &sorry{known.status, known.key, nil}
		}
	}
	return &sorry{http.StatusInternalServerError, "error.ours", nil}
}

// fieldName is how a field is called on the page.
func (v *visit) fieldName(field string) string {
	if _, known := v.pages.texts["field."+field]; known {
		return v.T("field." + field)
	}
	return field
}

// words forms texts, numbers and times as a language does.
type words struct {
	p    *message.Printer
	Lang lang
}

// T is a text.
func (w words) T(key string, args ...any) string { return w.p.Sprintf(key, args...) }

// N is a count, its digits grouped.
func (w words) N(n any) string { return w.p.Sprint(number.Decimal(n)) }

// Percent is a rate with its digits and the sign, kept on one line.
func (w words) Percent(p desk.Percent) string {
	return w.decimal(p) + " %"
}

func (w words) decimal(p desk.Percent) string {
	return w.p.Sprint(number.Decimal(p.Float(), number.Scale(p.Digits)))
}

var months = [...]string{"", "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}

// Day is a day given as YYYY-MM-DD.
func (w words) Day(day string) string {
	t, err := time.Parse(time.DateOnly, day)
	if err != nil {
		return ""
	}
	return w.date(t)
}

func (w words) date(t time.Time) string {
	if w.Lang == english {
		return fmt.Sprintf("%d %s %d", t.Day(), months[t.Month()], t.Year())
	}
	return fmt.Sprintf("%d/%d/%d", t.Day(), t.Month(), t.Year())
}

// Clock is an instant, in the time of Viet Nam.
func (w words) Clock(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	t = t.In(desk.VietNam)
	if w.Lang == english {
		return t.Format("15:04") + ", " + w.date(t)
	}
	return t.Format("15:04") + " ngày " + w.date(t)
}

// Span is a length of time in its largest whole unit.
func (w words) Span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return w.T("span.seconds", int(d.Seconds()))
	case d < 2*time.Hour:
		return w.T("span.minutes", int(d.Minutes()))
	case d < 48*time.Hour:
		return w.T("span.hours", int(d.Hours()))
	}
	return w.T("span.days", int(d.Hours()/24))
}

// Bytes is a size.
func (w words) Bytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f /= 1000
		i++
	}
	digits := 0
	if i > 0 && f < 100 {
		digits = 1
	}
	return w.p.Sprint(number.Decimal(f, number.Scale(digits))) + " " + units[i]
}

// Lines are the lines of a text.
func (w words) Lines(s string) []string { return strings.Split(s, "\n") }

// Of is the text of a wording in the visitor's language.
func (w words) Of(t desk.Wording) string {
	if w.Lang == english {
		return t.EN
	}
	return t.VI
}

// languageOf is what the visitor chose; Vietnamese until then.
func (c *Console) languageOf(r *http.Request) lang {
	if cookie, err := r.Cookie(c.cookieName("lang")); err == nil {
		l, _ := parseLang(cookie.Value)
		return l
	}
	return vietnamese
}

// language takes the visitor's choice and goes back where the button was.
func (c *Console) language(v *visit) error {
	l, ok := parseLang(v.r.PostFormValue("lang"))
	if !ok {
		return &sorry{http.StatusBadRequest, "error.form", nil}
	}
	c.setCookie(v.w, "lang", string(l), 365*24*time.Hour)
	return v.see(ours(v.r.PostFormValue("back")))
}

// ours is a path of this console, whatever was asked for: a browser takes //host and
// /\host for another site.
func ours(path string) string {
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsAny(path, "\\\r\n\t?#") {
		return "/"
	}
	return path
}

// cookieName has the prefix by which browsers keep other hosts from setting it.
func (c *Console) cookieName(name string) string {
	if c.secure {
		return "__Host-" + name
	}
	return "bluekey-" + name
}

func (c *Console) setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: c.cookieName(name), Value: value, Path: "/", MaxAge: int(life.Seconds()),
		HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteLaxMode,
	})
}
