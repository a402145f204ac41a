package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"bluekey/keystore/desk"
	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/signing/permit"
)

func TestCloseLog(t *testing.T) {
	by := time.Unix(1_800_000_000, 0)
	var asked string
	a := start(t, func(c *Config) {
		c.CloseLog = func(_ context.Context, policy, opening []byte) (time.Time, error) {
			asked = string(policy) + " " + string(opening)
			if asked != "policy opening" {
				return time.Time{}, errors.New("it names another log")
			}
			return by, c.Store.Retire("moved")
		}
	})
	desk := AdminClient(a.admin)
	_, err := desk.CloseLog(t.Context(), &v1.CloseLogRequest{})
	if _, r := refused(t, err); r.Reason != "malformed" || !strings.Contains(err.Error(), "it names another log") {
		t.Errorf("a hand-over that does not hold: %v", err)
	}
	held, code := a.held(), a.codes(1)[0]
	res, err := desk.CloseLog(t.Context(), &v1.CloseLogRequest{Policy: []byte("policy"), Opening: []byte("opening")})
	if err != nil || res.ClosesBy != by.Unix() {
		t.Fatalf("%v, %v", res, err)
	}
	by = time.Time{}
	if res, err = desk.CloseLog(t.Context(), &v1.CloseLogRequest{Policy: []byte("policy"), Opening: []byte("opening")}); err != nil || res.ClosesBy != 0 {
		t.Fatalf("once it is closed: %v, %v", res, err)
	}

	// Uploads and codes are refused for good, files are served on, and operators are told.
	var no permit.Refusal
	if _, err = a.redeem(code); !errors.As(err, &no) || no.Reason != permit.ReasonClosed {
		t.Errorf("a redeem: %v", err)
	}
	if _, err = a.upload(held, teks(1)); !errors.As(err, &no) || no.Reason != permit.ReasonClosed {
		t.Errorf("an upload: %v", err)
	}
	_, err = desk.Issue(t.Context(), &v1.IssueRequest{Report: v1.ReportType_REPORT_TYPE_CONFIRMED_TEST, OnsetDay: today(), Count: 1})
	if _, r := refused(t, err); r.Reason != "closed" {
		t.Errorf("a code: %v", r)
	}
	a.put("policy", []byte("p"))
	if res, _ := a.get("/policy"); res.StatusCode != http.StatusOK {
		t.Errorf("a file: %d", res.StatusCode)
	}
	ready, err := a.client.Get(a.ops + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Body.Close()
	if body, _ := io.ReadAll(ready.Body); ready.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "another service follows") {
		t.Errorf("readyz: %d %s", ready.StatusCode, body)
	}
}

func TestInvite(t *testing.T) {
	expires := time.Unix(1_800_000_000, 0)
	a := start(t, func(c *Config) {
		c.Invite = func(role, unit string) (string, time.Time, error) {
			if role != "admin" {
				return "", time.Time{}, errors.New("unknown role")
			}
			return "https://console.example/join/x" + unit, expires, nil
		}
	})
	res, err := AdminClient(a.admin).Invite(t.Context(), &v1.InviteRequest{Role: "admin", Unit: "31"})
	if err != nil || res.Url != "https://console.example/join/x31" || res.Expires != expires.Unix() {
		t.Errorf("%v, %v", res, err)
	}
	_, err = AdminClient(a.admin).Invite(t.Context(), &v1.InviteRequest{Role: "king"})
	if text, ok := Refused(err); !ok || !strings.Contains(text, "unknown role") {
		t.Errorf("a role that there is not: %v", err)
	}
	_, err = AdminClient(start(t).admin).Invite(t.Context(), &v1.InviteRequest{Role: "admin"})
	if text, ok := Refused(err); !ok || !strings.Contains(text, "console_listen") {
		t.Errorf("without a console: %v", err)
	}
}

// TestJournalOverTheSocket reads a journal of several messages, which holds.
func TestJournalOverTheSocket(t *testing.T) {
	var office *desk.Office
	a := start(t, func(c *Config) {
		var err error
		if office, err = desk.OpenOffice(c.Store.Desk()); err != nil {
			t.Fatal(err)
		}
		c.Office = office
	})
	client := AdminClient(a.admin)
	if _, err := client.NoteBackup(t.Context(), &v1.NoteBackupRequest{}); err != nil {
		t.Fatal(err)
	}
	if at, err := office.Backup(); at.IsZero() || err != nil {
		t.Error(at, err)
	}
	noted := office.JournalHead()
	for range 2 * chunkSize / 100 {
		if err := office.NoteBackup(desk.Local); err != nil {
			t.Fatal(err)
		}
	}
	var text bytes.Buffer
	if err := client.WriteJournal(t.Context(), &text); err != nil {
		t.Fatal(err)
	}
	if text.Len() < 2*chunkSize {
		t.Errorf("%d bytes are one message", text.Len())
	}
	head, met, err := desk.VerifyJournal(&text, noted)
	if err != nil || !met || head != office.JournalHead() {
		t.Error(head, met, err)
	}
}

func TestAdminWithoutALog(t *testing.T) {
	a := start(t)
	_, err := AdminClient(a.admin).CloseLog(t.Context(), &v1.CloseLogRequest{})
	if connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("%v", err)
	}
}
