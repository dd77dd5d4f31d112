package serve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// start starts a server and returns its address, and what Serve returned when
// that ends.
func start(t *testing.T, ctx context.Context, s *Server) (url string, ended <-chan error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() { result <- s.Serve(ctx, listener) }()
	t.Cleanup(func() { listener.Close() })
	return "http://" + listener.Addr().String(), result
}

// get returns the status and the body of an answer.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

func answer(status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
}

func TestReadyWhileTheStoreAnswers(t *testing.T) {
	storeErr := make(chan error, 1)
	url, _ := start(t, t.Context(), &Server{
		Webhook: answer(http.StatusTeapot),
		Ready:   func(context.Context) error { return <-storeErr },
		Logger:  slog.New(slog.DiscardHandler),
	})
	for _, path := range []string{"/", "/webhooks/mailtrap"} {
		status, _ := get(t, url+path)
		require.Equal(t, http.StatusTeapot, status, "%s goes to the webhook", path)
	}

	storeErr <- nil
	status, _ := get(t, url+"/readyz")
	require.Equal(t, http.StatusOK, status)

	storeErr <- errors.New("dial tcp db.example.com:5432: connection refused")
	status, body := get(t, url+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.NotContains(t, body, "db.example.com")
	status, _ = get(t, url+"/healthz")
	require.Equal(t, http.StatusOK, status, "a store that is down is no reason to restart the process")
}

// The log says when the store is lost, why, and when it is back, however often
// somebody probes.
func TestLogsWhenTheStoreIsLost(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	storeErr := make(chan error, 1)
	var logged bytes.Buffer // read it after the end
	url, ended := start(t, ctx, &Server{
		Webhook: answer(http.StatusOK),
		Ready:   func(context.Context) error { return <-storeErr },
		Logger:  slog.New(slog.NewTextHandler(&logged, nil)),
	})
	refused := errors.New("connection refused")
	for _, err := range []error{nil, refused, errors.New("still refused"), refused, nil, nil, refused} {
		storeErr <- err
		get(t, url+"/readyz")
	}
	end()
	require.NoError(t, <-ended)
	var lines []string
	for line := range strings.Lines(logged.String()) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), " ") // the time
		lines = append(lines, line)
	}
	const lost = `level=ERROR msg="the store does not answer: /readyz answers 503" err="connection refused"`
	require.Equal(t, []string{
		lost, `level=INFO msg="the store answers again: /readyz answers 200"`, lost,
		`level=INFO msg="ending: /readyz answers 503" drain=0s`,
	}, lines)
}

func TestStoreThatHangsIsNotReady(t *testing.T) {
	t.Parallel() // it waits
	url, _ := start(t, t.Context(), &Server{
		Webhook: answer(http.StatusOK),
		Ready:   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	})
	began := time.Now()
	status, _ := get(t, url+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Less(t, time.Since(began), 10*readyTimeout)
}

func TestStoreThatPanicsIsNotReady(t *testing.T) {
	var pool *sync.Map // a store that was not set up
	url, _ := start(t, t.Context(), &Server{
		Webhook: answer(http.StatusOK),
		Ready:   func(context.Context) error { pool.Clear(); return nil },
		Logger:  slog.New(slog.DiscardHandler),
	})
	status, _ := get(t, url+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
}

// However many strangers probe, the store has one question at a time.
func TestProbesShareAQuestion(t *testing.T) {
	var open, most atomic.Int32
	url, _ := start(t, t.Context(), &Server{
		Webhook: answer(http.StatusOK),
		Ready: func(context.Context) error {
			if n := open.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(10 * time.Millisecond)
			open.Add(-1)
			return nil
		},
	})
	var probes sync.WaitGroup
	for range 20 {
		probes.Go(func() {
			resp, err := http.Get(url + "/readyz")
			if assert.NoError(t, err) {
				resp.Body.Close()
				assert.Equal(t, http.StatusOK, resp.StatusCode)
			}
		})
	}
	probes.Wait()
	require.EqualValues(t, 1, most.Load())
}

// After the signal the server is unready at once, takes deliveries for Drain,
// and answers those that have begun. It needs no store for that.
func TestEndsInOrder(t *testing.T) {
	t.Parallel() // it waits
	ctx, end := context.WithCancel(t.Context())
	var logged bytes.Buffer // read it after the end
	begun, goOn := make(chan struct{}), make(chan struct{})
	url, ended := start(t, ctx, &Server{
		Webhook: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(begun)
				<-goOn
			}
		}),
		Drain:  time.Second,
		Logger: slog.New(slog.NewTextHandler(&logged, nil)),
	})
	slow := make(chan int, 1)
	go func() {
		resp, err := http.Get(url + "/slow")
		if err != nil {
			slow <- 0
			return
		}
		resp.Body.Close()
		slow <- resp.StatusCode
	}()
	<-begun
	status, _ := get(t, url+"/readyz")
	require.Equal(t, http.StatusOK, status)
	end()
	require.Eventually(t, func() bool {
		status, _ := get(t, url+"/readyz")
		return status == http.StatusServiceUnavailable
	}, time.Second/2, time.Millisecond, "/readyz must answer 503 before Drain is over")
	status, _ = get(t, url+"/")
	require.Equal(t, http.StatusOK, status, "deliveries come in while the load balancer turns away")

	require.Eventually(t, func() bool {
		_, err := http.Get(url + "/healthz")
		return err != nil
	}, 10*time.Second, 10*time.Millisecond, "no connection is taken after Drain")
	close(goOn)
	require.Equal(t, http.StatusOK, <-slow, "a delivery that has begun is answered")
	require.NoError(t, <-ended)
	require.Contains(t, logged.String(), `msg="ending: /readyz answers 503" drain=1s`)
}

