package mailtrapwebhook_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestHandlerBodyLimit(t *testing.T) {
	for _, limit := range []int{500, 64 << 10, 64<<10 + 1, 200_000} {
		for _, length := range []int{limit - 1, limit, limit + 1, 2 * limit} {
			for name, edit := range map[string]requestEdit{"Content-Length": func(*http.Request) {}, "chunked": inChunks} {
				t.Run(fmt.Sprintf("%d of %d %s", length, limit, name), func(t *testing.T) {
					t.Parallel()
					rig := newRig(t, &mw.Handler{MaxBodyBytes: int64(limit), MaxInFlightBytes: int64(limit)}).serve()
					want := 200
					if length > limit {
						want = 413
					}
					require.Equal(t, want, rig.post(padded("a", length), edit).Status)
					if want == 200 {
						require.Equal(t, length, rig.last().BodyBytes)
						require.Equal(t, []string{"a"}, rig.handled())
					} else {
						require.Empty(t, rig.handled())
					}
					require.Equal(t, 200, rig.post(padded("b", limit), edit).Status, "all memory has been given back")
				})
			}
		}
	}
}

func TestHandlerDefaultBodyLimit(t *testing.T) {
	rig := newRig(t, &mw.Handler{}).serve()
	require.Equal(t, 200, rig.post(padded("a", 8<<20)).Status)
	require.Equal(t, 413, rig.post(padded("a", 8<<20+1)).Status)
}

// A limit that a middleware has set is one too.
func TestHandlerBehindMaxBytesHandler(t *testing.T) {
	rig := newRig(t, &mw.Handler{})
	rig.serveAs(http.MaxBytesHandler(rig.h, 300))
	require.Equal(t, 200, rig.post(padded("a", 300)).Status)
	require.Equal(t, 413, rig.post(padded("a", 301)).Status)
}

func TestHandlerBrokenOffBody(t *testing.T) {
	rig := newRig(t, &mw.Handler{}).serve()
	conn := rig.dial(rawRequest("1.1", bodyOf("a"), len(bodyOf("a"))+1))
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	require.Equal(t, 400, readStatus(t, conn), "what is cut off is not what was signed")
	require.Empty(t, rig.handled())
}

type idleBody struct{}

func (idleBody) Read([]byte) (int, error) { return 0, nil }

func (idleBody) Close() error { return nil }

func TestBodyThatNeverComes(t *testing.T) {
	rig := newRig(t, &mw.Handler{})
	require.Equal(t, 400, rig.direct(nil, func(r *http.Request) { r.Body, r.ContentLength = idleBody{}, -1 }).Status)
	require.ErrorIs(t, rig.last().Err, io.ErrNoProgress)
}

func TestHandlerCutsSlowBodies(t *testing.T) {
	const never = 20 * time.Second
	tests := []struct {
		name    string
		timeout time.Duration
		edit    func(*httptest.Server)
		drip    bool
	}{
		{"that stop at Timeout", 200 * time.Millisecond, func(*httptest.Server) {}, false},
		{"that drip at Timeout", 200 * time.Millisecond, func(*httptest.Server) {}, true},
		{"at Timeout if the server's own is later", 200 * time.Millisecond,
			func(srv *httptest.Server) { srv.Config.ReadTimeout = never }, false},
		{"at the server's own ReadTimeout if that is earlier", never,
			func(srv *httptest.Server) { srv.Config.ReadTimeout = 200 * time.Millisecond }, false},
		{"through a writer that can be unwrapped", 200 * time.Millisecond, func(srv *httptest.Server) {
			inner := srv.Config.Handler
			srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				inner.ServeHTTP(unwrappableWriter{bareWriter{w}, w}, r)
			})
		}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, &mw.Handler{Timeout: test.timeout}).serve(test.edit)
			body := bodyOf("a")
			began := time.Now()
			conn := rig.dial(rawRequest("1.1", body, len(body)+1_000_000))
			if test.drip {
				stop := make(chan struct{})
				defer close(stop)
				go func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(20 * time.Millisecond):
							_, _ = io.WriteString(conn, " ")
						}
					}
				}()
			}
			require.Equal(t, 503, readStatus(t, conn))
			require.Less(t, time.Since(began), 5*time.Second)
			require.GreaterOrEqual(t, time.Since(began), 150*time.Millisecond)
			require.Equal(t, 503, rig.last().Status)
			require.Empty(t, rig.handled())
			require.Zero(t, rig.said.count("Unwrap"))
		})
	}
}

