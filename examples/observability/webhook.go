package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// newWebhook returns the Handler. Its verifier has the secrets in the order of
// the label webhook.
func newWebhook(
	opts options, store mailtrapwebhook.Deduplicator, onEvent callback, m *metrics, logger *slog.Logger,
) *mailtrapwebhook.Handler {
	return &mailtrapwebhook.Handler{
		Verifier: opts.verifier,
		OnEvent:  watch(m, onEvent),
		Dedup:    &watchedStore{store, m},
		// Keeps one event that always fails from pausing the webhook. An outage
		// of yours that lasts longer drops every event that fails. The alert
		// MailtrapWebhookPauseNear fires at 2 h, and
		// MailtrapWebhookEventsDropped for each drop.
		GiveUpAfter: opts.giveUp,
		OnDrop:      keepDropped(opts.dropped),
		// Mailtrap waits until Observe has returned. ctx has the span, and may
		// have ended because the client hung up.
		Observe: func(ctx context.Context, r mailtrapwebhook.Report) {
			webhook := webhookOf(ctx)
			m.observe(r, webhook)
			describeRequest(ctx, r, webhook)
		},
		Logger: logger,
	}
}

type callback func(ctx context.Context, ev mailtrapwebhook.Event) error

// watch returns a callback that measures and describes each call of onEvent.
// The metrics come about when the call returns, even if that is after the
// answer.
func watch(m *metrics, onEvent callback) callback {
	return func(ctx context.Context, ev mailtrapwebhook.Event) error {
		kind, happened, started := kindOf(ev), ev.Time(), time.Now()
		result := resultFailed // stays so if onEvent panics
		defer func() {
			m.calledBack(kind, result, happened, started)
			describeCall(ctx, kind, result, started)
		}()
		err := onEvent(ctx, ev)
		if err == nil {
			result = resultOK
		}
		return err
	}
}

// logEvent returns the work for each event, which here is a line in the log. In
// your program, store or enqueue the event. Pass ctx on, so that the spans of
// your database join the trace.
func logEvent(logger *slog.Logger) callback {
	return func(ctx context.Context, ev mailtrapwebhook.Event) error {
		logger.InfoContext(ctx, "event", "event", ev) // shows nothing personal
		return nil
	}
}
