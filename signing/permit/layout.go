package permit

import (
	"encoding/binary"
	"fmt"
)

// Lengths in bytes of what is sealed: every request and every reply, so that size says
// nothing.
const (
	RequestLen = 1024
	ReplyLen   = 512
)

// The header that opens each of them. Integers are big endian. Bytes that an operation
// does not use are zero.
//
//	offset  request                                 reply
//	0       version 1                               version 1
//	1       operation                               operation of the request; 0: not readable
//	2       0 real, 1 cover                         status
//	3       redeem: code length; upload: scheme     reason
//	4       upload: number of records               record at fault, counted from 1
//	5       upload: report type of the permit       redeem: report type
//	6..7    0                                       retry after, minutes
//	8..11   upload: epoch                           redeem: epoch      upload: publish by,
//	12..15  0                                       redeem: onset day  Unix seconds, u64
const (
	version   = 1
	headerLen = 16

	atVersion   = 0
	atOperation = 1
	atCover     = 2
	atStatus    = 2
	atCodeLen   = 3
	atScheme    = 3
	atReason    = 3
	atCount     = 4
	atRecord    = 4
	atReport    = 5
	atRetry     = 6
	atEpoch     = 8
	atOnset     = 12
	atPublishBy = 8
)

// Operation says what a request asks for.
type Operation uint8

const (
	OpRedeem Operation = 1
	OpUpload Operation = 2 // late keys, too
)

// String is the operation's name.
func (o Operation) String() string {
	switch o {
	case OpRedeem:
		return "redeem"
	case OpUpload:
		return "upload"
	}
	return fmt.Sprintf("operation(%d)", uint8(o))
}

func (o Operation) valid() bool { return o == OpRedeem || o == OpUpload }

// Status is what became of a request.
type Status uint8

const (
	Done    Status = 0
	Refused Status = 1 // sending the same again will not help
	Later   Status = 2 // sending the same again after a while may
)

// Reason says why a request was not done. The numbers are sent and never change; a new
// one needs a new version.
type Reason uint8

const (
	ReasonMalformed Reason = 1  // the bytes break a rule of this layout, or a key has an impossible shape
	ReasonCode      Reason = 2  // code not valid: unknown, mistyped, spent, revoked or expired
	ReasonPermit    Reason = 3  // permit not valid: not of this service, too old, another e's, or a wrong signature
	ReasonFull      Reason = 4  // more keys than one permit takes
	ReasonTooOld    Reason = 5  // a key ended too long ago
	ReasonFuture    Reason = 6  // a key starts after now
	ReasonOverlap   Reason = 7  // keys that one phone cannot have used at the same time
	ReasonPaused    Reason = 8  // too many wrong short codes: they wait, long ones go on
	ReasonBusy      Reason = 9  // the service cannot store more at the moment
	ReasonClosed    Reason = 10 // the service has a successor and takes nothing any more
)

// reasons is the closed list: the status that goes with each, the operations it answers,
// and whether it may name a record.
var reasons = [...]struct {
	name           string
	status         Status
	redeem, upload bool
	record         bool
}{
	ReasonMalformed: {"malformed", Refused, true, true, true},
	ReasonCode:      {"code not valid", Refused, true, false, false},
	ReasonPermit:    {"permit not valid", Refused, false, true, false},
	ReasonFull:      {"more keys than a permit takes", Refused, false, true, false},
	ReasonTooOld:    {"key too old", Refused, false, true, true},
	ReasonFuture:    {"key in the future", Refused, false, true, true},
	ReasonOverlap:   {"keys overlap", Refused, false, true, true},
	ReasonPaused:    {"short codes are paused", Later, true, false, false},
	ReasonBusy:      {"busy", Later, true, true, false},
	ReasonClosed:    {"closed", Refused, true, true, false},
}

func (r Reason) valid() bool { return r > 0 && int(r) < len(reasons) }

// String is the reason in words.
func (r Reason) String() string {
	if !r.valid() {
		return fmt.Sprintf("reason(%d)", uint8(r))
	}
	return reasons[r].name
}

// Status is the status that goes with a reason of the list.
func (r Reason) Status() Status {
	if !r.valid() {
		return Refused
	}
	return reasons[r].status
}

// header begins a text of n bytes.
func header(n int, op Operation) []byte {
	b := make([]byte, headerLen, n)
	b[atVersion], b[atOperation] = version, byte(op)
	return b
}

func appendU32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func putU32(b []byte, v uint32)           { binary.BigEndian.PutUint32(b, v) }
func readU32(b []byte) uint32             { return binary.BigEndian.Uint32(b) }
