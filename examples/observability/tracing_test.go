package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

// A collector takes spans in OTLP over HTTP, as OpenTelemetry's collector does.
type collector struct {
	hang     chan struct{} // exports wait until it is closed, unless it is nil
	asked    atomic.Bool   // an export has come
	mu       sync.Mutex
	raw      []byte
	received []*tracepb.ResourceSpans
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	c := new(collector)
	c.start(t)
	return c
}

func (c *collector) start(t *testing.T) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var export collectorpb.ExportTraceServiceRequest
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &export) != nil {
			http.Error(w, "not an export of traces", http.StatusBadRequest)
			return
		}
		c.asked.Store(true)
		if c.hang != nil {
			<-c.hang
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw = append(c.raw, body...)
		c.received = append(c.received, export.ResourceSpans...)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
}

// startHangingCollector starts a collector that does not answer until it is
// released.
func startHangingCollector(t *testing.T) (c *collector, release func()) {
	t.Helper()
	c = &collector{hang: make(chan struct{})}
	c.start(t)
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000") // ms
	release = sync.OnceFunc(func() { close(c.hang) })
	t.Cleanup(release) // before the server is closed, which waits
	return c, release
}

// text returns the raw exports, in which strings stand as they are.
func (c *collector) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.raw)
}

func (c *collector) spans() (spans []*tracepb.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.received {
		for _, s := range r.ScopeSpans {
			spans = append(spans, s.Spans...)
		}
	}
	return spans
}

// shownCalls returns the kind and the result of each call that a span shows.
func shownCalls(span *tracepb.Span) (calls []string) {
	for _, call := range span.Events {
		a := attributes(call.Attributes)
		calls = append(calls, fmt.Sprint(a["mailtrap.kind"], " ", a["mailtrap.result"]))
	}
	return calls
}

func attributes(list []*commonpb.KeyValue) map[string]any {
	values := make(map[string]any)
	for _, a := range list {
		switch v := a.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			values[a.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			values[a.Key] = int(v.IntValue)
		default:
			values[a.Key] = fmt.Sprintf("%T", v)
		}
	}
	return values
}

func TestDeliveryIsASpanWithItsCallsAsEvents(t *testing.T) {
	for format, pack := range map[string]func(...string) string{"JSON": envelope, "JSON Lines": lines} {
		t.Run(format, func(t *testing.T) {
			collector := startCollector(t)
			var inside []trace.SpanContext // of the callbacks' contexts; the calls do not overlap
			p := start(t, func(ctx context.Context, ev mailtrapwebhook.Event) error {
				inside = append(inside, trace.SpanContextFromContext(ctx))
				if ev.Name() == "open" {
					return errors.New("the database is away")
				}
				return nil
			}, "-traces", tracesOTLP)
			now := time.Now()
			body := pack(event("delivery", 1, now), event("open", 2, now), event("activity_log.user.login", 3, now),
				event("brand new", 4, now))
			require.Equal(t, http.StatusInternalServerError, p.deliver(t, body))
			p.end(t)

			spans := collector.spans()
			require.Len(t, spans, 1)
			root := spans[0]
			require.Equal(t, "webhook request", root.Name)
			require.Empty(t, root.ParentSpanId)
			require.Equal(t, tracepb.Span_SPAN_KIND_SERVER, root.Kind)
			require.Equal(t, tracepb.Status_STATUS_CODE_ERROR, root.Status.GetCode())
			require.Empty(t, cmp.Diff(map[string]any{
				"http.route":                webhookPath,
				"http.response.status_code": 500,
				"mailtrap.format":           format,
				"mailtrap.webhook":          "0",
				"mailtrap.bytes":            len(body),
				"mailtrap.events":           4,
				"mailtrap.handled":          3,
				"mailtrap.duplicates":       0,
				"mailtrap.dropped":          0,
				"mailtrap.failed":           1,
				"mailtrap.held":             0,
				"mailtrap.unstarted":        0,
				"mailtrap.unknown":          1,
				"mailtrap.unreadable":       0,
				"mailtrap.calls_not_shown":  0,
			}, attributes(root.Attributes)))

			require.Equal(t, []string{"delivery ok", "open failed", "activity_log ok", "unknown ok"}, shownCalls(root))
			for _, call := range root.Events {
				require.GreaterOrEqual(t, call.TimeUnixNano, root.StartTimeUnixNano)
				require.LessOrEqual(t, call.TimeUnixNano, root.EndTimeUnixNano)
			}
			require.Len(t, inside, 4)
			for _, c := range inside {
				own := c.SpanID()
				require.Equal(t, root.SpanId, own[:], "the callback's own spans must be below the request's")
			}
			for _, r := range collector.received {
				require.Contains(t, r.Resource.String(), "mailtrap-webhook")
			}

			// The log has the error and names the trace. The trace has no error
			// text.
			require.NotContains(t, collector.text(), "the database is away")
			line := p.waitForLine(t, "mailtrapwebhook: request answered")
			require.Contains(t, line["err"], "the database is away")
			require.Equal(t, hex.EncodeToString(root.TraceId), line["trace_id"])
			require.Equal(t, hex.EncodeToString(root.SpanId), line["span_id"])
		})
	}
}

