package publish

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"time"

	"bluekey/keystore/diagnosis"
)

// Padding fills a thin window with whole made-up cases, so that the keys of a real one do
// not stand alone. A made-up case is drawn as follows; the distribution is public, and
// nothing marks what was drawn from it, not even in the store.
//
//	days    14 in 7 of 10 cases, else 1 to 13, each as likely: most phones hand over all
//	        they have, some were installed lately or were switched off
//	last    the newest day whose keys are due
//	onset   0 to 5 days before the last day, each as likely
//	report  confirmed test in 2 of 3 cases, self-report in one: either kind of real case
//	        finds company
//	risk    0, as phones leave it unless an app chooses
//
// Keys are whole UTC days, as under coarse metadata; onset and risk are made coarse by the
// store like those of any other key.
const (
	fullCaseDays     = 14
	fullCaseTenths   = 7
	longestOnset     = 5
	selfReportOneIn  = 3
	dueAfterDayEnded = 2 * time.Hour // clock skew between phones, design of the due rule
)

// madeUpCases draws cases until there are at least want keys of the scheme that are due at
// end. random is the source of secrets and choices.
func madeUpCases(scheme diagnosis.Scheme, want int, end time.Time, random io.Reader) []diagnosis.Key {
	var keys []diagnosis.Key
	last := uint32(end.Add(-dueAfterDayEnded).Unix()/86400) - 1
	perDay := scheme.PerDay()
	for len(keys) < want {
		days := uint32(fullCaseDays)
		if draw(random, 10) >= fullCaseTenths {
			days = 1 + uint32(draw(random, fullCaseDays-1))
		}
		onset := last - uint32(draw(random, longestOnset+1))
		report := diagnosis.ConfirmedTest
		if draw(random, selfReportOneIn) == 0 {
			report = diagnosis.SelfReport
		}
		for day := last - days + 1; day <= last; day++ {
			k := diagnosis.Key{
				Scheme: scheme,
				Start:  diagnosis.Interval(day) * perDay,
				Count:  uint8(perDay),
				Report: report,
			}
			fill(random, k.Secret[:scheme.SecretLen()])
			k.Onset = k.OnsetOn(onset)
			keys = append(keys, k)
		}
	}
	return keys
}

// draw gives a number below n, which is far below 2^64: what bias is left is below 2^-56.
func draw(random io.Reader, n int) int {
	var b [8]byte
	fill(random, b[:])
	return int(binary.BigEndian.Uint64(b[:]) % uint64(n))
}

func fill(random io.Reader, b []byte) {
	if _, err := io.ReadFull(random, b); err != nil {
		panic("drawing padding: " + err.Error()) // crypto/rand does not fail
	}
}

// systemRandom is where padding comes from outside tests.
var systemRandom io.Reader = rand.Reader
