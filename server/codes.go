package server

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"bluekey/keystore"
	"bluekey/keystore/desk"
	"bluekey/keystore/diagnosis"
	v1 "bluekey/server/api/bluekey/v1"
)

// codeService is bluekey.v1.CodeService. Its callers own the data folder, so what the
// desk refuses is told in its own words.
type codeService struct {
	store   *keystore.Store
	office  *desk.Office // writes the journal
	officer string       // in whose name codes are issued
}

func (s codeService) Issue(ctx context.Context, req *v1.IssueRequest) (*v1.IssueResponse, error) {
	report := diagnosis.ReportType(req.Report)
	if req.Report < 0 || req.Report > v1.ReportType_REPORT_TYPE_SELF_REPORT || !report.Issuable() {
		return nil, malformed("report", "unknown report type; choose confirmed test, clinical or self-report")
	}
	if _, retired := s.store.Retired(); retired {
		return nil, errClosed // nobody could use it
	}
	if req.Door {
		if req.Long || req.Count > 1 {
			return nil, malformed("door", "door codes are issued one at a time, and are not long")
		}
		code, err := s.office.IssueDoor(ctx, s.officer, report, req.OnsetDay)
		if err != nil {
			return nil, atDesk(err)
		}
		return &v1.IssueResponse{Codes: []string{code}}, nil
	}
	codes, err := s.office.Issue(ctx, desk.Request{
		Officer:  s.officer,
		Report:   report,
		OnsetDay: req.OnsetDay,
		Count:    int(max(req.Count, 1)),
		Long:     req.Long,
	})
	if err != nil {
		return nil, atDesk(err)
	}
	return &v1.IssueResponse{Codes: codes}, nil
}

func (s codeService) Revoke(ctx context.Context, req *v1.RevokeRequest) (*v1.RevokeResponse, error) {
	revoke := s.office.Revoke
	if _, err := desk.ParseDoor(req.Code); err == nil {
		revoke = s.office.RevokeDoor
	}
	revoked, err := revoke(ctx, s.officer, req.Code)
	if err != nil {
		return nil, atDesk(err)
	}
	return &v1.RevokeResponse{Revoked: revoked}, nil
}

// atDesk passes on what the desk says to people; anything else is the disk's.
func atDesk(err error) error {
	r := &refusal{text: err.Error(), index: -1}
	switch {
	case errors.Is(err, desk.ErrRequest), errors.Is(err, desk.ErrForm):
		r.code, r.reason = connect.CodeInvalidArgument, "malformed"
	case errors.Is(err, desk.ErrOfficerCap), errors.Is(err, desk.ErrShortFull), errors.Is(err, desk.ErrDoorFull):
		r.code, r.reason, r.retry = connect.CodeResourceExhausted, "limit", true
	default:
		return err
	}
	return r
}
