package permit_test

import (
	"testing"
	"time"

	"bluekey/keystore/diagnosis"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

const today = 20780

var noon = time.Unix(today*86400+43200, 0)

// bench is a service with its keys, and a phone's permit.
type bench struct {
	service permit.Service
	issuer  *permit.Issuer
	ring    seal.Ring
	public  *seal.PublicKey
}

func newBench(b *testing.B) *bench {
	s, err := permit.NewService("keys.example/hp", "VN-HP")
	must(b, err)
	issuer, err := permit.NewIssuer(s, [32]byte{1})
	must(b, err)
	key, err := seal.NewPrivateKey("keys.example/hp", today)
	must(b, err)
	x := &bench{service: s, issuer: issuer, public: key.Public()}
	must(b, x.ring.Add(key))
	return x
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

var info = permit.Info{Report: diagnosis.ConfirmedTest, Epoch: today}

// serve is all the work of the service for one sealed request but HTTP and the store.
func (x *bench) serve(b *testing.B, sealed []byte) []byte {
	opened, err := x.ring.Open(sealed, noon)
	must(b, err)
	request, err := permit.DecodeRequest(opened.Plain)
	must(b, err)
	var plain []byte
	switch r := request.(type) {
	case *permit.RedeemRequest:
		evaluate := x.issuer.Evaluate
		if r.Cover {
			evaluate = x.issuer.EvaluateDecoy
		}
		evaluation, err := evaluate(info, r.Blinded)
		must(b, err)
		plain, err = permit.RedeemReply{Info: info, Evaluation: evaluation}.Encode()
		must(b, err)
	case *permit.UploadRequest:
		if !x.issuer.Check(r, today) && !r.Cover {
			b.Fatal("refused")
		}
		plain, err = permit.UploadReply{PublishBy: noon.Unix()}.Encode()
		must(b, err)
	}
	reply, err := opened.Seal(plain)
	must(b, err)
	return reply
}

// run serves one request over and over.
func (x *bench) run(b *testing.B, plain []byte) {
	sealed, _, err := x.public.Seal(plain)
	must(b, err)
	x.serve(b, sealed)
	b.ResetTimer()
	for range b.N {
		x.serve(b, sealed)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

// BenchmarkRedeem is the service's work for a Redeem: open, decode, evaluate, reply.
func BenchmarkRedeem(b *testing.B) {
	pending, err := permit.NewPending()
	must(b, err)
	redeem := pending.Redeem("123456782")
	plain, err := redeem.Encode()
	must(b, err)
	b.Run("real", func(b *testing.B) { newBench(b).run(b, plain) })
	cover, err := permit.CoverRedeem()
	must(b, err)
	b.Run("cover", func(b *testing.B) { newBench(b).run(b, cover) })
}

// BenchmarkUpload is the service's work for an Upload of 14 keys: open, decode, check the
// permit and the signature, reply.
func BenchmarkUpload(b *testing.B) {
	b.Run("real", func(b *testing.B) {
		x := newBench(b)
		pending, err := permit.NewPending()
		must(b, err)
		evaluation, err := x.issuer.Evaluate(info, pending.Redeem("").Blinded)
		must(b, err)
		held, err := pending.Finalize(x.service, permit.RedeemReply{Info: info, Evaluation: evaluation}, today,
			func(epoch uint32) ([32]byte, bool) { return x.issuer.PublicKey(epoch), true })
		must(b, err)
		keys := make([]diagnosis.Key, 14)
		for i := range keys {
			keys[i], err = diagnosis.New(diagnosis.GAEN, append(make([]byte, 15), byte(i)), diagnosis.Interval(today-1-i)*144, 144)
			must(b, err)
		}
		plain, err := held.Upload(x.service, keys)
		must(b, err)
		x.run(b, plain)
	})
	b.Run("cover", func(b *testing.B) {
		x := newBench(b)
		plain, err := permit.CoverUpload(x.service, diagnosis.GAEN, today)
		must(b, err)
		x.run(b, plain)
	})
}
