// Apigateway receives Mailtrap's webhooks in an AWS Lambda function behind a REST API of API Gateway, with the proxy
// integration. HTTP APIs with the payload format 1.0 send the same events.
//
//	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -tags lambda.norpc -o bootstrap ./apigateway
//	zip function.zip bootstrap
//
// makes what the runtime provided.al2023 wants on arm64. The function needs MAILTRAP_SIGNING_SECRET in its environment
// and a timeout of 30 seconds, and its method no authorizer.
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
	slog.SetDefault(lambdacontext.NewLogger()) // it adds the request's id to each line
	lambda.Start(function(handler))
}

type (
	request  = events.APIGatewayProxyRequest
	response = events.APIGatewayProxyResponse
)

// function gives the handler the requests of a REST API. Names of headers come as the client wrote them. A body comes
// as base64 where the API's binaryMediaTypes name its Content-Type, and else as text, which is what was signed as long
// as that is UTF-8, as JSON is.
func function(handler http.Handler) func(context.Context, request) (response, error) {
	return func(ctx context.Context, req request) (response, error) {
		resp := lambdahttp.Serve(ctx, handler, lambdahttp.Event{
			Method:   req.HTTPMethod,
			Path:     req.Path,
			RawQuery: url.Values(req.MultiValueQueryStringParameters).Encode(), // they come unescaped
			Header:   lambdahttp.Header(req.Headers, req.MultiValueHeaders),
			SourceIP: req.RequestContext.Identity.SourceIP,
			Body:     req.Body,
			IsBase64: req.IsBase64Encoded,
		})
		return response{StatusCode: resp.StatusCode, Headers: resp.Headers, Body: resp.Body}, nil
	}
}
