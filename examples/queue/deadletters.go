package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A dead letter is an event that no worker handles any more, with the reason.
// It stays until a person decides what becomes of it.
const (
	deadName   = "MAILTRAP_DEAD"
	deadPrefix = "mailtrap_dead"
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
	ack, err := w.queue.js.PublishMsg(ctx, letter)
	if err != nil {
		log.Error("dead letter cannot be stored: the event stays where it is; -redrive and -discard make room if the stream is full",
			"cause", err)
		return msg.NakWithDelay(maxBackoff)
	}
	w.metrics.deadLetters.WithLabelValues(reason).Inc()
	log.Error("event is a dead letter until -redrive or -discard", "letter", ack.Sequence)
	return acknowledge(msg)
}

// A selection has one dead letter or all of them. The zero value has none.
type selection struct {
	all bool
	id  uint64 // as -dead lists it
}

// set is the function of a flag.
func (s *selection) set(value string) error {
	id, err := strconv.ParseUint(value, 10, 64)
	switch {
	case value == "all":
		*s = selection{all: true}
	case err != nil || id == 0:
		return errors.New("write the id of a dead letter, as -dead lists it, or all")
	default:
		*s = selection{id: id}
	}
	return nil
}

// list prints the dead letters, and nothing of their events but the keys.
func (q *queue) list(ctx context.Context, stdout io.Writer) error {
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tSINCE\tATTEMPTS\tEVENT\tREASON\tERROR")
	_, err := q.eachLetter(ctx, selection{all: true}, func(letter *jetstream.RawStreamMsg) error {
		get := letter.Header.Get
		_, err := fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%q\n", letter.Sequence, letter.Time.Format(time.RFC3339),
			get(headerAttempts), idOf(letter.Header), get(headerReason), get(headerError))
		return err
	})
	return errors.Join(err, table.Flush())
}

// redrive puts dead letters back into the stream, with the keys that they had.
// It returns how many. If it fails in between, the next call goes on.
func (q *queue) redrive(ctx context.Context, which selection) (n int, err error) {
	return q.eachLetter(ctx, which, func(letter *jetstream.RawStreamMsg) error {
		if err := q.putBack(ctx, letter); err != nil {
			return fmt.Errorf("cannot put dead letter %d back: %w", letter.Sequence, err)
		}
		q.logDecision("event is back in the stream", letter)
		return nil
	})
}

// discard deletes dead letters. It returns how many.
func (q *queue) discard(ctx context.Context, which selection) (n int, err error) {
	return q.eachLetter(ctx, which, func(letter *jetstream.RawStreamMsg) error {
		if err := q.dead.DeleteMsg(ctx, letter.Sequence); err != nil {
			return fmt.Errorf("cannot delete dead letter %d: %w", letter.Sequence, err)
		}
		q.logDecision("dead letter is deleted, and its event was not handled", letter)
		return nil
	})
}

func (q *queue) logDecision(text string, letter *jetstream.RawStreamMsg) {
	q.logger.Info(text, "letter", letter.Sequence, "id", idOf(letter.Header),
		"reason", letter.Header.Get(headerReason), "error", letter.Header.Get(headerError))
}

// eachLetter calls f for each dead letter of a selection until f fails. It
// returns for how many f did not.
func (q *queue) eachLetter(
	ctx context.Context, which selection, f func(*jetstream.RawStreamMsg) error,
) (n int, err error) {
	if !which.all {
		letter, err := q.dead.GetMsg(ctx, which.id)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return 0, fmt.Errorf("there is no dead letter %d: -dead lists them", which.id)
		}
		if err == nil {
			err = f(letter)
		}
		if err != nil {
			return 0, err
		}
		return 1, nil
	}
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
			err = f(letter)
		}
		if err != nil {
			return n, err
		}
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
