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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// firstChunk is what a body is charged before any of it is read.
const firstChunk = 64 << 10

// A loadServer serves a handler over loopback and counts what reaches it.
type loadServer struct {
	*httptest.Server
	bodies atomic.Int64 // bodies that the handler began to read
	nearly atomic.Int64 // bodies that it read but for their last byte
	served atomic.Int64 // requests that it returned from
}

// newLoadServer serves h. The server has no timeout, so only the Handler's ends
// a slow client. A body is nearly read when all but one of size bytes are.
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

// A flood is a number of connections that each send one large body. Half of them
// send a Content-Length, half send chunks. None allocates more than a few
// kilobytes, so the heap shows what the Handler takes.
type flood struct {
	conns int
	size  int64
	hold  chan struct{} // if not nil, holds back the last byte until it is closed

	mu       sync.Mutex
	open     []net.Conn
	statuses map[int]int // 0: no answer was seen
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

// send returns when the body is sent or the server stops listening.
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

// receive reads the answer while the body is still being sent: the connection
// may be reset soon after it.
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

// loadWait is eventually without a goroutine, which requireQuiet would count.
func loadWait(t testing.TB, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ready(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("this never happened: %s\n%s", what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// naive is what people write first. Its reading has no bound.
var naive http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || mw.Verify(body, r.Header.Get(mw.SignatureHeader), testSecret) != nil {
		http.Error(w, "", http.StatusBadRequest)
	}
})

// Beside the bodies, the heap holds garbage and the server's buffers. They may
// take one and a half times as much again.
func TestHandlerMemoryUnderFlood(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector multiplies memory")
	}
	type memoryTest struct {
		name  string
		h     *mw.Handler // nil: the naive one
		flood *flood
		bound int64
		over  bool // the bound must not hold
	}
	tests := []memoryTest{
		{"16 bodies of 16 MB", &mw.Handler{MaxBodyBytes: 2 << 20, MaxInFlightBytes: 16 << 20},
			&flood{conns: 16, size: 16_000_000}, (16 + 24) << 20, false},
		{"16 bodies of the largest size", &mw.Handler{MaxBodyBytes: 2 << 20, MaxInFlightBytes: 16 << 20},
			&flood{conns: 16, size: 2 << 20}, (16 + 24) << 20, false},
		{"16 bodies of 8 MB to a handler without bounds", nil,
			&flood{conns: 16, size: 8_000_000, hold: make(chan struct{})}, (16 + 24) << 20, true},
	}
	if fullSize() {
		tests = append(tests,
			memoryTest{"64 bodies of 100 MB", &mw.Handler{}, &flood{conns: 64, size: 100_000_000}, (64 + 96) << 20, false},
			memoryTest{"64 bodies of the largest size by default", &mw.Handler{}, &flood{conns: 64, size: 8 << 20}, (64 + 96) << 20, false})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			handler, want := naive, []int{400}
			var rig *rig
			if test.h != nil {
				rig = newRig(t, test.h)
				handler, want = rig.h, []int{413, 503}
				if test.flood.size <= 8<<20 { // some arrive, and are forged
					want = append(want, 400)
				}
			}
			srv := newLoadServer(t, handler, test.flood.size)
			peak := peakHeap(func() {
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
				require.Contains(t, append(want, 0), status, "0: reset before its answer was read")
			}
			require.Less(t, test.flood.answered()[0], test.flood.conns/2, "most clients see their answer")
			require.Empty(t, rig.handled())
			rig.srv = srv.Server // on a new connection
			require.Equal(t, 200, rig.post(bodyOf("a")).Status)
			require.Equal(t, []string{"a"}, rig.handled())
		})
	}
}

