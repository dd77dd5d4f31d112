package mailtrapwebhook_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func TestHandlerBodyLimit(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	rig := newRig(t, &mw.Handler{}).serve()
	require.Equal(t, 200, rig.post(padded("a", 8<<20)).Status)
	require.Equal(t, 413, rig.post(padded("a", 8<<20+1)).Status)
}

// A middleware may set a limit of its own.
func TestHandlerBehindMaxBytesHandler(t *testing.T) {
	t.Parallel()
	rig := newRig(t, &mw.Handler{})
	rig.serveAs(http.MaxBytesHandler(rig.h, 300))
	require.Equal(t, 200, rig.post(padded("a", 300)).Status)
	require.Equal(t, 413, rig.post(padded("a", 301)).Status)
}

func TestHandlerBrokenOffBody(t *testing.T) {
	rig := newRig(t, &mw.Handler{}).serve()
	conn := rig.dial(rawRequest("1.1", bodyOf("a"), len(bodyOf("a"))+1))
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	require.Equal(t, 400, readStatus(t, conn), "the whole body was signed, not a part")
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
	t.Parallel()
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

// net/http reads a body before it answers over HTTP/1.1, so a refusal must bound
// that reading too.
func TestHandlerRefusesSlowBodiesInTime(t *testing.T) {
	t.Parallel()
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
			require.Equal(t, test.want, readStatus(t, conn))
		})
	}
}

