package main

import (
	"net/http"
	"os"

	"github.com/gorilla/handlers"
	"github.com/gorilla/mux"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// newGorilla has the routes in gorilla/mux, whose handlers and middleware are net/http's.
//
// Of the middleware in gorilla/handlers, keep these away from the two routes:
//
//   - ContentTypeHandler(h, "application/json") refuses JSON Lines, which come as application/jsonl.
//   - ProxyHeaders writes what a client claims into RemoteAddr, by which an IPAllowlist judges.
//
// CompressHandler is about answers and does no harm. There is no limit on bodies but the package's own.
func newGorilla(
	webhook *mailtrapwebhook.Handler, verifier *mailtrapwebhook.Verifier, onEvent callback,
) http.Handler {
	router := mux.NewRouter()
	router.Handle(webhookPath, webhook).Methods(http.MethodPost)
	router.Handle(verifiedPath, ownHandler(verifier, onEvent)).Methods(http.MethodPost)

	// They stand around the router, and not in its Use, where they would not see what no route matches.
	// LoggingHandler writes the query too: where a Guard is a QueryToken, use CustomLoggingHandler.
	recovery := handlers.RecoveryHandler(handlers.PrintRecoveryStack(true))
	return handlers.LoggingHandler(os.Stdout, recovery(router))
}
