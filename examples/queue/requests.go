package main

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// requestMetrics are what this process counts of its requests. Names and labels
// are those of examples/observability, whose alerts therefore watch this program
// too.
type requestMetrics struct {
	requests     *prometheus.CounterVec
	duration     prometheus.Histogram
	lastDelivery prometheus.Gauge
}

// The reasons for the status 400.
const (
	noSignature    = "no_signature"
	wrongSignature = "wrong_signature"
	badBody        = "bad_body" // the body is empty or broke off
)

func newRequestMetrics(registry prometheus.Registerer) *requestMetrics {
	factory := promauto.With(registry)
	m := &requestMetrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_webhook_requests_total",
			Help: "Requests by the status of the answer, 400 by the reason too.",
		}, []string{"status", "reason"}),
		duration: factory.NewHistogram(prometheus.HistogramOpts{
			Name: "mailtrap_webhook_delivery_duration_seconds",
			Help: "Time from the arrival of a verified delivery to its answer. Mailtrap waits 30 s.",
			// A delivery has deliveryTimeout, and the answer a moment more.
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 20},
		}),
		lastDelivery: factory.NewGauge(prometheus.GaugeOpts{
			Name: "mailtrap_webhook_last_delivery_timestamp_seconds",
			Help: "Unix time of the answer to the last verified delivery, or 0.",
		}),
	}
	// Prometheus sees no increase in a series that begins at 1.
	for _, reason := range []string{noSignature, wrongSignature, badBody} {
		m.requests.WithLabelValues("400", reason)
	}
	for _, status := range []string{"200", "405", "413", "415", "422", "500", "503"} {
		m.requests.WithLabelValues(status, "")
	}
	return m
}

// observe counts a request.
func (m *requestMetrics) observe(_ context.Context, r mailtrapwebhook.Report) {
	m.requests.WithLabelValues(strconv.Itoa(r.Status), reasonOf(r)).Inc()
	// The Handler decodes verified bodies only. Strangers' requests must not
	// hide that Mailtrap's stay away.
	if r.Format != 0 || r.Status == http.StatusUnprocessableEntity {
		m.duration.Observe(r.Duration.Seconds())
		m.lastDelivery.SetToCurrentTime()
	}
}

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
