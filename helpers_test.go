package mailtrapwebhook_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// TestMain lets eight tests run at once, however few processors there are: the
// parallel ones wait more than they compute.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) { // nobody set it
		_ = flag.Set("test.parallel", "8")
	}
	m.Run()
}

const testSecret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

var errBoom = errors.New("boom-of-the-callback")

// This file has what the tests of the Handler share: deliveries, a Handler that
// is watched, and stores and log lines that are written down.

// eventJSON is a delivery event as Mailtrap sends it.
func eventJSON(id string) string {
	return `{"event":"delivery","sending_stream":"transactional","message_id":"m-` + id +
		`","email":"recipient@example.com","event_id":"` + id + `","timestamp":1716070000}`
}

const auditJSON = `{"event":"activity_log.user.updated","description":"x","actor":{"name":"Mailtrap"},"timestamp":1716070000}`

func envelopeOf(events ...string) []byte {
	return []byte(`{"events":[` + strings.Join(events, ",") + `]}`)
}

func bodyOf(ids ...string) []byte {
	events := make([]string, len(ids))
	for i, id := range ids {
		events[i] = eventJSON(id)
	}
	return envelopeOf(events...)
}

// padded is a delivery of one event and white space, n bytes long.
func padded(id string, n int) []byte {
	return append(bodyOf(id), bytes.Repeat([]byte(" "), n-len(bodyOf(id)))...)
}

// brokenBody is cut off behind its two events.
func brokenBody() []byte { return []byte(strings.TrimSuffix(string(bodyOf("a", "b")), "]}") + ",") }

// idOf returns the id that eventJSON gave an event, or the name of another one.
func idOf(ev mw.Event) string {
	if sent, ok := ev.(*mw.SendingWebhookEvent); ok {
		return sent.EventID
	}
	return ev.Name()
}

func idsOf(events []mw.Event) (ids []string) {
	for _, ev := range events {
		ids = append(ids, idOf(ev))
	}
	return ids
}

// A recordedLog keeps every line that is logged, at every level.
type recordedLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *recordedLog) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *recordedLog) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *recordedLog) count(part string) (n int) {
	for line := range strings.Lines(s.String()) {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func (s *recordedLog) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(s, &slog.HandlerOptions{Level: slog.Level(-100)}))
}

// A rig is a Handler, what it logs and reports, and the server it runs on, if
// any.
type rig struct {
	t    testing.TB
	h    *mw.Handler
	said *recordedLog
	srv  *httptest.Server

	mu      sync.Mutex
	reports []mw.Report
	seen    []string // ids that the default OnEvent got
}

// newRig sets the fields that h lacks to work, and watches it.
func newRig(t testing.TB, h *mw.Handler) *rig {
	rig := &rig{t: t, h: h, said: new(recordedLog)}
	if h.Verifier == nil && h.VerifierFor == nil {
		h.Verifier = testVerifier(t, testSecret)
	}
	if h.OnEvent == nil && h.OnDelivery == nil {
		h.OnEvent = rig.onEvent
	}
	if h.Dedup == nil {
		h.Dedup = noDedup // most tests send one event again and again
	}
	h.Logger = rig.said.logger()
	observe := h.Observe
	h.Observe = func(ctx context.Context, r mw.Report) {
		rig.mu.Lock()
		rig.reports = append(rig.reports, r)
		rig.mu.Unlock()
		if observe != nil {
			observe(ctx, r)
		}
	}
	t.Cleanup(func() {
		for _, r := range rig.observed() {
			checkSum(t, r)
		}
	})
	return rig
}

func testVerifier(t testing.TB, secrets ...string) *mw.Verifier {
	v, err := mw.NewVerifier(secrets...)
	require.NoError(t, err)
	return v
}

func checkSum(t testing.TB, r mw.Report) {
	t.Helper()
	if sum := r.Handled + r.Duplicates + r.Dropped + r.Failed + r.Held + r.Unstarted; sum != r.Events || r.Unstarted < 0 {
		t.Errorf("the parts of the report add up to %d of %d events: %+v", sum, r.Events, r)
	}
}

func (rig *rig) onEvent(_ context.Context, ev mw.Event) error {
	rig.saw(ev)
	return nil
}

func (rig *rig) saw(ev mw.Event) {
	rig.mu.Lock()
	defer rig.mu.Unlock()
	rig.seen = append(rig.seen, idOf(ev))
}

func (rig *rig) handled() []string {
	rig.mu.Lock()
	defer rig.mu.Unlock()
	return slices.Clone(rig.seen)
}

func (rig *rig) observed() []mw.Report {
	rig.mu.Lock()
	defer rig.mu.Unlock()
	return slices.Clone(rig.reports)
}

func (rig *rig) last() mw.Report {
	rig.t.Helper()
	reports := rig.observed()
	require.NotEmpty(rig.t, reports, "Observe was not called")
	return reports[len(reports)-1]
}

