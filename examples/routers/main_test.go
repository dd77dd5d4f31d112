package main

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"
	inner  = "no client sees this" // the text of the callback's errors and panics
)

type request struct {
	method    string // POST if empty
	body      []byte
	signature string
	second    string      // a second signature, if not empty
	header    http.Header // without the signature and the type
	chunked   bool        // without a Content-Length
	declared  int64       // if not 0, the Content-Length of a body that never comes
}

// signed returns a signed delivery. The callback fails for a bounce and panics
// for a reject.
func signed(body []byte) request {
	return request{body: body, signature: mailtrapwebhook.Sign(body, secret)}
}

func event(kind string) string {
	return fmt.Sprintf(`{"event":%q,"timestamp":1728669700,"message_id":"message","event_id":"id-%s"}`, kind, kind)
}

func envelope(kinds ...string) []byte {
	var events []string
	for _, kind := range kinds {
		events = append(events, event(kind))
	}
	return []byte(`{"events":[` + strings.Join(events, ",") + `]}`)
}

func lines(kinds ...string) []byte {
	var b bytes.Buffer
	for _, kind := range kinds {
		b.WriteString(event(kind) + "\n")
	}
	return b.Bytes()
}

// fullBatch returns the largest body that Mailtrap sends: 500 events, each with
// about 1,000 bytes of custom variables.
func fullBatch() []byte {
	var events []string
	for i := range 500 {
		events = append(events, fmt.Sprintf(`{"event":"open","event_id":"id-%d","message_id":"message","custom_variables":{"v":%q}}`,
			i, strings.Repeat("v", 990)))
	}
	return []byte(`{"events":[` + strings.Join(events, ",") + `]}`)
}

func zipped(body []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(body)
	if err = errors.Join(err, w.Close()); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// A site is a running server. Its callback remembers its calls.
type site struct {
	address string
	client  *http.Client
	stop    context.CancelFunc
	served  chan error
	log     *syncBuffer

	mu     sync.Mutex
	called []string
	kept   []mailtrapwebhook.Event
	gate   func(ctx context.Context, ev mailtrapwebhook.Event) // if not nil, called in the callback
}

func (s *site) onEvent(ctx context.Context, ev mailtrapwebhook.Event) error {
	s.mu.Lock()
	s.called, s.kept = append(s.called, ev.Name()), append(s.kept, ev)
	s.mu.Unlock()
	if s.gate != nil {
		s.gate(ctx, ev)
	}
	switch ev.Name() {
	case "bounce":
		return errors.New(inner)
	case "reject":
		panic(inner)
	}
	return nil
}

func (s *site) calledFor() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.called, " ")
}

// newSite returns a site that does not run yet, and the Handler that it serves.
func newSite(t *testing.T) (*site, *mailtrapwebhook.Handler, *mailtrapwebhook.Verifier) {
	t.Helper()
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	require.NoError(t, err)
	s := &site{log: new(syncBuffer), served: make(chan error, 1)}
	return s, newWebhook(verifier, s.onEvent, slog.New(slog.NewTextHandler(s.log, nil))), verifier
}

// start serves a router until the test ends.
func start(t *testing.T, router string) *site {
	t.Helper()
	s, webhook, verifier := newSite(t)
	srv, err := newServer(router, webhook, verifier, s.onEvent)
	require.NoError(t, err)
	s.serve(t, srv)
	return s
}

func (s *site) serve(t *testing.T, srv server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.address = listener.Addr().String()
	s.client = &http.Client{Transport: &http.Transport{}, Timeout: time.Minute} // no proxy for requests to this machine
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	s.stop = stop
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.served <- serve(ctx, srv, listener)
	}()
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		stop()
		<-ended
	})
}

// send sends a request. It returns the status and the body of the answer.
func (s *site) send(t *testing.T, path string, req request) (int, string) {
	t.Helper()
	do := s.post
	if req.declared > 0 {
		do = s.announce
	}
	resp, err := do(path, req)
	require.NoError(t, err)
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, errors.Join(err, resp.Body.Close()))
	return resp.StatusCode, string(answer)
}

func (s *site) post(path string, req request) (*http.Response, error) {
	r, err := http.NewRequest(cmp.Or(req.method, http.MethodPost), "http://"+s.address+path, bytes.NewReader(req.body))
	if err != nil {
		return nil, err
	}
	r.Header = req.header.Clone()
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	r.Header.Set("Content-Type", "application/json")
	if bytes.HasPrefix(req.body, []byte(`{"event":`)) {
		r.Header.Set("Content-Type", "application/jsonl")
	}
	if req.signature != "" {
		r.Header.Add(mailtrapwebhook.SignatureHeader, req.signature)
	}
	if req.second != "" {
		r.Header.Add(mailtrapwebhook.SignatureHeader, req.second)
	}
	if req.chunked {
		r.ContentLength = -1
	}
	return s.client.Do(r)
}

