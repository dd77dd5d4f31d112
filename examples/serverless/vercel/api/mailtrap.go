// Package handler receives Mailtrap's webhooks in a Vercel function at
// /api/mailtrap.
//
// Vercel expects the directory api at the root of the project, beside go.mod.
// It has one file for each function, and the package is not main. Copy this
// file there and the package webhook to another directory. Set
// MAILTRAP_SIGNING_SECRET among the project's environment variables, and
// DATABASE_URL or REDIS_URL. In vercel.json, give api/mailtrap.go a maxDuration
// of 30 seconds.
//
// Every request gets the answer of the Handler. An event is acknowledged when
// onEvent has returned nil. Mailtrap repeats a delivery that is not
// acknowledged: the package webhook says which events are then handled again.
package handler

import (
	"log/slog"
	"net/http"
	"os"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/webhook"
)

var receiver http.Handler

// Vercel has its own main function, so an instance starts in init.
func init() {
	w, err := webhook.New(os.Getenv)
	if err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
	receiver = w
}

// Handler is the function that Vercel calls: the first exported function in the
// file that has these parameters.
func Handler(w http.ResponseWriter, r *http.Request) { receiver.ServeHTTP(w, r) }
