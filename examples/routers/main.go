// Routers shows the package in the routers that Go programs already have: net/http's ServeMux, chi, gin, echo, fiber and
// gorilla/mux, each with its usual logging and recovery in front.
//
//	MAILTRAP_SIGNING_SECRET=… go run . -router chi -listen :8080
//
// Each has a file of its own, which is the one to start from, together with verified.go. It shows two ways:
//
//   - At /webhooks/mailtrap is the [mailtrapwebhook.Handler], which most programs want. It bounds time and memory, and
//     with Dedup does not hand out again what was handled, as long as the process lives.
//   - At /verified/mailtrap is a handler of the router's own kind that calls VerifyRequest, for programs that want to
//     answer by themselves. It promises less: no event reaches the callback unverified and none is acknowledged that
//     failed, but what comes again is handed out again, and only the callbacks' heeding their context bounds the time.
//
// All six answer alike, as the test shows. Either way the signature is that of the raw body, so that nothing in front may
// read it first, change it or inflate it; each file says which of its router's middleware would.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	secretVariable = "MAILTRAP_SIGNING_SECRET"

	readTimeout     = 30 * time.Second // Mailtrap waits no longer
	writeTimeout    = 35 * time.Second // must leave time for the callbacks, which have 25 seconds
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 30 * time.Second // a delivery under way is answered within 29.5 seconds
)

// routers are those that are an [http.Handler]. Fiber has a server of its own.
var routers = map[string]func(*mailtrapwebhook.Handler, *mailtrapwebhook.Verifier, callback) http.Handler{
	"nethttp": newServeMux,
	"chi":     newChi,
	"gin":     newGin,
	"echo":    newEcho,
	"gorilla": newGorilla,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "routers: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) error {
	flags := flag.NewFlagSet("routers", flag.ExitOnError)
	router := flags.String("router", "nethttp", "the router to serve with: "+strings.Join(routerNames(), ", "))
	address := flags.String("listen", ":8080", "the address to listen on")
	_ = flags.Parse(args) // which exits where they are wrong
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: put the flags first", flags.Arg(0))
	}
	verifier, err := mailtrapwebhook.NewVerifier(strings.TrimSpace(getenv(secretVariable)))
	if err != nil {
		return fmt.Errorf("no signing secret: set %s to the one in the webhook's settings", secretVariable)
	}
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	onEvent := func(ctx context.Context, ev mailtrapwebhook.Event) error {
		// Store or enqueue the event here, and return nil when it is safe there. Logged, it shows nothing personal.
		logger.InfoContext(ctx, "event received", "event", ev)
		return nil
	}
	srv, err := newServer(*router, newWebhook(verifier, onEvent, logger), verifier, onEvent)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "%s listens on %s, Ctrl-C ends\n", *router, listener.Addr())
	return serve(ctx, srv, listener)
}

func newWebhook(verifier *mailtrapwebhook.Verifier, onEvent callback, logger *slog.Logger) *mailtrapwebhook.Handler {
	return &mailtrapwebhook.Handler{
		Verifier: verifier,
		// This one forgets all when the process ends; several processes need a store that they share.
		Dedup:   new(mailtrapwebhook.MemoryDeduplicator),
		OnEvent: onEvent,
		Logger:  logger,
	}
}

// A server is an [http.Server] or a fiberServer.
type server interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

func newServer(
	router string, webhook *mailtrapwebhook.Handler, verifier *mailtrapwebhook.Verifier, onEvent callback,
) (server, error) {
	if router == "fiber" {
		return fiberServer{newFiber(webhook, verifier, onEvent)}, nil
	}
	build, ok := routers[router]
	if !ok {
		return nil, fmt.Errorf("unknown router %q: choose one of %s", router, strings.Join(routerNames(), ", "))
	}
	return &http.Server{
		Handler:           build(webhook, verifier, onEvent),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
	}, nil
}

func routerNames() []string {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(routers)), "fiber")))
}

// serve serves until ctx ends, and then lets the deliveries that are under way come to their end.
func serve(ctx context.Context, srv server, listener net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return fmt.Errorf("shutting down: %w", err)
	}
	return nil
}
