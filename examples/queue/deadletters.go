package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A dead letter is an event that no worker handles any more, with the reason.
const (
	deadName   = "MAILTRAP_DEAD"
	deadPrefix = "mailtrap_dead"

	// deadAge is how long a dead letter waits for somebody to look at it.
	deadAge = 30 * 24 * time.Hour
)

// The headers of a dead letter.
const (
	headerReason   = "Mailtrap-Reason"
	headerError    = "Mailtrap-Error"
	headerAttempts = "Mailtrap-Attempts"
)

// The reasons why an event is a dead letter.
const (
	reasonPermanent = "permanent" // its work returned a Permanent error
	reasonAttempts  = "attempts"  // it failed too often
	reasonNoEvent   = "no_event"  // it cannot be read
)

// maxError is the most bytes that a dead letter has of an error's text.
const maxError = 1 << 10

func deadConfig(opts options) jetstream.StreamConfig {
	config := streamConfig(opts)
	config.Name = deadName
	config.Description = "events of Mailtrap's webhooks that could not be handled"
	config.Subjects = []string{deadPrefix + ".>"}
	config.MaxAge = deadAge
	config.MaxBytes = opts.maxBytes/10 + 1 // if it is full, the event stays where it is
	return config
}

// bury makes a dead letter of an event. The event stays in its stream until the
// dead letter is stored. Its error says why the stream took no acknowledgement.
func (w *worker) bury(msg jetstream.Msg, meta *jetstream.MsgMetadata, reason string, cause error) error {
	letter := moved(msg, meta, deadPrefix)
	letter.Header.Set(headerReason, reason)
	text := cause.Error()
	letter.Header.Set(headerError, strings.ToValidUTF8(text[:min(len(text), maxError)], ""))
	letter.Header.Set(headerAttempts, strconv.FormatUint(meta.NumDelivered, 10))
	log := w.logger.With("id", idOf(msg.Headers()), "attempt", meta.NumDelivered, "reason", reason, "error", cause)
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	if _, err := w.queue.js.PublishMsg(ctx, letter); err != nil {
		log.Error("dead letter cannot be stored: the event stays where it is", "cause", err)
		return msg.NakWithDelay(maxBackoff)
	}
	w.metrics.deadLetters.WithLabelValues(reason).Inc()
	log.Error("event is a dead letter: -redrive puts it back")
	return acknowledge(msg)
}

// redrive puts all dead letters back into the stream, with the keys that they
// had. It returns how many. If it fails in between, the next call goes on.
func (q *queue) redrive(ctx context.Context) (n int, err error) {
	info, err := q.dead.Info(ctx)
	if err != nil {
		return 0, err
	}
	// Workers may run meanwhile and bury some again: stop at the last of now.
	for last, next := info.State.LastSeq, uint64(1); ; n++ {
		letter, err := q.dead.GetMsg(ctx, next, jetstream.WithGetMsgSubject(deadPrefix+".>"))
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && letter.Sequence > last {
			return n, nil
		}
		if err == nil {
			err = q.putBack(ctx, letter)
		}
		if err != nil {
			return n, fmt.Errorf("%d events are back in the stream, and the next cannot be put back: %w", n, err)
		}
		q.logger.Info("event is back in the stream", "id", idOf(letter.Header),
			"reason", letter.Header.Get(headerReason), "error", letter.Header.Get(headerError))
		next = letter.Sequence + 1
	}
}

// putBack publishes the event of a dead letter and removes the letter. The
// stream drops the event if a call that was cut off has published it.
func (q *queue) putBack(ctx context.Context, letter *jetstream.RawStreamMsg) error {
	msg := nats.NewMsg(withPrefix(subjectPrefix, letter.Subject))
	msg.Data = letter.Data
	key := idOf(letter.Header)
	msg.Header.Set(headerKey, key)
	// Not the key, which the stream still knows. The time tells this letter
	// from another of the same event.
	msg.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("redrive/%d/%s", letter.Time.UnixNano(), key))
	if _, err := q.js.PublishMsg(ctx, msg); err != nil {
		return err
	}
	return q.dead.DeleteMsg(ctx, letter.Sequence)
}

var permanentType = reflect.TypeOf(mailtrapwebhook.Permanent(errors.New("")))

// isPermanent reports whether err is permanent as a Handler judges it: an error
// that joins several is permanent if all of them are.
func isPermanent(err error) bool {
	if reflect.TypeOf(err) == permanentType {
		return true
	}
	switch err := err.(type) {
	case interface{ Unwrap() error }:
		return isPermanent(err.Unwrap())
	case interface{ Unwrap() []error }:
		for _, part := range err.Unwrap() {
			if !isPermanent(part) {
				return false
			}
		}
		return len(err.Unwrap()) > 0
	}
	return false
}
