package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// fetchMetrics fetches the metrics as Prometheus does.
func (p *program) fetchMetrics(t *testing.T) (text string, families map[string]*dto.MetricFamily) {
	t.Helper()
	response, err := http.Get(p.metrics)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err = parser.TextToMetricFamilies(strings.NewReader(string(body)))
	require.NoError(t, err)
	return string(body), families
}

// scrape returns the values of the program's own series, by their names in
// Prometheus's notation.
func (p *program) scrape(t *testing.T) map[string]float64 {
	t.Helper()
	_, families := p.fetchMetrics(t)
	series := make(map[string]float64)
	for name, family := range families {
		if !strings.HasPrefix(name, "mailtrap_") {
			continue
		}
		for _, metric := range family.Metric {
			switch labels := labelsOf(metric); family.GetType() {
			case dto.MetricType_COUNTER:
				series[name+written(labels)] = metric.Counter.GetValue()
			case dto.MetricType_GAUGE:
				series[name+written(labels)] = metric.Gauge.GetValue()
			case dto.MetricType_HISTOGRAM:
				series[name+"_count"+written(labels)] = float64(metric.Histogram.GetSampleCount())
				series[name+"_sum"+written(labels)] = metric.Histogram.GetSampleSum()
				for _, b := range metric.Histogram.Bucket {
					le := fmt.Sprintf("le=%q", fmt.Sprint(b.GetUpperBound()))
					series[name+"_bucket"+written(append(slices.Clone(labels), le))] = float64(b.GetCumulativeCount())
				}
			default:
				t.Fatalf("%s is a %s", name, family.GetType())
			}
		}
	}
	return series
}

func labelsOf(metric *dto.Metric) (labels []string) {
	for _, label := range metric.Label {
		if label.GetValue() != "" { // Prometheus ignores an empty label
			labels = append(labels, fmt.Sprintf("%s=%q", label.GetName(), label.GetValue()))
		}
	}
	return labels
}

func written(labels []string) string {
	if len(labels) == 0 {
		return ""
	}
	slices.Sort(labels)
	return "{" + strings.Join(labels, ",") + "}"
}

// play sends requests of all sorts, so that each metric of the program changes.
// TestMetricsAddUp has the counts. The program must have the callback of s.
func play(t *testing.T, p *program, s *script) {
	t.Helper()
	now := time.Now()
	all := envelope(event("delivery", 1, now), event("brand new", 1, now), event("activity_log.user.login", 1, now),
		event(kindInbound, 1, now.Add(-3*time.Minute)), "17")
	odd := `{"event":"delivery","event_id":"e-2","message_id":"m-2","timestamp":1.5}`
	some := lines(odd, event("click", 2, now), "cut off")
	opened := lines(event("open", 3, now), event("delivery", 3, now))
	held := envelope(event("suspension", 4, now))

	require.Equal(t, 200, p.deliver(t, all))
	require.Equal(t, 200, p.deliver(t, some))
	require.Equal(t, 200, p.deliver(t, all), "the retry")
	require.Equal(t, 500, p.deliver(t, opened), "the callback fails")
	require.Equal(t, 200, p.deliver(t, opened), "its retry")
	require.Equal(t, 200, p.deliver(t, envelope(event("reject", 5, now))), "a permanent error")
	require.Equal(t, 500, p.deliver(t, envelope(event("spam", 6, now))), "a panic")
	require.Equal(t, 500, p.deliver(t, envelope(event("unsubscribe", 7, now.Add(-150*time.Minute)))), "before GiveUpAfter")
	require.Equal(t, 200, p.deliver(t, envelope(event("unsubscribe", 8, now.Add(-4*time.Hour)))), "after GiveUpAfter")
	require.Equal(t, 422, p.deliver(t, all[:len(all)-1]))
	require.Equal(t, 422, p.deliver(t, "neither of the formats"))
	require.Equal(t, 413, p.deliver(t, envelope(strings.Repeat("1,", 10_000)+"1")))
	require.Equal(t, 200, p.deliverAs(t, otherSecret, envelope(event("bounce", 10, now))))

	first := p.deliverHeld(t, s, held)
	require.Equal(t, 503, p.deliver(t, held), "another delivery holds the event")
	close(s.leave)
	require.Equal(t, 200, <-first)

	require.Equal(t, 400, p.send(t, newRequest(t, http.MethodPost, p.url, all, mailtrapwebhook.Sign([]byte(all), "another secret"))))
	require.Equal(t, 400, p.send(t, newRequest(t, http.MethodPost, p.url, all, "not a signature")))
	require.Equal(t, 400, p.send(t, newRequest(t, http.MethodPost, p.url, all, "")))
	require.Equal(t, 400, p.deliver(t, ""), "an empty body")
	require.Equal(t, 405, p.send(t, newRequest(t, http.MethodGet, p.url, "", "")))
	encoded := newRequest(t, http.MethodPost, p.url, gzipped(t, all), mailtrapwebhook.Sign([]byte(all), testSecret))
	encoded.Header.Set("Content-Encoding", "gzip")
	require.Equal(t, 415, p.send(t, encoded))
}

