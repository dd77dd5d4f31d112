package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const testSecret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

// A record is what a program has printed. It is safe for concurrent use.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *record) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *record) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// An outcome is what a finished program has printed and returned.
type outcome struct {
	status         int
	stdout, stderr string
}

// runWith runs the program with a secret in its environment.
func runWith(t *testing.T, secret, stdin string, args ...string) outcome {
	t.Helper()
	var stdout, stderr record
	status := run(t.Context(), args, environment{
		getenv: func(name string) string {
			require.Equal(t, secretVariable, name)
			return secret
		},
		stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr,
	})
	return outcome{status, stdout.String(), stderr.String()}
}

// A listening inspector is the program in this process.
type listening struct {
	url            string
	stdout, stderr *record
	stop           func() int // ends it as a signal does, and returns the exit status
}

var pageURL = regexp.MustCompile(`the page +(http://\S+)/\n`)

// startListen runs inspector listen on a free port.
func startListen(t *testing.T, secret string, args ...string) *listening {
	t.Helper()
	l := &listening{stdout: new(record), stderr: new(record)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	go func() {
		args := append([]string{"listen", "-addr", "127.0.0.1:0"}, args...)
		ended <- run(ctx, args, environment{func(string) string { return secret }, nil, l.stdout, l.stderr})
	}()
	l.stop = sync.OnceValue(func() int {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { l.stop() })
	require.Eventually(t, func() bool {
		if m := pageURL.FindStringSubmatch(l.stdout.String()); m != nil {
			l.url = m[1]
		}
		return l.url != "" || len(ended) > 0
	}, time.Minute, time.Millisecond)
	require.NotEmpty(t, l.url, l.stderr.String())
	return l
}

// deliver posts a body as Mailtrap does.
func (l *listening) deliver(t *testing.T, secret string, body []byte) int {
	t.Helper()
	status, _ := post(t, l.url+webhookPath, secret, body)
	return status
}

func post(t *testing.T, url, secret string, body []byte) (int, string) {
	t.Helper()
	signed := webhooktest.NewRequest("/", secret, body)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	require.NoError(t, err)
	r.Header = signed.Header
	return do(t, r)
}

// do returns the status and the body of the answer.
func do(t *testing.T, r *http.Request) (int, string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

// get decodes the API's answer into dst.
func (l *listening) get(t *testing.T, path string, dst any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.url+path, nil)
	require.NoError(t, err)
	status, text := do(t, r)
	require.Equal(t, http.StatusOK, status, text)
	require.NoError(t, json.Unmarshal([]byte(text), dst))
}

// call posts JSON to the API.
func (l *listening) call(t *testing.T, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.url+path, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	return do(t, r)
}

type listAnswer struct {
	Deliveries []summary
	More       bool
	Total      int
}

func (l *listening) list(t *testing.T, query string) listAnswer {
	t.Helper()
	var answer listAnswer
	l.get(t, "/api/deliveries?"+query, &answer)
	return answer
}

func (a listAnswer) ids() []string {
	ids := []string{}
	for _, d := range a.Deliveries {
		ids = append(ids, d.ID)
	}
	return ids
}

func (l *listening) detail(t *testing.T, id string) detail {
	t.Helper()
	var d detail
	l.get(t, "/api/deliveries/"+id, &d)
	return d
}

// newTestInspector returns an inspector without a server of its own.
func newTestInspector(t *testing.T, opts listenOptions) *inspector {
	t.Helper()
	listener := httptest.NewUnstartedServer(nil).Listener
	t.Cleanup(func() { listener.Close() })
	in, err := newInspector(opts, listener.Addr(), environment{stdout: io.Discard, stderr: io.Discard})
	require.NoError(t, err)
	t.Cleanup(in.runs.stop)
	return in
}

func sampleBody(kinds ...string) []byte {
	var events []mailtrapwebhook.Event
	for _, kind := range kinds {
		events = append(events, webhooktest.Sample(kind))
	}
	return webhooktest.Body(mailtrapwebhook.FormatJSON, events...)
}

// captureFiles returns the names of the captures in a folder.
func captureFiles(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+captureExt))
	require.NoError(t, err)
	return names
}

// writeCapture delivers nothing: it writes the capture of a signed body.
func writeCapture(t *testing.T, secret string, body []byte) string {
	t.Helper()
	c := newCapture(webhooktest.NewRequest(webhookPath, secret, body), body, time.Now())
	c.id = 1
	name := filepath.Join(t.TempDir(), c.fileName())
	require.NoError(t, os.WriteFile(name, c.bytes(), 0o600))
	return name
}

// signedRequest returns a delivery that verifies.
func signedRequest(body []byte) *http.Request {
	return webhooktest.NewRequest(webhookPath, testSecret, body)
}

func setBody(r *http.Request, body []byte) {
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// answerOf returns the status that answers a delivery, after a change.
func answerOf(h http.Handler, body []byte, change func(*http.Request)) int {
	r := signedRequest(body)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

// fill returns a body with white space behind it, n bytes in all.
func fill(body []byte, n int) []byte {
	return append(bytes.Clone(body), bytes.Repeat([]byte(" "), n-len(body))...)
}
