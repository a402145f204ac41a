package phone

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"bluekey/export/exportlog"
	"bluekey/keystore/diagnosis"
	"bluekey/signing"
)

// tampered is a tree of three windows, and what was heard of a key of each.
func tampered(t *testing.T) (p *place, paths []string, list []Sighting) {
	t.Helper()
	p = newPlace(t)
	for _, scheme := range []diagnosis.Scheme{diagnosis.GAEN, diagnosis.Bluezone, diagnosis.GAEN} {
		keys := p.draw(scheme, 20)
		paths = append(paths, p.window(keys, exportlog.KeySet)...)
		list = append(list, heard(keys[0], 50)...)
	}
	return p, paths, list
}

// TestTreeIsNotBelieved: whoever serves a tree cannot make a phone match what the log does
// not hold, nor keep back what the index lists.
func TestTreeIsNotBelieved(t *testing.T) {
	for _, row := range []struct {
		name   string
		tamper func(p *place, paths []string, foreign *place, other string)
		says   []string
	}{
		{"nothing", func(*place, []string, *place, string) {}, nil},
		{"a window of another log in the index", func(p *place, paths []string, foreign *place, other string) {
			text := strings.Replace(foreign.index.Exports[0].Manifest, foreign.index.Origin, origin, 1)
			p.index.Exports[2].Manifest = text
			p.write(other, foreign.read(other))
			p.write(other+exportlog.ProofSuffix, foreign.read(other+exportlog.ProofSuffix))
			p.writeIndex()
		}, []string{"OTHER", "no log of this origin"}},
		{"that, with a proof of ours", func(p *place, paths []string, foreign *place, other string) {
			text := strings.Replace(foreign.index.Exports[0].Manifest, foreign.index.Origin, origin, 1)
			p.index.Exports[2].Manifest = text
			p.write(other, foreign.read(other))
			p.write(other+exportlog.ProofSuffix, p.read(paths[2]+exportlog.ProofSuffix))
			p.writeIndex()
		}, []string{"OTHER", "another entry than the log"}},
		{"that, put into a proof of ours", func(p *place, paths []string, foreign *place, other string) {
			text := strings.Replace(foreign.index.Exports[0].Manifest, foreign.index.Origin, origin, 1)
			p.index.Exports[2].Manifest = text
			p.write(other, foreign.read(other))
			proof, err := exportlog.ParseProof(p.read(paths[2] + exportlog.ProofSuffix))
			if err != nil {
				p.t.Fatal(err)
			}
			proof.Extra = []byte(text)
			p.write(other+exportlog.ProofSuffix, exportlog.FormatProof(proof))
			p.writeIndex()
		}, []string{"OTHER", "inclusion of entry 2"}},
		{"the index of another log", func(p *place, _ []string, foreign *place, _ string) {
			p.write(exportlog.IndexPath, foreign.read(exportlog.IndexPath))
		}, []string{"index.json is of other.example"}},
		{"the tree of another log", func(p *place, _ []string, foreign *place, other string) {
			for _, path := range []string{exportlog.IndexPath, exportlog.CheckpointPath, other, other + exportlog.ProofSuffix} {
				p.write(path, foreign.read(path))
			}
		}, []string{"no log of this origin"}},
		{"foreign keys under a path of ours", func(p *place, paths []string, foreign *place, other string) {
			p.write(paths[2], foreign.read(other))
		}, []string{"LAST", "not the file of its manifest"}},
		{"a file that is withheld", func(p *place, paths []string, _ *place, _ string) { p.remove(paths[2]) },
			[]string{"LAST", "listed but missing"}},
		{"a proof that is withheld", func(p *place, paths []string, _ *place, _ string) { p.remove(paths[2] + exportlog.ProofSuffix) },
			[]string{"LAST", "tlog-proof is missing"}},
		{"the proof of another window", func(p *place, paths []string, _ *place, _ string) {
			p.write(paths[2]+exportlog.ProofSuffix, p.read(paths[0]+exportlog.ProofSuffix))
		}, []string{"LAST", "another entry than the log"}},
		{"another entry number in the index", func(p *place, paths []string, _ *place, _ string) {
			p.log.Append([]byte("bluekey erasure v1\ntime 9\nscheme gaen\nthrough 8\n"))
			p.write(exportlog.CheckpointPath, p.checkpoint())
			p.index.Size = 4
			p.index.Exports[2].Entry = 3
			p.writeIndex()
		}, []string{"LAST", "another entry than the log"}},
		{"a checkpoint from before the last window", func(p *place, _ []string, _ *place, _ string) {
			before := p.read(exportlog.CheckpointPath)
			p.window(p.draw(diagnosis.GAEN, 20), exportlog.KeySet)
			p.write(exportlog.CheckpointPath, before)
		}, []string{"names entry 3, the checkpoint has 3", "five minutes"}},
		{"no checkpoint", func(p *place, _ []string, _ *place, _ string) { p.remove(exportlog.CheckpointPath) },
			[]string{exportlog.CheckpointPath}},
		{"a checkpoint of one signature", func(p *place, _ []string, _ *place, _ string) {
			lines := slices.Collect(strings.Lines(string(p.read(exportlog.CheckpointPath))))
			p.write(exportlog.CheckpointPath, []byte(strings.Join(lines[:len(lines)-1], "")))
		}, []string{"not signed as the policy demands"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, paths, list := tampered(t)
			foreign := newPlaceOf(t, "other.example/nobody", 9, exportlog.PolicyTerms{})
			keys := foreign.draw(diagnosis.GAEN, 20)
			other := foreign.window(keys, exportlog.KeySet)[0]
			list = append(list, heard(keys[1], 60)...)
			row.tamper(p, paths, foreign, other)
			for name, policy := range map[string]*exportlog.Policy{"pinned": p.policy, "own": nil} {
				lines, err := reportBy(t, MatchOptions{Policy: policy}, list, p.dir)
				if row.says == nil {
					if err != nil || len(lines) != 3 {
						t.Errorf("%s: %d matches, %v", name, len(lines), err)
					}
					continue
				}
				if err == nil {
					t.Fatalf("%s: no error; matches:\n%s", name, strings.Join(lines, ""))
				}
				for _, word := range row.says {
					word = strings.NewReplacer("LAST", paths[2], "OTHER", other).Replace(word)
					if !strings.Contains(err.Error(), word) {
						t.Errorf("%s: %v; want %q", name, err, word)
					}
				}
				if all := strings.Join(lines, ""); strings.Contains(all, other) || strings.Contains(all, paths[2]) {
					t.Errorf("%s: a match of what was tampered with:\n%s", name, all)
				}
			}
		})
	}
}

