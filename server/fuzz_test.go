package server

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "bluekey/server/api/bluekey/v1"
)

// FuzzUpload: whatever bytes come, reading them gives an upload or a refusal; and bytes
// in the one spelling of an upload give that upload back.
func FuzzUpload(f *testing.F) {
	keys := []*v1.Key{{Secret: bytes.Repeat([]byte{7}, 16), Start: 2_900_000, Count: 144, Risk: 8}}
	good := uploadBody(f, "01234567", keys)
	f.Add(good, false)
	f.Add(good[:len(good)-1], false)
	f.Add(append(good, good...), false)
	f.Add([]byte{0x9a, 0x00, 0x00}, false)
	f.Add([]byte(`{"code":"01234567","scheme":"SCHEME_GAEN","keys":[{"secret":"BwcHBwcHBwcHBwcHBwcHBw==","start":2900000,"count":144}]}`), true)
	f.Add([]byte(`{"code":"\ud800"}`), true)
	f.Fuzz(func(t *testing.T, b []byte, json bool) {
		req := new(v1.UploadRequest)
		var err error
		if json {
			err = jsonCodec{"json"}.Unmarshal(b, req)
		} else {
			err = binaryCodec{}.Unmarshal(b, req)
		}
		if err != nil {
			t.Fatal(err)
		}
		if problem := marked(req); problem != "" {
			if req.Code != "" || req.Scheme != 0 || len(req.Keys) != 0 {
				t.Fatal("something is left of a message that could not be read")
			}
			return
		}
		if !json {
			// Everything that was sent was understood: written again in the order of the
			// fields it has at most the same length, zeros being left out.
			again, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
			if err != nil || len(again) > len(b) {
				t.Fatalf("%d bytes read, %d written, %v", len(b), len(again), err)
			}
			second := new(v1.UploadRequest)
			if binaryCodec.Unmarshal(binaryCodec{}, again, second); marked(second) != "" || !proto.Equal(req, second) {
				t.Fatal("what was written reads differently")
			}
		}
		up, err := readUpload(req)
		if err != nil {
			if _, ok := err.(*refusal); !ok {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		if len(up.Keys) != len(req.Keys) || len(up.Keys) == 0 || len(up.Keys) > maxKeys {
			t.Fatalf("%d keys of %d", len(up.Keys), len(req.Keys))
		}
		for i, k := range up.Keys {
			if err := k.Check(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(k.Bytes(), req.Keys[i].Secret) || uint32(k.Start) != req.Keys[i].Start || uint32(k.Count) != req.Keys[i].Count {
				t.Fatal("a key changed on its way")
			}
		}
	})
}

// FuzzAcceptEncoding: no header makes the choice fail or choose what was refused.
func FuzzAcceptEncoding(f *testing.F) {
	f.Add("gzip;q=0.5, zstd;q=1.000, *;q=0")
	f.Add(",;q=,q")
	doc := &document{variants: encode(bytes.Repeat([]byte("x"), 1000), true)}
	f.Fuzz(func(t *testing.T, accept string) {
		v := doc.choose([]string{accept})
		if w, ok := weigh([]string{accept})[v.encoding]; ok && w == 0 && v.encoding != "" {
			t.Fatalf("%q chooses %s", accept, v.encoding)
		}
	})
}
