package export

import (
	"archive/zip"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
)

// Limits of what is read. An archive of MaxKeys keys has 9 MB and unpacks to 16 MB.
const (
	maxArchive   = 64 << 20 // bytes of the file
	maxExportBin = 64 << 20 // bytes of export.bin, unpacked
	maxSigFile   = 16 << 10 // bytes of export.sig, unpacked
	maxRatio     = 100      // unpacked to packed bytes, beyond the first 64 KB; keys reach 2
	maxField     = 1 << 10  // bytes of one field of export.bin
)

// openFrame finds the two entries and checks everything around their data.
func openFrame(r io.ReaderAt, size int64) (bin, sig *zip.File, err error) {
	const endLen = 22 // end of central directory, without a comment
	var end [endLen]byte
	if size < endLen || size > maxArchive {
		return nil, nil, fmt.Errorf("%d bytes, want %d to %d", size, endLen, maxArchive)
	}
	if _, err := r.ReadAt(end[:], size-endLen); err != nil && err != io.EOF {
		return nil, nil, err
	}
	if !bytes.HasPrefix(end[:], []byte("PK\x05\x06\x00\x00\x00\x00\x02\x00\x02\x00")) {
		return nil, nil, errors.New("the end is not that of a zip file with two entries")
	}
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, nil, err
	}
	if len(z.File) != 2 || z.File[0].Name != binName || z.File[1].Name != sigName {
		return nil, nil, errors.New("entries other than export.bin and export.sig, in this order")
	}
	z.RegisterDecompressor(zip.Deflate, newInflater)
	bin, sig = z.File[0], z.File[1]
	limits := map[*zip.File]uint64{bin: maxExportBin, sig: maxSigFile}
	for f, limit := range limits {
		if f.UncompressedSize64 > limit || f.UncompressedSize64 > 64<<10+maxRatio*f.CompressedSize64 {
			return nil, nil, fmt.Errorf("%s unpacks from %d to %d bytes: too many", f.Name, f.CompressedSize64, f.UncompressedSize64)
		}
	}
	return bin, sig, checkFrame(r, size, z.File)
}

// checkFrame writes the archive again, around the same packed data, and compares. So
// nothing can hide between, before or behind the entries, and no two of the places where
// a zip file says the same thing can differ: readers that trust either see one archive.
func checkFrame(r io.ReaderAt, size int64, files []*zip.File) error {
	same := &comparer{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 64<<10)}
	z := zip.NewWriter(same)
	for _, f := range files {
		const version = 20 // 2.0: deflate
		w, err := z.CreateRaw(&zip.FileHeader{
			Name: f.Name, Method: zip.Deflate, Flags: 0x8, CreatorVersion: version, ReaderVersion: version,
			CRC32: f.CRC32, CompressedSize64: f.CompressedSize64, UncompressedSize64: f.UncompressedSize64,
		})
		if err != nil {
			return err
		}
		raw, err := f.OpenRaw()
		if err != nil {
			return err
		}
		if _, err := io.Copy(w, raw); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	if _, err := same.r.ReadByte(); err != io.EOF {
		return errFrame
	}
	return nil
}

var errFrame = errors.New("the zip structure is not that of an export archive")

// comparer is a writer that accepts what r holds.
type comparer struct{ r *bufio.Reader }

func (c *comparer) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		have, err := c.r.Peek(min(len(p)-done, c.r.Size()))
		if err == io.EOF || err == nil && !bytes.Equal(have, p[done:done+len(have)]) {
			return done, errFrame
		}
		if err != nil {
			return done, err
		}
		c.r.Discard(len(have)) // what was peeked is there
		done += len(have)
	}
	return len(p), nil
}

// inflater unpacks one entry and insists that its packed data end where the stream does.
type inflater struct {
	io.ReadCloser
	packed *bufio.Reader
}

func newInflater(r io.Reader) io.ReadCloser {
	packed := bufio.NewReaderSize(r, 32<<10) // an io.ByteReader: flate reads nothing beyond its end
	return &inflater{flate.NewReader(packed), packed}
}

func (i *inflater) Read(p []byte) (int, error) {
	n, err := i.ReadCloser.Read(p)
	if err == io.EOF {
		if _, more := i.packed.ReadByte(); more != io.EOF {
			return n, errors.New("packed data go on after their end")
		}
	}
	return n, err
}
