// Queue receives Mailtrap's webhooks into a durable queue, a stream of NATS JetStream, and works the events off from
// there. The stream takes an event in a moment, whatever the work costs, and keeps it over crashes.
//
// One command runs it all, with a NATS server inside the program that keeps the stream in a directory:
//
//	MAILTRAP_SIGNING_SECRET=… go run . -listen :8080 -dir queue-data
//
// With servers of your own, any number of these programs receive, and share the work:
//
//	MAILTRAP_SIGNING_SECRET=… go run . -listen :8080 -nats nats://one:4222,nats://two:4222 -replicas 3
//
// What it promises:
//
//   - A delivery is acknowledged to Mailtrap only when the stream has stored each of its events. If one could not be
//     stored, because the stream is full or a server is away, Mailtrap sends the delivery again.
//   - An event is in the stream once, however often Mailtrap sends it in 24 hours.
//   - An event in the stream is handed to the worker until the worker has handled it, for a week.
//
// What it does not: a worker that dies after its work but before it says so is handed the event again, so that the work
// must bear being repeated; the id of the event tells. And events come in no particular order.
//
// The stream holds what Mailtrap sent for a week, with the addresses of people: guard the directory.
//
// queue.go is the stream, worker.go what takes the events from it. Put your own work into logEvent.
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

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const secretVariable = "MAILTRAP_SIGNING_SECRET"

// shutdownTimeout is how long a shutdown waits for deliveries under way, which a Handler answers within 29.5 seconds.
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
	nats     string // URLs of other servers; "" means the one inside the program
	replicas int
	maxBytes int64
}

func parseOptions(args []string, getenv func(string) string, stderr io.Writer) (opts options, err error) {
	flags := flag.NewFlagSet("queue", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run says what is wrong, in one line
	flags.StringVar(&opts.listen, "listen", ":8080", "receive deliveries on this `address`, at any path")
	flags.StringVar(&opts.dir, "dir", "queue-data", "keep the stream in this `directory`")
	flags.StringVar(&opts.nats, "nats", "", "keep the stream on these servers instead, `URLs` with commas between")
	flags.IntVar(&opts.replicas, "replicas", 1, "keep it on this `number` of the servers")
	flags.Int64Var(&opts.maxBytes, "max-bytes", 10<<30, "the most `bytes` it may take; when it is full, deliveries are refused")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stderr)
		fmt.Fprintf(stderr, "Usage of queue, with the webhook's signing secret in %s:\n", secretVariable)
		flags.PrintDefaults()
		return opts, err
	case err != nil:
		return opts, err
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case opts.replicas > 1 && opts.nats == "":
		return opts, errors.New("-replicas needs the servers of a cluster: name them with -nats")
	case opts.replicas < 1 || opts.maxBytes < 1:
		return opts, errors.New("-replicas and -max-bytes must be at least 1")
	}
	// White space around the secret is never part of it, but easily comes along when it is read from a file.
	opts.verifier, err = mailtrapwebhook.NewVerifier(strings.TrimSpace(getenv(secretVariable)))
	if err != nil {
		return opts, fmt.Errorf("the webhook's signing secret must be in %s, which is not set", secretVariable)
	}
	return opts, nil
}

// receive receives deliveries and works their events off, until ctx ends.
func receive(ctx context.Context, opts options, logger *slog.Logger) error {
	// First of all: a request that comes already waits until the queue is open.
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
		Verifier: opts.verifier,
		// There is no Dedup: the stream drops the events that it has.
		OnDelivery:   queue.publish,
		MaxBodyBytes: maxPayload - headerRoom, // so that each event fits into a message
		Logger:       logger,
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- worker.run(ctx) }()
	go func() { ended <- serve(ctx, newServer(handler, logger), listener) }()
	logger.Info("listening", "address", listener.Addr().String())
	err = <-ended
	cancel() // neither is of use without the other
	return errors.Join(err, <-ended)
}

// logEvent returns the work that is done for each event, which here is a line in the log. It may run twice for an event,
// with the same id, so let what it does bear that: insert the id into a table with a unique index, for example, in the
// transaction that does the work.
func logEvent(logger *slog.Logger) handleFunc {
	return func(ctx context.Context, id string, ev mailtrapwebhook.Event) error {
		logger.InfoContext(ctx, "event", "id", id, "event", ev) // shows kind, time and key, and nothing personal
		return nil
	}
}

// newServer returns a server for handler, in front of which nothing may read the body: the signature is that of its raw
// bytes.
func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // Mailtrap waits no longer
		WriteTimeout:      35 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// serve serves until ctx ends, and then lets the deliveries that are under way come to their end.
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
