package phone

import (
	"context"
	"errors"
	"fmt"

	"bluekey/export/exportlog"
	"bluekey/signing/seal"
)

// ErrTwoKeys means that the service has published two keys for one day. Phones that were
// given different keys can be told apart, so the phone uses neither.
var ErrTwoKeys = errors.New("the service has two keys for one day: tell an auditor")

// Keyring gives the verified public keys of the service, read again if today has none. An
// app stores it (State does) so that the next run can tell whether a key was exchanged.
func (c *Client) Keyring(ctx context.Context) (*seal.Keyring, error) { return c.current(ctx, nil) }

// current gives a keyring that has keys for today, other than stale.
func (c *Client) current(ctx context.Context, stale *seal.Keyring) (*seal.Keyring, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	today := seal.DayAt(c.Now())
	if c.keyring != nil && c.keyring != stale && serves(c.keyring, today) == nil {
		return c.keyring, nil
	}
	next, err := c.readKeyring(ctx)
	if err == nil {
		err = serves(next, today)
	}
	// Another origin is another service: the app follows it to a successor.
	if last := c.keyring; err == nil && last != nil && last.Origin == next.Origin {
		if twice := last.Contradicts(next); twice != nil {
			err = fmt.Errorf("%w: %w", ErrTwoKeys, twice)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("keyring of %s: %w", c.source, err)
	}
	c.keyring = next
	return next, nil
}

// serves reports what a keyring lacks on a day, as an error.
func serves(k *seal.Keyring, day uint32) error {
	if _, ok := k.Permit(day); !ok {
		return fmt.Errorf("no permit key for day %d; check the phone's clock", day)
	}
	if _, err := k.Seal(day); err != nil {
		return fmt.Errorf("no sealing key for day %d; check the phone's clock: %w", day, err)
	}
	return nil
}

// readKeyring reads /keyring, which the log must name.
func (c *Client) readKeyring(ctx context.Context) (*seal.Keyring, error) {
	if c.Policy == nil {
		c.Note(c.source.String() + ": its keyring is judged by the policy that lies there itself: whoever runs the place can recognise this phone by keys that others do not get")
	}
	f, err := readSmall(ctx, c.source, c.Policy, exportlog.KeyringPath, seal.MaxKeyring)
	if err != nil {
		return nil, err
	}
	keyring, err := seal.ParseKeyring(f.data)
	if err != nil {
		return nil, err
	}
	if keyring.Origin != f.origin {
		return nil, fmt.Errorf("it is of %s, in the log of %s", keyring.Origin, f.origin)
	}
	return keyring, nil
}
