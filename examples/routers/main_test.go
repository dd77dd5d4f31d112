package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const (
	secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"
	inner  = "no client sees this" // the text of the callback's errors and panics
)

// bodyOf returns a delivery of new events.
func bodyOf(format mailtrapwebhook.Format, kinds ...string) []byte {
	var events []mailtrapwebhook.Event
	for _, kind := range kinds {
		events = append(events, webhooktest.Sample(kind))
	}
	return webhooktest.Body(format, events...)
}

// inJSON is bodyOf in the format that most tests use.
func inJSON(kinds ...string) []byte { return bodyOf(mailtrapwebhook.FormatJSON, kinds...) }

func zipped(body []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(body)
	if err = errors.Join(err, w.Close()); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// A change makes a request that Mailtrap would not send.
type change func(*http.Request)

func asSent(*http.Request) {}

func replaceBody(r *http.Request, body []byte) {
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// An instance is a running server. Its callback remembers its calls.
type instance struct {
	*site
	address string
	client  *http.Client
	stop    context.CancelFunc
	ended   chan error
	log     syncBuffer
	act     callback // if not nil, called in the callback

	mu    sync.Mutex
	kept  []mailtrapwebhook.Event
	calls map[string]int // for each key
}

// newInstance returns an instance that does not serve yet.
func newInstance(t *testing.T) *instance {
	t.Helper()
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	require.NoError(t, err)
	s := &instance{ended: make(chan error, 1), calls: make(map[string]int)}
	s.site = newSite(verifier, s.callBack, slog.New(slog.NewTextHandler(&s.log, nil)))
	return s
}

func (s *instance) callBack(ctx context.Context, ev mailtrapwebhook.Event) error {
	s.mu.Lock()
	s.kept = append(s.kept, ev)
	s.calls[ev.Key()]++
	s.mu.Unlock()
	if s.act != nil {
		return s.act(ctx, ev)
	}
	return nil
}

// calledFor returns the names of the events that the callback saw, in order.
func (s *instance) calledFor() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, ev := range s.kept {
		names = append(names, ev.Name())
	}
	return strings.Join(names, " ")
}

// count returns how often the callback saw an event.
func (s *instance) count(ev mailtrapwebhook.Event) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[ev.Key()]
}

// start serves a router until the test ends.
func start(t *testing.T, router string) *instance {
	t.Helper()
	s := newInstance(t)
	s.startRouter(t, router)
	return s
}

func (s *instance) startRouter(t *testing.T, router string) {
	t.Helper()
	srv, err := newServer(router, s.site)
	require.NoError(t, err)
	s.serve(t, srv)
}

func (s *instance) serve(t *testing.T, srv server) {
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
		s.ended <- serveUntil(ctx, srv, listener, s.health, 0, shutdownTimeout)
	}()
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		stop()
		<-ended
	})
}

// send sends a signed request after a change to it. It returns the status and
// the body of the answer.
func (s *instance) send(t *testing.T, path string, body []byte, change change) (int, string) {
	t.Helper()
	r := s.request(path, body)
	change(r)
	resp, err := s.client.Do(r)
	require.NoError(t, err)
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, errors.Join(err, resp.Body.Close()))
	return resp.StatusCode, string(answer)
}

// request returns a signed request of a client.
func (s *instance) request(path string, body []byte) *http.Request {
	r := webhooktest.NewRequest(path, secret, body)
	r.URL.Scheme, r.URL.Host, r.RequestURI = "http", s.address, ""
	return r
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

func TestReceiver(t *testing.T) {
	for _, router := range routerNames() {
		for _, path := range []string{webhookPath, verifiedPath} {
			t.Run(router+path, func(t *testing.T) {
				t.Parallel()
				s := start(t, router)
				count := s.count
				if path == verifiedPath { // the callback must insert under Event.Key and ignore conflicts
					count = func(ev mailtrapwebhook.Event) int { return min(s.count(ev), 1) }
				}
				webhooktest.TestReceiver(t, webhooktest.Receiver{Handler: s.proxyTo(path), Secret: secret, Count: count})
			})
		}
	}
}

// proxyTo returns a handler that passes requests on to a path of the server.
func (s *instance) proxyTo(path string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL = &url.URL{Scheme: "http", Host: s.address, Path: path} },
		Transport: s.client.Transport,
		ErrorLog:  log.New(io.Discard, "", 0), // tells of each body that breaks off
	}
}

// An outcome is the statuses of the answers and the events that the callback
// saw, in order.
type outcome struct {
	Answered []int
	Called   string
}

type answersTest struct {
	name              string
	bodies            [][]byte
	change            change
	webhook, verified outcome // at the two paths
}

// refused returns a test whose request is answered status at both paths. The
// callback is not called.
func refused(name string, status int, body []byte, change change) answersTest {
	want := outcome{[]int{status}, ""}
	return answersTest{name, [][]byte{body}, change, want, want}
}