// A refusal must not wait for the body either, which net/http reads before it answers over HTTP/1.1.
func TestHandlerRefusesSlowBodiesInTime(t *testing.T) {
	tests := []struct {
		name string
		h    *mw.Handler
		text string
		want int
	}{
		{"guard", &mw.Handler{Guards: guardReturning(errBoom)}, rawRequest("1.1", bodyOf("a"), 2000), 403},
		{"no signature", &mw.Handler{}, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\nx", 400},
		{"too large", &mw.Handler{MaxBodyBytes: 1000}, rawRequest("1.1", bodyOf("a"), 2000), 413},
		{"wrong set-up", &mw.Handler{OnEvent: eventReturning(nil), OnDelivery: deliveryReturning(nil)}, rawRequest("1.1", bodyOf("a"), 2000), 500},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.h.Timeout = 200 * time.Millisecond
			rig := newRig(t, test.h).serve()
			conn := rig.dial(test.text)
			require.NoError(t, conn.SetDeadline(time.Now().Add(3*time.Second)))
			require.Equal(t, test.want, readStatus(t, conn))
		})
	}
}

// The answer does not wait for a body that is not wanted, even if the time was over before.
func TestHandlerAnswersAfterSlowGuards(t *testing.T) {
	for name, serverTimeout := range map[string]time.Duration{"no ReadTimeout": 0, "a long ReadTimeout": time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, &mw.Handler{Timeout: 50 * time.Millisecond, Guards: []mw.Guard{func(*http.Request) error {
				time.Sleep(100 * time.Millisecond)
				return errBoom
			}}}).serve(func(s *httptest.Server) { s.Config.ReadTimeout = serverTimeout })
			conn := rig.dial(rawRequest("1.1", bodyOf("a"), 2000))
			require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
			require.Equal(t, 403, readStatus(t, conn))
		})
	}
}

type bareWriter struct{ http.ResponseWriter }

type unwrappableWriter struct {
	bareWriter
	inner http.ResponseWriter
}

func (w unwrappableWriter) Unwrap() http.ResponseWriter { return w.inner }

func TestHandlerTellsOnceThatItCannotCutOff(t *testing.T) {
	rig := newRig(t, &mw.Handler{})
	rig.serveAs(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { rig.h.ServeHTTP(bareWriter{w}, r) }))
	for range 3 {
		require.Equal(t, 200, rig.post(bodyOf("a")).Status)
	}
	require.Equal(t, 1, rig.said.count("Unwrap"))
}

// A connection outlives the deadline that one of its requests had.
func TestHandlerKeepsConnectionsAlive(t *testing.T) {
	rig := newRig(t, &mw.Handler{Timeout: 100 * time.Millisecond}).serve()
	conn := rig.dial("")
	reader := bufio.NewReader(conn)
	for range 3 {
		_, err := io.WriteString(conn, rawRequest("1.1", bodyOf("a"), len(bodyOf("a"))))
		require.NoError(t, err)
		resp, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode)
		time.Sleep(150 * time.Millisecond)
	}
}

