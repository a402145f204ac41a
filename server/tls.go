package server

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// Certificate is a certificate and its key in two PEM files, read again when a file changed,
// so that whatever renews it has nothing to restart.
type Certificate struct {
	cert, key string

	mu      sync.Mutex
	current *tls.Certificate
	read    [2]time.Time // modification times of what is current
	looked  time.Time
}

// lookAgain is how long a look at the files is good for.
const lookAgain = time.Minute

// LoadCertificate reads the files.
func LoadCertificate(cert, key string) (*Certificate, error) {
	c := &Certificate{cert: cert, key: key}
	if err := c.refresh(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Certificate) refresh() error {
	var at [2]time.Time
	for i, path := range []string{c.cert, c.key} {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("read certificate: %w", err)
		}
		at[i] = info.ModTime()
	}
	if c.current != nil && at == c.read {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	c.current, c.read = &pair, at
	return nil
}

// get gives the certificate; one that cannot be read again stays in use.
func (c *Certificate) get() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) > lookAgain {
		c.looked = now
		_ = c.refresh() // Expires tells of a renewal that failed
	}
	return c.current
}

// Expires is when the certificate in use ends.
func (c *Certificate) Expires() (time.Time, error) {
	leaf, err := x509.ParseCertificate(c.get().Certificate[0])
	if err != nil {
		return time.Time{}, fmt.Errorf("read certificate: %w", err)
	}
	return leaf.NotAfter, nil
}

// Listen ends TLS on a listener, for HTTP/1.1.
func (c *Certificate) Listen(l net.Listener) net.Listener {
	conf := c.config()
	conf.NextProtos = []string{"http/1.1"}
	return tls.NewListener(l, conf)
}

func (c *Certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(), nil },
	}
}