func answersTests() []answersTest {
	const header = mailtrapwebhook.SignatureHeader
	good := inJSON("delivery", "open")
	forged := mailtrapwebhook.Sign(good, "0123456789abcdef0123456789abcdef")
	both := func(first, second string) change {
		return func(r *http.Request) { r.Header[header] = []string{first, second} }
	}
	failing := inJSON("delivery", "bounce", "open")

	return []answersTest{
		refused("a forged signature", 400, good, func(r *http.Request) { r.Header.Set(header, forged) }),
		refused("a forged signature first", 400, good, both(forged, mailtrapwebhook.Sign(good, secret))),
		refused("a forged signature second", 400, good, both(mailtrapwebhook.Sign(good, secret), forged)),
		refused("no signature", 400, good, func(r *http.Request) { r.Header.Del(header) }),
		refused("an empty body", 400, nil, func(r *http.Request) { r.Header.Set(header, forged) }),
		refused("another method", 405, good, func(r *http.Request) { r.Method = http.MethodPut }),
		refused("broken JSON", 422, good[:len(good)-2], asSent),
		refused("too large a body", 413, good, func(r *http.Request) {
			r.Body, _ = io.Pipe() // nothing ever comes
			r.ContentLength = 8<<20 + 1
		}),
		{
			"a failing callback and its retry", [][]byte{failing, failing}, asSent,
			outcome{[]int{500, 500}, "delivery bounce open bounce"},
			outcome{[]int{500, 500}, "delivery bounce open delivery bounce open"},
		},
		{
			"a panicking callback and the next delivery",
			[][]byte{inJSON("delivery", "reject", "open"), inJSON("click")}, asSent,
			outcome{[]int{500, 200}, "delivery reject open click"},
			outcome{[]int{500, 200}, "delivery reject click"}, // the panic skips the rest
		},
		{
			"a body encoded on the way", [][]byte{good}, func(r *http.Request) {
				r.Header.Set("Content-Encoding", "gzip")
				replaceBody(r, zipped(good))
			},
			outcome{[]int{415}, ""},
			outcome{[]int{400}, ""}, // the signature covers other bytes
		},
	}
}

