package export

import (
	"archive/zip"
	"bufio"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"

	"google.golang.org/protobuf/encoding/protowire"

	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// Archive is an opened archive or bare export.bin. It is not for concurrent use: Keys and
// Verify share what they learn.
type Archive struct {
	ArchiveHeader
	BatchNum, BatchSize int32
	Infos               []SignatureInfo
	Signatures          [][]byte // ASN.1 DER, one for each of Infos; none in a bare export.bin

	open   func() (io.ReadCloser, error)
	count  int
	digest [sha256.Size]byte
	whole  bool // count and digest are known: export.bin was read to its end without an error
}

// OpenArchive opens an archive, checks its frame and reads all but the keys. The frame is
// strict: exactly export.bin and export.sig, deflated, each byte of the zip structure as
// WriteArchive would write it around the same data. Keys and Verify check the rest.
//
// Archives of the reference key server have the same frame. It is not told apart here who
// wrote an archive, so any batch number is accepted.
func OpenArchive(r io.ReaderAt, size int64) (*Archive, error) {
	bin, sig, err := openFrame(r, size)
	if err != nil {
		return nil, fmt.Errorf("reading an archive: %w", err)
	}
	a := &Archive{open: bin.Open}
	if err := a.readHeader(); err != nil {
		return nil, fmt.Errorf("reading export.bin: %w", err)
	}
	if err := a.readSignatures(sig); err != nil {
		return nil, fmt.Errorf("reading export.sig: %w", err)
	}
	return a, nil
}

// OpenExportBin opens a bare export.bin, without a signature.
func OpenExportBin(r io.ReaderAt, size int64) (*Archive, error) {
	if size > maxExportBin {
		return nil, fmt.Errorf("reading export.bin: %d bytes, more than %d", size, maxExportBin)
	}
	a := &Archive{open: func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(r, 0, size)), nil }}
	if err := a.readHeader(); err != nil {
		return nil, fmt.Errorf("reading export.bin: %w", err)
	}
	return a, nil
}

// readSignatures reads export.sig, whose entries must be those that export.bin announces.
func (a *Archive) readSignatures(f *zip.File) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	list, err := io.ReadAll(r) // at most maxSigFile: zip holds it to the size it declares
	if err != nil {
		return err
	}
	err = walk(list, 1, func(f *field) error {
		if f.num != 1 {
			return errUnknownField(f.num)
		}
		if err := f.want(protowire.BytesType); err != nil {
			return err
		}
		return a.readSignature(f.data)
	})
	if err != nil {
		return err
	}
	if len(a.Signatures) != len(a.Infos) {
		return fmt.Errorf("%d signatures, export.bin announces %d", len(a.Signatures), len(a.Infos))
	}
	return nil
}

func (a *Archive) readSignature(b []byte) error {
	var info SignatureInfo
	var num, size int32
	var signature []byte
	err := walk(b, 0, func(f *field) (err error) {
		switch f.num {
		case 1:
			if err = f.want(protowire.BytesType); err == nil {
				info, err = parseInfo(f.data)
			}
		case 2:
			num, err = f.int32()
		case 3:
			size, err = f.int32()
		case 4:
			err = f.want(protowire.BytesType)
			signature = f.data
		default:
			err = errUnknownField(f.num)
		}
		return err
	})
	if err != nil {
		return err
	}
	i := len(a.Signatures)
	if i >= len(a.Infos) || info != a.Infos[i] || num != a.BatchNum || size != a.BatchSize || len(signature) == 0 {
		return fmt.Errorf("signature %d is not one that export.bin announces", i+1)
	}
	a.Signatures = append(a.Signatures, signature)
	return nil
}

// exportBin reads the fields of export.bin one after the other.
type exportBin struct {
	file io.Closer
	r    *bufio.Reader
	hash hash.Hash
	last protowire.Number
}