func TestMetricsAddUp(t *testing.T) {
	s := newScript()
	p := start(t, s.onEvent)
	began := time.Now()
	play(t, p, s)
	got := p.scrape(t)
	p.end(t)

	for _, webhook := range []string{"0", "1"} {
		last := got[fmt.Sprintf("mailtrap_webhook_last_delivery_timestamp_seconds{webhook=%q}", webhook)]
		require.WithinRange(t, time.UnixMilli(int64(last*1000)), began.Add(-time.Second), time.Now().Add(time.Second))
	}
	require.InDelta(t, (150+4*60)*60, got[`mailtrap_webhook_event_age_seconds_sum{result="failed"}`], 600)

	// The next tests check durations and ages.
	maps.DeleteFunc(got, func(name string, _ float64) bool {
		return strings.Contains(name, "_bucket") || strings.Contains(name, "_sum") || strings.Contains(name, "_timestamp_")
	})
	requireValues(t, map[string]float64{
		`mailtrap_webhook_requests_total{status="200",webhook="0"}`:              7,
		`mailtrap_webhook_requests_total{status="200",webhook="1"}`:              1,
		`mailtrap_webhook_requests_total{reason="wrong_signature",status="400"}`: 2,
		`mailtrap_webhook_requests_total{reason="no_signature",status="400"}`:    1,
		`mailtrap_webhook_requests_total{reason="bad_body",status="400"}`:        1,
		`mailtrap_webhook_requests_total{status="405"}`:                          1,
		`mailtrap_webhook_requests_total{status="413",webhook="0"}`:              1,
		`mailtrap_webhook_requests_total{status="415"}`:                          1,
		`mailtrap_webhook_requests_total{status="422",webhook="0"}`:              2,
		`mailtrap_webhook_requests_total{status="500",webhook="0"}`:              3,
		`mailtrap_webhook_requests_total{status="503",webhook="0"}`:              1,
		`mailtrap_webhook_delivery_duration_seconds_count{webhook="0"}`:          14,
		`mailtrap_webhook_delivery_duration_seconds_count{webhook="1"}`:          1,

		`mailtrap_webhook_events_total{outcome="handled"}`:   12,
		`mailtrap_webhook_events_total{outcome="duplicate"}`: 6,
		`mailtrap_webhook_events_total{outcome="dropped"}`:   2,
		`mailtrap_webhook_events_total{outcome="failed"}`:    3,
		`mailtrap_webhook_events_total{outcome="held"}`:      1,
		`mailtrap_webhook_events_total{outcome="unstarted"}`: 5, // of the broken body
		`mailtrap_webhook_unreadable_events_total`:           5, // 17 three times, the odd time, the cut-off line

		`mailtrap_webhook_callbacks_total{kind="delivery",result="ok"}`:                 3,
		`mailtrap_webhook_callbacks_total{kind="click",result="ok"}`:                    1,
		`mailtrap_webhook_callbacks_total{kind="bounce",result="ok"}`:                   1,
		`mailtrap_webhook_callbacks_total{kind="activity_log",result="ok"}`:             1,
		`mailtrap_webhook_callbacks_total{kind="inbound.message_received",result="ok"}`: 1,
		`mailtrap_webhook_callbacks_total{kind="unknown",result="ok"}`:                  3,
		`mailtrap_webhook_callbacks_total{kind="suspension",result="ok"}`:               1,
		`mailtrap_webhook_callbacks_total{kind="open",result="ok"}`:                     1,
		`mailtrap_webhook_callbacks_total{kind="open",result="failed"}`:                 1,
		`mailtrap_webhook_callbacks_total{kind="reject",result="failed"}`:               1,
		`mailtrap_webhook_callbacks_total{kind="spam",result="failed"}`:                 1,
		`mailtrap_webhook_callbacks_total{kind="unsubscribe",result="failed"}`:          2,
		`mailtrap_webhook_callback_duration_seconds_count`:                              17,

		`mailtrap_webhook_store_duration_seconds_count{operation="reserve"}`: 12,
		`mailtrap_webhook_store_duration_seconds_count{operation="commit"}`:  8,
		`mailtrap_webhook_store_duration_seconds_count{operation="release"}`: 3,

		`mailtrap_webhook_ready`: 1,

		// Unknown events, and the event with an odd time, have no age.
		`mailtrap_webhook_event_age_seconds_count{result="ok"}`:     8,
		`mailtrap_webhook_event_age_seconds_count{result="failed"}`: 5,
	}, got)
}

