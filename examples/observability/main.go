// Observability receives Mailtrap's webhooks and can be watched while it does: metrics for Prometheus, traces for
// OpenTelemetry, and log lines that name the trace they belong to.
//
//	MAILTRAP_SIGNING_SECRET=… go run . -listen :8080 -metrics 127.0.0.1:9464
//
// Deliveries are taken at /webhooks/mailtrap, and the metrics are at /metrics of the other address, which is not for the
// public. With -traces stdout the spans are printed. With -traces otlp they go to a collector, http://localhost:4318 or
// the one in OTEL_EXPORTER_OTLP_ENDPOINT; the other OTEL_ variables, such as OTEL_TRACES_SAMPLER, hold as well.
//
// prometheus/ has the alert rules, with what to do in each, and the settings to load them; grafana/dashboard.json is the
// dashboard, to be imported.
//
// What it promises:
//
//   - Each request is counted once, by the status of its answer, and each event of a delivery by what became of it.
//   - Labels have a bounded number of values, whatever is sent, so that nobody can fill Prometheus from outside.
//   - No metric, span or log line holds anything personal, nor the text of a body. The exception is what the errors of your
//     callback say, which the log repeats, and the spans do not.
//   - A collector that is away costs spans and no delivery.
//
// What it does not: counters and spans that were not fetched or sent yet are gone if the process dies.
//
// metrics.go and tracing.go are the parts to take over. Put your own work into logEvent.
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

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	secretVariable = "MAILTRAP_SIGNING_SECRET"
	webhookPath    = "/webhooks/mailtrap"

	// shutdownTimeout is how long a shutdown waits for deliveries under way, which a Handler answers within 29.5 seconds.
	shutdownTimeout = 30 * time.Second
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
		fmt.Fprintf(stderr, "observability: %s (-h shows the usage)\n", err)
		return exitUsage
	}
	logger := newLogger(stderr)
	if err := receive(ctx, opts, logEvent(logger), stdout, logger); err != nil {
		fmt.Fprintf(stderr, "observability: %s\n", err)
		return exitFailure
	}
	return exitOK
}

type options struct {
	verifier *mailtrapwebhook.Verifier
	listen   string
	metrics  string
	traces   string
}

func parseOptions(args []string, getenv func(string) string, stderr io.Writer) (opts options, err error) {
	flags := flag.NewFlagSet("observability", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run says what is wrong, in one line
	flags.StringVar(&opts.listen, "listen", ":8080", "receive deliveries on this `address`, at "+webhookPath)
	flags.StringVar(&opts.metrics, "metrics", "127.0.0.1:9464", "serve /metrics on this `address`, which is not for the public")
	flags.StringVar(&opts.traces, "traces", tracesNone, "send spans `to` "+tracesNone+", "+tracesStdout+" or "+tracesOTLP)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stderr)
		fmt.Fprintf(stderr, "Usage of observability, with the webhook's signing secret in %s:\n", secretVariable)
		flags.PrintDefaults()
		return opts, err
	case err != nil:
		return opts, err
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case opts.traces != tracesNone && opts.traces != tracesStdout && opts.traces != tracesOTLP:
		return opts, fmt.Errorf("-traces is %q: make it %s, %s or %s", opts.traces, tracesNone, tracesStdout, tracesOTLP)
	}
	// White space around the secret is never part of it, but easily comes along when it is read from a file.
	opts.verifier, err = mailtrapwebhook.NewVerifier(strings.TrimSpace(getenv(secretVariable)))
	if err != nil {
		return opts, fmt.Errorf("the webhook's signing secret must be in %s, which is not set", secretVariable)
	}
	return opts, nil
}

// receive receives deliveries and lets them be watched, until ctx ends.
func receive(ctx context.Context, opts options, onEvent callback, stdout io.Writer, logger *slog.Logger) error {
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
	provider, err := newTracerProvider(ctx, opts.traces, stdout, logger)
	if err != nil {
		return err
	}
	defer flush(provider, logger)

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	webhook := newWebhook(opts.verifier, onEvent, newMetrics(registry), logger)
	webhooks, scrapes := http.NewServeMux(), http.NewServeMux()
	webhooks.Handle(webhookPath, traceRequests(provider, webhook))
	scrapes.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched, unwatch := context.WithCancel(context.WithoutCancel(ctx)) // until the last delivery is counted
	ended := make(chan error, 1)
	go func() {
		defer cancel() // a receiver that nobody can watch must not go on unseen
		ended <- serve(watched, newServer(scrapes, logger), private)
	}()
	logger.Info("listening", "address", public.Addr().String(), "metrics", private.Addr().String())
	err = serve(ctx, newServer(webhooks, logger), public)
	unwatch()
	return errors.Join(err, <-ended)
}

func newWebhook(
	verifier *mailtrapwebhook.Verifier, onEvent callback, m *metrics, logger *slog.Logger,
) *mailtrapwebhook.Handler {
	return &mailtrapwebhook.Handler{
		Verifier: verifier,
		// This one forgets all when the process ends; several processes need a store that they share.
		Dedup:   new(mailtrapwebhook.MemoryDeduplicator),
		OnEvent: watch(m, onEvent),
		// Before Mailtrap pauses the webhook because of one event that always fails; but in an outage of your own that
		// lasts longer, all that fails is given up. The alert MailtrapWebhookPauseNear comes an hour earlier, and
		// MailtrapWebhookEventsDropped when it has happened.
		GiveUpAfter: 3 * time.Hour,
		// Called once for each request, several at a time, in the request's goroutine and before the answer is complete:
		// whatever it does, Mailtrap waits for. ctx has the span, and may have ended if the client hung up.
		Observe: func(ctx context.Context, r mailtrapwebhook.Report) {
			m.observe(r)
			describeRequest(ctx, r)
		},
		Logger: logger,
	}
}

type callback func(ctx context.Context, ev mailtrapwebhook.Event) error

// watch returns onEvent with a span and metrics for each call. They are there when the call has returned, which is after
// the answer if it overran.
func watch(m *metrics, onEvent callback) callback {
	return func(ctx context.Context, ev mailtrapwebhook.Event) error {
		kind, happened, started := kindOf(ev), ev.Time(), time.Now()
		ctx, span := startCallback(ctx, kind)
		ok := false // which it stays if onEvent panics
		defer func() {
			m.calledBack(kind, ok, happened, started)
			endCallback(span, ok)
		}()
		err := onEvent(ctx, ev)
		ok = err == nil
		return err
	}
}

// logEvent returns the work that is done for each event, which here is a line in the log. Store or enqueue the event in
// its place, with ctx, so that the spans of your database become part of the trace.
func logEvent(logger *slog.Logger) callback {
	return func(ctx context.Context, ev mailtrapwebhook.Event) error {
		logger.InfoContext(ctx, "event", "event", ev) // shows kind, time and key, and nothing personal
		return nil
	}
}

func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // Mailtrap waits no longer
		WriteTimeout:      35 * time.Second, // must leave time for the callbacks, which have 25 seconds
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// serve serves until ctx ends, and then lets the requests that are under way come to their end.
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
