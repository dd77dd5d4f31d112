package main

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"
)

// newServeMux returns net/http's own router with the routes.
//
// [http.MaxBytesHandler] may stand in front: a larger body is answered 413.
// [http.TimeoutHandler] should not. It answers 503 while the callbacks still
// run, and hides the connection, so that the Handler cannot cut off a slow
// body.
func newServeMux(site *site) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+webhookPath, site.webhook)
	mux.Handle("POST "+verifiedPath, ownHandler(site.verifier, site.onEvent))
	mux.HandleFunc("GET "+livePath, site.health.live)
	mux.HandleFunc("GET "+readyPath, site.health.ready)
	return logged(recovered(mux)) // in this order, so that a panic is logged as 500
}

// recovered answers 500 if a handler panics. By itself, net/http hangs up
// without an answer. The Handler answers a callback's panic by itself and still
// handles the other events.
func recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler: // tells net/http to hang up
				panic(p)
			default:
				slog.ErrorContext(r.Context(), "handler panicked", "panic", p, "stack", string(debug.Stack()))
				http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// logged logs the path without the query, which holds the token of a
// QueryToken.
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

// Unwrap lets [http.ResponseController] reach the connection, so that the
// Handler can cut off a slow body.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }
