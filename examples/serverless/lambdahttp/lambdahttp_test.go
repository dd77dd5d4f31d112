package lambdahttp_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/programtest"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/lambdahttp"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/webhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const secret = programtest.Secret

// A counter counts the calls for each event.
type counter struct {
	mu    sync.Mutex
	calls map[string]int
}

func (c *counter) onEvent(_ context.Context, ev mailtrapwebhook.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = make(map[string]int)
	}
	c.calls[ev.Key()]++
	return nil
}

func (c *counter) count(ev mailtrapwebhook.Event) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[ev.Key()]
}

func newWebhook(t *testing.T, c *counter, log io.Writer) *webhook.Webhook {
	t.Helper()
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	require.NoError(t, err)
	return &webhook.Webhook{
		Verifier: verifier,
		Dedup:    new(mailtrapwebhook.MemoryDeduplicator),
		OnEvent:  c.onEvent,
		Logger:   slog.New(slog.NewTextHandler(log, nil)),
	}
}

func TestReceiver(t *testing.T) {
	for _, s := range services {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			var c counter
			webhooktest.TestReceiver(t, webhooktest.Receiver{
				Handler: s.before(t, newWebhook(t, &c, io.Discard)),
				Secret:  secret,
				Count:   c.count,
			})
		})
	}
}

func TestAnswers(t *testing.T) {
	const name = mailtrapwebhook.SignatureHeader
	good := webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Sample("bounce"))
	none := func(http.Header) {}
	for title, test := range map[string]struct {
		method string
		body   []byte
		change func(http.Header)
		status int
	}{
		"signed":         {"POST", good, none, 200},
		"no type":        {"POST", good, func(h http.Header) { h.Del("Content-Type") }, 200},
		"forged":         {"POST", good, func(h http.Header) { h.Set(name, mailtrapwebhook.Sign(good, "guessed")) }, 400},
		"unsigned":       {"POST", good, func(h http.Header) { h.Del(name) }, 400},
		"two signatures": {"POST", good, func(h http.Header) { h.Add(name, strings.Repeat("0", 64)) }, 400},
		"empty":          {"POST", nil, func(h http.Header) { h.Set(name, strings.Repeat("0", 64)) }, 400},
		"broken JSON":    {"POST", []byte(`{"events":[`), none, 422},
		"not POST":       {"GET", good, none, 405},
	} {
		for _, s := range services {
			t.Run(title+"/"+s.name, func(t *testing.T) {
				var log bytes.Buffer
				r := webhooktest.NewRequest("/", secret, test.body)
				r.Method = test.method
				test.change(r.Header)
				rec := httptest.NewRecorder()
				s.before(t, newWebhook(t, new(counter), &log)).ServeHTTP(rec, r)
				require.Equal(t, test.status, rec.Code, &log)
				require.Equal(t, test.status == 405, rec.Header().Get("Allow") == "POST")
				if test.status == 200 {
					require.Empty(t, log.String())
				} else {
					require.Equal(t, http.StatusText(test.status)+"\n", rec.Body.String())
					require.Contains(t, log.String(), fmt.Sprintf("status=%d", test.status))
				}
				programtest.RequireNothingPersonal(t, log.String())
			})
		}
	}
}

// request returns the request that a function passes to its handler, and the
// body.
func request(t *testing.T, d document) (got *http.Request, body string) {
	t.Helper()
	_, err := invoke(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		got, body = r, string(text)
	}), d)
	require.NoError(t, err)
	return got, body
}

func TestRequest(t *testing.T) {
	queries := map[string]string{
		"testdata/functionurl.json":    "token=a%20b&token=c",
		"testdata/apigatewayv2.json":   "token=a%20b&token=c",
		"testdata/apigateway.json":     "token=a+b&token=c",
		"testdata/alb.json":            "token=a%20b",
		"testdata/alb-multivalue.json": "token=a%20b&token=c",
	}
	hosts := map[string]string{
		"testdata/functionurl.json":    "abcdefghijklmnopqrstuvwxyz012345.lambda-url.us-east-1.on.aws",
		"testdata/apigatewayv2.json":   "abcdefghij.execute-api.us-east-1.amazonaws.com",
		"testdata/apigateway.json":     "abcdefghij.execute-api.us-east-1.amazonaws.com",
		"testdata/alb.json":            "mailtrap-1334523864.us-east-1.elb.amazonaws.com",
		"testdata/alb-multivalue.json": "mailtrap-1334523864.us-east-1.elb.amazonaws.com",
	}
	for _, s := range services {
		t.Run(s.name, func(t *testing.T) {
			d := s.document(t)
			r, body := request(t, d)
			require.Equal(t, http.MethodPost, r.Method)
			require.Equal(t, "/webhooks/mailtrap?"+queries[s.file], r.URL.String())
			require.Equal(t, hosts[s.file], r.Host)
			require.Equal(t, "45.158.83.129:0", r.RemoteAddr)
			require.Equal(t, "application/json", r.Header.Get("Content-Type"))
			require.Equal(t, d["body"], body)
			require.EqualValues(t, len(body), r.ContentLength)
		})
	}
}

