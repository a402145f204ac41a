package console

import (
	"sync"
	"time"
)

// keepFor is how long a public page is given out before it is made again: anybody may ask
// for it, and as often as they like.
const keepFor = 10 * time.Second

// kept is a page that is made at most so often.
type kept struct {
	mu   sync.Mutex
	at   time.Time
	page []byte
}

// get is the page, made anew if it is old. Who asks meanwhile waits for it.
func (k *kept) get(fresh func() ([]byte, error)) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.page != nil && time.Since(k.at) < keepFor {
		return k.page, nil
	}
	page, err := fresh()
	if err == nil {
		k.page, k.at = page, time.Now()
	}
	return page, err
}
