//go:build unix

package witness

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Lock keeps a folder of records for this process until the result is closed or the process
// ends: two witnesses on the same records could cosign two histories. The folder must
// exist.
func Lock(dir string) (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the records: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("the records in %s are in use by another process: %w", dir, err), f.Close())
	}
	return f, nil
}
