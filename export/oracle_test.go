package export

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"bluekey/keystore/diagnosis"
)

// The export format as the platforms publish it (proto2), for the protobuf library to
// read and write what this package does by hand.
const exportProto = `
name: "export.proto" syntax: "proto2"
message_type { name: "TemporaryExposureKeyExport"
  field { name: "start_timestamp" number: 1 type: TYPE_FIXED64 label: LABEL_OPTIONAL }
  field { name: "end_timestamp" number: 2 type: TYPE_FIXED64 label: LABEL_OPTIONAL }
  field { name: "region" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "batch_num" number: 4 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "batch_size" number: 5 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "signature_infos" number: 6 type: TYPE_MESSAGE type_name: ".SignatureInfo" label: LABEL_REPEATED }
  field { name: "keys" number: 7 type: TYPE_MESSAGE type_name: ".TemporaryExposureKey" label: LABEL_REPEATED }
  field { name: "revised_keys" number: 8 type: TYPE_MESSAGE type_name: ".TemporaryExposureKey" label: LABEL_REPEATED }
}
message_type { name: "SignatureInfo"
  field { name: "app_bundle_id" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "android_package" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "verification_key_version" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "verification_key_id" number: 4 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "signature_algorithm" number: 5 type: TYPE_STRING label: LABEL_OPTIONAL }
}
message_type { name: "TemporaryExposureKey"
  field { name: "key_data" number: 1 type: TYPE_BYTES label: LABEL_OPTIONAL }
  field { name: "transmission_risk_level" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "rolling_start_interval_number" number: 3 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "rolling_period" number: 4 type: TYPE_INT32 label: LABEL_OPTIONAL default_value: "144" }
  field { name: "report_type" number: 5 type: TYPE_ENUM type_name: ".ReportType" label: LABEL_OPTIONAL }
  field { name: "days_since_onset_of_symptoms" number: 6 type: TYPE_SINT32 label: LABEL_OPTIONAL }
}
message_type { name: "TEKSignatureList"
  field { name: "signatures" number: 1 type: TYPE_MESSAGE type_name: ".TEKSignature" label: LABEL_REPEATED }
}
message_type { name: "TEKSignature"
  field { name: "signature_info" number: 1 type: TYPE_MESSAGE type_name: ".SignatureInfo" label: LABEL_OPTIONAL }
  field { name: "batch_num" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "batch_size" number: 3 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "signature" number: 4 type: TYPE_BYTES label: LABEL_OPTIONAL }
}
enum_type { name: "ReportType"
  value { name: "UNKNOWN" number: 0 } value { name: "CONFIRMED_TEST" number: 1 }
  value { name: "CONFIRMED_CLINICAL_DIAGNOSIS" number: 2 } value { name: "SELF_REPORT" number: 3 }
  value { name: "RECURSIVE" number: 4 } value { name: "REVOKED" number: 5 }
}`

// oracle reads b as a message with the protobuf library, refusing unknown fields, and
// checks that the library writes the same bytes.
func oracle(t *testing.T, message protoreflect.Name, b []byte) protoreflect.Message {
	t.Helper()
	var text descriptorpb.FileDescriptorProto
	if err := prototext.Unmarshal([]byte(exportProto), &text); err != nil {
		t.Fatal(err)
	}
	file, err := protodesc.NewFile(&text, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := dynamicpb.NewMessage(file.Messages().ByName(message))
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(b) {
		t.Fatalf("the library writes %s otherwise", message)
	}
	return m
}

// value is the field of m of that name; has says whether it is there.
func value(m protoreflect.Message, name protoreflect.Name) (v protoreflect.Value, has bool) {
	f := m.Descriptor().Fields().ByName(name)
	return m.Get(f), m.Has(f)
}

func TestProtobufLibraryReadsTheSame(t *testing.T) {
	keys := slices.Insert(odd(), 7, draw(200, exact)...) // before the largest secret there is
	bin, sig := contents(t, archive(t, keys, "v2", "v1"))
	if bin[:16] != "EK Export v1    " {
		t.Fatalf("magic %q", bin[:16])
	}
	m := oracle(t, "TemporaryExposureKeyExport", []byte(bin[16:]))
	number := func(m protoreflect.Message, name protoreflect.Name) int64 { v, _ := value(m, name); return v.Int() }
	text := func(m protoreflect.Message, name protoreflect.Name) string { v, _ := value(m, name); return v.String() }
	start, _ := value(m, "start_timestamp")
	end, _ := value(m, "end_timestamp")
	if int64(start.Uint()) != someWindow.Start || int64(end.Uint()) != someWindow.End || text(m, "region") != "VN-HP" ||
		number(m, "batch_num") != 1 || number(m, "batch_size") != 1 {
		t.Errorf("header reads %v", m)
	}
	list, _ := value(m, "keys")
	if list.List().Len() != len(keys) {
		t.Fatalf("%d keys, want %d", list.List().Len(), len(keys))
	}
	for i := range keys {
		m, k := list.List().Get(i).Message(), &keys[i]
		secret, _ := value(m, "key_data")
		onset, hasOnset := value(m, "days_since_onset_of_symptoms")
		report, _ := value(m, "report_type")
		if _, has := value(m, "transmission_risk_level"); !has {
			t.Errorf("key %d has no risk: phones of the first version need it", i)
		}
		if string(secret.Bytes()) != string(k.Bytes()) || number(m, "transmission_risk_level") != int64(k.Risk) ||
			number(m, "rolling_start_interval_number") != int64(k.Start) || number(m, "rolling_period") != int64(k.Count) ||
			report.Enum() != protoreflect.EnumNumber(k.Report) || hasOnset != (k.Onset != diagnosis.OnsetUnknown) ||
			hasOnset && onset.Int() != int64(k.Onset) {
			t.Errorf("key %d reads otherwise", i)
		}
	}
	m = oracle(t, "TEKSignatureList", []byte(sig))
	signatures, _ := value(m, "signatures")
	for i, version := range []string{"v2", "v1"} {
		m := signatures.List().Get(i).Message()
		info, _ := value(m, "signature_info")
		if text(info.Message(), "verification_key_version") != version || text(info.Message(), "verification_key_id") != "452" ||
			text(info.Message(), "signature_algorithm") != "1.2.840.10045.4.3.2" || number(m, "batch_num") != 1 || number(m, "batch_size") != 1 {
			t.Errorf("signature %d reads %v", i, m)
		}
	}
}

// Programs that share no code with this one unpack the archive and verify its signature.
func TestUnzipAndOpenSSL(t *testing.T) {
	for _, name := range []string{"unzip", "openssl"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	run := func(name string, args ...string) []byte {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return out
	}
	b := archive(t, draw(20_000, exact))
	zipped := file("export.zip", b)
	run("unzip", "-t", zipped)
	bin, sig := run("unzip", "-p", zipped, binName), run("unzip", "-p", zipped, sigName)
	a, err := openArchive(b)
	if err != nil || !bytes.HasSuffix(sig, a.Signatures[0]) {
		t.Fatalf("export.sig does not end with the signature, error %v", err)
	}
	run("openssl", "dgst", "-sha256", "-verify", file("pub.pem", signer(t, "v1").PublicPEM()),
		"-signature", file("signature.der", a.Signatures[0]), file("export.bin", bin))
}
