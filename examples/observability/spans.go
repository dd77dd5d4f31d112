package main

import (
	"context"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// maxWaitingSpans is how many spans wait for the exporter. A span takes up to
// about 20 kB, with the most span events that it has.
const maxWaitingSpans = 2048

// What becomes of a span, as values of a label.
const (
	spanExported     = "exported"
	spanQueueFull    = "queue_full"
	spanExportFailed = "export_failed"
)

// newBatcher returns a processor that hands spans to the exporter in batches,
// in the background: no delivery waits for a collector. It counts what becomes
// of each span. OpenTelemetry's processor alone drops spans in silence when its
// queue is full.
func newBatcher(exporter sdktrace.SpanExporter, spans *prometheus.CounterVec) sdktrace.SpanProcessor {
	c := &spanCounter{spans: spans}
	return &countedProcessor{sdktrace.NewBatchSpanProcessor(
		&countedExporter{exporter, c}, sdktrace.WithMaxQueueSize(maxWaitingSpans)), c}
}

// A spanCounter stands at both ends of the queue.
type spanCounter struct {
	spans   *prometheus.CounterVec
	waiting atomic.Int64 // never more than the queue has room for
}

type countedProcessor struct {
	sdktrace.SpanProcessor
	counter *spanCounter
}

func (p *countedProcessor) OnEnd(span sdktrace.ReadOnlySpan) {
	if !span.SpanContext().IsSampled() {
		return
	}
	if p.counter.waiting.Add(1) > maxWaitingSpans {
		p.counter.waiting.Add(-1)
		p.counter.spans.WithLabelValues(spanQueueFull).Inc()
		return
	}
	p.SpanProcessor.OnEnd(span)
}

type countedExporter struct {
	sdktrace.SpanExporter
	counter *spanCounter
}

func (e *countedExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	result := spanExported
	if err != nil {
		result = spanExportFailed
	}
	e.counter.spans.WithLabelValues(result).Add(float64(len(spans)))
	e.counter.waiting.Add(-int64(len(spans)))
	return err
}
