package main

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// newServeMux has the routes in net/http's own router.
//
// [http.MaxBytesHandler] may stand in front: what is over its limit is answered 413. [http.TimeoutHandler] should not: it
// answers 503 while the callbacks still run, and hides the connection whose reading the Handler cuts off in time.
func newServeMux(
	webhook *mailtrapwebhook.Handler, verifier *mailtrapwebhook.Verifier, onEvent callback,
) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+webhookPath, webhook)
	mux.Handle("POST "+verifiedPath, ownHandler(verifier, onEvent))
	return logged(recovered(mux))
}

// recovered answers 500 where a handler panics, after which net/http by itself hangs up without an answer. The panic of
// a callback does not come here from the Handler, which answers it itself and still handles the other events.
func recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler: // asks net/http to hang up
				panic(p)
			default:
				slog.ErrorContext(r.Context(), "handler panicked", "panic", p, "stack", string(debug.Stack()))
				http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// logged logs the path alone: where a Guard is a QueryToken, the query holds the token.
func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec, started := &recorder{ResponseWriter: w, status: http.StatusOK}, time.Now()
		next.ServeHTTP(rec, r)
		slog.InfoContext(r.Context(), "request", "method", r.Method, "path", r.URL.Path,
			"status", rec.status, "duration", time.Since(started))
	})
}

// A recorder remembers the status.
type recorder struct {
	http.ResponseWriter
	status int
}

func (rec *recorder) WriteHeader(status int) {
	rec.status = status
	rec.ResponseWriter.WriteHeader(status)
}

// Unwrap is the Handler's way to the connection, through [http.ResponseController]: without it the Handler could not cut
// off a body that comes too slowly.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }
