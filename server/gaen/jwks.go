package gaen

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	refreshEvery = 5 * time.Minute
	// After a failure, or for a certificate under a key that is not known: an authority that
	// changes its key without warning loses no more. Anybody can name such a key, so it is
	// also as often as anybody can make us fetch.
	retryEvery   = 30 * time.Second
	fetchTimeout = 10 * time.Second
	maxJWKS      = 64 << 10 // bytes
)

// newClient is what fetches key sets. It follows no redirect: an authority's keys lie where
// the operator said, and nowhere else.
func newClient() *http.Client {
	return &http.Client{
		Timeout:       fetchTimeout,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a redirect: name the final address") },
	}
}

// Run keeps the keys of authorities with a JWKS up to date until ctx ends. A failure leaves
// the keys as they are; it is logged when it begins and when it ends.
func (d *Door) Run(ctx context.Context) error {
	var group sync.WaitGroup
	for _, is := range d.issuers {
		if is.jwks != nil {
			group.Go(func() { d.follow(ctx, is) })
		}
	}
	<-ctx.Done()
	group.Wait()
	return nil
}

func (d *Door) follow(ctx context.Context, is *issuer) {
	for failing := false; ; {
		err := is.refresh(ctx, d.client)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failing {
				d.cfg.Logger.Warn("cannot fetch the keys of a health authority; those known before hold on", "issuer", is.name, "err", err)
			}
		case failing:
			d.cfg.Logger.Info("the keys of a health authority are fetched again", "issuer", is.name)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryEvery):
		}
		if failing {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-is.wanted:
		case <-time.After(refreshEvery - retryEvery):
		}
	}
}

// refresh replaces the keys by those that are published now, all of them or none.
func (is *issuer) refresh(ctx context.Context, client *http.Client) error {
	keys, err := fetch(ctx, client, is.jwks.String())
	if err != nil {
		return err
	}
	is.keys.Store(&keys)
	return nil
}

func fetch(ctx context.Context, client *http.Client, url string) (keyring, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered %s", res.Status)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxJWKS+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxJWKS {
		return nil, fmt.Errorf("larger than %d bytes", maxJWKS)
	}
	return parseJWKS(text)
}

// parseJWKS reads a key set (RFC 7517, section 5), or the bare list of keys that the
// reference verification server publishes. Keys for other purposes are passed over; a set
// without a single one for ES256 is an error, as is a key id of two keys.
func parseJWKS(text []byte) (keyring, error) {
	var list []members
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("[")) {
		if err := readJSON(text, nil, &list); err != nil {
			return nil, fmt.Errorf("read key set: %w", err)
		}
		return keysOf(list)
	}
	var set members
	if err := readJSON(text, nil, &set); err != nil {
		return nil, fmt.Errorf("read key set: %w", err)
	}
	if json.Unmarshal(set["keys"], &list) != nil {
		return nil, errors.New("read key set: keys: want a list of objects")
	}
	return keysOf(list)
}

func keysOf(list []members) (keyring, error) {
	keys := keyring{}
	for _, k := range list {
		if k.str("kty") != "EC" || k.str("crv") != "P-256" || !k.absentOr("use", "sig") || !k.absentOr("alg", "ES256") {
			continue
		}
		key, err := parsePoint(k.str("x"), k.str("y"))
		if err != nil {
			return nil, fmt.Errorf("read key set: key %.40q: %w", k.str("kid"), err)
		}
		kid := k.str("kid")
		if kid == "" || keys[kid] != nil {
			return nil, fmt.Errorf("read key set: key id %.40q is missing or there twice", kid)
		}
		keys[kid] = key
	}
	if len(keys) == 0 {
		return nil, errors.New("read key set: no key for ES256")
	}
	return keys, nil
}

// absentOr reports whether a member is absent or has the value.
func (m members) absentOr(name, value string) bool {
	_, there := m[name]
	return !there || m.str(name) == value
}

// parsePoint reads the coordinates of a P-256 point (RFC 7518, section 6.2.1).
func parsePoint(x, y string) (*ecdsa.PublicKey, error) {
	point := []byte{4}
	for _, text := range []string{x, y} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(text)
		if err != nil || len(b) != 32 {
			return nil, errors.New("coordinates: want 32 bytes in base64url")
		}
		point = append(point, b...)
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
}
