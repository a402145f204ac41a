package drill

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bluekey/keystore/diagnosis"
)

// trace is something that a phone told a door and that is to be kept nowhere.
type trace struct {
	what  string
	forms [][]byte // in which it would be found
}

// tell notes what the phone is about to tell a door.
func (a *actor) tell(what string, said []byte) {
	asHex := hex.EncodeToString(said)
	a.told = append(a.told, trace{what, [][]byte{
		bytes.Clone(said), []byte(asHex), []byte(strings.ToUpper(asHex)), []byte(base64.StdEncoding.EncodeToString(said)),
	}})
}

// search searches the folder of a drill, if it has one.
func (cfg *Config) search(phones []*actor) (traces int, err error) {
	if cfg.Folder == "" {
		return 0, nil
	}
	return search(cfg.Folder, phones)
}

// search looks through the raw bytes of every file below folder for what phones told doors,
// and gives how many things it looked for. It must find seeds of the cases that came through
// the Bluezone door, or it is blind and its word worth nothing. Files may come and go
// meanwhile.
func search(folder string, phones []*actor) (traces int, err error) {
	var forbidden []trace
	var seeds [][]byte
	for _, a := range phones {
		forbidden = append(forbidden, a.told...)
		for i := range a.keys {
			if a.way == byBluezone {
				seeds = append(seeds, a.keys[i].Bytes())
			}
		}
	}
	seen := len(seeds) == 0
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return present(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return present(err)
		}
		for _, t := range forbidden {
			for _, form := range t.forms {
				if holds(data, form) {
					return fmt.Errorf("%w: %s holds the %s of a case that came through a door", ErrFailed, path, t.what)
				}
			}
		}
		for i := 0; i < len(seeds) && !seen; i++ {
			seen = bytes.Contains(data, seeds[i])
		}
		return nil
	})
	if err == nil && !seen {
		err = fmt.Errorf("%w: the search of %s finds not even %s seeds, which must be there", ErrFailed, folder, diagnosis.Bluezone)
	}
	return len(forbidden), err
}

// present forgives files that are gone.
func present(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// holds reports whether data holds a needle. Six digits turn up by chance within the hex of
// digests and in times, so short needles within long runs of hex do not count.
func holds(data, needle []byte) bool {
	const short, run = 8, 9
	for from := 0; ; from++ {
		next := bytes.Index(data[from:], needle)
		if next < 0 || len(needle) > short {
			return next >= 0
		}
		from += next
		before, after := data[:from], data[from:]
		if len(data)-len(bytes.TrimRight(before, hexDigits))-len(bytes.TrimLeft(after, hexDigits)) < run {
			return true
		}
	}
}

const hexDigits = "0123456789abcdef"
