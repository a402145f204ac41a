package mirror

import (
	"slices"
	"strings"
	"time"

	"bluekey/export/exportlog"
)

// checkIndex holds the two lists that clients poll against the log. A list that leaves out
// a window would hide it from phones, though it stands in the log.
func (a *audit) checkIndex() {
	a.checkJSON()
	if a.gaenIndex == nil {
		return
	}
	var paths []string
	if len(a.gaenIndex) > 0 {
		paths = strings.Split(string(a.gaenIndex), "\n")
	}
	if !slices.IsSorted(paths) || len(slices.Compact(slices.Clone(paths))) != len(paths) {
		a.report.find(CodeIndex, exportlog.GAENIndexPath, "its lines do not ascend")
	}
	there, archives := map[string]bool{}, map[string]bool{}
	for _, w := range append(slices.Clone(a.ledger.live), a.ledger.gone...) {
		for _, f := range w.Files {
			if strings.HasSuffix(f.Path, "."+string(exportlog.Archive)) {
				archives[f.Path] = true
			}
		}
	}
	live := map[string]bool{}
	for _, w := range a.ledger.live {
		for _, f := range w.Files {
			live[f.Path] = true
		}
	}
	for _, p := range paths {
		there[p] = true
		if !archives[p] || a.exact && !live[p] {
			a.report.find(CodeIndex, exportlog.GAENIndexPath, "%.120q is not an archive that the log has", p)
		}
	}
	for _, w := range a.ledger.live {
		for _, f := range w.Files {
			if archives[f.Path] && !there[f.Path] && (a.exact || a.settled(w)) {
				a.report.findEntry(CodeIndex, w.entry, exportlog.GAENIndexPath, "%s is left out", f.Path)
			}
		}
	}
}

// checkJSON checks index.json.
func (a *audit) checkJSON() {
	if a.index == nil {
		return
	}
	x, err := exportlog.ParseIndex(a.index)
	if err != nil {
		a.report.find(CodeIndex, exportlog.IndexPath, "%v", err)
		return
	}
	if x.Origin != a.checkpoint.Origin || x.Size > a.checkpoint.Size {
		a.report.find(CodeIndex, exportlog.IndexPath, "it is of %s with %d entries, the checkpoint of %s with %d", x.Origin, x.Size, a.checkpoint.Origin, a.checkpoint.Size)
		return
	}
	if a.exact && x.Size < a.checkpoint.Size {
		a.report.find(CodeIndex, exportlog.IndexPath, "it is of %d entries, the checkpoint of %d: windows may be hidden; a cache may be five minutes behind", x.Size, a.checkpoint.Size)
		return
	}
	listed := map[uint64]bool{}
	for _, e := range x.Exports {
		listed[e.Entry] = true
		leaf := int64(exportlog.StoredHashCount(e.Entry))
		logged, err := a.walker.log.ReadHashes([]int64{leaf})
		if err != nil || logged[0] != exportlog.LeafHash([]byte(e.Manifest)) {
			a.report.findEntry(CodeIndex, e.Entry, exportlog.IndexPath, "it gives the entry another text than the log")
		}
	}
	for _, w := range a.ledger.live {
		if !listed[w.entry] && (w.entry < x.Size || a.settled(w)) {
			a.report.findEntry(CodeIndex, w.entry, exportlog.IndexPath, "the window is left out: clients do not see it")
		}
	}
	if x.Size == a.checkpoint.Size {
		a.checkWindows(x, listed)
	}
}

// checkWindows holds an index that is of the checkpoint against all windows, those without
// files too. Erased ones must not be listed; an empty one, which no erasure need cover, may
// go when its retention has ended.
func (a *audit) checkWindows(x exportlog.Index, listed map[uint64]bool) {
	newest := map[string]int64{} // end of the newest window, by region
	for id, c := range a.ledger.chains {
		newest[id.region] = max(newest[id.region], c.manifest.End)
	}
	if _, ok := newest[x.Region]; !ok && len(newest) > 0 {
		a.report.find(CodeIndex, exportlog.IndexPath, "it is of region %s, of which the log has no window", x.Region)
	}
	for _, w := range a.ledger.listed {
		kept := min(term(w.Retain), term(a.ledger.chains[chainID{w.Region, w.Scheme}].manifest.Retain))
		if !listed[w.entry] && len(w.Files) == 0 && min(w.End, maxTime)+int64(kept/time.Second) >= newest[w.Region] {
			a.report.findEntry(CodeIndex, w.entry, exportlog.IndexPath, "the empty window is left out: clients see a gap")
		}
		delete(listed, w.entry)
	}
	for _, e := range x.Exports {
		if listed[e.Entry] && a.ledger.isErased(e.Manifest) {
			a.report.findEntry(CodeIndex, e.Entry, exportlog.IndexPath, "it lists a window that was erased")
		}
	}
}

// isErased reports whether an erasure covers a window of the index.
func (l *ledger) isErased(manifest string) bool {
	e, err := exportlog.ParseEntry([]byte(manifest))
	m, ok := e.(exportlog.Manifest)
	return err != nil || !ok || m.End <= l.erased[m.Scheme]
}

// settled reports whether a window has been closed long enough for every list of the tree
// to have it.
func (a *audit) settled(w *publication) bool {
	return a.now.Sub(time.Unix(w.End, 0)) > 2*term(w.Period) && a.now.Unix() < keptUntil(&w.Manifest)
}
