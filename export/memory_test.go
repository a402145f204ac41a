package export

import (
	"bytes"
	"io"
	"runtime"
	"testing"

	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// Memory follows the blocks, not the keys: what ten times as many keys need more is far
// below what they weigh (16 bytes each at least). A key set's writer holds just that.
func TestMemoryIsBounded(t *testing.T) {
	allocated := func(f func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	few, many := draw(20_000, exact), draw(200_000, exact)
	signers := []*signing.ExportSigner{signer(t, "v1")}
	for name, c := range map[string]struct {
		use   func([]diagnosis.Key, []byte, []byte) error
		limit uint64
	}{
		"WriteArchive": {func(keys []diagnosis.Key, _, _ []byte) error {
			_, err := WriteArchive(io.Discard, someWindow, signers, all(keys))
			return err
		}, 1 << 20},
		"reading an archive": {func(_ []diagnosis.Key, zipped, _ []byte) error {
			a, err := openArchive(zipped)
			if err == nil {
				err = a.Verify(signers[0].Public())
			}
			return err
		}, 1 << 20},
		"WriteKeySet": {func(keys []diagnosis.Key, _, _ []byte) error {
			_, err := WriteKeySet(io.Discard, KeySetHeader{diagnosis.GAEN, 1, 2}, all(keys))
			return err
		}, 2 * 16 * 180_000},
		"reading a key set": {func(_ []diagnosis.Key, _, set []byte) error {
			r, err := NewKeySetReader(bytes.NewReader(set))
			for err == nil {
				_, err = r.Next()
			}
			if err == io.EOF {
				err = nil
			}
			return err
		}, 1 << 20},
	} {
		var sizes []uint64
		for _, keys := range [][]diagnosis.Key{few, many} {
			zipped, set := archive(t, keys), keySet(t, diagnosis.GAEN, keys)
			sizes = append(sizes, allocated(func() {
				if err := c.use(keys, zipped, set); err != nil {
					t.Fatal(err)
				}
			}))
		}
		t.Logf("%s: %d KB, then %d KB", name, sizes[0]>>10, sizes[1]>>10)
		if sizes[1] > sizes[0]+c.limit {
			t.Errorf("%s allocates %d bytes for %d keys, %d for %d", name, sizes[0], len(few), sizes[1], len(many))
		}
	}
}
