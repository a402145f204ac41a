package desk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// Request asks for codes of one kind.
type Request struct {
	Officer string // whose cap it counts against; kept for a day, as a keyed hash
	Report  diagnosis.ReportType
	// OnsetDay is the UTC day of the first symptoms, counted from the epoch; 0 if
	// nobody knows, which stands for DefaultOnset days ago.
	OnsetDay uint32
	Count    int // 1 to MaxCount
	Long     bool
	TTL      time.Duration // 0 means the longest: ShortTTL, or LongTTL for long codes
}

const (
	// DefaultOnset and MaxOnsetAge, in days, are those of the GAEN reference key server.
	DefaultOnset = 4
	MaxOnsetAge  = 28
)

var (
	// ErrRequest means that the request itself is wrong; its text says where.
	ErrRequest = errors.New("codes not issued")
	// ErrOfficerCap means that the officer has issued all codes of the day.
	ErrOfficerCap = errors.New("this officer has issued today's codes: ask a colleague or wait for the next UTC day")
	// ErrShortFull means that MaxShortAlive short codes would be alive.
	ErrShortFull = fmt.Errorf("%d short codes wait to be used: issue long ones, or wait", MaxShortAlive)
)

// Issue makes codes, all or none, and returns their canonical form. They are nowhere else:
// the store keeps hashes. The error is ErrRequest, ErrOfficerCap, ErrShortFull or one of
// the disk.
func (d *Desk) Issue(ctx context.Context, r Request) ([]string, error) {
	d.issuing.Lock()
	defer d.issuing.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := d.Now()
	tmpl, err := r.row(now)
	if err != nil {
		return nil, err
	}
	if !r.Long && d.count(Short, now)+r.Count > MaxShortAlive {
		return nil, ErrShortFull
	}

	b := d.DB.NewBatch()
	defer b.Close()
	if err := d.charge(b, r, now); err != nil {
		return nil, err
	}
	codes := make([]string, 0, r.Count)
	ids := make(map[ID]bool, r.Count)
	for len(codes) < r.Count {
		code, err := newCode(tmpl.kind)
		if err != nil {
			return nil, err
		}
		id := d.ID(code)
		_, known, err := d.read(id)
		if err != nil {
			return nil, err
		}
		if known || ids[id] {
			continue
		}
		if err := b.Set(codeRowKey(id), tmpl.encode(), nil); err != nil {
			return nil, fmt.Errorf("store codes: %w", err)
		}
		codes = append(codes, code)
		ids[id] = true
	}

	d.Gate.RLock()
	err = b.Commit(pebble.Sync)
	d.Gate.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("store codes: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range ids {
		d.alive[tmpl.kind][id] = tmpl.expiry
	}
	return codes, nil
}

// row checks the request and is the row that each of its codes gets.
func (r *Request) row(now time.Time) (row, error) {
	bad := func(format string, args ...any) (row, error) {
		return row{}, fmt.Errorf("%w: %s", ErrRequest, fmt.Sprintf(format, args...))
	}
	if !r.Report.Issuable() {
		return bad("report type %s cannot be issued", r.Report)
	}
	if r.Count < 1 || r.Count > MaxCount {
		return bad("count %d, want 1 to %d", r.Count, MaxCount)
	}
	kind, longest := Short, ShortTTL
	if r.Long {
		kind, longest = Long, LongTTL
	}
	ttl := r.TTL
	if ttl == 0 {
		ttl = longest
	}
	if ttl < minTTL || ttl > longest {
		return bad("lifetime %v, want %v to %v", ttl, minTTL, longest)
	}
	today, onset := uint32(now.Unix()/day), r.OnsetDay
	if onset == 0 {
		onset = today - DefaultOnset
	}
	if onset > today {
		return bad("the onset lies in the future")
	}
	if onset < today-MaxOnsetAge {
		return bad("the onset lies more than %d days back", MaxOnsetAge)
	}
	return row{state: issued, kind: kind, expiry: uint32(now.Add(ttl).Unix()), report: r.Report, onset: onset}, nil
}

// charge counts the codes against the officer's cap.
func (d *Desk) charge(b *pebble.Batch, r Request, now time.Time) error {
	key := officerRowKey(uint32(now.Unix()/day), d.mac("officer", r.Officer)[:8])
	var used uint32
	v, closer, err := d.DB.Get(key)
	switch {
	case err == nil:
		used = binary.BigEndian.Uint32(v)
		closer.Close()
	case !errors.Is(err, pebble.ErrNotFound):
		return fmt.Errorf("read the officer's count: %w", err)
	}
	if int(used)+r.Count > d.Cap {
		return ErrOfficerCap
	}
	if err := b.Set(key, binary.BigEndian.AppendUint32(nil, used+uint32(r.Count)), nil); err != nil {
		return fmt.Errorf("store the officer's count: %w", err)
	}
	return nil
}

// Revoke withdraws a code that was not used yet. It reports whether there was one. The
// error for a text that is no code is ErrForm.
func (d *Desk) Revoke(ctx context.Context, typed string) (bool, error) {
	canonical, _, err := Parse(typed)
	if err != nil {
		return false, err
	}
	return d.revoke(ctx, d.ID(canonical))
}

func (d *Desk) revoke(ctx context.Context, id ID) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	// No upload may be between looking at the row and spending it.
	d.Gate.Lock()
	defer d.Gate.Unlock()
	r, known, err := d.read(id)
	if err != nil || !known || r.state != issued || int64(r.expiry) <= d.Now().Unix() {
		return false, err
	}
	r.state = revoked
	if err := d.DB.Set(codeRowKey(id), r.encode(), pebble.Sync); err != nil {
		return false, fmt.Errorf("revoke a code: %w", err)
	}
	d.forget(r.kind, id)
	return true, nil
}

func (d *Desk) forget(kind Kind, id ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.alive[kind], id)
}
