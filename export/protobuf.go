package export

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"bluekey/keystore/diagnosis"
)

// The messages of the key export format (proto2): TemporaryExposureKeyExport in
// export.bin, TEKSignatureList in export.sig. Writing is canonical: fields in ascending
// order, nothing written that equals its default except transmission risk, which the
// reference key server always writes. Reading takes any proto2 spelling of a value that
// keeps fields in order and varints short, and refuses unknown fields.

// binMagic opens export.bin.
const binMagic = "EK Export v1    "

// ecdsaWithSHA256 is the signature algorithm's OID (RFC 5758, section 3.2).
const ecdsaWithSHA256 = "1.2.840.10045.4.3.2"

// defaultPeriod is rolling_period where the field is absent.
const defaultPeriod = 144

// maxKeyMessage bounds the fields of one TemporaryExposureKey, tag and length included.
const maxKeyMessage = 2 + 18 + 2 + 6 + 3 + 2 + 2

// SignatureInfo says which key made a signature.
type SignatureInfo struct {
	AppBundleID    string // reserved field that older servers wrote
	AndroidPackage string // the same
	Version        string // verification_key_version
	KeyID          string // verification_key_id
	Algorithm      string // OID
}

// ArchiveHeader says what an archive covers.
type ArchiveHeader struct {
	Start, End int64 // Unix seconds; End as PartEnd gives it
	Region     string
}

func (h *ArchiveHeader) check() error {
	if err := checkWindow(h.Start, h.End); err != nil {
		return err
	}
	if len(h.Region) > maxRegion || !printable(h.Region) {
		return fmt.Errorf("region %q: want at most %d printable ASCII characters", h.Region, maxRegion)
	}
	return nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func appendHeader(b []byte, h ArchiveHeader, infos []SignatureInfo) []byte {
	b = append(b, binMagic...)
	b = protowire.AppendFixed64(protowire.AppendTag(b, 1, protowire.Fixed64Type), uint64(h.Start))
	b = protowire.AppendFixed64(protowire.AppendTag(b, 2, protowire.Fixed64Type), uint64(h.End))
	b = appendText(b, 3, h.Region)
	b = appendBatch(b, 4)
	for _, info := range infos {
		b = appendInfo(b, 6, info)
	}
	return b
}

// appendBatch writes batch number and size, 1 of 1, into fields num and num+1.
func appendBatch(b []byte, num protowire.Number) []byte {
	b = protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), 1)
	return protowire.AppendVarint(protowire.AppendTag(b, num+1, protowire.VarintType), 1)
}

func appendText(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func appendInfo(b []byte, num protowire.Number, info SignatureInfo) []byte {
	m := appendText(nil, 3, info.Version)
	m = appendText(m, 4, info.KeyID)
	m = appendText(m, 5, info.Algorithm)
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), m)
}

// appendKey writes one key as field 7 of the export.
func appendKey(b []byte, k *diagnosis.Key) []byte {
	b = append(b, 7<<3|2, 0, 1<<3|2, 16) // the second byte becomes the length, below 128
	start := len(b) - 2
	b = append(b, k.Secret[:16]...)
	b = append(b, 2<<3, k.Risk)
	if k.Start != 0 {
		b = binary.AppendUvarint(append(b, 3<<3), uint64(k.Start))
	}
	if k.Count != defaultPeriod {
		b = binary.AppendUvarint(append(b, 4<<3), uint64(k.Count))
	}
	if k.Report != diagnosis.ReportUnknown {
		b = append(b, 5<<3, byte(k.Report))
	}
	if k.Onset != diagnosis.OnsetUnknown {
		b = append(b, 6<<3, byte(protowire.EncodeZigZag(int64(k.Onset))))
	}
	b[start-1] = byte(len(b) - start)
	return b
}

// field is one field of a message: its number and the value of its type.
type field struct {
	num  protowire.Number
	typ  protowire.Type
	uint uint64 // varint, fixed64
	data []byte // length-delimited; part of the input
}

