package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certify writes a certificate for localhost and its key into two files of a folder, and
// gives who believes it.
func certify(t *testing.T, dir string, serial int64, ends time.Time) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: ends, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for path, b := range map[string][]byte{cert: text, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return cert, key, roots
}

func client(roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
}

// TestPublicTLS: the public address speaks HTTP/2 over TLS, nothing older than TLS 1.2, and
// nothing in the clear.
func TestPublicTLS(t *testing.T) {
	cert, key, roots := certify(t, t.TempDir(), 1, time.Now().Add(time.Hour))
	a := start(t, func(c *Config) {
		var err error
		if c.Certificate, err = LoadCertificate(cert, key); err != nil {
			t.Fatal(err)
		}
	})
	a.put("policy", []byte("x\n"))
	address := strings.TrimPrefix(a.url, "http://")
	res, err := client(roots).Get("https://" + address + "/policy")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || res.ProtoMajor != 2 {
		t.Errorf("%s over %s", res.Status, res.Proto)
	}
	if res, err := a.client.Get(a.url + "/policy"); err == nil {
		res.Body.Close()
		if res.StatusCode == 200 {
			t.Error("it is served in the clear")
		}
	}
	if c, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		c.Close()
		t.Error("TLS 1.1 is spoken")
	}
}

// TestCertificateIsRenewed: files that changed are taken up without a restart, and damaged
// ones leave the old certificate in use.
func TestCertificateIsRenewed(t *testing.T) {
	dir := t.TempDir()
	soon, late := time.Now().Add(time.Hour).Truncate(time.Second), time.Now().Add(1000*time.Hour).Truncate(time.Second)
	certFile, keyFile, roots := certify(t, dir, 1, soon)
	c, err := LoadCertificate(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	go srv.Serve(c.Listen(l))
	defer srv.Close()
	want := func(when string, roots *x509.CertPool, ends time.Time) {
		t.Helper()
		c.mu.Lock()
		c.looked = time.Time{} // as if a minute had passed
		c.mu.Unlock()
		res, err := client(roots).Get("https://" + l.Addr().String())
		if err != nil {
			t.Errorf("%s: %v", when, err)
			return
		}
		res.Body.Close()
		if res.ProtoMajor != 1 {
			t.Errorf("%s: %s", when, res.Proto)
		}
		if got, err := c.Expires(); err != nil || !got.Equal(ends) {
			t.Errorf("%s: it ends %s, %v; want %s", when, got, err, ends)
		}
	}
	want("at first", roots, soon)
	_, _, renewed := certify(t, dir, 2, late)
	for _, path := range []string{certFile, keyFile} { // whatever the disk's clock counts in
		if err := os.Chtimes(path, soon, soon); err != nil {
			t.Fatal(err)
		}
	}
	want("renewed", renewed, late)
	if err := os.WriteFile(keyFile, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	want("with a damaged key", renewed, late)
	if _, err := LoadCertificate(certFile, keyFile); err == nil {
		t.Error("a damaged key is loaded")
	}
}
