package server

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Requests are read by two codecs of our own, because the stock ones are lenient: they
// keep unknown fields, let a later value replace an earlier one and cut a number down to
// its field. Here a request has one spelling in the binary form, and what JSON gives is
// checked as far as its parser goes (unknown and repeated names are refused).
//
// A codec runs before any handler or interceptor, so an error it returned would reach
// the wire as the library words it. It marks the message instead, and strict (in
// refusal.go) answers marked messages with a Refusal.

// binaryCodec is application/proto and application/grpc.
type binaryCodec struct{}

func (binaryCodec) Name() string { return "proto" }

func (binaryCodec) Marshal(m any) ([]byte, error) { return proto.Marshal(m.(proto.Message)) }

func (binaryCodec) MarshalAppend(b []byte, m any) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(b, m.(proto.Message))
}

func (binaryCodec) Unmarshal(b []byte, m any) error {
	msg := m.(proto.Message)
	problem := checkWire(b, msg.ProtoReflect().Descriptor())
	if problem == "" && proto.Unmarshal(b, msg) != nil {
		problem = "text is not UTF-8" // the one thing checkWire leaves to the parser
	}
	mark(msg, problem)
	return nil
}

// jsonCodec is application/json, with and without a charset.
type jsonCodec struct{ name string }

func (c jsonCodec) Name() string { return c.name }

func (jsonCodec) Marshal(m any) ([]byte, error) { return protojson.Marshal(m.(proto.Message)) }

func (jsonCodec) Unmarshal(b []byte, m any) error {
	msg := m.(proto.Message)
	problem := ""
	if protojson.Unmarshal(b, msg) != nil {
		problem = "body is not the JSON form of " + string(msg.ProtoReflect().Descriptor().FullName())
	}
	mark(msg, problem)
	return nil
}

// markField is the number of a field that no message has: the last one protobuf allows.
const markField = protowire.MaxValidNumber

// mark empties a message that could not be read and notes why, as an unknown field. It
// does nothing if there is no problem.
func mark(m proto.Message, problem string) {
	if problem == "" {
		return
	}
	proto.Reset(m)
	b := protowire.AppendTag(nil, markField, protowire.BytesType)
	m.ProtoReflect().SetUnknown(protowire.AppendString(b, problem))
}

// marked is the problem noted by mark, empty if there was none.
func marked(m proto.Message) string {
	b := m.ProtoReflect().GetUnknown()
	if len(b) == 0 {
		return ""
	}
	_, _, n := protowire.ConsumeTag(b)
	problem, _ := protowire.ConsumeString(b[n:])
	return problem
}

// checkWire reports what keeps b from being the one spelling of a message of md: unknown
// fields, wrong wire types, a single value given twice, varints longer than need be or
// too large for their field, truncation. Empty means nothing. The order of fields is
// free, and a zero may be written out.
func checkWire(b []byte, md protoreflect.MessageDescriptor) string {
	var seen uint64 // bit i: single field i of md was there
	fields := md.Fields()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || n != protowire.SizeTag(num) {
			return "damaged field tag in " + string(md.Name())
		}
		b = b[n:]
		fd := fields.ByNumber(num)
		if fd == nil {
			return fmt.Sprintf("unknown field %d in %s", num, md.Name())
		}
		if !fd.IsList() {
			bit := uint64(1) << fd.Index()
			if seen&bit != 0 {
				return "field given twice: " + string(fd.Name())
			}
			seen |= bit
		}
		n, problem := checkValue(b, typ, fd)
		if problem != "" {
			return problem
		}
		b = b[n:]
	}
	return ""
}

// checkValue checks the value at the start of b against the type of its field and gives
// its length. It knows the types that the messages of this server use.
func checkValue(b []byte, typ protowire.Type, fd protoreflect.FieldDescriptor) (n int, problem string) {
	switch fd.Kind() {
	case protoreflect.BytesKind, protoreflect.StringKind, protoreflect.MessageKind:
		if typ != protowire.BytesType {
			return 0, "wrong wire type: " + string(fd.Name())
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 || n != protowire.SizeBytes(len(v)) {
			return 0, "damaged length: " + string(fd.Name())
		}
		if fd.Kind() == protoreflect.MessageKind {
			return n, checkWire(v, fd.Message())
		}
		return n, ""
	default:
		if typ != protowire.VarintType {
			return 0, "wrong wire type: " + string(fd.Name())
		}
		v, n := protowire.ConsumeVarint(b)
		if n < 0 || n != protowire.SizeVarint(v) {
			return 0, "damaged number: " + string(fd.Name())
		}
		if v > largest(fd.Kind()) {
			return 0, "number too large: " + string(fd.Name())
		}
		return n, ""
	}
}

// largest is the largest varint that a field of the kind may carry. Negative numbers of
// any kind are among the refused: no request has a use for them.
func largest(k protoreflect.Kind) uint64 {
	switch k {
	case protoreflect.BoolKind:
		return 1
	case protoreflect.Uint32Kind:
		return math.MaxUint32
	case protoreflect.EnumKind, protoreflect.Int32Kind:
		return math.MaxInt32
	case protoreflect.Uint64Kind:
		return math.MaxUint64
	default:
		return math.MaxInt64
	}
}
