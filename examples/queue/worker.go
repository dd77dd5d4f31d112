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

	// ackWait is how long the stream waits for a worker to say that an event is handled, before it hands the event to
	// another: that one is dead. It must be over the time for which an event may wait and be handled here.
	ackWait       = time.Minute
	prefetch      = 5
	handleTimeout = 10 * time.Second

	// pullExpiry is how often a worker asks for events again, and how soon it notices that it is not heard.
	pullExpiry = 10 * time.Second

	maxBackoff = 10 * time.Minute
)

// consumer returns the place in the stream that all workers share.
func (q *queue) consumer(ctx context.Context, ackWait time.Duration) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	consumer, err := q.stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable:   consumerName,
		AckPolicy: jetstream.AckExplicitPolicy,
		AckWait:   ackWait,
		// Without end: an event beyond a maximum would stay in the stream, and nobody would look at it any more. One that
		// fails comes every ten minutes at last, and the log says so each time.
		MaxDeliver: -1,
		// With so many events failing at a time no others are handed out, since the fault is not theirs.
		MaxAckPending: 1000,
	})
	if err != nil {
		return nil, fmt.Errorf("making the consumer %s: %w", consumerName, err)
	}
	return consumer, nil
}

// A handleFunc does the work for an event. The id is the same when the event is handed out again. With an error it is
// handed out again; one that is of no use to be tried again should be logged, and nil returned.
type handleFunc func(ctx context.Context, id string, ev mailtrapwebhook.Event) error

// A worker takes events from the stream, one after the other. Any number of them may run, here and elsewhere.
type worker struct {
	consumer jetstream.Consumer
	handle   handleFunc
	backoff  func(deliveries uint64) time.Duration
	logger   *slog.Logger
}

// run works until ctx ends, and then finishes what has been handed out to it.
func (w *worker) run(ctx context.Context) error {
	consuming, err := w.consumer.Consume(w.take,
		jetstream.PullMaxMessages(prefetch),
		jetstream.PullExpiry(pullExpiry),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			w.logger.Warn("worker", "error", err) // it goes on by itself, if it can
		}),
	)
	if err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	closed := consuming.Closed()
	select {
	case <-closed:
		return errors.New("the worker ended: see the log")
	case <-ctx.Done():
		consuming.Drain()
		<-closed
		return nil
	}
}

// take handles a message and tells the stream what became of it. If that does not get there, the message comes again.
func (w *worker) take(msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err == nil {
		err = w.settle(msg, meta)
	}
	if err != nil {
		w.logger.Warn("the stream was not told what became of a message", "error", err)
	}
}

func (w *worker) settle(msg jetstream.Msg, meta *jetstream.MsgMetadata) error {
	log := w.logger.With("sequence", meta.Sequence.Stream)
	ev, err := decode(msg.Subject(), msg.Data())
	if err != nil {
		log.Error("message is no event and is passed over", "error", err) // somebody else put it there
		return msg.TermWithReason("no event")
	}
	if err := w.callHandle(msg.Headers().Get(jetstream.MsgIDHeader), ev); err != nil {
		again := w.backoff(meta.NumDelivered)
		log.Error("event failed", "event", ev, "deliveries", meta.NumDelivered, "again_in", again, "error", err)
		return msg.NakWithDelay(again)
	}
	// It waits until the stream knows, because the program may end at once.
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	return msg.DoubleAck(ctx)
}

// callHandle turns a panic into an error: one event must not end the program again and again, and the receiving with it.
func (w *worker) callHandle(id string, ev mailtrapwebhook.Event) (err error) {
	defer func() {
		if recover() != nil { // what it says may be personal
			err = errors.New("panic")
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), handleTimeout) // not run's, so that it finishes what it has
	defer cancel()
	return w.handle(ctx, id, ev)
}

// backoff returns how long an event waits that has been handed out so many times: 1 s, 2 s, 4 s, and so on.
func backoff(deliveries uint64) time.Duration {
	if deliveries > 10 {
		return maxBackoff
	}
	return time.Second << (deliveries - 1)
}

// decode returns the event of a message. The text of one that was unknown may be anything, even no JSON.
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
		return nil, errors.New("its subject is of no family of events")
	}
	if err := ev.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	if ev.Name() == "" { // its text is null
		return nil, errors.New("it has no event")
	}
	return ev, nil
}
