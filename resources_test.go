package mailtrapwebhook_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// firstChunk is the most that a body is charged before any of it is read.
const firstChunk = 64 << 10

// A loadServer serves a handler on a loopback address and counts what reaches it.
type loadServer struct {
	*httptest.Server
	bodies atomic.Int64 // that the handler has begun to read
	nearly atomic.Int64 // bodies that were read but for their last byte
	served atomic.Int64 // requests that the handler is done with
}

// newLoadServer serves h without any timeout of the server's own. A body is nearly read when it has all but one of size
// bytes.
func newLoadServer(t testing.TB, h http.Handler, size int64) *loadServer {
	s := new(loadServer)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.served.Add(1)
		r.Body = &loadBody{ReadCloser: r.Body, s: s, left: size - 1}
		h.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

type loadBody struct {
	io.ReadCloser
	s    *loadServer
	read bool
	left int64
}

func (b *loadBody) Read(p []byte) (int, error) {
	if !b.read {
		b.read = true
		b.s.bodies.Add(1)
	}
	n, err := b.ReadCloser.Read(p)
	if before := b.left; before > 0 {
		if b.left -= int64(n); b.left <= 0 {
			b.s.nearly.Add(1)
		}
	}
	return n, err
}

func loadHead(length int64, signature string) string {
	framing := "Transfer-Encoding: chunked"
	if length >= 0 {
		framing = fmt.Sprintf("Content-Length: %d", length)
	}
	return "POST / HTTP/1.1\r\nHost: x\r\n" + framing + "\r\n" + mw.SignatureHeader + ": " + signature + "\r\n\r\n"
}

// loadForgery has the form of a signature.
var loadForgery = strings.Repeat("0", 64)

// A flood is a number of connections that each send one large body, half of them with a Content-Length and half in
// chunks. None of them allocates more than a few kilobytes.
type flood struct {
	conns int
	size  int64
	hold  chan struct{} // if not nil, the last byte is sent only when it is closed

	mu       sync.Mutex
	open     []net.Conn
	statuses map[int]int // how often each was answered; 0: no answer was seen
	wg       sync.WaitGroup
}

var (
	floodPiece = bytes.Repeat([]byte(" "), 64<<10)
	floodChunk = slices.Concat([]byte("10000\r\n"), floodPiece, []byte("\r\n"))
)

func (f *flood) start(t testing.TB, addr net.Addr) {
	t.Helper()
	f.statuses = make(map[int]int)
	for i := range f.conns {
		conn, err := net.Dial("tcp", addr.String())
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
		f.open = append(f.open, conn)
		f.wg.Go(func() { f.send(conn, i%2 == 1) })
		f.wg.Go(func() { f.receive(conn) })
	}
}

// send ends when the server no longer listens.
func (f *flood) send(conn net.Conn, chunked bool) {
	length, piece, last := f.size, floodPiece, " "
	if chunked {
		length, piece, last = -1, floodChunk, "1\r\n \r\n0\r\n\r\n"
	}
	_, err := io.WriteString(conn, loadHead(length, loadForgery))
	left := f.size - 1
	for ; left >= int64(len(floodPiece)) && err == nil; left -= int64(len(floodPiece)) {
		_, err = conn.Write(piece)
	}
	if chunked && left > 0 && err == nil {
		_, err = fmt.Fprintf(conn, "%x\r\n%s\r\n", left, floodPiece[:left])
	} else if err == nil {
		_, err = conn.Write(floodPiece[:left])
	}
	if f.hold != nil {
		<-f.hold
	}
	if err == nil {
		_, _ = io.WriteString(conn, last)
	}
}

// receive reads the answer while the body is still being sent, as the connection may be reset soon after it.
func (f *flood) receive(conn net.Conn) {
	status := 0
	if resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil); err == nil {
		status = resp.StatusCode
		if status == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
			status = -status
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.statuses[status]++
}

func (f *flood) answered() map[int]int {
	f.wg.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.statuses
}

// heapPeak returns by how many bytes the heap grew at most while f ran, garbage included.
func heapPeak(f func()) int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	heap := func() int64 {
		metrics.Read(samples)
		return int64(samples[0].Value.Uint64() + samples[1].Value.Uint64())
	}
	runtime.GC()
	debug.FreeOSMemory()
	before := heap()
	peak, stop, done := before, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(time.Millisecond); ; {
			peak = max(peak, heap())
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	}()
	f()
	close(stop)
	<-done
	return peak - before
}

