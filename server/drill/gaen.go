package drill

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"bluekey/keystore/diagnosis"
)

// gaenReply is how many bytes every reply of the GAEN door has.
const gaenReply = 4096

// gaenKey is a key as the reference key server's API v1 wants it.
type gaenKey struct {
	Key    string `json:"key"`
	Start  uint32 `json:"rollingStartNumber"`
	Period uint8  `json:"rollingPeriod"`
	Risk   uint8  `json:"transmissionRisk"`
}

// publish hands the keys in as an app of the reference key server does: it has its own
// authority certify the HMAC of the keys, and posts both.
func (a *actor) publish(ctx context.Context, p *Province) error {
	var secret [16]byte
	rand.Read(secret[:])
	a.tell("HMAC key", secret[:])
	keys := gaenKeys(a.keys)
	certificate, err := p.Authority.certify(gaenMAC(secret[:], keys), time.Now())
	if err != nil {
		return err
	}
	padding := make([]byte, 1024)
	rand.Read(padding)
	body, err := json.Marshal(map[string]any{
		"temporaryExposureKeys": keys,
		"healthAuthorityID":     p.Authority.App,
		"verificationPayload":   certificate,
		"hmacKey":               base64.StdEncoding.EncodeToString(secret[:]),
		"symptomOnsetInterval":  a.keys[0].Start,
		"padding":               base64.StdEncoding.EncodeToString(padding),
	})
	if err != nil {
		return err
	}
	status, reply, err := post(ctx, p.URL+"/v1/publish", "application/json", body)
	if err == nil {
		err = checkGAEN(status, reply)
	}
	if err != nil {
		return fmt.Errorf("handing keys in at the GAEN door: %w", err)
	}
	return nil
}

func gaenKeys(keys []diagnosis.Key) []gaenKey {
	list := make([]gaenKey, len(keys))
	for i := range keys {
		k := &keys[i]
		list[i] = gaenKey{base64.StdEncoding.EncodeToString(k.Bytes()), uint32(k.Start), k.Count, k.Risk}
	}
	return list
}

// gaenMAC is the verification protocol's tekmac: HMAC-SHA256 over "key.start.period.risk" of
// each key, comma between, sorted by key.
func gaenMAC(secret []byte, keys []gaenKey) []byte {
	var parts []string
	for _, k := range slices.SortedFunc(slices.Values(keys), func(a, b gaenKey) int { return cmp.Compare(a.Key, b.Key) }) {
		parts = append(parts, fmt.Sprintf("%s.%d.%d.%d", k.Key, k.Start, k.Period, k.Risk))
	}
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(strings.Join(parts, ",")))
	return h.Sum(nil)
}

// checkGAEN takes nothing but a whole success: every key stored, and a reply whose length
// says nothing.
func checkGAEN(status int, reply []byte) error {
	var said struct{ RevisionToken, Error, Code string }
	if err := json.Unmarshal(reply, &said); err != nil {
		return fmt.Errorf("HTTP %d and a reply of %d bytes: %w", status, len(reply), err)
	}
	switch {
	case status != http.StatusOK || said.Code != "" || said.Error != "":
		return fmt.Errorf("HTTP %d, %s: %s", status, said.Code, said.Error)
	case said.RevisionToken == "":
		return fmt.Errorf("a reply without a revision token")
	case len(reply) != gaenReply:
		return fmt.Errorf("a reply of %d bytes: all have %d", len(reply), gaenReply)
	}
	return nil
}