func TestDurations(t *testing.T) {
	s := newScript()
	p := start(t, s.onEvent)
	answered := p.deliverHeld(t, s, envelope(event("suspension", 1, time.Now())))
	entered := time.Now()
	time.Sleep(30 * time.Millisecond)
	waited := time.Since(entered).Seconds()
	close(s.leave)
	require.Equal(t, 200, <-answered)
	require.Equal(t, 405, p.send(t, newRequest(t, http.MethodGet, p.url, "", "")), "not a delivery")

	got := p.scrape(t)
	p.end(t)
	for name, label := range map[string]string{"delivery": `webhook="0"`, "callback": ""} {
		name = "mailtrap_webhook_" + name + "_duration_seconds"
		series := func(suffix string, labels ...string) float64 {
			return got[name+suffix+written(slices.DeleteFunc(append(labels, label), func(l string) bool { return l == "" }))]
		}
		require.GreaterOrEqual(t, series("_sum"), waited, name)
		require.EqualValues(t, 1, series("_count"), name)
		require.Zero(t, series("_bucket", `le="0.025"`), name)
		require.EqualValues(t, 1, series("_bucket", `le="+Inf"`), name)
	}
}

func TestAges(t *testing.T) {
	p := start(t, func(_ context.Context, ev mailtrapwebhook.Event) error {
		if ev.Name() == "open" {
			return errors.New("the database is away")
		}
		return nil
	})
	now := time.Now()
	require.Equal(t, 500, p.deliver(t, envelope(
		event("delivery", 1, now.Add(time.Hour)), // the clocks differ
		event("delivery", 2, now.Add(-90*time.Second)),
		event("open", 3, now.Add(-119*time.Minute)),
		event("open", 4, now.Add(-121*time.Minute)),
		event("open", 5, now.Add(-190*time.Minute)), // after GiveUpAfter
		event(kindInbound, 6, now.Add(-13*time.Hour)),
		event("brand new", 7, now.Add(-time.Hour)),
	)))
	got := p.scrape(t)
	p.end(t)
	for result, counts := range map[string]map[string]float64{
		"ok":     {"60": 1, "120": 2, "300": 2, "43200": 2, "86400": 3, "+Inf": 3},
		"failed": {"3600": 0, "7200": 1, "10800": 2, "12000": 3, "+Inf": 3},
	} {
		for le, want := range counts {
			series := fmt.Sprintf("mailtrap_webhook_event_age_seconds_bucket{le=%q,result=%q}", le, result)
			require.Equal(t, want, got[series], series)
		}
	}
	require.InDelta(t, 90+13*3600, got[`mailtrap_webhook_event_age_seconds_sum{result="ok"}`], 300)
	require.EqualValues(t, 1, got[`mailtrap_webhook_events_total{outcome="dropped"}`])
}

func TestBodiesInFlight(t *testing.T) {
	s := newScript()
	p := start(t, s.onEvent)
	body := envelope(event("suspension", 1, time.Now())) + strings.Repeat(" ", bodyPiece)
	answered := p.deliverHeld(t, s, body)
	require.EqualValues(t, 2*bodyPiece, p.scrape(t)["mailtrap_webhook_in_flight_body_bytes"])
	close(s.leave)
	require.Equal(t, 200, <-answered)
	require.Eventually(t, func() bool { return p.scrape(t)["mailtrap_webhook_in_flight_body_bytes"] == 0 },
		aWhile, time.Millisecond)
	p.end(t)
}

// Prometheus sees a first failure as an increase only if the series was at 0
// before.
func TestAllSeriesExistFromTheStart(t *testing.T) {
	s := newScript()
	p := start(t, s.onEvent)
	before := p.scrape(t)
	requireValues(t, map[string]float64{"mailtrap_webhook_ready": 1}, before)
	play(t, p, s)
	for i := range 30 { // everything that a client can choose
		now := time.Now()
		body := envelope(event(fmt.Sprintf("activity_log.%d", i), i, now), event(fmt.Sprintf("kind-%d", i), i, now))
		require.Equal(t, 200, p.deliver(t, body))
		r := newRequest(t, fmt.Sprintf("METHOD-%d", i), p.url+fmt.Sprintf("?tenant=%d", i), body, "")
		r.Host = fmt.Sprintf("host-%d.example", i)
		require.Equal(t, 405, p.send(t, r))
	}
	after := p.scrape(t)
	p.end(t)
	require.EqualValues(t, 31, after[`mailtrap_webhook_callbacks_total{kind="activity_log",result="ok"}`])
	require.Empty(t, cmp.Diff(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after))))
	require.Less(t, len(after), 200)
}

// requireValues fails the test unless got has the values of want and is
// otherwise 0.
func requireValues(t *testing.T, want, got map[string]float64) {
	t.Helper()
	got = maps.Clone(got)
	maps.DeleteFunc(got, func(_ string, v float64) bool { return v == 0 })
	require.Empty(t, cmp.Diff(want, got))
}