// loadWait is eventually without goroutines of its own, which would be counted.
func loadWait(t testing.TB, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ready(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("in vain: %s\n%s", what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// naive is what people write first.
var naive http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || mw.Verify(body, r.Header.Get(mw.SignatureHeader), testSecret) != nil {
		http.Error(w, "", http.StatusBadRequest)
	}
})

// The peaks are of the whole heap: the bodies, and garbage and the server's buffers, for which there are another 96 MiB
// (or as much in proportion).
func TestHandlerMemoryUnderFlood(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures memory, which the race detector multiplies")
	}
	tests := []struct {
		name  string
		h     *mw.Handler // nil: the naive one
		flood *flood
		bound int64
		over  bool
	}{
		{"64 bodies of 100 MB", &mw.Handler{}, &flood{conns: 64, size: 100_000_000}, (64 + 96) << 20, false},
		{"64 bodies of the largest size", &mw.Handler{}, &flood{conns: 64, size: 8 << 20}, (64 + 96) << 20, false},
		{"16 bodies of 16 MB", &mw.Handler{MaxBodyBytes: 2 << 20, MaxInFlightBytes: 16 << 20},
			&flood{conns: 16, size: 16_000_000}, (16 + 24) << 20, false},
		{"16 bodies of 16 MB to a handler without bounds", nil,
			&flood{conns: 16, size: 16_000_000, hold: make(chan struct{})}, (16 + 24) << 20, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			handler, want := naive, []int{400}
			var rig *rig
			if test.h != nil {
				rig = newRig(t, test.h)
				handler, want = rig.h, []int{413, 503}
				if test.flood.size <= 8<<20 {
					want = append(want, 400)
				}
			}
			srv := newLoadServer(t, handler, test.flood.size)
			peak := heapPeak(func() {
				test.flood.start(t, srv.Listener.Addr())
				if test.flood.hold != nil {
					loadWait(t, "all but the last byte of each", func() bool { return srv.nearly.Load() == int64(test.flood.conns) })
					close(test.flood.hold)
				}
				test.flood.wg.Wait()
			})
			t.Logf("peak %d MiB of %d, answers %v", peak>>20, test.bound>>20, test.flood.answered())
			if test.over {
				require.Greater(t, peak, test.bound, "the check passes a handler without bounds")
				return
			}
			require.Less(t, peak, test.bound)

			loadWait(t, "all requests are answered", func() bool { return len(rig.observed()) == test.flood.conns })
			for _, r := range rig.observed() {
				require.Contains(t, want, r.Status)
			}
			for status := range test.flood.answered() {
				require.Contains(t, append(want, 0), status, "0 is a connection that was reset before its answer was read")
			}
			require.Less(t, test.flood.answered()[0], test.flood.conns/2, "most clients see their answer")
			require.Empty(t, rig.handled())
			rig.srv = srv.Server // on a connection of its own
			require.Equal(t, 200, rig.post(bodyOf("a")).Status)
			require.Equal(t, []string{"a"}, rig.handled())
		})
	}
}

