package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// shutdownTimeout bounds the wait for deliveries at the end. A Handler answers
// within 29.5 seconds.
const shutdownTimeout = 30 * time.Second

func newHandler(
	verifier *mailtrapwebhook.Verifier, list *mailtrapwebhook.IPAllowlist, logger *slog.Logger,
) *mailtrapwebhook.Handler {
	return &mailtrapwebhook.Handler{
		Verifier: verifier,
		Guards:   []mailtrapwebhook.Guard{list.Guard()},
		// In your program, store or enqueue the event, and return nil when it is
		// safe. After an error Mailtrap sends the event again.
		OnEvent: func(ctx context.Context, ev mailtrapwebhook.Event) error {
			logger.InfoContext(ctx, "event", "event", ev) // shows nothing personal
			return nil
		},
		Logger: logger,
	}
}

// receive receives deliveries until ctx ends.
func receive(ctx context.Context, opts options, handler *mailtrapwebhook.Handler, logger *slog.Logger) error {
	if err := handler.Validate(); err != nil {
		return err
	}
	listener, err := listen(opts.listen)
	if err != nil {
		return err
	}
	var leaving atomic.Bool
	drained, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		leaving.Store(true)
		logger.Info("ending: /readyz answers 503", "drain", opts.drain.String())
		time.AfterFunc(opts.drain, stop)
	})()
	logger.Info("listening", "address", listener.Addr().String())
	return serve(drained, newServer(newMux(handler, &leaving), logger), listener)
}

// listen listens on an address, or on a Unix socket that is named unix:/path.
func listen(address string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix {
		return net.Listen("tcp", address)
	}
	// A program that was killed leaves its socket behind. Remove nothing else.
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// To connect, the proxy needs the right to write.
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

func newMux(webhook http.Handler, leaving *atomic.Bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/webhooks/mailtrap", addressed(webhook))
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if leaving.Load() {
			http.Error(w, "the program ends", http.StatusServiceUnavailable)
		}
	})
	return mux
}

// addressed gives the clients of a Unix socket an address, which IPAllowlist
// needs. Only the proxy can connect there, so its address must be trusted.
func addressed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr); local != nil {
			r.RemoteAddr = "127.0.0.1"
		}
		next.ServeHTTP(w, r)
	})
}

func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // Mailtrap waits no longer
		WriteTimeout:      35 * time.Second, // callbacks may take 25 seconds
		IdleTimeout:       3 * time.Minute,  // or Caddy would send on a connection that ends: it keeps them for 2
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// serve serves until ctx ends. It then waits for the deliveries that have
// begun.
func serve(ctx context.Context, server *http.Server, listener net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("shutting down: %w", err), server.Close())
	}
	return nil
}
