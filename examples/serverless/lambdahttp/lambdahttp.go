// Package lambdahttp runs an [http.Handler] on the events in which AWS Lambda gets HTTP requests, whichever of its
// front doors they come through.
//
// aws-lambda-go has such an adaptor, lambdaurl, but for function URLs alone, and only for those whose InvokeMode is
// RESPONSE_STREAM.
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
	"time"
)

// An Event is what the events of the front doors have in common.
type Event struct {
	Method   string
	Path     string
	RawQuery string
	Header   http.Header // see the function of the same name
	SourceIP string
	Body     string
	IsBase64 bool
}

// A Response is what the responses to them have in common.
type Response struct {
	StatusCode int
	Headers    map[string]string
	Body       string
}

// Header makes a header of an event's headers and, where it has them, multiValueHeaders. These have every value, while
// the former keep only the last one, and a second signature must not go unseen.
//
// Names come in lower case or as the client wrote them, so that one header may be under several names. It is Add that
// brings them together.
func Header(headers map[string]string, multiValueHeaders map[string][]string) http.Header {
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

// Serve lets handler answer the request of an event.
//
// It returns no error, and the function should not either: the platform would answer 502, which has Mailtrap send the
// delivery again as well, but hides why.
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
	if e.IsBase64 { // the signature is that of the bytes which were encoded
		var err error
		if body, err = base64.StdEncoding.DecodeString(e.Body); err != nil {
			return nil, fmt.Errorf("lambdahttp: isBase64Encoded is set but the body is not base64: %w", err)
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
		RemoteAddr:    net.JoinHostPort(e.SourceIP, "0"), // events do not have the port
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
	}, nil
}

// A recorder is the [http.ResponseWriter] that keeps an answer for the event's response.
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

// SetReadDeadline tells handlers that they need not fear a slow body: it is in memory.
func (w *recorder) SetReadDeadline(time.Time) error { return nil }

func (w *recorder) response() Response {
	headers := make(map[string]string)
	for name, values := range w.header {
		headers[name] = strings.Join(values, ", ")
	}
	return Response{cmp.Or(w.status, http.StatusOK), headers, w.body.String()}
}
