// Queue receives Mailtrap's webhooks into a durable queue, a stream of NATS
// JetStream. A worker takes the events from there. The stream stores an event
// in a moment, however long its work takes, and keeps it over crashes.
//
// One command runs all of it. It starts a NATS server inside the program, which
// keeps the stream in a directory:
//
//	MAILTRAP_SIGNING_SECRET=… go run . -listen :8080 -dir queue-data
//
// With servers of your own, any number of these programs receive deliveries and
// share the work:
//
//	MAILTRAP_SIGNING_SECRET=… go run . -listen :8080 -nats nats://one:4222,nats://two:4222 -replicas 3
//
// The program promises:
//
//   - A delivery is acknowledged when the stream has stored all of its events.
//     If the stream is full or a server is away, Mailtrap sends the delivery
//     again.
//   - The stream has an event once, however often Mailtrap sends it in 24
//     hours.
//   - The stream hands an event to workers until one has handled it, for a
//     week.
//
// It does not promise:
//
//   - A worker may die after its work and before it says so. The event is then
//     handed out again, with the same id.
//   - Events come in no particular order.
//
// The stream holds people's addresses for a week: guard the directory.
//
// queue.go has the stream and worker.go the worker. Put your work into
// logEvent.
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
	"syscall"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const secretVariable = "MAILTRAP_SIGNING_SECRET"

// shutdownTimeout bounds the wait for deliveries at the end. A Handler answers
// within 29.5 seconds.
const shutdownTimeout = 30 * time.Second

// The exit statuses.
const (
	exitOK = iota
	exitFailure
	exitUsage
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) int {
	opts, err := parseOptions(args, getenv, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "queue: %s (-h shows the usage)\n", err)
		return exitUsage
	}
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	if err := receive(ctx, opts, logger); err != nil {
		fmt.Fprintf(stderr, "queue: %s\n", err)
		return exitFailure
	}
	return exitOK
}

type options struct {
	verifier *mailtrapwebhook.Verifier
	listen   string
	dir      string // of the server inside the program
	nats     string // URLs of other servers; "" for the server inside the program
	replicas int
	maxBytes int64
}

func parseOptions(args []string, getenv func(string) string, stderr io.Writer) (opts options, err error) {
	flags := flag.NewFlagSet("queue", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error in one line
	flags.StringVar(&opts.listen, "listen", ":8080", "receive deliveries on this `address`, at any path")
	flags.StringVar(&opts.dir, "dir", "queue-data", "keep the stream in this `directory`")
	flags.StringVar(&opts.nats, "nats", "", "keep the stream on the servers with these `URLs`, separated by commas")
	flags.IntVar(&opts.replicas, "replicas", 1, "store each event on this `number` of servers")
	flags.Int64Var(&opts.maxBytes, "max-bytes", 10<<30, "refuse deliveries when the stream has this many `bytes`")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stderr)
		fmt.Fprintf(stderr, "Usage of queue; %s must hold the webhook's signing secret:\n", secretVariable)
		flags.PrintDefaults()
		return opts, err
	case err != nil:
		return opts, err
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case opts.replicas > 1 && opts.nats == "":
		return opts, errors.New("-replicas needs a cluster: name its servers with -nats")
	case opts.replicas < 1 || opts.maxBytes < 1:
		return opts, errors.New("-replicas and -max-bytes must be at least 1")
	}
	opts.verifier, err = mailtrapwebhook.NewVerifier(getenv(secretVariable))
	if err != nil {
		return opts, fmt.Errorf("no signing secret: set %s to the webhook's signing secret", secretVariable)
	}
	return opts, nil
}

// receive receives deliveries and handles their events until ctx ends.
func receive(ctx context.Context, opts options, logger *slog.Logger) error {
	// Listen first: early requests then wait until the queue is open.
	listener, err := net.Listen("tcp", opts.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	queue, err := openQueue(ctx, opts, logger)
	if err != nil {
		return err
	}
	defer queue.close()
	consumer, err := queue.consumer(ctx, ackWait)
	if err != nil {
		return err
	}
	worker := &worker{consumer: consumer, handle: logEvent(logger), backoff: backoff, logger: logger}
	handler := &mailtrapwebhook.Handler{
		Verifier:     opts.verifier,
		Dedup:        mailtrapwebhook.NoDedup, // the stream drops events that it has
		OnDelivery:   queue.publish,
		MaxBodyBytes: maxPayload - headerRoom, // so that each event fits into a message
		Logger:       logger,
	}
	if err := handler.Validate(); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- worker.run(ctx) }()
	go func() { ended <- serve(ctx, newServer(handler, logger), listener) }()
	logger.Info("listening", "address", listener.Addr().String())
	err = <-ended
	cancel() // neither is useful without the other
	return errors.Join(err, <-ended)
}

// logEvent returns the work for each event, which here is a line in the log.
// Work may run twice for an event, with the same id. One way to bear that:
// insert the id into a table with a unique index, in the transaction of the
// work.
func logEvent(logger *slog.Logger) handleFunc {
	return func(ctx context.Context, id string, ev mailtrapwebhook.Event) error {
		logger.InfoContext(ctx, "event", "id", id, "event", ev) // shows nothing personal
		return nil
	}
}

// newServer returns a server for handler. Middleware in between must not read
// the body: the signature covers its raw bytes.
func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // Mailtrap waits no longer
		WriteTimeout:      35 * time.Second, // the Handler may take 29.5 seconds
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// serve serves until ctx ends. It then waits for the deliveries that have
// begun.
func serve(ctx context.Context, server *http.Server, listener net.Listener) error {
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
