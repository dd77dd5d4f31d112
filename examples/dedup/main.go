// Dedup receives Mailtrap's webhooks in as many processes as you like, behind one address, that share what they know of
// the events that were handled.
//
// They share it in Redis (or Valkey), in PostgreSQL or, on one machine, in a SQLite file:
//
//	MAILTRAP_SIGNING_SECRET=… go run . -store sqlite:dedup.db
//	MAILTRAP_SIGNING_SECRET=… go run . -store redis://localhost:6379/0 -listen :8080
//	MAILTRAP_SIGNING_SECRET=… go run . -store postgres://localhost/mailtrap -listen :8081
//
// Every event is handled, and is handled once, whichever process gets its delivery and however often it is delivered, as
// long as the store remembers it. It may be handled again if a process dies, or loses the store, after the event was
// handled and before that is marked. Where that must not happen, start from the program exactlyonce.
//
// The packages redisdedup, pgdedup and sqlitededup are one file each, to be imported or copied. deduptest has the tests
// that they pass, for a store of your own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/pgdedup"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/redisdedup"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/sqlitededup"
)

const (
	secretVariable = "MAILTRAP_SIGNING_SECRET"
	storeVariable  = "DEDUP_STORE"
)

const usage = `Usage: dedup -store store [-listen address]

  -store store      redis://…, postgres://… or sqlite:path, which all processes share; may be in
                    ` + storeVariable + ` instead, where a password is not in the list of processes
  -listen address   where to receive deliveries; :8080 unless given

` + secretVariable + ` must hold the webhook's signing secret.
`

// shutdownTimeout is how long a shutdown waits for deliveries under way, which a Handler answers within 29.5 seconds.
const shutdownTimeout = 30 * time.Second

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
	verifier       *mailtrapwebhook.Verifier
}

func parseOptions(args []string, getenv func(string) string) (opts options, err error) {
	flags := flag.NewFlagSet("dedup", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run says what is wrong, in one line
	flags.StringVar(&opts.store, "store", getenv(storeVariable), "")
	flags.StringVar(&opts.address, "listen", ":8080", "")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	if opts.store == "" || flags.NArg() > 0 {
		return opts, errors.New("-store is missing, or there is more than flags (-h shows the usage)")
	}
	// White space around the secret is never part of it, but easily comes along when it is pasted or read from a file.
	opts.verifier, err = mailtrapwebhook.NewVerifier(strings.TrimSpace(getenv(secretVariable)))
	if err != nil {
		return opts, errors.New(secretVariable + " is not set: it must hold the webhook's signing secret")
	}
	return opts, nil
}

// receive receives deliveries until ctx ends.
func receive(ctx context.Context, opts options, stdout, stderr io.Writer) error {
	store, closeStore, err := openStore(ctx, opts.store)
	if err != nil {
		return err
	}
	defer closeStore()
	listener, err := net.Listen("tcp", opts.address)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "listening on %s\n", listener.Addr())
	logger := slog.New(slog.NewTextHandler(stdout, nil))
	return serve(ctx, newHandler(opts.verifier, store, logEvent(logger), logger), listener)
}

// openStore opens the store that a URL names, and sees that it is there.
func openStore(
	ctx context.Context, url string,
) (store mailtrapwebhook.Deduplicator, closeStore func() error, err error) {
	scheme, path, _ := strings.Cut(url, ":")
	switch scheme {
	case "redis", "rediss":
		opts, err := redis.ParseURL(url)
		if err != nil {
			return nil, nil, errors.New("-store is not a URL of Redis such as redis://localhost:6379/0") // err may have the password
		}
		opts.ContextTimeoutEnabled = true
		client := redis.NewClient(opts) // or redis.NewClusterClient
		if err := client.Ping(ctx).Err(); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("redis does not answer: %w", err), client.Close())
		}
		return redisdedup.New(client, 0), client.Close, nil
	case "postgres", "postgresql":
		pool, err := pgxpool.New(ctx, url)
		if err != nil {
			return nil, nil, errors.New("-store is not a URL of PostgreSQL such as postgres://localhost/mailtrap")
		}
		store := pgdedup.New(pool, 0)
		if err := store.CreateTable(ctx); err != nil { // leave it out where a migration creates the table
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
	return nil, nil, errors.New("-store names no store: it is redis://…, postgres://… or sqlite:path")
}

func newHandler(
	verifier *mailtrapwebhook.Verifier, store mailtrapwebhook.Deduplicator,
	onEvent func(context.Context, mailtrapwebhook.Event) error, logger *slog.Logger,
) *mailtrapwebhook.Handler {
	return &mailtrapwebhook.Handler{Verifier: verifier, Dedup: store, OnEvent: onEvent, Logger: logger}
}

// logEvent stands for your own work: put the event into a database or a queue, and return nil only when it is safe there.
// An error makes Mailtrap send the event again. The line shows nothing personal.
func logEvent(logger *slog.Logger) func(context.Context, mailtrapwebhook.Event) error {
	return func(ctx context.Context, ev mailtrapwebhook.Event) error {
		logger.InfoContext(ctx, "event", "event", ev)
		return nil
	}
}

// serve serves until ctx ends, and then lets the deliveries that are under way come to their end.
func serve(ctx context.Context, handler http.Handler, listener net.Listener) error {
	server := &http.Server{
		Handler:           handler, // or a ServeMux; but nothing before it may read the body, which is what was signed
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // Mailtrap waits no longer
		WriteTimeout:      35 * time.Second, // must leave time for the callbacks, which have 25 seconds
		IdleTimeout:       2 * time.Minute,
	}
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
