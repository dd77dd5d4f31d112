// Lambda receives Mailtrap's webhooks in an AWS Lambda function. In front of it
// is a function URL, an API Gateway or an Application Load Balancer: the
// program serves all of them.
//
//	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -tags lambda.norpc -o bootstrap ./lambda
//	zip function.zip bootstrap
//
// These commands make what the runtime provided.al2023 needs on arm64. The
// function needs MAILTRAP_SIGNING_SECRET in its environment, and DATABASE_URL
// or REDIS_URL. Set its timeout to 30 seconds: Lambda's default of 3 leaves
// callbacks 2.
//
// Mailtrap's signature is not AWS's, so nothing in front may ask for one:
//
//   - A function URL needs the AuthType NONE and the InvokeMode BUFFERED.
//   - An HTTP API or a REST API needs a route or method without an authorizer,
//     and the proxy integration. Both payload formats work.
//   - A load balancer needs a target group of the type lambda. It must append
//     to X-Forwarded-For, which is its default. It refuses bodies over 1 MB,
//     which 500 events with long custom variables exceed: choose another
//     service if you send such.
//
// Every request gets the answer of the Handler. An event is acknowledged when
// onEvent has returned nil. Mailtrap repeats a delivery that is not
// acknowledged: the package webhook says which events are then handled again.
package main

import (
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/lambdahttp"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/webhook"
)

func main() {
	slog.SetDefault(lambdacontext.NewLogger()) // adds the request's id to each line
	handler, err := webhook.New(os.Getenv)
	if err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
	lambda.Start(lambdahttp.Function(handler))
}
