package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"bluekey/export/exportlog"
	"bluekey/signing"
)

// ErrAhead means that a witness says it cosigned a larger tree of the log than the one it
// is asked to cosign. Held shows whether the log signed such a tree.
var ErrAhead = errors.New("the witness knows a larger tree of this log")

// What a reply may cost.
const (
	askTimeout = 20 * time.Second // for one request, reply included
	maxReply   = 64 << 10         // bytes; two cosignatures take 3.5 kB
	maxTries   = 3                // the size unknown, once; another process at work, once more
)

// Client asks one witness to cosign the checkpoints of one log. It trusts the witness with
// nothing: what comes back is a cosignature by the keys it was made with, or an error. It
// is safe for concurrent use.
type Client struct {
	name string
	base *url.URL
	keys []*signing.VKey
	http *http.Client

	mu  sync.Mutex // one question at a time
	old uint64     // size of the newest tree that the witness is known to hold
}

// NewClient makes a Client. The witness needs a URL and at least one key.
func NewClient(w exportlog.PolicyWitness) (*Client, error) {
	c := &Client{name: w.Name}
	for _, k := range []*signing.VKey{w.Ed25519, w.MLDSA44} {
		if k != nil {
			c.keys = append(c.keys, k)
		}
	}
	if len(c.keys) == 0 {
		return nil, fmt.Errorf("witness %s has no key", w.Name)
	}
	var err error
	if c.base, err = parseURL(w.URL); err != nil {
		return nil, fmt.Errorf("witness %s: %w", w.Name, err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // a small reply could unfold into a large one
	transport.MaxResponseHeaderBytes = maxReply
	c.http = &http.Client{
		Transport:     transport,
		Timeout:       askTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("URL %q: want http(s)://HOST[/PATH]", text)
	}
	return u, nil
}

// Name is the name of the witness in the policy.
func (c *Client) Name() string { return c.name }

// Cosign asks for cosignatures of a signed checkpoint and gives them as lines to add to it,
// verified. prove gives the proof that the checkpoint's tree continues the one of a size
// that the witness names, at least 1, as exportlog.ProveConsistency does.
//
// Of the checkpoint's lines only those of the log itself are sent: a witness may stop
// reading at 10 kB, and has no use for others.
func (c *Client) Cosign(ctx context.Context, checkpoint []byte, prove func(old uint64) ([][32]byte, error)) (lines []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if lines, err = c.cosign(ctx, checkpoint, prove); err != nil {
		return nil, fmt.Errorf("asking the witness %s: %w", c.name, err)
	}
	return lines, nil
}

func (c *Client) cosign(ctx context.Context, checkpoint []byte, prove func(old uint64) ([][32]byte, error)) ([]byte, error) {
	tree, signatures, err := splitCheckpoint(checkpoint)
	if err != nil {
		return nil, err
	}
	old := min(c.old, tree.Size)
	for range maxTries {
		var proof [][32]byte
		if old > 0 {
			if proof, err = prove(old); err != nil {
				return nil, err
			}
		}
		reply, err := c.ask(ctx, request{old: old, proof: proof, checkpoint: ownLines(tree, signatures)})
		if told := (*sizeError)(nil); errors.As(err, &told) {
			switch {
			case told.size > tree.Size:
				return nil, fmt.Errorf("%w: of %d entries, against %d", ErrAhead, told.size, tree.Size)
			case told.size == old:
				return nil, fmt.Errorf("it refuses the size %d and names the same", old)
			}
			old = told.size
			continue
		} else if err != nil {
			return nil, err
		}
		lines, err := c.check(tree, reply)
		if err != nil {
			return nil, err
		}
		c.old = tree.Size
		return lines, nil
	}
	return nil, fmt.Errorf("it named another size %d times", maxTries)
}

// ownLines is the checkpoint with the lines of its log only.
func ownLines(tree exportlog.Checkpoint, signatures []string) []byte {
	b := append(tree.Body(), '\n')
	for _, line := range signatures {
		if s, err := parseLine(line); err == nil && s.Name == tree.Origin {
			b = append(b, s.Line()...)
		}
	}
	return b
}

// check takes from a reply the cosignatures by the keys of the witness. It wants one at
// least, and none that is wrong.
func (c *Client) check(tree exportlog.Checkpoint, reply []byte) ([]byte, error) {
	lines := strings.Split(strings.TrimSuffix(string(reply), "\n"), "\n")
	for _, line := range lines {
		if _, err := parseLine(line); err != nil {
			return nil, err
		}
	}
	var good []byte
	for _, key := range c.keys {
		if _, found := signatureBy(key, lines); !found {
			continue
		}
		s, _, err := verified(key, tree, lines)
		if err != nil {
			return nil, err
		}
		good = append(good, s.Line()...)
	}
	if good == nil {
		return nil, errors.New("its reply holds no cosignature by a key of its own")
	}
	return good, nil
}

// sizeError is the reply of a witness that holds a tree of another size.
type sizeError struct{ size uint64 }

func (e *sizeError) Error() string { return fmt.Sprintf("its newest tree has %d entries", e.size) }

// ask sends one request.
func (c *Client) ask(ctx context.Context, r request) ([]byte, error) {
	reply, err := c.do(ctx, http.MethodPost, "add-checkpoint", formatRequest(r))
	if err != nil {
		return nil, err
	}
	switch reply.status {
	case http.StatusOK:
		return reply.body, nil
	case http.StatusConflict:
		size, err := parseSize(strings.TrimSuffix(string(reply.body), "\n"))
		if err != nil || reply.contentType != sizeType {
			return nil, fmt.Errorf("it answered 409 without the size of its tree: %.200q", reply.body)
		}
		return nil, &sizeError{size}
	}
	return nil, reply.unexpected()
}

// Held asks for the newest checkpoint of a log that the witness cosigned, with the
// signatures of the log, for the caller to verify. It is fs.ErrNotExist if there is none,
// or if the witness does not show it.
func (c *Client) Held(ctx context.Context, origin string) ([]byte, error) {
	reply, err := c.do(ctx, http.MethodGet, RecordName(origin), nil)
	switch {
	case err != nil:
	case reply.status == http.StatusOK:
		return reply.body, nil
	case reply.status == http.StatusNotFound:
		err = fs.ErrNotExist
	default:
		err = reply.unexpected()
	}
	return nil, fmt.Errorf("asking the witness %s for its newest checkpoint: %w", c.name, err)
}

type reply struct {
	status      int
	contentType string
	body        []byte
}

func (r reply) unexpected() error {
	return fmt.Errorf("it answered %d %s: %.200q", r.status, http.StatusText(r.status), r.body)
}

func (c *Client) do(ctx context.Context, method, path string, body []byte) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return reply{}, err
	}
	if len(data) > maxReply {
		return reply{}, fmt.Errorf("its reply has more than %d bytes", maxReply)
	}
	return reply{resp.StatusCode, resp.Header.Get("Content-Type"), data}, nil
}
