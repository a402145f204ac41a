package phone

import (
	"context"
	"errors"
	"fmt"
	"time"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
)

// UploadOptions of Upload.
type UploadOptions struct {
	URL    string            // of the phone service
	Tree   string            // see Options
	Policy *exportlog.Policy // see Options
	Code   string            // as typed
	Scheme diagnosis.Scheme
	Keys   []diagnosis.Key // of one case, at most 30 (GAEN) or 16 (Bluezone)
	// Now hands the keys in at once, where an app would wait for a random time.
	Now  bool
	Note func(string) // hears what is going on; may be nil
}

// Upload redeems a code and hands in the keys of a case, as an App does in two steps. It
// waits in between, up to 4 h, unless told not to: ended during the wait it loses the
// permit. It gives the time by which all keys are public. Keys that could not be handed in
// are found before the code is spent. A refusal is a permit.Refusal, a mistyped code ErrCode.
func Upload(ctx context.Context, o UploadOptions) (publishBy time.Time, err error) {
	return upload(ctx, o, func(ctx context.Context, until time.Time) error { return sleep(ctx, time.Until(until)) })
}

func upload(ctx context.Context, o UploadOptions, wait func(context.Context, time.Time) error) (publishBy time.Time, err error) {
	if o.Note == nil {
		o.Note = func(string) {}
	}
	client, err := NewClient(Options{URL: o.URL, Tree: o.Tree, Policy: o.Policy, Note: o.Note})
	if err != nil {
		return publishBy, err
	}
	if err := usable(o.Scheme, o.Keys, client.Now()); err != nil {
		return publishBy, err
	}
	app := App{
		Client: client, Scheme: o.Scheme,
		Save: func(State) error { return nil },
		Keys: func() ([]diagnosis.Key, error) { return o.Keys, nil },
	}
	if err := app.Redeem(ctx, o.Code); err != nil {
		return publishBy, err
	}
	if o.Now {
		o.Note("the keys go at once: whoever watches the network or the server sees a code redeemed and keys handed in together, and can guess that they belong to one person")
	} else {
		o.Note(fmt.Sprintf("the code is good; the keys go at %s, a random time, on a new connection: keep this running until then", app.State.Next.Local().Format(time.TimeOnly)))
		if err := wait(ctx, app.State.Next); err != nil {
			return publishBy, fmt.Errorf("waiting to hand in the keys: %w", err)
		}
	}
	if err := app.Visit(ctx); err != nil {
		return publishBy, err
	}
	if app.State.Until.IsZero() {
		return publishBy, errors.New("nothing was handed in: the permit or the keys grew too old")
	}
	return app.State.PublishBy, nil
}

// maxKeys is how many keys of a scheme one upload takes.
func maxKeys(scheme diagnosis.Scheme) int {
	if scheme == diagnosis.Bluezone {
		return 16
	}
	return 30
}

// usable refuses keys that the service would refuse, so that no code is spent on them.
func usable(scheme diagnosis.Scheme, keys []diagnosis.Key, now time.Time) error {
	if n, most := len(keys), maxKeys(scheme); n < 1 || n > most {
		return fmt.Errorf("%d keys: want 1 to %d", n, most)
	}
	for i := range keys {
		k := &keys[i]
		err := k.Check()
		switch {
		case err != nil:
		case k.Scheme != scheme:
			err = errors.New("of another scheme")
		case scheme.Time(k.Start).After(now):
			err = errors.New("begins in the future: check the clock")
		case k.EndTime().Before(now.Add(-maxAge)):
			err = errors.New("ended more than 15 days ago: leave it out")
		}
		if err != nil {
			return fmt.Errorf("key %d: %w", i+1, err)
		}
	}
	return nil
}
