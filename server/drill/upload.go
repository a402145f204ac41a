package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"bluekey/keystore/diagnosis"
	"bluekey/server/phone"
)

const (
	atOnce = 8                // requests under way to one province
	start  = 30 * time.Second // how long an appliance may take to announce its keys
)

// upload hands in the keys of every case at home, each by its way, while as many others send
// cover, and gives the time by which all of them are to be public. A door promises nothing:
// from what came through one as much is expected as a phone was promised at most.
func upload(ctx context.Context, cfg Config, phones []*actor) (promised time.Time, covers int, err error) {
	var longest time.Duration // promised to a phone
	var last time.Time        // that something came through a door
	for i := range cfg.Provinces {
		p := &cfg.Provinces[i]
		client, err := ready(ctx, p.URL)
		if err != nil {
			return promised, covers, err
		}
		var cases, others []*actor
		for _, a := range phones {
			switch {
			case a.home != i:
			case a.isCase:
				cases = append(cases, a)
			default:
				others = append(others, a)
			}
		}
		others = others[:min(len(others), len(cases))]
		began, by := time.Now(), make([]time.Time, len(cases))
		var steps, readOut []func() error
		for j, a := range cases {
			switch a.way {
			case byPhone:
				steps = append(steps, func() (err error) {
					by[j], err = a.upload(ctx, client, p.Issue)
					return err
				})
			case byGAEN:
				steps = append(steps, func() error { return a.publish(ctx, p) })
			case byBluezone:
				readOut = append(readOut, func() error { return a.declare(ctx, p) })
			}
		}
		// Staff read one door code out after the other: few of them may be alive at once.
		steps = append(steps, func() error {
			for _, step := range readOut {
				if err := step(); err != nil {
					return err
				}
			}
			return nil
		})
		for _, a := range others {
			steps = append(steps, func() error { return a.app(client).Visit(ctx) })
		}
		if err := together(steps); err != nil {
			return promised, covers, err
		}
		covers += len(others)
		last = time.Now()
		for _, t := range by {
			longest = max(longest, t.Sub(began))
			promised = later(promised, t)
		}
	}
	if slices.ContainsFunc(phones, func(a *actor) bool { return a.isCase && a.way != byPhone }) {
		promised = later(promised, last.Add(longest))
	}
	return promised, covers, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// ready makes a client of a province once its keyring is public: an appliance that has just
// started announces it a moment later.
func ready(ctx context.Context, url string) (*phone.Client, error) {
	client, err := phone.NewClient(phone.Options{URL: url})
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(start); ; {
		_, err := client.Keyring(ctx)
		if err == nil {
			return client, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("%s has announced no keys: %w", url, err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// together takes every step, a few at a time, and gives their errors.
func together(steps []func() error) error {
	errs := make([]error, len(steps))
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i, step := range steps {
		slots <- struct{}{}
		all.Go(func() {
			errs[i] = step()
			<-slots
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// app is the app on a phone. What it stores ends with the drill.
func (a *actor) app(client *phone.Client) *phone.App {
	return &phone.App{
		Client: client, Scheme: a.scheme,
		Save: func(phone.State) error { return nil },
		Keys: func() ([]diagnosis.Key, error) { return a.keys, nil },
	}
}

// upload buys a permit with a new code and hands the keys in at once, where a phone waits.
func (a *actor) upload(ctx context.Context, client *phone.Client, issue func(context.Context, int) ([]string, error)) (publishBy time.Time, err error) {
	codes, err := issue(ctx, 1)
	if err != nil {
		return publishBy, fmt.Errorf("getting a code: %w", err)
	}
	app := a.app(client)
	if err := app.Redeem(ctx, codes[0]); err != nil {
		return publishBy, err
	}
	if err := app.Visit(ctx); err != nil {
		return publishBy, err
	}
	return app.State.PublishBy, nil
}
