package server

import (
	"context"
	"time"

	"connectrpc.com/connect"

	v1 "bluekey/server/api/bluekey/v1"
)

// adminService is bluekey.v1.AdminService. Its callers own the data folder, so errors are
// told to them as they are.
type adminService struct {
	rotate   func(ctx context.Context, version string, from, retire time.Time) error
	closeLog func(ctx context.Context, policy, opening []byte) (by time.Time, err error)
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

var errNoLog = &refusal{code: connect.CodeUnimplemented, reason: "malformed", index: -1, text: "this server has no log of its own"}

func toAdmin(err error) error {
	return &refusal{code: connect.CodeInvalidArgument, reason: "malformed", text: err.Error(), index: -1}
}
