package drill

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"bluekey/keystore/diagnosis"
	"bluekey/server/phone"
)

const (
	atOnce = 8                // requests under way to one province
	start  = 30 * time.Second // how long an appliance may take to announce its keys
)

// upload hands in the keys of every case at home, while as many others send cover, and
// gives the time by which all of them are to be public.
func upload(ctx context.Context, cfg Config, phones []*actor) (promised time.Time, covers int, err error) {
	for i, p := range cfg.Provinces {
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
		by := make([]time.Time, len(cases))
		var steps []func() error
		for j, a := range cases {
			steps = append(steps, func() (err error) {
				by[j], err = a.upload(ctx, client, p.Issue)
				return err
			})
		}
		for _, a := range others {
			steps = append(steps, func() error { return a.app(client).Visit(ctx) })
		}
		if err := together(steps); err != nil {
			return promised, covers, err
		}
		covers += len(others)
		for _, t := range by {
			if t.After(promised) {
				promised = t
			}
		}
	}
	return promised, covers, nil
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