// parseField reads the field at the start of b and says how long it is. A field cut short
// is io.ErrUnexpectedEOF.
func parseField(b []byte) (f field, n int, err error) {
	tag, n, err := uvarint(b)
	if err != nil {
		return f, 0, err
	}
	f.num, f.typ = protowire.Number(tag>>3), protowire.Type(tag&7)
	if tag>>3 == 0 || tag>>3 > uint64(protowire.MaxValidNumber) {
		return f, 0, errors.New("field number out of range")
	}
	if f.typ == protowire.Fixed64Type {
		if len(b) < n+8 {
			return f, 0, io.ErrUnexpectedEOF
		}
		f.uint = binary.LittleEndian.Uint64(b[n:])
		return f, n + 8, nil
	}
	if f.typ != protowire.VarintType && f.typ != protowire.BytesType {
		return f, 0, fmt.Errorf("field %d has the unknown wire type %d", f.num, f.typ)
	}
	v, m, err := uvarint(b[n:])
	if err != nil {
		return f, 0, fmt.Errorf("field %d: %w", f.num, err)
	}
	n += m
	if f.typ == protowire.VarintType {
		f.uint = v
		return f, n, nil
	}
	if v > uint64(len(b)-n) {
		return f, 0, io.ErrUnexpectedEOF
	}
	f.data = b[n : n+int(v)]
	return f, n + int(v), nil
}

// want refuses a field of another wire type.
func (f *field) want(typ protowire.Type) error {
	if f.typ != typ {
		return fmt.Errorf("field %d has wire type %d, want %d", f.num, f.typ, typ)
	}
	return nil
}

// int32 is the value of an int32 field. No field of the format is negative.
func (f *field) int32() (int32, error) {
	if err := f.want(protowire.VarintType); err != nil {
		return 0, err
	}
	if f.uint > math.MaxInt32 {
		return 0, fmt.Errorf("field %d is out of range", f.num)
	}
	return int32(f.uint), nil
}

func (f *field) text() (string, error) {
	if err := f.want(protowire.BytesType); err != nil {
		return "", err
	}
	if !printable(string(f.data)) {
		return "", fmt.Errorf("field %d is not printable ASCII", f.num)
	}
	return string(f.data), nil
}

// walk calls each for the fields of a message, which must ascend. Numbers in repeated may
// come more than once.
func walk(b []byte, repeated protowire.Number, each func(*field) error) error {
	var last protowire.Number
	for len(b) > 0 {
		f, n, err := parseField(b)
		if err != nil {
			return err
		}
		if f.num < last || f.num == last && f.num != repeated {
			return fmt.Errorf("field %d is out of order or comes twice", f.num)
		}
		if err := each(&f); err != nil {
			return err
		}
		last, b = f.num, b[n:]
	}
	return nil
}

func errUnknownField(num protowire.Number) error { return fmt.Errorf("unknown field %d", num) }

func parseInfo(b []byte) (info SignatureInfo, err error) {
	err = walk(b, 0, func(f *field) (err error) {
		switch f.num {
		case 1:
			info.AppBundleID, err = f.text()
		case 2:
			info.AndroidPackage, err = f.text()
		case 3:
			info.Version, err = f.text()
		case 4:
			info.KeyID, err = f.text()
		case 5:
			info.Algorithm, err = f.text()
		default:
			err = errUnknownField(f.num)
		}
		return err
	})
	if err != nil {
		return info, fmt.Errorf("signature info: %w", err)
	}
	return info, nil
}

// parseKey reads a TemporaryExposureKey. The key's shape is left to order.
func parseKey(b []byte, k *diagnosis.Key) error {
	*k = diagnosis.Key{Scheme: diagnosis.GAEN, Count: defaultPeriod, Onset: diagnosis.OnsetUnknown}
	var last protowire.Number
	for len(b) > 0 { // walk, unrolled: this is the inner loop of reading
		f, n, err := parseField(b)
		if err != nil {
			return err
		}
		if f.num <= last {
			return fmt.Errorf("field %d is out of order or comes twice", f.num)
		}
		if last == 0 && (f.num != 1 || f.typ != protowire.BytesType || len(f.data) != 16) {
			return errors.New("key_data is not 16 bytes")
		}
		last, b = f.num, b[n:]
		if f.num == 1 {
			copy(k.Secret[:], f.data)
			continue
		}
		if err := f.want(protowire.VarintType); err != nil {
			return err
		}
		switch v := f.uint; {
		case f.num == 2 && v <= diagnosis.MaxRisk:
			k.Risk = uint8(v)
		case f.num == 3 && v <= math.MaxInt32:
			k.Start = diagnosis.Interval(v)
		case f.num == 4 && v >= 1 && v <= diagnosis.MaxCount:
			k.Count = uint8(v)
		case f.num == 5 && v <= uint64(diagnosis.Revoked):
			k.Report = diagnosis.ReportType(v)
		case f.num == 6 && v <= 2*uint64(diagnosis.MaxOnset):
			k.Onset = diagnosis.DaysSinceOnset(protowire.DecodeZigZag(v))
		case f.num > 6:
			return errUnknownField(f.num)
		default:
			return fmt.Errorf("field %d is out of range", f.num)
		}
	}
	if last == 0 {
		return errors.New("no key_data")
	}
	return nil
}
