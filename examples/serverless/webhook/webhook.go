// Package webhook is what the functions have in common, and the part to start from: the handler that each platform's
// program gives its requests to, and what becomes of the events.
//
// All of them run the Handler, which keeps one failing event from holding up the others, bounds time and size, and
// asks the Deduplicator. Calling Verifier.Parse and looping over the events would be a few lines shorter, and would
// leave all that to be written again.
package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// SecretVariable is the environment variable with the webhook's signing secret.
const SecretVariable = "MAILTRAP_SIGNING_SECRET"

// New returns the handler of the webhook with this secret. Call it once, when an instance of the function starts, and
// not for each request.
func New(secret string) (*mailtrapwebhook.Handler, error) {
	// White space around the secret is never part of it, but easily comes along when it is pasted into a form.
	verifier, err := mailtrapwebhook.NewVerifier(strings.TrimSpace(secret))
	if err != nil {
		return nil, fmt.Errorf("set %s to the webhook's signing secret: %w", SecretVariable, err)
	}
	return &mailtrapwebhook.Handler{
		Verifier: verifier,
		OnEvent:  onEvent,

		// Mailtrap sends a delivery again, whole, until it is answered 200, and the instance that gets it then knows
		// nothing of what this one did. Here goes a store that they share, such as examples/dedup has for PostgreSQL and
		// Redis. A MemoryDeduplicator would forget with its instance. Without a store, onEvent must bear repetition.
		Dedup: nil,

		// API Gateway waits 29 seconds for a function, and a store may take some of them after the callbacks. The
		// function's own time limit must be higher than all of it, such as 30 seconds: Lambda's is 3 unless it is set,
		// and an instance that is killed at work answers nothing and marks nothing as handled.
		Timeout: 20 * time.Second,
	}, nil
}

// onEvent should put the event into a queue or a database, and return nil only when it is safe there: that tells
// Mailtrap that it need not send the event again. A goroutine that is still at work when it returns may never come to
// its end, since the platform stops an instance as soon as it has answered.
//
// Instead of a Dedup, a database can insert the event under its Key and ignore conflicts. Where two equal audit-log
// events must count as two, use OnDelivery and the delivery's Keys.
func onEvent(ctx context.Context, ev mailtrapwebhook.Event) error {
	slog.InfoContext(ctx, "event received", "event", ev) // which shows nothing personal
	return nil
}
