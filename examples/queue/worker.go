package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	consumerName = "worker"

	// ackWait is how long the stream waits for a worker that has an event.
	// After that the worker counts as dead, and another one gets the event. An
	// event may wait here for prefetch others, each for handleTimeout.
	ackWait       = time.Minute
	prefetch      = 5
	handleTimeout = 10 * time.Second

	// pullExpiry is how often a worker asks for events. It notices within this
	// time that no server answers.
	pullExpiry = 10 * time.Second

	maxBackoff = 10 * time.Minute
)

// consumer returns the stream's consumer, which all workers share.
func (q *queue) consumer(ctx context.Context, ackWait time.Duration) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	consumer, err := q.stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable:   consumerName,
		AckPolicy: jetstream.AckExplicitPolicy,
		AckWait:   ackWait,
		// Without end: JetStream would stop handing out an event after a
		// maximum, and nobody would notice. A failing event comes every ten
		// minutes in the end, and the log has each failure.
		MaxDeliver: -1,
		// If this many events fail at a time, the cause is elsewhere. The
		// stream then hands out no others.
		MaxAckPending: 1000,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make the consumer %s: %w", consumerName, err)
	}
	return consumer, nil
}

// A handleFunc does the work for an event. After an error the event is handed
// out again, with the same id. If no retry cures an error, log it and return
// nil.
type handleFunc func(ctx context.Context, id string, ev mailtrapwebhook.Event) error

// A worker takes events from the stream, one at a time. Any number of workers
// may run, in this process and in others.
type worker struct {
	consumer jetstream.Consumer
	handle   handleFunc
	backoff  func(deliveries uint64) time.Duration
	logger   *slog.Logger
}

// run works until ctx ends. It then finishes the events that it has.
func (w *worker) run(ctx context.Context) error {
	consuming, err := w.consumer.Consume(w.take,
		jetstream.PullMaxMessages(prefetch),
		jetstream.PullExpiry(pullExpiry),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			w.logger.Warn("worker: the stream reported an error", "error", err) // the worker goes on if it can
		}),
	)
	if err != nil {
		return fmt.Errorf("cannot start the worker: %w", err)
	}
	closed := consuming.Closed()
	select {
	case <-closed:
		return errors.New("the worker ended: see the log for the reason")
	case <-ctx.Done():
		consuming.Drain()
		<-closed
		return nil
	}
}

// take handles a message and acknowledges it. If the acknowledgement gets lost,
// the message comes again.
func (w *worker) take(msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err == nil {
		err = w.work(msg, meta)
	}
	if err != nil {
		w.logger.Warn("the stream took no acknowledgement: the message comes again", "error", err)
	}
}

// work handles a message. Its error says why the stream took no
// acknowledgement.
func (w *worker) work(msg jetstream.Msg, meta *jetstream.MsgMetadata) error {
	log := w.logger.With("sequence", meta.Sequence.Stream)
	ev, err := decode(msg.Subject(), msg.Data())
	if err != nil {
		// Somebody else put it into the stream.
		log.Error("message is no event and is skipped", "error", err)
		return msg.TermWithReason("no event")
	}
	if err := w.callHandle(msg.Headers().Get(jetstream.MsgIDHeader), ev); err != nil {
		wait := w.backoff(meta.NumDelivered)
		log.Error("event failed", "event", ev, "deliveries", meta.NumDelivered, "retry_in", wait, "error", err)
		return msg.NakWithDelay(wait)
	}
	// Wait for the stream's answer: the program may end right after this.
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	return msg.DoubleAck(ctx)
}

// callHandle calls handle and turns a panic into an error. Otherwise one event
// could end the program at each start.
func (w *worker) callHandle(id string, ev mailtrapwebhook.Event) (err error) {
	defer func() {
		if recover() != nil { // the value may be personal: leave it out
			err = errors.New("the work panicked")
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), handleTimeout) // outlives run's ctx
	defer cancel()
	return w.handle(ctx, id, ev)
}

// backoff returns how long an event waits after a delivery that failed: a
// second at first, then twice as long each time, and at most maxBackoff.
func backoff(deliveries uint64) time.Duration {
	if deliveries > 10 {
		return maxBackoff
	}
	return time.Second << (deliveries - 1)
}

// decode returns the event of a message. The text of an unknown event may be
// anything, even no JSON.
func decode(subject string, text []byte) (mailtrapwebhook.Event, error) {
	var ev interface {
		mailtrapwebhook.Event
		UnmarshalJSON(text []byte) error
	}
	switch family := strings.Split(subject, ".")[1]; family {
	case familySending:
		ev = new(mailtrapwebhook.SendingWebhookEvent)
	case familyActivityLog:
		ev = new(mailtrapwebhook.ActivityLogWebhookEvent)
	case familyInbound:
		ev = new(mailtrapwebhook.InboundWebhookEvent)
	case familyUnknown:
		ev := new(mailtrapwebhook.UnknownEvent)
		if err := ev.UnmarshalJSON(text); err != nil || ev.Raw == "" {
			return &mailtrapwebhook.UnknownEvent{Raw: string(text)}, nil
		}
		return ev, nil
	default:
		return nil, errors.New("its subject names no family of events")
	}
	if err := ev.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	if ev.Name() == "" { // the text is null
		return nil, errors.New("its text is no event")
	}
	return ev, nil
}
