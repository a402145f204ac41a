package console

import (
	"net/http"
	"strings"
	"time"

	"bluekey/keystore/desk"
)

type accountsData struct {
	Accounts []desk.Account
	Roles    []desk.Role
	Units    []unitChoice
	API      bool // laboratory systems may call
	Keys     []desk.APIKey
}

func (c *Console) accountsPage(v *visit) error {
	accounts, err := c.Office.Accounts()
	if err != nil {
		return err
	}
	keys, err := c.Office.APIKeys()
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "accounts", "accounts.title", accountsData{accounts, desk.Roles[:], c.unitChoices(""), c.API != nil, keys})
}

type linkData struct {
	Title, Hint, URL string
	Back             string
	QR               any
}

// showLink shows a link once.
func (c *Console) showLink(v *visit, title, hint, path, back string) error {
	qr, err := qrSVG(c.URL + path)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "link", title, linkData{v.T(title), v.T(hint), c.URL + path, back, qr})
}

func (c *Console) invite(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	role := desk.Role(v.r.PostFormValue("role"))
	if !role.Valid() {
		return &sorry{http.StatusUnprocessableEntity, "error.form", nil}
	}
	token, err := c.Office.Invite(v.account.ID, role, v.r.PostFormValue("unit"))
	if err != nil {
		return err
	}
	return c.showLink(v, "accounts.invite.done", "accounts.invite.hint", "/join/"+token, "/accounts")
}

// Invite makes a link for a new account in the name of whoever owns the data folder: how
// one gets in when no account can.
func (c *Console) Invite(role, unit string) (link string, expires time.Time, err error) {
	token, err := c.Office.Invite(desk.Local, desk.Role(role), unit)
	if err != nil {
		return "", time.Time{}, err
	}
	return c.joinURL(token), c.Office.Now().Add(desk.InviteLife), nil
}

// SetUp makes the link for the first account; it is empty if there is an account.
func (c *Console) SetUp() (link string, err error) {
	token, err := c.Office.SetUpLink()
	if err != nil || token == "" {
		return "", err
	}
	return c.joinURL(token), nil
}

func (c *Console) joinURL(token string) string { return c.URL + "/join/" + token }

func (c *Console) setRole(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	role := desk.Role(v.r.PostFormValue("role"))
	if !role.Valid() {
		return &sorry{http.StatusUnprocessableEntity, "error.form", nil}
	}
	if err := c.Office.SetRole(v.account.ID, v.r.PostFormValue("account"), role, strings.TrimSpace(v.r.PostFormValue("unit"))); err != nil {
		return err
	}
	return v.see("/accounts")
}

func (c *Console) resetAccount(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	token, err := c.Office.ResetLink(v.account.ID, v.r.PostFormValue("account"))
	if err != nil {
		return err
	}
	return c.showLink(v, "accounts.reset.done", "accounts.reset.hint", "/join/"+token, "/accounts")
}

func (c *Console) endAccount(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	if err := c.Office.EndAccount(v.account.ID, v.r.PostFormValue("account")); err != nil {
		return err
	}
	return v.see("/accounts")
}