func (rig *rig) serve(edits ...func(*httptest.Server)) *rig {
	return rig.serveAs(rig.h, edits...)
}

func (rig *rig) serveAs(handler http.Handler, edits ...func(*httptest.Server)) *rig {
	rig.srv = httptest.NewUnstartedServer(handler)
	rig.srv.Config.ErrorLog = log.New(rig.said, "", 0)
	for _, edit := range edits {
		edit(rig.srv)
	}
	if rig.srv.TLS == nil && !rig.srv.EnableHTTP2 {
		rig.srv.Start()
	} else {
		rig.srv.StartTLS()
	}
	rig.t.Cleanup(rig.srv.Close)
	return rig
}

// A reply is what the client sees.
type reply struct {
	Status int
	Header http.Header
	Body   string
	Proto  int
}

type requestEdit = func(*http.Request)

func withHeader(name string, values ...string) requestEdit {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = values }
}

func withMethod(method string) requestEdit { return func(r *http.Request) { r.Method = method } }

func inChunks(r *http.Request) { r.ContentLength = -1 }

func withForgery(r *http.Request) {
	r.Header.Set(mw.SignatureHeader, mw.Sign([]byte("another"), testSecret))
}

func withoutSignature(r *http.Request) { r.Header.Del(mw.SignatureHeader) }

func withQuery(query string) requestEdit {
	return func(r *http.Request) { r.URL.RawQuery = query }
}

// try sends a signed delivery over HTTP.
func (rig *rig) try(body []byte, edits ...requestEdit) (reply, error) {
	r, err := http.NewRequest(http.MethodPost, rig.srv.URL, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(mw.SignatureHeader, mw.Sign(body, testSecret))
	for _, edit := range edits {
		edit(r)
	}
	resp, err := rig.srv.Client().Do(r)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(text), resp.ProtoMajor}, err
}

// post is try, and checks what holds for every answer.
func (rig *rig) post(body []byte, edits ...requestEdit) reply {
	rig.t.Helper()
	before := len(rig.observed())
	got, err := rig.try(body, edits...)
	require.NoError(rig.t, err)
	checkReply(rig.t, got)
	reports := rig.observed()
	require.Len(rig.t, reports, before+1, "Observe is called once for every request")
	require.Equal(rig.t, got.Status, reports[before].Status, "Report.Status is what the client saw")
	require.Equal(rig.t, got.Status == http.StatusOK, reports[before].Err == nil, "Report.Err: %v", reports[before].Err)
	return got
}

// checkReply checks that a reply says no more than its status, and has the
// header that goes with it.
func checkReply(t testing.TB, got reply) {
	t.Helper()
	require.Contains(t, []string{"", http.StatusText(got.Status)}, strings.TrimSpace(got.Body))
	if got.Status == http.StatusMethodNotAllowed {
		require.Equal(t, http.MethodPost, got.Header.Get("Allow"))
	}
	if got.Status == http.StatusUnauthorized {
		require.Regexp(t, `^Basic realm="[^"]+"`, got.Header.Get("WWW-Authenticate"))
	} else {
		require.Empty(t, got.Header.Get("WWW-Authenticate"))
	}
	if got.Status == http.StatusServiceUnavailable {
		seconds, err := strconv.Atoi(got.Header.Get("Retry-After"))
		require.NoError(t, err)
		require.Positive(t, seconds)
	} else {
		require.Empty(t, got.Header.Get("Retry-After"))
	}
}

// A recorder is a ResponseWriter that has a read deadline, as a server's has.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetReadDeadline(time.Time) error { return nil }

// direct gives a signed delivery to the Handler without a server.
func (rig *rig) direct(body []byte, edits ...requestEdit) reply {
	rig.t.Helper()
	r := webhooktest.NewRequest("/hook", testSecret, body)
	for _, edit := range edits {
		edit(r)
	}
	w := recorder{httptest.NewRecorder()}
	rig.h.ServeHTTP(w, r)
	got := reply{w.Code, w.Header(), w.Body.String(), 1}
	checkReply(rig.t, got)
	return got
}

// dial sends text on a new connection.
func (rig *rig) dial(text string) net.Conn {
	rig.t.Helper()
	conn, err := net.Dial("tcp", rig.srv.Listener.Addr().String())
	require.NoError(rig.t, err)
	rig.t.Cleanup(func() { conn.Close() })
	require.NoError(rig.t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, text)
	require.NoError(rig.t, err)
	return conn
}

func rawRequest(version string, body []byte, length int) string {
	return fmt.Sprintf("POST / HTTP/%s\r\nHost: x\r\nContent-Length: %d\r\n%s: %s\r\n\r\n%s",
		version, length, mw.SignatureHeader, mw.Sign(body, testSecret), body)
}

