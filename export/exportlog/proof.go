package exportlog

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
)

// Proof is a .tlog-proof (C2SP tlog-proof): all that ties one entry, and by its digests
// the files it names, to a policy.
type Proof struct {
	Index      uint64
	Hashes     [][32]byte // of ProveEntry
	Extra      []byte     // the entry
	Checkpoint []byte     // signed, verbatim
}

// proofHeader is the first line of a proof.
const proofHeader = "c2sp.org/tlog-proof@v1"

// maxProofHashes is more than any log below MaxSize needs.
const maxProofHashes = 63

// FormatProof renders a proof.
func FormatProof(p Proof) []byte {
	b := []byte(proofHeader + "\n")
	if len(p.Extra) > 0 {
		b = append(base64.StdEncoding.AppendEncode(append(b, "extra "...), p.Extra), '\n')
	}
	b = fmt.Appendf(b, "index %d\n", p.Index)
	for _, h := range p.Hashes {
		b = appendHash(b, h)
	}
	return append(append(b, '\n'), p.Checkpoint...)
}

// ParseProof reads what FormatProof writes. The result is authentic only after
// VerifyProof.
func ParseProof(data []byte) (Proof, error) {
	if err := limit(data, MaxProof); err != nil {
		return Proof{}, fmt.Errorf("proof: %w", err)
	}
	head, checkpoint, ok := bytes.Cut(data, []byte("\n\n"))
	if !ok {
		return Proof{}, errors.New("proof: no checkpoint")
	}
	p := Proof{Checkpoint: checkpoint}
	l := &lines{rest: string(head) + "\n"}
	if l.next(proofHeader) != "" {
		l.fail("want a first line %q", proofHeader)
	}
	if l.peek("extra ") {
		var err error
		if p.Extra, err = parseBase64(l.next("extra ")); err != nil || len(p.Extra) == 0 {
			l.fail("extra is empty or not canonical base64")
		}
	}
	p.Index = uint64(l.number("index "))
	for l.err == nil && l.rest != "" && len(p.Hashes) < maxProofHashes {
		h, err := parseHash(l.next(""))
		if err != nil {
			l.fail("%w", err)
		}
		p.Hashes = append(p.Hashes, h)
	}
	if err := l.end(); err != nil {
		return Proof{}, fmt.Errorf("proof: %w", err)
	}
	return p, nil
}

// Proved is an entry that the log of a policy holds.
type Proved struct {
	Opened
	Entry Entry
	Index uint64 // of the entry
}

// VerifyProof checks a whole .tlog-proof against a policy and returns the entry it
// proves. If all holds but the quorum, the error is ErrQuorum and the result is what the
// log alone vouches for.
func VerifyProof(proof []byte, policy *Policy) (Proved, error) {
	p, err := ParseProof(proof)
	if err != nil {
		return Proved{}, err
	}
	opened, err := policy.Open(p.Checkpoint)
	if err != nil {
		return Proved{}, fmt.Errorf("proof: %w", err)
	}
	if err := CheckEntry(p.Hashes, opened.Size, opened.Root, p.Index, p.Extra); err != nil {
		return Proved{}, fmt.Errorf("proof: %w", err)
	}
	entry, err := ParseEntry(p.Extra)
	if err != nil {
		return Proved{}, fmt.Errorf("proof: %w", err)
	}
	if m, ok := entry.(Manifest); ok && m.Origin != opened.Origin {
		return Proved{}, fmt.Errorf("proof: a manifest of %q in the log of %q", m.Origin, opened.Origin)
	}
	proved := Proved{Opened: opened, Entry: entry, Index: p.Index}
	if !opened.Quorum {
		return proved, fmt.Errorf("proof: %w", ErrQuorum)
	}
	return proved, nil
}

// File finds the file of this size and SHA-256 in the entry: one of a window's, a small
// file, or the PEM form of a signer's key. Files are told by their bytes, not by the name
// under which they reached the caller.
func (p Proved) File(size int64, digest [32]byte) (File, error) {
	for _, f := range Files(p.Entry) {
		if f.Size == size && f.SHA256 == digest {
			return f, nil
		}
	}
	return File{}, fmt.Errorf("entry %d names no file of %d bytes with SHA-256 %x", p.Index, size, digest)
}
