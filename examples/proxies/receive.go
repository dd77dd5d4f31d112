package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"

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
