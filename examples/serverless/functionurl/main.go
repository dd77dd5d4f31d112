// Functionurl receives Mailtrap's webhooks in an AWS Lambda function with a
// function URL.
//
//	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -tags lambda.norpc -o bootstrap ./functionurl
//	zip function.zip bootstrap
//
// These commands make what the runtime provided.al2023 needs on arm64. The
// function needs MAILTRAP_SIGNING_SECRET in its environment and a timeout of 30
// seconds. Its URL needs the InvokeMode BUFFERED, and the AuthType NONE:
// Mailtrap's signature is not AWS's.
//
// Every request gets the answer of the Handler. An event is acknowledged when
// onEvent has returned nil. Mailtrap repeats a delivery that is not
// acknowledged: the package webhook says which events are then handled again.
package main

import (
	"context"
	"log"
	"log/slog"
	"net/http"
	"os"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/lambdahttp"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/webhook"
)

func main() {
	handler, err := webhook.New(os.Getenv(webhook.SecretVariable))
	if err != nil {
		log.Fatal(err)
	}
	slog.SetDefault(lambdacontext.NewLogger()) // adds the request's id to each line
	lambda.Start(function(handler))
}

type (
	request  = events.LambdaFunctionURLRequest
	response = events.LambdaFunctionURLResponse
)

// function returns a Lambda function that gives handler the requests of a
// function URL. Lambda writes the names of headers in lower case and joins
// several values with commas. It encodes a body as base64 if the Content-Type
// is neither JSON nor text. JSON Lines come as base64.
func function(handler http.Handler) func(context.Context, request) (response, error) {
	return func(ctx context.Context, req request) (response, error) {
		resp := lambdahttp.Serve(ctx, handler, lambdahttp.Event{
			Method:   req.RequestContext.HTTP.Method,
			Path:     req.RawPath,
			RawQuery: req.RawQueryString,
			Header:   lambdahttp.Header(req.Headers, nil),
			SourceIP: req.RequestContext.HTTP.SourceIP,
			Body:     req.Body,
			IsBase64: req.IsBase64Encoded,
		})
		return response{StatusCode: resp.StatusCode, Headers: resp.Headers, Body: resp.Body}, nil
	}
}