// announce sends the head of a request without the body and waits for the
// answer.
func (s *site) announce(path string, req request) (*http.Response, error) {
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n%s: %s\r\n\r\n",
		path, s.address, req.declared, mailtrapwebhook.SignatureHeader, req.signature)
	if err = errors.Join(err, conn.SetDeadline(time.Now().Add(time.Minute))); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	return resp, err
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// An outcome is the statuses of the answers and the events that the callback
// saw, in order.
type outcome struct {
	Answered []int
	Called   string
}

type conformanceTest struct {
	name              string
	sent              []request
	webhook, verified outcome // at the two paths
}

// refused returns a test whose requests are answered status at both paths. The
// callback is not called.
func refused(name string, status int, sent ...request) conformanceTest {
	want := outcome{slices.Repeat([]int{status}, len(sent)), ""}
	return conformanceTest{name, sent, want, want}
}

// handled returns a test whose delivery is answered 200 at both paths.
func handled(name, called string, sent request) conformanceTest {
	want := outcome{[]int{200}, called}
	return conformanceTest{name, []request{sent}, want, want}
}

func conformanceTests() []conformanceTest {
	good := signed(envelope("delivery", "open"))
	forged, unsigned, encoded, put := good, good, good, good
	forged.signature = mailtrapwebhook.Sign(good.body, "0123456789abcdef0123456789abcdef")
	unsigned.signature = ""
	encoded.body, encoded.header = zipped(good.body), http.Header{"Content-Encoding": {"gzip"}}
	put.method = http.MethodPut
	forgedFirst, forgedSecond := forged, good
	forgedFirst.second, forgedSecond.second = good.signature, forged.signature
	failing := signed(envelope("delivery", "bounce", "open"))

	return []conformanceTest{
		handled("a JSON envelope", "delivery open", good),
		handled("JSON Lines", "delivery open", signed(lines("delivery", "open"))),
		handled("a full batch", strings.TrimSpace(strings.Repeat("open ", 500)), signed(fullBatch())),
		refused("a forged signature", 400, forged),
		refused("two signatures", 400, forgedFirst, forgedSecond),
		refused("no signature", 400, unsigned),
		refused("an empty body", 400, signed(nil)),
		refused("another method", 405, put),
		refused("broken JSON", 422, signed(good.body[:len(good.body)-2])),
		refused("too large a body", 413, request{declared: 8<<20 + 1, signature: good.signature}),
		{
			"a retry", []request{good, good},
			outcome{[]int{200, 200}, "delivery open"},
			outcome{[]int{200, 200}, "delivery open delivery open"}, // the callback must use Event.Key
		},
		{
			"a failing callback and its retry", []request{failing, failing},
			outcome{[]int{500, 500}, "delivery bounce open bounce"},
			outcome{[]int{500, 500}, "delivery bounce open delivery bounce open"},
		},
		{
			"a panicking callback and the next delivery",
			[]request{signed(envelope("delivery", "reject", "open")), signed(envelope("click"))},
			outcome{[]int{500, 200}, "delivery reject open click"},
			outcome{[]int{500, 200}, "delivery reject click"}, // the panic skips the rest
		},
		{
			"a body encoded on the way", []request{encoded},
			outcome{[]int{415}, ""},
			outcome{[]int{400}, ""}, // the signature covers other bytes
		},
	}
}

func TestEveryRouterTreatsDeliveriesAlike(t *testing.T) {
	for _, router := range routerNames() {
		for _, test := range conformanceTests() {
			for path, want := range map[string]outcome{webhookPath: test.webhook, verifiedPath: test.verified} {
				t.Run(router+path+"/"+test.name, func(t *testing.T) {
					s := start(t, router)
					var got outcome
					for _, req := range test.sent {
						status, answer := s.send(t, path, req)
						got.Answered = append(got.Answered, status)
						require.NotContains(t, answer, inner, "the answer shows the callback's error")
					}
					got.Called = s.calledFor()
					require.Empty(t, gocmp.Diff(want, got))
				})
			}
		}
	}
}

// An event's strings must not lie in memory that the router reuses.
func TestEventsOutliveTheirRequest(t *testing.T) {
	for _, router := range routerNames() {
		for _, path := range []string{webhookPath, verifiedPath} {
			t.Run(router+path, func(t *testing.T) {
				s := start(t, router)
				first := envelope("delivery", "open")
				status, _ := s.send(t, path, signed(first))
				require.Equal(t, http.StatusOK, status)
				for i := range 10 { // of the same length, over the same connection
					other := bytes.ReplaceAll(first, []byte("message"), fmt.Appendf(nil, "other-%d", i))
					status, _ := s.send(t, path, signed(other))
					require.Equal(t, http.StatusOK, status)
				}
				want, err := mailtrapwebhook.Parse(first)
				require.NoError(t, err)
				s.mu.Lock()
				defer s.mu.Unlock()
				require.Len(t, s.kept, 22)
				require.Empty(t, gocmp.Diff(want, s.kept[:2]))
			})
		}
	}
}

// A client that hangs up must not interrupt a callback. Its time has a limit
// all the same.
func TestCallbacksDoNotEndWithTheClient(t *testing.T) {
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	calls := 0
	err := handleBody(gone, envelope("delivery"), func(ctx context.Context, _ mailtrapwebhook.Event) error {
		calls++
		_, limited := ctx.Deadline()
		require.True(t, limited)
		return ctx.Err()
	})
	require.NoError(t, err)
	require.Equal(t, 1, calls)
}