func (a *Archive) openBin() (*exportBin, error) {
	file, err := a.open()
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	b := &exportBin{file: file, r: bufio.NewReaderSize(io.TeeReader(file, h), 64<<10), hash: h}
	magic := make([]byte, len(binMagic))
	if _, err = io.ReadFull(b.r, magic); err == nil && string(magic) != binMagic {
		err = errors.New("it does not begin as one")
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return b, nil
}

// next gives the next field, which is valid until the following call, or io.EOF.
func (b *exportBin) next() (field, error) {
	p, err := b.r.Peek(maxField)
	if len(p) == 0 || err != nil && err != io.EOF {
		return field{}, err
	}
	f, n, err := parseField(p)
	if err == io.ErrUnexpectedEOF && len(p) == maxField {
		err = fmt.Errorf("field %d is longer than %d bytes", f.num, maxField)
	}
	if err == nil && (f.num < b.last || f.num == b.last && f.num < 6) {
		err = fmt.Errorf("field %d is out of order or comes twice", f.num)
	}
	if err != nil {
		return field{}, err
	}
	b.last = f.num
	b.r.Discard(n) // shorter than what was peeked
	return f, nil
}

// readHeader reads the fields that come before the keys.
func (a *Archive) readHeader() error {
	b, err := a.openBin()
	if err != nil {
		return err
	}
	defer b.file.Close()
	for {
		f, err := b.next()
		if err == io.EOF || err == nil && f.num >= 7 {
			break
		}
		if err != nil {
			return err
		}
		switch f.num {
		case 1, 2:
			err = f.want(protowire.Fixed64Type)
			if f.num == 1 {
				a.Start = int64(f.uint)
			} else {
				a.End = int64(f.uint)
			}
		case 3:
			a.Region, err = f.text()
		case 4:
			a.BatchNum, err = f.int32()
		case 5:
			a.BatchSize, err = f.int32()
		case 6:
			var info SignatureInfo
			if err = f.want(protowire.BytesType); err == nil {
				info, err = parseInfo(f.data)
			}
			a.Infos = append(a.Infos, info)
		}
		if err != nil {
			return err
		}
	}
	if a.BatchNum < 1 || a.BatchNum > a.BatchSize {
		return fmt.Errorf("batch %d of %d", a.BatchNum, a.BatchSize)
	}
	if len(a.Infos) > signing.MaxSigners {
		return fmt.Errorf("%d signature infos, more than %d", len(a.Infos), signing.MaxSigners)
	}
	return a.check()
}

// Keys walks the keys in the file's order, checking all of it: shapes, strictly ascending
// (secret, start), sizes, checksums. After an error there is nothing more. Keys are those
// of a whole file only if the walk ended without one, and authentic only if Verify said so.
// An archive of another server may end with revised keys: a second ascending run.
func (a *Archive) Keys() iter.Seq2[diagnosis.Key, error] {
	return func(yield func(diagnosis.Key, error) bool) {
		if err := a.walkKeys(func(k diagnosis.Key) bool { return yield(k, nil) }); err != nil {
			yield(diagnosis.Key{}, fmt.Errorf("reading export.bin: %w", err))
		}
	}
}

func (a *Archive) walkKeys(each func(diagnosis.Key) bool) error {
	b, err := a.openBin()
	if err != nil {
		return err
	}
	defer b.file.Close()
	sorted := order{scheme: diagnosis.GAEN}
	run, before := protowire.Number(7), 0
	var k diagnosis.Key
	for {
		f, err := b.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if f.num < 7 {
			continue
		}
		if f.num > 8 {
			return errUnknownField(f.num)
		}
		if err := f.want(protowire.BytesType); err != nil {
			return err
		}
		if f.num != run {
			run, before, sorted = f.num, sorted.n, order{scheme: diagnosis.GAEN}
		}
		if err := parseKey(f.data, &k); err != nil {
			return fmt.Errorf("key %d: %w", before+sorted.n, err)
		}
		if err := sorted.check(&k); err != nil {
			return err
		}
		if !each(k) {
			return nil
		}
	}
	a.count, a.whole = before+sorted.n, true
	b.hash.Sum(a.digest[:0])
	return nil
}

// ErrSignature means that no signature of an archive is by the key it was checked with.
var ErrSignature = errors.New("no signature of the archive is by this key")

// Verify reads the whole archive, unless Keys already has, and checks that one of its
// signatures of export.bin is by pub. The error is ErrSignature if none is.
//
// The signature covers every byte of export.bin: window, region, batch, infos and keys.
// Signatures by other keys are not checked, and a few bits of deflate that no reader looks
// at are covered by nothing inside the archive; the SHA-256 of its manifest covers both.
func (a *Archive) Verify(pub *ecdsa.PublicKey) error {
	if _, err := a.Count(); err != nil {
		return err
	}
	for i, signature := range a.Signatures {
		if a.Infos[i].Algorithm == ecdsaWithSHA256 && signing.VerifyExport(pub, a.digest, signature) {
			return nil
		}
	}
	return ErrSignature
}

// Count is the number of keys. It reads the whole archive, unless that has been done.
func (a *Archive) Count() (int, error) {
	if !a.whole {
		if err := a.walkKeys(func(diagnosis.Key) bool { return true }); err != nil {
			return 0, fmt.Errorf("reading export.bin: %w", err)
		}
	}
	return a.count, nil
}
