// Inbox receives Mailtrap's webhooks, stores each event in PostgreSQL once, and
// works on the events afterwards, with retries.
//
//	MAILTRAP_SIGNING_SECRET=… DATABASE_URL=postgres://localhost/mailtrap go run . -listen :8080
//
// Each delivery is one transaction. It stores the events that are new and
// inserts a job of River (riverqueue.com) for each. Mailtrap gets its answer
// when both are safe, however long the work takes.
//
// The work for an event runs in a transaction that also marks the event as
// worked. Rows that the work writes there are written exactly once, whichever
// process dies. Anything else, such as a call of another service, may happen
// twice: send the event's key along, so that the other side can tell.
//
// Work that fails is repeated, with waits that grow from a second to two hours:
// 10 attempts in about four hours. After that the job is discarded, and waits
// for you:
//
//	go run . -discarded        # lists the jobs with their errors
//	go run . -retry 42         # puts one back
//	go run . -retry all        # puts all of them back
//	go run . -delete 42        # deletes one, or all of them with "all"
//	go run . -purge 2160h      # deletes what was worked 90 days ago or earlier
//
// Any number of these programs may run. Those with -workers 0 receive only.
// River listens for new jobs. Connect to PostgreSQL directly: PgBouncer in
// transaction mode cannot pass that on.
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
	"strconv"
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

const usage = `Usage: inbox [-listen address] [-workers n] [-drain time]
       inbox -discarded
       inbox -retry job
       inbox -delete job
       inbox -purge age

  -listen address   receive deliveries on this address; the default is :8080
  -workers n        work on this many events at a time; the default is 10
  -drain time       receive for this long after a signal, while /readyz answers
                    503; the default is 5s, and 10s is the most
  -discarded        list the jobs that are tried no more, and end
  -retry job        put a discarded job back by its number, or "all", and end
  -delete job       delete a discarded job by its number, or "all", and end
  -purge age        delete worked events that are older, such as 2160h, and end

` + secretVariable + ` must hold the signing secret, or those of several
webhooks with commas between. ` + databaseVariable + ` must hold the URL of the
database, such as postgres://localhost/mailtrap.
`

// openTimeout is how long the database may take to answer when the program
// starts.
const openTimeout = 30 * time.Second

// allJobs is the value of -retry and -delete that means every discarded job.
const allJobs = "all"

// minPurge is for how long Mailtrap may send an event again.
const minPurge = 25 * time.Hour

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	logger := slog.New(slog.NewTextHandler(os.Stdout, serve.LogOptions()))
	os.Exit(run(ctx, os.Args[1:], os.Getenv, logEvent(logger), logger, os.Stdout, os.Stderr))
}

// logEvent stands for your work.
func logEvent(logger *slog.Logger) workFunc {
	return func(ctx context.Context, _ pgx.Tx, _ string, ev mailtrapwebhook.Event) error {
		logger.InfoContext(ctx, "event", "event", ev) // shows nothing personal
		return nil
	}
}

func run(
	ctx context.Context, args []string, getenv func(string) string, work workFunc, logger *slog.Logger, stdout, stderr io.Writer,
) int {
	opts, err := parseOptions(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err == nil {
		err = do(ctx, opts, getenv, work, logger, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "inbox: %v\n", err)
		return 1
	}
	return 0
}

type options struct {
	address string
	workers int
	drain   time.Duration
	open    time.Duration // how long the database may take to answer at first
	stop    time.Duration // how long work may go on after the signal
	command string        // the name of the command's flag, or nothing to receive
	job     string        // of -retry and -delete: a number or allJobs
	purge   time.Duration
}

func parseOptions(args []string) (opts options, err error) {
	opts.open, opts.stop = openTimeout, stopTimeout
	flags := flag.NewFlagSet("inbox", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error in one line
	serve.AddressVar(flags, &opts.address, "listen", ":8080", "")
	flags.IntVar(&opts.workers, "workers", 10, "")
	serve.DrainVar(flags, &opts.drain)
	flags.Bool("discarded", false, "")
	setJob := func(job string) error {
		if _, err := strconv.ParseUint(job, 10, 64); err != nil && job != allJobs {
			return fmt.Errorf("no job: write its number or %s", allJobs)
		}
		opts.job = job
		return nil
	}
	flags.Func("retry", "", setJob)
	flags.Func("delete", "", setJob)
	flags.Func("purge", "", func(age string) (err error) {
		if opts.purge, err = time.ParseDuration(age); err == nil && opts.purge < minPurge {
			err = fmt.Errorf("too short, since Mailtrap may send events again for a day: make it %v or more", minPurge)
		}
		return err
	})
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	flags.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "discarded", "retry", "delete", "purge":
			if opts.command != "" {
				err = fmt.Errorf("-%s and -%s are two commands: run one at a time", opts.command, f.Name)
			}
			opts.command = f.Name
		}
	})
	switch {
	case err != nil:
		return opts, err
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q (-h shows the usage)", flags.Arg(0))
	case opts.workers < 0 || opts.workers > 1000:
		return opts, fmt.Errorf("-workers is %d: make it 0 to 1000", opts.workers)
	}
	return opts, nil
}

