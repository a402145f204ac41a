package export

import (
	"archive/zip"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"

	"github.com/klauspost/compress/flate"
	"google.golang.org/protobuf/encoding/protowire"

	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// Entries of an archive, in their order. Both are deflated, with a data descriptor and
// without a time (the DOS fields are zero), as the reference key server writes them.
const (
	binName = "export.bin"
	sigName = "export.sig"
)

// level is the compressor's: the smallest of 5 to 7 and no slower, within 0.2 % of the
// size that 8 takes twice the time for (BenchmarkArchive).
const level = 7

// blockSize is what the two stages of writing hand over at a time.
const blockSize = 256 << 10

// WriteArchive writes one archive to w: keys of scheme GAEN, at most MaxKeys, strictly
// ascending by (secret, start), signed by every signer in the order given (newest first,
// 1 to signing.MaxSigners).
//
// It works in two stages, protobuf and digest here, compression and w.Write in a
// goroutine that has ended when WriteArchive returns, and holds a few blocks of 256 KB
// and the compressor's window, whatever the number of keys. On an error what w holds is
// worthless.
func WriteArchive(w io.Writer, h ArchiveHeader, signers []*signing.ExportSigner, keys iter.Seq2[diagnosis.Key, error]) (Info, error) {
	return writeArchive(w, level, h, signers, keys)
}

func writeArchive(w io.Writer, level int, h ArchiveHeader, signers []*signing.ExportSigner, keys iter.Seq2[diagnosis.Key, error]) (Info, error) {
	if err := h.check(); err != nil {
		return Info{}, fmt.Errorf("writing an archive: %w", err)
	}
	if h.Region == "" {
		return Info{}, errors.New("writing an archive: no region")
	}
	if len(signers) < 1 || len(signers) > signing.MaxSigners {
		return Info{}, fmt.Errorf("writing an archive: %d signers, want 1 to %d", len(signers), signing.MaxSigners)
	}
	out := newOutput(w)
	z := zip.NewWriter(out)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, level) })

	bin, err := z.CreateHeader(&zip.FileHeader{Name: binName, Method: zip.Deflate})
	if err != nil {
		return Info{}, fmt.Errorf("writing an archive: %w", err)
	}
	n, digest, err := writeExportBin(bin, h, signers, keys)
	if err != nil {
		return Info{}, fmt.Errorf("writing export.bin: %w", err)
	}
	list, err := signatureList(signers, digest)
	if err != nil {
		return Info{}, err
	}
	sig, err := z.CreateHeader(&zip.FileHeader{Name: sigName, Method: zip.Deflate})
	if err == nil {
		_, err = sig.Write(list)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return Info{}, fmt.Errorf("writing export.sig: %w", err)
	}
	return Info{Keys: n, Size: out.size, SHA256: out.sum()}, nil
}

// writeExportBin is the first stage. It returns the number of keys and the digest that
// is signed.
func writeExportBin(w io.Writer, h ArchiveHeader, signers []*signing.ExportSigner, keys iter.Seq2[diagnosis.Key, error]) (n int, digest [32]byte, err error) {
	infos := make([]SignatureInfo, len(signers))
	for i, s := range signers {
		infos[i] = infoOf(s)
	}
	stage := newStage(w)
	defer stage.close()
	block := appendHeader(<-stage.free, h, infos)
	sorted := order{scheme: diagnosis.GAEN}
	for k, err := range keys {
		if err == nil {
			err = sorted.check(&k)
		}
		if err == nil && sorted.n > MaxKeys {
			err = fmt.Errorf("more than %d keys", MaxKeys)
		}
		if err != nil {
			return 0, digest, err
		}
		block = appendKey(block, &k)
		if len(block)+maxKeyMessage > blockSize {
			if block, err = stage.swap(block); err != nil {
				return 0, digest, err
			}
		}
	}
	if _, err := stage.swap(block); err != nil {
		return 0, digest, err
	}
	return sorted.n, [32]byte(stage.hash.Sum(nil)), stage.close()
}

func infoOf(s *signing.ExportSigner) SignatureInfo {
	return SignatureInfo{Version: s.Version, KeyID: s.KeyID, Algorithm: ecdsaWithSHA256}
}

// signatureList is export.sig: one TEKSignature for each signer.
func signatureList(signers []*signing.ExportSigner, digest [sha256.Size]byte) ([]byte, error) {
	var list []byte
	for _, s := range signers {
		signature, err := s.Sign(digest)
		if err != nil {
			return nil, fmt.Errorf("signing export.bin as %s: %w", s.Name(), err)
		}
		m := appendBatch(appendInfo(nil, 1, infoOf(s)), 2)
		m = protowire.AppendBytes(protowire.AppendTag(m, 4, protowire.BytesType), signature)
		list = protowire.AppendBytes(protowire.AppendTag(list, 1, protowire.BytesType), m)
	}
	return list, nil
}

// stage is the second stage of writing: a goroutine that writes blocks to w in order.
// Its owner gives it full blocks, gets empty ones, and closes it.
type stage struct {
	hash   hash.Hash // of all blocks, computed on the owner's side
	full   chan []byte
	free   chan []byte
	done   chan struct{}
	err    error // of w; valid once done is closed
	closed bool
}

func newStage(w io.Writer) *stage {
	s := &stage{hash: sha256.New(), full: make(chan []byte, 1), free: make(chan []byte, 3), done: make(chan struct{})}
	for range cap(s.free) {
		s.free <- make([]byte, 0, blockSize)
	}
	go func() {
		defer close(s.done)
		for b := range s.full {
			if _, s.err = w.Write(b); s.err != nil {
				return
			}
			s.free <- b[:0]
		}
	}()
	return s
}

// swap hands over a full block and gives an empty one.
func (s *stage) swap(block []byte) ([]byte, error) {
	s.hash.Write(block)
	select {
	case s.full <- block:
	case <-s.done:
		return nil, s.err
	}
	select {
	case b := <-s.free:
		return b, nil
	case <-s.done:
		return nil, s.err
	}
}

// close waits until everything is written. It may be called again.
func (s *stage) close() error {
	if !s.closed {
		s.closed = true
		close(s.full)
	}
	<-s.done
	return s.err
}
