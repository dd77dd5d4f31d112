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
// An event that the table cannot take, such as one with a NUL in its address,
// goes to mailtrap_dead_letters with the reason. The others are stored:
//
//	psql -c 'SELECT received, key, reason FROM mailtrap_dead_letters' mailtrap
//	go run ./exactlyonce -redrive        # after you have changed the table
//
// Purge what is old once a day:
//
//	go run ./exactlyonce -purge 2160h    # 90 days
//
// Put any other work that must happen once for an event into the same
// transaction. Work that cannot join it, such as a call of another service,
// needs a queue: start from the program inbox.
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
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

const (
	secretVariable   = serve.SecretVariable
	databaseVariable = "DATABASE_URL"
)

const usage = `Usage: exactlyonce [-listen address] [-drain time]
       exactlyonce -redrive
       exactlyonce -purge age

  -listen address   receive deliveries on this address; the default is :8080
  -drain time       receive for this long after a signal, while /readyz answers
                    503; the default is 5s, and 10s is the most
  -redrive          store the dead letters again, and end
  -purge age        delete keys and events that are older, such as 2160h, and
                    end

` + secretVariable + ` must hold the signing secret, or those of several
webhooks with commas between. ` + databaseVariable + ` must hold the URL of the
database, such as postgres://localhost/mailtrap.
`

// openTimeout is how long the database may take to answer when the program
// starts.
const openTimeout = 30 * time.Second

// minPurge is for how long Mailtrap may send an event again.
const minPurge = 25 * time.Hour

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	opts, err := parseOptions(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err == nil {
		err = do(ctx, opts, getenv, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "exactlyonce: %v\n", err)
		return 1
	}
	return 0
}

type options struct {
	address string
	drain   time.Duration
	open    time.Duration // how long the database may take to answer at first
	redrive bool
	purge   time.Duration
}

func parseOptions(args []string) (opts options, err error) {
	opts.open = openTimeout
	flags := flag.NewFlagSet("exactlyonce", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error in one line
	serve.AddressVar(flags, &opts.address, "listen", ":8080", "")
	serve.DrainVar(flags, &opts.drain)
	flags.BoolVar(&opts.redrive, "redrive", false, "")
	flags.Func("purge", "", func(age string) (err error) {
		if opts.purge, err = time.ParseDuration(age); err == nil && opts.purge < minPurge {
			err = fmt.Errorf("too short, since Mailtrap may send events again for a day: make it %v or more", minPurge)
		}
		return err
	})
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	switch {
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q (-h shows the usage)", flags.Arg(0))
	case opts.redrive && opts.purge != 0:
		return opts, errors.New("-purge and -redrive are two commands: run one at a time")
	}
	return opts, nil
}

func do(ctx context.Context, opts options, getenv func(string) string, stdout, stderr io.Writer) error {
	if getenv(databaseVariable) == "" {
		return fmt.Errorf("no database: set %s to the URL of the database", databaseVariable)
	}
	config, err := poolConfig(getenv(databaseVariable))
	if err != nil {
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer serve.Close(pool.Close)
	if !opts.redrive && opts.purge == 0 {
		return receive(ctx, opts, getenv(secretVariable), pool, stdout, stderr)
	}
	if err := ping(ctx, pool, opts.open); err != nil {
		return err
	}
	err = runCommand(ctx, opts, pool, stdout)
	if hasCode(err, undefinedTable) {
		return fmt.Errorf("the database has no tables yet: check %s, or start the program first, which creates them: %w",
			databaseVariable, err)
	}
	return err
}

func runCommand(ctx context.Context, opts options, pool *pgxpool.Pool, stdout io.Writer) error {
	if opts.redrive {
		stored, left, err := redrive(ctx, pool)
		if err != nil {
			return fmt.Errorf("stored %d dead letters, then failed: %w", stored, err)
		}
		fmt.Fprintf(stdout, "events stored: %d, dead letters left: %d\n", stored, left)
		return nil
	}
	keys, events, err := purge(ctx, pool, time.Now().Add(-opts.purge))
	if err != nil {
		return fmt.Errorf("cannot purge: %w", err)
	}
	fmt.Fprintf(stdout, "keys deleted: %d, events deleted: %d\n", keys, events)
	return nil
}

// ping returns an error unless the database answers in time. Without a limit,
// the program would wait for good for a database that takes connections and says
// nothing.
func ping(ctx context.Context, pool *pgxpool.Pool, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := pool.Ping(ctx); err != nil {
		return fmt.Errorf("cannot open the database: check %s, and that the database runs: %w", databaseVariable, err)
	}
	return nil
}

// The codes of errors that a person can mend.
const (
	undefinedTable        = "42P01"
	insufficientPrivilege = "42501"
)

// hasCode reports whether err is an error of PostgreSQL with this code.
func hasCode(err error, code string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == code
}

func poolConfig(url string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil { // which may have the password
		return nil, fmt.Errorf("%s is not a URL of PostgreSQL: write it as postgres://localhost/mailtrap", databaseVariable)
	}
	// PgBouncer in transaction mode has no prepared statements. This mode does
	// without, and takes no more round trips.
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	return config, nil
}

// receive receives deliveries until ctx ends.
func receive(
	ctx context.Context, opts options, secrets string, pool *pgxpool.Pool, stdout, stderr io.Writer,
) error {
	verifier, err := serve.NewVerifier(secrets)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(stdout, serve.LogOptions()))
	handler := newHandler(verifier, pool, logger)
	if err := handler.Validate(); err != nil {
		return err
	}
	if err := ping(ctx, pool, opts.open); err != nil {
		return err
	}
	err = createTables(ctx, pool) // leave this out if a migration creates the tables
	switch {
	case hasCode(err, insufficientPrivilege):
		return fmt.Errorf("the role may not create the tables: start the program once with a role that may,"+
			" then grant this one SELECT, INSERT, UPDATE and DELETE on them: %w", err)
	case err != nil:
		return fmt.Errorf("cannot create the tables: %w", err)
	}
	listener, err := net.Listen("tcp", opts.address)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "listening on %s\n", listener.Addr())
	server := &serve.Server{
		Webhook: handler,
		Ready:   func(ctx context.Context) error { return ready(ctx, pool) },
		Drain:   opts.drain,
		Logger:  logger,
	}
	return server.Serve(ctx, listener)
}

func newHandler(verifier *mailtrapwebhook.Verifier, pool *pgxpool.Pool, logger *slog.Logger) *mailtrapwebhook.Handler {
	return &mailtrapwebhook.Handler{
		Verifier: verifier,
		OnDelivery: func(ctx context.Context, d *mailtrapwebhook.Delivery) error {
			dead, err := store(ctx, pool, d)
			if dead > 0 && err == nil {
				logger.WarnContext(ctx, "the table refused events: mailtrap_dead_letters has them with the reasons",
					"events", dead)
			}
			return err
		},
		// The table remembers the events. After a crash, a second memory could
		// contradict it.
		Dedup:  mailtrapwebhook.NoDedup,
		Logger: logger,
	}
}
