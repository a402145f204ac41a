package phone

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"time"
)

const (
	coverMean = time.Hour
	coverMost = 4 * time.Hour
)

// NextCover draws the time of the next scheduled request: an exponential time after now,
// with mean 1 h, at most 4 h (design: every phone sends cover at random times, and a real
// upload takes the place of one).
//
// The exponential distribution has no memory: from any moment on, the wait for the next
// request is the same. So a phone that draws again after a Redeem, which its owner timed,
// goes on as one that had its scheduled request just then.
func NextCover(now time.Time) time.Time {
	var b [8]byte
	rand.Read(b[:])
	u := float64(binary.BigEndian.Uint64(b[:])>>11+1) / (1 << 53) // in (0, 1]
	wait := min(-math.Log(u), float64(coverMost)/float64(coverMean)) * float64(coverMean)
	return whole(now.Add(time.Duration(wait))).Add(time.Second)
}

// below draws a number from 0 to n-1.
func below(n byte) byte {
	for {
		var b [1]byte
		rand.Read(b[:])
		if b[0] < 255-255%n {
			return b[0] % n
		}
	}
}
