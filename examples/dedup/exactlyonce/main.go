// Exactlyonce receives Mailtrap's webhooks and stores each event in PostgreSQL exactly once.
//
//	MAILTRAP_SIGNING_SECRET=… DATABASE_URL=postgres://localhost/mailtrap go run ./exactlyonce -listen :8080
//
// Each delivery is one transaction. It inserts the keys of the events, of which a unique index takes each only once, and
// stores those events whose keys were not there. Either both are done or neither, so that no crash of a process, of a
// connection or of the database can lose an event or have it stored twice, in any number of processes. It takes four
// round trips whatever the number of events.
//
// What else is to be done once for an event goes into the same transaction. What cannot, such as a call of another
// service, can be begun from the rows: they are a queue that nothing is put into twice.
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

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	secretVariable   = "MAILTRAP_SIGNING_SECRET"
	databaseVariable = "DATABASE_URL"
)

const usage = `Usage: exactlyonce [-listen address]

  -listen address   where to receive deliveries; :8080 unless given

` + secretVariable + ` must hold the webhook's signing secret, and
` + databaseVariable + ` the URL of the database, such as postgres://localhost/mailtrap.
`

// schema is executed at the start, under a lock, since IF NOT EXISTS does not keep processes from colliding.
//
// An event is stored once as long as its key is remembered. Keys may be deleted when no retry can come any more, after 24
// hours for inbound events and 3 hours and 20 minutes for the others. But a request stays valid until the secret is
// reset, so that whoever captured one could then have its events stored again: rather keep them for months.
const schema = `
SELECT pg_advisory_xact_lock(hashtext('mailtrap_events'));
CREATE TABLE IF NOT EXISTS mailtrap_keys (
	key   text PRIMARY KEY,
	since timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS mailtrap_events (
	id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	received timestamptz NOT NULL,
	kind     text NOT NULL,
	raw      bytea NOT NULL
);`

// shutdownTimeout is how long a shutdown waits for deliveries under way, which a Handler answers within 29.5 seconds.
const shutdownTimeout = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("exactlyonce", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // what is wrong is said below, in one line
	address := flags.String("listen", ":8080", "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err == nil && flags.NArg() > 0:
		err = errors.New("there is more than flags (-h shows the usage)")
	case err == nil:
		err = receive(ctx, *address, getenv, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "exactlyonce: %v\n", err)
		return 1
	}
	return 0
}

// receive receives deliveries until ctx ends.
func receive(ctx context.Context, address string, getenv func(string) string, stdout, stderr io.Writer) error {
	// White space around the secret is never part of it, but easily comes along when it is pasted or read from a file.
	verifier, err := mailtrapwebhook.NewVerifier(strings.TrimSpace(getenv(secretVariable)))
	if err != nil {
		return errors.New(secretVariable + " is not set: it must hold the webhook's signing secret")
	}
	if getenv(databaseVariable) == "" {
		return errors.New(databaseVariable + " is not set: it must hold the URL of the database")
	}
	pool, err := pgxpool.New(ctx, getenv(databaseVariable))
	if err != nil {
		return errors.New(databaseVariable + " is not a URL of PostgreSQL such as postgres://localhost/mailtrap")
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, schema, pgx.QueryExecModeSimpleProtocol); err != nil { // which takes several statements
		return fmt.Errorf("cannot create the tables: %w", err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "listening on %s\n", listener.Addr())
	return serve(ctx, &mailtrapwebhook.Handler{
		Verifier: verifier,
		OnDelivery: func(ctx context.Context, d *mailtrapwebhook.Delivery) error {
			return store(ctx, pool, d)
		},
		// The table is the memory. A crash could set a second one at odds with it.
		Dedup:  mailtrapwebhook.NoDedup,
		Logger: slog.New(slog.NewTextHandler(stdout, nil)),
	}, listener)
}

// store stores the events of a delivery that have not been stored before. After an error it has stored all of them or
// none, as when the connection breaks in COMMIT: the next attempt finds out.
func store(ctx context.Context, pool *pgxpool.Pool, d *mailtrapwebhook.Delivery) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		isNew, err := insertKeys(ctx, tx, d.Keys)
		if err != nil {
			return fmt.Errorf("cannot insert the keys: %w", err)
		}
		var events []mailtrapwebhook.Event
		for i, ev := range d.Events {
			// An event without a key cannot be recognised, and is rather stored twice than not at all. A Handler's events
			// all have one.
			if key := d.Keys[i]; key == "" || isNew[key] {
				events = append(events, ev)
			}
		}
		if err := insertEvents(ctx, tx, d.ReceivedAt, events); err != nil {
			return fmt.Errorf("cannot insert the events: %w", err)
		}
		// What else is to be done once for each of the events goes here.
		return nil
	})
}

// insertKeys inserts the keys and returns those that were not there. Where another transaction has inserted one and is not
// over yet, it waits for it: only then is it known whether the key is there.
func insertKeys(ctx context.Context, tx pgx.Tx, keys []string) (isNew map[string]bool, err error) {
	// In the order of the keys, so that two transactions never wait for each other.
	rows, _ := tx.Query(ctx, `
		INSERT INTO mailtrap_keys (key)
		SELECT key FROM unnest($1::text[]) AS key WHERE key <> '' ORDER BY key
		ON CONFLICT (key) DO NOTHING
		RETURNING key`, keys) // ForEachRow returns its error
	isNew = make(map[string]bool)
	var key string
	_, err = pgx.ForEachRow(rows, []any{&key}, func() error {
		isNew[key] = true
		return nil
	})
	return isNew, err
}

// insertEvents inserts events as they were received. Nothing that an event may hold makes that fail, since it would fail
// again at each retry: raw is bytea and not json, which refuses some of what Mailtrap's JSON may have in it.
func insertEvents(ctx context.Context, tx pgx.Tx, received time.Time, events []mailtrapwebhook.Event) error {
	var kinds []string
	var raws [][]byte
	for _, ev := range events {
		kinds = append(kinds, strings.ReplaceAll(ev.Name(), "\x00", "\ufffd")) // which text cannot have
		raws = append(raws, []byte(rawOf(ev)))
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO mailtrap_events (received, kind, raw)
		SELECT $1, kind, raw FROM unnest($2::text[], $3::bytea[]) AS event (kind, raw)`, received, kinds, raws)
	return err
}

func rawOf(ev mailtrapwebhook.Event) string {
	switch ev := ev.(type) {
	case *mailtrapwebhook.SendingWebhookEvent:
		return ev.Raw
	case *mailtrapwebhook.ActivityLogWebhookEvent:
		return ev.Raw
	case *mailtrapwebhook.InboundWebhookEvent:
		return ev.Raw
	case *mailtrapwebhook.UnknownEvent:
		return ev.Raw
	}
	return ""
}

// serve serves until ctx ends, and then lets the deliveries that are under way come to their end.
func serve(ctx context.Context, handler http.Handler, listener net.Listener) error {
	server := &http.Server{
		Handler:           handler, // or a ServeMux; but nothing before it may read the body, which is what was signed
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // Mailtrap waits no longer
		WriteTimeout:      35 * time.Second, // must leave time for the callback, which has 25 seconds
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
