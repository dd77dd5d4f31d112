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
	deliveryDuration *prometheus.HistogramVec
	lastDelivery     *prometheus.GaugeVec
	inFlight         prometheus.Gauge
	events           *prometheus.CounterVec
	unreadable       prometheus.Counter
	callbacks        *prometheus.CounterVec
	callbackDuration prometheus.Histogram
	eventAge         *prometheus.HistogramVec
	storeDuration    *prometheus.HistogramVec
	storeErrors      *prometheus.CounterVec
	spans            *prometheus.CounterVec
}

// newMetrics returns the metrics for a number of webhooks. The label webhook is
// a number below that.
func newMetrics(registry prometheus.Registerer, webhooks int) *metrics {
	factory := promauto.With(registry)
	m := &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_webhook_requests_total",
			Help: "Requests by the status of the answer, 400 by the reason too, and verified ones by their webhook.",
		}, []string{"status", "reason", "webhook"}),
		deliveryDuration: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mailtrap_webhook_delivery_duration_seconds",
			Help: "Time from the arrival of a verified delivery to its answer. Mailtrap waits 30 s.",
			// The alert MailtrapWebhookSlow needs 20; callbacks may take 25.
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 20, 25, 30},
		}, []string{"webhook"}),
		lastDelivery: factory.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mailtrap_webhook_last_delivery_timestamp_seconds",
			Help: "Unix time of the answer to the last verified delivery, or 0.",
		}, []string{"webhook"}),
		inFlight: factory.NewGauge(prometheus.GaugeOpts{
			Name: "mailtrap_webhook_in_flight_body_bytes",
			Help: "Memory of the bodies of unanswered requests, in pieces of 64 KiB. MaxInFlightBytes is 64 MiB.",
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
		storeDuration: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "mailtrap_webhook_store_duration_seconds",
			Help:    "Time that a call of the store of handled events took. The Handler waits at most 5 s.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"operation"}),
		storeErrors: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_webhook_store_errors_total",
			Help: "Calls of the store of handled events that failed.",
		}, []string{"operation"}),
		spans: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_webhook_spans_total",
			Help: "Spans by what became of them. All but exported are lost.",
		}, []string{"result"}),
	}
	m.begin(webhooks)
	return m
}

// begin makes all series begin at 0. Prometheus sees no increase in a series
// that begins at 1, and an alert would miss the first failure.
func (m *metrics) begin(webhooks int) {
	for _, reason := range []string{noSignature, wrongSignature, badBody} {
		m.requests.WithLabelValues("400", reason, notVerified)
	}
	for _, status := range []string{"401", "403", "405", "413", "415", "500", "503"} {
		m.requests.WithLabelValues(status, "", notVerified)
	}
	for i := range webhooks {
		webhook := strconv.Itoa(i)
		for _, status := range []string{"200", "413", "422", "500", "503"} {
			m.requests.WithLabelValues(status, "", webhook)
		}
		m.deliveryDuration.WithLabelValues(webhook)
		m.lastDelivery.WithLabelValues(webhook)
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
	for _, operation := range []string{storeReserve, storeCommit, storeRelease} {
		m.storeDuration.WithLabelValues(operation)
		m.storeErrors.WithLabelValues(operation)
	}
	for _, result := range []string{spanExported, spanQueueFull, spanExportFailed} {
		m.spans.WithLabelValues(result)
	}
}

// notVerified is the label webhook of requests without a valid signature.
const notVerified = ""

// observe counts a request. Its webhook is that of webhookOf.
func (m *metrics) observe(r mailtrapwebhook.Report, webhook string) {
	m.requests.WithLabelValues(strconv.Itoa(r.Status), reasonOf(r), webhook).Inc()
	if webhook == notVerified { // strangers' requests must not hide the state of Mailtrap's
		return
	}
	m.deliveryDuration.WithLabelValues(webhook).Observe(r.Duration.Seconds())
	m.lastDelivery.WithLabelValues(webhook).SetToCurrentTime()
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
func (m *metrics) calledBack(kind, result string, happened, started time.Time) {
	m.callbacks.WithLabelValues(kind, result).Inc()
	m.callbackDuration.Observe(time.Since(started).Seconds())
	if !happened.IsZero() { // an event without a time has no age
		age := max(0, started.Sub(happened)) // Mailtrap's clock may be ahead
		m.eventAge.WithLabelValues(result).Observe(age.Seconds())
	}
}

// storeCalled counts a call of the store.
func (m *metrics) storeCalled(operation string, ok bool, started time.Time) {
	m.storeDuration.WithLabelValues(operation).Observe(time.Since(started).Seconds())
	if !ok {
		m.storeErrors.WithLabelValues(operation).Inc()
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
