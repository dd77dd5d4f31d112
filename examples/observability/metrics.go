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

// metrics are the metrics that Prometheus fetches. No value of a label comes
// from a request.
type metrics struct {
	requests         *prometheus.CounterVec
	deliveryDuration prometheus.Histogram
	lastDelivery     prometheus.Gauge
	events           *prometheus.CounterVec
	unreadable       prometheus.Counter
	callbacks        *prometheus.CounterVec
	callbackDuration prometheus.Histogram
	eventAge         *prometheus.HistogramVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	factory := promauto.With(registry)
	m := &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_webhook_requests_total",
			Help: "Requests by the status of the answer, and 400 by the reason too.",
		}, []string{"status", "reason"}),
		deliveryDuration: factory.NewHistogram(prometheus.HistogramOpts{
			Name: "mailtrap_webhook_delivery_duration_seconds",
			Help: "Time from the arrival of a verified delivery to its answer. Mailtrap waits 30 s.",
			// The alert MailtrapWebhookSlow needs 20; callbacks may take 25.
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 20, 25, 30},
		}),
		lastDelivery: factory.NewGauge(prometheus.GaugeOpts{
			Name: "mailtrap_webhook_last_delivery_timestamp_seconds",
			Help: "Unix time of the answer to the last verified delivery, or 0.",
		}),
		events: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_webhook_events_total",
			Help: "Events of verified deliveries by outcome.",
		}, []string{"outcome"}),
		unreadable: factory.NewCounter(prometheus.CounterOpts{
			Name: "mailtrap_webhook_unreadable_events_total",
			Help: "Events of verified deliveries that have an Err: a field, or all of it, could not be read.",
		}),
		callbacks: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_webhook_callbacks_total",
			Help: "Calls of the callback by the kind of event and the result.",
		}, []string{"kind", "result"}),
		callbackDuration: factory.NewHistogram(prometheus.HistogramOpts{
			Name: "mailtrap_webhook_callback_duration_seconds",
			Help: "Time that a call of the callback took. The Handler waits at most 5 s.",
			// 5 is the Handler's EventTimeout; abandoned calls take longer.
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		eventAge: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mailtrap_webhook_event_age_seconds",
			Help: "Age of an event at the call of its callback, by the result." +
				" After 3 h a failed event is dropped, and after 3 h 20 min Mailtrap pauses the webhook.",
			// 7200 is the alert MailtrapWebhookPauseNear, 10800 GiveUpAfter,
			// and 12000 the time until Mailtrap pauses the webhook.
			Buckets: []float64{60, 120, 300, 600, 1800, 3600, 7200, 10800, 12000, 21600, 43200, 86400},
		}, []string{"result"}),
	}
	m.begin()
	return m
}

// begin makes all series begin at 0. Prometheus sees no increase in a series
// that begins at 1, and an alert would miss the first failure.
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
	if r.Format == 0 { // not verified: strangers' requests must not hide the state of Mailtrap's
		return
	}
	m.deliveryDuration.Observe(r.Duration.Seconds())
	m.lastDelivery.SetToCurrentTime()
	for outcome, n := range outcomes(r) {
		m.events.WithLabelValues(outcome).Add(float64(n))
	}
	m.unreadable.Add(float64(r.Unreadable))
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

// The reasons for the status 400.
const (
	noSignature    = "no_signature"
	wrongSignature = "wrong_signature"
	badBody        = "bad_body" // the body is empty or broke off
)

// reasonOf returns the reason for the status 400. Strangers send no signature;
// a wrong signature often means a wrong secret.
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

// The results of a callback.
const (
	resultOK     = "ok"
	resultFailed = "failed" // any error, also a permanent one, or a panic
)

// calledBack counts a call of the callback.
func (m *metrics) calledBack(kind string, ok bool, happened, started time.Time) {
	result := resultFailed
	if ok {
		result = resultOK
	}
	m.callbacks.WithLabelValues(kind, result).Inc()
	m.callbackDuration.Observe(time.Since(started).Seconds())
	if !happened.IsZero() { // an event without a time has no age
		age := max(0, started.Sub(happened)) // Mailtrap's clock may be ahead
		m.eventAge.WithLabelValues(result).Observe(age.Seconds())
	}
}

const (
	kindActivityLog = "activity_log"
	kindInbound     = "inbound.message_received"
	kindUnknown     = "unknown"
)

// kinds has every value that kindOf returns.
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

// kindOf returns the kind of ev as the value of a label. Audit-log and unknown
// events have any number of names, so each of the two is one kind.
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
