package seal

import (
	"bytes"
	"testing"
)

// FuzzOpen: no request opens but those that were sealed.
func FuzzOpen(f *testing.F) {
	var v exchanges
	vector(f, "exchange.json", &v)
	key, err := LoadPrivateKey(v.Origin, today, v.Seed)
	if err != nil {
		f.Fatal(err)
	}
	ring := ringOf(f, key)
	sealed := map[string]bool{}
	for _, x := range v.Exchanges {
		f.Add([]byte(x.Request))
		sealed[string(x.Request)] = true
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ring.Open(b, noon(today)); err == nil && !sealed[string(b)] {
			t.Fatal("an altered request opens")
		}
	})
}

// FuzzOpenReply: no reply opens but those that were sealed.
func FuzzOpenReply(f *testing.F) {
	var v exchanges
	vector(f, "exchange.json", &v)
	x := v.Exchanges[0]
	sent := Sent{replyKeys{secret: x.Export, enc: x.Request[keyIDLen : keyIDLen+encLen]}}
	f.Add([]byte(x.Reply))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := sent.Open(b); err == nil && !bytes.Equal(b, x.Reply) {
			t.Fatal("an altered reply opens")
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	key := newKey(b, today)
	for b.Loop() {
		sealTo(b, key.Public(), plainRequest(1))
	}
}

func BenchmarkOpen(b *testing.B) {
	key := newKey(b, today)
	ring := ringOf(b, key)
	request, _ := sealTo(b, key.Public(), plainRequest(1))
	for b.Loop() {
		if _, err := ring.Open(request, noon(today)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpenAndReply is all that sealing costs the service for one request.
func BenchmarkOpenAndReply(b *testing.B) {
	key := newKey(b, today)
	ring := ringOf(b, key)
	request, _ := sealTo(b, key.Public(), plainRequest(1))
	reply := plainReply(1)
	for b.Loop() {
		opened, err := ring.Open(request, noon(today))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := opened.Seal(reply); err != nil {
			b.Fatal(err)
		}
	}
}
