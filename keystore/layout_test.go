package keystore

import (
	"bytes"
	"testing"

	"bluekey/keystore/diagnosis"
)

// FuzzRows: a damaged row gives an error or a value that is written as the same row.
func FuzzRows(f *testing.F) {
	k := at(diagnosis.GAEN, 1, 144, 144)
	meta := keyMeta(&k)
	f.Add(appendKeyRow(nil, &k, 7), meta[:])
	k = at(diagnosis.Bluezone, 1, 96, 96)
	f.Add(appendKeyRow(nil, &k, 7), meta[:])
	w := Window{Scheme: diagnosis.GAEN, Start: testStart, End: testStart, Through: testStart, Published: true}
	name, value := w.encode()
	f.Add(name, value)
	f.Add([]byte("schain"), chain{1, 2, 3}.encode())
	f.Fuzz(func(t *testing.T, name, value []byte) {
		for _, scheme := range diagnosis.Schemes {
			k, bucket, err := parseKeyRow(scheme, name, value)
			if err != nil || name[0] != keyRow || name[1] != byte(scheme) {
				continue
			}
			if meta := keyMeta(&k); !bytes.Equal(meta[:], value) || !bytes.Equal(appendKeyRow(nil, &k, bucket), name) {
				t.Errorf("a key row is written otherwise than it was read")
			}
		}
		if w, err := parseWindow(name, value); err == nil && name[0] == windowRow {
			if n, v := w.encode(); !bytes.Equal(n, name) || !bytes.Equal(v, value) {
				t.Errorf("a window is written otherwise than it was read")
			}
		}
		if c, err := parseChain(value); err == nil && !bytes.Equal(c.encode(), value) {
			t.Errorf("a chain is written otherwise than it was read")
		}
	})
}
