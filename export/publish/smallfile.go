package publish

import (
	"context"
	"fmt"

	"bluekey/export/exportlog"
)

// PutSmallFile publishes a small file of the tree (exportlog.SmallFile) by an entry of the
// log, unless it has these bytes already. Run must be running.
func (p *Publisher) PutSmallFile(ctx context.Context, path string, data []byte) error {
	return p.do(ctx, func(ctx context.Context) error {
		if old, err := p.folder.Get(path, int64(len(data))); err == nil && string(old) == string(data) {
			return nil
		}
		f, err := p.staging.Create()
		if err != nil {
			return err
		}
		if _, err := f.Write(data); err != nil {
			return fmt.Errorf("staging %s: %w", path, err)
		}
		staged, err := f.Finish()
		if err != nil {
			return err
		}
		entry, err := exportlog.SmallFile{Time: p.Now().Unix(), Path: path, Size: staged.Size, SHA256: staged.SHA256}.Format()
		if err != nil {
			return err
		}
		r := p.newRound()
		r.entries = [][]byte{entry}
		r.plan.Adopt = []adoption{{Staged: staged.Name(), Path: path, Entry: p.store.LogSize(), Small: true}}
		return p.commit(ctx, &r)
	})
}
