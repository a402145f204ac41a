package bluezone

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"strings"
	"testing"
	"testing/iotest"
)

const testBoundary = "RNFetchBlob-l9o8k3d7q2a"

// part writes a part as the app's upload library does on Android, where no name has quotes.
func part(name, value string) string {
	return fmt.Sprintf("--%s\r\nContent-Disposition: form-data; name=%s\r\nContent-Type: text/plain\r\n\r\n%s\r\n", testBoundary, name, value)
}

const theEnd = "--" + testBoundary + "--\r\n"

func TestForm(t *testing.T) {
	info, code := part("InfoF", `{"base_id":""}`), part("OTP", "123456")
	long := strings.Repeat("x", 4<<20)
	for _, row := range []struct {
		name, body string
		ok         bool
	}{
		{"two parts", info + code + theEnd, true},
		{"no line end at the end", info + code + strings.TrimSpace(theEnd), true},
		{"more after the end", info + code + theEnd + long, true},
		{"file first", part("history", long) + info + code + theEnd, true},
		{"an empty file, token and number", part("history", "") + part("TokenFirebase", "") + info + part("PhoneNumber", "") + code + theEnd, true},
		{"an old boundary", strings.ReplaceAll(info+code+theEnd, testBoundary, "*****"), true},
		{"the longest boundary", strings.ReplaceAll(info+code+theEnd, testBoundary, strings.Repeat("b", 70)), true},
		{"names in quotes", strings.NewReplacer("name=InfoF", `name="InfoF"`, "name=OTP", `name="OTP"`, "Content-D", "content-d").Replace(info + code + theEnd), true},
		{"a transfer encoding, which is not undone", strings.Replace(info+code+theEnd, "Content-Type", "Content-Transfer-Encoding: base64\r\nContent-Type", 2), true},
		{"a form within a part", info + code + part("PhoneNumber", strings.ReplaceAll(info+code+theEnd, testBoundary, "inner")) + theEnd, true},

		{"nothing", "", false},
		{"only an end", theEnd, false},
		{"no code", info + theEnd, false},
		{"no record", code + theEnd, false},
		{"a record twice", info + info + code + theEnd, false},
		{"a code twice", info + code + code + theEnd, false},
		{"no boundary at the start", "hello\r\n" + info + code + theEnd, false},
		{"an empty boundary", strings.ReplaceAll(info+code+theEnd, testBoundary, ""), false},
		{"a boundary with a space", strings.ReplaceAll(info+code+theEnd, testBoundary, "a b"), false},
		{"a boundary too long", strings.ReplaceAll(info+code+theEnd, testBoundary, strings.Repeat("b", 71)), false},
		{"another boundary later", info + strings.ReplaceAll(code+theEnd, testBoundary, "other"), false},
		{"without the end", info + code, false},
		{"cut in a part", info + code[:len(code)-4], false},
		{"cut in a header", info + code[:40], false},
		{"a code too long", info + part("OTP", strings.Repeat("1", maxCode)) + theEnd, false},
		{"a record too long", part("InfoF", strings.Repeat(" ", maxInfo)) + code + theEnd, false},
		{"a token too long", info + code + part("TokenFirebase", strings.Repeat("t", maxField+1)) + theEnd, false},
		{"too many parts", info + code + strings.Repeat(part("x", ""), maxParts) + theEnd, false},
		{"a long header", info + code + strings.Replace(part("x", ""), "text/plain", strings.Repeat("h", 3*maxHead), 1) + theEnd, false},
		{"many headers", info + code + strings.Replace(part("x", ""), "Content-Type", strings.Repeat("X: y\r\n", 2*maxHead)+"Content-Type", 1) + theEnd, false},
		{"JSON", `{"OTP":"123456"}`, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, reader := range []io.Reader{strings.NewReader(row.body), iotest.DataErrReader(strings.NewReader(row.body))} {
				var f form
				err := f.read(reader)
				if (err == nil) != row.ok || err != nil && !errors.Is(err, errForm) {
					t.Fatalf("error %v", err)
				}
				if row.ok && (string(f.code()) != "123456" || string(f.info()) != `{"base_id":""}`) {
					t.Errorf("read %q and %q", f.code(), f.info())
				}
				f.wipe()
				if f != (form{}) {
					t.Error("something is left")
				}
			}
		})
	}
}

