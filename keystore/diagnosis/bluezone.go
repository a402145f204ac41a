package diagnosis

import "crypto/sha256"

// bluezoneSalt turns a daily key into the first sub-key of its day. The spelling is the
// app's own.
const bluezoneSalt = "bluzonesubkey"

// bluezoneOffsets picks the 12 bytes of a sub-key that go on the air.
var bluezoneOffsets = [12]int{0, 4, 8, 12, 16, 18, 20, 22, 24, 26, 28, 30}

// NextDailyKey is one step of the ratchet from K[d] to K[d+1]. Nothing of bluekey stores
// either.
func NextDailyKey(daily [32]byte) [32]byte { return sha256.Sum256(daily[:]) }

// DaySeed is S[d][0], the sub-key of the first interval of the day of K[d]. From it every
// ID of that day derives, and no other day.
func DaySeed(daily [32]byte) [32]byte {
	var salted [32 + len(bluezoneSalt)]byte // on the stack: no copy of a daily key outlives the call
	copy(salted[:], daily[:])
	copy(salted[len(daily):], bluezoneSalt)
	return sha256.Sum256(salted[:])
}

// NextSubKey is S[d][i+1].
func NextSubKey(sub [32]byte) [32]byte { return sha256.Sum256(sub[:]) }

// BluezoneID is the ID broadcast during the interval of a sub-key.
func BluezoneID(sub [32]byte) (id [12]byte) {
	for i, o := range bluezoneOffsets {
		id[i] = sub[o]
	}
	return id
}

func expandBluezone(dst []byte, k *Key) []byte {
	sub := [32]byte(k.Secret)
	for i := range int(k.Count) {
		if i > 0 {
			sub = NextSubKey(sub)
		}
		id := BluezoneID(sub)
		dst = append(dst, id[:]...)
	}
	return dst
}
