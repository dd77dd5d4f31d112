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
	"syscall"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

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
	logger.Info("listening", "address", listener.Addr().String())
	server := &serve.Server{Webhook: newMux(handler), Drain: opts.drain, Logger: logger}
	return server.Serve(ctx, listener)
}

// listen listens on an address, or on a Unix socket that is named unix:/path.
func listen(address string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix {
		return net.Listen("tcp", address)
	}
	if path == "" {
		return nil, errors.New("-listen names no socket: write it as unix:/run/mailtrap/webhook.sock")
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	listener, err := listenUnix(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot listen on %s: %w", path, err), unlock(lock))
	}
	return &lockedListener{listener, lock}, nil
}

// listenUnix listens on a path that lockSocket has locked.
func listenUnix(path string) (net.Listener, error) {
	if err := removeDeadSocket(path); err != nil {
		return nil, err
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

// removeDeadSocket removes the socket that a killed program has left behind. It
// removes nothing else.
func removeDeadSocket(path string) error {
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != fs.ModeSocket {
		return nil // net.Listen refuses what is there
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		return errors.Join(errInUse, conn.Close()) // it does not lock the path
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err // a live program may be too busy to answer
	}
	return os.Remove(path)
}

func newMux(webhook http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/webhooks/mailtrap", addressed(webhook))
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
