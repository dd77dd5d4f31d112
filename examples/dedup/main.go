// Dedup receives Mailtrap's webhooks in any number of processes behind one
// address. The processes share a store of the events that were handled.
//
// The store is Redis (or Valkey), PostgreSQL or, on one machine, a SQLite file:
//
//	MAILTRAP_SIGNING_SECRET=… go run . -store sqlite:dedup.db
//	MAILTRAP_SIGNING_SECRET=… go run . -store redis://localhost:6379/0 -listen :8080
//	MAILTRAP_SIGNING_SECRET=… go run . -store postgres://localhost/mailtrap -listen :8081
//
// Every event is handled once, whichever process gets its delivery, for as long
// as the store remembers the event. A process marks an event within about a
// second of its callback's return. If the process dies or loses the store
// before that, the event is handled again. Start from the program exactlyonce
// if that must not happen.
//
// The modules redisdedup, pgdedup and sqlitededup are one file each, to import
// or to copy. webhooktest.TestDeduplicator tests them, and a store of your own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/pgdedup"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/redisdedup"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/sqlitededup"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

const (
	secretVariable = serve.SecretVariable
	storeVariable  = "DEDUP_STORE"
)

// openTimeout is how long the store may take to answer when the program starts.
// Without it, the program would wait for good for a store that takes connections
// and says nothing.
const openTimeout = 30 * time.Second

const usage = `Usage: dedup -store store [-listen address] [-drain time]

  -store store      the store that all processes share: redis://…, postgres://…
                    or sqlite:path. A Redis Cluster is
                    redis://host?addr=another:6379, and one with sentinels
                    redis://sentinel:26379?master_name=name. Without the flag, the store is that of
                    ` + storeVariable + `, which keeps a password out of the list
                    of processes.
  -listen address   receive deliveries on this address; the default is :8080
  -drain time       receive for this long after a signal, while /readyz answers
                    503; the default is 5s, and 10s is the most

` + secretVariable + ` must hold the signing secret, or those of several
webhooks with commas between.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	opts, err := parseOptions(args, getenv)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err == nil {
		err = receive(ctx, opts, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "dedup: %v\n", err)
		return 1
	}
	return 0
}

type options struct {
	store, address string
	drain          time.Duration
	open           time.Duration // how long the store may take to answer at first
	verifier       *mailtrapwebhook.Verifier
}

func parseOptions(args []string, getenv func(string) string) (opts options, err error) {
	opts.open = openTimeout
	flags := flag.NewFlagSet("dedup", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error in one line
	flags.StringVar(&opts.store, "store", getenv(storeVariable), "")
	serve.AddressVar(flags, &opts.address, "listen", ":8080", "")
	serve.DrainVar(flags, &opts.drain)
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	switch {
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q (-h shows the usage)", flags.Arg(0))
	case opts.store == "":
		return opts, errors.New("-store is missing: name a store (-h shows the usage)")
	}
	opts.verifier, err = serve.NewVerifier(getenv(secretVariable))
	return opts, err
}

// receive receives deliveries until ctx ends.
func receive(ctx context.Context, opts options, stdout, stderr io.Writer) error {
	logger := slog.New(slog.NewTextHandler(stdout, serve.LogOptions()))
	store, closeStore, err := openInTime(ctx, opts, logger)
	if err != nil {
		return err
	}
	defer serve.Close(func() { _ = closeStore() }) // the marks are safe before
	handler := newHandler(opts.verifier, store, logEvent(logger), logger)
	if err := handler.Validate(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", opts.address)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "listening on %s\n", listener.Addr())
	server := &serve.Server{
		Webhook: handler,
		Ready:   func(ctx context.Context) error { return ready(ctx, store) },
		Drain:   opts.drain,
		Logger:  logger,
	}
	return server.Serve(ctx, listener)
}

// openInTime opens the store and gives up after a time.
func openInTime(
	ctx context.Context, opts options, logger *slog.Logger,
) (store mailtrapwebhook.Deduplicator, closeStore func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, opts.open)
	defer cancel()
	store, closeStore, err = openStore(ctx, opts.store, logger)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the store does not answer: check -store or %s, and that the store runs: %w", storeVariable, err)
	}
	return store, closeStore, err
}

// openStore opens the store that a URL names and checks that it works.
func openStore(
	ctx context.Context, storeURL string, logger *slog.Logger,
) (store mailtrapwebhook.Deduplicator, closeStore func() error, err error) {
	scheme, path, _ := strings.Cut(storeURL, ":")
	switch scheme {
	case "redis", "rediss":
		client, err := redisdedup.NewClient(storeURL, 0)
		if err != nil {
			return nil, nil, fmt.Errorf("-store cannot be read: %w", err)
		}
		store := redisdedup.New(client, 0)
		err = store.Check(ctx)
		if errors.Is(err, redisdedup.ErrUnknownPolicy) { // some hosts forbid the look
			logger.WarnContext(ctx, err.Error())
			err = nil
		}
		if err != nil {
			return nil, nil, errors.Join(err, client.Close())
		}
		return store, client.Close, nil
	case "postgres", "postgresql":
		pool, err := pgxpool.New(ctx, storeURL)
		if err != nil {
			return nil, nil, errors.New("-store is not a URL of PostgreSQL: write it as postgres://localhost/mailtrap")
		}
		store := pgdedup.New(pool, 0)
		if err := store.CreateTable(ctx); err != nil { // leave this out if a migration creates the table
			pool.Close()
			return nil, nil, err
		}
		return store, func() error { pool.Close(); return nil }, nil
	case "sqlite":
		store, err := sqlitededup.Open(ctx, path, 0)
		if err != nil {
			return nil, nil, err
		}
		return store, store.Close, nil
	}
	return nil, nil, errors.New("-store names no store: write redis://…, postgres://… or sqlite:path")
}

func newHandler(
	verifier *mailtrapwebhook.Verifier, store mailtrapwebhook.Deduplicator,
	onEvent func(context.Context, mailtrapwebhook.Event) error, logger *slog.Logger,
) *mailtrapwebhook.Handler {
	return &mailtrapwebhook.Handler{Verifier: verifier, Dedup: store, OnEvent: onEvent, Logger: logger}
}

// logEvent stands for your work. Store or enqueue the event, and return nil
// when it is safe. After an error Mailtrap sends the event again.
func logEvent(logger *slog.Logger) func(context.Context, mailtrapwebhook.Event) error {
	return func(ctx context.Context, ev mailtrapwebhook.Event) error {
		logger.InfoContext(ctx, "event", "event", ev) // shows nothing personal
		return nil
	}
}

// ready returns an error unless the store makes the calls of a delivery. A ping
// may succeed where those fail, such as on a replica that is read-only.
func ready(ctx context.Context, store mailtrapwebhook.Deduplicator) error {
	key := []string{"readyz"} // no event's key, because it has no slash
	if _, err := store.Reserve(ctx, key, time.Minute); err != nil {
		return err
	}
	return store.Release(ctx, key)
}
