package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	consumerName = "worker"

	// handleTimeout is how long the work for an event may take, and grace how
	// long after that it may go on before the worker abandons it.
	handleTimeout = 10 * time.Second
	grace         = 100 * time.Millisecond

	// ackWait is how long the stream waits for a worker that has an event.
	// After that the worker counts as dead, and another one gets the event. An
	// event may wait here for prefetch others of its worker, and each takes
	// handleTimeout at most, or a moment longer.
	ackWait  = 90 * time.Second
	prefetch = 5

	// pullExpiry is how often a program asks for events. It notices within this
	// time that no server answers.
	pullExpiry = 10 * time.Second

	// maxAckPending is how many events of a stream may be with workers or wait
	// for their next attempt. The server looks through all of them while events
	// fail.
	maxAckPending = 100_000

	// An event that fails waits a second, then twice as long each time, and at
	// most maxBackoff. 30 attempts take three and a half hours.
	maxBackoff      = 10 * time.Minute
	defaultAttempts = 30
)

// consumer returns the consumer of a stream, which all workers share.
func (q *queue) consumer(
	ctx context.Context, stream jetstream.Stream, ackWait time.Duration,
) (jetstream.Consumer, error) {
	ctx, cancel := q.untilDenied(ctx)
	defer cancel()
	consumer, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable:   consumerName,
		AckPolicy: jetstream.AckExplicitPolicy,
		AckWait:   ackWait,
		// The worker counts the attempts. JetStream would stop handing out an
		// event after a maximum, and nobody would notice.
		MaxDeliver:    -1,
		MaxAckPending: maxAckPending,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make the consumer %s: %w", consumerName, denial(ctx, err))
	}
	return consumer, nil
}

// A handleFunc does the work for an event. After an error the event is handed
// out again, with the same id. After a [mailtrapwebhook.Permanent] error it
// becomes a dead letter. It must be safe for concurrent use.
//
// ctx ends after handleTimeout. If the work goes on, the worker abandons it:
// the attempt has failed. If the work returns nil later, the event is handled
// all the same.
type handleFunc func(ctx context.Context, id string, ev mailtrapwebhook.Event) error

// A worker takes events from a stream, a few at a time. Any number of workers
// may run, in this process and in others.
type worker struct {
	queue    *queue
	consumer jetstream.Consumer
	retries  bool // the consumer's events have failed before
	handle   handleFunc
	parallel int    // how many events at a time
	attempts uint64 // after these, an event is a dead letter
	timeout  time.Duration
	backoff  func(attempts uint64) time.Duration
	metrics  *metrics
	logger   *slog.Logger
}

// retrier returns a worker that does the same for the stream of events that
// failed. Those must not keep other events from their first attempt: they have
// workers of their own.
func (w *worker) retrier(consumer jetstream.Consumer) *worker {
	r := *w
	r.consumer, r.retries = consumer, true
	return &r
}

// run works until ctx ends. It then ends the events that it has begun, and
// gives back the others.
func (w *worker) run(ctx context.Context) error {
	msgs := make(chan jetstream.Msg)
	consuming, err := w.consumer.Consume(func(msg jetstream.Msg) { pass(ctx, msg, msgs) },
		jetstream.PullMaxMessages(prefetch*w.parallel),
		jetstream.PullExpiry(pullExpiry),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			w.logger.Warn("worker: the stream reported an error", "error", err) // the worker goes on if it can
		}),
	)
	if err != nil {
		return fmt.Errorf("cannot start the worker: %w", err)
	}
	var working sync.WaitGroup
	for range w.parallel {
		working.Go(func() {
			for msg := range msgs {
				w.take(msg)
			}
		})
	}
	closed := consuming.Closed()
	select {
	case <-closed:
		err = errors.New("the worker ended: see the log for the reason")
	case <-ctx.Done():
		consuming.Drain()
		<-closed
	}
	close(msgs)
	working.Wait()
	return errors.Join(err, w.queue.flush()) // what pass gave back
}

// pass passes a message to a worker that is free. When ctx has ended, it gives
// the message back to the stream, for other programs.
func pass(ctx context.Context, msg jetstream.Msg, msgs chan<- jetstream.Msg) {
	if ctx.Err() == nil {
		select {
		case msgs <- msg:
			return
		case <-ctx.Done():
		}
	}
	// Not at once, or the stream would hand it to the pull that is ending. If
	// this gets lost, the message comes again after ackWait.
	_ = msg.NakWithDelay(time.Second)
}