func TestEveryRouterAnswersAlike(t *testing.T) {
	for _, router := range routerNames() {
		for _, test := range answersTests() {
			for path, want := range map[string]outcome{webhookPath: test.webhook, verifiedPath: test.verified} {
				t.Run(router+path+"/"+test.name, func(t *testing.T) {
					t.Parallel()
					s := newInstance(t)
					s.act = func(_ context.Context, ev mailtrapwebhook.Event) error {
						switch ev.Name() {
						case "bounce":
							return errors.New(inner)
						case "reject":
							panic(inner)
						}
						return nil
					}
					s.startRouter(t, router)
					var got outcome
					for _, body := range test.bodies {
						status, answer := s.send(t, path, body, test.change)
						got.Answered = append(got.Answered, status)
						require.NotContains(t, answer, inner, "the answer shows the callback's error")
					}
					got.Called = s.calledFor()
					require.Empty(t, cmp.Diff(want, got))
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
				var sent []mailtrapwebhook.Event
				for range 10 { // about the same length, over the same connection
					events := []mailtrapwebhook.Event{webhooktest.Sample("delivery"), webhooktest.Sample("open")}
					sent = append(sent, events...)
					status, _ := s.send(t, path, webhooktest.Body(mailtrapwebhook.FormatJSON, events...), asSent)
					require.Equal(t, http.StatusOK, status)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				require.Empty(t, cmp.Diff(sent, s.kept))
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
	err := handleBody(gone, inJSON("delivery"), func(ctx context.Context, _ mailtrapwebhook.Event) error {
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
		return handleBody(t.Context(), inJSON("delivery"), func(context.Context, mailtrapwebhook.Event) error { return err })
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
			status, _ := s.send(t, webhookPath, inJSON("delivery"), asSent)
			require.Equal(t, http.StatusOK, status)
			require.NotContains(t, s.log.String(), "cannot be cut off")
		})
	}
}

func TestShutdownWaitsForDeliveries(t *testing.T) {
	for _, router := range routerNames() {
		for _, path := range []string{webhookPath, verifiedPath} {
			t.Run(router+path, func(t *testing.T) {
				s := newInstance(t)
				begun, release := make(chan struct{}), make(chan struct{})
				s.act = func(ctx context.Context, _ mailtrapwebhook.Event) error {
					close(begun)
					select {
					case <-release:
					case <-ctx.Done(): // the shutdown must not end it
						t.Error(ctx.Err())
					}
					return nil
				}
				s.webhook.EventTimeout = 25 * time.Second
				s.startRouter(t, router)

				answered := make(chan int, 1)
				go func() {
					resp, err := s.client.Do(s.request(path, inJSON("delivery")))
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
					return err != nil || len(s.ended) > 0
				}, 20*time.Second, time.Millisecond, "the server still takes connections")
				require.Empty(t, s.ended, "serve returned before the delivery was answered")
				close(release)
				require.Equal(t, http.StatusOK, <-answered)
				require.NoError(t, <-s.ended)
			})
		}
	}
}

func TestRefusesLargeHeaders(t *testing.T) {
	for _, router := range routerNames() {
		t.Run(router, func(t *testing.T) {
			t.Parallel()
			s := start(t, router)
			conn, err := net.Dial("tcp", s.address)
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
			r := s.request(webhookPath, inJSON("delivery"))
			r.Header.Set("X-Large", strings.Repeat("x", 80<<10))
			_ = r.Write(conn) // the server may hang up before the end
			resp, err := http.ReadResponse(bufio.NewReader(conn), r)
			require.NoError(t, err)
			resp.Body.Close()
			require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, resp.StatusCode)
		})
	}
}

// Caddy keeps connections for two minutes. If the program closed one first, a
// delivery that is under way there would fail.
func TestProxiesHangUpFirst(t *testing.T) {
	for _, router := range routerNames() {
		srv, err := newServer(router, newInstance(t).site)
		require.NoError(t, err)
		var idle time.Duration
		switch srv := srv.(type) {
		case *http.Server:
			idle = srv.IdleTimeout
		case fiberServer:
			idle = srv.app.Config().IdleTimeout
		}
		require.Greater(t, idle, 2*time.Minute, router)
	}
}

// A client that never ends its request must not hold up the end.
func TestEndIsNotHeldUp(t *testing.T) {
	for _, router := range routerNames() {
		t.Run(router, func(t *testing.T) {
			s := newInstance(t)
			srv, err := newServer(router, s.site)
			require.NoError(t, err)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			ctx, interrupt := context.WithCancel(t.Context())
			go func() { s.ended <- serveUntil(ctx, srv, listener, s.health, 0, 100*time.Millisecond) }()
			conn, err := net.Dial("tcp", listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: example.com\r\nContent-Length: 9\r\n%s: %064d\r\n\r\n",
				webhookPath, mailtrapwebhook.SignatureHeader, 0)
			require.NoError(t, err)
			time.Sleep(100 * time.Millisecond) // the server reads the head
			interrupt()
			select {
			case err := <-s.ended:
				require.NoError(t, err)
			case <-time.After(10 * time.Second):
				t.Fatal("the server does not end")
			}
		})
	}
}

func TestProgramServesUntilInterrupted(t *testing.T) {
	for _, router := range routerNames() {
		t.Run(router, func(t *testing.T) {
			t.Parallel()
			ctx, interrupt := context.WithCancel(t.Context())
			getenv := func(name string) string {
				return map[string]string{serve.SecretVariable: "another," + secret + "\n"}[name]
			}
			stderr, w := io.Pipe()
			ended := make(chan error, 1)
			args := []string{"-router", router, "-listen", "127.0.0.1:0", "-drain", "2s"}
			go func() { ended <- run(ctx, args, getenv, w) }()
			out := bufio.NewReader(stderr)
			line, err := out.ReadString('\n')
			require.NoError(t, err)
			var rest syncBuffer
			go func() { _, _ = io.Copy(&rest, out) }()

			_, address, ok := strings.Cut(strings.TrimSuffix(line, webhookPath+", Ctrl-C ends\n"), router+" listens on http://")
			require.True(t, ok, line)
			transport := &http.Transport{DisableKeepAlives: true}
			s := &instance{address: address, client: &http.Client{Transport: transport}}
			deliver := func() {
				status, _ := s.send(t, webhookPath, inJSON("delivery"), asSent)
				require.Equal(t, http.StatusOK, status)
			}
			get := func(path string) (status int) {
				status, _ = s.send(t, path, nil, func(r *http.Request) { r.Method, r.Body = http.MethodGet, nil })
				return status
			}
			deliver()
			require.Equal(t, []int{200, 200}, []int{get(livePath), get(readyPath)})

			interrupt()
			require.Eventually(t, func() bool { return get(readyPath) == 503 }, time.Second, time.Millisecond)
			require.Equal(t, 200, get(livePath))
			deliver() // deliveries still come in
			require.NoError(t, <-ended)
			require.Equal(t, 2, strings.Count(rest.String(), "event received"))
		})
	}
}

func TestProgramRefusesToStart(t *testing.T) {
	err := run(t.Context(), []string{"chi", "-listen", "127.0.0.1:0"}, func(string) string { return secret }, io.Discard)
	require.ErrorContains(t, err, "unexpected argument")
	tests := []struct{ name, secret, router, want string }{
		{"without a secret", "", "chi", "set MAILTRAP_SIGNING_SECRET"},
		{"with a blank secret", " \n", "chi", "set MAILTRAP_SIGNING_SECRET"},
		{"with one of two secrets", secret + ",", "chi", "set MAILTRAP_SIGNING_SECRET"},
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
