// Package webhook is what the functions share, and the part to start from. New
// makes the handler that each platform's program gives its requests to.
package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// SecretVariable is the environment variable with the webhook's signing secret,
// or with those of several webhooks and commas between.
const SecretVariable = "MAILTRAP_SIGNING_SECRET"

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

// A Webhook receives deliveries in the time that the platform gives a request.
// Its fields must not change after first use.
type Webhook struct {
	Verifier *mailtrapwebhook.Verifier
	Dedup    mailtrapwebhook.Deduplicator
	OnEvent  func(ctx context.Context, ev mailtrapwebhook.Event) error
	Logger   *slog.Logger // nil means slog.Default

	mu       sync.Mutex
	handlers map[time.Duration]*mailtrapwebhook.Handler // by Timeout
}

// New returns the Webhook that the environment describes. Call it once for each
// instance of the function, when the instance starts.
//
// The instances share the PostgreSQL database of DATABASE_URL, or the Redis
// server of REDIS_URL. It remembers the events that they handled. Without
// either, an event is handled again when its retry reaches another instance.
func New(getenv func(string) string) (*Webhook, error) {
	verifier, err := mailtrapwebhook.NewVerifier(strings.Split(getenv(SecretVariable), ",")...)
	if err != nil {
		return nil, fmt.Errorf("a signing secret is missing or blank: set %s to the webhook's signing secret,"+
			" or to those of several webhooks with commas between", SecretVariable)
	}
	store, err := openStore(getenv)
	if err != nil {
		return nil, err
	}
	w := &Webhook{Verifier: verifier, Dedup: store, OnEvent: onEvent}
	return w, w.newHandler(maxTimeout).Validate()
}

// The life of a request, where a function has 3 seconds, as Lambda gives it by
// default. In brackets are the times where it has 30:
//
//	0 s       the request arrives
//	2 s [20]  Timeout: no callback starts, and the contexts of callbacks end
//	3 s [30]  the store knows the rest, and the request is answered; the
//	          platform kills an instance that still works
const (
	maxTimeout = 20 * time.Second       // API Gateway waits 29 seconds
	step       = 100 * time.Millisecond // keeps the Handlers few; 0 would mean the default
)

// ServeHTTP answers before the deadline of the request's context, if it has one
// that is more than step away.
func (w *Webhook) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	timeout := maxTimeout
	if end, ok := r.Context().Deadline(); ok {
		timeout = max(step, min(maxTimeout, time.Until(end)*2/3).Round(step))
		r = r.WithContext(context.WithValue(r.Context(), endKey{}, end))
	}
	w.handler(timeout).ServeHTTP(rw, r)
}

// handler returns the Handler that has a Timeout. All requests of an instance
// have about the same time, so that there are one or two.
func (w *Webhook) handler(timeout time.Duration) *mailtrapwebhook.Handler {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.handlers == nil {
		w.handlers = make(map[time.Duration]*mailtrapwebhook.Handler)
	}
	if w.handlers[timeout] == nil {
		w.handlers[timeout] = w.newHandler(timeout)
	}
	return w.handlers[timeout]
}

func (w *Webhook) newHandler(timeout time.Duration) *mailtrapwebhook.Handler {
	return &mailtrapwebhook.Handler{
		Verifier: w.Verifier,
		OnEvent:  w.OnEvent,
		Dedup:    limitedStore{w.Dedup},
		Timeout:  timeout,
		Logger:   w.Logger,
	}
}

// Ready returns an error unless the store answers. It makes the calls that a
// delivery makes: a ping may succeed where those fail.
func (w *Webhook) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	key := []string{"readyz"} // no event's key, because it has no slash
	if _, err := w.Dedup.Reserve(ctx, key, time.Minute); err != nil {
		return err
	}
	return w.Dedup.Release(ctx, key)
}
