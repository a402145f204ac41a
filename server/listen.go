package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"connectrpc.com/connect"

	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/server/api/bluekey/v1/bluekeyv1connect"
)

// capListener accepts a connection only while fewer than a fixed number are open. The
// others wait in the kernel's queue: they cost the process nothing.
type capListener struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
	open   *atomic.Int64
}

func newCapListener(l net.Listener, limit int, open *atomic.Int64) *capListener {
	return &capListener{Listener: l, slots: make(chan struct{}, limit), closed: make(chan struct{}), open: open}
}

func (l *capListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	l.open.Add(1)
	return &capConn{Conn: c, l: l}, nil
}

func (l *capListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type capConn struct {
	net.Conn
	l    *capListener
	once sync.Once
}

func (c *capConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.l.open.Add(-1)
		<-c.l.slots
	})
	return err
}

// ReadFrom keeps the way open for sendfile.
func (c *capConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// ListenAdmin opens the unix socket of local administration at path, with mode 0600 from
// the instant it has its name, over any socket that a killed process left there. Closing
// the listener removes it. The caller holds the lock of the data folder: nobody else
// listens at path.
func ListenAdmin(path string) (net.Listener, error) {
	// A socket gets its mode after it is made, so it is made where nobody else can look.
	private, err := os.MkdirTemp(filepath.Dir(path), ".admin-*")
	if err != nil {
		return nil, fmt.Errorf("making the admin socket: %w", err)
	}
	defer os.RemoveAll(private)
	made := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making the admin socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		l.Close()
		return nil, fmt.Errorf("making the admin socket: %w", err)
	}
	return &adminListener{Listener: l, path: path}, nil
}

type adminListener struct {
	net.Listener
	path string
}

func (l *adminListener) Close() error {
	err := l.Listener.Close()
	if rm := os.Remove(l.path); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

// LocalClient calls the services of the unix socket.
type LocalClient struct {
	bluekeyv1connect.CodeServiceClient
	bluekeyv1connect.AdminServiceClient
}

// AdminClient calls the server that listens on the unix socket at path.
func AdminClient(path string) LocalClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			dir := filepath.Dir(path)
			err = fmt.Errorf("no appliance answers in %s: start one with bluekey serve --data %s", dir, dir)
		}
		return conn, err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	const host = "http://admin.sock"
	return LocalClient{bluekeyv1connect.NewCodeServiceClient(client, host), bluekeyv1connect.NewAdminServiceClient(client, host)}
}

// Refused tells what the server said if it would not do what a LocalClient asked.
func Refused(err error) (text string, ok bool) {
	var wire *connect.Error
	if !errors.As(err, &wire) {
		return "", false
	}
	for _, d := range wire.Details() {
		if value, err := d.Value(); err == nil {
			if _, ok := value.(*v1.Refusal); ok {
				return wire.Message(), true
			}
		}
	}
	return "", false
}
