package main

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// newChi has the routes in chi, whose handlers and middleware are net/http's.
//
// Of chi's middleware, keep these away from the two routes, for example by giving the others a Group of their own:
//
//   - AllowContentType("application/json") refuses JSON Lines, which come as application/jsonl.
//   - RealIP, which is deprecated, writes what a client claims into RemoteAddr, by which an IPAllowlist judges. Those of
//     the ClientIP family do not.
//   - What decodes the body, as render.Bind does: the signature is that of bytes that are then gone.
//
// RequestSize may stand in front: what is over its limit is answered 413. Compress is about answers and does no harm.
func newChi(
	webhook *mailtrapwebhook.Handler, verifier *mailtrapwebhook.Verifier, onEvent callback,
) http.Handler {
	router := chi.NewRouter()
	// Logger writes the query too: where a Guard is a QueryToken, use a logger that does not.
	router.Use(middleware.Logger, middleware.Recoverer)

	router.Method(http.MethodPost, webhookPath, webhook)

	// The panic of a callback comes to Recoverer from here, but not from the Handler, which answers it itself.
	router.Post(verifiedPath, ownHandler(verifier, onEvent))
	return router
}
