// Package cloudfunctions receives Mailtrap's webhooks in Google Cloud Functions, which are now called Cloud Run
// functions.
//
// The platform wants the function at the root of the module that is deployed. Copy this file to the root of yours and
// the package webhook to a directory beside it, import it from there, and deploy the module with the entry point
// MailtrapWebhook, MAILTRAP_SIGNING_SECRET in the environment, and an HTTP trigger that allows unauthenticated calls,
// since Mailtrap's signature is not Google's.
//
//	MAILTRAP_SIGNING_SECRET=… go run ./cloudfunctions/cmd
//
// runs it on this machine.
//
// Every request gets the answer of the Handler, and no event is acknowledged unless onEvent has returned nil. What is
// not acknowledged comes again, and what had been handled comes with it unless there is a store: see the package
// webhook.
package cloudfunctions

import (
	"log"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/webhook"
)

// The platform has a main function of its own, so that init is where an instance starts.
func init() {
	handler, err := webhook.New(os.Getenv(webhook.SecretVariable))
	if err != nil {
		log.Fatal(err)
	}
	// An HTTP function gets the request as net/http has it. A typed function would have its body decoded before.
	functions.HTTP("MailtrapWebhook", handler.ServeHTTP)
}