func readStatus(t testing.TB, conn net.Conn) int {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// hog keeps a request of so many bytes in its callback until free is called.
func (rig *rig) hog(bytes int) (free func()) {
	rig.t.Helper()
	onEvent, store := rig.h.OnEvent, rig.h.Dedup
	entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	rig.h.OnEvent = func(ctx context.Context, ev mw.Event) error {
		if idOf(ev) == "hog" {
			close(entered)
			<-leave
			return nil
		}
		return onEvent(ctx, ev)
	}
	if store, ok := store.(*recordingStore); ok { // the hog itself must pass
		reserve, first := store.reserve, true
		store.reserve = func(ctx context.Context, keys []string) ([]mw.Reservation, error) {
			if first {
				first = false
				return slices.Repeat([]mw.Reservation{mw.Reserved}, len(keys)), nil
			}
			return reserve(ctx, keys)
		}
	}
	rig.serve()
	go func() {
		defer close(left)
		_, _ = rig.try(padded("hog", bytes), withHeader("X-Hog", "1"))
	}()
	select {
	case <-entered:
	case <-time.After(10 * time.Second):
		rig.t.Fatal("the first request did not reach its callback")
	}
	return func() { close(leave); <-left }
}

// A countedReader counts the reads of a body.
type countedReader struct {
	io.Reader
	reads atomic.Int32
}

func (r *countedReader) Read(p []byte) (int, error) {
	r.reads.Add(1)
	return r.Reader.Read(p)
}

func eventually(t testing.TB, what string, ready func() bool) {
	t.Helper()
	require.Eventually(t, ready, 10*time.Second, 2*time.Millisecond, what)
}

func eventReturning(err error) func(context.Context, mw.Event) error {
	return func(context.Context, mw.Event) error { return err }
}

func deliveryReturning(err error) func(context.Context, *mw.Delivery) error {
	return func(context.Context, *mw.Delivery) error { return err }
}

func guardReturning(err error) []mw.Guard {
	return []mw.Guard{func(*http.Request) error { return err }}
}

func verifierReturning(v *mw.Verifier, err error) func(*http.Request) (*mw.Verifier, error) {
	return func(*http.Request) (*mw.Verifier, error) { return v, err }
}

// A storeCall is one call of a recordingStore.
type storeCall struct {
	Name  string
	Keys  []string
	Lease time.Duration
}

// A recordingStore writes down its calls. A method without a function of its own
// passes the call to a working store.
type recordingStore struct {
	mu      sync.Mutex
	calls   []storeCall
	ends    []context.Context
	working mw.MemoryDeduplicator

	reserve func(ctx context.Context, keys []string) ([]mw.Reservation, error)
	commit  func(ctx context.Context) error
	release func(ctx context.Context) error
}

func (s *recordingStore) note(ctx context.Context, name string, keys []string, lease time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, storeCall{name, slices.Clone(keys), lease})
	s.ends = append(s.ends, ctx)
}

func (s *recordingStore) Reserve(ctx context.Context, keys []string, lease time.Duration) ([]mw.Reservation, error) {
	s.note(ctx, "Reserve", keys, lease)
	if s.reserve != nil {
		return s.reserve(ctx, keys)
	}
	return s.working.Reserve(ctx, keys, lease)
}

func (s *recordingStore) Commit(ctx context.Context, keys []string) error {
	s.note(ctx, "Commit", keys, 0)
	if s.commit != nil {
		return s.commit(ctx)
	}
	return s.working.Commit(ctx, keys)
}

func (s *recordingStore) Release(ctx context.Context, keys []string) error {
	s.note(ctx, "Release", keys, 0)
	if s.release != nil {
		return s.release(ctx)
	}
	return s.working.Release(ctx, keys)
}

func (s *recordingStore) called() []storeCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// names returns the methods that were called, each run of calls of one method
// once.
func (s *recordingStore) names() (names []string) {
	for _, call := range s.called() {
		names = append(names, call.Name)
	}
	return slices.Compact(names)
}

// keysOf returns the keys that a method got, in all of its calls.
func (s *recordingStore) keysOf(name string) (keys []string) {
	for _, call := range s.called() {
		if call.Name == name {
			keys = append(keys, call.Keys...)
		}
	}
	return keys
}

// noDedup turns de-duplication off.
var noDedup = mw.NoDedup

func newStore() mw.Deduplicator { return memoryStore(0, 0) }

func memoryStore(retention time.Duration, maxKeys int) mw.Deduplicator {
	return &mw.MemoryDeduplicator{Retention: retention, MaxKeys: maxKeys}
}

// secretOf is the index of the secret that matched.
func secretOf(d *mw.Delivery) int { return d.SecretIndex }

// droppedLine is part of each log line about an event that is dropped.
const droppedLine = "event dropped"

// sized returns full when the tests run at their full size, else usual.
func sized(full, usual int) int {
	if fullSize() {
		return full
	}
	return usual
}

// bubble runs f on a fake clock, as synctest.Test does, but in the year 2026: no
// event of Mailtrap's is from before 2020.
func bubble(t *testing.T, f func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)))
		f(t)
	})
}