// TestWhosePolicy: a pinned policy decides; a tree's own is used only without one, and said.
func TestWhosePolicy(t *testing.T) {
	p, _, list := tampered(t)
	var notes []string
	note := func(s string) { notes = append(notes, s) }
	if lines, err := reportBy(t, MatchOptions{Note: note}, list, p.dir); err != nil || len(lines) != 3 || len(notes) != 1 || !strings.Contains(notes[0], "proves nothing about who runs it") {
		t.Errorf("own policy: %d matches, %v, notes %q", len(lines), err, notes)
	}
	notes = nil
	if lines, err := reportBy(t, MatchOptions{Policy: p.policy, Note: note}, list, p.dir); err != nil || len(lines) != 3 || notes != nil {
		t.Errorf("pinned policy: %d matches, %v, notes %q", len(lines), err, notes)
	}
	stranger := newPlaceOf(t, origin, 7, exportlog.PolicyTerms{}) // of the same name
	if lines, err := reportBy(t, MatchOptions{Policy: stranger.policy}, list, p.dir); err == nil || !strings.Contains(err.Error(), "not signed as the policy demands") || len(lines) > 0 {
		t.Errorf("a stranger's policy: %d matches, %v", len(lines), err)
	}
	p.remove(exportlog.PolicyPath)
	if lines, err := report(t, list, p.dir); err == nil || !strings.Contains(err.Error(), "no policy") || len(lines) > 0 {
		t.Errorf("no policy at all: %d matches, %v", len(lines), err)
	}
}

