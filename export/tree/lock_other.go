//go:build !unix

package tree

import (
	"errors"
	"fmt"
	"io"
)

// Lock fails: there is no lock here that ends with the process.
func Lock(path string) (io.Closer, error) {
	return nil, fmt.Errorf("locking %s: %w", path, errors.ErrUnsupported)
}
