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

// A callback stores or enqueues an event. It must be safe for concurrent use.
type callback = func(ctx context.Context, ev mailtrapwebhook.Event) error

// callbackTime bounds all callbacks of a delivery: Mailtrap waits 30 seconds
// for the answer.
const callbackTime = 25 * time.Second

// ownHandler is your own handler for every router that takes an [http.Handler].
func ownHandler(verifier *mailtrapwebhook.Verifier, onEvent callback) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := verifier.VerifyRequest(r)
		if err == nil {
			err = handleBody(r.Context(), body, onEvent)
		}
		if err != nil {
			status := statusOf(err)
			slog.WarnContext(r.Context(), "delivery refused", "status", status, "err", err)
			http.Error(w, http.StatusText(status), status) // the client learns the status alone
			return
		}
		w.WriteHeader(http.StatusOK) // Mailtrap repeats a delivery after 201, 202 or 204
	}
}

// handleBody passes the events of a verified body to onEvent, for your own
// handlers.
//
// It is shorter than a [mailtrapwebhook.Handler] and promises less:
//
//   - If one event fails, Mailtrap repeats all events. Insert each event under
//     [mailtrapwebhook.Event.Key] and ignore conflicts.
//   - A callback that ignores its context holds up the answer.
//   - Nothing bounds the memory that all bodies take at once.
func handleBody(ctx context.Context, body []byte, onEvent callback) error {
	events, err := mailtrapwebhook.Parse(body)
	if err != nil {
		return &statusError{http.StatusUnprocessableEntity, err}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callbackTime) // goes on if the client hangs up
	defer cancel()
	var failed error
	for _, ev := range events { // one failure must not hold up the others
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

// statusOf returns the status for an error of VerifyRequest, Verify or
// handleBody. Mailtrap repeats the delivery after each of them. The status
// tells the reader of the access log what happened.
func statusOf(err error) int {
	var judged *statusError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &judged): // first: a callback's error may wrap any of the others
		return judged.status
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, mailtrapwebhook.ErrNoSecret):
		return http.StatusInternalServerError
	default: // no signature, a wrong one, no body, or a body that broke off
		return http.StatusBadRequest
	}
}
