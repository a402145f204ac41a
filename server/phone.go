package server

import (
	"context"
	"errors"

	"bluekey/keystore"
	"bluekey/keystore/diagnosis"
	v1 "bluekey/server/api/bluekey/v1"
)

// maxKeys bounds the keys of one upload before the store looks at them (GAEN's limit,
// the larger of the two schemes).
const maxKeys = 30

// phoneService is bluekey.v1.PhoneService.
type phoneService struct{ store *keystore.Store }

func (s phoneService) Upload(ctx context.Context, req *v1.UploadRequest) (*v1.UploadResponse, error) {
	up, err := readUpload(req)
	if err != nil {
		return nil, err
	}
	receipt, err := s.store.Upload(ctx, up)
	if r := (*keystore.Refusal)(nil); errors.As(err, &r) {
		return nil, fromStore(r)
	}
	if err != nil {
		return nil, err
	}
	return &v1.UploadResponse{PublishBy: receipt.PublishBy.Unix()}, nil
}

// readUpload turns the message into what the store takes. Every key has a valid shape
// afterwards; age, overlap and the code are the store's business. The error is a
// *refusal.
func readUpload(req *v1.UploadRequest) (keystore.Upload, error) {
	if req.Code == "" {
		return keystore.Upload{}, malformed("code", "the code is missing")
	}
	scheme := diagnosis.Scheme(req.Scheme)
	if req.Scheme <= 0 || req.Scheme > v1.Scheme_SCHEME_BLUEZONE || !scheme.Valid() {
		return keystore.Upload{}, malformed("scheme", "unknown scheme; send GAEN or BLUEZONE")
	}
	if n := len(req.Keys); n == 0 || n > maxKeys {
		return keystore.Upload{}, malformed("keys", "an upload has 1 to 30 keys")
	}
	up := keystore.Upload{Code: req.Code, Keys: make([]diagnosis.Key, len(req.Keys))}
	for i, k := range req.Keys {
		key, err := readKey(scheme, k)
		if shape := (*diagnosis.ShapeError)(nil); errors.As(err, &shape) {
			r := malformed(wireField(shape.Field), shape.Problem)
			r.index = i
			return keystore.Upload{}, r
		}
		if err != nil {
			return keystore.Upload{}, err
		}
		up.Keys[i] = key
	}
	return up, nil
}

// readKey checks one key. Report type and onset are the code's to say.
func readKey(scheme diagnosis.Scheme, k *v1.Key) (diagnosis.Key, error) {
	if k.Risk > diagnosis.MaxRisk {
		return diagnosis.Key{}, &diagnosis.ShapeError{Field: "risk", Problem: "more than 8"}
	}
	key, err := diagnosis.New(scheme, k.Secret, diagnosis.Interval(k.Start), int(k.Count))
	if err != nil {
		return diagnosis.Key{}, err
	}
	key.Risk = uint8(k.Risk)
	return key, nil
}

// wireField is the name that the message has for a field of a key.
func wireField(field string) string {
	if field == "key" {
		return "secret"
	}
	return field
}