// When every body stops just before its end, as many are held as there is memory
// for.
func TestHandlerMemoryOfHeldBodies(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector multiplies memory")
	}
	const conns, room = 64, 8
	limit := int64(sized(8<<20, 1<<20)) // the former is the default
	for _, size := range []int64{limit - 1, limit} {
		t.Run(fmt.Sprintf("of %d bytes", size), func(t *testing.T) {
			l := newLoadRig(t, &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: room * limit}, nil)
			srv := l.serveLoad(size)
			f := &flood{conns: conns, size: size, hold: make(chan struct{})}
			var held int64
			peak := peakHeap(func() {
				f.start(t, srv.Listener.Addr())
				loadWait(t, "each body is held or refused", func() bool { return srv.nearly.Load()+srv.served.Load() == conns })
				held = srv.nearly.Load()
			})
			t.Logf("peak %d MiB, %d bodies held", peak>>20, held)
			require.Less(t, peak, room*limit*5/2)
			require.LessOrEqual(t, held, int64(room))
			require.Positive(t, held, "there is room for some")
			for _, r := range l.observed() {
				require.Equal(t, 503, r.Status)
			}

			for _, conn := range f.open[:conns/2] {
				conn.Close() // the other half sends the last byte
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
			l.requireBudget(room, int(limit))
		})
	}
}

// slowClients opens n connections and sends the beginning of a body on each,
// half of them in chunks. Each then sends a byte every 50 ms until stop is called.
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
	loadWait(t, "the Handler reads every body", func() bool { return l.load.bodies.Load() == before+int64(n) })
	return conns, func() { close(stopped); <-done }
}

// requireQuiet waits until no more goroutines are left than there were before.
func (l *loadRig) requireQuiet(goroutines int) {
	l.t.Helper()
	loadWait(l.t, fmt.Sprintf("no more than %d goroutines", goroutines), func() bool {
		l.srv.Client().CloseIdleConnections()
		return runtime.NumGoroutine() <= goroutines
	})
}

func TestSlowClientsAreCutOff(t *testing.T) {
	const timeout = 300 * time.Millisecond
	slow := sized(500, 100)
	budget := slow * firstChunk
	l := newLoadRig(t, &mw.Handler{Timeout: timeout, MaxBodyBytes: int64(budget / 4), MaxInFlightBytes: int64(budget)}, nil)
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
	loadWait(t, "all requests end", func() bool { return l.load.served.Load() == int64(slow) })
	for _, r := range l.observed() {
		require.GreaterOrEqual(t, r.Duration, timeout)
		require.Less(t, r.Duration, timeout+5*time.Second)
		require.Less(t, r.BodyBytes, 1000, "the client was not slow")
	}
	require.Empty(t, l.handled())
	for _, conn := range conns {
		conn.Close()
	}
	l.requireQuiet(before)
	l.requireBudget(4, budget/4)
}

// A slow client takes one chunk of memory and no more. Here MaxInFlightBytes has
// room for the chunks of all slow clients and for one delivery.
func TestSlowClientsDoNotDelayOthers(t *testing.T) {
	const legitimate = 50
	slow := sized(500, 100)
	budget := (slow + 1) * firstChunk
	l := newLoadRig(t, &mw.Handler{MaxBodyBytes: int64(budget / 4), MaxInFlightBytes: int64(budget)}, nil)
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
	require.Equal(t, 503, l.post(padded("x", 2*firstChunk)).Status, "the slow clients hold no memory")
	require.EqualValues(t, legitimate+1, l.load.served.Load(), "a slow client was let go")
	stop()
	for _, conn := range conns {
		conn.Close()
	}
	loadWait(t, "all requests end", func() bool { return l.load.served.Load() == int64(slow+legitimate+1) })
	l.requireQuiet(before)
	require.Len(t, l.handled(), legitimate)
	l.requireBudget(4, budget/4)
}

// Without a read deadline only the client's next byte ends a late request, and
// silence never does. The log says so once, not once a request.
func TestSlowClientsWithoutReadDeadline(t *testing.T) {
	t.Parallel()
	const slow, timeout = 20, 100 * time.Millisecond
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
			loadWait(t, "the Handler reads every body", func() bool { return l.load.bodies.Load() == slow })
			time.Sleep(3 * timeout)
			if hidden {
				require.Zero(t, l.load.served.Load(), "the Handler had a read deadline")
				for _, conn := range conns {
					_, err := conn.Write(body[9:10])
					require.NoError(t, err)
				}
			}
			loadWait(t, "all requests end", func() bool { return l.load.served.Load() == slow })
			for _, r := range l.observed() {
				require.Equal(t, 503, r.Status)
			}
			require.Equal(t, hidden, l.said.count("cannot be cut off") == 1)
			require.LessOrEqual(t, l.said.count("cannot be cut off"), 1)
		})
	}
}

