package console

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// The certificate of an https address is often a proxy's, so the console looks at its own
// addresses from outside, as a browser does, a few times a day.

const (
	certEvery = 6 * time.Hour
	certRetry = 10 * time.Minute // where an address did not answer
	certWait  = 10 * time.Second
)

// certificate is when that of an address ends; zero if the address did not answer.
type certificate struct {
	Host string
	Ends time.Time
}

// certificates is what the last look found.
type certificates struct {
	mu   sync.Mutex
	seen []certificate
}

func (c *certificates) get() []certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.seen)
}

// watchCertificates looks until ctx ends.
func (c *Console) watchCertificates(ctx context.Context) {
	for {
		var seen []certificate
		next := certEvery
		for _, host := range c.secureHosts() {
			ends := certificateEnds(ctx, host)
			if ends.IsZero() {
				next = certRetry
			}
			seen = append(seen, certificate{host, ends})
		}
		c.certificates.mu.Lock()
		c.certificates.seen = seen
		c.certificates.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// secureHosts are the own addresses that are https, as host:port.
func (c *Console) secureHosts() (hosts []string) {
	for _, address := range []string{c.URL, c.PublicURL} {
		u, err := url.Parse(address)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			continue
		}
		port := u.Port()
		if port == "" {
			port = "443"
		}
		if host := net.JoinHostPort(u.Hostname(), port); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

func certificateEnds(ctx context.Context, host string) time.Time {
	ctx, cancel := context.WithTimeout(ctx, certWait)
	defer cancel()
	// Only the date is read and nothing is sent: an office may have an authority of its own
	// that this machine does not know.
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return time.Time{}
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].NotAfter
}

// Name is the host without the usual port.
func (c certificate) Name() string { return strings.TrimSuffix(c.Host, ":443") }