// A callback's error is answered 500, whatever it wraps.
func TestStatusOfErrors(t *testing.T) {
	failing := func(err error) error {
		return handleBody(t.Context(), envelope("delivery"), func(context.Context, mailtrapwebhook.Event) error { return err })
	}
	tests := []struct {
		err  error
		want int
	}{
		{mailtrapwebhook.ErrNoSecret, 500},
		{mailtrapwebhook.ErrMissingSignature, 400},
		{io.ErrUnexpectedEOF, 400},
		{&http.MaxBytesError{Limit: 1}, 413},
		{failing(&http.MaxBytesError{Limit: 1}), 500},
		{failing(mailtrapwebhook.ErrInvalidSignature), 500},
		{failing(&mailtrapwebhook.DecodeError{Err: io.ErrUnexpectedEOF}), 500},
	}
	for _, test := range tests {
		require.Equal(t, test.want, statusOf(test.err), test.err.Error())
	}
}

// Logging and recovery must not hide the connection from the Handler. Fiber has
// read the body before, so the Handler does not warn there.
func TestHandlerCanCutOffSlowBodies(t *testing.T) {
	for _, router := range routerNames() {
		t.Run(router, func(t *testing.T) {
			s := start(t, router)
			status, _ := s.send(t, webhookPath, signed(envelope("delivery")))
			require.Equal(t, http.StatusOK, status)
			require.NotContains(t, s.log.String(), "cannot be cut off")
		})
	}
}

func TestShutdownWaitsForDeliveries(t *testing.T) {
	for _, router := range routerNames() {
		for _, path := range []string{webhookPath, verifiedPath} {
			t.Run(router+path, func(t *testing.T) {
				s, webhook, verifier := newSite(t)
				begun, release := make(chan struct{}), make(chan struct{})
				s.gate = func(ctx context.Context, _ mailtrapwebhook.Event) {
					close(begun)
					select {
					case <-release:
					case <-ctx.Done(): // the shutdown must not end it
						t.Error(ctx.Err())
					}
				}
				webhook.EventTimeout = 25 * time.Second
				srv, err := newServer(router, webhook, verifier, s.onEvent)
				require.NoError(t, err)
				s.serve(t, srv)

				answered := make(chan int, 1)
				go func() {
					resp, err := s.post(path, signed(envelope("delivery")))
					if err != nil {
						t.Error(err)
						answered <- 0
						return
					}
					resp.Body.Close()
					answered <- resp.StatusCode
				}()
				<-begun
				s.stop()
				require.Eventually(t, func() bool {
					conn, err := net.Dial("tcp", s.address)
					if err == nil {
						conn.Close()
					}
					return err != nil || len(s.served) > 0
				}, 20*time.Second, time.Millisecond, "the server still takes connections")
				require.Empty(t, s.served, "serve returned before the delivery was answered")
				close(release)
				require.Equal(t, http.StatusOK, <-answered)
				require.NoError(t, <-s.served)
			})
		}
	}
}

func TestProgramServesUntilInterrupted(t *testing.T) {
	for _, router := range routerNames() {
		t.Run(router, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			getenv := func(name string) string { return map[string]string{secretVariable: secret + "\n"}[name] }
			stderr, w := io.Pipe()
			ended := make(chan error, 1)
			go func() { ended <- run(ctx, []string{"-router", router, "-listen", "127.0.0.1:0"}, getenv, w) }()
			out := bufio.NewReader(stderr)
			line, err := out.ReadString('\n')
			require.NoError(t, err)
			var rest syncBuffer
			go func() { _, _ = io.Copy(&rest, out) }()

			_, address, ok := strings.Cut(strings.TrimSuffix(line, ", Ctrl-C ends\n"), router+" listens on ")
			require.True(t, ok, line)
			s := &site{address: address, client: &http.Client{Transport: &http.Transport{}}}
			status, _ := s.send(t, webhookPath, signed(envelope("delivery")))
			require.Equal(t, http.StatusOK, status)
			s.client.CloseIdleConnections()
			interrupt()
			require.NoError(t, <-ended)
			require.Contains(t, rest.String(), "event received")
		})
	}
}

func TestProgramRefusesToStart(t *testing.T) {
	err := run(t.Context(), []string{"chi", "-listen", "127.0.0.1:0"}, func(string) string { return secret }, io.Discard)
	require.ErrorContains(t, err, "unexpected argument")
	tests := []struct{ name, secret, router, want string }{
		{"without a secret", "", "chi", "set MAILTRAP_SIGNING_SECRET"},
		{"with a blank secret", " \n", "chi", "set MAILTRAP_SIGNING_SECRET"},
		{"with an unknown router", secret, "martini", "choose one of chi, echo, fiber, gin, gorilla, nethttp"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // ends the program at once if it starts
			err := run(ctx, []string{"-router", test.router, "-listen", "127.0.0.1:0"},
				func(string) string { return test.secret }, io.Discard)
			require.ErrorContains(t, err, test.want)
		})
	}
}
