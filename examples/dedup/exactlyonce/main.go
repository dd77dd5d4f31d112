// Exactlyonce receives Mailtrap's webhooks and stores each event in PostgreSQL
// exactly once.
//
//	MAILTRAP_SIGNING_SECRET=… DATABASE_URL=postgres://localhost/mailtrap go run ./exactlyonce -listen :8080
//
// Each delivery is one transaction. It inserts the keys of the events under a
// unique index, and stores the events whose keys were new. The database does
// both or neither. No crash of a process, a connection or the database can lose
// an event or store it twice, in any number of processes. A delivery takes four
// round trips, whatever the number of events.
//
// Put any other work that must happen once for an event into the same
// transaction. Work that cannot join it, such as a call of another service, can
// start from the rows: they are a queue without duplicates.
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

  -listen address   receive deliveries on this address; the default is :8080

` + secretVariable + ` must hold the webhook's signing secret, and
` + databaseVariable + ` the URL of the database, such as postgres://localhost/mailtrap.
`

// schema makes the tables when the program starts. The lock keeps processes
// from colliding, which IF NOT EXISTS does not.
//
// An event is stored once for as long as its key is in the table. You may
// delete keys when no retry can come: after 24 hours for inbound events, and
// after 3 hours and 20 minutes for the others. But a captured request stays
// valid until the secret is reset, so keep the keys for months.
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

// shutdownTimeout bounds the wait for deliveries at the end. A Handler answers
// within 29.5 seconds.
const shutdownTimeout = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("exactlyonce", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error is printed below, in one line
	address := flags.String("listen", ":8080", "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q (-h shows the usage)", flags.Arg(0))
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
	verifier, err := mailtrapwebhook.NewVerifier(getenv(secretVariable))
	if err != nil {
		return fmt.Errorf("no signing secret: set %s to the webhook's signing secret", secretVariable)
	}
	if getenv(databaseVariable) == "" {
		return fmt.Errorf("no database: set %s to the URL of the database", databaseVariable)
	}
	pool, err := pgxpool.New(ctx, getenv(databaseVariable))
	if err != nil {
		return fmt.Errorf("%s is not a URL of PostgreSQL: write it as postgres://localhost/mailtrap", databaseVariable)
	}
	defer pool.Close()
	handler := newHandler(verifier, pool, slog.New(slog.NewTextHandler(stdout, nil)))
	if err := handler.Validate(); err != nil {
		return err
	}
	// Only the simple protocol takes several statements.
	if _, err := pool.Exec(ctx, schema, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("cannot create the tables: %w", err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "listening on %s\n", listener.Addr())
	return serve(ctx, handler, listener)
}

func newHandler(verifier *mailtrapwebhook.Verifier, pool *pgxpool.Pool, logger *slog.Logger) *mailtrapwebhook.Handler {
	return &mailtrapwebhook.Handler{
		Verifier: verifier,
		OnDelivery: func(ctx context.Context, d *mailtrapwebhook.Delivery) error {
			return store(ctx, pool, d)
		},
		// The table remembers the events. After a crash, a second memory could
		// contradict it.
		Dedup:  mailtrapwebhook.NoDedup,
		Logger: logger,
	}
}

// store stores the events of a delivery that were not stored before. After an
// error it has stored all of them or none. If the connection breaks during
// COMMIT, the retry finds out which.
func store(ctx context.Context, pool *pgxpool.Pool, d *mailtrapwebhook.Delivery) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		isNew, err := insertKeys(ctx, tx, d.Keys)
		if err != nil {
			return fmt.Errorf("cannot insert the keys: %w", err)
		}
		var events []mailtrapwebhook.Event
		for i, ev := range d.Events {
			// Nothing tells an event without a key: store it twice rather than
			// never.
			if key := d.Keys[i]; key == "" || isNew[key] {
				events = append(events, ev)
			}
		}
		if err := insertEvents(ctx, tx, d.ReceivedAt, events); err != nil {
			return fmt.Errorf("cannot insert the events: %w", err)
		}
		// Put any other work that must happen once for an event here.
		return nil
	})
}

// insertKeys inserts the keys and reports which were new. If an open
// transaction has inserted one of them, insertKeys waits until that one ends.
func insertKeys(ctx context.Context, tx pgx.Tx, keys []string) (isNew map[string]bool, err error) {
	// ORDER BY, so that two transactions never wait for each other.
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

// insertEvents inserts the text of events as received. It must not fail for any
// text, or each retry would fail too. The column raw is therefore bytea: json
// refuses some texts that are valid JSON.
func insertEvents(ctx context.Context, tx pgx.Tx, received time.Time, events []mailtrapwebhook.Event) error {
	var kinds []string
	var raws [][]byte
	for _, ev := range events {
		kinds = append(kinds, strings.ReplaceAll(ev.Name(), "\x00", "\ufffd")) // text cannot hold a NUL
		raws = append(raws, []byte(ev.RawJSON()))
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO mailtrap_events (received, kind, raw)
		SELECT $1, kind, raw FROM unnest($2::text[], $3::bytea[]) AS event (kind, raw)`, received, kinds, raws)
	return err
}

// serve serves until ctx ends. It then waits for the deliveries that have
// begun.
func serve(ctx context.Context, handler http.Handler, listener net.Listener) error {
	server := &http.Server{
		Handler:           handler, // or a ServeMux with it; no middleware may read the body before
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // Mailtrap waits no longer
		WriteTimeout:      35 * time.Second, // the callback may take 25 seconds
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
