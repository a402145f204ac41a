package keystore

import (
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"bluekey/keystore/diagnosis"
)

// What can be wrong with a revision, at the GAEN door only.
const (
	NeedsToken Reason = "needs_token" // known under another report type, and nothing proves whose it is
	Transition Reason = "transition"  // a report type that may not follow the one before
	Sealed     Reason = "sealed"      // its window is closed: it is published, or will be, as it is
)

// GAENKey is a key as the GAEN door hands it over. Report and Onset are set; a Report of
// Revoked takes the key back.
type GAENKey struct {
	diagnosis.Key
	// Was is the report type under which the phone can prove that it uploaded the key
	// before, ReportUnknown if it proves nothing.
	Was diagnosis.ReportType
}

// UploadGAEN stores, revises or takes back keys, in one synced batch.
//
//   - A key that is not known is stored; if it is to be taken back, it is dropped.
//   - A key that is known under the same report type stays as it is, so that a request may
//     be sent again.
//   - A key that is known under another one is revised as long as no window was closed over
//     it: from self-report to clinical, from both to confirmed. Taken back, it is forgotten
//     as if it had never come; a confirmed one cannot be, for a later test that finds
//     nothing does not undo it. Both need proof that the phone uploaded the key.
//
// dropped has a place for every key, and a *Refusal in that of each that was left out: one
// that policy refuses, or one that is Sealed. The others are taken. The error is a *Refusal
// if nothing was taken; what it says of a single key has its place as Index. After any
// other error nobody knows, and the same request may be sent again.
func (s *Store) UploadGAEN(ctx context.Context, keys []GAENKey) (dropped []*Refusal, err error) {
	dropped = make([]*Refusal, len(keys))
	good, at, refused := s.sift(keys, dropped)
	if refused != nil {
		return dropped, refused
	}
	a := s.accept(good)
	err = s.write(ctx, a.ids, func(b *pebble.Batch) error {
		left := 0
		for i := range a.keys {
			d := disposal{s: s, b: b, k: &a.keys[i], row: a.rows[i*dedupeRowLen : (i+1)*dedupeRowLen], asked: good[i].Report, was: keys[at[i]].Was}
			out, err := d.decide()
			if out != nil {
				out.Field, out.Index = "key", at[i]
			}
			switch {
			case err != nil:
				return err
			case out != nil && out.Reason != Sealed:
				return out
			case out != nil:
				dropped[at[i]] = out
				left++
			}
			if d.fresh {
				a.fresh++
			}
		}
		if left == len(a.keys) {
			return dropped[at[0]]
		}
		// In place of the permit that an upload of the phone service notes.
		return junk(b, len(permitRowKey(&Permit{})), permitStateLen)
	})
	if err != nil {
		return dropped, err
	}
	s.open.uploads.Add(1)
	s.open.keys.Add(uint64(a.fresh))
	return dropped, nil
}

// sift applies the accept policy key by key and gives what passes and where it stood.
func (s *Store) sift(keys []GAENKey, dropped []*Refusal) (good []diagnosis.Key, at []int, refused *Refusal) {
	if len(keys) == 0 || len(keys) > MaxKeys {
		return nil, nil, &Refusal{Reason: Malformed, Field: "keys", Index: -1, detail: "want 1 to 30"}
	}
	now := s.opt.Now()
	seen := make(map[diagnosis.Secret]bool, len(keys))
	for i := range keys {
		k := &keys[i].Key
		r := s.checkOne(k, diagnosis.GAEN, now)
		if r == nil && seen[k.Secret] {
			r = &Refusal{Reason: Malformed, Field: "key", detail: "that of another key again"}
		}
		if r != nil {
			r.Index = i
			dropped[i] = r
			if refused == nil {
				refused = r
			}
			continue
		}
		seen[k.Secret] = true
		good, at = append(good, *k), append(at, i)
	}
	if len(good) == 0 {
		return nil, nil, refused
	}
	if r := checkOverlap(good); r != nil {
		r.Index = at[r.Index]
		return nil, nil, r
	}
	return good, at, nil
}

