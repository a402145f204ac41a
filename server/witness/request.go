package witness

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"bluekey/export/exportlog"
	"bluekey/signing"
)

// request is the body of add-checkpoint.
type request struct {
	old        uint64     // entries of the tree that the witness is asked to start from
	proof      [][32]byte // that the checkpoint continues it
	checkpoint []byte     // signed, verbatim
	tree       exportlog.Checkpoint
}

const (
	// maxProof is the largest number of proof lines (C2SP tlog-witness).
	maxProof = 63
	// maxRequest is the largest body in bytes: the largest checkpoint, behind the size and
	// the longest proof.
	maxRequest = exportlog.MaxCheckpoint + 4<<10
)

// formatRequest renders everything but tree, which the checkpoint holds.
func formatRequest(r request) []byte {
	b := fmt.Appendf(nil, "old %d\n", r.old)
	for _, h := range r.proof {
		b = append(base64.StdEncoding.AppendEncode(b, h[:]), '\n')
	}
	return append(append(b, '\n'), r.checkpoint...)
}

// parseRequest reads exactly what formatRequest writes. The checkpoint's body is read and
// its signatures are not.
func parseRequest(body []byte) (request, error) {
	head, checkpoint, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok {
		return request{}, errors.New("no empty line before the checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	if len(lines)-1 > maxProof {
		return request{}, fmt.Errorf("%d lines of proof, more than %d", len(lines)-1, maxProof)
	}
	r := request{checkpoint: checkpoint}
	var err error
	digits, ok := strings.CutPrefix(lines[0], "old ")
	if r.old, err = parseSize(digits); !ok || err != nil {
		return request{}, fmt.Errorf("first line %.40q: want \"old\" and a size", lines[0])
	}
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(h) != 32 || base64.StdEncoding.EncodeToString(h) != line {
			return request{}, fmt.Errorf("line of proof %.50q: want a hash in canonical base64", line)
		}
		r.proof = append(r.proof, [32]byte(h))
	}
	if r.tree, _, err = splitCheckpoint(checkpoint); err != nil {
		return request{}, err
	}
	if r.tree.Extension != "" {
		return request{}, errors.New("checkpoint: it has extension lines, which an ML-DSA-44 cosignature does not cover")
	}
	if r.old > r.tree.Size {
		return request{}, fmt.Errorf("old size %d is above that of the checkpoint, %d", r.old, r.tree.Size)
	}
	return r, nil
}

// parseSize reads a number in decimal, without sign or leading zero.
func parseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%.40q is not a size in decimal", s)
	}
	return n, nil
}

// splitCheckpoint reads the body of a signed checkpoint and divides its signatures into
// lines, each without its LF.
func splitCheckpoint(signed []byte) (exportlog.Checkpoint, []string, error) {
	split := bytes.LastIndex(signed, []byte("\n\n"))
	if split < 0 || signed[len(signed)-1] != '\n' {
		return exportlog.Checkpoint{}, nil, errors.New("checkpoint: no signatures, or the last line is not ended")
	}
	tree, err := exportlog.ParseCheckpoint(signed[:split+1])
	if err != nil {
		return exportlog.Checkpoint{}, nil, err
	}
	return tree, strings.Split(strings.TrimSuffix(string(signed[split+2:]), "\n"), "\n"), nil
}

// parseLine reads a signature line of a signed note (C2SP signed-note). Line of the result
// may spell it in another way: only that is passed on.
func parseLine(line string) (signing.Signature, error) {
	rest, ok := strings.CutPrefix(line, "\u2014 ")
	name, b64, ok2 := strings.Cut(rest, " ")
	payload, err := base64.StdEncoding.DecodeString(b64)
	if !ok || !ok2 || err != nil || len(payload) < 5 || signing.CheckName(name) != nil {
		return signing.Signature{}, fmt.Errorf("%.60q is not a signature line", line)
	}
	id := uint32(payload[0])<<24 | uint32(payload[1])<<16 | uint32(payload[2])<<8 | uint32(payload[3])
	return signing.Signature{Name: name, KeyID: id, Bytes: payload[4:]}, nil
}

// signatureBy finds the first line of a key. Nothing about it is verified.
func signatureBy(key *signing.VKey, lines []string) (signing.Signature, bool) {
	for _, line := range lines {
		if s, err := parseLine(line); err == nil && s.Name == key.Name() && s.KeyID == key.ID() {
			return s, true
		}
	}
	return signing.Signature{}, false
}

// verified finds the first line of a key and verifies it. A cosignature states its time, in
// Unix seconds, which is never zero; a line of kind Ed25519Log has none.
func verified(key *signing.VKey, tree exportlog.Checkpoint, lines []string) (s signing.Signature, at uint64, err error) {
	s, found := signatureBy(key, lines)
	if !found {
		return s, 0, fmt.Errorf("no signature by %s, kind %v", key.Name(), key.Kind())
	}
	at, ok := key.Verify(signing.Statement{Origin: tree.Origin, Size: tree.Size, Root: tree.Root, Extension: tree.Extension}, s.Bytes)
	if !ok || at == 0 && key.Kind() != signing.Ed25519Log {
		return s, 0, fmt.Errorf("the signature by %s, kind %v, is wrong", key.Name(), key.Kind())
	}
	return s, at, nil
}