func TestHandlerMaxInFlightBytes(t *testing.T) {
	const limit = 4096
	for name, edit := range map[string]requestEdit{"Content-Length": func(*http.Request) {}, "chunked": inChunks} {
		t.Run(name, func(t *testing.T) {
			rig := newRig(t, &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: limit})
			free := rig.hog(limit)
			require.Equal(t, 503, rig.post(bodyOf("a"), edit).Status)
			require.Empty(t, rig.handled())
			free()
			eventually(t, "the memory is given back", func() bool {
				return rig.post(padded("a", limit), edit).Status == 200
			})
		})
	}
	t.Run("room for both", func(t *testing.T) {
		rig := newRig(t, &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: 2 * limit})
		free := rig.hog(limit)
		defer free()
		require.Equal(t, 200, rig.post(padded("a", limit)).Status)
	})
	t.Run("a chunked body that outgrows what is left", func(t *testing.T) {
		rig := newRig(t, &mw.Handler{MaxBodyBytes: 300_000, MaxInFlightBytes: 400_000})
		free := rig.hog(300_000)
		defer free()
		require.Equal(t, 200, rig.post(padded("a", 1000), inChunks).Status)
		require.Equal(t, 503, rig.post(padded("a", 250_000), inChunks).Status)
		require.Equal(t, 200, rig.post(padded("a", 1000), inChunks).Status)
	})
}

// Memory that was not given back would add up until nothing passes.
func TestHandlerGivesMemoryBack(t *testing.T) {
	const limit = 4096
	panicking := func(context.Context, mw.Event) error { panic(errBoom) }
	tests := []struct {
		name    string
		onEvent func(context.Context, mw.Event) error
		send    func(rig *rig)
	}{
		{"handled", eventReturning(nil), func(rig *rig) { rig.post(padded("a", limit)) }},
		{"forged", eventReturning(nil), func(rig *rig) { rig.post(padded("a", limit), withForgery) }},
		{"too large", eventReturning(nil), func(rig *rig) { rig.post(padded("a", limit+1), inChunks) }},
		{"broken", eventReturning(nil), func(rig *rig) { rig.post(brokenBody()) }},
		{"failed", eventReturning(errBoom), func(rig *rig) { rig.post(padded("a", limit)) }},
		{"panicked", panicking, func(rig *rig) { rig.post(padded("a", limit)) }},
		{"hung up while sending", eventReturning(nil), func(rig *rig) {
			rig.dial(rawRequest("1.1", bodyOf("a"), limit)).Close()
		}},
		{"hung up while waiting", func(context.Context, mw.Event) error { time.Sleep(20 * time.Millisecond); return nil },
			func(rig *rig) { rig.dial(rawRequest("1.1", padded("a", limit), limit)).Close() }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: limit})
			rig.h.OnEvent = func(ctx context.Context, ev mw.Event) error {
				if idOf(ev) == "last" {
					return nil
				}
				return test.onEvent(ctx, ev)
			}
			rig.serve()
			test.send(rig)
			eventually(t, "Observe", func() bool { return len(rig.observed()) == 1 })
			eventually(t, "the memory is given back", func() bool { return rig.post(padded("last", limit)).Status == 200 })
		})
	}
}

// The body of a callback that was abandoned may be in use, so that its memory is too.
func TestHandlerChargesAbandonedCallbacks(t *testing.T) {
	for _, kind := range []string{"OnEvent", "OnDelivery", "OnMalformed"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const limit = 4096
				leave := make(chan struct{})
				stay := func() error { <-leave; return nil }
				h := &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: limit, Timeout: 5 * time.Second}
				body := padded("a", limit)
				switch kind {
				case "OnEvent":
					h.OnEvent = func(context.Context, mw.Event) error { return stay() }
				case "OnDelivery":
					h.OnDelivery = func(context.Context, *mw.Delivery) error { return stay() }
				default:
					h.OnMalformed = func(context.Context, *mw.Delivery, error) error { return stay() }
					body = append(brokenBody(), bytes.Repeat([]byte(" "), limit-len(brokenBody()))...)
				}
				rig := newRig(t, h)
				require.Equal(t, 500, rig.direct(body).Status)
				require.Equal(t, 503, rig.direct(bodyOf("b")).Status, "the callback still runs")
				time.Sleep(time.Hour)
				require.Equal(t, 503, rig.direct(bodyOf("b")).Status, "and goes on")
				close(leave)
				synctest.Wait()
				require.Equal(t, 200, rig.direct(padded("b", limit)).Status)
			})
		})
	}
}