// A pipeListener accepts one connection, whose deadlines follow the clock of a
// bubble.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{} }

// servePiped serves in a bubble until end is called, and returns the client's
// side of a connection.
func servePiped(t *testing.T, webhook http.HandlerFunc) (client net.Conn, end func()) {
	client, conn := net.Pipe()
	listener := &pipeListener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	listener.conns <- conn
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- (&Server{Webhook: webhook}).Serve(ctx, listener) }()
	return client, func() {
		cancel()
		require.NoError(t, <-ended)
	}
}

func TestClientsThatStallAreCutOff(t *testing.T) {
	for name, test := range map[string]struct {
		sent  string
		after time.Duration
	}{
		"in the header":   {"POST / HTTP/1.1\r\nHost:", 5 * time.Second},
		"in the body":     {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", 30 * time.Second},
		"after an answer": {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 3 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, end := servePiped(t, func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
				})
				began := time.Now()
				_, err := io.WriteString(client, test.sent)
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, client)
				require.NoError(t, err)
				// net/http may wait half a second before it closes a connection
				// whose request has not been read.
				require.Contains(t, []time.Duration{test.after, test.after + time.Second/2}, time.Since(began))
				end()
			})
		})
	}
}

func TestClientsThatDoNotReadAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cutOff := make(chan time.Time, 1)
		client, end := servePiped(t, func(w http.ResponseWriter, _ *http.Request) {
			_, err := w.Write(make([]byte, 1<<20))
			assert.Error(t, err)
			cutOff <- time.Now()
		})
		began := time.Now()
		_, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		require.Equal(t, 35*time.Second, (<-cutOff).Sub(began))
		end()
	})
}

// The metrics and the probes stay after the end of the deliveries, and wait for
// no client of theirs.
func TestMetricsOutliveTheDeliveries(t *testing.T) {
	t.Parallel() // it waits
	receiving, end := context.WithCancel(t.Context())
	watched, unwatch := context.WithCancel(t.Context())
	s := &Server{Webhook: answer(http.StatusTeapot)}
	url, ended := start(t, receiving, s)
	private, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	unwatched := make(chan error, 1)
	scraped := make(chan struct{})
	go func() {
		unwatched <- s.ServePrivate(watched, private, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(scraped)
				<-t.Context().Done()
			}
		}))
	}()
	metrics := "http://" + private.Addr().String()
	status, _ := get(t, url+"/metrics")
	require.Equal(t, http.StatusTeapot, status, "the public address has no metrics")
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		status, _ := get(t, metrics+path)
		require.Equal(t, http.StatusOK, status, path)
	}

	end()
	require.NoError(t, <-ended)
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/readyz": 503} {
		status, _ := get(t, metrics+path)
		require.Equal(t, want, status, path)
	}

	go func() { _, _ = http.Get(metrics + "/slow") }()
	<-scraped
	began := time.Now()
	unwatch()
	require.NoError(t, <-unwatched)
	require.GreaterOrEqual(t, time.Since(began), ScrapeTimeout)
	require.Less(t, time.Since(began), 10*ScrapeTimeout)
}

func TestRefusesLargeHeaders(t *testing.T) {
	url, _ := start(t, t.Context(), &Server{Webhook: answer(http.StatusOK)})
	r, err := http.NewRequest(http.MethodGet, url, nil)
	require.NoError(t, err)
	r.Header.Set("X-Large", strings.Repeat("x", 80<<10))
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, resp.StatusCode)
}

func TestLogsWhatTheServerSays(t *testing.T) {
	var logged bytes.Buffer // read it after the end
	ctx, end := context.WithCancel(t.Context())
	url, ended := start(t, ctx, &Server{
		Webhook: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("no database") }),
		Logger:  slog.New(slog.NewTextHandler(&logged, nil)),
	})
	_, err := http.Get(url)
	require.Error(t, err)
	end()
	require.NoError(t, <-ended)
	require.Regexp(t, `level=WARN msg=".*no database`, logged.String())
}

func TestClose(t *testing.T) {
	t.Parallel()
	closed := false
	Close(func() { closed = true })
	require.True(t, closed)

	began := time.Now()
	Close(func() { <-t.Context().Done() }) // a database that does not answer
	require.Less(t, time.Since(began), 10*closeTimeout)
}
