package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const webhookPath = "/webhooks/mailtrap"

// The end of the program, after a signal:
//
//	 0 s  /readyz answers 503, and deliveries still come in
//	 5 s  -drain: no new connection is taken
//	35 s  shutdownTimeout: the last delivery is answered, which takes 29.5 s
//	36 s  scrapeTimeout: the last scrape is answered
//	41 s  flushTimeout: the last spans are sent
const (
	shutdownTimeout = 30 * time.Second
	scrapeTimeout   = time.Second
)

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
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := newMetrics(registry, len(opts.secrets))
	provider, err := newTracerProvider(ctx, opts.traces, stdout, m.spans, logger)
	if err != nil {
		return err
	}
	defer flush(provider, logger)

	store := new(mailtrapwebhook.MemoryDeduplicator)
	webhook := newWebhook(opts, store, onEvent, m, logger)
	if err := webhook.Validate(); err != nil {
		return err
	}
	health := &health{store: store}
	webhooks, scrapes := http.NewServeMux(), http.NewServeMux()
	webhooks.Handle(webhookPath, traceRequests(provider, watchBodies(m.inFlight, opts.secrets, webhook)))
	webhooks.HandleFunc("GET /healthz", health.live)
	webhooks.HandleFunc("GET /readyz", health.ready)
	scrapes.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	drained, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		health.leaving.Store(true)
		logger.Info("ending: /readyz answers 503", "drain", opts.drain.String())
		time.AfterFunc(opts.drain, stop)
	})()
	// The metrics are served until the last delivery is counted.
	watched, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() {
		defer stop() // do not receive without metrics
		ended <- serve(watched, newServer(scrapes, logger), private, scrapeTimeout, logger)
	}()
	logger.Info("listening", "address", public.Addr().String(), "metrics", private.Addr().String())
	err = serve(drained, newServer(webhooks, logger), public, shutdownTimeout, logger)
	unwatch()
	return errors.Join(err, <-ended)
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

// serve serves until ctx ends. It then waits for the requests that have begun,
// but no longer than wait.
func serve(
	ctx context.Context, server *http.Server, listener net.Listener, wait time.Duration, logger *slog.Logger,
) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		logger.Warn("connections were open to the last: Mailtrap sends again what was not answered",
			"address", listener.Addr().String(), "err", err)
		return server.Close()
	}
	return nil
}