// TestQuorum: what witnesses have not cosigned yet waits, and nothing else does.
func TestQuorum(t *testing.T) {
	witness, err := signing.NewWitnessKeys("witness.example", [32]byte{3}, [32]byte{4})
	if err != nil {
		t.Fatal(err)
	}
	keys := witness.VKeys()
	p := newPlaceOf(t, origin, 1, exportlog.PolicyTerms{Witnesses: []exportlog.PolicyWitness{{Name: "w", Ed25519: keys[0], MLDSA44: keys[1]}}, Quorum: 1})
	first, second := p.draw(diagnosis.GAEN, 20), p.draw(diagnosis.Bluezone, 20)
	p.window(first, exportlog.KeySet)
	p.prove(0, p.checkpoint(witness))
	late := p.window(second, exportlog.KeySet)[0]
	list := slices.Concat(heard(first[0], 50), heard(second[0], 50))

	lines, err := reportBy(t, MatchOptions{Policy: p.policy}, list, p.dir)
	if !errors.Is(err, exportlog.ErrQuorum) || !strings.Contains(err.Error(), late) {
		t.Errorf("an uncosigned proof: %v", err)
	}
	if len(lines) != 1 || !strings.Contains(lines[0], "gaen") {
		t.Errorf("the window that was cosigned: %q", lines)
	}
	if lines, err := report(t, list, p.dir); err != nil || len(lines) != 2 {
		t.Errorf("by the tree's own word, which is worth as much without witnesses: %q, %v", lines, err)
	}
	p.prove(1, p.checkpoint(witness))
	if lines, err := reportBy(t, MatchOptions{Policy: p.policy}, list, p.dir); err != nil || len(lines) != 2 {
		t.Errorf("cosigned, and the checkpoint of the tree still not: %q, %v", lines, err)
	}
}

// TestLooseFilesUnderPolicy: a proof that lies beside a file is held against the policy that
// was given, and a file without one is matched, with a note.
func TestLooseFilesUnderPolicy(t *testing.T) {
	p := newPlace(t)
	keys := p.draw(diagnosis.Bluezone, 20)
	paths := p.window(keys, exportlog.KeySet, exportlog.IDSet)
	others := p.window(p.draw(diagnosis.Bluezone, 20), exportlog.KeySet, exportlog.IDSet)
	stranger := newPlaceOf(t, origin, 7, exportlog.PolicyTerms{})
	list := heard(keys[2], 10, 11)
	for i, name := range []string{"a.keys", "a.ids"} {
		data, proof := p.read(paths[i]), p.read(paths[i]+exportlog.ProofSuffix)
		for _, row := range []struct {
			name   string
			proof  []byte
			policy *exportlog.Policy
			says   string
		}{
			{"proof and policy", proof, p.policy, ""},
			{"a stranger's policy", proof, stranger.policy, "not signed as the policy demands"},
			{"no policy", proof, nil, ""},
			{"the proof of another window", p.read(others[i] + exportlog.ProofSuffix), p.policy, "names no file"},
		} {
			dir := newPlace(t)
			dir.write(name, data)
			dir.write(name+exportlog.ProofSuffix, row.proof)
			lines, err := reportBy(t, MatchOptions{Policy: row.policy}, list, dir.dir+"/"+name)
			switch {
			case row.says == "" && (err != nil || len(lines) != 2):
				t.Errorf("%s, %s: %d matches, %v", name, row.name, len(lines), err)
			case row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says) || len(lines) > 0):
				t.Errorf("%s, %s: %d matches, %v; want %q", name, row.name, len(lines), err, row.says)
			}
		}
	}
	dir := newPlace(t)
	dir.write("a.keys", p.read(paths[0]))
	var notes []string
	lines, err := reportBy(t, MatchOptions{Policy: p.policy, Note: func(s string) { notes = append(notes, s) }}, list, dir.dir+"/a.keys")
	if err != nil || len(lines) != 2 || len(notes) != 1 || !strings.Contains(notes[0], "no proof beside it") {
		t.Errorf("without a proof: %d matches, %v, notes %q", len(lines), err, notes)
	}
}