// Bodies that all stop just before their end are held at once, as many as there is memory for.
func TestHandlerMemoryOfHeldBodies(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures memory, which the race detector multiplies")
	}
	for _, size := range []int64{8<<20 - 1, 8 << 20} {
		t.Run(fmt.Sprintf("of %d bytes", size), func(t *testing.T) {
			const conns, room = 64, 8
			l := newLoadRig(t, &mw.Handler{}, nil)
			srv := l.serveLoad(size)
			f := &flood{conns: conns, size: size, hold: make(chan struct{})}
			var held int64
			peak := heapPeak(func() {
				f.start(t, srv.Listener.Addr())
				loadWait(t, "each body is held or refused", func() bool { return srv.nearly.Load()+srv.served.Load() == conns })
				held = srv.nearly.Load()
			})
			t.Logf("peak %d MiB, %d bodies held", peak>>20, held)
			require.Less(t, peak, int64(64+96)<<20)
			require.LessOrEqual(t, held, int64(room))
			require.Positive(t, held, "there is room for some")
			for _, r := range l.observed() {
				require.Equal(t, 503, r.Status)
			}

			for _, conn := range f.open[:conns/2] {
				conn.Close() // half of the clients hang up, the others go on to the end
			}
			close(f.hold)
			f.wg.Wait()
			loadWait(t, "all requests end", func() bool { return srv.served.Load() == conns })
			counted := make(map[int]int64)
			for _, r := range l.observed() {
				counted[r.Status]++
			}
			require.Equal(t, held, counted[400])
			require.EqualValues(t, conns-held, counted[503])
			require.Empty(t, l.handled())
			l.requireBudget(room, 8<<20)
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

// slowClients are connections that each have sent the beginning of a body, half of them in chunks, and that go on with a
// byte every 50 ms until stop is called.
func slowClients(t testing.TB, l *loadRig, n int) (conns []net.Conn, stop func()) {
	t.Helper()
	begin := func(i int) (head, more string) {
		if i%2 == 1 {
			return loadHead(-1, loadForgery), "1\r\n \r\n"
		}
		return loadHead(1_000_000, loadForgery), " "
	}
	before := l.load.bodies.Load()
	for i := range n {
		head, _ := begin(i)
		conn := l.dial(head)
		require.NoError(t, conn.SetDeadline(time.Now().Add(40*time.Second)))
		conns = append(conns, conn)
	}
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-stopped:
				tick.Stop()
				return
			case <-tick.C:
			}
			for i, conn := range conns {
				_, more := begin(i)
				_, _ = io.WriteString(conn, more)
			}
		}
	}()
	loadWait(t, "all bodies are being read", func() bool { return l.load.bodies.Load() == before+int64(n) })
	return conns, func() { close(stopped); <-done }
}

// requireQuiet closes what connections there are and waits until no more goroutines are left than there were.
func (l *loadRig) requireQuiet(goroutines int) {
	l.t.Helper()
	loadWait(l.t, fmt.Sprintf("no more than %d goroutines", goroutines), func() bool {
		l.srv.Client().CloseIdleConnections()
		return runtime.NumGoroutine() <= goroutines
	})
}

// No timeout of the server's own is set in the tests of slow clients: it is the handler's that ends them.

func TestSlowClientsAreCutOff(t *testing.T) {
	const slow, timeout = 500, time.Second
	l := newLoadRig(t, &mw.Handler{Timeout: timeout, MaxBodyBytes: slow * firstChunk / 4, MaxInFlightBytes: slow * firstChunk}, nil)
	l.serveLoad(0)
	before := runtime.NumGoroutine()
	conns, stop := slowClients(t, l, slow)
	for _, conn := range conns {
		resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
		require.NoError(t, err)
		require.Equal(t, 503, resp.StatusCode)
		require.NotEmpty(t, resp.Header.Get("Retry-After"))
	}
	stop()
	loadWait(t, "all requests end", func() bool { return l.load.served.Load() == slow })
	for _, r := range l.observed() {
		require.GreaterOrEqual(t, r.Duration, timeout)
		require.Less(t, r.Duration, timeout+5*time.Second)
		require.Less(t, r.BodyBytes, 1000, "it was not slow")
	}
	require.Empty(t, l.handled())
	for _, conn := range conns {
		conn.Close()
	}
	l.requireQuiet(before)
	l.requireBudget(4, slow*firstChunk/4)
}

