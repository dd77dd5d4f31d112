package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	streamName    = "MAILTRAP"
	subjectPrefix = "mailtrap"

	// duplicateWindow is how long the stream knows an event by its id. Mailtrap
	// repeats a delivery for 3 hours and 20 minutes, and inbound events for 24
	// hours. The half hour covers the last attempt. JetStream's default is two
	// minutes, which is over before the first retry.
	duplicateWindow = 24*time.Hour + 30*time.Minute

	// openTimeout bounds each step of the start. publishTimeout bounds the
	// storing of an event: an election takes some seconds, and a write far
	// less.
	openTimeout    = 30 * time.Second
	publishTimeout = 10 * time.Second

	// maxPending is how many events may wait for their acknowledgement at a
	// time, over all deliveries. Twice as many are no faster.
	maxPending = 4000

	// maxPayload is the most that a message may have, headers included;
	// maxHeaderBytes is ample for those, a dead letter's reason too. Other
	// servers take 1 MiB by default, a thousand times what an event has, and
	// refuse larger messages.
	maxPayload     = 8 << 20
	maxHeaderBytes = 4 << 10
)

// A queue has three streams: of events, of those that failed and are retried,
// and of dead letters.
type queue struct {
	lock   *flock.Flock   // on the directory
	server *server.Server // inside the program; nil with -nats
	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	retry  jetstream.Stream
	dead   jetstream.Stream
	logger *slog.Logger
}

// openQueue returns the queue with its streams. It makes them where there are
// none.
func openQueue(ctx context.Context, opts options, logger *slog.Logger) (_ *queue, err error) {
	q, err := connectQueue(opts, logger)
	if err != nil {
		return nil, err
	}
	for _, stream := range []struct {
		opened *jetstream.Stream
		config jetstream.StreamConfig
	}{
		{&q.stream, streamConfig(opts)}, {&q.retry, retryConfig(opts)}, {&q.dead, deadConfig(opts)},
	} {
		if *stream.opened, err = q.openStream(ctx, stream.config); err != nil {
			q.close()
			return nil, err
		}
	}
	return q, nil
}

// connectQueue connects to the servers, or starts the server inside the
// program. The queue has no streams yet.
func connectQueue(opts options, logger *slog.Logger) (_ *queue, err error) {
	q := &queue{logger: logger}
	defer func() {
		if err != nil {
			q.close()
		}
	}()
	if opts.nats.urls == "" {
		if q.lock, err = lockDir(opts.dir); err != nil {
			return nil, err
		}
		if q.server, err = startServer(opts.dir, logger); err != nil {
			return nil, err
		}
	}
	if q.conn, err = connect(opts.nats, q.server, logger); err != nil {
		return nil, err
	}
	// Without the timeout, a lost acknowledgement keeps its place among the
	// pending ones until the connection breaks.
	q.js, err = jetstream.New(q.conn,
		jetstream.WithPublishAsyncTimeout(publishTimeout), jetstream.WithPublishAsyncMaxPending(maxPending))
	return q, err
}

func (q *queue) close() {
	if q.conn != nil {
		q.conn.Close()
	}
	if q.server != nil {
		q.server.Shutdown()
		q.server.WaitForShutdown()
	}
	if q.lock != nil {
		_ = q.lock.Unlock() // the end of the program unlocks it too
	}
}

// openStream returns the stream with these settings. It makes the stream, or
// changes it, only if it must: the account may not have the right to.
func (q *queue) openStream(ctx context.Context, want jetstream.StreamConfig) (jetstream.Stream, error) {
	ctx, cancel := q.untilDenied(ctx)
	defer cancel()
	var differing []string
	stream, err := q.js.Stream(ctx, want.Name)
	switch {
	case err == nil:
		if differing = differences(stream.CachedInfo().Config, want); len(differing) > 0 {
			stream, err = q.js.UpdateStream(ctx, want)
		}
	case errors.Is(err, jetstream.ErrStreamNotFound):
		stream, err = q.js.CreateStream(ctx, want)
	}
	if err != nil {
		err = denial(ctx, err)
		return nil, fmt.Errorf("cannot open the stream %s: %w (%s)", want.Name, err, hint(err, differing))
	}
	return stream, nil
}

