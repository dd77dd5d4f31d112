package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

const webhookPath = "/webhooks/mailtrap"

// receive receives deliveries and serves their metrics until ctx ends. The
// server then ends within 36 seconds, and the last spans are sent within
// flushTimeout.
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
	if err := checkDropped(opts.dropped); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := newMetrics(registry, len(opts.secrets))
	provider, err := newTracerProvider(ctx, opts.traces, stdout, m.spans, logger)
	if err != nil {
		return err
	}
	defer flush(provider, logger)

	store := new(mailtrapwebhook.MemoryDeduplicator)
	showReadiness(registry, store)
	webhook := newWebhook(opts, store, onEvent, m, logger)
	if err := webhook.Validate(); err != nil {
		return err
	}
	webhooks, scrapes := http.NewServeMux(), http.NewServeMux()
	webhooks.Handle(webhookPath, traceRequests(provider, watchBodies(m.inFlight, opts.secrets, webhook)))
	scrapes.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &serve.Server{
		Webhook: webhooks,
		Ready:   func(ctx context.Context) error { return ready(ctx, &watchedStore{store, m}) },
		Drain:   opts.drain,
		Logger:  logger,
	}

	receiving, stop := context.WithCancel(ctx)
	defer stop()
	// The metrics are served until the last delivery is counted.
	watched, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	defer unwatch()
	ended := make(chan error, 1)
	go func() {
		defer stop() // do not receive without metrics
		ended <- server.ServePrivate(watched, private, scrapes)
	}()
	logger.Info("listening", "address", public.Addr().String(), "metrics", private.Addr().String())
	err = server.Serve(receiving, public)
	unwatch()
	return errors.Join(err, <-ended)
}
