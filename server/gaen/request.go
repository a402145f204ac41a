package gaen

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
)

// MaxBody is the largest request body in bytes (reference server, 64,000).
const MaxBody = 64_000

// publish is the body of a request.
type publish struct {
	Keys          []tek  `json:"temporaryExposureKeys"`
	Authority     string `json:"healthAuthorityID"`
	Certificate   string `json:"verificationPayload"`
	HMACKey       string `json:"hmacKey"`
	Onset         int32  `json:"symptomOnsetInterval"`
	Traveler      bool   `json:"traveler"` // says nothing here: there is one region
	RevisionToken string `json:"revisionToken"`
	Padding       string `json:"padding"`
}

// tek is one key as it was sent.
type tek struct {
	Key    string `json:"key"`
	Start  int32  `json:"rollingStartNumber"`
	Period int32  `json:"rollingPeriod"`
	Risk   int32  `json:"transmissionRisk"`
}

var publishNames = []string{
	"temporaryExposureKeys", "healthAuthorityID", "verificationPayload", "hmacKey", "hmackey",
	"symptomOnsetInterval", "traveler", "revisionToken", "padding",
	"key", "rollingStartNumber", "rollingPeriod", "transmissionRisk",
}

// readPublish reads a body. A member that is null counts as absent, as the libraries of
// some apps write it so.
func readPublish(body []byte) (*publish, error) {
	p := new(publish)
	if err := readJSON(body, publishNames, p); err != nil {
		return nil, err
	}
	if n := len(p.Keys); n == 0 || n > keystore.MaxKeys {
		return nil, fmt.Errorf("temporaryExposureKeys: want 1 to %d", keystore.MaxKeys)
	}
	return p, nil
}

// checkMAC reports whether mac is that of the keys as they were sent, in the form with the
// transmission risks, or, where all of them are zero, in the form without.
func checkMAC(keys []tek, secret string, mac []byte) bool {
	k, err := decode64(secret)
	if err != nil || len(k) == 0 {
		return false
	}
	if hmac.Equal(mac, macOf(k, keys, true)) {
		return true
	}
	risky := slices.ContainsFunc(keys, func(t tek) bool { return t.Risk != 0 })
	return !risky && hmac.Equal(mac, macOf(k, keys, false))
}

// macOf is HMAC-SHA256 over "key.start.period.risk" of each key, comma between, sorted by
// key (verification protocol, "tekmac"). The base64 is that which was sent.
func macOf(secret []byte, keys []tek, risk bool) []byte {
	sorted := slices.Clone(keys)
	slices.SortStableFunc(sorted, func(a, b tek) int { return cmp.Compare(a.Key, b.Key) })
	text := make([]byte, 0, 48*len(keys))
	for i, t := range sorted {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(append(text, t.Key...), '.')
		text = append(strconv.AppendInt(text, int64(t.Start), 10), '.')
		text = strconv.AppendInt(text, int64(t.Period), 10)
		if risk {
			text = strconv.AppendInt(append(text, '.'), int64(t.Risk), 10)
		}
	}
	h := hmac.New(sha256.New, secret)
	h.Write(text)
	return h.Sum(nil)
}

// key is t as the store takes it. Age and overlap are the store's business.
func (t *tek) key() (diagnosis.Key, error) {
	secret, err := decode64(t.Key)
	if err != nil {
		return diagnosis.Key{}, errors.New("key: not base64")
	}
	if t.Start < 0 {
		return diagnosis.Key{}, errors.New("rollingStartNumber: negative")
	}
	if t.Risk < 0 || t.Risk > diagnosis.MaxRisk {
		return diagnosis.Key{}, fmt.Errorf("transmissionRisk: want 0 to %d", diagnosis.MaxRisk)
	}
	k, err := diagnosis.New(diagnosis.GAEN, secret, diagnosis.Interval(t.Start), int(t.Period))
	if shape := (*diagnosis.ShapeError)(nil); errors.As(err, &shape) {
		return diagnosis.Key{}, errors.New(wireName(shape.Field) + ": " + shape.Problem)
	}
	k.Risk = uint8(t.Risk)
	return k, err
}

// wireName is the name that the contract has for a field of a key.
func wireName(field string) string {
	switch field {
	case "start":
		return "rollingStartNumber"
	case "count":
		return "rollingPeriod"
	case "risk":
		return "transmissionRisk"
	}
	return field
}

const (
	maxOnsetAge  = 28 // days; an earlier onset is not believed
	defaultOnset = 4  // days before now, if nobody knows
)

// onsetDay is the UTC day the symptoms began: as the phone says, else as the certificate
// does, else a few days ago. An interval of 0 says nothing.
func onsetDay(phone int32, certificate uint32, now time.Time) uint32 {
	perDay := uint32(diagnosis.GAEN.PerDay())
	today := uint32(diagnosis.GAEN.IntervalAt(now)) / perDay
	for _, x := range []uint32{uint32(max(phone, 0)), certificate} {
		if x >= (today-maxOnsetAge)*perDay && x < uint32(diagnosis.GAEN.IntervalAt(now)) {
			return x / perDay
		}
	}
	return today - defaultOnset
}
