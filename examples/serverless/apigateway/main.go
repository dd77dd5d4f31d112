// Apigateway receives Mailtrap's webhooks in an AWS Lambda function. In front
// of it is a REST API of API Gateway with the proxy integration. An HTTP API
// with payload format 1.0 sends the same events.
//
//	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -tags lambda.norpc -o bootstrap ./apigateway
//	zip function.zip bootstrap
//
// These commands make what the runtime provided.al2023 needs on arm64. The
// function needs MAILTRAP_SIGNING_SECRET in its environment and a timeout of 30
// seconds. Its method must have no authorizer.
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
	"net/url"
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
	request  = events.APIGatewayProxyRequest
	response = events.APIGatewayProxyResponse
)

// function returns a Lambda function that gives handler the requests of a REST
// API. The names of headers come as the client wrote them. The gateway encodes
// a body as base64 if the API's binaryMediaTypes list the Content-Type. It
// passes any other body as text, which keeps the signed bytes if they are
// UTF-8.
func function(handler http.Handler) func(context.Context, request) (response, error) {
	return func(ctx context.Context, req request) (response, error) {
		resp := lambdahttp.Serve(ctx, handler, lambdahttp.Event{
			Method:   req.HTTPMethod,
			Path:     req.Path,
			RawQuery: url.Values(req.MultiValueQueryStringParameters).Encode(), // the gateway has unescaped them
			Header:   lambdahttp.Header(req.Headers, req.MultiValueHeaders),
			SourceIP: req.RequestContext.Identity.SourceIP,
			Body:     req.Body,
			IsBase64: req.IsBase64Encoded,
		})
		return response{StatusCode: resp.StatusCode, Headers: resp.Headers, Body: resp.Body}, nil
	}
}
