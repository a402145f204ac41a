package server

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// meters are the measures of the process. They count requests by route, and for the
// phone API nothing finer: what became of a request there is counted only when its window
// is sealed, by the store, so that watching the counters does not time an upload.
type meters struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	inFlight *prometheus.GaugeVec
}

func newMeters(s *Server) *meters {
	m := &meters{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bluekey_requests_total",
			Help: "Requests answered, by route and HTTP status; \"answered\" stands for every status of the phone API, \"shed\" for those refused unread because of load.",
		}, []string{"route", "status"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bluekey_requests_in_flight",
			Help: "Requests being answered, by route.",
		}, []string{"route"}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	counter := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value)
	}
	store := s.cfg.Store
	m.registry.MustRegister(m.requests, m.inFlight,
		gauge("bluekey_connections", "Open connections of the public listener.",
			func() float64 { return float64(s.open.Load()) }),
		counter("bluekey_uploads_total", "Uploads accepted, up to the last sealed window.",
			func() float64 { return float64(store.Metrics().Uploads) }),
		counter("bluekey_codes_redeemed_total", "Codes that bought a permit, up to the last sealed window.",
			func() float64 { return float64(store.Metrics().Codes) }),
		counter("bluekey_keys_total", "Keys accepted, up to the last sealed window.",
			func() float64 { return float64(store.Metrics().Keys) }),
		gauge("bluekey_short_codes_paused", "1 while short codes are paused after too many wrong ones.",
			func() float64 { return oneIf(store.Metrics().ShortCodesPaused) }),
		gauge("bluekey_store_disk_bytes", "Size of the store on disk, rounded up to whole MiB.",
			func() float64 { return wholeMiB(store.Metrics().DiskBytes) }),
		gauge("bluekey_store_log_bytes", "Size of the store's write-ahead log, rounded up to whole MiB.",
			func() float64 { return wholeMiB(store.Metrics().LogBytes) }),
		gauge("bluekey_store_tables", "Tables of the store.",
			func() float64 { return float64(store.Metrics().Tables) }),
		counter("bluekey_store_write_stalls_total", "Times the store held up writing.",
			func() float64 { return float64(store.Metrics().WriteStalls) }),
		gauge("bluekey_ready", "1 while /readyz says so.",
			func() float64 { return oneIf(s.ready() == nil) }),
	)
	if published := s.cfg.Published; published != nil {
		m.registry.MustRegister(
			gauge("bluekey_last_publication_timestamp_seconds", "When the last window was published, in Unix seconds; 0 before the first.",
				func() float64 { at, _ := published(); return unixOrZero(at) }),
			gauge("bluekey_publication_delay_seconds", "How long the oldest key of the last publication had been due.",
				func() float64 { _, delay := published(); return delay.Seconds() }),
		)
	}
	if behind := s.cfg.Behind; behind != nil {
		m.registry.MustRegister(gauge("bluekey_bucket_behind_seconds", "For how long the bucket of --publish-to has lacked something of the public tree.",
			func() float64 { return behind().Seconds() }))
	}
	return m
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// wholeMiB hides the size of single uploads: a collector that keeps every reading would
// otherwise know when each came. The number of codes alive is not measured at all, since
// it falls when one is used.
func wholeMiB(n uint64) float64 { return float64((n + 1<<20 - 1) &^ (1<<20 - 1)) }

func unixOrZero(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}

// ops is the handler of the operations listener.
func (s *Server) ops() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintf(w, "not ready: %v\n", err)
			return
		}
		io.WriteString(w, "ok\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.meters.registry, promhttp.HandlerOpts{}))
	return mux
}
