package phone

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"bluekey/export/exportlog"
	"bluekey/export/tree"
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
	next, err := readKeyring(ctx, c.source, c.Policy, c.Note)
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

// readKeyring reads /keyring and demands of the proof beside it that the log holds these
// very bytes under this path, with the quorum of the pinned policy. As for exports, the
// quorum of a tree's own policy is overlooked: whoever could forge the tree wrote the policy.
func readKeyring(ctx context.Context, source tree.Source, policy *exportlog.Policy, note func(string)) (*seal.Keyring, error) {
	pinned := policy != nil
	if !pinned {
		var err error
		if policy, err = ownPolicy(ctx, source); err != nil {
			return nil, err
		}
		note(source.String() + ": its keyring is judged by the policy that lies there itself: whoever runs the place can recognise this phone by keys that others do not get")
	}
	text, err := tree.ReadAll(ctx, source, exportlog.KeyringPath, seal.MaxKeyring)
	if err != nil {
		return nil, err
	}
	proved, err := readProof(ctx, source, exportlog.KeyringPath, policy)
	if err != nil && (pinned || !errors.Is(err, exportlog.ErrQuorum)) {
		return nil, err
	}
	if !proved.Both {
		return nil, errors.New("its proof is signed by one key of the log only: the policy must name both, Ed25519 and ML-DSA-44")
	}
	entry, ok := proved.Entry.(exportlog.SmallFile)
	if !ok || entry.Path != exportlog.KeyringPath {
		return nil, errors.New("its proof is of another file")
	}
	if entry.Size != int64(len(text)) || entry.SHA256 != sha256.Sum256(text) {
		return nil, errors.New("it is not the file of its entry: both may just be replaced; try again in five minutes")
	}
	keyring, err := seal.ParseKeyring(text)
	if err != nil {
		return nil, err
	}
	if keyring.Origin != proved.Origin {
		return nil, fmt.Errorf("it is of %s, in the log of %s", keyring.Origin, proved.Origin)
	}
	return keyring, nil
}
