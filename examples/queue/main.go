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
// An event that fails is tried 30 times in three and a half hours. Then it is a
// dead letter, and at once after a Permanent error. A dead letter stays until you
// decide what becomes of it; without -nats, end the program first:
//
//	go run . -dead                # lists the dead letters with their errors
//	go run . -redrive             # puts all back, after you have removed the cause
//	go run . -redrive -letter 42  # puts one back
//	go run . -discard -letter 42  # deletes one
//
// The program promises:
//
//   - A delivery is acknowledged when the stream has stored all of its events.
//     If the stream is full or a server is away, Mailtrap sends the delivery
//     again.
//   - The stream has an event once, however often Mailtrap sends it in 24
//     hours.
//   - No event leaves before it is handled or a dead letter. No dead letter
//     leaves by itself. Without room for its letter an event stays where it
//     is, and the log and an alert say so.
//   - An event that fails, or whose work hangs, costs the others one attempt.
//     Its retries have workers of their own.
//   - After TERM the program ends within 23 seconds, whatever hangs.
//
// It does not promise:
//
//   - A worker may die after its work and before it says so. The event is then
//     handed out again, with the same id.
//   - Events come in no particular order.
//
// The streams hold people's addresses: those of a dead letter until you decide,
// and others for a day after their event is handled. Guard the directory.
//
// Both addresses have /healthz and /readyz for probes. That of -metrics also has
// /metrics for Prometheus. prometheus/ has the alerts of the streams and the
// work. Those of examples/observability watch the requests: load them too.
//
// queue.go has the stream, worker.go the worker, retries.go and deadletters.go
// what becomes of events that fail, requests.go the metrics of the requests. Put
// your work into logEvent.
package main

import (
	"cmp"
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

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

// The life of the program after TERM.
//
//	 0 s  /readyz says no; the program still receives
//	 3    -unready: it accepts no delivery and begins no event any more  [10]
//	13    the worker has ended its events: handleTimeout
//	18    the last delivery is answered: deliveryTimeout
//	23    shutdownTimeout: what still runs is given up                   [30]
const (
	defaultUnready  = 3 * time.Second
	maxUnready      = 10 * time.Second
	deliveryTimeout = 15 * time.Second
	shutdownTimeout = 20 * time.Second
)

// The exit statuses.
const (
	exitOK = iota
	exitFailure
	exitUsage
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	opts, err := parseOptions(args, getenv, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "queue: %s (-h shows the usage)\n", err)
		return exitUsage
	}
	logger := slog.New(slog.NewTextHandler(stderr, serve.LogOptions()))
	if opts.decides() {
		err = decide(ctx, opts, stdout, logger)
	} else {
		err = receive(ctx, opts, logger)
	}
	if err != nil {
		fmt.Fprintf(stderr, "queue: %s\n", err)
		return exitFailure
	}
	return exitOK
}

// receive receives deliveries and handles their events until ctx ends.
func receive(ctx context.Context, opts options, logger *slog.Logger) error {
	// Listen first: early requests then wait until the queue is open.
	public, err := net.Listen("tcp", opts.listen)
	if err != nil {
		return err
	}
	defer public.Close()
	private, err := net.Listen("tcp", opts.metrics)
	if err != nil {
		return err
	}
	defer private.Close()
	queue, err := openQueue(ctx, opts, logger)
	if err != nil {
		return err
	}
	defer queue.close()
	consumer, err := queue.consumer(ctx, queue.stream, ackWait)
	if err != nil {
		return err
	}
	retries, err := queue.consumer(ctx, queue.retry, ackWait)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), &collector{queue, consumer, logger})
	handler := newHandler(opts.verifier, queue, logger)
	handler.Observe = newRequestMetrics(registry).observe
	if err := handler.Validate(); err != nil {
		return err
	}
	worker := &worker{
		queue: queue, consumer: consumer, handle: logEvent(logger), parallel: opts.workers, attempts: opts.attempts,
		timeout: handleTimeout, backoff: backoff, metrics: newMetrics(registry), logger: logger,
	}
	scrapes := http.NewServeMux()
	scrapes.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &serve.Server{
		Webhook: handler,
		Ready: func(ctx context.Context) error {
			_, err := consumer.Info(ctx)
			return err
		},
		Drain:  opts.unready,
		Logger: logger,
	}

	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx)) // until the work has ended
	defer stopWatching()
	go func() {
		if err := server.ServePrivate(watching, private, scrapes); err != nil {
			logger.Error("the metrics are no longer served", "error", err)
		}
	}()
	logger.Info("listening", "address", public.Addr().String(), "metrics", private.Addr().String())
	receiving, stopReceiving := context.WithCancel(ctx)
	defer stopReceiving()
	return runAll(ctx, opts.unready,
		worker.run,
		worker.retrier(retries).run,
		func(ctx context.Context) error {
			context.AfterFunc(ctx, stopReceiving) // when another part has failed
			return server.Serve(receiving, public)
		},
		func(ctx context.Context) error { return queue.keepSwept(ctx, consumer) },
	)
}

// runAll runs the parts of the program until ctx or one of them ends. Then it
// ends all of them, because none is useful without the others. When ctx has
// ended, it lets them go on for the time unready.
func runAll(ctx context.Context, unready time.Duration, parts ...func(context.Context) error) (err error) {
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, len(parts))
	for _, part := range parts {
		go func() { ended <- part(working) }()
	}
	running := len(parts)
	select {
	case err = <-ended:
		running--
	case <-ctx.Done():
		time.Sleep(unready)
	}
	stop()
	timeout := time.After(shutdownTimeout)
	for ; running > 0; running-- {
		select {
		case partErr := <-ended:
			err = errors.Join(err, partErr)
		case <-timeout:
			return errors.Join(err, fmt.Errorf("not all work ended within %s: its events come again", shutdownTimeout))
		}
	}
	return err
}

// decide does with the dead letters what the flags say. It changes no stream's
// settings: -replicas and -max-bytes may be another program's.
func decide(ctx context.Context, opts options, stdout io.Writer, logger *slog.Logger) error {
	queue, err := connectQueue(opts, logger)
	if err != nil {
		return err
	}
	defer queue.close()
	if queue.dead, err = queue.js.Stream(ctx, deadName); err != nil {
		return fmt.Errorf("cannot open the stream %s: %w (are -dir and -nats those of the program that receives?)", deadName, err)
	}
	switch {
	case opts.redrive:
		n, err := queue.redrive(ctx, cmp.Or(opts.letter, selection{all: true}))
		logger.Info("dead letters are back in the stream", "events", n)
		return err
	case opts.discard:
		n, err := queue.discard(ctx, opts.letter)
		logger.Info("dead letters are deleted", "events", n)
		return err
	}
	return queue.list(ctx, stdout)
}

func newHandler(verifier *mailtrapwebhook.Verifier, q *queue, logger *slog.Logger) *mailtrapwebhook.Handler {
	return &mailtrapwebhook.Handler{
		Verifier:     verifier,
		Dedup:        mailtrapwebhook.NoDedup, // the stream drops events that it has
		OnDelivery:   q.publish,
		Timeout:      deliveryTimeout,
		MaxBodyBytes: maxPayload - maxHeaderBytes, // so that each event fits into a message
		Logger:       logger,
	}
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
