// Apigatewayv2 receives Mailtrap's webhooks in an AWS Lambda function behind an HTTP API of API Gateway, with the
// payload format 2.0.
//
//	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -tags lambda.norpc -o bootstrap ./apigatewayv2
//	zip function.zip bootstrap
//
// makes what the runtime provided.al2023 wants on arm64. The function needs MAILTRAP_SIGNING_SECRET in its environment
// and a timeout of 30 seconds, and its route no authorizer.
//
// Every request gets the answer of the Handler, and no event is acknowledged unless onEvent has returned nil. What is
// not acknowledged comes again, and what had been handled comes with it unless there is a store: see the package
// webhook.
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
	slog.SetDefault(lambdacontext.NewLogger()) // it adds the request's id to each line
	lambda.Start(function(handler))
}

type (
	request  = events.APIGatewayV2HTTPRequest
	response = events.APIGatewayV2HTTPResponse
)

// function gives the handler the requests of an HTTP API. Names of headers come in lower case, several values of one
// joined by commas. A body whose Content-Type the gateway does not take for text comes as base64.
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