// Only the load balancer's own hop counts: the client writes the others.
func TestSourceIPBehindALoadBalancer(t *testing.T) {
	for _, test := range []struct {
		forwarded []any
		want      string
	}{
		{[]any{"45.158.83.129"}, "45.158.83.129:0"},
		{[]any{"45.158.83.129, 192.0.2.1"}, "192.0.2.1:0"},
		{[]any{"45.158.83.129", "192.0.2.1"}, "192.0.2.1:0"},
		{[]any{"45.158.83.129 ,192.0.2.1:4711"}, "192.0.2.1:0"},
		{[]any{"45.158.83.129, 2001:db8::1"}, "[2001:db8::1]:0"},
		{[]any{"45.158.83.129, [2001:db8::1]:4711"}, "[2001:db8::1]:0"},
		{[]any{"45.158.83.129, "}, ":0"},
		{nil, ":0"},
	} {
		d := services[5].document(t)
		d.object("multiValueHeaders")["x-forwarded-for"] = test.forwarded
		r, _ := request(t, d)
		require.Equal(t, test.want, r.RemoteAddr, test.forwarded)
	}
}

// An allow-list refuses an address that the load balancer does not tell.
func TestAllowlistBehindALoadBalancer(t *testing.T) {
	allowed := mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges()).Guard()
	for forwarded, want := range map[string]bool{
		"192.0.2.1, 45.158.83.129": true,
		"45.158.83.129, 192.0.2.1": false,
		"":                         false,
	} {
		d := services[4].document(t)
		d.object("headers")["x-forwarded-for"] = forwarded
		r, _ := request(t, d)
		require.Equal(t, want, allowed(r) == nil, forwarded)
	}
}

// The query of a load balancer is not unescaped.
func TestTokenBehindALoadBalancer(t *testing.T) {
	token := mailtrapwebhook.QueryToken("token", "a+b %26")
	for _, field := range []string{"queryStringParameters", "multiValueQueryStringParameters"} {
		d := services[4].document(t)
		delete(d, "queryStringParameters")
		d[field] = map[string]any{"token": "a%2Bb%20%2526", "a": "1"}
		if field == "multiValueQueryStringParameters" {
			d[field] = map[string]any{"token": []any{"a%2Bb%20%2526"}, "a": []any{"1"}}
		}
		r, _ := request(t, d)
		require.NoError(t, token(r))
		require.Equal(t, "a=1&token=a%2Bb%20%2526", r.URL.RawQuery)
	}
}

func TestBodies(t *testing.T) {
	url, rest := services[0], services[2]
	const base64Lines = "eyJldmVudCI6Im9wZW4ifQo=" // {"event":"open"}
	for name, test := range map[string]struct {
		service service
		edit    func(d document)
		status  int
	}{
		"as it is":                 {url, func(document) {}, 200},
		"broken base64":            {url, func(d document) { d["body"], d["isBase64Encoded"] = "%"+base64Lines, true }, 400},
		"base64 cut off":           {url, func(d document) { d["body"], d["isBase64Encoded"] = base64Lines[:9], true }, 400},
		"base64 of something else": {url, func(d document) { d["body"], d["isBase64Encoded"] = base64Lines, true }, 400},
		"base64 declared as text":  {url, func(d document) { d["body"] = base64Lines }, 400},
		"text declared as base64":  {url, func(d document) { d["isBase64Encoded"] = true }, 400},
		"null":                     {url, func(d document) { d["body"] = nil }, 400},
		"none":                     {url, func(d document) { delete(d, "body") }, 400},
		"no headers":               {url, func(d document) { delete(d, "headers") }, 400},
		"headers alone":            {rest, func(d document) { delete(d, "multiValueHeaders") }, 200},
		"multiValueHeaders alone":  {rest, func(d document) { delete(d, "headers") }, 200},
		"a forged one in another case": {rest, func(d document) {
			d.object("multiValueHeaders")["MAILTRAP-signature"] = []any{"forged"}
		}, 400},
		"twice in headers alone": {rest, func(d document) {
			delete(d, "multiValueHeaders")
			d.object("headers")["MAILTRAP-signature"] = d.object("headers")["Mailtrap-Signature"]
		}, 400},
	} {
		t.Run(name, func(t *testing.T) {
			d := test.service.document(t)
			test.edit(d)
			output, err := invoke(t, newWebhook(t, new(counter), io.Discard), d)
			require.NoError(t, err, "AWS would answer 502")
			require.Equal(t, test.status, read(t, output).StatusCode)
		})
	}
}

// An event of another service is no request that Mailtrap could repeat.
func TestEventsThatAreNoRequest(t *testing.T) {
	for _, payload := range []string{`{}`, `null`, `"text"`, `{"Records":[]}`, `{"requestContext":{"elb":{}},"path":1}`} {
		_, err := lambdahttp.Function(http.NotFoundHandler())(t.Context(), []byte(payload))
		require.ErrorContains(t, err, "the event is not an HTTP request", payload)
	}
}

func TestResponse(t *testing.T) {
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
			got, err := lambdahttp.Function(test.handler)(t.Context(), []byte(`{"httpMethod":"POST"}`))
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(test.want, got))
		})
	}
}

func TestFunctionPassesTheContext(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "the request's id")
	var got any
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Context().Value(key{}) })
	_, err := lambdahttp.Function(handler)(ctx, []byte(`{"httpMethod":"POST"}`))
	require.NoError(t, err)
	require.Equal(t, "the request's id", got)
}