// flush waits until the server has what was sent. Without a connection there is
// nothing to wait for.
func (q *queue) flush() error {
	if err := q.conn.FlushTimeout(publishTimeout); err != nil && q.conn.IsConnected() {
		return fmt.Errorf("cannot give events back: %w", err)
	}
	return nil
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
	attempt := meta.NumDelivered
	if attempt > 1 {
		w.metrics.retries.Inc()
	} else if w.retries { // it has just failed for the first time
		return msg.NakWithDelay(w.backoff(attempt))
	}
	ev, err := decode(msg.Subject(), msg.Data())
	if err != nil { // somebody else put it into the stream
		return w.bury(msg, meta, reasonNoEvent, err)
	}
	if attempt > w.attempts { // the last attempt ended its process, or there was no room for the dead letter
		return w.bury(msg, meta, reasonAttempts, errors.New("no worker told what became of the last attempt"))
	}
	id := idOf(msg.Headers())
	takeBack := make(chan func() error, 1) // the failure, if the work succeeds late
	err = w.callHandle(id, ev, func(err error) { w.returnedLate(id, err, <-takeBack) })
	w.metrics.count(err)
	if err == nil {
		return acknowledge(msg)
	}
	undo, err := w.fail(msg, meta, ev, err)
	takeBack <- undo
	return err
}

// fail decides what becomes of an event that failed. Its error says why the
// stream took no acknowledgement. undo takes the failure back.
func (w *worker) fail(
	msg jetstream.Msg, meta *jetstream.MsgMetadata, ev mailtrapwebhook.Event, cause error,
) (undo func() error, err error) {
	attempt := meta.NumDelivered
	switch {
	case isPermanent(cause):
		return nothing, w.bury(msg, meta, reasonPermanent, cause)
	case attempt >= w.attempts:
		return nothing, w.bury(msg, meta, reasonAttempts, cause)
	}
	wait := w.backoff(attempt)
	w.logger.Error("event failed", "id", idOf(msg.Headers()), "event", ev, "attempt", attempt, "retry_in", wait, "error", cause)
	if !w.retries {
		return w.moveToRetries(msg, meta)
	}
	return w.acknowledgeAnyway(msg), msg.NakWithDelay(wait)
}

// nothing takes nothing back: a dead letter stays one.
func nothing() error { return nil }

// acknowledgeAnyway returns a function that acknowledges a message that was put
// off. msg.Ack refuses to, but the stream takes it.
func (w *worker) acknowledgeAnyway(msg jetstream.Msg) func() error {
	return func() error { return w.queue.conn.Publish(msg.Reply(), []byte("+ACK")) }
}

// acknowledge waits for the stream's answer: the program may end right after
// this.
func acknowledge(msg jetstream.Msg) error {
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	return msg.DoubleAck(ctx)
}

var errAbandoned = errors.New("the work did not return in time and was abandoned: let it return when its context ends")

// callHandle calls handle and returns its error, or errAbandoned. It calls
// afterAbandon with what an abandoned call returns.
func (w *worker) callHandle(id string, ev mailtrapwebhook.Event, afterAbandon func(error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), w.timeout) // outlives run's ctx
	defer cancel()
	returned := make(chan error, 1)
	go func() {
		err := errors.New("the work panicked") // which stays after runtime.Goexit too
		defer func() {
			// A panic must not end the program at each start. Its value may be
			// personal: leave it out.
			if recover() != nil {
				w.logger.Error("the work panicked", "id", id, "stack", string(debug.Stack()))
			}
			returned <- err
		}()
		err = w.handle(ctx, id, ev)
	}()
	abandon := time.NewTimer(w.timeout + grace)
	defer abandon.Stop()
	select {
	case err := <-returned:
		return err
	case <-abandon.C:
		go func() { afterAbandon(<-returned) }()
		return errAbandoned
	}
}

// returnedLate takes back the failure of an event whose work was abandoned and
// has succeeded since.
func (w *worker) returnedLate(id string, err error, takeBack func() error) {
	if err == nil {
		w.logger.Warn("abandoned work has succeeded", "id", id)
		err = takeBack()
	}
	if err != nil {
		w.logger.Warn("abandoned work has ended, and the event comes again", "id", id, "error", err)
	}
}

// backoff returns how long an event waits after this many attempts.
func backoff(attempts uint64) time.Duration {
	if attempts > 10 {
		return maxBackoff
	}
	return time.Second << (attempts - 1)
}
