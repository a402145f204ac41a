package publish

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"bluekey/export"
	"bluekey/export/exportlog"
	"bluekey/export/match/idset"
)

// renderIDSet stages the ID set of a window. It is bound to the window's key set, which
// nobody needs to have: of a window published without keys only the digest of its key set
// is made, and no byte of it touches the disk.
func (p *Publisher) renderIDSet(ctx context.Context, r *round, w *window, m *exportlog.Manifest) error {
	digest, err := p.keySetDigest(ctx, w, m)
	if err != nil {
		return fmt.Errorf("ID set: %w", err)
	}
	params := idset.Params{Origin: m.Origin, Region: m.Region, Scheme: m.Scheme, Start: m.Start, End: m.End, KeySet: digest, F: w.idBits}
	if params.F == 0 {
		params.F = p.IDSetBits
	}
	err = p.stage(r, w, m, exportlog.IDSet, w.keys, func(out io.Writer) (export.Info, error) {
		stats, err := idset.Write(out, params, p.dueKeys(ctx, w), idset.Options{Tier: p.Tier})
		return export.Info{Keys: stats.Keys}, err
	})
	if err != nil {
		return fmt.Errorf("ID set: %w", err)
	}
	return nil
}

// keySetDigest is the SHA-256 of the window's key set, published or not.
func (p *Publisher) keySetDigest(ctx context.Context, w *window, m *exportlog.Manifest) ([32]byte, error) {
	for _, f := range m.Files {
		if strings.HasSuffix(f.Path, "."+string(exportlog.KeySet)) {
			return f.SHA256, nil
		}
	}
	info, err := p.writeKeySet(ctx, io.Discard, w, m)
	return info.SHA256, err
}

// earlierBits are those f that an ID set of an earlier time may have instead of the one that
// is set now: its file says, but if that is gone only trying tells. The default is the most
// likely.
func (c *Config) earlierBits() []int {
	bits := []int{idset.DefaultF}
	for f := idset.MinF; f <= idset.MaxF; f++ {
		if f != idset.DefaultF {
			bits = append(bits, f)
		}
	}
	return slices.DeleteFunc(bits, func(f int) bool { return f == c.IDSetBits })
}
