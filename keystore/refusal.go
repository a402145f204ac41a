package keystore

import "fmt"

// Reason is the stable name of why an upload was refused. Clients act on it, so a reason
// never changes its meaning.
type Reason string

const (
	BadCode     Reason = "bad_code"     // unknown, mistyped or revoked
	SpentCode   Reason = "spent_code"   // bought something else already
	ExpiredCode Reason = "expired_code" // known, but its time is over
	Paused      Reason = "paused"       // too many wrong short codes this hour; long codes go on
	BadPermit   Reason = "bad_permit"   // too old for its first use, or another's
	Full        Reason = "full"         // more keys than one permit takes
	TooOld      Reason = "too_old"      // a key ended more than MaxAge ago
	Future      Reason = "future"       // a key starts after now
	Overlap     Reason = "overlap"      // keys that one phone cannot have used at the same time
	Malformed   Reason = "malformed"    // a shape that no situation makes right
	Busy        Reason = "busy"         // too many uploads wait already
	Closed      Reason = "closed"       // the service has a successor and takes nothing any more
)

// Refusal says what was wrong with an upload. Nothing of a refused upload is stored, and
// a code it carried is as good as before.
type Refusal struct {
	Reason Reason
	Field  string // code, keys, or the key's key, start, count, risk, scheme
	Index  int    // position of the key in the upload, -1 where it is not about one key
	Retry  bool   // the same upload may succeed later
	detail string
}

func (r *Refusal) Error() string {
	where := r.Field
	if r.Index >= 0 {
		where = fmt.Sprintf("key %d: %s", r.Index, r.Field)
	}
	if r.detail == "" {
		return fmt.Sprintf("upload refused: %s (%s)", r.Reason, where)
	}
	return fmt.Sprintf("upload refused: %s (%s: %s)", r.Reason, where, r.detail)
}