// Of ten times as many deliveries as there is room for, the Handler takes as
// many as fit and refuses the others.
func TestOverloadRefusesTheExcess(t *testing.T) {
	t.Parallel()
	const room = 16
	tests := []struct {
		name  string
		edit  requestEdit
		space int64 // that one delivery takes
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
				require.True(t, ok, "an event was acknowledged and not handled")
			}
			handled.Range(func(id, _ any) bool { t.Errorf("event %v was refused but handled", id); return true })
		})
	}
}

// BenchmarkOverload offers a Handler as many deliveries as it has room for, and
// then ten times as many. It should accept nine tenths as many then, and refuse
// the others quickly. Each iteration takes a fixed time, so ns/op says nothing:
//
//	go test -run '^$' -bench Overload -benchtime 1x
func BenchmarkOverload(b *testing.B) {
	for _, size := range []int{1_000, 200_000} { // the latter is about 500 events
		for name, edit := range map[string]requestEdit{"Content-Length": func(*http.Request) {}, "chunked": inChunks} {
			b.Run(fmt.Sprintf("%d bytes, %s", size, name), func(b *testing.B) { benchmarkOverload(b, size, edit) })
		}
	}
}

func benchmarkOverload(b *testing.B, size int, edit requestEdit) {
	const room, work, phase = 16, 50 * time.Millisecond, 1500 * time.Millisecond
	rig := newRig(b, &mw.Handler{MaxBodyBytes: int64(size), MaxInFlightBytes: room * int64(size),
		OnEvent: func(context.Context, mw.Event) error { time.Sleep(work); return nil }}).serve()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10 * room}}
	defer client.CloseIdleConnections()
	body := padded("a", size)
	signature := mw.Sign(body, testSecret)
	post := func() (int, error) {
		r, err := http.NewRequest(http.MethodPost, rig.srv.URL, bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		r.Header.Set(mw.SignatureHeader, signature)
		edit(r)
		resp, err := client.Do(r)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
			return 0, fmt.Errorf("a 503 without Retry-After")
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}

	// offer makes each client send one delivery after the other, at the rate at
	// which one is handled. It returns how many the Handler accepts in a second,
	// and how long each refusal takes.
	offer := func(clients int) (accepted float64, refusals []time.Duration) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		handled, began := 0, time.Now()
		for i := range clients {
			wg.Go(func() {
				time.Sleep(work * time.Duration(i) / time.Duration(clients))
				for time.Since(began) < phase {
					sent := time.Now()
					status, err := post()
					took := time.Since(sent)
					mu.Lock()
					switch {
					case err != nil || status != 200 && status != 503:
						b.Errorf("answered %d, %v", status, err)
					case status == 200:
						handled++
					default:
						refusals = append(refusals, took)
					}
					mu.Unlock()
					time.Sleep(work - took)
				}
			})
		}
		wg.Wait()
		return float64(handled) / time.Since(began).Seconds(), refusals
	}

	var unloaded, loaded float64
	var refusals []time.Duration
	rounds := 0
	for b.Loop() {
		alone, none := offer(room)
		require.Empty(b, none, "there was room for them")
		crowded, refused := offer(10 * room)
		unloaded, loaded = unloaded+alone, loaded+crowded
		refusals = append(refusals, refused...)
		rounds++
	}
	require.NotEmpty(b, refusals, "nothing was refused, so this was no overload")
	slices.Sort(refusals)
	b.ReportMetric(unloaded/float64(rounds), "accepted/s-unloaded")
	b.ReportMetric(loaded/float64(rounds), "accepted/s-loaded")
	b.ReportMetric(loaded/unloaded, "ratio")
	b.ReportMetric(float64(refusals[len(refusals)*99/100].Microseconds())/1000, "ms-p99-of-503")
	b.ReportMetric(float64(len(refusals))/float64(rounds), "503s/op")
}
