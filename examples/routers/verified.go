package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	webhookPath  = "/webhooks/mailtrap" // the package's Handler
	verifiedPath = "/verified/mailtrap" // the router's own handler
)

// A callback stores or enqueues an event. It is called from several requests at a time.
type callback = func(ctx context.Context, ev mailtrapwebhook.Event) error

// callbackTime is what the callbacks of a delivery have together: Mailtrap waits 30 seconds for the answer.
const callbackTime = 25 * time.Second

// ownHandler is a handler of one's own for every router whose handlers are net/http's.
func ownHandler(verifier *mailtrapwebhook.Verifier, onEvent callback) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := verifier.VerifyRequest(r)
		if err == nil {
			err = handleBody(r.Context(), body, onEvent)
		}
		if err != nil {
			status := statusOf(err)
			slog.WarnContext(r.Context(), "delivery refused", "status", status, "err", err)
			http.Error(w, http.StatusText(status), status) // the reason is for the log, not for strangers
			return
		}
		w.WriteHeader(http.StatusOK) // 201, 202 or 204 would have Mailtrap send it again
	}
}

// handleBody hands the events of a verified body to onEvent, for the routers' own handlers.
//
// It is the short way, and promises less than [mailtrapwebhook.Handler]. Mailtrap repeats the whole body when one event
// fails, and there is no de-duplication here: onEvent should insert under [mailtrapwebhook.Event.Key] and ignore
// conflicts. A callback that does not heed its context holds up the answer. And nothing bounds the memory that all bodies
// take at once.
func handleBody(ctx context.Context, body []byte, onEvent callback) error {
	events, err := mailtrapwebhook.Parse(body)
	if err != nil {
		return &statusError{http.StatusUnprocessableEntity, err}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callbackTime) // not with the client's hanging up
	defer cancel()
	var failed error
	for _, ev := range events { // all of them: one that fails must not hold up the others
		failed = errors.Join(failed, onEvent(ctx, ev))
	}
	if failed != nil {
		return &statusError{http.StatusInternalServerError, failed}
	}
	return nil
}

// A statusError is an error of handleBody and the status that answers it.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// statusOf is the status that answers an error of VerifyRequest, Verify or handleBody. To Mailtrap they are all the same:
// whatever is not 200 comes again. They are for whoever reads the access log.
func statusOf(err error) int {
	var judged *statusError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &judged): // first, because what a callback's error wraps is not about the request
		return judged.status
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, mailtrapwebhook.ErrNoSecret):
		return http.StatusInternalServerError
	default: // no signature, a wrong one, no body, or the body broke off
		return http.StatusBadRequest
	}
}
