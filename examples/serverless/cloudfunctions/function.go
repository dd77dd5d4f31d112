// Package cloudfunctions receives Mailtrap's webhooks in Google Cloud
// Functions, which are now called Cloud Run functions.
//
// The platform expects the function at the root of the deployed module. Copy
// this file to the root of your module and the package webhook to a directory
// beside it. Deploy the module with the entry point MailtrapWebhook, with
// MAILTRAP_SIGNING_SECRET and DATABASE_URL or REDIS_URL in the environment, and
// with an HTTP trigger that allows unauthenticated calls: Mailtrap's signature
// is not Google's.
//
// This command runs the function on your machine:
//
//	MAILTRAP_SIGNING_SECRET=… go run ./cloudfunctions/cmd
//
// Every request gets the answer of the Handler. An event is acknowledged when
// onEvent has returned nil. Mailtrap repeats a delivery that is not
// acknowledged: the package webhook says which events are then handled again.
package cloudfunctions

import (
	"log/slog"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/webhook"
)

// Webhook is what the function MailtrapWebhook serves.
var Webhook *webhook.Webhook

// The platform has its own main function, so an instance starts in init.
func init() {
	var err error
	if Webhook, err = webhook.New(os.Getenv); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
	// Register an HTTP function, which gets the raw body. The framework decodes
	// the body of a typed function, and then no signature matches.
	functions.HTTP("MailtrapWebhook", Webhook.ServeHTTP)
}