// disposal is what becomes of one key. It is used within write.
type disposal struct {
	s          *Store
	b          *pebble.Batch
	k          *diagnosis.Key // as it is stored
	row        []byte         // that remembers it
	asked, was diagnosis.ReportType
	fresh      bool // it was not known and is stored
}

// decide adds to the batch what becomes of the key. A key of which nothing is written
// leaves junk of the same size.
func (d *disposal) decide() (*Refusal, error) {
	known, err := d.s.has(d.row)
	if err != nil {
		return nil, err
	}
	back := d.asked == diagnosis.Revoked
	bucket := d.s.bucket(d.k, d.s.closed[d.k.Scheme])
	if !known {
		if back {
			return nil, d.nothing()
		}
		d.fresh = true
		return nil, setKey(d.b, nil, d.row, d.k, bucket)
	}
	// A known key that no closed window took lies where it would be put now.
	name := appendKeyRow(nil, d.k, bucket)
	stored, err := d.s.reportIn(name)
	if err != nil {
		return nil, err
	}
	switch {
	case stored == diagnosis.ReportUnknown:
		return d.sealed(back)
	case stored == d.k.Report:
		return nil, d.nothing()
	case d.was == diagnosis.ReportUnknown:
		return &Refusal{Reason: NeedsToken}, nil
	case !follows(d.was, d.asked), back && stored != d.s.stored(d.was), !back && !follows(stored, d.k.Report):
		return &Refusal{Reason: Transition}, nil
	case back:
		return nil, errors.Join(d.b.Delete(name, nil), d.b.Delete(d.row, nil))
	default:
		return nil, setKey(d.b, nil, d.row, d.k, bucket)
	}
}

// sealed decides about a key that cannot change any more.
func (d *disposal) sealed(back bool) (*Refusal, error) {
	if back {
		return &Refusal{Reason: Sealed}, d.nothing()
	}
	if d.was == diagnosis.ReportUnknown || d.was == d.asked {
		return nil, d.nothing()
	}
	// It may have been revised to just this in time.
	stored, err := d.s.sealedReport(d.k)
	if err == nil && stored != d.k.Report {
		return &Refusal{Reason: Sealed}, d.nothing()
	}
	return nil, errors.Join(err, d.nothing())
}

func (d *disposal) nothing() error {
	return errors.Join(junk(d.b, 6+d.k.Scheme.SecretLen()+4, keyRowMeta), junk(d.b, dedupeRowLen, 0))
}

// follows reports whether a key's report type may become next.
func follows(before, next diagnosis.ReportType) bool {
	switch before {
	case diagnosis.SelfReport:
		return next == diagnosis.ConfirmedClinical || next == diagnosis.ConfirmedTest || next == diagnosis.Revoked
	case diagnosis.ConfirmedClinical:
		return next == diagnosis.ConfirmedTest || next == diagnosis.Revoked
	}
	return false
}

// stored is the report type as it is stored.
func (s *Store) stored(r diagnosis.ReportType) diagnosis.ReportType {
	return s.published(diagnosis.Key{Scheme: diagnosis.GAEN, Count: 1, Report: r}).Report
}

// reportIn is the report type in a key's row, ReportUnknown if there is no such row.
func (s *Store) reportIn(name []byte) (diagnosis.ReportType, error) {
	v, err := s.get(name)
	if err != nil || v == nil {
		return diagnosis.ReportUnknown, err
	}
	if len(v) != keyRowMeta {
		return diagnosis.ReportUnknown, errDamaged
	}
	return diagnosis.ReportType(v[1]), nil
}

// sealedReport is the report type of a key in a closed window, ReportUnknown if it is
// erased.
func (s *Store) sealedReport(k *diagnosis.Key) (diagnosis.ReportType, error) {
	all, err := s.buckets(k.Scheme, s.bucket(k, 0), s.closed[k.Scheme])
	if err != nil {
		return diagnosis.ReportUnknown, err
	}
	for _, bucket := range all {
		if report, err := s.reportIn(appendKeyRow(nil, k, bucket)); err != nil || report != diagnosis.ReportUnknown {
			return report, err
		}
	}
	return diagnosis.ReportUnknown, nil
}
