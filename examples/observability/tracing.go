package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

// The destinations of spans.
const (
	tracesNone   = "none" // log lines still name their trace
	tracesStdout = "stdout"
	tracesOTLP   = "otlp"
)

const (
	tracerName = "github.com/mailtrapwebhook/mailtrapwebhook/examples/observability"

	// maxSpanEvents is how many failed calls, and how many others, the span of
	// a request shows. A span event for each of 500 calls would make exports of
	// many megabytes.
	maxSpanEvents = 32

	// flushTimeout bounds the wait for a collector when the program ends.
	flushTimeout = 5 * time.Second
)

func newTracerProvider(
	ctx context.Context, to string, stdout io.Writer, spans *prometheus.CounterVec, logger *slog.Logger,
) (*sdktrace.TracerProvider, error) {
	// WithFromEnv comes last, so that OTEL_SERVICE_NAME and
	// OTEL_RESOURCE_ATTRIBUTES win.
	service, err := resource.New(ctx, resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("mailtrap-webhook")), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("cannot describe the service to OpenTelemetry: %w", err)
	}
	options := []sdktrace.TracerProviderOption{
		sdktrace.WithResource(service),
		sdktrace.WithoutPanicRecording(), // a panic's value may be personal
	}
	var exporter sdktrace.SpanExporter
	switch to {
	case tracesStdout:
		exporter, err = stdouttrace.New(stdouttrace.WithWriter(stdout))
	case tracesOTLP:
		exporter, err = otlptracehttp.New(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot export traces: %w", err)
	}
	if exporter != nil {
		options = append(options, sdktrace.WithSpanProcessor(newBatcher(exporter, spans)))
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logger.Warn("traces are not exported: check the collector", "err", err)
	}))
	return sdktrace.NewTracerProvider(options...), nil
}

// flush sends the remaining spans.
func flush(provider *sdktrace.TracerProvider, logger *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := provider.Shutdown(ctx); err != nil {
		logger.Warn("the last traces are not exported: check the collector", "err", err)
	}
}

// traceRequests makes a span of each request. It is used in place of otelhttp,
// which writes the client's address, user agent and Host into the span: these
// are personal, or a stranger chooses them. Each request begins a trace of its
// own, because Mailtrap sends no trace context. A context that comes is a
// stranger's.
func traceRequests(provider trace.TracerProvider, next http.Handler) http.Handler {
	tracer := provider.Tracer(tracerName)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, span := tracer.Start(r.Context(), "webhook request",
			trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(semconv.HTTPRoute(webhookPath)))
		defer span.End()
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, callsKey{}, new(calls))))
	})
}

// calls counts the calls of the callback for a request.
type calls struct{ ok, failed atomic.Int64 }

type callsKey struct{}

// hidden returns how many calls the span does not show.
func (c *calls) hidden() int64 {
	return max(0, c.ok.Load()-maxSpanEvents) + max(0, c.failed.Load()-maxSpanEvents)
}

// describeCall writes a call of the callback into the span of its request, as a
// span event. A span for each of 500 events would overflow the queue. The span
// of a request that has been answered is gone, so a late call does not show.
// The log has the error's text, which may be personal.
func describeCall(ctx context.Context, kind, result string, started time.Time) {
	c, ok := ctx.Value(callsKey{}).(*calls)
	if !ok {
		return
	}
	count := &c.ok
	if result == resultFailed {
		count = &c.failed
	}
	if count.Add(1) > maxSpanEvents {
		return
	}
	trace.SpanFromContext(ctx).AddEvent("OnEvent", trace.WithAttributes(
		attribute.String("mailtrap.kind", kind),
		attribute.String("mailtrap.result", result),
		attribute.Int64("mailtrap.duration_ms", time.Since(started).Milliseconds()),
	))
}

// describeRequest writes the outcome of a request into its span. The log line
// of the same trace has the reason.
func describeRequest(ctx context.Context, r mailtrapwebhook.Report, webhook string) {
	span := trace.SpanFromContext(ctx)
	if webhook != notVerified {
		span.SetAttributes(attribute.String("mailtrap.webhook", webhook))
	}
	if c, ok := ctx.Value(callsKey{}).(*calls); ok {
		span.SetAttributes(attribute.Int64("mailtrap.calls_not_shown", c.hidden()))
	}
	span.SetAttributes(
		semconv.HTTPResponseStatusCode(r.Status),
		attribute.String("mailtrap.format", r.Format.String()),
		attribute.Int("mailtrap.bytes", r.BodyBytes),
		attribute.Int("mailtrap.events", r.Events),
		attribute.Int("mailtrap.handled", r.Handled),
		attribute.Int("mailtrap.duplicates", r.Duplicates),
		attribute.Int("mailtrap.dropped", r.Dropped),
		attribute.Int("mailtrap.failed", r.Failed),
		attribute.Int("mailtrap.held", r.Held),
		attribute.Int("mailtrap.unstarted", r.Unstarted),
		attribute.Int("mailtrap.unknown", r.Unknown),
		attribute.Int("mailtrap.unreadable", r.Unreadable),
	)
	// OpenTelemetry: a server's span has an error for 5xx, not for 4xx.
	if r.Status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
}

func newLogger(w io.Writer) *slog.Logger {
	return slog.New(traceHandler{slog.NewJSONHandler(w, serve.LogOptions())})
}

// A traceHandler adds the ids of the context's trace and span to each line.
type traceHandler struct{ slog.Handler }

func (h traceHandler) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(attrs)}
}

func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}
