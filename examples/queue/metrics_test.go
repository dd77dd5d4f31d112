package main

import (
	"context"
	"errors"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// valueOf returns the value of a series as Prometheus would read it.
func valueOf(t *testing.T, registry *prometheus.Registry, series string) float64 {
	t.Helper()
	recorder := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	value, ok := valueIn(recorder.Body.String(), series)
	require.True(t, ok, "no %s in\n%s", series, recorder.Body)
	return value
}

func valueIn(text, series string) (float64, bool) {
	for line := range strings.Lines(text) {
		if number, ok := strings.CutPrefix(line, series+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
			return value, err == nil
		}
	}
	return 0, false
}

func TestMetricsShowWhatWaits(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	publishAll(t, q, bounce("fails"), bounce("dies"))
	registry := prometheus.NewRegistry()
	var consumed *collector
	_, consumer := startWorker(t, q, ackWait, func(_ context.Context, _ string, ev mailtrapwebhook.Event) error {
		if ev.(*mailtrapwebhook.SendingWebhookEvent).MessageID == "dies" {
			return mailtrapwebhook.Permanent(errors.New("no such user"))
		}
		return errors.New("no database")
	}, func(w *worker) {
		w.metrics = newMetrics(registry)
		w.backoff = func(attempts uint64) time.Duration { return time.Hour * time.Duration(attempts-1) } // not for the first
		consumed = &collector{q, w.consumer, w.logger}
	})
	registry.MustRegister(consumed)
	value := func(series string) float64 { return valueOf(t, registry, "mailtrap_queue_"+series) }
	require.Eventually(t, func() bool { return value("redeliveries_total") == 1 && value("dead_letters") == 1 }, patience, tick)
	require.EqualValues(t, 1, value("up"))
	require.EqualValues(t, 0, value("waiting_events"))
	require.EqualValues(t, 0, value("lag_seconds"))
	require.EqualValues(t, 0, value("working_events"))
	require.EqualValues(t, 1, value("retrying_events"))
	require.Positive(t, value("oldest_event_seconds"))
	require.Less(t, value("oldest_event_seconds"), patience.Seconds())
	require.Positive(t, value("oldest_dead_letter_seconds"))
	require.Less(t, value("oldest_dead_letter_seconds"), patience.Seconds())
	require.Positive(t, value(`stream_bytes{stream="events"}`))
	require.Positive(t, value(`stream_bytes{stream="retries"}`))
	require.Positive(t, value(`stream_bytes{stream="dead_letters"}`))
	require.EqualValues(t, testMaxBytes, value(`stream_max_bytes{stream="events"}`))
	require.Eventually(t, func() bool { return value(`attempts_total{result="failed"}`) == 3 }, patience, tick)
	require.EqualValues(t, 0, value(`attempts_total{result="handled"}`))
	require.NotNil(t, consumer)
}

// What no worker has had is waiting.
func TestMetricsShowTheLag(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	consumer, err := q.consumer(t.Context(), q.stream, ackWait)
	require.NoError(t, err)
	registry := prometheus.NewRegistry()
	registry.MustRegister(&collector{q, consumer, q.logger})
	require.EqualValues(t, 0, valueOf(t, registry, "mailtrap_queue_lag_seconds"))
	require.EqualValues(t, 0, valueOf(t, registry, "mailtrap_queue_oldest_event_seconds"))
	require.EqualValues(t, 0, valueOf(t, registry, "mailtrap_queue_oldest_dead_letter_seconds"))
	publishAll(t, q, bounce("m-1"), bounce("m-2"))
	time.Sleep(20 * time.Millisecond)
	require.EqualValues(t, 2, valueOf(t, registry, "mailtrap_queue_waiting_events"))
	require.Greater(t, valueOf(t, registry, "mailtrap_queue_lag_seconds"), 0.02)
	require.Greater(t, valueOf(t, registry, "mailtrap_queue_oldest_event_seconds"), 0.02)
}
