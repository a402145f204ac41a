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
	rotate func(ctx context.Context, version string, from, retire time.Time) error
}

func (s adminService) RotateSigner(ctx context.Context, req *v1.RotateSignerRequest) (*v1.RotateSignerResponse, error) {
	if s.rotate == nil {
		return nil, connect.NewError(connect.CodeUnimplemented, nil)
	}
	if err := s.rotate(ctx, req.Version, time.Unix(req.From, 0), time.Unix(req.Retire, 0)); err != nil {
		return nil, &refusal{code: connect.CodeInvalidArgument, reason: "malformed", text: err.Error(), index: -1}
	}
	return &v1.RotateSignerResponse{}, nil
}
