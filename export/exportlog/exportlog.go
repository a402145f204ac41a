// Package exportlog holds the formats of the transparency log in which every export is
// recorded: entries, tiles, checkpoints, proofs, policies, the index, and the table of
// paths of the public tree. Bytes in, values out: it has no clock, disk or network, and
// it holds nothing that is secret.
//
// The log is an append-only Merkle tree (RFC 6962) laid out as static files (C2SP
// tlog-tiles). An entry is a short strict text, most often the manifest of one window: the
// names, sizes and digests of its files, never a key. A checkpoint states size and root
// hash and carries two signatures of the log under one name, its origin: Ed25519 for every
// tool there is, ML-DSA-44 for the day when Ed25519 falls. Tools that know one of the two
// accept either alone, so this package demands both itself, whenever a policy names both.
//
//	file ── SHA-256 ──> manifest ── leaf hash, inclusion ──> root ── signatures ──> policy
//
// Whoever holds the policy of a log can follow that chain offline: a .tlog-proof carries
// manifest, inclusion and checkpoint beside its file. FORMAT.md spells out every format.
//
// Parsers take exactly what formatters write. What comes from a stranger is limited in
// size before it is parsed.
package exportlog

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Limits of what is parsed, in bytes. Readers stop fetching there.
const (
	MaxEntry      = 65535     // C2SP tlog-tiles: a bundle counts the bytes of an entry in 16 bits
	MaxCheckpoint = 128 << 10 // 16 ML-DSA lines (C2SP signed-note asks for 16) take 55 kB
	MaxProof      = 256 << 10 // the largest entry in base64, 40 hashes and a checkpoint
	MaxPolicy     = 256 << 10 // 32 logs and 32 witnesses (C2SP tlog-policy), all ML-DSA, take 120 kB
	MaxIndex      = 16 << 20
	MaxSmall      = 16 << 20 // a small file; no writer publishes a larger one
	MaxTile       = TileWidth * 32
	MaxBundle     = TileWidth * (2 + MaxEntry)
)

// MaxSize bounds the number of entries of a log. Arithmetic on sizes and indexes of stored
// hashes is far from overflow below it.
const MaxSize = 1 << 40

// limit refuses input beyond max bytes before anything parses it.
func limit(data []byte, max int) error {
	if len(data) > max {
		return fmt.Errorf("%d bytes, more than the %d allowed", len(data), max)
	}
	return nil
}

// lines reads a text line by line. The first problem stays; after it every call gives
// zero values, so that a parser checks once, at its end.
type lines struct {
	rest string
	err  error
}

func (l *lines) fail(format string, args ...any) {
	if l.err == nil {
		l.err = fmt.Errorf(format, args...)
	}
}

// peek reports whether the next line starts with prefix.
func (l *lines) peek(prefix string) bool { return l.err == nil && strings.HasPrefix(l.rest, prefix) }

// next takes a line that starts with prefix and gives what follows it.
func (l *lines) next(prefix string) string {
	line, rest, ok := strings.Cut(l.rest, "\n")
	if !ok || !strings.HasPrefix(line, prefix) {
		l.fail("want a line %q, have %.40q", prefix+"…", line)
	}
	if l.err != nil {
		return ""
	}
	l.rest = rest
	return line[len(prefix):]
}

func (l *lines) number(prefix string) int64 {
	s := l.next(prefix)
	n, err := parseNumber(s)
	if err != nil {
		l.fail("%s: %w", strings.TrimSpace(prefix), err)
	}
	return n
}

func (l *lines) digest(prefix string) [32]byte {
	s := l.next(prefix)
	h, err := parseHex(s)
	if err != nil {
		l.fail("%s: %w", strings.TrimSpace(prefix), err)
	}
	return h
}

// end reports the first problem, or text left over.
func (l *lines) end() error {
	if l.rest != "" {
		l.fail("unexpected line %.40q", l.rest)
	}
	return l.err
}

// parseNumber reads 0 to 2^63-1 in decimal, without sign or leading zero.
func parseNumber(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > math.MaxInt64 || s[0] == '0' && len(s) > 1 {
		return 0, fmt.Errorf("%.40q is not a decimal number without sign and leading zeros", s)
	}
	return int64(n), nil
}

// parseHex reads a digest in 64 lower-case hex digits.
func parseHex(s string) (h [32]byte, err error) {
	if len(s) != 64 || strings.ContainsAny(s, "ABCDEF") {
		return h, fmt.Errorf("%.80q is not 64 lower-case hex digits", s)
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return h, fmt.Errorf("%.80q is not 64 lower-case hex digits", s)
	}
	return h, nil
}

// parseBase64 reads standard padded base64 in its one canonical form. The decoder of the
// standard library skips line ends, which a line cannot hold, and CR, which it can.
func parseBase64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("not canonical base64")
	}
	return b, nil
}

// parseHash reads a hash in base64.
func parseHash(s string) (h [32]byte, err error) {
	b, err := parseBase64(s)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("%.50q is not a hash of 32 bytes in canonical base64", s)
	}
	return [32]byte(b), nil
}

func appendHash(b []byte, h [32]byte) []byte {
	return append(base64.StdEncoding.AppendEncode(b, h[:]), '\n')
}
