// Package lambdahttp runs an [http.Handler] on the events in which AWS Lambda
// receives HTTP requests. It serves function URLs and both kinds of API
// Gateway.
//
// The adaptor of aws-lambda-go, lambdaurl, serves only function URLs whose
// InvokeMode is RESPONSE_STREAM.
package lambdahttp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// An Event has what all kinds of events have in common.
type Event struct {
	Method   string
	Path     string
	RawQuery string
	Header   http.Header // made by the function Header
	SourceIP string
	Body     string
	IsBase64 bool
}

// A Response has what all kinds of responses have in common.
type Response struct {
	StatusCode int
	Headers    map[string]string
	Body       string
}

// Header returns the header of an event. It reads multiValueHeaders if the
// event has them: headers keep only the last value, and a second signature must
// not go unseen.
func Header(headers map[string]string, multiValueHeaders map[string][]string) http.Header {
	// Add joins a header that comes under several names, which differ in case.
	header := make(http.Header)
	for name, values := range multiValueHeaders {
		for _, value := range values {
			header.Add(name, value)
		}
	}
	if len(multiValueHeaders) == 0 {
		for name, value := range headers {
			header.Add(name, value)
		}
	}
	return header
}

// Serve returns handler's response to the request of an event.
//
// A body that is not base64 though the event says so is answered 400. The
// function should return no error either: the platform would answer 502 and
// hide the reason.
func Serve(ctx context.Context, handler http.Handler, event Event) Response {
	w := &recorder{header: make(http.Header)}
	r, err := event.request()
	if err != nil {
		slog.WarnContext(ctx, "lambdahttp: request answered", "status", http.StatusBadRequest, "err", err)
		http.Error(w, http.StatusText(http.StatusBadRequest), http.StatusBadRequest)
		return w.response()
	}
	handler.ServeHTTP(w, r.WithContext(ctx))
	return w.response()
}

func (e Event) request() (*http.Request, error) {
	body := []byte(e.Body)
	if e.IsBase64 { // the signature covers the bytes before the encoding
		var err error
		if body, err = base64.StdEncoding.DecodeString(e.Body); err != nil {
			return nil, fmt.Errorf("lambdahttp: isBase64Encoded is set but the body is not base64: pass both on unchanged: %w", err)
		}
	}
	return &http.Request{
		Method:        e.Method,
		URL:           &url.URL{Path: e.Path, RawQuery: e.RawQuery},
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        e.Header,
		Host:          e.Header.Get("Host"),
		RemoteAddr:    net.JoinHostPort(e.SourceIP, "0"), // events have no port
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
	}, nil
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

func (w *recorder) response() Response {
	headers := make(map[string]string)
	for name, values := range w.header {
		headers[name] = strings.Join(values, ", ") // a response takes one value for each name
	}
	return Response{cmp.Or(w.status, http.StatusOK), headers, w.body.String()}
}
