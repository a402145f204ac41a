package publish

import "time"

const (
	firstRetry = 5 * time.Second
	tellAgain  = time.Hour // that the same still fails
)

// failures says when to try again what has failed, and whether to tell anybody: a disk that
// stays full for a weekend is one line an hour and not one every five seconds.
type failures struct {
	longest time.Duration // between two tries

	wait time.Duration // before the next try; 0 after a success
	text string        // told last
	told time.Time
}

// next is how long to wait after a try that failed with err at now.
func (f *failures) next(err error, now time.Time) (wait time.Duration, tell bool) {
	f.wait = min(max(firstRetry, 2*f.wait), f.longest)
	if text := err.Error(); text != f.text || now.Sub(f.told) >= tellAgain {
		f.text, f.told, tell = text, now, true
	}
	return f.wait, tell
}

// over says that a try went well.
func (f *failures) over() { *f = failures{longest: f.longest} }
