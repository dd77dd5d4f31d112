// Observability receives Mailtrap's webhooks and shows how that goes: metrics
// for Prometheus, traces for OpenTelemetry, and log lines that name their
// trace.
//
//	MAILTRAP_SIGNING_SECRET=… go run . -listen :8080 -metrics 127.0.0.1:9464
//
// Deliveries come in at /webhooks/mailtrap. The metrics are at /metrics of the
// other address, which must not be public. With -traces stdout the program
// prints spans. With -traces otlp it sends them to a collector, at
// http://localhost:4318 or at OTEL_EXPORTER_OTLP_ENDPOINT. Other OTEL_
// variables, such as OTEL_TRACES_SAMPLER, work too.
//
// prometheus/ has the alerts, each with what to do, and the configuration that
// loads them. grafana/dashboard.json is a dashboard to import.
//
// The program promises:
//
//   - Each request is counted once, by the status of its answer. Each event of
//     a delivery is counted once, by its outcome.
//   - Labels have a bounded number of values, so that no client can fill
//     Prometheus.
//   - Metrics, spans and log lines show nothing personal and nothing of a body.
//     The log repeats your callback's error texts: keep addresses out of them.
//   - A collector that is down loses spans and holds up no delivery.
//
// It does not promise: a process that dies loses the counts and spans that it
// has not handed over.
//
// Take metrics.go and tracing.go into your program. Put your work into
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

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	secretVariable = "MAILTRAP_SIGNING_SECRET"
	webhookPath    = "/webhooks/mailtrap"

	// shutdownTimeout bounds the wait for deliveries at the end. A Handler
	// answers within 29.5 seconds.
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
	flags.SetOutput(io.Discard) // run prints the error in one line
	flags.StringVar(&opts.listen, "listen", ":8080", "receive deliveries on this `address`, at "+webhookPath)
	flags.StringVar(&opts.metrics, "metrics", "127.0.0.1:9464", "serve /metrics on this `address`, which must not be public")
	flags.StringVar(&opts.traces, "traces", tracesNone, "where spans go: `destination` is "+tracesNone+", "+tracesStdout+" or "+tracesOTLP)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stderr)
		fmt.Fprintf(stderr, "Usage of observability; %s must hold the webhook's signing secret:\n", secretVariable)
		flags.PrintDefaults()
		return opts, err
	case err != nil:
		return opts, err
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case opts.traces != tracesNone && opts.traces != tracesStdout && opts.traces != tracesOTLP:
		return opts, fmt.Errorf("-traces is %q: make it %s, %s or %s", opts.traces, tracesNone, tracesStdout, tracesOTLP)
	}
	opts.verifier, err = mailtrapwebhook.NewVerifier(getenv(secretVariable))
	if err != nil {
		return opts, fmt.Errorf("no signing secret: set %s to the webhook's signing secret", secretVariable)
	}
	return opts, nil
}

// receive receives deliveries and serves their metrics until ctx ends.
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
	if err := webhook.Validate(); err != nil {
		return err
	}
	webhooks, scrapes := http.NewServeMux(), http.NewServeMux()
	webhooks.Handle(webhookPath, traceRequests(provider, webhook))
	scrapes.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The metrics are served until the last delivery is counted.
	watched, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() {
		defer cancel() // do not receive without metrics
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
		OnEvent:  watch(m, onEvent),
		// Keeps one event that always fails from pausing the webhook. An outage
		// of yours that lasts longer drops every event that fails: set OnDrop
		// to store them. The alert MailtrapWebhookPauseNear fires an hour
		// earlier, and MailtrapWebhookEventsDropped for each drop.
		GiveUpAfter: 3 * time.Hour,
		// Mailtrap waits until Observe has returned. ctx has the span, and may
		// have ended because the client hung up.
		Observe: func(ctx context.Context, r mailtrapwebhook.Report) {
			m.observe(r)
			describeRequest(ctx, r)
		},
		Logger: logger,
	}
}

type callback func(ctx context.Context, ev mailtrapwebhook.Event) error

// watch returns a callback that makes a span and metrics for each call of
// onEvent. They come about when the call returns, even if that is after the
// answer.
func watch(m *metrics, onEvent callback) callback {
	return func(ctx context.Context, ev mailtrapwebhook.Event) error {
		kind, happened, started := kindOf(ev), ev.Time(), time.Now()
		ctx, span := startCallback(ctx, kind)
		ok := false // stays so if onEvent panics
		defer func() {
			m.calledBack(kind, ok, happened, started)
			endCallback(span, ok)
		}()
		err := onEvent(ctx, ev)
		ok = err == nil
		return err
	}
}

// logEvent returns the work for each event, which here is a line in the log. In
// your program, store or enqueue the event. Pass ctx on, so that the spans of
// your database join the trace.
func logEvent(logger *slog.Logger) callback {
	return func(ctx context.Context, ev mailtrapwebhook.Event) error {
		logger.InfoContext(ctx, "event", "event", ev) // shows nothing personal
		return nil
	}
}

func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // Mailtrap waits no longer
		WriteTimeout:      35 * time.Second, // callbacks may take 25 seconds
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// serve serves until ctx ends. It then waits for the requests that have begun.
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