// untilDenied returns a context for one step of the start. It ends when the
// server denies something: the server tells the connection so, and leaves the
// request without an answer.
func (q *queue) untilDenied(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	ctx, deny := context.WithCancelCause(ctx)
	q.conn.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		q.logger.Error("nats: error", "error", err)
		if errors.Is(err, nats.ErrPermissionViolation) {
			deny(err)
		}
	})
	return ctx, cancel
}

// denial returns what ended a context of untilDenied, or else err.
func denial(ctx context.Context, err error) error {
	if denied := context.Cause(ctx); errors.Is(denied, nats.ErrPermissionViolation) {
		return denied
	}
	return err
}

// hint says what to do about an error of openStream.
func hint(err error, differing []string) string {
	switch {
	case errors.Is(err, nats.ErrPermissionViolation) && len(differing) > 0:
		return "the account may not change the stream: let an administrator set its " + strings.Join(differing, ", ") +
			", or start with the -replicas and -max-bytes that it has"
	case errors.Is(err, nats.ErrPermissionViolation):
		return "allow the account this subject, or let an administrator make the stream"
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled),
		errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return "enable JetStream on the servers and for the account"
	}
	return "does the cluster have -replicas servers and room for -max-bytes?"
}

func streamConfig(opts options) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        streamName,
		Description: "events of Mailtrap's webhooks",
		Subjects:    []string{subjectPrefix + ".>"},
		Storage:     jetstream.FileStorage,
		Replicas:    opts.replicas,
		Duplicates:  duplicateWindow,
		// Keep events that were handled. A starting server learns the ids from
		// the stored events. With WorkQueuePolicy, which removes handled
		// events, it would store them again. See sweep for their end.
		Retention: jetstream.LimitsPolicy,
		// No age removes an event that waits: only sweep removes events.
		MaxAge:            0,
		MaxMsgs:           -1,
		MaxMsgsPerSubject: -1,
		MaxBytes:          opts.maxBytes,
		// A full stream refuses new events, and Mailtrap sends them again. The
		// default, DiscardOld, drops acknowledged events that may be unhandled.
		Discard: jetstream.DiscardNew,
	}
}

// differences returns the names of the settings in which two streams differ.
func differences(have, want jetstream.StreamConfig) (names []string) {
	for _, setting := range []struct {
		name string
		same bool
	}{
		{"subjects", slices.Equal(have.Subjects, want.Subjects)},
		{"storage", have.Storage == want.Storage},
		{"num_replicas", have.Replicas == want.Replicas},
		{"duplicate_window", have.Duplicates == want.Duplicates},
		{"retention", have.Retention == want.Retention},
		{"max_age", have.MaxAge == want.MaxAge},
		{"max_msgs", have.MaxMsgs == want.MaxMsgs},
		{"max_msgs_per_subject", have.MaxMsgsPerSubject == want.MaxMsgsPerSubject},
		{"max_bytes", have.MaxBytes == want.MaxBytes},
		{"discard", have.Discard == want.Discard},
	} {
		if !setting.same {
			names = append(names, setting.name)
		}
	}
	return names
}

// publish stores the events of a delivery in the stream. It returns nil, which
// acknowledges the delivery, if all of them are stored. After an error Mailtrap
// sends the delivery again, and the stream drops the events that it has.
func (q *queue) publish(ctx context.Context, d *mailtrapwebhook.Delivery) error {
	acks := make([]jetstream.PubAckFuture, len(d.Events))
	for i, ev := range d.Events {
		// Publishing waits while too many acknowledgements are pending.
		wait := publishTimeout
		if deadline, ok := ctx.Deadline(); ok {
			wait = max(time.Until(deadline), time.Nanosecond)
		}
		var err error
		if acks[i], err = q.js.PublishMsgAsync(message(ev, d.Keys[i]), jetstream.WithStallWait(wait)); err != nil {
			return fmt.Errorf("cannot publish event %d of %d: %w", i+1, len(acks), err)
		}
	}
	for i, ack := range acks {
		select {
		case <-ack.Ok(): // stored, now or before
		case err := <-ack.Err():
			return fmt.Errorf("event %d of %d was not stored: %w", i+1, len(acks), err)
		case <-ctx.Done():
			return fmt.Errorf("event %d of %d was not stored in time: %w", i+1, len(acks), ctx.Err())
		}
	}
	return nil
}