// A loadRig is a rig whose events named "exact" stay in their callback. Its faults are to happen only while it is armed.
type loadRig struct {
	*rig
	load    *loadServer
	armed   atomic.Bool
	entered chan struct{}
	leave   chan struct{}
}

// newLoadRig is newRig for a handler that set, if it is not nil, completes.
func newLoadRig(t testing.TB, h *mw.Handler, set func(*loadRig)) *loadRig {
	l := &loadRig{rig: &rig{t: t, h: h}, entered: make(chan struct{}), leave: make(chan struct{})}
	if set != nil {
		set(l)
	}
	l.rig = newRig(t, h)
	wait := func(events ...mw.Event) bool {
		if len(events) == 0 || idOf(events[0]) != "exact" {
			return false
		}
		l.entered <- struct{}{}
		<-l.leave
		return true
	}
	if onEvent := h.OnEvent; onEvent != nil {
		h.OnEvent = func(ctx context.Context, ev mw.Event) error {
			if wait(ev) {
				return nil
			}
			return onEvent(ctx, ev)
		}
	}
	if onDelivery := h.OnDelivery; onDelivery != nil {
		h.OnDelivery = func(ctx context.Context, d *mw.Delivery) error {
			if wait(d.Events...) {
				return nil
			}
			return onDelivery(ctx, d)
		}
	}
	return l
}

func (l *loadRig) serveLoad(size int64) *loadServer {
	l.load = newLoadServer(l.t, l.h, size)
	l.srv = l.load.Server
	return l.load
}

// requireBudget waits until n bodies of size bytes are in their callbacks at once, and checks that then there is no room
// for another byte. A callback that overruns keeps its memory, so that short timeouts do no harm.
func (l *loadRig) requireBudget(n, size int) {
	l.t.Helper()
	body := padded("exact", size)
	answers := make(chan int)
	open := 0
	send := func() {
		open++
		go func() {
			got, _ := l.try(body)
			answers <- got.Status
		}()
	}
	for range n {
		send()
	}
	deadline := time.After(15 * time.Second)
	for in, refused := 0, 0; in < n; {
		select {
		case <-l.entered:
			in++
		case status := <-answers:
			open--
			if status == 0 || status == 503 {
				refused = status
				time.Sleep(5 * time.Millisecond)
				send()
			}
		case <-deadline:
			l.t.Fatalf("the budget is not given back: %d of %d bodies pass, the last that did not was answered %d", in, n, refused)
		}
	}
	more, err := l.try(bodyOf("more"))
	require.NoError(l.t, err)
	require.Equal(l.t, 503, more.Status, "more than was taken has been given back")
	for range n {
		l.leave <- struct{}{}
	}
	for ; open > 0; open-- {
		require.Contains(l.t, []int{200, 500}, <-answers)
	}
}

