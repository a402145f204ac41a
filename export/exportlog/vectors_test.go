package exportlog

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"bluekey/signing"
)

const vectorDir = "../../testdata/vectors/c2sp/"

func file(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(vectorDir + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func vector(t testing.TB, name string, into any) {
	t.Helper()
	if err := json.Unmarshal(file(t, name), into); err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func root(t testing.TB, s string) [32]byte { return [32]byte(unhex(t, s)) }

func roots(t testing.TB, all []string) [][32]byte {
	out := make([][32]byte, len(all))
	for i, s := range all {
		out[i] = root(t, s)
	}
	return out
}

// vectorLog is the log of the vectors: entry i is "entry <i>\n".
func vectorLog(size int) *Tree {
	var tree Tree
	for i := range size {
		tree.Append(vectorEntry(i))
	}
	return &tree
}

func vectorEntry(i int) []byte { return fmt.Appendf(nil, "entry %d\n", i) }

type vectorKeys struct {
	log     signing.LogKeys
	witness [2]signing.WitnessKeys // the first cosigns with 0x04 in the vectors, the second with 0x06
}

func keysOf(t testing.TB) (k vectorKeys) {
	var rows []struct {
		Name string
		Seed string `json:"seed_hex"`
	}
	vector(t, "keys.json", &rows)
	seed := func(i int) [32]byte { return root(t, rows[i].Seed) }
	var errs [3]error
	k.log, errs[0] = signing.NewLogKeys(rows[0].Name, seed(0), seed(1))
	k.witness[0], errs[1] = signing.NewWitnessKeys(rows[2].Name, seed(2), [32]byte{})
	k.witness[1], errs[2] = signing.NewWitnessKeys(rows[3].Name, [32]byte{}, seed(3))
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return k
}

func mustPolicy(t testing.TB, text []byte) *Policy {
	t.Helper()
	p, err := ParsePolicy(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestVectorCheckpointBodies(t *testing.T) {
	var rows []struct{ Body, Case, Spec string }
	vector(t, "checkpoint-bodies.json", &rows)
	for _, r := range rows {
		// Where the specification is silent we refuse: a size of 2^63, set trailing bits.
		accept := strings.HasPrefix(r.Spec, "accept") || strings.HasPrefix(r.Spec, "witness")
		c, err := ParseCheckpoint([]byte(r.Body))
		if (err == nil) != accept {
			t.Errorf("%s: specification says %s, we say %v", r.Case, r.Spec, err)
		}
		if err == nil && string(c.Body()) != r.Body {
			t.Errorf("%s: rendered as %q", r.Case, c.Body())
		}
	}
}

func TestVectorCheckpoint(t *testing.T) {
	keys, tree := keysOf(t), vectorLog(5)
	c := Checkpoint{Origin: keys.log.Name(), Size: 5, Root: tree.Root()}
	signed, err := SignCheckpoint(c, time.Unix(1767225600, 0), keys.log)
	if err != nil {
		t.Fatal(err)
	}
	for i, at := range []int64{1767225601, 1767225602} {
		lines, err := Cosign(c, time.Unix(at, 0), keys.witness[i])
		if err != nil {
			t.Fatal(err)
		}
		signed = append(signed, strings.SplitAfter(string(lines), "\n")[i]...)
	}
	if want := file(t, "checkpoint.txt"); !bytes.Equal(signed, want) {
		t.Errorf("checkpoint is\n%s\nwant\n%s", signed, want)
	}
	opened, err := mustPolicy(t, file(t, "policy.txt")).Verify(signed)
	if err != nil || opened.Checkpoint != c || !opened.Both || opened.Time.Unix() != 1767225600 {
		t.Errorf("opened %+v, %v", opened, err)
	}
	want := []Cosigner{{"w1", time.Unix(1767225601, 0).UTC()}, {"w2", time.Unix(1767225602, 0).UTC()}}
	if fmt.Sprint(opened.Cosigners) != fmt.Sprint(want) {
		t.Errorf("cosigners %v", opened.Cosigners)
	}
}

// Tools that know nothing but Go's own notes open our checkpoint too.
func TestCheckpointForOthers(t *testing.T) {
	s := linesOf(t)
	known, err := note.NewVerifier(keysOf(t).log.VKeys()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open([]byte(s.body+s.ed+s.pq), note.VerifierList(known))
	if err != nil || len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 1 || n.Text+"\n" != s.body {
		t.Errorf("%+v, %v", n, err)
	}
}

// What this package leaves to x/mod/sumdb/note.
func TestVectorNotes(t *testing.T) {
	var v struct {
		VKey  string
		Cases []struct {
			Case, XMod string
			Note       string `json:"note_hex"`
		}
	}
	vector(t, "note.json", &v)
	known, err := note.NewVerifier(v.VKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range v.Cases {
		if c.Note == "" {
			continue // described only; TestOpenLimits has them for checkpoints
		}
		_, err := note.Open(unhex(t, c.Note), note.VerifierList(known))
		if (err == nil) != strings.HasPrefix(c.XMod, "accept") {
			t.Errorf("%s: %v, want %s", c.Case, err, c.XMod)
		}
	}
}

func TestVectorMerkle(t *testing.T) {
	var v struct {
		EmptyRoot string `json:"empty_root_hex"`
		EmptyLeaf string `json:"empty_leaf_hash_hex"`
		Inclusion []struct {
			Index, Size uint64
			Root        string   `json:"root_hex"`
			Proof       []string `json:"proof_hex"`
		}
		Consistency []struct {
			Old, New uint64
			OldRoot  string   `json:"old_root_hex"`
			NewRoot  string   `json:"new_root_hex"`
			Proof    []string `json:"proof_hex"`
		}
	}
	vector(t, "merkle.json", &v)
	if EmptyRoot() != root(t, v.EmptyRoot) || new(Tree).Root() != EmptyRoot() || LeafHash(nil) != root(t, v.EmptyLeaf) {
		t.Error("empty root or empty leaf")
	}
	tree := vectorLog(300)
	for _, r := range v.Inclusion {
		proof, err := ProveEntry(r.Size, r.Index, tree)
		if err != nil || fmt.Sprint(proof) != fmt.Sprint(roots(t, r.Proof)) {
			t.Errorf("inclusion of %d in %d: %x, %v", r.Index, r.Size, proof, err)
		}
		entry := vectorEntry(int(r.Index))
		if err := CheckEntry(proof, r.Size, root(t, r.Root), r.Index, entry); err != nil {
			t.Error(err)
		}
		if CheckEntry(proof, r.Size, root(t, r.Root), r.Index, append(entry, 'x')) == nil {
			t.Errorf("another entry passes as %d of %d", r.Index, r.Size)
		}
		if CheckEntry(append(proof, EmptyRoot()), r.Size, root(t, r.Root), r.Index, entry) == nil {
			t.Errorf("a longer proof passes for %d of %d", r.Index, r.Size)
		}
	}
	for _, r := range v.Consistency {
		proof, err := ProveConsistency(r.Old, r.New, tree)
		if err != nil || fmt.Sprint(proof) != fmt.Sprint(roots(t, r.Proof)) {
			t.Errorf("consistency of %d with %d: %x, %v", r.New, r.Old, proof, err)
		}
		if err := CheckConsistency(proof, r.Old, root(t, r.OldRoot), r.New, root(t, r.NewRoot)); err != nil {
			t.Error(err)
		}
		if CheckConsistency(proof, r.Old, EmptyRoot(), r.New, root(t, r.NewRoot)) == nil {
			t.Errorf("another old root passes for %d, %d", r.Old, r.New)
		}
	}
}

// The witness requests of the vectors carry consistency proofs.
func TestVectorWitnessRequests(t *testing.T) {
	policy := mustPolicy(t, file(t, "policy.txt"))
	for _, old := range []uint64{0, 3} {
		head, checkpoint, _ := bytes.Cut(file(t, fmt.Sprintf("add-checkpoint-%d-5.txt", old)), []byte("\n\n"))
		opened, err := policy.Open(checkpoint)
		if err != nil || opened.Quorum {
			t.Errorf("the log's own lines: %+v, %v", opened, err)
		}
		proof, err := ProveConsistency(old, opened.Size, vectorLog(5))
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Appendf(nil, "old %d\n", old)
		for _, h := range proof {
			text = appendHash(text, h)
		}
		if string(text) != string(head)+"\n" {
			t.Errorf("proof of the request from %d is %q", old, text)
		}
	}
}

func TestVectorTiles(t *testing.T) {
	var v struct {
		Bundle     string `json:"bundle_hex"`
		BundlePath string `json:"bundle_path"`
		Tile       string `json:"tile_hex"`
		TilePath   string `json:"tile_path"`
		Paths      []struct {
			C2SP         string
			Index        uint64
			Level, Width int
		}
		Sizes map[string][]string `json:"tiles_of_tree_size"`
	}
	vector(t, "tiles.json", &v)
	for _, r := range v.Paths {
		tile := Tile{r.Level, r.Index, r.Width}
		if tile.Path() != r.C2SP {
			t.Errorf("%+v: path %s, want %s", tile, tile.Path(), r.C2SP)
		}
		if back, err := ParseTilePath(r.C2SP); err != nil || back != tile {
			t.Errorf("%s: parsed as %+v, %v", r.C2SP, back, err)
		}
	}
	for size, want := range v.Sizes {
		var n uint64
		fmt.Sscan(size, &n)
		tiles, err := TileList(0, n)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, tile := range tiles {
			// The vector leaves out bundles, and full tiles from 70,000 entries on.
			if tile.Level != EntryLevel && (n < 70000 || tile.Width < TileWidth) {
				got = append(got, tile.Path())
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("tiles of %s: %v, want %v", size, got, want)
		}
	}
	files := map[string][]byte{}
	for f, err := range Tiles(0, 5, vectorLog(5), func(i uint64) ([]byte, error) { return vectorEntry(int(i)), nil }) {
		if err != nil {
			t.Fatal(err)
		}
		files[f.Path] = f.Data
	}
	if len(files) != 2 || hex.EncodeToString(files[v.BundlePath]) != v.Bundle || hex.EncodeToString(files[v.TilePath]) != v.Tile {
		t.Errorf("files of five entries: %x", files)
	}
}

func TestVectorProofs(t *testing.T) {
	for name, size := range map[string]int{"entry3.tlog-proof": 5, "size1.tlog-proof": 1} {
		data := file(t, name)
		p, err := ParseProof(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if again := FormatProof(p); !bytes.Equal(again, data) {
			t.Errorf("%s: rendered as %q", name, again)
		}
		opened, err := mustPolicy(t, file(t, "policy-ed25519.txt")).Verify(p.Checkpoint)
		if err != nil || opened.Size != uint64(size) || opened.Both {
			t.Errorf("%s: %+v, %v", name, opened, err)
		}
		if err := CheckEntry(p.Hashes, opened.Size, opened.Root, p.Index, vectorEntry(int(p.Index))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want, err := ProveEntry(opened.Size, p.Index, vectorLog(size))
		if err != nil || fmt.Sprint(want) != fmt.Sprint(p.Hashes) {
			t.Errorf("%s: proof is %x, %v", name, want, err)
		}
	}
}

// The first five lines of policy.txt, rendered by us, name the same keys.
func TestVectorPolicies(t *testing.T) {
	keys := keysOf(t)
	ours, plain, err := FormatPolicies(PolicyTerms{
		Log: keys.log.VKeys(), URL: "https://bluekey.example/hai-phong", Quorum: 1,
		Witnesses: []PolicyWitness{
			{Name: "w1", Ed25519: keys.witness[0].VKeys()[0]},
			{Name: "w2", MLDSA44: keys.witness[1].VKeys()[1]},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := strings.Cut(string(file(t, "policy.txt")), "\n") // without its comment
	if got := strings.Replace(string(ours), "outside 1", "outside any", 1); got != want {
		t.Errorf("policy is\n%s\nwant\n%s", got, want)
	}
	signed := file(t, "checkpoint.txt")
	for name, text := range map[string][]byte{"policy": ours, "policy-ed25519": plain} {
		if _, err := mustPolicy(t, text).Verify(signed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
