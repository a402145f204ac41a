//go:build unix

package tree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Lock keeps what lies beside a file for this process, until the result is closed or the
// process ends. It makes the file; the folder must exist.
func Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another process works here, and holds %s: %w", path, err), f.Close())
	}
	return f, nil
}
