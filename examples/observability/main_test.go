package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	testSecret  = "0123456789abcdef0123456789abcdef"
	otherSecret = "fedcba9876543210fedcba9876543210" // of a second webhook

	bothSecrets = testSecret + "\n, " + otherSecret // as files have them

	// aWhile bounds the wait for something that must come. Only a failing test
	// waits for so long.
	aWhile = time.Minute
)

func environment(secret string) func(string) string {
	return func(name string) string {
		if name == secretVariable {
			return secret
		}
		return ""
	}
}

// A program is the running program with a callback of the test.
type program struct {
	url            string // of the webhook
	origin         string // of the other public paths
	metrics        string // URL of the metrics
	stdout, stderr lockedBuffer
	cancel         context.CancelFunc
	ended          chan error
}

func start(t *testing.T, onEvent callback, args ...string) *program {
	t.Helper()
	args = append([]string{"-listen", "127.0.0.1:0", "-metrics", "127.0.0.1:0", "-drain", "0",
		"-dropped", filepath.Join(t.TempDir(), "dropped.jsonl")}, args...)
	opts, err := parseOptions(args, environment(bothSecrets), io.Discard)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	p := &program{cancel: cancel, ended: make(chan error, 1)}
	go func() { p.ended <- receive(ctx, opts, onEvent, &p.stdout, newLogger(&p.stderr)) }()
	t.Cleanup(cancel)
	listening := p.waitForLine(t, "listening")
	p.origin = "http://" + listening["address"].(string)
	p.url = p.origin + webhookPath
	p.metrics = "http://" + listening["metrics"].(string) + "/metrics"
	return p
}

// end ends the program as a signal does.
func (p *program) end(t *testing.T) {
	t.Helper()
	p.cancel()
	select {
	case err := <-p.ended:
		require.NoError(t, err)
	case <-time.After(aWhile):
		t.Fatal("the program does not end")
	}
}

// waitForLine returns the first line of the log that has the message.
func (p *program) waitForLine(t *testing.T, message string) (line map[string]any) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, l := range p.lines(t) {
			if l["msg"] == message {
				line = l
				return true
			}
		}
		return false
	}, aWhile, time.Millisecond, "no line %q", message)
	return line
}

func (p *program) lines(t *testing.T) (lines []map[string]any) {
	t.Helper()
	for text := range strings.Lines(p.stderr.String()) {
		var line map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &line), text)
		lines = append(lines, line)
	}
	return lines
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// deliver sends a signed body and returns the status of the answer.
func (p *program) deliver(t *testing.T, body string) int {
	t.Helper()
	return p.deliverAs(t, testSecret, body)
}

// deliverAs sends a body that is signed with the secret.
func (p *program) deliverAs(t *testing.T, secret, body string) int {
	t.Helper()
	return p.send(t, newRequest(t, http.MethodPost, p.url, body, mailtrapwebhook.Sign([]byte(body), secret)))
}

func newRequest(t *testing.T, method, url, body, signature string) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), aWhile)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	if signature != "" {
		r.Header.Set(mailtrapwebhook.SignatureHeader, signature)
	}
	return r
}

func (p *program) send(t *testing.T, r *http.Request) int {
	t.Helper()
	status, err := statusOf(r)
	require.NoError(t, err)
	return status
}