func do(
	ctx context.Context, opts options, getenv func(string) string, work workFunc, logger *slog.Logger,
	stdout, stderr io.Writer,
) error {
	if getenv(databaseVariable) == "" {
		return fmt.Errorf("no database: set %s to the URL of the database", databaseVariable)
	}
	config, err := pgxpool.ParseConfig(getenv(databaseVariable))
	if err != nil { // which may have the password
		return fmt.Errorf("%s is not a URL of PostgreSQL: write it as postgres://localhost/mailtrap", databaseVariable)
	}
	// Each worker has one while it works; the others are for deliveries.
	// createTables needs two.
	config.MaxConns = max(config.MaxConns, 2) + int32(opts.workers)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer serve.Close(pool.Close)
	in, err := newInbox(pool, work, opts, logger)
	if err != nil {
		return err
	}
	if opts.command == "" {
		return in.receive(ctx, opts, getenv(secretVariable), stderr)
	}
	if err := in.ping(ctx, opts.open); err != nil {
		return err
	}
	err = in.runCommand(ctx, opts, stdout)
	if hasCode(err, undefinedTable) {
		return fmt.Errorf("the database has no tables yet: check %s, or start the program first, which creates them: %w",
			databaseVariable, err)
	}
	return err
}

func (in *inbox) runCommand(ctx context.Context, opts options, stdout io.Writer) error {
	switch opts.command {
	case "discarded":
		return in.listDiscarded(ctx, stdout)
	case "retry":
		return in.retry(ctx, opts.job, stdout)
	case "delete":
		return in.delete(ctx, opts.job, stdout)
	}
	n, err := in.purge(ctx, time.Now().Add(-opts.purge))
	if err != nil {
		return fmt.Errorf("cannot purge: %w", err)
	}
	fmt.Fprintf(stdout, "events deleted: %d\n", n)
	return nil
}

// ping returns an error unless the database answers in time. Without a limit,
// the program would wait for good for a database that takes connections and says
// nothing.
func (in *inbox) ping(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := in.pool.Ping(ctx); err != nil {
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

// receive receives deliveries and works on events until ctx ends. The workers
// then stop while the server still takes deliveries, which wait for the workers
// of other processes or of the next start:
//
//	 0 s  /readyz answers 503, and no new work begins
//	 5 s  no new connection is taken
//	30 s  stopTimeout: the contexts of the work end
//	35 s  the last delivery is answered, and what still works is left behind
func (in *inbox) receive(ctx context.Context, opts options, secrets string, stderr io.Writer) error {
	verifier, err := serve.NewVerifier(secrets)
	if err != nil {
		return err
	}
	handler := in.newHandler(verifier)
	if err := handler.Validate(); err != nil {
		return err
	}
	if err := in.ping(ctx, opts.open); err != nil {
		return err
	}
	if err := in.checkConnections(ctx, opts.workers); err != nil {
		return err
	}
	err = in.createTables(ctx) // leave this out if a migration creates the tables
	switch {
	case hasCode(err, insufficientPrivilege):
		return fmt.Errorf("the role may not create the tables: start the program once with a role that may,"+
			" then grant this one SELECT, INSERT, UPDATE and DELETE on them, and USAGE on the sequences: %w", err)
	case err != nil:
		return fmt.Errorf("cannot create the tables: %w", err)
	}
	listener, err := net.Listen("tcp", opts.address)
	if err != nil {
		return err
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workersTimeout := make(chan struct{})
	context.AfterFunc(ctx, func() { time.AfterFunc(opts.stop+time.Second, func() { close(workersTimeout) }) })
	if opts.workers > 0 {
		if err := in.river.Start(ctx); err != nil {
			return fmt.Errorf("cannot start the workers: %w", err)
		}
	}
	fmt.Fprintf(stderr, "listening on %s\n", listener.Addr())
	server := &serve.Server{Webhook: handler, Ready: in.ready, Drain: opts.drain, Logger: in.logger}
	err = server.Serve(ctx, listener)
	cancel() // Serve may have failed
	if opts.workers > 0 {
		in.awaitWorkers(workersTimeout)
	}
	return err
}
