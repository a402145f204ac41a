package drill

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"bluekey/keystore/diagnosis"
)

// way is how a case hands its keys in.
type way int

const (
	byPhone way = iota
	byGAEN
	byBluezone
)

var ways = [...]way{byPhone, byGAEN, byBluezone}

func (w way) String() string {
	return [...]string{"phone service", "GAEN door", "Bluezone door"}[w]
}

// assign sends every third case of each scheme through the door of that scheme, if its
// province has one. The first of each scheme never goes there: what a phone is promised is
// the measure for the doors, which promise nothing.
func assign(cfg Config, phones []*actor) {
	const share, turn = 3, 1
	seen := map[diagnosis.Scheme]int{}
	for _, a := range phones {
		if !a.isCase {
			continue
		}
		if seen[a.scheme]%share == turn {
			a.way = cfg.Provinces[a.home].door(a.scheme)
		}
		seen[a.scheme]++
	}
}

// door is the way through the door for a scheme, or that of phones if there is none.
func (p *Province) door(scheme diagnosis.Scheme) way {
	switch {
	case scheme == diagnosis.GAEN && p.Authority != nil:
		return byGAEN
	case scheme == diagnosis.Bluezone && p.IssueDoor != nil:
		return byBluezone
	}
	return byPhone
}

// doorClient is the network of apps that come through a door.
var doorClient = &http.Client{Timeout: 30 * time.Second}

// post sends a request as an app does and reads the reply to its end.
func post(ctx context.Context, url, contentType string, body []byte) (status int, reply []byte, err error) {
	const enough = 64 << 10
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", contentType)
	resp, err := doorClient.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	reply, err = io.ReadAll(io.LimitReader(resp.Body, enough))
	if err != nil {
		return 0, nil, fmt.Errorf("reading the reply of %s: %w", url, err)
	}
	return resp.StatusCode, reply, nil
}
