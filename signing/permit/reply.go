package permit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"bluekey/keystore/diagnosis"
)

// Redeem reply: header, evaluated element, proof, zeros.
const (
	atEvaluated = headerLen
	atProof     = atEvaluated + ElementLen
)

// MaxRetry is the longest wait that a reply can ask for.
const MaxRetry = math.MaxUint16 * time.Minute

// Reply is a RedeemReply, an UploadReply or a Refusal.
type Reply interface {
	// Encode gives the ReplyLen bytes of the reply. It refuses what DecodeReply would.
	Encode() ([]byte, error)

	check() error
	encode() []byte
}

// RedeemReply is what a good code buys; a cover gets one made by the decoy key.
type RedeemReply struct {
	Info
	OnsetDay uint32 // UTC day on which symptoms began, a hint to the phone; 0 if nobody knows
	Evaluation
}

// Encode: see Reply.
func (r RedeemReply) Encode() ([]byte, error) { return encodeReply(r) }

func (r RedeemReply) check() error {
	if !r.Report.Issuable() {
		return fmt.Errorf("no permit has report type %d", r.Report)
	}
	return nil
}

func (r RedeemReply) encode() []byte {
	b := header(ReplyLen, OpRedeem)[:ReplyLen]
	b[atReport] = byte(r.Report)
	putU32(b[atEpoch:], r.Epoch)
	putU32(b[atOnset:], r.OnsetDay)
	copy(b[atEvaluated:], r.Element[:])
	copy(b[atProof:], r.Proof[:])
	return b
}

// UploadReply says that the keys are stored.
type UploadReply struct {
	PublishBy int64 // Unix seconds by which all of them are public, above 0
}

// Encode: see Reply.
func (r UploadReply) Encode() ([]byte, error) { return encodeReply(r) }

func (r UploadReply) check() error {
	if r.PublishBy < 1 {
		return errors.New("no time of publication")
	}
	return nil
}

func (r UploadReply) encode() []byte {
	b := header(ReplyLen, OpUpload)[:ReplyLen]
	binary.BigEndian.PutUint64(b[atPublishBy:], uint64(r.PublishBy))
	return b
}

// Refusal says that nothing was done, and why. Its reason decides its status.
type Refusal struct {
	Operation Operation     // the request's; 0 if it could not be read (ReasonMalformed)
	Reason    Reason        // one that answers this operation
	Record    int           // record of an upload that is at fault, from 1; 0 if none is named
	Retry     time.Duration // whole minutes, 1 to 65,535 for a status Later, else 0
}

// Error makes a Refusal an error, for the phone's side.
func (r Refusal) Error() string {
	if r.Record > 0 {
		return fmt.Sprintf("%v refused: %v (record %d)", r.Operation, r.Reason, r.Record)
	}
	return fmt.Sprintf("%v refused: %v", r.Operation, r.Reason)
}

// Encode: see Reply.
func (r Refusal) Encode() ([]byte, error) { return encodeReply(r) }

func (r Refusal) check() error {
	if !r.Reason.valid() {
		return fmt.Errorf("unknown reason %d", r.Reason)
	}
	row := reasons[r.Reason]
	switch {
	case r.Operation == 0 && r.Reason == ReasonMalformed:
	case r.Operation == OpRedeem && row.redeem, r.Operation == OpUpload && row.upload:
	default:
		return fmt.Errorf("reason %v does not answer %v", r.Reason, r.Operation)
	}
	if r.Record < 0 || r.Record > 30 || r.Record > 0 && (r.Operation != OpUpload || !row.record) {
		return fmt.Errorf("reason %v names record %d", r.Reason, r.Record)
	}
	if later := row.status == Later; later != (r.Retry > 0) || r.Retry < 0 || r.Retry > MaxRetry || r.Retry%time.Minute != 0 {
		return fmt.Errorf("reason %v asks for a wait of %v", r.Reason, r.Retry)
	}
	return nil
}

func (r Refusal) encode() []byte {
	b := header(ReplyLen, r.Operation)[:ReplyLen]
	b[atStatus], b[atReason], b[atRecord] = byte(r.Reason.Status()), byte(r.Reason), byte(r.Record)
	binary.BigEndian.PutUint16(b[atRetry:], uint16(r.Retry/time.Minute))
	return b
}

func encodeReply(r Reply) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("encoding a reply: %w", err)
	}
	return r.encode(), nil
}

// DecodeReplyTo reads the reply to a request, of which a phone has the plaintext: a record
// that is named must be one that was sent. Each value has one spelling.
func DecodeReplyTo(request, b []byte) (Reply, error) {
	if len(request) != RequestLen {
		return nil, fmt.Errorf("a request of %d bytes, want %d", len(request), RequestLen)
	}
	r, err := DecodeReply(Operation(request[atOperation]), b)
	if refusal, ok := r.(Refusal); ok && refusal.Record > int(request[atCount]) {
		return nil, fmt.Errorf("reply to %v: names record %d of %d", refusal.Operation, refusal.Record, request[atCount])
	}
	return r, err
}

// DecodeReply is DecodeReplyTo where nothing is known of the request but its operation: it
// takes any record that an upload can have.
func DecodeReply(op Operation, b []byte) (Reply, error) {
	if len(b) != ReplyLen || b[atVersion] != version {
		return nil, fmt.Errorf("reply: want version %d and %d bytes", version, ReplyLen)
	}
	var r Reply
	switch got := Operation(b[atOperation]); {
	case Status(b[atStatus]) != Done && (got == op || got == 0):
		r = Refusal{
			Operation: got,
			Reason:    Reason(b[atReason]),
			Record:    int(b[atRecord]),
			Retry:     time.Duration(binary.BigEndian.Uint16(b[atRetry:])) * time.Minute,
		}
	case got != op:
		return nil, fmt.Errorf("reply to %v, want one to %v", got, op)
	case op == OpRedeem:
		r = RedeemReply{
			Info:     Info{Report: diagnosis.ReportType(b[atReport]), Epoch: readU32(b[atEpoch:])},
			OnsetDay: readU32(b[atOnset:]),
			Evaluation: Evaluation{
				Element: [ElementLen]byte(b[atEvaluated:]),
				Proof:   [ProofLen]byte(b[atProof:]),
			},
		}
	case op == OpUpload:
		r = UploadReply{PublishBy: int64(binary.BigEndian.Uint64(b[atPublishBy:]))}
	default:
		return nil, fmt.Errorf("reply to %v", op)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("reply to %v: %w", op, err)
	}
	if !bytes.Equal(r.encode(), b) {
		return nil, fmt.Errorf("reply to %v: %w", op, errFilling)
	}
	return r, nil
}
