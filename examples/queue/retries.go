package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	retryName   = "MAILTRAP_RETRY"
	retryPrefix = "mailtrap_retry"

	// headerKey is the header with the key of an event that was moved. Its
	// message has another id than its key, because the streams know that.
	headerKey = "Mailtrap-Key"
)

func retryConfig(opts options) jetstream.StreamConfig {
	config := streamConfig(opts)
	config.Name = retryName
	config.Description = "events of Mailtrap's webhooks that failed and are retried"
	config.Subjects = []string{retryPrefix + ".>"}
	config.Retention = jetstream.WorkQueuePolicy // an event that was handled leaves
	config.MaxBytes = opts.maxBytes/4 + 1        // if it is full, the event stays where it is
	return config
}

// idOf returns the id that a message's event is handed out with.
func idOf(header nats.Header) string {
	if key := header.Get(headerKey); key != "" {
		return key // of one that was put back
	}
	return header.Get(jetstream.MsgIDHeader)
}

// moved returns the message for an event in another stream.
func moved(msg jetstream.Msg, meta *jetstream.MsgMetadata, prefix string) *nats.Msg {
	m := nats.NewMsg(withPrefix(prefix, msg.Subject()))
	m.Data = msg.Data()
	m.Header.Set(headerKey, idOf(msg.Headers()))
	// The place in the stream makes the id another one if the event comes to
	// the same point a second time.
	m.Header.Set(jetstream.MsgIDHeader, fmt.Sprint(msg.Headers().Get(jetstream.MsgIDHeader), "/", meta.Sequence.Stream))
	return m
}

func withPrefix(prefix, subject string) string {
	_, kind, _ := strings.Cut(subject, ".")
	return prefix + "." + kind
}

// moveToRetries moves an event that failed for the first time. If there is no
// room, the event stays in the stream and comes again from there. undo removes
// the event.
func (w *worker) moveToRetries(msg jetstream.Msg, meta *jetstream.MsgMetadata) (undo func() error, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	ack, err := w.queue.js.PublishMsg(ctx, moved(msg, meta, retryPrefix))
	if err != nil {
		w.logger.Error("event cannot be moved to the stream of retries: it stays where it is",
			"id", idOf(msg.Headers()), "error", err)
		return w.acknowledgeAnyway(msg), msg.NakWithDelay(w.backoff(meta.NumDelivered))
	}
	undo = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
		defer cancel()
		return w.queue.retry.DeleteMsg(ctx, ack.Sequence)
	}
	return undo, acknowledge(msg)
}
