package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"bluekey/keystore/desk"
)

// ceremonies are passkey challenges given out and not yet answered. They live in memory:
// a restart asks people to press the button again.
type ceremonies struct {
	mu   sync.Mutex
	open map[string]ceremony // by challenge
}

type ceremony struct {
	session webauthn.SessionData
	account string // whose passkey is being added; empty for signing in
	until   time.Time
}

const (
	ceremonyLife  = 5 * time.Minute
	maxCeremonies = 1000
)

func (c *ceremonies) add(s *webauthn.SessionData, account string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[string]ceremony{}
	}
	for challenge, o := range c.open {
		if o.until.Before(now) || len(c.open) >= maxCeremonies {
			delete(c.open, challenge)
		}
	}
	c.open[s.Challenge] = ceremony{*s, account, now.Add(ceremonyLife)}
}

// take gives a challenge up: it is answered once.
func (c *ceremonies) take(challenge, account string, now time.Time) (webauthn.SessionData, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, known := c.open[challenge]
	delete(c.open, challenge)
	return o.session, known && o.account == account && now.Before(o.until)
}

// holder is an account as the webauthn package sees it.
type holder struct {
	desk.Account
	credentials []webauthn.Credential
}

func newHolder(a desk.Account) (holder, error) {
	h := holder{Account: a}
	for _, raw := range a.Passkeys {
		var k storedPasskey
		if err := json.Unmarshal(raw, &k); err != nil {
			return h, fmt.Errorf("passkey of an account: %w", err)
		}
		h.credentials = append(h.credentials, k.Credential)
	}
	return h, nil
}

func (h holder) WebAuthnID() []byte                         { return []byte(h.ID) }
func (h holder) WebAuthnName() string                       { return h.Name }
func (h holder) WebAuthnDisplayName() string                { return h.Display }
func (h holder) WebAuthnCredentials() []webauthn.Credential { return h.credentials }

// storedPasskey is a passkey as an account keeps it.
type storedPasskey struct {
	Added      time.Time           `json:"added"`
	Credential webauthn.Credential `json:"credential"`
}

type passkeyRow struct {
	Index int
	Added time.Time
}

func passkeyRows(a desk.Account) (rows []passkeyRow, err error) {
	for i, raw := range a.Passkeys {
		var k storedPasskey
		if err := json.Unmarshal(raw, &k); err != nil {
			return nil, fmt.Errorf("passkey of an account: %w", err)
		}
		rows = append(rows, passkeyRow{i, k.Added})
	}
	return rows, nil
}

var (
	errNoPasskeys = &sorry{http.StatusNotFound, "error.passkey.none", nil}
	errPasskey    = &sorry{http.StatusForbidden, "error.passkey", nil}
)

// maxPasskeys bounds those of one account.
const maxPasskeys = 10

func (v *visit) json(data any) error {
	v.w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(v.w).Encode(data)
}

func (c *Console) passkeyAddBegin(v *visit) error {
	if c.passkeys == nil {
		return errNoPasskeys
	}
	h, err := newHolder(v.account)
	if err != nil {
		return err
	}
	if len(h.credentials) >= maxPasskeys {
		return errPasskey
	}
	options, session, err := c.passkeys.BeginRegistration(h,
		webauthn.WithResidentKeyRequirement(protocol.ResidentKeyRequirementRequired),
		webauthn.WithAuthenticatorSelection(protocol.AuthenticatorSelection{
			ResidentKey: protocol.ResidentKeyRequirementRequired, RequireResidentKey: protocol.ResidentKeyRequired(), UserVerification: protocol.VerificationRequired,
		}),
		webauthn.WithExclusions(webauthn.Credentials(h.credentials).CredentialDescriptors()))
	if err != nil {
		return fmt.Errorf("begin to add a passkey: %w", err)
	}
	c.ceremonies.add(session, v.account.ID, c.Office.Now())
	return v.json(options)
}

func (c *Console) passkeyAddFinish(v *visit) error {
	if c.passkeys == nil {
		return errNoPasskeys
	}
	response, err := protocol.ParseCredentialCreationResponseBody(v.r.Body)
	if err != nil {
		return errPasskey
	}
	session, ok := c.ceremonies.take(response.Response.CollectedClientData.Challenge, v.account.ID, c.Office.Now())
	if !ok {
		return errPasskey
	}
	h, err := newHolder(v.account)
	if err != nil {
		return err
	}
	credential, err := c.passkeys.CreateCredential(h, session, response)
	if err != nil {
		return errPasskey
	}
	raw, err := json.Marshal(storedPasskey{c.Office.Now(), *credential})
	if err != nil {
		return fmt.Errorf("store a passkey: %w", err)
	}
	if err := c.Office.SetPasskeys(v.account.ID, "passkey added", func(keys []json.RawMessage) []json.RawMessage { return append(keys, raw) }); err != nil {
		return err
	}
	return v.json(map[string]string{"next": "/account"})
}

func (c *Console) passkeyRemove(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	i, err := desk.ParseCount(v.r.PostFormValue("passkey"))
	if err != nil || i >= int64(len(v.account.Passkeys)) {
		return notFound
	}
	old := v.account.Passkeys[i]
	if err := c.Office.SetPasskeys(v.account.ID, "passkey removed", func(keys []json.RawMessage) []json.RawMessage {
		return slices.DeleteFunc(keys, func(k json.RawMessage) bool { return bytes.Equal(k, old) })
	}); err != nil {
		return err
	}
	return v.see("/account")
}

func (c *Console) passkeySignInBegin(v *visit) error {
	if c.passkeys == nil {
		return errNoPasskeys
	}
	options, session, err := c.passkeys.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		return fmt.Errorf("begin to sign in with a passkey: %w", err)
	}
	c.ceremonies.add(session, "", c.Office.Now())
	return v.json(options)
}

func (c *Console) passkeySignInFinish(v *visit) error {
	if c.passkeys == nil {
		return errNoPasskeys
	}
	response, err := protocol.ParseCredentialRequestResponseBody(v.r.Body)
	if err != nil {
		return errPasskey
	}
	session, ok := c.ceremonies.take(response.Response.CollectedClientData.Challenge, "", c.Office.Now())
	if !ok {
		return errPasskey
	}
	var found holder
	_, credential, err := c.passkeys.ValidatePasskeyLogin(func(_, userHandle []byte) (webauthn.User, error) {
		accounts, err := c.Office.Accounts()
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(accounts, func(a desk.Account) bool { return a.ID == string(userHandle) && !a.Ended })
		if i < 0 {
			return nil, errors.New("no such account")
		}
		found, err = newHolder(accounts[i])
		return found, err
	}, session, response)
	if err != nil || credential.Authenticator.CloneWarning {
		return errPasskey
	}
	// The counter by which a copied authenticator is noticed.
	err = c.Office.SetPasskeys(found.ID, "", func(keys []json.RawMessage) []json.RawMessage {
		for i, raw := range keys {
			var k storedPasskey
			if json.Unmarshal(raw, &k) == nil && bytes.Equal(k.Credential.ID, credential.ID) {
				k.Credential = *credential
				if raw, err := json.Marshal(k); err == nil {
					keys[i] = raw
				}
			}
		}
		return keys
	})
	if err != nil {
		return err
	}
	if err := c.begin(v, found.Account); err != nil {
		return err
	}
	return v.json(map[string]string{"next": "/"})
}
