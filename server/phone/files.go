package phone

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"bluekey/keystore/diagnosis"
)

// KeyRecord is one line of a key file: what a phone knows of a key of its own.
type KeyRecord struct {
	Key   string `json:"key"`            // the secret in hex, either case
	Start uint32 `json:"start"`          // interval number since the epoch: 10 minutes GAEN, 15 Bluezone
	Count int    `json:"count"`          // intervals
	Risk  int    `json:"risk,omitempty"` // transmission risk level, 0 to 8
}

// ParseKeys reads a key file: a JSON array of KeyRecord, nothing unknown in it and nothing
// after it.
func ParseKeys(scheme diagnosis.Scheme, data []byte) ([]diagnosis.Key, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var records []KeyRecord
	if err := dec.Decode(&records); err != nil {
		return nil, fmt.Errorf("reading the key file: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("reading the key file: data after the array")
	}
	keys := make([]diagnosis.Key, len(records))
	for i, r := range records {
		secret, err := hex.DecodeString(r.Key)
		if err != nil {
			return nil, fmt.Errorf("key %d: the secret is not hex", i+1) // the text itself stays out
		}
		k, err := diagnosis.New(scheme, secret, diagnosis.Interval(r.Start), r.Count)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		if r.Risk < 0 || r.Risk > diagnosis.MaxRisk {
			return nil, fmt.Errorf("key %d: risk %d, want 0 to %d", i+1, r.Risk, diagnosis.MaxRisk)
		}
		k.Risk = uint8(r.Risk)
		keys[i] = k
	}
	return keys, nil
}

// FormatKeys writes a key file.
func FormatKeys(keys []diagnosis.Key) []byte {
	records := make([]KeyRecord, len(keys))
	for i := range keys {
		k := &keys[i]
		records[i] = KeyRecord{hex.EncodeToString(k.Bytes()), uint32(k.Start), int(k.Count), int(k.Risk)}
	}
	data, err := json.MarshalIndent(records, "", " ")
	if err != nil {
		panic(err) // numbers and hex always marshal
	}
	return append(data, '\n')
}

// ParseSightings reads what a phone heard: lines "hex id,unix seconds", no header. 32 hex
// digits are a GAEN ID, 24 a Bluezone one. Empty lines are skipped. ids holds each ID as it
// was spelled.
func ParseSightings(r io.Reader) (heard []Sighting, ids []string, err error) {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSuffix(lines.Text(), "\r")
		if line == "" {
			continue
		}
		s, err := parseSighting(line)
		if err != nil {
			return nil, nil, fmt.Errorf("sightings, line %d: %w", n, err)
		}
		heard, ids = append(heard, s), append(ids, line[:2*s.Scheme.IDLen()])
	}
	if err := lines.Err(); err != nil {
		return nil, nil, fmt.Errorf("reading sightings: %w", err)
	}
	return heard, ids, nil
}

func parseSighting(line string) (Sighting, error) {
	digits, seconds, ok := strings.Cut(line, ",")
	if !ok {
		return Sighting{}, errors.New(`want "hex id,unix seconds"`)
	}
	var s Sighting
	switch len(digits) {
	case 2 * diagnosis.GAEN.IDLen():
		s.Scheme = diagnosis.GAEN
	case 2 * diagnosis.Bluezone.IDLen():
		s.Scheme = diagnosis.Bluezone
	default:
		return s, fmt.Errorf("an ID of %d characters: want 32 (GAEN) or 24 (Bluezone) hex digits", len(digits))
	}
	if _, err := hex.Decode(s.ID[:], []byte(digits)); err != nil {
		return s, errors.New("the ID is not hex")
	}
	seen, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || seen < 0 {
		return s, errors.New("the time is not a number of Unix seconds")
	}
	s.Seen = seen
	return s, nil
}

// FormatSighting writes one line of a sightings file, without its end.
func FormatSighting(s Sighting) string {
	return fmt.Sprintf("%x,%d", s.ID[:s.Scheme.IDLen()], s.Seen)
}

// MatchReport matches a sightings file against targets and writes one JSON object a match:
// the ID as it was spelled, what is known of the key, the file it was published in; never
// the key.
func MatchReport(ctx context.Context, observed io.Reader, targets []string, o MatchOptions, out io.Writer) error {
	heard, ids, err := ParseSightings(observed)
	if err != nil {
		return err
	}
	lines := json.NewEncoder(out)
	return Match(ctx, heard, targets, o, func(f Found) error {
		line := matchLine{
			ID: ids[f.Sighting], Seen: heard[f.Sighting].Seen, Scheme: f.Key.Scheme.String(), Interval: f.Interval,
			Report: f.Key.Report.String(), Risk: f.Key.Risk, File: f.File,
		}
		if f.Key.Onset != diagnosis.OnsetUnknown {
			line.Onset = &f.Key.Onset
		}
		return lines.Encode(line)
	})
}

type matchLine struct {
	ID       string                    `json:"id"`
	Seen     int64                     `json:"seen"` // Unix seconds
	Scheme   string                    `json:"scheme"`
	Interval diagnosis.Interval        `json:"interval"` // of the ID, counted from the epoch
	Report   string                    `json:"report"`
	Onset    *diagnosis.DaysSinceOnset `json:"days_since_onset"` // null if unknown
	Risk     uint8                     `json:"risk"`
	File     string                    `json:"file"`
}
