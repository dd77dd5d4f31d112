// Package handler receives Mailtrap's webhooks in a Vercel function, at /api/mailtrap.
//
// Vercel wants the directory api at the root of the project, beside go.mod, with one file for each function, whose
// package is not main. Copy this file there and the package webhook to another directory, import it from there, and set
// MAILTRAP_SIGNING_SECRET among the project's environment variables and a maxDuration of 30 seconds for api/mailtrap.go
// in vercel.json.
//
// Every request gets the answer of the Handler, and no event is acknowledged unless onEvent has returned nil. What is
// not acknowledged comes again, and what had been handled comes with it unless there is a store: see the package
// webhook.
package handler

import (
	"log"
	"net/http"
	"os"

	"github.com/mailtrapwebhook/mailtrapwebhook"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/webhook"
)

var receiver *mailtrapwebhook.Handler

// Vercel has a main function of its own, so that init is where an instance starts.
func init() {
	var err error
	if receiver, err = webhook.New(os.Getenv(webhook.SecretVariable)); err != nil {
		log.Fatal(err)
	}
}

// Handler is the function that Vercel calls: the first one in the file that is exported and has these parameters.
func Handler(w http.ResponseWriter, r *http.Request) { receiver.ServeHTTP(w, r) }
