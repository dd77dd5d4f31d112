package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// statusTimeout bounds the questions to the stream for a scrape.
const statusTimeout = 5 * time.Second

// metrics are what the workers of this process count.
type metrics struct {
	attempts    *prometheus.CounterVec
	retries     prometheus.Counter
	deadLetters *prometheus.CounterVec
}

// The results of an attempt.
const (
	resultHandled   = "handled"
	resultFailed    = "failed"
	resultAbandoned = "abandoned"
)

func newMetrics(registry prometheus.Registerer) *metrics {
	factory := promauto.With(registry)
	m := &metrics{
		attempts: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_queue_attempts_total",
			Help: "Attempts to handle an event, by result.",
		}, []string{"result"}),
		retries: factory.NewCounter(prometheus.CounterOpts{
			Name: "mailtrap_queue_redeliveries_total",
			Help: "Events that were handed to a worker another time.",
		}),
		deadLetters: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "mailtrap_queue_dead_letters_total",
			Help: "Events that became dead letters, by reason.",
		}, []string{"reason"}),
	}
	// Prometheus sees no increase in a series that begins at 1.
	for _, result := range []string{resultHandled, resultFailed, resultAbandoned} {
		m.attempts.WithLabelValues(result)
	}
	for _, reason := range []string{reasonPermanent, reasonAttempts, reasonNoEvent} {
		m.deadLetters.WithLabelValues(reason)
	}
	return m
}

// count counts an attempt.
func (m *metrics) count(err error) {
	result := resultFailed
	switch {
	case err == nil:
		result = resultHandled
	case errors.Is(err, errAbandoned):
		result = resultAbandoned
	}
	m.attempts.WithLabelValues(result).Inc()
}

// status is what the servers say of the streams.
type status struct {
	waiting uint64        // events that no worker has had
	lag     time.Duration // age of the oldest of them
	working int           // events that workers have in their first attempt
	oldest  time.Duration // age of the oldest event that is not handled
	deadAge time.Duration // age of the oldest dead letter
	streams map[string]*jetstream.StreamInfo
}

// The streams by their names in metrics.
const (
	streamEvents      = "events"
	streamRetries     = "retries"
	streamDeadLetters = "dead_letters"
)

func (q *queue) status(ctx context.Context, consumer jetstream.Consumer) (s status, err error) {
	s.streams = make(map[string]*jetstream.StreamInfo)
	for name, stream := range map[string]jetstream.Stream{
		streamEvents: q.stream, streamRetries: q.retry, streamDeadLetters: q.dead,
	} {
		if s.streams[name], err = stream.Info(ctx); err != nil {
			return s, err
		}
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return s, err
	}
	s.waiting, s.working = info.NumPending, info.NumAckPending
	if s.lag, err = q.ageAfter(ctx, info.Delivered.Stream); err != nil {
		return s, err
	}
	if s.oldest, err = q.ageAfter(ctx, info.AckFloor.Stream); err != nil {
		return s, err
	}
	if retries := s.streams[streamRetries].State; retries.Msgs > 0 {
		s.oldest = max(s.oldest, time.Since(retries.FirstTime)) // since its first failure
	}
	if dead := s.streams[streamDeadLetters].State; dead.Msgs > 0 {
		s.deadAge = max(0, time.Since(dead.FirstTime))
	}
	return s, nil
}

// ageAfter returns the age of the first event after a sequence number, or 0 if
// there is none.
func (q *queue) ageAfter(ctx context.Context, seq uint64) (time.Duration, error) {
	msg, err := q.stream.GetMsg(ctx, seq+1, jetstream.WithGetMsgSubject(subjectPrefix+".>"))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	}
	return max(0, time.Since(msg.Time)), nil // the server's clock may be ahead
}

// A collector asks the servers at each scrape.
type collector struct {
	queue    *queue
	consumer jetstream.Consumer
	logger   *slog.Logger
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("mailtrap_queue_"+name, help, labels, nil)
}

var (
	upDesc       = describe("up", "Whether the stream answers, 1 or 0.")
	waitingDesc  = describe("waiting_events", "Events that no worker has had.")
	lagDesc      = describe("lag_seconds", "Age of the oldest event that no worker has had, or 0.")
	workingDesc  = describe("working_events", "Events that workers have in their first attempt.")
	retryingDesc = describe("retrying_events", "Events that failed and are retried.")
	oldestDesc   = describe("oldest_event_seconds", "Age of the oldest event that is not handled, or 0.")
	deadDesc     = describe("dead_letters", "Events that are dead letters now.")
	deadAgeDesc  = describe("oldest_dead_letter_seconds", "Age of the oldest dead letter, or 0.")
	bytesDesc    = describe("stream_bytes", "Bytes that a stream has.", "stream")
	maxBytesDesc = describe("stream_max_bytes", "Bytes beyond which a stream takes no more.", "stream")
)

// Describe implements [prometheus.Collector].
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		upDesc, waitingDesc, lagDesc, workingDesc, retryingDesc, oldestDesc, deadDesc, deadAgeDesc, bytesDesc, maxBytesDesc,
	} {
		descs <- desc
	}
}

// Collect implements [prometheus.Collector]. Without an answer from the servers
// there is nothing but up.
func (c *collector) Collect(values chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		values <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	s, err := c.queue.status(ctx, c.consumer)
	if err != nil {
		c.logger.Warn("metrics: the stream does not answer", "error", err)
		gauge(upDesc, 0)
		return
	}
	gauge(upDesc, 1)
	gauge(waitingDesc, float64(s.waiting))
	gauge(lagDesc, s.lag.Seconds())
	gauge(workingDesc, float64(s.working))
	gauge(retryingDesc, float64(s.streams[streamRetries].State.Msgs))
	gauge(oldestDesc, s.oldest.Seconds())
	gauge(deadDesc, float64(s.streams[streamDeadLetters].State.Msgs))
	gauge(deadAgeDesc, s.deadAge.Seconds())
	for stream, info := range s.streams {
		gauge(bytesDesc, float64(info.State.Bytes), stream)
		gauge(maxBytesDesc, float64(info.Config.MaxBytes), stream)
	}
}
