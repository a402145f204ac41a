package console

import (
	"errors"
	"net/http"
	"strings"

	"bluekey/keystore/desk"
)

type signInData struct {
	Problem  string
	Name     string
	Passkeys bool
}

func (c *Console) signInPage(v *visit) error {
	if v.token != "" {
		return v.see("/")
	}
	return v.show(http.StatusOK, "signin", "signin.title", signInData{Passkeys: c.passkeys != nil})
}

// signInName is the name as accounts have it: people capitalise, and phones add spaces.
func signInName(v *visit) string {
	return strings.ToLower(strings.TrimSpace(v.r.PostFormValue("name")))
}

func (c *Console) signIn(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	a, err := c.Office.SignIn(signInName(v), v.r.PostFormValue("password"))
	return c.signedIn(v, a, err, "/")
}

func (c *Console) recover(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	a, err := c.Office.Recover(signInName(v), v.r.PostFormValue("code"))
	return c.signedIn(v, a, err, "/account")
}

// signedIn begins a session, whatever session or cookie there was before.
func (c *Console) signedIn(v *visit, a desk.Account, err error, where string) error {
	if err != nil {
		s := v.words(err)
		if s.status == http.StatusInternalServerError {
			return err
		}
		name := signInName(v)
		return v.show(s.status, "signin", "signin.title", signInData{Problem: v.T(s.key, s.args...), Name: name[:min(len(name), 32)], Passkeys: c.passkeys != nil})
	}
	if err := c.begin(v, a); err != nil {
		return err
	}
	return v.see(where)
}

func (c *Console) begin(v *visit, a desk.Account) error {
	if v.token != "" {
		if err := c.Office.End(v.token); err != nil {
			return err
		}
	}
	token, err := c.Office.Begin(a.ID)
	if err != nil {
		return err
	}
	c.setCookie(v.w, "session", token, desk.SessionLife)
	v.account, v.token = a, token
	return nil
}

func (c *Console) signOut(v *visit) error {
	if err := c.Office.End(v.token); err != nil {
		return err
	}
	c.setCookie(v.w, "session", "", -1e9)
	return v.see("/signin")
}

type joinData struct {
	Token string
	Link  desk.Link
	Unit  string
	Min   int
}

func (c *Console) joinPage(v *visit) error {
	token := v.r.PathValue("token")
	l, err := c.Office.OpenLink(token)
	if err != nil {
		return err
	}
	u, _ := c.Office.Unit(l.Unit)
	title := "join.title"
	if l.For != "" {
		title = "join.reset.title"
	}
	return v.show(http.StatusOK, "join", title, joinData{Token: token, Link: l, Unit: u.Name, Min: desk.MinPassword})
}

type recoveryData struct {
	Codes []string
	Host  string
	Name  string
}

func (c *Console) join(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	password := v.r.PostFormValue("password")
	if password != v.r.PostFormValue("again") {
		return &sorry{http.StatusUnprocessableEntity, "error.password.again", nil}
	}
	a, codes, err := c.Office.Join(v.r.PathValue("token"), signInName(v), v.r.PostFormValue("display"), password)
	if err != nil {
		return err
	}
	if err := c.begin(v, a); err != nil {
		return err
	}
	return v.show(http.StatusOK, "recovery", "recovery.title", recoveryData{spaced(codes), c.host, a.Name})
}

// spaced groups each code for reading: fours for long ones, threes for the others.
func spaced(codes []string) []string {
	made := make([]string, len(codes))
	for i, code := range codes {
		made[i] = strings.Join(groups(code), " ")
	}
	return made
}

func groups(code string) (parts []string) {
	size := 4
	if len(code) <= 9 {
		size = 3
	}
	for len(code) > size {
		parts = append(parts, code[:size])
		code = code[size:]
	}
	return append(parts, code)
}

type accountData struct {
	Unit     string
	Keys     []passkeyRow
	Passkeys bool
	Recovery int
	Min      int
}

func (c *Console) accountPage(v *visit) error {
	u, _ := c.Office.Unit(v.account.Unit)
	keys, err := passkeyRows(v.account)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "account", "account.title", accountData{
		Unit: u.Name, Keys: keys, Passkeys: c.passkeys != nil, Recovery: len(v.account.Recovery), Min: desk.MinPassword,
	})
}

func (c *Console) changePassword(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	password := v.r.PostFormValue("password")
	if password != v.r.PostFormValue("again") {
		return &sorry{http.StatusUnprocessableEntity, "error.password.again", nil}
	}
	if err := c.Office.ChangePassword(v.account.ID, v.r.PostFormValue("old"), password, v.token); err != nil {
		if errors.Is(err, desk.ErrSignIn) {
			return &sorry{http.StatusUnprocessableEntity, "error.password.old", nil}
		}
		return err
	}
	return v.show(http.StatusOK, "done", "account.title", doneData{v.T("account.password.done"), "/account"})
}

type doneData struct{ Text, Back string }

func (c *Console) newRecovery(v *visit) error {
	codes, err := c.Office.NewRecovery(v.account.ID)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "recovery", "recovery.title", recoveryData{spaced(codes), c.host, v.account.Name})
}

type startData struct {
	Retired   bool
	Codes     desk.Status
	Used, Cap int
	Waiting   int // notices that wait for a second person
	NoUnits   bool
	NoInstall bool
}

// start is the first page after signing in.
func (c *Console) start(v *visit) error {
	used, limit, err := c.Office.IssuedToday(v.account.ID)
	if err != nil {
		return err
	}
	notices, err := c.Office.Notices()
	if err != nil {
		return err
	}
	d := startData{
		Retired: c.retired(), Codes: c.Office.CodeStatus(), Used: used, Cap: limit,
		NoUnits: len(c.Office.Ledger().Units) == 0, NoInstall: c.InstallURL == "",
	}
	for _, n := range notices {
		if n.Waits() {
			d.Waiting++
		}
	}
	return v.show(http.StatusOK, "start", "start.title", d)
}
