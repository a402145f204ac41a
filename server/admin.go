package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"

	"bluekey/keystore/desk"
	v1 "bluekey/server/api/bluekey/v1"
)

// adminService is bluekey.v1.AdminService. Its callers own the data folder, so errors are
// told to them as they are.
type adminService struct {
	rotate   func(ctx context.Context, version string, from, retire time.Time) error
	closeLog func(ctx context.Context, policy, opening []byte) (by time.Time, err error)
	invite   func(role, unit string) (url string, expires time.Time, err error)
	office   *desk.Office
}

func (s adminService) RotateSigner(ctx context.Context, req *v1.RotateSignerRequest) (*v1.RotateSignerResponse, error) {
	if s.rotate == nil {
		return nil, errNoLog
	}
	if err := s.rotate(ctx, req.Version, time.Unix(req.From, 0), time.Unix(req.Retire, 0)); err != nil {
		return nil, toAdmin(err)
	}
	return &v1.RotateSignerResponse{}, nil
}

func (s adminService) CloseLog(ctx context.Context, req *v1.CloseLogRequest) (*v1.CloseLogResponse, error) {
	if s.closeLog == nil {
		return nil, errNoLog
	}
	by, err := s.closeLog(ctx, req.Policy, req.Opening)
	if err != nil {
		return nil, toAdmin(err)
	}
	if by.IsZero() {
		return &v1.CloseLogResponse{}, nil
	}
	return &v1.CloseLogResponse{ClosesBy: by.Unix()}, nil
}

func (s adminService) Invite(_ context.Context, req *v1.InviteRequest) (*v1.InviteResponse, error) {
	if s.invite == nil {
		return nil, errNoConsole
	}
	url, expires, err := s.invite(req.Role, req.Unit)
	if err != nil {
		return nil, toAdmin(err)
	}
	return &v1.InviteResponse{Url: url, Expires: expires.Unix()}, nil
}

func (s adminService) NoteBackup(context.Context, *v1.NoteBackupRequest) (*v1.NoteBackupResponse, error) {
	if err := s.office.NoteBackup(desk.Local); err != nil {
		return nil, err
	}
	return &v1.NoteBackupResponse{}, nil
}

func (s adminService) ReadJournal(_ context.Context, _ *v1.ReadJournalRequest, to *connect.ServerStream[v1.ReadJournalResponse]) error {
	w := bufio.NewWriterSize(chunks(func(text []byte) error {
		if to.Send(&v1.ReadJournalResponse{Text: text}) != nil {
			return errGone
		}
		return nil
	}), chunkSize)
	if err := s.office.WriteJournal(w); err != nil {
		return err
	}
	return w.Flush()
}

// chunks is a writer whose every write goes somewhere as one message.
type chunks func([]byte) error

func (send chunks) Write(b []byte) (int, error) {
	if err := send(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// WriteJournal writes the whole journal of the appliance, for desk.VerifyJournal.
func (c LocalClient) WriteJournal(ctx context.Context, w io.Writer) error {
	stream, err := c.ReadJournal(ctx, &v1.ReadJournalRequest{})
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	defer stream.Close()
	for stream.Receive() {
		if _, err := w.Write(stream.Msg().Text); err != nil {
			return fmt.Errorf("keep the journal: %w", err)
		}
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	return nil
}

var errNoLog = &refusal{code: connect.CodeUnimplemented, reason: "malformed", index: -1, text: "this server has no log of its own"}

var errNoConsole = &refusal{code: connect.CodeUnimplemented, reason: "malformed", index: -1, text: "this appliance has no console to invite anybody to: start it with console_listen"}

func toAdmin(err error) error {
	return &refusal{code: connect.CodeInvalidArgument, reason: "malformed", text: err.Error(), index: -1}
}
