package keystore

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"

	"bluekey/keystore/diagnosis"
)

// Every row begins with the letter of its kind; package desk has c, o and p. Numbers are
// big-endian, so rows sort by them.
//
//	d | scheme | start day u32 | 8 bytes keyed hash  -> (empty)           a key known already
//	e | index u64                                    -> log entry
//	f | name                                         -> setting fixed at the first start
//	h | index u64                                    -> stored hash of the log's tree
//	k | scheme | bucket u32 | secret | start u32     -> count, report, onset, risk
//	m | epoch u32 | hash of a permit's output        -> e, keys it has brought u8, answer u32
//	s | name                                         -> state
//	w | scheme | end u32                             -> start u32, through u32, entry u64, published
//	x | random                                       -> random            what cover and refusals leave; see Scratch
//	z                                                -> (anything)        written to move the database
//
// A bucket is a time in Unix seconds; see (*Store).bucket.
const (
	dedupeRow = 'd'
	entryRow  = 'e'
	fixedRow  = 'f'
	hashRow   = 'h'
	keyRow    = 'k'
	permitRow = 'm'
	stateRow  = 's'
	windowRow = 'w'
	junkRow   = 'x'
	moveRow   = 'z'
)

var (
	logState    = []byte("slog")   // size u64
	planState   = []byte("splan")  // what apply must do; absent if nothing is outstanding
	noteState   = []byte("snote")  // the checkpoint as signed
	eraseState  = []byte("serase") // present while erased rows may still lie in files
	firstState  = []byte("sfirst") // first start day whose known keys are remembered, u32
	moveKey     = []byte{moveRow}
	everyRow    = []byte{0}    // below every row
	noRow       = []byte{0xff} // above every row
	errDamaged  = errors.New("a row of the store is damaged")
	chainPrefix = []byte("schain") // | scheme -> end, through, erased: u32 each
)

func schemeRow(kind byte, s diagnosis.Scheme, n uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind, byte(s)}, n)
}

func indexRow(kind byte, i uint64) []byte { return binary.BigEndian.AppendUint64([]byte{kind}, i) }

func chainKey(s diagnosis.Scheme) []byte {
	return append(chainPrefix[:len(chainPrefix):len(chainPrefix)], byte(s))
}

func permitRowKey(p *Permit) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{permitRow}, p.Epoch), p.Spent[:]...)
}

// permitState is what is remembered of a permit that was used.
type permitState struct {
	e    [32]byte
	keys int    // it has brought
	by   uint32 // what its last upload was answered, Unix seconds
}

const permitStateLen = 32 + 1 + 4

func (p *permitState) encode() []byte {
	return binary.BigEndian.AppendUint32(append(p.e[:], byte(p.keys)), p.by)
}

func parsePermit(v []byte) (permitState, error) {
	if len(v) != permitStateLen {
		return permitState{}, errDamaged
	}
	return permitState{[32]byte(v), int(v[32]), binary.BigEndian.Uint32(v[33:])}, nil
}

const keyRowMeta = 4 // count, report, onset, risk

// appendKeyRow appends the name of k's row in a bucket to dst.
func appendKeyRow(dst []byte, k *diagnosis.Key, bucket uint32) []byte {
	dst = append(dst, keyRow, byte(k.Scheme))
	dst = binary.BigEndian.AppendUint32(dst, bucket)
	dst = append(dst, k.Bytes()...)
	return binary.BigEndian.AppendUint32(dst, uint32(k.Start))
}

func keyMeta(k *diagnosis.Key) [keyRowMeta]byte {
	return [...]byte{k.Count, byte(k.Report), byte(k.Onset), k.Risk}
}

// parseKeyRow is the inverse of appendKeyRow and keyMeta for a row of scheme s.
func parseKeyRow(s diagnosis.Scheme, name, meta []byte) (k diagnosis.Key, bucket uint32, err error) {
	secret := s.SecretLen()
	if len(name) != 6+secret+4 || len(meta) != keyRowMeta {
		return k, 0, errDamaged
	}
	k.Scheme = s
	copy(k.Secret[:], name[6:6+secret])
	k.Start = diagnosis.Interval(binary.BigEndian.Uint32(name[6+secret:]))
	k.Count, k.Report, k.Onset, k.Risk = meta[0], diagnosis.ReportType(meta[1]), diagnosis.DaysSinceOnset(meta[2]), meta[3]
	return k, binary.BigEndian.Uint32(name[2:]), nil
}

const dedupeRowLen = 1 + 1 + 4 + 8

// appendDedupeRow appends the name of the row that remembers k. h is an HMAC under the
// dedupe key.
func appendDedupeRow(dst []byte, h hash.Hash, k *diagnosis.Key) []byte {
	dst = append(dst, dedupeRow, byte(k.Scheme))
	dst = binary.BigEndian.AppendUint32(dst, k.Scheme.Day(k.Start))
	var msg [1 + diagnosis.MaxSecretLen + 4]byte
	msg[0] = byte(k.Scheme)
	copy(msg[1:], k.Secret[:])
	binary.BigEndian.PutUint32(msg[1+diagnosis.MaxSecretLen:], uint32(k.Start))
	h.Reset()
	h.Write(msg[:])
	var sum [sha256.Size]byte
	return append(dst, h.Sum(sum[:0])[:8]...)
}

func (s *Store) dedupeHash() hash.Hash { return hmac.New(sha256.New, s.opt.DedupeKey[:]) }

// chain is where the windows of a scheme stand. Times are Unix seconds.
type chain struct {
	end     uint32 // of the last window
	through uint32 // buckets below it are published
	erased  uint32 // buckets below it are erased
}

func (c chain) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, c.end)
	b = binary.BigEndian.AppendUint32(b, c.through)
	return binary.BigEndian.AppendUint32(b, c.erased)
}

func parseChain(v []byte) (chain, error) {
	if len(v) != 12 {
		return chain{}, errDamaged
	}
	return chain{binary.BigEndian.Uint32(v), binary.BigEndian.Uint32(v[4:]), binary.BigEndian.Uint32(v[8:])}, nil
}

func (w *Window) encode() (name, value []byte) {
	v := binary.BigEndian.AppendUint32(nil, seconds(w.Start))
	v = binary.BigEndian.AppendUint32(v, seconds(w.Through))
	v = binary.BigEndian.AppendUint64(v, w.Entry)
	published := byte(0)
	if w.Published {
		published = 1
	}
	return schemeRow(windowRow, w.Scheme, seconds(w.End)), append(v, published)
}

func parseWindow(name, v []byte) (Window, error) {
	if len(name) != 6 || len(v) != 17 || v[16] > 1 {
		return Window{}, errDamaged
	}
	return Window{
		Scheme:    diagnosis.Scheme(name[1]),
		Start:     instant(binary.BigEndian.Uint32(v)),
		End:       instant(binary.BigEndian.Uint32(name[2:])),
		Entry:     binary.BigEndian.Uint64(v[8:]),
		Published: v[16] == 1,
		Through:   instant(binary.BigEndian.Uint32(v[4:])),
	}, nil
}
