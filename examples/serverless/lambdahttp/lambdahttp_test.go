package lambdahttp_test

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/lambdahttp"
)

func TestServeReturnsTheHandlersResponse(t *testing.T) {
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    lambdahttp.Response
	}{
		"nothing": {
			func(http.ResponseWriter, *http.Request) {},
			lambdahttp.Response{StatusCode: 200, Headers: map[string]string{}},
		},
		"a body alone": {
			func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") },
			lambdahttp.Response{StatusCode: 200, Headers: map[string]string{}, Body: "hello"},
		},
		"two statuses, of which the first counts": {
			func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(503)
				_, _ = io.WriteString(w, "busy")
				w.WriteHeader(200)
			},
			lambdahttp.Response{StatusCode: 503, Headers: map[string]string{}, Body: "busy"},
		},
		"header": {
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("retry-after", "88")
				w.Header().Add("Allow", "POST")
				w.Header().Add("Allow", "PUT")
				w.WriteHeader(405)
			},
			lambdahttp.Response{StatusCode: 405, Headers: map[string]string{"Retry-After": "88", "Allow": "POST, PUT"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := lambdahttp.Serve(t.Context(), test.handler, lambdahttp.Event{Method: http.MethodPost})
			require.Empty(t, cmp.Diff(test.want, got))
		})
	}
}

func TestServePassesTheContext(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "the request's id")
	var got any
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Context().Value(key{}) })
	lambdahttp.Serve(ctx, handler, lambdahttp.Event{Method: http.MethodPost})
	require.Equal(t, "the request's id", got)
}