// The answer does not wait for an unwanted body, even when Timeout is over.
func TestHandlerAnswersAfterSlowGuards(t *testing.T) {
	t.Parallel()
	for name, serverTimeout := range map[string]time.Duration{"no ReadTimeout": 0, "a long ReadTimeout": time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, &mw.Handler{Timeout: 50 * time.Millisecond, Guards: []mw.Guard{func(*http.Request) error {
				time.Sleep(100 * time.Millisecond)
				return errBoom
			}}}).serve(func(s *httptest.Server) { s.Config.ReadTimeout = serverTimeout })
			conn := rig.dial(rawRequest("1.1", bodyOf("a"), 2000))
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

// A connection outlives the read deadline of one of its requests.
func TestHandlerKeepsConnectionsAlive(t *testing.T) {
	t.Parallel()
	rig := newRig(t, &mw.Handler{Timeout: 500 * time.Millisecond}).serve()
	conn := rig.dial("")
	reader := bufio.NewReader(conn)
	for i := range 2 {
		if i > 0 {
			time.Sleep(600 * time.Millisecond) // the deadline of the first request passes
		}
		_, err := io.WriteString(conn, rawRequest("1.1", bodyOf("a"), len(bodyOf("a"))))
		require.NoError(t, err)
		resp, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode)
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

// An abandoned callback may still use its body, so the memory stays taken.
func TestHandlerChargesAbandonedCallbacks(t *testing.T) {
	for _, kind := range []string{"OnEvent", "OnDelivery", "OnMalformed"} {
		t.Run(kind, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
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

// A loadRig is a rig whose events named "exact" stay in their callback. Its
// faults happen only while it is armed.
type loadRig struct {
	*rig
	load    *loadServer
	armed   atomic.Bool
	entered chan struct{}
	leave   chan struct{}
}

// newLoadRig lets set, if not nil, complete the Handler before newRig does.
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

// requireBudget waits until n bodies of size bytes are in their callbacks at
// once. Then there must be no room for another byte. An overrunning callback
// keeps its memory, so a short Timeout does no harm here.
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

// fault makes the part of the Handler that is named do what f does, but only
// while l is armed. A limit that is named becomes small.
func (l *loadRig) fault(part string, f func() error) {
	armed := func() error {
		if l.armed.Load() {
			return f()
		}
		return nil
	}
	h := l.h
	switch part {
	case "":
	case "Guard":
		h.Guards = []mw.Guard{func(*http.Request) error { return armed() }}
	case "VerifierFor":
		v := testVerifier(l.t, testSecret)
		h.VerifierFor = func(*http.Request) (*mw.Verifier, error) { return v, armed() }
	case "Scope":
		h.Scope = func(*http.Request) string { _ = armed(); return "" }
	case "OnEvent":
		h.OnEvent = func(context.Context, mw.Event) error { return armed() }
	case "OnDelivery":
		h.OnEvent = nil
		h.OnDelivery = func(context.Context, *mw.Delivery) error { return armed() }
	case "OnMalformed":
		h.OnMalformed = func(context.Context, *mw.Delivery, error) error { return armed() }
	case "Observe":
		h.Observe = func(context.Context, mw.Report) { _ = armed() }
	case "MaxEvents":
		h.MaxEvents = 1
	case "EventTimeout":
		h.EventTimeout = loadTimeout
	case "Timeout":
		h.Timeout = loadTimeout
	default:
		l.faultInStore(part, armed)
	}
}

func (l *loadRig) faultInStore(part string, armed func() error) {
	reservation := map[string]mw.Reservation{"Reserve: Held": mw.Held, "Reserve: Handled": mw.Handled, "Reserve: 0": 0}
	store := &recordingStore{reserve: func(_ context.Context, keys []string) ([]mw.Reservation, error) {
		answer, odd := reservation[part]
		if !odd || !l.armed.Load() {
			answer = mw.Reserved
		}
		answers := slices.Repeat([]mw.Reservation{answer}, len(keys))
		if part == "Reserve" {
			return answers, armed()
		}
		return answers, nil
	}}
	switch part {
	case "Commit":
		store.commit = func(context.Context) error { return armed() }
	case "Release":
		store.release = func(context.Context) error { return armed() }
		l.h.OnEvent = func(context.Context, mw.Event) error {
			if l.armed.Load() {
				return errBoom
			}
			return nil
		}
	}
	l.h.Dedup = store
}

const (
	loadLimit   = 200_000
	loadTimeout = 800 * time.Millisecond // a busy machine takes a delivery in meanwhile
	loadOverrun = loadTimeout + 300*time.Millisecond
)

func sending(body []byte, edits ...requestEdit) func(*loadRig) int {
	return func(l *loadRig) int { got, _ := l.try(body, edits...); return got.Status }
}

// hangingUp sends text and hangs up when the Handler reads the body.
func hangingUp(text string) func(*loadRig) int {
	return func(l *loadRig) int {
		conn := l.dial(text)
		loadWait(l.t, "the Handler reads the body", func() bool { return l.load.bodies.Load() == 1 })
		conn.Close()
		return 0
	}
}

// endingEarly sends text and closes its own side of the connection.
func endingEarly(text string) func(*loadRig) int {
	return func(l *loadRig) int {
		conn := l.dial(text)
		_ = conn.(*net.TCPConn).CloseWrite()
		return readStatus(l.t, conn)
	}
}

// aborting breaks off a chunked body.
func aborting(body []byte) func(*loadRig) int {
	return func(l *loadRig) int {
		r, w := io.Pipe()
		go func() { _, _ = w.Write(body[:len(body)/2]); _ = w.CloseWithError(errBoom) }()
		return sending(body, inChunks, func(request *http.Request) { request.Body = r })(l)
	}
}

// A Handler that kept memory would in the end let nothing pass. One that gave
// memory back twice would have no bound.
func TestHandlerGivesBackWhatItTook(t *testing.T) {
	t.Parallel()
	full := padded("a", loadLimit)
	broken := append(brokenBody(), bytes.Repeat([]byte(" "), loadLimit-len(brokenBody()))...)
	half := rawRequest("1.1", full[:loadLimit/2], loadLimit)
	succeeds := func() error { return nil }
	fails := func() error { return errBoom }
	permanent := func() error { return mw.Permanent(errBoom) }
	panics := func() error { panic(errBoom) }
	aborts := func() error { panic(http.ErrAbortHandler) }
	goexit := func() error { runtime.Goexit(); return nil }
	overruns := func() error { time.Sleep(loadOverrun); return nil }
	overrunsAndPanics := func() error { time.Sleep(loadOverrun); panic(errBoom) }
	overrunsAndExits := func() error { time.Sleep(loadOverrun); return goexit() }
	slow := func() error { time.Sleep(50 * time.Millisecond); return nil }

	tests := []struct {
		name  string
		part  string // where the fault is, if anywhere, and the time limit that is short
		fault func() error
		send  func(*loadRig) int
		want  int // 0: the client sees no answer
	}{
		{"handled", "", nil, sending(full), 200},
		{"handled, in chunks", "", nil, sending(full, inChunks), 200},
		{"not POST", "", nil, sending(full, withMethod("PUT")), 405},
		{"an encoded body", "", nil, sending(full, withHeader("Content-Encoding", "gzip")), 415},
		{"a guard refuses", "Guard", fails, sending(full), 403},
		{"a guard panics", "Guard", panics, sending(full), 500},
		{"a guard ends its goroutine", "Guard", goexit, sending(full), 0},
		{"VerifierFor fails", "VerifierFor", fails, sending(full), 503},
		{"VerifierFor panics", "VerifierFor", panics, sending(full), 500},
		{"unsigned", "", nil, sending(full, withoutSignature), 400},
		{"forged", "", nil, sending(full, withForgery), 400},
		{"forged, in chunks", "", nil, sending(full, withForgery, inChunks), 400},
		{"too large by its Content-Length", "", nil, sending(padded("a", loadLimit+1)), 413},
		{"too large, in chunks", "", nil, sending(padded("a", loadLimit+1), inChunks), 413},
		{"too many events", "MaxEvents", nil, sending(bodyOf("a", "b")), 413},
		{"cut off by the client", "", nil, endingEarly(half), 400},
		{"a malformed chunk", "", nil, endingEarly(loadHead(-1, loadForgery) + "5\r\nabcde\r\nno chunk\r\n"), 400},
		{"too slow", "Timeout", nil, func(l *loadRig) int { return readStatus(l.t, l.dial(half)) }, 503},
		{"the client hangs up while sending", "", nil, hangingUp(half), 0},
		{"the client hangs up while sending chunks", "", nil, aborting(full), 0},
		{"the client hangs up while it is handled", "OnEvent", slow, hangingUp(rawRequest("1.1", full, loadLimit)), 0},
		{"malformed", "", nil, sending(broken), 422},
		{"OnMalformed takes it", "OnMalformed", succeeds, sending(broken), 200},
		{"OnMalformed fails", "OnMalformed", fails, sending(broken), 500},
		{"OnMalformed panics", "OnMalformed", panics, sending(broken), 500},
		{"OnMalformed ends its goroutine", "OnMalformed", goexit, sending(broken), 500},
		{"OnMalformed overruns and returns", "OnMalformed, Timeout", overruns, sending(broken), 500},
		{"Scope panics", "Scope", panics, sending(full), 500},
		{"Scope ends its goroutine", "Scope", goexit, sending(full), 0},
		{"the store fails", "Reserve", fails, sending(full), 503},
		{"the store panics", "Reserve", panics, sending(full), 503},
		{"the store ends its goroutine", "Reserve", goexit, sending(full), 503},
		{"the store hangs", "Reserve, Timeout", overruns, sending(full), 503},
		{"the store says nothing", "Reserve: 0", nil, sending(full), 503},
		{"held elsewhere", "Reserve: Held", nil, sending(full), 503},
		{"a duplicate", "Reserve: Handled", nil, sending(full), 200},
		{"commit fails", "Commit", fails, sending(full), 200},
		{"commit panics", "Commit", panics, sending(full), 200},
		{"commit ends its goroutine", "Commit", goexit, sending(full), 200},
		{"release fails", "Release", fails, sending(full), 500},
		{"release panics", "Release", panics, sending(full), 500},
		{"OnEvent fails", "OnEvent", fails, sending(full), 500},
		{"OnEvent fails permanently", "OnEvent", permanent, sending(full), 200},
		{"OnEvent panics", "OnEvent", panics, sending(full), 500},
		{"OnEvent panics with http.ErrAbortHandler", "OnEvent", aborts, sending(full), 500},
		{"OnEvent ends its goroutine", "OnEvent", goexit, sending(full), 500},
		{"OnEvent overruns and returns", "OnEvent, EventTimeout", overruns, sending(full), 500},
		{"OnEvent overruns and panics", "OnEvent, EventTimeout", overrunsAndPanics, sending(full), 500},
		{"OnEvent overruns and ends its goroutine", "OnEvent, EventTimeout", overrunsAndExits, sending(full), 500},
		{"OnEvent overruns twice", "OnEvent, EventTimeout", overruns, sending(bodyOf("a", "b")), 500},
		{"OnDelivery fails", "OnDelivery", fails, sending(full), 500},
		{"OnDelivery panics", "OnDelivery", panics, sending(full), 500},
		{"OnDelivery ends its goroutine", "OnDelivery", goexit, sending(full), 500},
		{"OnDelivery overruns and returns", "OnDelivery, Timeout", overruns, sending(full), 500},
		{"OnDelivery overruns and panics", "OnDelivery, Timeout", overrunsAndPanics, sending(full), 500},
		{"Observe panics", "Observe", panics, sending(full), 200},
		{"Observe ends its goroutine", "Observe", goexit, sending(full), 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLoadRig(t, &mw.Handler{MaxBodyBytes: loadLimit, MaxInFlightBytes: loadLimit},
				func(l *loadRig) {
					for part := range strings.SplitSeq(test.part, ", ") {
						l.fault(part, test.fault)
					}
				})
			l.serveLoad(0)
			l.armed.Store(true)
			require.Equal(t, test.want, test.send(l))
			loadWait(t, "the request ends", func() bool { return l.load.served.Load() == 1 })
			l.armed.Store(false)
			l.requireBudget(1, loadLimit)
		})
	}
}

// A program that keeps one address of each delivery keeps neither the rest of
// the events nor the body.
func TestHandlerKeepsNothingOfADelivery(t *testing.T) {
	body := benchEnvelope(500)
	for _, test := range []struct {
		name string
		keep func(ev mw.Event) any
		most float64
	}{
		{"an address", func(ev mw.Event) any { return ev.(*mw.SendingWebhookEvent).Email }, 500},
		{"an event", func(ev mw.Event) any { return ev }, 800},
	} {
		t.Run(test.name, func(t *testing.T) {
			var last any
			h := &mw.Handler{
				Verifier: testVerifier(t, testSecret), Dedup: noDedup, Logger: slog.New(slog.DiscardHandler),
				OnEvent: func(_ context.Context, ev mw.Event) error { last = test.keep(ev); return nil },
			}
			deliver := func() any {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, webhooktest.NewRequest("/hook", testSecret, body))
				require.Equal(t, 200, w.Code)
				return last
			}
			deliver() // takes the chunks that are used again
			require.Less(t, keptEach(100, deliver), test.most)
		})
	}
}

// A Body belongs to the callback that got it. Later requests do not change it.
func TestBodyStaysAsItWas(t *testing.T) {
	var got, want []string
	var kept [][]byte
	keep := func(d *mw.Delivery) error {
		kept = append(kept, d.Body)
		return nil
	}
	onDelivery := newRig(t, &mw.Handler{OnDelivery: func(_ context.Context, d *mw.Delivery) error { return keep(d) }})
	onMalformed := newRig(t, &mw.Handler{OnMalformed: func(_ context.Context, d *mw.Delivery, _ error) error { return keep(d) }})
	onEvent := newRig(t, &mw.Handler{})
	for i := range 50 {
		id := fmt.Sprint(i)
		whole, broken := padded(id, 2000), append(padded(id, 1999), '!')
		require.Equal(t, 200, onDelivery.direct(whole).Status)
		require.Equal(t, 200, onMalformed.direct(broken).Status)
		for range 3 {
			require.Equal(t, 200, onEvent.direct(padded("later", 2000)).Status)
		}
		want = append(want, string(whole), string(broken))
	}
	for _, body := range kept {
		got = append(got, string(body))
	}
	require.Equal(t, want, got)
}