// Memory that was not given back would add up until nothing passes, and memory given back twice would be no bound.
func TestHandlerGivesBackWhatItTook(t *testing.T) {
	const limit = 200_000
	full := padded("a", limit)
	broken := append(brokenBody(), bytes.Repeat([]byte(" "), limit-len(brokenBody()))...)
	goexit := func() error { runtime.Goexit(); return nil }
	panics := func() error { panic(errBoom) }
	overruns := func() error { time.Sleep(600 * time.Millisecond); return nil }
	fails := func() error { return errBoom }
	permanent := func() error { return mw.Permanent(errBoom) }
	ifArmed := func(l *loadRig, f func() error) error {
		if l.armed.Load() {
			return f()
		}
		return nil
	}
	onEvent := func(f func() error) func(*loadRig) {
		return func(l *loadRig) {
			l.h.EventTimeout = 300 * time.Millisecond
			l.h.OnEvent = func(context.Context, mw.Event) error { return ifArmed(l, f) }
		}
	}
	onDelivery := func(f func() error) func(*loadRig) {
		return func(l *loadRig) {
			l.h.OnEvent, l.h.Timeout = nil, 300*time.Millisecond
			l.h.OnDelivery = func(context.Context, *mw.Delivery) error { return ifArmed(l, f) }
		}
	}
	onMalformed := func(f func() error) func(*loadRig) {
		return func(l *loadRig) {
			l.h.Timeout = 300 * time.Millisecond
			l.h.OnMalformed = func(context.Context, *mw.Delivery, error) error { return f() }
		}
	}
	guard := func(f func() error) func(*loadRig) {
		return func(l *loadRig) { l.h.Guards = []mw.Guard{func(*http.Request) error { return ifArmed(l, f) }} }
	}
	verifierFor := func(f func() error) func(*loadRig) {
		return func(l *loadRig) {
			v := testVerifier(l.t, testSecret)
			l.h.VerifierFor = func(*http.Request) (*mw.Verifier, error) { return v, ifArmed(l, f) }
		}
	}
	scope := func(f func() error) func(*loadRig) {
		return func(l *loadRig) { l.h.Scope = func(*http.Request) string { _ = ifArmed(l, f); return "" } }
	}
	observe := func(f func() error) func(*loadRig) {
		return func(l *loadRig) {
			l.h.Observe = func(context.Context, mw.Report) { _ = ifArmed(l, f) }
		}
	}
	reserves := func(reservation mw.Reservation, f func() error) func(*loadRig) {
		return func(l *loadRig) {
			l.h.Timeout = 300 * time.Millisecond
			l.h.Dedup = &recordingStore{reserve: func(_ context.Context, keys []string) ([]mw.Reservation, error) {
				if l.armed.Load() {
					return slices.Repeat([]mw.Reservation{reservation}, len(keys)), f()
				}
				return slices.Repeat([]mw.Reservation{mw.Reserved}, len(keys)), nil
			}}
		}
	}
	settles := func(outcome error, f func() error) func(*loadRig) {
		return func(l *loadRig) {
			l.h.OnEvent = func(context.Context, mw.Event) error { return ifArmed(l, func() error { return outcome }) }
			settle := func(context.Context) error { return ifArmed(l, f) }
			l.h.Dedup = &recordingStore{commit: settle, release: settle,
				reserve: func(_ context.Context, keys []string) ([]mw.Reservation, error) {
					return slices.Repeat([]mw.Reservation{mw.Reserved}, len(keys)), nil
				}}
		}
	}
	quick := func(l *loadRig) { l.h.Timeout = 300 * time.Millisecond }
	slowly := onEvent(func() error { time.Sleep(50 * time.Millisecond); return nil })

	post := func(body []byte, edits ...requestEdit) func(*loadRig) int {
		return func(l *loadRig) int { got, _ := l.try(body, edits...); return got.Status }
	}
	raw := func(text string) func(*loadRig) int {
		return func(l *loadRig) int { return readStatus(l.t, l.dial(text)) }
	}
	hangsUp := func(text string) func(*loadRig) int {
		return func(l *loadRig) int {
			conn := l.dial(text)
			loadWait(l.t, "the body is being read", func() bool { return l.load.bodies.Load() == 1 })
			conn.Close()
			return 0
		}
	}
	closesWrite := func(text string) func(*loadRig) int {
		return func(l *loadRig) int {
			conn := l.dial(text)
			_ = conn.(*net.TCPConn).CloseWrite()
			return readStatus(l.t, conn)
		}
	}
	half := rawRequest("1.1", full[:limit/2], limit)
	aborts := func(l *loadRig) int {
		body, w := io.Pipe()
		go func() { _, _ = w.Write(full[:limit/2]); _ = w.CloseWithError(errBoom) }()
		got, _ := l.try(full, func(r *http.Request) { r.Body, r.ContentLength = body, -1 })
		return got.Status
	}

	tests := []struct {
		name string
		set  func(*loadRig) // nil: nothing
		send func(*loadRig) int
		want int // 0: the client sees no answer
	}{
		{"handled", nil, post(full), 200},
		{"handled, in chunks", nil, post(full, inChunks), 200},
		{"not POST", nil, post(full, withMethod("PUT")), 405},
		{"an encoded body", nil, post(full, withHeader("Content-Encoding", "gzip")), 415},
		{"a guard refuses", guard(fails), post(full), 403},
		{"a guard panics", guard(panics), post(full), 500},
		{"a guard ends its goroutine", guard(goexit), post(full), 0},
		{"VerifierFor fails", verifierFor(fails), post(full), 503},
		{"VerifierFor panics", verifierFor(panics), post(full), 500},
		{"unsigned", nil, post(full, withoutSignature), 400},
		{"forged", nil, post(full, withForgery), 400},
		{"forged, in chunks", nil, post(full, withForgery, inChunks), 400},
		{"too large by its Content-Length", nil, post(padded("a", limit+1)), 413},
		{"too large, in chunks", nil, post(padded("a", limit+1), inChunks), 413},
		{"too many events", func(l *loadRig) { l.h.MaxEvents = 1 }, post(bodyOf("a", "b")), 413},
		{"cut off by the client", nil, closesWrite(half), 400},
		{"a malformed chunk", nil, raw(loadHead(-1, loadForgery) + "5\r\nabcde\r\nno chunk\r\n"), 400},
		{"too slow", quick, raw(half), 503},
		{"the client hangs up while sending", nil, hangsUp(half), 0},
		{"the client hangs up while sending chunks", nil, aborts, 0},
		{"the client hangs up while it is handled", slowly, hangsUp(rawRequest("1.1", full, limit)), 0},
		{"malformed", nil, post(broken), 422},
		{"OnMalformed takes it", onMalformed(func() error { return nil }), post(broken), 200},
		{"OnMalformed fails", onMalformed(fails), post(broken), 500},
		{"OnMalformed panics", onMalformed(panics), post(broken), 500},
		{"OnMalformed ends its goroutine", onMalformed(goexit), post(broken), 500},
		{"OnMalformed overruns and returns", onMalformed(overruns), post(broken), 500},
		{"Scope panics", scope(panics), post(full), 500},
		{"Scope ends its goroutine", scope(goexit), post(full), 0},
		{"the store fails", reserves(mw.Reserved, fails), post(full), 503},
		{"the store panics", reserves(mw.Reserved, panics), post(full), 503},
		{"the store ends its goroutine", reserves(mw.Reserved, goexit), post(full), 503},
		{"the store hangs", reserves(mw.Reserved, overruns), post(full), 503},
		{"the store says nothing", reserves(0, func() error { return nil }), post(full), 503},
		{"held elsewhere", reserves(mw.Held, func() error { return nil }), post(full), 503},
		{"a duplicate", reserves(mw.Handled, func() error { return nil }), post(full), 200},
		{"commit fails", settles(nil, fails), post(full), 200},
		{"commit panics", settles(nil, panics), post(full), 200},
		{"commit ends its goroutine", settles(nil, goexit), post(full), 200},
		{"release fails", settles(errBoom, fails), post(full), 500},
		{"release panics", settles(errBoom, panics), post(full), 500},
		{"OnEvent fails", onEvent(fails), post(full), 500},
		{"OnEvent fails permanently", onEvent(permanent), post(full), 200},
		{"OnEvent panics", onEvent(panics), post(full), 500},
		{"OnEvent panics with http.ErrAbortHandler", onEvent(func() error { panic(http.ErrAbortHandler) }), post(full), 500},
		{"OnEvent ends its goroutine", onEvent(goexit), post(full), 500},
		{"OnEvent overruns and returns", onEvent(overruns), post(full), 500},
		{"OnEvent overruns and panics", onEvent(func() error { _ = overruns(); panic(errBoom) }), post(full), 500},
		{"OnEvent overruns and ends its goroutine", onEvent(func() error { _ = overruns(); return goexit() }), post(full), 500},
		{"OnEvent overruns twice", onEvent(overruns), post(bodyOf("a", "b")), 500},
		{"OnDelivery fails", onDelivery(fails), post(full), 500},
		{"OnDelivery panics", onDelivery(panics), post(full), 500},
		{"OnDelivery ends its goroutine", onDelivery(goexit), post(full), 500},
		{"OnDelivery overruns and returns", onDelivery(overruns), post(full), 500},
		{"OnDelivery overruns and panics", onDelivery(func() error { _ = overruns(); panic(errBoom) }), post(full), 500},
		{"Observe panics", observe(panics), post(full), 200},
		{"Observe ends its goroutine", observe(goexit), post(full), 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLoadRig(t, &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: limit}, test.set)
			l.serveLoad(0)
			l.armed.Store(true)
			require.Equal(t, test.want, test.send(l))
			loadWait(t, "the request ends", func() bool { return l.load.served.Load() == 1 })
			l.armed.Store(false)
			l.requireBudget(1, limit)
		})
	}

	t.Run("another takes all of it", func(t *testing.T) {
		l := newLoadRig(t, &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: limit}, nil)
		l.serveLoad(0)
		answer := make(chan int, 1)
		go func() { got, _ := l.try(padded("exact", limit)); answer <- got.Status }()
		<-l.entered
		require.Equal(t, 400, l.post(full, withoutSignature).Status)
		require.Equal(t, 503, l.post(full, withForgery).Status)
		require.Equal(t, 503, l.post(full, inChunks).Status)
		require.Equal(t, 503, l.post(full).Status, "the check passes where memory is held")
		l.leave <- struct{}{}
		require.Equal(t, 200, <-answer)
		l.requireBudget(1, limit)
	})
}

