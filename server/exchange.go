package server

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
	v1 "bluekey/server/api/bluekey/v1"
	"bluekey/signing/permit"
	"bluekey/signing/seal"
)

// phoneService is bluekey.v1.PhoneService. Whatever a sealed request asks for, real or cover,
// done or refused, costs the same work, writes as much, and is answered in as many bytes at
// the same time after it came.
type phoneService struct {
	keys  *PhoneKeys
	store *keystore.Store
	delay time.Duration // when replies leave, after the request's last byte
	now   func() time.Time
}

var errUnknownKey = &refusal{code: connect.CodeFailedPrecondition, reason: "unknown_key", field: "sealed", index: -1,
	text: "the request is sealed to no key of today; fetch the keyring again"}

func (p *phoneService) Exchange(ctx context.Context, req *v1.ExchangeRequest) (*v1.ExchangeResponse, error) {
	v := visiting(ctx)
	sealed, err := p.work(context.WithoutCancel(ctx), req.Sealed)
	v.leave()
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx, v.came); err != nil {
		return nil, err
	}
	return &v1.ExchangeResponse{Sealed: sealed}, nil
}

// work gives the sealed reply. Its errors are said in clear: they are decided before the
// request is opened, or are the server's own. A phone that is gone meanwhile changes nothing.
func (p *phoneService) work(ctx context.Context, request []byte) ([]byte, error) {
	opened, err := p.keys.ring.Open(request, p.now())
	switch {
	case errors.Is(err, seal.ErrLength):
		return nil, malformed("sealed", err.Error())
	case errors.Is(err, seal.ErrKey):
		return nil, errUnknownKey
	case errors.Is(err, seal.ErrSealed):
		return seal.NoReply(), nil
	case err != nil:
		return nil, err
	}
	reply, err := p.answer(ctx, opened.Plain)
	if err != nil {
		return nil, err
	}
	plain, err := reply.Encode()
	if err != nil {
		return nil, err
	}
	return opened.Seal(plain)
}

// wait lets the time of a reply say nothing: it leaves delay after the request came, or, if
// the work took longer, at the next multiple of it.
func (p *phoneService) wait(ctx context.Context, came time.Time) error {
	if p.delay <= 0 {
		return nil
	}
	timer := time.NewTimer(p.delay - time.Since(came)%p.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errGone
	}
}

func (p *phoneService) answer(ctx context.Context, plain []byte) (permit.Reply, error) {
	req, err := permit.DecodeRequest(plain)
	if bad := (*permit.Malformed)(nil); errors.As(err, &bad) {
		return bad.Refusal(), p.cost(p.store.ScratchCode(ctx))
	}
	switch r := req.(type) {
	case *permit.RedeemRequest:
		return p.redeem(ctx, r)
	case *permit.UploadRequest:
		return p.upload(ctx, r)
	}
	return nil, err
}

// cost is the error of storing junk, but for a refusal: what is answered then is decided.
func (p *phoneService) cost(err error) error {
	if r := (*keystore.Refusal)(nil); errors.As(err, &r) {
		return nil
	}
	return err
}

func (p *phoneService) redeem(ctx context.Context, r *permit.RedeemRequest) (permit.Reply, error) {
	today := permit.EpochAt(p.now())
	if permit.CheckElement(r.Blinded) != nil {
		return permit.Refusal{Operation: permit.OpRedeem, Reason: permit.ReasonMalformed}, p.cost(p.store.ScratchCode(ctx))
	}
	var bought keystore.Purchase
	no := &keystore.Refusal{Reason: keystore.Busy} // why not, nil if the code is good
	if !r.Cover && p.keys.sells(today) {
		var err error
		bought, err = p.store.Redeem(ctx, keystore.Redemption{Code: r.Code, Blinded: r.Blinded, Epoch: today})
		no = nil
		if err != nil && !errors.As(err, &no) {
			return nil, err
		}
	}
	if no == nil {
		info := permit.Info{Report: bought.Report, Epoch: bought.Epoch}
		e, err := p.keys.issuer.Evaluate(info, r.Blinded)
		return permit.RedeemReply{Info: info, OnsetDay: bought.OnsetDay, Evaluation: e}, err
	}
	if err := p.cost(p.store.ScratchCode(ctx)); err != nil {
		return nil, err
	}
	info := permit.Info{Report: diagnosis.ConfirmedTest, Epoch: today}
	e, err := p.keys.issuer.EvaluateDecoy(info, r.Blinded)
	if r.Cover || err != nil {
		return permit.RedeemReply{Info: info, Evaluation: e}, err
	}
	return p.refuse(permit.OpRedeem, no), nil
}

func (p *phoneService) upload(ctx context.Context, r *permit.UploadRequest) (permit.Reply, error) {
	today := permit.EpochAt(p.now())
	good := p.keys.issuer.Check(r, today)
	no := &keystore.Refusal{Reason: keystore.BadPermit, Index: -1}
	if good && !r.Cover {
		receipt, err := p.store.Upload(ctx, keystore.Upload{
			Permit: keystore.Permit{
				Spent: r.Permit.Spent(), E: r.Permit.E, Epoch: r.Permit.Epoch, First: permit.FirstUse(r.Permit.Epoch, today),
			},
			Keys: r.Keys,
		})
		if err == nil {
			return permit.UploadReply{PublishBy: receipt.PublishBy.Unix()}, nil
		}
		if !errors.As(err, &no) {
			return nil, err
		}
	}
	if err := p.cost(p.store.Scratch(ctx, r.Keys)); err != nil {
		return nil, err
	}
	if r.Cover {
		return permit.UploadReply{PublishBy: p.now().Unix()}, nil
	}
	return p.refuse(permit.OpUpload, no), nil
}

// reasons gives each refusal of the store the one that the phone is told.
var reasons = map[keystore.Reason]permit.Reason{
	keystore.BadCode: permit.ReasonCode, keystore.SpentCode: permit.ReasonCode, keystore.ExpiredCode: permit.ReasonCode,
	keystore.Paused: permit.ReasonPaused, keystore.BadPermit: permit.ReasonPermit, keystore.Full: permit.ReasonFull,
	keystore.TooOld: permit.ReasonTooOld, keystore.Future: permit.ReasonFuture, keystore.Overlap: permit.ReasonOverlap,
	keystore.Malformed: permit.ReasonMalformed, keystore.Busy: permit.ReasonBusy, keystore.Closed: permit.ReasonClosed,
}

// refuse is the reply to what the store would not do.
func (p *phoneService) refuse(op permit.Operation, no *keystore.Refusal) permit.Reply {
	reply := permit.Refusal{Operation: op, Reason: reasons[no.Reason]}
	switch reply.Reason {
	case permit.ReasonPaused:
		wait := p.store.Desk().Status().PausedUntil.Sub(p.now())
		reply.Retry = min(max(wait.Truncate(time.Minute)+time.Minute, time.Minute), permit.MaxRetry)
	case permit.ReasonBusy:
		reply.Retry = time.Minute
	case permit.ReasonTooOld, permit.ReasonFuture, permit.ReasonOverlap, permit.ReasonMalformed:
		reply.Record = no.Index + 1
	}
	return reply
}
