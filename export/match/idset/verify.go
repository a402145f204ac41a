package idset

import (
	"bytes"
	"fmt"
	"io"
	"iter"

	"bluekey/keystore/diagnosis"
)

// Verify reports whether file is, byte for byte, the ID set of keys: that every ID of the
// keys is in it, and nothing else. It reads the keys as Write does.
func Verify(file io.Reader, p Params, keys iter.Seq2[diagnosis.Key, error], o Options) error {
	c := &comparer{file: file}
	if _, err := Write(c, p, keys, o); err != nil {
		return err
	}
	if n, err := io.ReadFull(file, c.buf(1)); n > 0 {
		return fmt.Errorf("ID set: bytes follow where it should end, at %d", c.at)
	} else if err != io.EOF {
		return fmt.Errorf("ID set: reading it: %w", err)
	}
	return nil
}

// comparer is a writer that accepts only what the file holds.
type comparer struct {
	file io.Reader
	at   int64
	have []byte
}

func (c *comparer) buf(n int) []byte {
	if cap(c.have) < n {
		c.have = make([]byte, n)
	}
	return c.have[:n]
}

func (c *comparer) Write(p []byte) (int, error) {
	have := c.buf(len(p))
	if n, err := io.ReadFull(c.file, have); err != nil {
		return 0, fmt.Errorf("comparing with the file at %d: %w", c.at+int64(n), err)
	}
	if !bytes.Equal(have, p) {
		i := 0
		for have[i] == p[i] {
			i++
		}
		return 0, fmt.Errorf("the file differs from the set of its keys at byte %d", c.at+int64(i))
	}
	c.at += int64(len(p))
	return len(p), nil
}
