package main

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// metrics are what Prometheus fetches. The values of all labels are known beforehand, and none comes from a request.
type metrics struct {
	requests         *prometheus.CounterVec
	deliveryDuration prometheus.Histogram
	lastDelivery     prometheus.Gauge
	events           *prometheus.CounterVec
	callbacks        *prometheus.CounterVec
	callbackDuration prometheus.Histogram
	eventAge         *prometheus.HistogramVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	factory := promauto.With(registry)
	m := &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_webhook_requests_total",
			Help: "Requests by the status of the answer; for 400 also by the reason.",
		}, []string{"status", "reason"}),
		deliveryDuration: factory.NewHistogram(prometheus.HistogramOpts{
			Name:    "mailtrap_webhook_delivery_duration_seconds",
			Help:    "Time from the arrival of a verified delivery to its answer. Mailtrap waits 30 s.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 20, 25, 30},
		}),
		lastDelivery: factory.NewGauge(prometheus.GaugeOpts{
			Name: "mailtrap_webhook_last_delivery_timestamp_seconds",
			Help: "When the last verified delivery was answered, in Unix time; 0 if there was none.",
		}),
		events: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_webhook_events_total",
			Help: "Events of verified deliveries by what became of them.",
		}, []string{"outcome"}),
		callbacks: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_webhook_callbacks_total",
			Help: "Calls of the callback by the kind of event and their result.",
		}, []string{"kind", "result"}),
		callbackDuration: factory.NewHistogram(prometheus.HistogramOpts{
			Name:    "mailtrap_webhook_callback_duration_seconds",
			Help:    "Time that a call of the callback took. It is abandoned after 5 s.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		eventAge: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mailtrap_webhook_event_age_seconds",
			Help: "Age of an event when its callback was called, by the result." +
				" A failed one is given up after 3 h; Mailtrap pauses the webhook after 3 h 20 min.",
			Buckets: []float64{60, 120, 300, 600, 1800, 3600, 7200, 10800, 12000, 21600, 43200, 86400},
		}, []string{"result"}),
	}
	m.begin()
	return m
}

// begin makes all series begin at 0. One that began with its first count would not show that count as an increase, and an
// alert would miss the first failure.
func (m *metrics) begin() {
	for _, reason := range []string{noSignature, wrongSignature, badBody} {
		m.requests.WithLabelValues("400", reason)
	}
	for _, status := range []string{"200", "401", "403", "405", "413", "415", "422", "500", "503"} {
		m.requests.WithLabelValues(status, "")
	}
	for outcome := range outcomes(mailtrapwebhook.Report{}) {
		m.events.WithLabelValues(outcome)
	}
	for _, result := range []string{resultOK, resultFailed} {
		m.eventAge.WithLabelValues(result)
		for _, kind := range kinds {
			m.callbacks.WithLabelValues(kind, result)
		}
	}
}

// observe counts a request.
func (m *metrics) observe(r mailtrapwebhook.Report) {
	m.requests.WithLabelValues(strconv.Itoa(r.Status), reasonOf(r)).Inc()
	if r.Format == 0 { // not verified: what strangers send must not hide how Mailtrap's deliveries fare
		return
	}
	m.deliveryDuration.Observe(r.Duration.Seconds())
	m.lastDelivery.SetToCurrentTime()
	for outcome, n := range outcomes(r) {
		m.events.WithLabelValues(outcome).Add(float64(n))
	}
}

func outcomes(r mailtrapwebhook.Report) map[string]int {
	return map[string]int{
		"handled":   r.Handled,
		"duplicate": r.Duplicates,
		"dropped":   r.Dropped,
		"failed":    r.Failed,
		"held":      r.Held,
		"unstarted": r.Unstarted,
	}
}

// The reasons of an answer of 400.
const (
	noSignature    = "no_signature"
	wrongSignature = "wrong_signature"
	badBody        = "bad_body" // it is empty or broke off
)

// reasonOf tells apart what is answered 400, because no signature is a stranger's, and a wrong one most often the sign of
// a wrong secret.
func reasonOf(r mailtrapwebhook.Report) string {
	switch {
	case r.Status != http.StatusBadRequest:
		return ""
	case errors.Is(r.Err, mailtrapwebhook.ErrMissingSignature):
		return noSignature
	case errors.Is(r.Err, mailtrapwebhook.ErrInvalidSignature):
		return wrongSignature
	}
	return badBody
}

// The results of a call of the callback.
const (
	resultOK     = "ok"
	resultFailed = "failed" // with any error, a permanent one too, or a panic
)

// calledBack counts a call of the callback.
func (m *metrics) calledBack(kind string, ok bool, happened, started time.Time) {
	result := resultFailed
	if ok {
		result = resultOK
	}
	m.callbacks.WithLabelValues(kind, result).Inc()
	m.callbackDuration.Observe(time.Since(started).Seconds())
	if !happened.IsZero() {
		age := max(0, started.Sub(happened)) // clocks differ
		m.eventAge.WithLabelValues(result).Observe(age.Seconds())
	}
}

const (
	kindActivityLog = "activity_log"
	kindInbound     = "inbound.message_received"
	kindUnknown     = "unknown"
)

// kinds are all that kindOf returns.
var kinds = []string{
	string(mailtrapwebhook.EventDelivery),
	string(mailtrapwebhook.EventOpen),
	string(mailtrapwebhook.EventClick),
	string(mailtrapwebhook.EventUnsubscribe),
	string(mailtrapwebhook.EventSpam),
	string(mailtrapwebhook.EventSoftBounce),
	string(mailtrapwebhook.EventBounce),
	string(mailtrapwebhook.EventSuspension),
	string(mailtrapwebhook.EventReject),
	kindActivityLog,
	kindInbound,
	kindUnknown,
}

// kindOf returns the name of ev where there are few such names. Audit-log and unknown events have as many as Mailtrap
// likes, and are one kind each.
func kindOf(ev mailtrapwebhook.Event) string {
	switch ev := ev.(type) {
	case *mailtrapwebhook.SendingWebhookEvent:
		return ev.Name()
	case *mailtrapwebhook.ActivityLogWebhookEvent:
		return kindActivityLog
	case *mailtrapwebhook.InboundWebhookEvent:
		return kindInbound
	}
	return kindUnknown
}
