package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

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
)

// Where spans go.
const (
	tracesNone   = "none" // log lines still name their trace
	tracesStdout = "stdout"
	tracesOTLP   = "otlp"
)

const (
	tracerName = "github.com/mailtrapwebhook/mailtrapwebhook/examples/observability"

	// flushTimeout is how long the end of the program waits for a collector.
	flushTimeout = 5 * time.Second
)

func newTracerProvider(
	ctx context.Context, to string, stdout io.Writer, logger *slog.Logger,
) (*sdktrace.TracerProvider, error) {
	// The variables OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come last, and so win.
	service, err := resource.New(ctx, resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("mailtrap-webhook")), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describing the service to OpenTelemetry: %w", err)
	}
	options := []sdktrace.TracerProviderOption{
		sdktrace.WithResource(service),
		sdktrace.WithoutPanicRecording(), // the value of a callback's panic may be personal
	}
	var exporter sdktrace.SpanExporter
	switch to {
	case tracesStdout:
		exporter, err = stdouttrace.New(stdouttrace.WithWriter(stdout))
	case tracesOTLP:
		exporter, err = otlptracehttp.New(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("exporting traces: %w", err)
	}
	if exporter != nil {
		// In batches and in the background, so that no delivery waits for a collector.
		options = append(options, sdktrace.WithBatcher(exporter))
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logger.Warn("traces are not exported: see to the collector", "err", err)
	}))
	return sdktrace.NewTracerProvider(options...), nil
}

// flush sends the spans that have not been sent yet.
func flush(provider *sdktrace.TracerProvider, logger *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := provider.Shutdown(ctx); err != nil {
		logger.Warn("the last traces are not exported: see to the collector", "err", err)
	}
}

// traceRequests makes each request a span. This is less than otelhttp does, on purpose: that puts the caller's address,
// user agent and Host into the span, which are personal or a stranger's to choose. For the same reason each request is
// a trace of its own: Mailtrap sends no trace context, so that one that comes is somebody else's.
func traceRequests(provider trace.TracerProvider, next http.Handler) http.Handler {
	tracer := provider.Tracer(tracerName)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, span := tracer.Start(r.Context(), "webhook request",
			trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(semconv.HTTPRoute(webhookPath)))
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// describeRequest puts what became of a request into its span. Why it was refused is in the log line of the same trace.
func describeRequest(ctx context.Context, r mailtrapwebhook.Report) {
	span := trace.SpanFromContext(ctx)
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
	)
	if r.Status >= http.StatusInternalServerError { // as OpenTelemetry has it for servers: 4xx is the client's error
		span.SetStatus(codes.Error, "")
	}
}

// startCallback starts the span of a call of the callback, below that of its request.
func startCallback(ctx context.Context, kind string) (context.Context, trace.Span) {
	tracer := trace.SpanFromContext(ctx).TracerProvider().Tracer(tracerName)
	return tracer.Start(ctx, "OnEvent "+kind, trace.WithAttributes(attribute.String("mailtrap.kind", kind)))
}

// endCallback ends it. What the error said is left to the log, as it may be personal.
func endCallback(span trace.Span, ok bool) {
	if !ok {
		span.SetStatus(codes.Error, "the callback failed: see the log")
	}
	span.End()
}

// # Logging

func newLogger(w io.Writer) *slog.Logger {
	return slog.New(traceHandler{slog.NewJSONHandler(w, nil)})
}

// A traceHandler adds to each line that is logged with the context of a span which span that is.
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