// A body comes byte by byte just as well.
func TestFormInPieces(t *testing.T) {
	body := part("history", strings.Repeat("row\n", 100)) + part("InfoF", "{}") + part("OTP", "123456") + theEnd
	var f form
	if err := f.read(iotest.OneByteReader(strings.NewReader(body))); err != nil || string(f.code()) != "123456" {
		t.Errorf("%q, %v", f.code(), err)
	}
}

// endless gives its start, then the same again and again, and counts.
type endless struct {
	start, more string
	given       int
}

func (e *endless) Read(p []byte) (n int, err error) {
	if e.start == "" {
		e.start = e.more
	}
	n = copy(p, e.start)
	e.start = e.start[n:]
	e.given += n
	return n, nil
}

// What never ends is given up soon, without more memory than anything else.
func TestFormBombs(t *testing.T) {
	head := "--" + testBoundary + "\r\n"
	disposition := "Content-Disposition: form-data; name="
	for _, row := range []struct {
		name        string
		start, more string
		most        int // bytes read of it
	}{
		{"a boundary", "--", "b", 256},
		{"a header line", head, "h", 16 << 10},
		{"headers", head, "X: y\r\n", 16 << 10},
		{"a folded header", head + "X: y", "\r\n z", 16 << 10},
		{"a name", head + disposition, "n", 16 << 10},
		{"a record", head + disposition + "InfoF\r\n\r\n", "{", 16 << 10},
		{"a code", head + disposition + "OTP\r\n\r\n", "1", 16 << 10},
		{"a token", head + disposition + "TokenFirebase\r\n\r\n", "t", 16 << 10},
		{"a history", head + disposition + "history\r\n\r\n", strings.Repeat("row\n", 1<<12), maxBody},
		{"empty parts", "", part("x", ""), 16 << 10},
		{"histories", "", part("history", strings.Repeat("row\n", 1<<16)), maxParts << 19},
		{"forms within forms", "", strings.Replace(part("x", ""), "text/plain", "multipart/mixed; boundary=x", 1), 16 << 10},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := &endless{start: row.start, more: row.more}
			var f form
			if err := f.read(e); !errors.Is(err, errForm) {
				t.Errorf("error %v", err)
			}
			if e.given > row.most {
				t.Errorf("%d bytes were read of it, want at most %d", e.given, row.most)
			}
		})
	}
	allocated := testing.AllocsPerRun(1, func() {
		var f form
		_ = f.read(&endless{start: head + disposition + "history\r\n\r\n", more: strings.Repeat("row\n", 1<<12)})
	})
	if allocated > 100 {
		t.Errorf("a history costs %v allocations", allocated)
	}
}

// FuzzForm reads any body. What is accepted is what the standard library finds in it.
func FuzzForm(f *testing.F) {
	f.Add([]byte(part("InfoF", "{}") + part("OTP", "123456") + theEnd))
	f.Add([]byte(part("history", "a\tb\n") + part("OTP", "1") + part("InfoF", "") + theEnd))
	f.Add([]byte("--*****\r\n\r\n--*****--"))
	f.Add([]byte("--a\r\nContent-Disposition: form-data; name=OTP\r\n\r\n\r\n--a--b\r\n--a--"))
	f.Fuzz(func(t *testing.T, body []byte) {
		var got form
		if err := got.read(bytes.NewReader(body)); err != nil {
			if !errors.Is(err, errForm) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		line, _, _ := bytes.Cut(body, []byte("\r\n"))
		want := map[string][]string{}
		parts := multipart.NewReader(bytes.NewReader(body), string(line[2:]))
		for {
			p, err := parts.NextRawPart()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			value, err := io.ReadAll(p)
			if err != nil {
				t.Fatal(err)
			}
			want[p.FormName()] = append(want[p.FormName()], string(value))
		}
		if len(want["OTP"]) != 1 || want["OTP"][0] != string(got.code()) || len(want["InfoF"]) != 1 || want["InfoF"][0] != string(got.info()) {
			t.Fatal("read in another way")
		}
	})
}
