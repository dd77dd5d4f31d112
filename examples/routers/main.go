// Routers shows the package in the routers that Go programs already have:
// net/http's ServeMux, chi, gin, echo, fiber and gorilla/mux. Each has its
// usual logging and recovery in front.
//
//	MAILTRAP_SIGNING_SECRET=… go run . -router chi -listen :8080
//
// Start from your router's file and from verified.go. If you take main.go too,
// copy examples/internal/serve along. Each router serves the webhook at two
// paths:
//
//   - /webhooks/mailtrap has the [mailtrapwebhook.Handler], which most programs
//     need. It bounds time and memory. As long as the process lives, it does
//     not handle an event again.
//   - /verified/mailtrap has a handler of the router's own kind that calls
//     VerifyRequest, for programs that answer by themselves. It promises less.
//     No unverified event reaches the callback, and no failed event is
//     acknowledged. But a repeated event is handed out again, and a callback
//     that ignores its context holds up the answer.
//
// All six routers answer alike, as the test shows. The signature covers the raw
// body: no middleware may read, change or inflate it before. Each file names
// the router's middleware that does.
//
// Each webhook has a secret of its own: put commas between several.
//
// /healthz answers 200 while the program runs, and /readyz while it takes
// deliveries. At SIGTERM /readyz answers 503 first. The program takes
// deliveries for 5 more seconds (-drain), answers those that have begun, and
// ends within 35 seconds. A second SIGTERM ends it at once.
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
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

const (
	readTimeout     = 30 * time.Second // Mailtrap waits no longer
	writeTimeout    = 35 * time.Second // callbacks may take 25 seconds
	idleTimeout     = 3 * time.Minute  // proxies must hang up first, and Caddy keeps connections for 2 minutes
	shutdownTimeout = 30 * time.Second // a Handler answers within 29.5 seconds
)

// A site is what each router serves.
type site struct {
	webhook  *mailtrapwebhook.Handler
	verifier *mailtrapwebhook.Verifier // for handlers of your own, with onEvent
	onEvent  callback
	health   *health
}

// routers are the routers that are an [http.Handler]. Fiber has its own server.
var routers = map[string]func(*site) http.Handler{
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
	router := flags.String("router", "nethttp", "serve with this `router`: "+strings.Join(routerNames(), ", "))
	var address string
	var drain time.Duration
	serve.AddressVar(flags, &address, "listen", ":8080", "receive deliveries on this `address`")
	serve.DrainVar(flags, &drain)
	_ = flags.Parse(args) // ExitOnError: Parse returns no error
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: put the flags first", flags.Arg(0))
	}
	verifier, err := serve.NewVerifier(getenv(serve.SecretVariable))
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(stderr, serve.LogOptions()))
	onEvent := func(ctx context.Context, ev mailtrapwebhook.Event) error {
		// In your program, store or enqueue the event. Return nil when it is
		// safe.
		logger.InfoContext(ctx, "event received", "event", ev) // shows nothing personal
		return nil
	}
	site := newSite(verifier, onEvent, logger)
	if err := site.webhook.Validate(); err != nil {
		return err
	}
	srv, err := newServer(*router, site)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "%s listens on http://%s%s, Ctrl-C ends\n", *router, listener.Addr(), webhookPath)
	return serveUntil(ctx, srv, listener, site.health, drain, shutdownTimeout)
}

// newSite returns a site whose Handler remembers in memory which events it has
// handled. Set Dedup to a shared store where several processes receive the same
// webhook.
func newSite(verifier *mailtrapwebhook.Verifier, onEvent callback, logger *slog.Logger) *site {
	webhook := &mailtrapwebhook.Handler{Verifier: verifier, OnEvent: onEvent, Logger: logger}
	return &site{webhook, verifier, onEvent, new(health)}
}

// A server is an [http.Server] or a fiberServer.
type server interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

func newServer(router string, site *site) (server, error) {
	if router == "fiber" {
		return fiberServer{newFiber(site)}, nil
	}
	build, ok := routers[router]
	if !ok {
		return nil, fmt.Errorf("unknown router %q: choose one of %s", router, strings.Join(routerNames(), ", "))
	}
	return &http.Server{
		Handler:           build(site),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
	}, nil
}

func routerNames() []string {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(routers)), "fiber")))
}

// serveUntil serves until ctx ends, and for as long as drain after that: load
// balancers go on sending until they have asked whether the program is ready.
// It then waits for the deliveries that have begun, but no longer than wait.
func serveUntil(
	ctx context.Context, srv server, listener net.Listener, health *health, drain, wait time.Duration,
) error {
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	health.leaving.Store(true)
	select {
	case err := <-failed:
		return err
	case <-time.After(drain):
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		slog.Warn("connections were open to the last: Mailtrap sends again what was not answered", "err", err)
	}
	return nil
}
