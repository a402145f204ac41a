package keystore

import "bluekey/keystore/diagnosis"

// Coarse gives a key the metadata under which it is published by default, so that the keys
// of one case do not stand out by them. It moves the start of a key only together with the
// secret that belongs there, and applied twice it changes nothing more.
//
//   - Days since onset fall into two classes: -2 to 3, when a case infects most, become 0,
//     all others 6. The transmission risk follows from the class.
//   - A clinical diagnosis becomes a confirmed test.
//   - A GAEN key within one UTC day becomes the key of the whole day. One that spans
//     midnight stays as it is: widening it would claim a day it was not used on.
//   - A Bluezone start goes up to the next multiple of 16 intervals, unless nothing of the
//     day would be left.
func Coarse(k diagnosis.Key) diagnosis.Key {
	class := onsetClass(k.Onset)
	k.Onset, k.Risk = class.onset, class.risk
	if k.Report == diagnosis.ConfirmedClinical {
		k.Report = diagnosis.ConfirmedTest
	}
	day := k.Scheme.PerDay()
	switch k.Scheme {
	case diagnosis.GAEN:
		if k.Start/day == (k.End()-1)/day {
			k.Start, k.Count = k.Start/day*day, uint8(day)
		}
	case diagnosis.Bluezone:
		up := (bluezoneGrid - k.Start%bluezoneGrid) % bluezoneGrid
		if (k.Start%day)+up >= day {
			break
		}
		for range up {
			k.Secret = diagnosis.NextSubKey(k.Secret)
		}
		k.Start, k.Count = k.Start+up, k.Count-uint8(up)
	}
	return k
}

const bluezoneGrid = 16 // intervals

type class struct {
	onset diagnosis.DaysSinceOnset
	risk  uint8 // GAEN levels: 2 low, 5 high
}

func onsetClass(d diagnosis.DaysSinceOnset) class {
	if d >= -2 && d <= 3 {
		return class{onset: 0, risk: 5}
	}
	return class{onset: 6, risk: 2}
}
