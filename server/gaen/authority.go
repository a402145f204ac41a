package gaen

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync/atomic"

	"go.yaml.in/yaml/v3"
)

// Authority is a health authority whose certificates the door accepts. Either Keys or JWKS
// is set.
type Authority struct {
	// Issuer and Audience are the claims iss and aud of its certificates, to the letter.
	// No two authorities have the same issuer.
	Issuer   string `yaml:"issuer"`
	Audience string `yaml:"audience"`
	// Apps are the values of healthAuthorityID with which apps may bring its certificates.
	Apps []string `yaml:"apps"`
	// Keys are P-256 public keys, one PEM block of type PUBLIC KEY each, by key id.
	Keys map[string]string `yaml:"keys"`
	// JWKS is where its keys are published (RFC 7517): an https URL, or any on loopback.
	JWKS string `yaml:"jwks"`
}

// ParseAuthorities reads the file that lists the authorities: a YAML list of mappings with
// the members issuer, audience, apps, and keys or jwks. Anything else in it is refused.
func ParseAuthorities(text []byte) ([]Authority, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	var list []Authority
	if err := dec.Decode(&list); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read authorities: %w", err)
	}
	if err := dec.Decode(new(yaml.Node)); err != io.EOF {
		return nil, errors.New("read authorities: a second document")
	}
	if _, err := newIssuers(list); err != nil {
		return nil, err
	}
	return list, nil
}

// issuer is an Authority that is checked, and its keys as they are known now.
type issuer struct {
	name, audience string
	apps           map[string]bool
	jwks           *url.URL // nil if its keys are fixed
	keys           atomic.Pointer[keyring]
	wanted         chan struct{} // holds one value if a certificate named a key that is not among keys
}

// key is the key with this id, nil if there is none among those known now.
func (is *issuer) key(kid string) (*ecdsa.PublicKey, error) {
	keys := is.keys.Load()
	if keys == nil {
		return nil, errNoKeys
	}
	key := (*keys)[kid]
	if key == nil {
		select {
		case is.wanted <- struct{}{}:
		default: // it is wanted already, or nobody fetches any
		}
	}
	return key, nil
}

// keyring is the keys of an authority by key id.
type keyring map[string]*ecdsa.PublicKey

// issuers are the authorities by the name in their certificates.
type issuers map[string]*issuer

// newIssuers checks a list of authorities.
func newIssuers(list []Authority) (issuers, error) {
	if len(list) == 0 {
		return nil, errors.New("no health authority is given: name one, or leave the door shut")
	}
	all := issuers{}
	for i, a := range list {
		is, err := newIssuer(a)
		if err == nil && all[a.Issuer] != nil {
			err = errors.New("the issuer stands a second time")
		}
		if err != nil {
			return nil, fmt.Errorf("authority %d, issuer %q: %w", i+1, a.Issuer, err)
		}
		all[a.Issuer] = is
	}
	return all, nil
}

func newIssuer(a Authority) (*issuer, error) {
	if a.Issuer == "" || a.Audience == "" {
		return nil, errors.New("issuer and audience must be given")
	}
	is := &issuer{name: a.Issuer, audience: a.Audience, apps: map[string]bool{}}
	for _, app := range a.Apps {
		if app == "" || is.apps[app] {
			return nil, errors.New("apps: an empty name, or one that stands a second time")
		}
		is.apps[app] = true
	}
	if len(is.apps) == 0 {
		return nil, errors.New("apps: at least one must be given")
	}
	if (len(a.Keys) == 0) == (a.JWKS == "") {
		return nil, errors.New("either keys or jwks must be given")
	}
	if a.JWKS != "" {
		var err error
		is.wanted = make(chan struct{}, 1)
		is.jwks, err = parseJWKSURL(a.JWKS)
		return is, err
	}
	keys := keyring{}
	for kid, text := range a.Keys {
		if kid == "" {
			return nil, errors.New("keys: a key without an id")
		}
		key, err := parsePEM([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("keys: %q: %w", kid, err)
		}
		keys[kid] = key
	}
	is.keys.Store(&keys)
	return is, nil
}

func parsePEM(text []byte) (*ecdsa.PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("want one PEM block of type PUBLIC KEY")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	key, ok := public.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("want a P-256 key")
	}
	return key, nil
}

// parseJWKSURL refuses URLs over which somebody on the way could change the keys.
func parseJWKSURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("jwks: %w", err)
	}
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	switch {
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, errors.New("jwks: want a URL with a host, without a user or a fragment")
	case u.Scheme != "https" && !(u.Scheme == "http" && local):
		return nil, errors.New("jwks: want https")
	}
	return u, nil
}
