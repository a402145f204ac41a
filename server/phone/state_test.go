package phone

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"bluekey/signing/permit"
)

// fullState has every line.
func fullState(t testing.TB) State {
	t.Helper()
	pending, err := permit.ParsePending(append(bytes.Repeat([]byte{1}, 95), 0))
	if err != nil {
		t.Fatal(err)
	}
	held, err := permit.ParseHeld(append(bytes.Repeat([]byte{2}, 128), 1, 0, 0, 0x50, 0xd9))
	if err != nil {
		t.Fatal(err)
	}
	at := func(n int64) time.Time { return time.Unix(n, 0).UTC() }
	return State{Next: at(day * 86400), Code: goodCode, Pending: pending, Asked: at(day*86400 - 60), Held: held, Onset: day - 3, Until: at(day*86400 - 86400), PublishBy: at(day*86400 + 7), Notices: readNotices(t, noNotices)}
}

func TestStateIsReadStrictly(t *testing.T) {
	good, err := fullState(t).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	empty, err := State{}.Bytes()
	if err != nil || string(empty) != "bluekey phone v1\nnext 0\n" {
		t.Errorf("%q, %v", empty, err)
	}
	for _, text := range [][]byte{good, empty} {
		if s, err := ParseState(text); err != nil {
			t.Error(err)
		} else if again, err := s.Bytes(); err != nil || !bytes.Equal(again, text) {
			t.Errorf("written again: %v", err)
		}
	}
	lines := strings.SplitAfter(string(good), "\n")
	for name, bad := range map[string]string{
		"empty":         "",
		"no next":       "bluekey phone v1\n",
		"cut":           string(good[:len(good)-1]),
		"CR":            strings.ReplaceAll(string(good), "\n", "\r\n"),
		"twice":         string(good) + lines[4],
		"order":         lines[0] + lines[1] + lines[3] + lines[2] + lines[4] + lines[5],
		"unknown":       string(good) + "x 1\n",
		"leading zero":  strings.Replace(string(good), "next ", "next 0", 1),
		"negative":      "bluekey phone v1\nnext -1\n",
		"too late":      "bluekey phone v1\nnext 4294967296\n",
		"typed code":    strings.Replace(string(good), goodCode, "57238-9127", 1),
		"wrong code":    strings.Replace(string(good), goodCode, "572389128", 1),
		"short permit":  strings.Replace(string(good), "AgICAgIC", "", 1),
		"report type":   strings.Replace(string(good), "AgIBAABQ2Q", "AgIEAABQ2Q", 1),
		"spaces":        strings.Replace(string(good), "next ", "next  ", 1),
		"publish at 0":  "bluekey phone v1\nnext 0\npublish_by 0\n",
		"no keyring":    "bluekey phone v1\nnext 0\nkeyring \n",
		"empty notices": lines[0] + "next 0\nnotices 3 1 " + origin + " e30K\n",
		"no origin":     strings.Replace(string(good), origin, "", 1),
		"entry -1":      strings.Replace(string(good), "notices 3", "notices -1", 1),
		"more than all": string(good) + strings.Repeat("x", maxState),
	} {
		if bad == string(good) {
			t.Fatalf("%s: the row changes nothing", name)
		}
		if _, err := ParseState([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), goodCode) {
			t.Errorf("%s: the error shows the code: %v", name, err)
		}
	}
	s := fullState(t)
	for _, shown := range []string{fmt.Sprint(s), fmt.Sprintf("%+v", s), fmt.Sprintf("%#v", &s), s.LogValue().String()} {
		if strings.Contains(shown, goodCode) || strings.Contains(shown, "20694") {
			t.Errorf("it prints as %s", shown)
		}
	}
}

func FuzzParseState(f *testing.F) {
	for _, s := range []State{{}, fullState(f)} {
		text, err := s.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseState(text)
		if err != nil {
			return
		}
		again, err := s.Bytes()
		if err != nil || !bytes.Equal(again, text) {
			t.Fatalf("a second spelling was accepted: %v", err)
		}
		fmt.Fprint(io.Discard, s)
	})
}