func TestRetryAndForgeryInTraces(t *testing.T) {
	collector := startCollector(t)
	p := start(t, succeed, "-traces", tracesOTLP)
	body := envelope(event("delivery", 1, time.Now()))
	forged := newRequest(t, http.MethodPost, p.url, body, mailtrapwebhook.Sign([]byte(body), "another secret"))
	forged.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	require.Equal(t, http.StatusBadRequest, p.send(t, forged))
	require.Equal(t, http.StatusOK, p.deliver(t, body))
	require.Equal(t, http.StatusOK, p.deliver(t, body))
	p.end(t)

	spans := collector.spans()
	require.Len(t, spans, 3)
	slices.SortFunc(spans, func(a, b *tracepb.Span) int { return int(int64(a.StartTimeUnixNano - b.StartTimeUnixNano)) })
	var got []string
	for _, span := range spans {
		require.Empty(t, span.ParentSpanId)
		require.NotEqual(t, "0af7651916cd43dd8448eb211c80319c", hex.EncodeToString(span.TraceId), "the span joined a stranger's trace")
		require.Zero(t, span.Status.GetCode(), "the span has an error, but the server made none")
		a := attributes(span.Attributes)
		got = append(got, fmt.Sprintln(a["http.response.status_code"], a["mailtrap.format"], a["mailtrap.events"],
			a["mailtrap.handled"], a["mailtrap.duplicates"], a["mailtrap.bytes"] == len(body), len(span.Events)))
	}
	require.Equal(t, []string{"400 unknown 0 0 0 true 0\n", "200 JSON 1 1 0 true 1\n", "200 JSON 1 0 1 true 0\n"}, got)
}

// No span is lost under load. A span shows a bounded number of calls, the
// failed ones among them wherever they stand, and says how many it leaves out.
func TestManyEventsMakeOneSpan(t *testing.T) {
	const deliveries, events, failing = 40, 500, 40
	collector := startCollector(t)
	p := start(t, func(_ context.Context, ev mailtrapwebhook.Event) error {
		if ev.Name() == "open" {
			return errors.New("the database is away")
		}
		return nil
	}, "-traces", tracesOTLP)
	statuses := make(chan int, deliveries)
	for d := range deliveries {
		var body []string
		for i := range events {
			kind := "delivery"
			if i >= events/2 && i < events/2+failing {
				kind = "open"
			}
			body = append(body, event(kind, d*events+i, time.Now()))
		}
		text := envelope(body...)
		r := newRequest(t, http.MethodPost, p.url, text, mailtrapwebhook.Sign([]byte(text), testSecret))
		go func() {
			status, _ := statusOf(r)
			statuses <- status
		}()
	}
	for range deliveries {
		require.Equal(t, 500, <-statuses)
	}
	p.end(t)

	spans := collector.spans()
	require.Len(t, spans, deliveries)
	for _, span := range spans {
		calls := shownCalls(span)
		require.Len(t, calls, 2*maxSpanEvents)
		require.Equal(t, slices.Repeat([]string{"delivery ok"}, maxSpanEvents), calls[:maxSpanEvents])
		require.Equal(t, slices.Repeat([]string{"open failed"}, maxSpanEvents), calls[maxSpanEvents:])
		require.Equal(t, events-2*maxSpanEvents, attributes(span.Attributes)["mailtrap.calls_not_shown"])
		require.Zero(t, span.DroppedEventsCount)
	}
}