// A slow client takes its first chunk and nothing else, so that there is room for others where MaxInFlightBytes is more
// than the chunks of all slow clients. Here it is so by the space of one delivery.
func TestSlowClientsDoNotDelayOthers(t *testing.T) {
	const slow, legitimate = 500, 50
	l := newLoadRig(t, &mw.Handler{MaxBodyBytes: (slow + 1) * firstChunk / 4, MaxInFlightBytes: (slow + 1) * firstChunk}, nil)
	l.serveLoad(0)
	before := runtime.NumGoroutine()
	conns, stop := slowClients(t, l, slow)
	for i := range legitimate {
		edit := func(*http.Request) {}
		if i%2 == 1 {
			edit = inChunks
		}
		require.Equal(t, 200, l.post(bodyOf(fmt.Sprint(i)), edit).Status)
	}
	require.Len(t, l.handled(), legitimate)
	require.Equal(t, 503, l.post(padded("x", 2*firstChunk)).Status, "the slow clients hold no memory, so the test shows nothing")
	require.EqualValues(t, legitimate+1, l.load.served.Load(), "a slow client is held no more")
	stop()
	for _, conn := range conns {
		conn.Close()
	}
	loadWait(t, "all requests end", func() bool { return l.load.served.Load() == slow+legitimate+1 })
	l.requireQuiet(before)
	require.Len(t, l.handled(), legitimate)
	l.requireBudget(4, (slow+1)*firstChunk/4)
}

// Through a writer that has no read deadline only the next byte ends what is late, and silence never does: this is what
// the deadline is for. The log says so once, whatever the number of requests.
func TestSlowClientsWithoutReadDeadline(t *testing.T) {
	const slow, timeout = 20, 300 * time.Millisecond
	body := bodyOf("a")
	for name, hidden := range map[string]bool{"hidden": true, "reachable": false} {
		t.Run(name, func(t *testing.T) {
			l := newLoadRig(t, &mw.Handler{Timeout: timeout}, nil)
			l.load = newLoadServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if hidden {
					w = bareWriter{w}
				}
				l.h.ServeHTTP(w, r)
			}), 0)
			l.srv = l.load.Server
			var conns []net.Conn
			for range slow {
				conns = append(conns, l.dial(rawRequest("1.1", body[:9], len(body))))
			}
			loadWait(t, "all bodies are being read", func() bool { return l.load.bodies.Load() == slow })
			time.Sleep(3 * timeout)
			if hidden {
				require.Zero(t, l.load.served.Load(), "they are still being read long after Timeout")
				for _, conn := range conns {
					_, err := conn.Write(body[9:10])
					require.NoError(t, err)
				}
			}
			loadWait(t, "all requests end", func() bool { return l.load.served.Load() == slow })
			for _, r := range l.observed() {
				require.Equal(t, 503, r.Status)
			}
			require.Equal(t, hidden, l.said.count("no read deadline") == 1)
			require.LessOrEqual(t, l.said.count("no read deadline"), 1)
		})
	}
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

// The memory that a large body took is not kept by the small ones that come after it.
func TestLargeBodiesAreNotKept(t *testing.T) {
	const size = 8 << 20
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))             // since pools are kept by processor
	rig := newRig(t, &mw.Handler{OnEvent: eventReturning(nil)}) // which keeps no event
	large, small := padded("a", size), bodyOf("b")
	heap := func() int64 {
		runtime.GC() // one only, since what a pool has goes with the second unless it has been used in between
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	post := func(body []byte) { require.Equal(t, 200, rig.direct(body).Status) }
	post(small)
	heap()
	before := heap()
	post(large)
	for range 3 {
		heap()
		post(small)
	}
	require.Less(t, heap()-before, int64(size/2))
	runtime.KeepAlive(large)
}
