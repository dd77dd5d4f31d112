// Package webhook is what the functions share, and the part to start from. New
// makes the Handler that each platform's program gives its requests to.
package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// SecretVariable is the environment variable with the webhook's signing secret.
const SecretVariable = "MAILTRAP_SIGNING_SECRET"

// New returns the handler of the webhook that has this secret. Call it once for
// each instance of the function, when the instance starts.
//
// The Handler remembers the events that this instance handled. Another instance
// handles them again when Mailtrap sends them again. To prevent that, set Dedup
// to a store that all instances share: examples/dedup has PostgreSQL and Redis.
// Without such a store, onEvent must bear repetition.
func New(secret string) (*mailtrapwebhook.Handler, error) {
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	if err != nil {
		return nil, fmt.Errorf("set %s to the webhook's signing secret: %w", SecretVariable, err)
	}
	handler := &mailtrapwebhook.Handler{
		Verifier: verifier,
		OnEvent:  onEvent,

		// API Gateway waits 29 seconds, and a store may need some of them after
		// the callbacks. Set the function's own time limit to 30 seconds:
		// Lambda's default is 3. A platform that kills a working instance
		// leaves the request without an answer and the events without their
		// marks.
		Timeout: 20 * time.Second,
	}
	if err := handler.Validate(); err != nil {
		return nil, err
	}
	return handler, nil
}

// onEvent is the place for your work. Store or enqueue the event, and return
// nil when it is safe: Mailtrap then does not send it again. Start no
// goroutine, because the platform may stop the instance as soon as it has
// answered.
//
// A database can de-duplicate in place of a Dedup. Insert the event under
// [mailtrapwebhook.KeyFromContext] and ignore conflicts.
func onEvent(ctx context.Context, ev mailtrapwebhook.Event) error {
	slog.InfoContext(ctx, "event received", "event", ev) // shows nothing personal
	return nil
}
