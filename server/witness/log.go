package witness

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"bluekey/export/exportlog"
	"bluekey/signing"
)

// Log is a log to watch.
type Log struct {
	Origin string
	// Keys are those that its checkpoints must be signed with: as the policy of a bluekey
	// log names them, Ed25519 and ML-DSA-44.
	Keys   []*signing.VKey
	policy *exportlog.Policy
}

// ParseLog reads the policy of one log (C2SP tlog-policy), as the log publishes it at
// /policy. Quorum and other witnesses in it do not matter here.
func ParseLog(policy []byte) (Log, error) {
	p, err := exportlog.ParsePolicy(policy)
	if err != nil {
		return Log{}, err
	}
	l := Log{Origin: p.Logs()[0].Key.Name(), policy: p}
	for _, line := range p.Logs() {
		if line.Key.Name() != l.Origin {
			return Log{}, fmt.Errorf("policy of %s and of %s: give each log a file of its own", l.Origin, line.Key.Name())
		}
	}
	for line := range strings.Lines(string(policy)) {
		if key := ownKey(l.Origin, items(line)); key != nil && !slices.ContainsFunc(l.Keys, func(k *signing.VKey) bool { return k.String() == key.String() }) {
			l.Keys = append(l.Keys, key)
		}
	}
	return l, nil
}

// ReadLogs reads the policies of several logs, each in a file of its own.
func ReadLogs(paths []string) ([]Log, error) {
	var logs []Log
	for _, path := range paths {
		policy, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		l, err := ParseLog(policy)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		logs = append(logs, l)
	}
	return logs, nil
}

// items divides a line as C2SP tlog-policy does: other space belongs to names.
func items(line string) []string {
	return strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' })
}

// missing is the kind of signature that the policy does not demand of the log, 0 if it
// demands both.
func (l Log) missing() signing.Kind {
	for _, kind := range []signing.Kind{signing.Ed25519Log, signing.MLDSA44Cosignature} {
		if !slices.ContainsFunc(l.Keys, func(k *signing.VKey) bool { return k.Kind() == kind }) {
			return kind
		}
	}
	return 0
}

// ownKey is the key on a line of a policy if it is one of the log's own: the ML-DSA-44 key
// stands on a witness line, because log lines cannot demand two keys.
func ownKey(origin string, items []string) *signing.VKey {
	var text string
	switch {
	case len(items) >= 2 && items[0] == "log":
		text = items[1]
	case len(items) >= 3 && items[0] == "witness":
		text = items[2]
	}
	key, err := signing.ParseVKey(text)
	if err != nil || key.Name() != origin || key.Kind() == signing.Ed25519Cosignature {
		return nil
	}
	return key
}

// FormatWitness writes the lines by which logs know a witness that answers at url. Its short
// name in them is the last part of its name.
func FormatWitness(keys signing.WitnessKeys, url string) string {
	name := keys.Name()
	short := name[strings.LastIndexByte(name, '/')+1:]
	var b strings.Builder
	for _, key := range keys.VKeys() {
		fmt.Fprintf(&b, "witness %s %s %s\n", short, key, url)
	}
	return b.String()
}

// ParseWitnesses reads a list of witnesses to ask, one key a line:
//
//	witness <name> <vkey> <url>
//
// as FormatWitness writes them. A witness with two keys has two lines of one name and
// one URL. Lines that start with # and empty lines are skipped.
func ParseWitnesses(list []byte) ([]exportlog.PolicyWitness, error) {
	if len(list) > exportlog.MaxPolicy {
		return nil, errors.New("list of witnesses: too long")
	}
	var all []exportlog.PolicyWitness
	n := 0
	for line := range strings.Lines(string(list)) {
		n++
		row := items(line)
		if len(row) == 0 || row[0][0] == '#' {
			continue
		}
		var err error
		if all, err = addWitness(all, row); err != nil {
			return nil, fmt.Errorf("list of witnesses, line %d: %w", n, err)
		}
	}
	return all, nil
}

func addWitness(all []exportlog.PolicyWitness, row []string) ([]exportlog.PolicyWitness, error) {
	if len(row) != 4 || row[0] != "witness" {
		return nil, errors.New("want: witness NAME VKEY URL")
	}
	name, vkey, url := row[1], row[2], row[3]
	key, err := signing.ParseVKey(vkey)
	if err != nil {
		return nil, err
	}
	if _, err := parseURL(url); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(w exportlog.PolicyWitness) bool { return w.Name == name })
	if i < 0 {
		i = len(all)
		all = append(all, exportlog.PolicyWitness{Name: name, URL: url})
	}
	place := &all[i].MLDSA44
	switch key.Kind() {
	case signing.MLDSA44Cosignature:
	case signing.Ed25519Cosignature:
		place = &all[i].Ed25519
	default:
		return nil, fmt.Errorf("the key of witness %s is of kind %v", name, key.Kind())
	}
	if *place != nil || all[i].URL != url {
		return nil, fmt.Errorf("witness %s: two keys of one kind, or two URLs", name)
	}
	*place = key
	return all, nil
}