func statusOf(r *http.Request) (int, error) {
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// deliverHeld delivers a "suspension" and returns when its callback has begun.
// The answer comes when s.leave is closed.
func (p *program) deliverHeld(t *testing.T, s *script, body string) (answer <-chan int) {
	t.Helper()
	r := newRequest(t, http.MethodPost, p.url, body, mailtrapwebhook.Sign([]byte(body), testSecret))
	answered := make(chan int, 1)
	go func() {
		status, _ := statusOf(r)
		answered <- status
	}()
	select {
	case <-s.entered:
	case status := <-answered:
		t.Fatalf("answered %d, and the callback was not called", status)
	}
	return answered
}

// The personal data in the events of the tests. None of it may show anywhere.
const (
	personEmail   = "receiver@example.com"
	personName    = "Ann Person"
	personAddress = "203.0.113.77"
	personURL     = "https://example.com/reset?user=ann"
)

// event returns the JSON of an event.
func event(kind string, id int, happened time.Time) string {
	switch {
	case strings.HasPrefix(kind, "activity_log."):
		return fmt.Sprintf(`{"event":%q,"description":"%s changed %d","actor":{"id":7,"name":%q},"timestamp":%d}`,
			kind, personName, id, personName, happened.Unix())
	case kind == kindInbound:
		return fmt.Sprintf(`{"event":%q,"event_id":"e","inbox_id":1,"message_id":"m-%d","from":"%s <%s>","timestamp":%d}`,
			kind, id, personName, personEmail, happened.UnixMilli())
	}
	return fmt.Sprintf(`{"event":%q,"event_id":"e-%d","message_id":"m-%d","email":%q,"ip":%q,"url":%q,`+
		`"custom_variables":{"name":%q},"timestamp":%d}`,
		kind, id, id, personEmail, personAddress, personURL, personName, happened.Unix())
}

func envelope(events ...string) string { return `{"events":[` + strings.Join(events, ",") + `]}` }
func lines(events ...string) string    { return strings.Join(events, "\n") + "\n" }

// A script is a callback. The kind of an event decides how the callback ends.
type script struct {
	mu     sync.Mutex
	opened bool // an "open" came before

	entered, leave chan struct{} // of a "suspension"
}

func newScript() *script { return &script{entered: make(chan struct{}), leave: make(chan struct{})} }

func (s *script) onEvent(ctx context.Context, ev mailtrapwebhook.Event) error {
	switch ev.Name() {
	case "open":
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.opened {
			s.opened = true
			return errors.New("the database is away")
		}
	case "unsubscribe":
		return errors.New("the database is away")
	case "reject":
		return mailtrapwebhook.Permanent(errors.New("no such message"))
	case "spam":
		_, span := trace.SpanFromContext(ctx).TracerProvider().Tracer("of the callback").Start(ctx, "INSERT")
		defer span.End() // as most code does; End sees the panic
		panic(ev)
	case "suspension":
		s.entered <- struct{}{}
		<-s.leave
	}
	return nil
}

func succeed(context.Context, mailtrapwebhook.Event) error { return nil }

func gzipped(t *testing.T, body string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, body)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.String()
}

func TestCommandLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for name, test := range map[string]struct {
		args   []string
		secret string
		status int
		want   string
	}{
		"unknown flag":     {[]string{"-lisen", ":0"}, testSecret, exitUsage, "not defined: -lisen"},
		"stray argument":   {[]string{":8080"}, testSecret, exitUsage, `unexpected argument ":8080"`},
		"unknown exporter": {[]string{"-traces", "jaeger"}, testSecret, exitUsage, "make it none, stdout or otlp"},
		"empty address":    {[]string{"-listen", ""}, testSecret, exitUsage, "-listen: name an address"},
		"no metrics":       {[]string{"-metrics", ""}, testSecret, exitUsage, "-metrics: name an address"},
		"negative drain":   {[]string{"-drain", "-5s"}, testSecret, exitUsage, "make it 0s to 10s"},
		"no secret":        {nil, "", exitUsage, secretVariable},
		"blank secret":     {nil, " \n", exitUsage, secretVariable},
		"stray comma":      {nil, testSecret + ",", exitUsage, secretVariable},
		"address in use": {
			[]string{"-listen", taken.Addr().String(), "-metrics", "127.0.0.1:0"}, testSecret, exitFailure, "bind: ",
		},
		"address of the metrics in use": {
			[]string{"-listen", "127.0.0.1:0", "-metrics", taken.Addr().String()}, testSecret, exitFailure, "bind: ",
		},
		"dropped events cannot be kept": {
			[]string{"-listen", "127.0.0.1:0", "-metrics", "127.0.0.1:0", "-dropped", filepath.Join(t.TempDir(), "missing", "d.jsonl")},
			testSecret, exitFailure, "dropped events cannot be kept",
		},
		"help": {[]string{"-h"}, "", exitOK, "Usage of observability"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second) // ends a program that starts
			defer cancel()
			var stdout, stderr bytes.Buffer
			status := run(ctx, test.args, environment(test.secret), &stdout, &stderr)
			require.Equal(t, test.status, status, "%s", &stderr)
			require.Empty(t, stdout.String())
			require.Contains(t, stderr.String(), test.want)
			require.NotContains(t, stderr.String(), testSecret)
		})
	}
}

func TestProgramLogsEventsAndEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := &program{}
	status := make(chan int, 1)
	go func() {
		args := []string{"-listen", "127.0.0.1:0", "-metrics", "127.0.0.1:0", "-drain", "0",
			"-dropped", filepath.Join(t.TempDir(), "dropped.jsonl")}
		status <- run(ctx, args, environment(testSecret), &p.stdout, &p.stderr)
	}()
	defer cancel()
	p.url = "http://" + p.waitForLine(t, "listening")["address"].(string) + webhookPath
	require.Equal(t, http.StatusOK, p.deliver(t, envelope(event("bounce", 1, time.Now()))))
	logged := p.waitForLine(t, "event")
	require.Equal(t, "bounce", logged["event"].(map[string]any)["name"])
	require.Contains(t, logged, "trace_id")
	cancel()
	require.Equal(t, exitOK, <-status, p.stderr.String())
}

func TestMetricsAreNotOnThePublicAddress(t *testing.T) {
	p := start(t, succeed)
	for name, test := range map[string]struct{ method, url string }{
		"metrics on the public address":            {http.MethodGet, strings.Replace(p.url, webhookPath, "/metrics", 1)},
		"deliveries on the address of the metrics": {http.MethodPost, strings.Replace(p.metrics, "/metrics", webhookPath, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, http.StatusNotFound, p.send(t, newRequest(t, test.method, test.url, "", "")))
		})
	}
	p.end(t)
}

// A program that ends waits for the delivery that has begun, serves its metrics
// until then, and sends its span.
func TestEndWaitsForTheDelivery(t *testing.T) {
	collector := startCollector(t)
	s := newScript()
	p := start(t, s.onEvent, "-traces", tracesOTLP)
	status := p.deliverHeld(t, s, envelope(event("suspension", 1, time.Now())))
	p.cancel()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.origin, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, aWhile, time.Millisecond, "the program still listens")
	require.Zero(t, p.scrape(t)[`mailtrap_webhook_requests_total{status="200",webhook="0"}`])
	close(s.leave)
	require.Equal(t, http.StatusOK, <-status)
	p.end(t)
	require.Len(t, collector.spans(), 1)
	_, err := http.Get(p.metrics)
	require.Error(t, err, "the metrics are still served")
}

// At a signal the program first says that it is not ready, and still receives.
// Load balancers need the time in between.
func TestUnreadyBeforeItStopsReceiving(t *testing.T) {
	p := start(t, succeed, "-drain", "2s")
	get := func(path string) int { return p.send(t, newRequest(t, http.MethodGet, p.origin+path, "", "")) }
	require.Equal(t, 200, get("/healthz"))
	require.Equal(t, 200, get("/readyz"))
	signaled := time.Now()
	p.cancel()
	p.waitForLine(t, "ending: /readyz answers 503")
	require.Equal(t, 503, get("/readyz"))
	require.Equal(t, 200, get("/healthz"))
	require.Equal(t, 200, p.deliver(t, envelope(event("bounce", 1, time.Now()))))
	p.end(t)
	require.GreaterOrEqual(t, time.Since(signaled), 2*time.Second)
}
