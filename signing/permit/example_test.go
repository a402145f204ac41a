package permit_test

import (
	"fmt"
	"log"

	"bluekey/keystore/diagnosis"
	"bluekey/signing/permit"
)

// A phone buys a permit with a code and, later, hands in a key under it. The service sees
// nothing in the second request that it saw in the first.
func Example() {
	service, err := permit.NewService("keys.example/hp", "VN-HP")
	if err != nil {
		log.Fatal(err)
	}
	issuer, err := permit.NewIssuer(service, [32]byte{1}) // a secret seed
	if err != nil {
		log.Fatal(err)
	}
	const today = 20780 // 23 November 2026, counted from 1970

	// The phone keeps pending and sends the request, sealed.
	pending, err := permit.NewPending()
	if err != nil {
		log.Fatal(err)
	}
	redeem := pending.Redeem("123456782")
	request, err := redeem.Encode()
	if err != nil {
		log.Fatal(err)
	}

	// The service looks the code up: a confirmed test.
	decoded, err := permit.DecodeRequest(request)
	if err != nil {
		log.Fatal(err)
	}
	info := permit.Info{Report: diagnosis.ConfirmedTest, Epoch: today}
	evaluation, err := issuer.Evaluate(info, decoded.(*permit.RedeemRequest).Blinded)
	if err != nil {
		log.Fatal(err)
	}
	reply := permit.RedeemReply{Info: info, Evaluation: evaluation}

	// The phone accepts it under the published key of the day only.
	keyring := map[uint32][32]byte{today: issuer.PublicKey(today)}
	held, err := pending.Finalize(service, reply, today, func(epoch uint32) ([32]byte, bool) {
		key, ok := keyring[epoch]
		return key, ok
	})
	if err != nil {
		log.Fatal(err)
	}

	// Hours later, on a new connection.
	key, err := diagnosis.New(diagnosis.GAEN, make([]byte, 16), (today-1)*144, 144)
	if err != nil {
		log.Fatal(err)
	}
	request, err = held.Upload(service, []diagnosis.Key{key})
	if err != nil {
		log.Fatal(err)
	}
	decoded, err = permit.DecodeRequest(request)
	if err != nil {
		log.Fatal(err)
	}
	upload := decoded.(*permit.UploadRequest)
	fmt.Println("bytes:", len(request))
	fmt.Println("good for its first use:", issuer.Check(upload, today+1) && permit.FirstUse(upload.Permit.Epoch, today+1))
	fmt.Println("keys:", upload.Keys, upload.Keys[0].Report)
	fmt.Println("a week later:", issuer.Check(upload, today+7))
	// Output:
	// bytes: 1024
	// good for its first use: true
	// keys: [gaen key [secret]] confirmed-test
	// a week later: false
}
