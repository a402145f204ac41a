//go:build !unix

package witness

import (
	"errors"
	"io"
)

// Lock fails: without a lock two witnesses on the same records could cosign two histories.
func Lock(string) (io.Closer, error) {
	return nil, errors.New("a witness cannot lock its records on this system")
}