// A collector that hangs and then recovers gets the spans that there was room
// for. The others are counted.
func TestSpansThatAreLostAreCounted(t *testing.T) {
	const more = 100
	collector, release := startHangingCollector(t)
	p := start(t, succeed, "-traces", tracesOTLP)
	for range maxWaitingSpans + more {
		require.Equal(t, 405, p.send(t, newRequest(t, http.MethodGet, p.url, "", "")))
	}
	require.EqualValues(t, more, p.scrape(t)[`mailtrap_webhook_spans_total{result="queue_full"}`])
	release()
	require.Eventually(t, func() bool {
		return p.scrape(t)[`mailtrap_webhook_spans_total{result="exported"}`] > 0
	}, aWhile, time.Millisecond)
	require.Equal(t, 405, p.send(t, newRequest(t, http.MethodGet, p.url, "", "")))
	require.EqualValues(t, more, p.scrape(t)[`mailtrap_webhook_spans_total{result="queue_full"}`], "there is room again")
	p.end(t)
	require.Len(t, collector.spans(), maxWaitingSpans+1)
}

func TestLogLinesNameTheirTraceWithoutAnExporter(t *testing.T) {
	var mu sync.Mutex
	traces := make(map[string]bool)
	p := start(t, func(ctx context.Context, _ mailtrapwebhook.Event) error {
		mu.Lock()
		defer mu.Unlock()
		traces[trace.SpanContextFromContext(ctx).TraceID().String()] = true
		return errors.New("the database is away")
	})
	for i := range 3 {
		require.Equal(t, 500, p.deliver(t, envelope(event("open", i, time.Now()))))
	}
	p.end(t)
	for _, line := range p.lines(t) {
		if line["msg"] == "mailtrapwebhook: request answered" {
			require.True(t, traces[line["trace_id"].(string)])
			delete(traces, line["trace_id"].(string))
		}
	}
	require.Empty(t, traces)
}

func TestLoggerKeepsItsAttributesAndGroups(t *testing.T) {
	var b strings.Builder
	ctx := trace.ContextWithSpanContext(t.Context(),
		trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
	newLogger(&b).With("a", 1).WithGroup("g").InfoContext(ctx, "m", "b", 2)
	require.Contains(t, b.String(), `"a":1,"g":{"b":2,"trace_id":"01`)
	b.Reset()
	newLogger(&b).InfoContext(t.Context(), "m")
	require.NotContains(t, b.String(), "trace_id")
}

func TestCollectorThatIsDownHoldsUpNoDelivery(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", gone.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100") // ms
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1")      // ms
	p := start(t, succeed, "-traces", tracesOTLP)
	require.Equal(t, http.StatusOK, p.deliver(t, envelope(event("open", 1, time.Now()))))
	require.Eventually(t, func() bool {
		return p.scrape(t)[`mailtrap_webhook_spans_total{result="export_failed"}`] == 1
	}, aWhile, 10*time.Millisecond)
	p.end(t)
	require.Contains(t, p.stderr.String(), "check the collector")
}

func TestCollectorThatHangsHoldsUpNoDelivery(t *testing.T) {
	collector, _ := startHangingCollector(t)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1") // ms
	p := start(t, succeed, "-traces", tracesOTLP)
	require.Equal(t, http.StatusOK, p.deliver(t, envelope(event("open", 1, time.Now()))))
	require.Eventually(t, collector.asked.Load, aWhile, time.Millisecond)
	require.Equal(t, http.StatusOK, p.deliver(t, envelope(event("open", 2, time.Now()))))
}