// With room for some deliveries and ten times as many, those for which there is room are handled and exactly the others
// are refused.
func TestOverloadRefusesTheExcess(t *testing.T) {
	const room = 16
	tests := []struct {
		name  string
		edit  requestEdit
		space int64 // that a delivery takes
	}{
		{"Content-Length", func(*http.Request) {}, int64(len(bodyOf("000"))) + 1},
		{"chunked", inChunks, firstChunk},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			gate := make(chan struct{})
			var handled sync.Map
			l := newLoadRig(t, &mw.Handler{MaxBodyBytes: test.space, MaxInFlightBytes: room * test.space,
				OnEvent: func(_ context.Context, ev mw.Event) error {
					<-gate
					handled.Store(idOf(ev), true)
					return nil
				}}, nil)
			l.serveLoad(0)
			type answer struct {
				id  string
				got reply
				err error
			}
			answers := make(chan answer)
			for i := range 10 * room {
				go func() {
					id := fmt.Sprintf("%03d", i)
					got, err := l.try(bodyOf(id), test.edit)
					answers <- answer{id, got, err}
				}()
			}
			for range 9 * room {
				a := <-answers
				require.NoError(t, a.err)
				require.Equal(t, 503, a.got.Status)
				checkReply(t, a.got)
			}
			close(gate)
			for range room {
				a := <-answers
				require.NoError(t, a.err)
				require.Equal(t, 200, a.got.Status)
				_, ok := handled.LoadAndDelete(a.id)
				require.True(t, ok, "an event was acknowledged but not handled")
			}
			handled.Range(func(id, _ any) bool { t.Errorf("event %v was refused but handled", id); return true })
		})
	}
}
