package exportlog

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

const (
	prebuiltA = "exports/1767225600-1767240000-3d191299420f1e0a.ids"
	prebuiltB = "exports/1767225600-1767240000-688b746781748a93.keys"
)

func TestPrebuiltList(t *testing.T) {
	for _, want := range [][]string{nil, {prebuiltA}, {prebuiltA, prebuiltB}} {
		text, err := FormatPrebuilt(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParsePrebuilt(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q gives %q, %v", text, got, err)
		}
	}
	head := prebuiltHeader + "\n"
	for name, text := range map[string]string{
		"empty":        "",
		"other header": "bluekey prebuilt v2\n",
		"no line end":  head + prebuiltA,
		"descending":   head + prebuiltB + "\n" + prebuiltA + "\n",
		"twice":        head + prebuiltA + "\n" + prebuiltA + "\n",
		"empty line":   head + prebuiltA + "\n\n",
		"other path":   head + "exports/../../seed\n",
		"carriage":     strings.ReplaceAll(head+prebuiltA+"\n", "\n", "\r\n"),
	} {
		if paths, err := ParsePrebuilt([]byte(text)); err == nil {
			t.Errorf("%s: gives %q", name, paths)
		}
	}
}

func FuzzPrebuiltList(f *testing.F) {
	f.Add([]byte(prebuiltHeader + "\n" + prebuiltA + "\n" + prebuiltB + "\n"))
	f.Add([]byte(prebuiltHeader + "\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		paths, err := ParsePrebuilt(data)
		if err != nil {
			return
		}
		if again, err := FormatPrebuilt(paths); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q reads as %q, which is written %q, %v", data, paths, again, err)
		}
	})
}