// A callback, the collector, and clients on both addresses hang.
func TestEndsInTimeWhateverHangs(t *testing.T) {
	startHangingCollector(t)
	s := newScript()
	p := start(t, s.onEvent, "-traces", tracesOTLP)
	answered := p.deliverHeld(t, s, envelope(event("suspension", 1, time.Now())))
	defer close(s.leave)
	for _, url := range []string{p.url, p.metrics} {
		go holdConnections(t.Context(), strings.Split(url, "/")[2])
	}
	signaled := time.Now()
	p.end(t)
	require.Equal(t, http.StatusInternalServerError, <-answered)
	most := 6*time.Second + serve.ScrapeTimeout + flushTimeout // the Handler waits 5.1 s for a call
	require.Less(t, time.Since(signaled), most+10*time.Second)
	p.waitForLine(t, "the last traces are not exported: check the collector")
}

// holdConnections opens connections and says nothing on them, until the address
// takes no more. It closes them when ctx ends.
func holdConnections(ctx context.Context, address string) {
	for {
		silent, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		context.AfterFunc(ctx, func() { silent.Close() })
		time.Sleep(100 * time.Millisecond)
	}
}

// The stated time to the end fits into the 45 seconds of examples/README.md.
func TestTimesOfTheEndAddUp(t *testing.T) {
	opts, err := parseOptions(nil, environment(testSecret), io.Discard)
	require.NoError(t, err)
	require.Equal(t, 41*time.Second, opts.drain+serve.ShutdownTimeout+serve.ScrapeTimeout+flushTimeout)
}

// The events are full of personal data, and no output shows any of it.
func TestNothingPersonalOrSecretShows(t *testing.T) {
	for _, traces := range []string{tracesOTLP, tracesStdout} {
		t.Run(traces, func(t *testing.T) {
			collector := startCollector(t)
			s := newScript()
			var logged lockedBuffer
			logs := logEvent(newLogger(&logged))
			p := start(t, func(ctx context.Context, ev mailtrapwebhook.Event) error {
				return errors.Join(logs(ctx, ev), s.onEvent(ctx, ev))
			}, "-traces", traces)
			play(t, p, s)
			now := time.Now()
			body := lines(event("open", 9, now), event("bounce", 9, now), event(kindInbound, 9, now),
				event("activity_log.user.login", 9, now), event("spam", 9, now), event("brand new kind", 9, now))
			r := newRequest(t, http.MethodPost, p.url+"?token="+testSecret, body, mailtrapwebhook.Sign([]byte(body), testSecret))
			r.Header.Set("User-Agent", personName)
			r.Header.Set("X-Forwarded-For", personAddress)
			r.SetBasicAuth(personEmail, testSecret)
			r.Host = personEmail
			require.Equal(t, 500, p.send(t, r))
			metrics, _ := p.fetchMetrics(t)
			p.end(t)

			shown := map[string]string{
				"metrics": metrics,
				"log":     p.stderr.String() + logged.String(),
				"traces":  collector.text() + p.stdout.String(),
			}
			require.Contains(t, shown["metrics"], `kind="bounce"`)
			require.Contains(t, shown["log"], "panic")
			require.Contains(t, shown["log"], `"name":"bounce"`)
			require.Contains(t, shown["traces"], "bounce")
			require.Contains(t, shown["traces"], "INSERT")
			for where, text := range shown {
				for _, secret := range []string{
					personEmail, "example.com", personName, "Ann", personAddress, personURL,
					testSecret, mailtrapwebhook.Sign([]byte(body), testSecret),
				} {
					require.NotContains(t, text, secret, where)
				}
			}
			for _, where := range []string{"metrics", "traces"} { // a log line may name the message and the kind
				require.NotContains(t, shown[where], "brand new", where)
				require.NotContains(t, shown[where], "m-9", where)
				require.NotContains(t, shown[where], "e-9", where)
			}
			require.NotContains(t, shown["traces"], "127.0.0.1", "the spans show the peer's address")
		})
	}
}
