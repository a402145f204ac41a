package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"sync"

	"connectrpc.com/connect"

	"bluekey/export/exportlog"
	v1 "bluekey/server/api/bluekey/v1"
)

// chunkSize is the length of one message of FetchExport.
const chunkSize = 64 << 10

// exportService is bluekey.v1.ExportService: the public tree as calls.
type exportService struct {
	files   *files
	sending chan struct{} // one taken for each download

	mu   sync.Mutex
	doc  *document // the index that list was read from
	list *v1.ListExportsResponse
}

// listed reads index.json, once for each version of it. A tree without one lists
// nothing.
func (s *exportService) listed() (*v1.ListExportsResponse, error) {
	file, info, err := s.files.open(exportlog.IndexPath)
	if errors.Is(err, fs.ErrNotExist) {
		return &v1.ListExportsResponse{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the index of exports: %w", err)
	}
	defer file.Close()
	doc, err := s.files.documents.get(exportlog.IndexPath, info, file, true)
	if err != nil {
		return nil, fmt.Errorf("reading the index of exports: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doc == doc {
		return s.list, nil
	}
	index, err := exportlog.ParseIndex(doc.variants[0].body)
	if err != nil {
		return nil, fmt.Errorf("reading the index of exports: %w", err)
	}
	list := &v1.ListExportsResponse{Origin: index.Origin, Region: index.Region, Size: index.Size}
	for _, e := range index.Exports {
		list.Exports = append(list.Exports, &v1.Export{Entry: e.Entry, Manifest: e.Manifest})
	}
	s.doc, s.list = doc, list
	return list, nil
}

func (s *exportService) ListExports(context.Context, *v1.ListExportsRequest) (*v1.ListExportsResponse, error) {
	return s.listed()
}

func (s *exportService) GetManifest(_ context.Context, req *v1.GetManifestRequest) (*v1.GetManifestResponse, error) {
	list, err := s.listed()
	if err != nil {
		return nil, err
	}
	i := sort.Search(len(list.Exports), func(i int) bool { return list.Exports[i].Entry >= req.Entry })
	if i == len(list.Exports) || list.Exports[i].Entry != req.Entry {
		return nil, errNotFound
	}
	return &v1.GetManifestResponse{Export: list.Exports[i]}, nil
}

func (s *exportService) FetchExport(ctx context.Context, req *v1.FetchExportRequest, to *connect.ServerStream[v1.FetchExportResponse]) error {
	row, ok := exportlog.Lookup(req.Path)
	if !ok || row.Class != exportlog.ClassExport {
		return malformed("path", "not the path of an export; take it from a manifest")
	}
	file, _, err := s.files.open(req.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return errNotFound
	}
	if err != nil {
		return fmt.Errorf("reading an export: %w", err)
	}
	defer file.Close()
	select {
	case s.sending <- struct{}{}:
		defer func() { <-s.sending }()
	default:
		return errBusy
	}
	visiting(ctx).leave() // who reads slowly keeps out other downloads at most
	chunk := make([]byte, chunkSize)
	for {
		n, err := io.ReadFull(file, chunk)
		if n > 0 {
			if err := to.Send(&v1.FetchExportResponse{Chunk: chunk[:n]}); err != nil {
				return errGone
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading an export: %w", err)
		}
	}
}
