// Package serve runs the HTTP servers of the programs here. They serve the
// webhook, metrics, and the probes of an orchestrator, and end in time. Copy it
// along with a program.
package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// The end of a server, after ctx has ended:
//
//	 0 s  /readyz answers 503, and deliveries still come in
//	 5 s  DefaultDrain: no new connection is taken
//	35 s  ShutdownTimeout: the last delivery is answered, which takes 29.5 s
//	36 s  ScrapeTimeout: the last scrape is answered, if there are metrics
const (
	DefaultDrain    = 5 * time.Second
	ShutdownTimeout = 30 * time.Second
	ScrapeTimeout   = time.Second
)

// closeTimeout is how long a store may take to close.
const closeTimeout = time.Second / 2

// readyTimeout is how long the store may take to answer a probe.
const readyTimeout = time.Second

// A Server receives deliveries at any path but those of the probes. /healthz
// answers 200 while the process runs. /readyz answers 200 while the store
// answers, and 503 from the moment that the server is told to end. The log says
// why the store does not answer.
type Server struct {
	Webhook http.Handler                    // no middleware may read the body before it
	Ready   func(ctx context.Context) error // asks the store; nil if there is none
	Drain   time.Duration                   // how long deliveries come in after ctx has ended
	Logger  *slog.Logger                    // nil means slog.Default

	leaving atomic.Bool
	mu      sync.Mutex
	asking  *question // nil if nobody asks the store now
	silent  bool      // the store did not answer the last question
}

// A question to the store is one for all probes that come meanwhile: strangers
// may probe too, and must not take the store's connections.
type question struct {
	answered chan struct{}
	err      error // read it after answered is closed
}

// Serve serves until ctx ends. It then takes deliveries for Drain, so that the
// load balancer can turn away, and waits for those that have begun.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server, failed := s.start(listener, s.Webhook)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.leaving.Store(true)
	s.logger().Info("ending: /readyz answers 503", "drain", s.Drain.String())
	select {
	case err := <-failed:
		return err
	case <-time.After(s.Drain):
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ShutdownTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("deliveries were open to the last, and Mailtrap sends them again: %w", err), server.Close())
	}
	return nil
}

// ServePrivate serves a handler of metrics, and the probes, on an address that
// is not public. End ctx after Serve has returned, so that the last delivery is
// counted.
func (s *Server) ServePrivate(ctx context.Context, listener net.Listener, metrics http.Handler) error {
	server, failed := s.start(listener, metrics)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ScrapeTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return server.Close() // the program does not wait for a slow scrape
	}
	return nil
}

// start serves a handler and the probes. It sends what went wrong to failed.
func (s *Server) start(listener net.Listener, handler http.Handler) (server *http.Server, failed <-chan error) {
	mux := http.NewServeMux()
	mux.Handle("/", handler)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", s.ready)
	server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // Mailtrap waits no longer
		WriteTimeout:      35 * time.Second, // callbacks may take 25 seconds
		IdleTimeout:       3 * time.Minute,  // proxies must hang up first, and Caddy keeps connections for 2 minutes
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.logger().Handler(), slog.LevelWarn),
	}
	result := make(chan error, 1)
	go func() { result <- server.Serve(listener) }()
	return server, result
}

func (s *Server) logger() *slog.Logger { return cmp.Or(s.Logger, slog.Default()) }

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if s.leaving.Load() {
		http.Error(w, "the program ends", http.StatusServiceUnavailable)
		return
	}
	if s.Ready != nil {
		q := s.ask()
		<-q.answered
		if q.err != nil {
			// The error may name the store's address, and strangers may ask.
			http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
			return
		}
	}
	w.WriteHeader(http.StatusOK)
}

// ask asks the store, or returns the question that waits for its answer.
func (s *Server) ask() *question {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking == nil {
		q := &question{answered: make(chan struct{})}
		s.asking = q
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
			defer cancel()
			q.err = s.askReady(ctx)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.logChange(q.err)
			s.asking = nil
			close(q.answered)
		}()
	}
	return s.asking
}

// askReady turns a panic into an error. Its goroutine is not one of net/http's,
// so a panic would end the process.
func (s *Server) askReady(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("asking the store panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return s.Ready(ctx)
}

// logChange logs the first answer of the store after others of the other kind.
// Strangers may probe, and must not fill the log.
func (s *Server) logChange(err error) {
	if s.silent == (err != nil) {
		return
	}
	s.silent = err != nil
	if s.silent {
		s.logger().Error("the store does not answer: /readyz answers 503", "err", err)
	} else {
		s.logger().Info("the store answers again: /readyz answers 200")
	}
}

// Close calls closeStore, and returns without it after half a second. A pool
// waits 15 seconds for a database that no longer answers, and the program must
// end in time.
func Close(closeStore func()) {
	closed := make(chan struct{})
	go func() {
		closeStore()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(closeTimeout):
	}
}
