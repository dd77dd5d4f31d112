package main

import (
	"net/http"
	"os"

	"github.com/gorilla/handlers"
	"github.com/gorilla/mux"
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
func newGorilla(site *site) http.Handler {
	router := mux.NewRouter()
	router.Handle(webhookPath, site.webhook).Methods(http.MethodPost)
	router.Handle(verifiedPath, ownHandler(site.verifier, site.onEvent)).Methods(http.MethodPost)
	router.HandleFunc(livePath, site.health.live).Methods(http.MethodGet)
	router.HandleFunc(readyPath, site.health.ready).Methods(http.MethodGet)

	// Middleware around the router also sees requests that match no route.
	// LoggingHandler writes the query, which holds the token of a QueryToken.
	// Use CustomLoggingHandler with such a Guard.
	recovery := handlers.RecoveryHandler(handlers.PrintRecoveryStack(true))
	return handlers.LoggingHandler(os.Stdout, recovery(router))
}
