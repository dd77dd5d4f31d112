package main

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

// newChi returns a chi router with the routes. Chi's handlers and middleware
// are those of net/http.
//
// Keep this middleware away from the two routes, for example with a Group for
// the other routes:
//
//   - AllowContentType("application/json") refuses JSON Lines, whose type is
//     application/jsonl.
//   - RealIP, which is deprecated, writes what a client claims into RemoteAddr.
//     An IPAllowlist trusts RemoteAddr. The ClientIP family does not write it.
//   - render.Bind, and anything else that decodes the body, takes away the
//     signed bytes.
//
// RequestSize may stand in front: a larger body is answered 413. Compress
// changes answers only and does no harm.
func newChi(site *site) http.Handler {
	router := chi.NewRouter()
	// Logger writes the query, which holds the token of a QueryToken. Use
	// another logger with such a Guard.
	router.Use(middleware.Logger, middleware.Recoverer)

	router.Method(http.MethodPost, webhookPath, site.webhook)

	// A callback's panic reaches Recoverer from this route. The Handler answers
	// a panic by itself.
	router.Post(verifiedPath, ownHandler(site.verifier, site.onEvent))

	router.Get(livePath, site.health.live)
	router.Get(readyPath, site.health.ready)
	return router
}
