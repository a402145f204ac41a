package console

import (
	"errors"
	"net/http"
	"strings"

	"bluekey/keystore/desk"
)

// A laboratory system issues codes over Connect, with a key instead of a session:
//
//	Authorization: Bearer bluekey-…
//
// It needs no cookie, and a browser cannot be made to send its header from elsewhere.

var errKey = &sorry{http.StatusUnauthorized, "error.key", nil}

func (c *Console) call(v *visit) error {
	if c.API == nil {
		return notFound
	}
	key, ok := strings.CutPrefix(v.r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return errKey
	}
	k, err := c.Office.OpenAPIKey(key)
	if errors.Is(err, desk.ErrSession) {
		return errKey
	}
	if err != nil {
		return err
	}
	v.r.Header.Del("Authorization")
	v.r.Header.Del("Cookie")
	c.API(k.Officer()).ServeHTTP(v.w, v.r)
	return nil
}

type keyData struct{ Key, URL string }

// makeKey shows a new key, once.
func (c *Console) makeKey(v *visit) error {
	if c.API == nil {
		return notFound
	}
	if err := v.form(); err != nil {
		return err
	}
	key, err := c.Office.MakeAPIKey(v.account, v.r.PostFormValue("label"))
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "key", "key.title", keyData{key, c.URL})
}

func (c *Console) endKey(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	if err := c.Office.EndAPIKey(v.account, v.r.PostFormValue("key")); err != nil {
		return err
	}
	return v.see("/accounts")
}
