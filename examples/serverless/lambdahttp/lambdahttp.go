// Package lambdahttp runs an [http.Handler] on the events in which AWS Lambda
// receives HTTP requests: those of function URLs, of both kinds of API Gateway
// and of Application Load Balancers.
//
// The adaptor of aws-lambda-go, lambdaurl, serves only function URLs whose
// InvokeMode is RESPONSE_STREAM.
package lambdahttp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
)

// Function returns a Lambda function that gives handler the request of each
// event and returns its response. The event tells which service it comes from.
// The request's context is that of the function, with its deadline.
//
// The function returns an error only for an event that is no HTTP request. For
// any other error the service would answer 502 and hide the reason: a body that
// is not base64 though the event says so is answered 400.
func Function(handler http.Handler) func(context.Context, json.RawMessage) (Response, error) {
	return func(ctx context.Context, payload json.RawMessage) (Response, error) {
		ev, err := parseEvent(payload)
		if err != nil {
			return Response{}, err
		}
		w := &recorder{header: make(http.Header)}
		r, err := ev.request()
		if err != nil {
			slog.WarnContext(ctx, "lambdahttp: request answered", "status", http.StatusBadRequest, "err", err)
			http.Error(w, http.StatusText(http.StatusBadRequest), http.StatusBadRequest)
		} else {
			handler.ServeHTTP(w, r.WithContext(ctx))
		}
		return w.response(ev), nil
	}
}

// A Response is what a Lambda function returns for an HTTP request. A load
// balancer wants IsBase64Encoded and the headers even if they are empty.
type Response struct {
	StatusCode        int                 `json:"statusCode"`
	StatusDescription string              `json:"statusDescription,omitempty"`
	Headers           map[string]string   `json:"headers,omitzero"`
	MultiValueHeaders map[string][]string `json:"multiValueHeaders,omitzero"`
	Body              string              `json:"body"`
	IsBase64Encoded   bool                `json:"isBase64Encoded"`
}

// A recorder is an [http.ResponseWriter] that keeps the response in memory.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) { w.status = cmp.Or(w.status, status) }

func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// response returns the response to an event. A load balancer reads
// multiValueHeaders if it sends them, and only headers otherwise.
func (w *recorder) response(ev event) Response {
	resp := Response{StatusCode: cmp.Or(w.status, http.StatusOK), Body: w.body.String()}
	if ev.isALB {
		resp.StatusDescription = fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	if ev.isMultiValue {
		resp.MultiValueHeaders = w.header
		return resp
	}
	resp.Headers = make(map[string]string)
	for name, values := range w.header {
		resp.Headers[name] = strings.Join(values, ", ") // there is room for one
	}
	return resp
}
