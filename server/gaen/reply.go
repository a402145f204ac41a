package gaen

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
)

// replySize is the length of every reply body in bytes, whatever it says: a token has
// 1,400 bytes and the longest list of dropped keys fewer.
const replySize = 4096

// Codes of the contract, and three of our own at the end.
const (
	codePartial      = "partial_failure"
	codeBadRequest   = "bad_request"
	codeNeedsToken   = "missing_revision_token"
	codeBadToken     = "invalid_revision_token"
	codeTransition   = "invalid_report_type_transition"
	codeUnknown      = "unknown_health_authority_id"
	codeCertificate  = "health_authority_verification_certificate_invalid"
	codeNoAuthority  = "unable_to_load_health_authority"
	codeInternal     = "internal_error"
	codePublished    = "key_already_published"
	codeBusy         = "busy"
	codeClosed       = "closed"
	maxErrorLen      = 2000 // bytes of a reply's text
	retryAfterSecond = 5
)

// reply is the answer to a request. It never says how many keys were stored: who watches
// the replies would learn how many were new.
type reply struct {
	status int

	RevisionToken string `json:"revisionToken,omitempty"`
	Error         string `json:"error,omitempty"`
	Code          string `json:"code,omitempty"`
	Padding       string `json:"padding"` // see body
}

func refuse(status int, code, text string) *reply {
	return &reply{status: status, Code: code, Error: text[:min(len(text), maxErrorLen)]}
}

// body is the reply as JSON, filled up to replySize bytes.
func (r *reply) body() []byte {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings can always be written
	}
	missing := replySize - len(text)
	if missing <= 0 {
		return text
	}
	random := make([]byte, base64.RawURLEncoding.DecodedLen(missing)+1)
	rand.Read(random)
	end := len(text) - len(`"}`) // padding is the last member, and empty
	padding := base64.RawURLEncoding.EncodeToString(random)[:missing]
	return append(append(text[:end:end], padding...), `"}`...)
}

// send writes the reply. An error means that the client is gone.
func (r *reply) send(w http.ResponseWriter) {
	body := r.body()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	// Nobody on the way is to compress it: then its size would tell again.
	h.Set("Cache-Control", "no-store, no-transform")
	if r.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(retryAfterSecond))
	}
	w.WriteHeader(r.status)
	_, _ = w.Write(body)
}
