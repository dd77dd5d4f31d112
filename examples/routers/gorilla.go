package main

import (
	"net/http"
	"os"

	"github.com/gorilla/handlers"
	"github.com/gorilla/mux"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// newGorilla returns a gorilla/mux router with the routes. Its handlers and
// middleware are those of net/http.
//
// Keep this middleware of gorilla/handlers away from the two routes:
//
//   - ContentTypeHandler(h, "application/json") refuses JSON Lines, whose type
//     is application/jsonl.
//   - ProxyHeaders writes what a client claims into RemoteAddr. An IPAllowlist
//     trusts RemoteAddr.
//
// CompressHandler changes answers only and does no harm. The router does not
// limit bodies. The package's limit is 8 MiB.
func newGorilla(
	webhook *mailtrapwebhook.Handler, verifier *mailtrapwebhook.Verifier, onEvent callback,
) http.Handler {
	router := mux.NewRouter()
	router.Handle(webhookPath, webhook).Methods(http.MethodPost)
	router.Handle(verifiedPath, ownHandler(verifier, onEvent)).Methods(http.MethodPost)

	// Middleware around the router also sees requests that match no route.
	// LoggingHandler writes the query, which holds the token of a QueryToken.
	// Use CustomLoggingHandler with such a Guard.
	recovery := handlers.RecoveryHandler(handlers.PrintRecoveryStack(true))
	return handlers.LoggingHandler(os.Stdout, recovery(router))
}
