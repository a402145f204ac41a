// Package witness cosigns the checkpoints of other logs, and asks others to cosign ours
// (C2SP tlog-witness, tlog-cosignature).
//
// A witness has seen one history of each log it knows, and signs a checkpoint only if it
// continues that history. A log that wants to show two histories to two readers would have
// to win over every witness that the readers' policies name. The witness reads no entries
// and judges nothing but growth.
//
// It holds one record for each log: the newest checkpoint that it cosigned, with the
// signatures of the log and its own. The record is what the monitoring address serves, and
// a damaged or foreign one is told by its signature. It holds no address of anybody who
// asked.
//
//	check ── the signatures of the log, then the size, then the proof of growth
//	store ── the record, durable, replaced in one step
//	answer ─ the cosignatures
//
// A cosignature never leaves before its record is durable, so whatever stops the process,
// no later one contradicts it. Two things are up to whoever runs it: the records must never
// be put back from a backup, since a witness that forgets can be led to cosign a fork, and
// only one process at a time may use them (Lock). A witness that lost its records starts
// again under another name.
package witness

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"bluekey/export/exportlog"
	"bluekey/signing"
)

// Config is a witness's. Every field but Now and Log is required.
type Config struct {
	Keys  signing.WitnessKeys // of the cosignatures
	Logs  []Log               // whose checkpoints it cosigns
	State State               // its records

	Now func() time.Time // nil means time.Now
	Log *slog.Logger     // nil means slog.Default
}

// Witness cosigns checkpoints.
type Witness struct {
	keys  signing.WitnessKeys
	now   func() time.Time
	log   *slog.Logger
	logs  map[string]*history // by origin
	names map[string]*history // by name of the record
	slots chan struct{}       // one taken for each checkpoint being judged
}

// history is what the witness knows of one log.
type history struct {
	log   Log
	state State

	mu       sync.Mutex // held while a checkpoint is compared and stored
	newest   record     // durable
	reported bool       // a fork of this log has been logged
}

// New makes a Witness and reads the records of its logs. It refuses a record that it did
// not make itself.
func New(cfg Config) (*Witness, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if len(cfg.Logs) == 0 {
		return nil, errors.New("a witness needs a log to watch")
	}
	w := &Witness{
		keys: cfg.Keys, now: cfg.Now, log: cfg.Log,
		logs: map[string]*history{}, names: map[string]*history{},
		slots: make(chan struct{}, maxJudged),
	}
	for _, l := range cfg.Logs {
		h := &history{log: l, state: cfg.State}
		if err := h.load(cfg.Keys); err != nil {
			return nil, fmt.Errorf("witnessing %s: %w", l.Origin, err)
		}
		if w.logs[l.Origin] != nil {
			return nil, fmt.Errorf("two policies for the log %s", l.Origin)
		}
		if missing := l.missing(); missing != 0 {
			cfg.Log.Warn("the policy of this log names no key of one kind: its checkpoints are taken without that signature", "origin", l.Origin, "kind", missing)
		}
		w.logs[l.Origin], w.names[RecordName(l.Origin)] = h, h
	}
	return w, nil
}

// load reads the newest record. It may date from before a crash that left it not yet
// durable: it is stored again before anybody can see it.
func (h *history) load(keys signing.WitnessKeys) error {
	text, err := h.state.Load(h.log.Origin)
	if err != nil {
		return err
	}
	if text == nil {
		h.newest = record{tree: exportlog.Checkpoint{Origin: h.log.Origin, Root: exportlog.EmptyRoot()}}
		return nil
	}
	if h.newest, err = parseRecord(text, h.log.Keys, keys); err != nil {
		return fmt.Errorf("its record is damaged, or of a witness with another name or seed: %w", err)
	}
	if h.newest.tree.Origin != h.log.Origin {
		return fmt.Errorf("its record is that of %s", h.newest.tree.Origin)
	}
	return h.state.Store(h.log.Origin, text)
}

// refusal is an answer other than cosignatures.
type refusal struct {
	status int
	size   uint64 // of the newest record; with http.StatusConflict only
	why    error
}

func (r *refusal) Error() string { return r.why.Error() }

// addCheckpoint judges the body of an add-checkpoint request and gives the lines that
// cosign its checkpoint. Every error is a refusal.
func (w *Witness) addCheckpoint(body []byte) ([]byte, error) {
	req, err := parseRequest(body)
	if err != nil {
		return nil, &refusal{status: http.StatusBadRequest, why: err}
	}
	h := w.logs[req.tree.Origin]
	if h == nil {
		return nil, &refusal{status: http.StatusNotFound, why: errors.New("this witness does not know the log")}
	}
	if _, err := h.log.policy.Open(req.checkpoint); errors.Is(err, exportlog.ErrUnsigned) {
		return nil, &refusal{status: http.StatusForbidden, why: err}
	} else if err != nil {
		return nil, &refusal{status: http.StatusBadRequest, why: err}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := w.compare(h, req); err != nil {
		return nil, err
	}
	return w.advance(h, req)
}

// compare tells whether a checkpoint continues the newest record.
func (w *Witness) compare(h *history, req request) error {
	newest := h.newest.tree
	if h.newest.text != nil && req.tree.Size == newest.Size && req.tree.Root != newest.Root && !h.reported {
		// The log has signed both. That is the proof a witness is there to find.
		w.log.Error("a log shows two trees of one size: keep this checkpoint, and the one this witness serves", "origin", newest.Origin, "checkpoint", string(req.checkpoint))
		h.reported = true
	}
	if req.old != newest.Size {
		return &refusal{status: http.StatusConflict, size: newest.Size, why: fmt.Errorf("the newest tree cosigned here has %d entries", newest.Size)}
	}
	if err := exportlog.CheckConsistency(req.proof, newest.Size, newest.Root, req.tree.Size, req.tree.Root); err != nil {
		return &refusal{status: http.StatusUnprocessableEntity, why: err}
	}
	return nil
}

// advance stores the next record and gives its cosignatures.
func (w *Witness) advance(h *history, req request) ([]byte, error) {
	now := time.Unix(w.now().Unix(), 0)
	switch {
	case now.Unix() < 1 || now.Before(h.newest.at):
		// A cosignature says that no larger tree was known at its time.
		w.log.Error("the clock stands before the last cosignature; nothing is cosigned until it is right", "origin", req.tree.Origin, "last", h.newest.at.UTC())
		return nil, &refusal{status: http.StatusServiceUnavailable, why: errors.New("the clock of this witness is wrong")}
	case now.Equal(h.newest.at) && req.tree == h.newest.tree:
		return h.newest.own, nil // who repeats a request makes the disk sync once a second, no more
	}
	next, err := newRecord(req, h.log.Keys, w.keys, now)
	if err == nil {
		err = h.state.Store(req.tree.Origin, next.text)
	}
	if err != nil {
		// The old record stands. Should the new one have reached the disk all the same,
		// the next start takes it up, and it contradicts nothing.
		w.log.Error("a checkpoint could not be cosigned", "origin", req.tree.Origin, "size", req.tree.Size, "error", err)
		return nil, &refusal{status: http.StatusInternalServerError, why: errors.New("the record could not be stored")}
	}
	if next.tree.Size > h.newest.tree.Size {
		w.log.Info("cosigned", "origin", next.tree.Origin, "size", next.tree.Size)
	}
	h.newest = next
	return next.own, nil
}

// held is the newest record of the log whose record has this name; nil if there is none.
func (w *Witness) held(name string) []byte {
	h := w.names[name]
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.newest.text
}
