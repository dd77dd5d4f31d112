package mailtrapwebhook_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

const hookSecret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

var errHook = errors.New("boom-of-the-callback")

// hookEvent is a delivery event as Mailtrap sends it.
func hookEvent(id string) string {
	return `{"event":"delivery","sending_stream":"transactional","message_id":"m-` + id +
		`","email":"recipient@example.com","event_id":"` + id + `","timestamp":1716070000}`
}

const hookAudit = `{"event":"activity_log.user.updated","description":"x","actor":{"name":"Mailtrap"},"timestamp":1716070000}`

func hookEnvelope(events ...string) []byte {
	return []byte(`{"events":[` + strings.Join(events, ",") + `]}`)
}

func hookBody(ids ...string) []byte {
	events := make([]string, len(ids))
	for i, id := range ids {
		events[i] = hookEvent(id)
	}
	return hookEnvelope(events...)
}

// hookPadded is a delivery of one event, n bytes long.
func hookPadded(id string, n int) []byte {
	return append(hookBody(id), bytes.Repeat([]byte(" "), n-len(hookBody(id)))...)
}

// hookBroken is cut off after its two events.
func hookBroken() []byte { return []byte(strings.TrimSuffix(string(hookBody("a", "b")), "]}") + ",") }

// hookID is the event id of an event that hookEvent made.
func hookID(ev mw.Event) string {
	if sent, ok := ev.(*mw.SendingWebhookEvent); ok {
		return sent.EventID
	}
	return ev.Name()
}

func hookIDs(events []mw.Event) (ids []string) {
	for _, ev := range events {
		ids = append(ids, hookID(ev))
	}
	return ids
}

// hookSaid collects what is logged, at all levels.
type hookSaid struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *hookSaid) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *hookSaid) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *hookSaid) count(part string) (n int) {
	for line := range strings.Lines(s.String()) {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func (s *hookSaid) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(s, &slog.HandlerOptions{Level: slog.Level(-100)}))
}

// A hookRig is a handler, what it says, and perhaps the server that it runs on.
type hookRig struct {
	t    testing.TB
	h    *mw.Handler
	said *hookSaid
	srv  *httptest.Server

	mu      sync.Mutex
	reports []mw.Report
	seen    []string // ids handed to the default OnEvent
}

// newHookRig completes h so that it works, where it has not been completed, and watches it.
func newHookRig(t testing.TB, h *mw.Handler) *hookRig {
	rig := &hookRig{t: t, h: h, said: new(hookSaid)}
	if h.Verifier == nil && h.VerifierFor == nil {
		h.Verifier = hookVerifier(t, hookSecret)
	}
	if h.OnEvent == nil && h.OnDelivery == nil {
		h.OnEvent = rig.onEvent
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
			hookCheckSum(t, r)
		}
	})
	return rig
}

func hookVerifier(t testing.TB, secrets ...string) *mw.Verifier {
	v, err := mw.NewVerifier(secrets...)
	require.NoError(t, err)
	return v
}

func hookCheckSum(t testing.TB, r mw.Report) {
	t.Helper()
	if sum := r.Handled + r.Duplicates + r.Dropped + r.Failed + r.Held + r.Unstarted; sum != r.Events || r.Unstarted < 0 {
		t.Errorf("the parts of the report add up to %d of %d events: %+v", sum, r.Events, r)
	}
}

func (rig *hookRig) onEvent(_ context.Context, ev mw.Event) error {
	rig.saw(ev)
	return nil
}

func (rig *hookRig) saw(ev mw.Event) {
	rig.mu.Lock()
	defer rig.mu.Unlock()
	rig.seen = append(rig.seen, hookID(ev))
}

func (rig *hookRig) handled() []string {
	rig.mu.Lock()
	defer rig.mu.Unlock()
	return slices.Clone(rig.seen)
}

func (rig *hookRig) observed() []mw.Report {
	rig.mu.Lock()
	defer rig.mu.Unlock()
	return slices.Clone(rig.reports)
}

func (rig *hookRig) last() mw.Report {
	rig.t.Helper()
	reports := rig.observed()
	require.NotEmpty(rig.t, reports, "Observe was not called")
	return reports[len(reports)-1]
}

func (rig *hookRig) serve(edits ...func(*httptest.Server)) *hookRig {
	return rig.serveAs(rig.h, edits...)
}

func (rig *hookRig) serveAs(handler http.Handler, edits ...func(*httptest.Server)) *hookRig {
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

// A hookAnswer is what the client sees.
type hookAnswer struct {
	Status int
	Header http.Header
	Body   string
	Proto  int
}

type hookEdit = func(*http.Request)

func hookHeader(name string, values ...string) hookEdit {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = values }
}

func hookMethod(method string) hookEdit { return func(r *http.Request) { r.Method = method } }
func hookChunked(r *http.Request)       { r.ContentLength = -1 }
func hookForged(r *http.Request) {
	r.Header.Set(mw.SignatureHeader, mw.Sign([]byte("another"), hookSecret))
}
func hookUnsigned(r *http.Request) { r.Header.Del(mw.SignatureHeader) }
func hookQuery(query string) hookEdit {
	return func(r *http.Request) { r.URL.RawQuery = query }
}

// try sends a signed delivery.
func (rig *hookRig) try(body []byte, edits ...hookEdit) (hookAnswer, error) {
	r, err := http.NewRequest(http.MethodPost, rig.srv.URL, bytes.NewReader(body))
	if err != nil {
		return hookAnswer{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(mw.SignatureHeader, mw.Sign(body, hookSecret))
	for _, edit := range edits {
		edit(r)
	}
	resp, err := rig.srv.Client().Do(r)
	if err != nil {
		return hookAnswer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return hookAnswer{resp.StatusCode, resp.Header, string(text), resp.ProtoMajor}, err
}

// post sends a signed delivery and checks all that holds for every answer.
func (rig *hookRig) post(body []byte, edits ...hookEdit) hookAnswer {
	rig.t.Helper()
	before := len(rig.observed())
	got, err := rig.try(body, edits...)
	require.NoError(rig.t, err)
	hookCheckAnswer(rig.t, got)
	reports := rig.observed()
	require.Len(rig.t, reports, before+1, "Observe is called once for every request")
	require.Equal(rig.t, got.Status, reports[before].Status, "Report.Status is what the client saw")
	require.Equal(rig.t, got.Status == http.StatusOK, reports[before].Err == nil, "Report.Err: %v", reports[before].Err)
	return got
}

// hookCheckAnswer checks that the answer says no more than the status, and has the header that goes with it.
func hookCheckAnswer(t testing.TB, got hookAnswer) {
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

// A hookRecorder is a ResponseWriter whose reading never has to be cut off.
type hookRecorder struct{ *httptest.ResponseRecorder }

func (hookRecorder) SetReadDeadline(time.Time) error { return nil }

// direct gives a signed delivery to the handler without a server.
func (rig *hookRig) direct(body []byte, edits ...hookEdit) hookAnswer {
	rig.t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/hook", bytes.NewReader(body))
	r.Header.Set(mw.SignatureHeader, mw.Sign(body, hookSecret))
	for _, edit := range edits {
		edit(r)
	}
	w := hookRecorder{httptest.NewRecorder()}
	rig.h.ServeHTTP(w, r)
	got := hookAnswer{w.Code, w.Header(), w.Body.String(), 1}
	hookCheckAnswer(rig.t, got)
	return got
}

// dial sends text on a connection of its own.
func (rig *hookRig) dial(text string) net.Conn {
	rig.t.Helper()
	conn, err := net.Dial("tcp", rig.srv.Listener.Addr().String())
	require.NoError(rig.t, err)
	rig.t.Cleanup(func() { conn.Close() })
	require.NoError(rig.t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, text)
	require.NoError(rig.t, err)
	return conn
}

func hookRaw(version string, body []byte, length int) string {
	return fmt.Sprintf("POST / HTTP/%s\r\nHost: x\r\nContent-Length: %d\r\n%s: %s\r\n\r\n%s",
		version, length, mw.SignatureHeader, mw.Sign(body, hookSecret), body)
}

func hookReadStatus(t testing.TB, conn net.Conn) int {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// A hookReading counts the reads of a body.
type hookReading struct {
	io.Reader
	reads atomic.Int32
}

func (r *hookReading) Read(p []byte) (int, error) {
	r.reads.Add(1)
	return r.Reader.Read(p)
}

func hookWait(t testing.TB, what string, ready func() bool) {
	t.Helper()
	require.Eventually(t, ready, 10*time.Second, 2*time.Millisecond, what)
}

func eventReturning(err error) func(context.Context, mw.Event) error {
	return func(context.Context, mw.Event) error { return err }
}

func guardReturning(err error) []mw.Guard {
	return []mw.Guard{func(*http.Request) error { return err }}
}

func verifierReturning(v *mw.Verifier, err error) func(*http.Request) (*mw.Verifier, error) {
	return func(*http.Request) (*mw.Verifier, error) { return v, err }
}

func TestHandlerAnswers(t *testing.T) {
	tests := []struct {
		name  string
		h     *mw.Handler
		body  []byte // nil: one event
		edits []hookEdit
		want  int
	}{
		{"an event is handled", &mw.Handler{}, nil, nil, 200},
		{"a JSON Lines event is handled", &mw.Handler{}, []byte(hookEvent("a") + "\n" + hookEvent("b") + "\n"), nil, 200},
		{"a delivery without events", &mw.Handler{}, []byte(`{"events":[]}`), nil, 200},
		{"an event of an unknown kind", &mw.Handler{}, hookEnvelope(`{"event":"new"}`, `7`), nil, 200},
		{"an event fails for good", &mw.Handler{OnEvent: eventReturning(mw.Permanent(errHook))}, nil, nil, 200},
		{"a delivery fails for good", &mw.Handler{OnDelivery: deliveryReturning(mw.Permanent(errHook))}, nil, nil, 200},

		{"no signature", &mw.Handler{}, nil, []hookEdit{hookUnsigned}, 400},
		{"an empty signature", &mw.Handler{}, nil, []hookEdit{hookHeader(mw.SignatureHeader, "")}, 400},
		{"a forged signature", &mw.Handler{}, nil, []hookEdit{hookForged}, 400},
		{"a signature that is not hexadecimal", &mw.Handler{}, nil,
			[]hookEdit{hookHeader(mw.SignatureHeader, strings.Repeat("x", 64))}, 400},
		{"two signatures, both right", &mw.Handler{}, nil, []hookEdit{hookHeader(mw.SignatureHeader,
			mw.Sign(hookBody("a"), hookSecret), mw.Sign(hookBody("a"), hookSecret))}, 400},
		{"two signatures in one header", &mw.Handler{}, nil, []hookEdit{hookHeader(mw.SignatureHeader,
			mw.Sign(hookBody("a"), hookSecret)+", "+mw.Sign(hookBody("a"), hookSecret))}, 400},
		{"an empty body", &mw.Handler{}, []byte{}, nil, 400},
		{"another secret", &mw.Handler{Verifier: hookVerifier(t, "another")}, nil, nil, 400},

		{"a Guard's ErrUnauthorized", &mw.Handler{Guards: guardReturning(mw.ErrUnauthorized)}, nil, nil, 401},
		{"a Guard's error that wraps ErrUnauthorized",
			&mw.Handler{Guards: guardReturning(fmt.Errorf("x: %w", mw.ErrUnauthorized))}, nil, nil, 401},
		{"a Guard's ErrForbidden", &mw.Handler{Guards: guardReturning(mw.ErrForbidden)}, nil, nil, 403},
		{"a Guard's other error", &mw.Handler{Guards: guardReturning(errHook)}, nil, nil, 403},
		{"the second Guard's error", &mw.Handler{Guards: append(guardReturning(nil), guardReturning(errHook)...)}, nil, nil, 403},
		{"a Guard that panics", &mw.Handler{Guards: []mw.Guard{func(*http.Request) error { panic(errHook) }}}, nil, nil, 500},
		{"VerifierFor's error that wraps ErrUnauthorized",
			&mw.Handler{VerifierFor: verifierReturning(nil, fmt.Errorf("x: %w", mw.ErrUnauthorized))}, nil, nil, 401},
		{"VerifierFor's error that wraps ErrForbidden",
			&mw.Handler{VerifierFor: verifierReturning(nil, fmt.Errorf("x: %w", mw.ErrForbidden))}, nil, nil, 403},
		{"VerifierFor has neither", &mw.Handler{VerifierFor: verifierReturning(nil, nil)}, nil, nil, 403},
		{"VerifierFor's other error", &mw.Handler{VerifierFor: verifierReturning(nil, errHook)}, nil, nil, 503},
		{"VerifierFor's error beside a verifier",
			&mw.Handler{VerifierFor: verifierReturning(hookVerifier(t, hookSecret), errHook)}, nil, nil, 503},
		{"VerifierFor's verifier", &mw.Handler{VerifierFor: verifierReturning(hookVerifier(t, hookSecret), nil)}, nil, nil, 200},
		{"VerifierFor instead of Verifier", &mw.Handler{Verifier: hookVerifier(t, hookSecret),
			VerifierFor: verifierReturning(hookVerifier(t, "another"), nil)}, nil, nil, 400},

		{"GET", &mw.Handler{}, nil, []hookEdit{hookMethod("GET")}, 405},
		{"HEAD", &mw.Handler{}, nil, []hookEdit{hookMethod("HEAD")}, 405},
		{"PUT", &mw.Handler{}, nil, []hookEdit{hookMethod("PUT")}, 405},
		{"OPTIONS", &mw.Handler{}, nil, []hookEdit{hookMethod("OPTIONS")}, 405},

		{"a body that is too large", &mw.Handler{MaxBodyBytes: 300}, hookPadded("a", 301), nil, 413},
		{"a body that is too large, in chunks", &mw.Handler{MaxBodyBytes: 300}, hookPadded("a", 301), []hookEdit{hookChunked}, 413},
		{"too many events", &mw.Handler{MaxEvents: 1}, hookBody("a", "b"), nil, 413},
		{"too many lines", &mw.Handler{MaxEvents: 1}, []byte(hookEvent("a") + "\n" + hookEvent("b")), nil, 413},

		{"a broken structure", &mw.Handler{}, hookBroken(), nil, 422},
		{"a body that is neither object nor array", &mw.Handler{}, []byte("7"), nil, 422},
		{"a body of white space", &mw.Handler{}, []byte(" \n"), nil, 422},

		{"an event fails", &mw.Handler{OnEvent: eventReturning(errHook)}, nil, nil, 500},
		{"a delivery fails", &mw.Handler{OnDelivery: deliveryReturning(errHook)}, nil, nil, 500},
		{"an event's callback panics",
			&mw.Handler{OnEvent: func(context.Context, mw.Event) error { panic(errHook) }}, nil, nil, 500},
		{"a delivery's callback panics",
			&mw.Handler{OnDelivery: func(context.Context, *mw.Delivery) error { panic(errHook) }}, nil, nil, 500},
		{"an event's callback overruns", &mw.Handler{EventTimeout: time.Millisecond,
			OnEvent: func(ctx context.Context, _ mw.Event) error { time.Sleep(300 * time.Millisecond); return nil }}, nil, nil, 500},
		{"an event's callback heeds its context", &mw.Handler{EventTimeout: time.Millisecond,
			OnEvent: func(ctx context.Context, _ mw.Event) error { <-ctx.Done(); return ctx.Err() }}, nil, nil, 500},
		{"a delivery's callback overruns", &mw.Handler{Timeout: 50 * time.Millisecond,
			OnDelivery: func(context.Context, *mw.Delivery) error { time.Sleep(400 * time.Millisecond); return nil }}, nil, nil, 500},
		{"the verifier has no secret", &mw.Handler{Verifier: new(mw.Verifier)}, nil, nil, 500},
		{"a panic in VerifierFor", &mw.Handler{VerifierFor: func(*http.Request) (*mw.Verifier, error) { panic(errHook) }}, nil, nil, 500},
		{"a panic in Scope", &mw.Handler{Scope: func(*http.Request) string { panic(errHook) }}, nil, nil, 500},

		{"the store is down", &mw.Handler{Dedup: (*mw.MemoryDeduplicator)(nil)}, nil, nil, 503},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rig := newHookRig(t, test.h).serve()
			body := test.body
			if body == nil {
				body = hookBody("a")
			}
			got := rig.post(body, test.edits...)
			require.Equal(t, test.want, got.Status)
			require.GreaterOrEqual(t, rig.said.count(fmt.Sprintf(`"status":%d`, test.want)), 1, "the outcome is logged")
			if test.want < 500 && test.want != 200 {
				require.Empty(t, rig.handled())
			}
		})
	}
}

func deliveryReturning(err error) func(context.Context, *mw.Delivery) error {
	return func(context.Context, *mw.Delivery) error { return err }
}

// A request that is wrong in two ways is answered for the one that is looked at first.
func TestHandlerChecksInOrder(t *testing.T) {
	const limit = 2048
	type attempt struct {
		h     *mw.Handler
		body  []byte
		edits []hookEdit
		hog   bool // another request takes all memory
	}
	unlessHog := func(r *http.Request, err error) error {
		if r.Header.Get("X-Hog") != "" {
			return nil
		}
		return err
	}
	hogVerifier := hookVerifier(t, hookSecret)
	faults := []struct {
		name  string
		want  int
		apply func(*attempt)
	}{
		{"set-up", 500, func(a *attempt) { a.h.Timeout = 29 * time.Second }},
		{"method", 405, func(a *attempt) { a.edits = append(a.edits, hookMethod("PUT")) }},
		{"type", 415, func(a *attempt) { a.edits = append(a.edits, hookHeader("Content-Type", "image/png")) }},
		{"guard", 401, func(a *attempt) {
			a.h.Guards = []mw.Guard{func(r *http.Request) error { return unlessHog(r, mw.ErrUnauthorized) }}
		}},
		{"verifier", 403, func(a *attempt) {
			a.h.VerifierFor = func(r *http.Request) (*mw.Verifier, error) { return hogVerifier, unlessHog(r, mw.ErrForbidden) }
		}},
		{"signature header", 400, func(a *attempt) { a.edits = append(a.edits, hookUnsigned) }},
		{"size", 413, func(a *attempt) { a.body = append(a.body, bytes.Repeat([]byte(" "), 2*limit)...) }},
		{"budget", 503, func(a *attempt) { a.hog = true }},
		{"signature", 400, func(a *attempt) { a.edits = append(a.edits, hookForged) }},
		{"structure", 422, func(a *attempt) { a.body = append([]byte(`{"events":[{},}`), a.body...) }},
		{"store", 503, func(a *attempt) {
			a.h.Dedup = &hookStore{reserve: func(context.Context, []string) ([]mw.Reservation, error) { return nil, errHook }}
		}},
		{"callback", 500, func(a *attempt) { a.h.OnEvent = eventReturning(errHook) }},
	}
	for i, first := range faults {
		for _, second := range faults[i+1:] {
			if first.name == "set-up" && second.name == "budget" {
				continue // nothing of such a handler can take memory
			}
			if second.name == "signature" && first.name == "signature header" {
				continue // it has no signature to be forged
			}
			t.Run(first.name+" before "+second.name, func(t *testing.T) {
				t.Parallel()
				a := &attempt{
					h: &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: limit, Scope: func(*http.Request) string { return "t" }},
				}
				a.body = hookBody("a")
				first.apply(a)
				second.apply(a)
				rig := newHookRig(t, a.h)
				if a.hog {
					free := rig.hog(limit)
					defer free()
				}
				if rig.srv == nil {
					rig.serve()
				}
				require.Equal(t, first.want, rig.post(a.body, a.edits...).Status)
			})
		}
	}
}

// hog has a request of so many bytes stay in its callback until the result is called.
func (rig *hookRig) hog(bytes int) (free func()) {
	rig.t.Helper()
	onEvent, store := rig.h.OnEvent, rig.h.Dedup
	entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	rig.h.OnEvent = func(ctx context.Context, ev mw.Event) error {
		if hookID(ev) == "hog" {
			close(entered)
			<-leave
			return nil
		}
		return onEvent(ctx, ev)
	}
	if store, ok := store.(*hookStore); ok { // which lets the hog pass
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
		_, _ = rig.try(hookPadded("hog", bytes), hookHeader("X-Hog", "1"))
	}()
	select {
	case <-entered:
	case <-time.After(10 * time.Second):
		rig.t.Fatal("the first request did not reach its callback")
	}
	return func() { close(leave); <-left }
}

func TestHandlerSetUpErrors(t *testing.T) {
	v := hookVerifier(t, hookSecret)
	tests := []struct {
		name string
		h    *mw.Handler
		says []string
	}{
		{"no verifier", &mw.Handler{OnEvent: eventReturning(nil)}, []string{"Verifier", "NewVerifier"}},
		{"no callback", &mw.Handler{Verifier: v}, []string{"OnEvent", "OnDelivery", "set one"}},
		{"two callbacks", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), OnDelivery: deliveryReturning(nil)},
			[]string{"OnEvent", "OnDelivery", "set one"}},
		{"Timeout too long", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), Timeout: 28*time.Second + 1},
			[]string{"Timeout", "28"}},
		{"MaxInFlightBytes too small", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), MaxBodyBytes: 1000, MaxInFlightBytes: 999},
			[]string{"MaxInFlightBytes", "MaxBodyBytes"}},
		{"MaxInFlightBytes below the default MaxBodyBytes",
			&mw.Handler{Verifier: v, OnEvent: eventReturning(nil), MaxInFlightBytes: 8<<20 - 1},
			[]string{"MaxInFlightBytes", "MaxBodyBytes"}},
		{"MaxBodyBytes over the default MaxInFlightBytes",
			&mw.Handler{Verifier: v, OnEvent: eventReturning(nil), MaxBodyBytes: 64<<20 + 1},
			[]string{"MaxInFlightBytes", "MaxBodyBytes"}},
		{"no Scope", &mw.Handler{VerifierFor: verifierReturning(v, nil), OnEvent: eventReturning(nil), Dedup: mw.NewMemoryDeduplicator(0, 0)},
			[]string{"Scope", "VerifierFor"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			said := new(hookSaid)
			test.h.Logger = said.logger()
			var called atomic.Int32
			if test.h.OnEvent != nil {
				test.h.OnEvent = func(context.Context, mw.Event) error { called.Add(1); return nil }
			}
			if test.h.OnDelivery != nil {
				test.h.OnDelivery = func(context.Context, *mw.Delivery) error { called.Add(1); return nil }
			}
			test.h.Guards = []mw.Guard{func(*http.Request) error { called.Add(1); return nil }}
			var reports []mw.Report
			test.h.Observe = func(_ context.Context, r mw.Report) { reports = append(reports, r) }
			body := &hookReading{Reader: bytes.NewReader(hookBody("a"))}
			r := httptest.NewRequest(http.MethodPost, "/", body)
			r.Header.Set(mw.SignatureHeader, mw.Sign(hookBody("a"), hookSecret))
			w := httptest.NewRecorder()
			test.h.ServeHTTP(w, r)

			require.Equal(t, http.StatusInternalServerError, w.Code)
			require.Zero(t, called.Load(), "something was called")
			require.Zero(t, body.reads.Load(), "the body was read")
			require.Len(t, reports, 1)
			require.Equal(t, w.Code, reports[0].Status)
			for _, word := range test.says {
				require.Contains(t, said.String(), word)
				require.ErrorContains(t, reports[0].Err, word)
				require.NotContains(t, w.Body.String(), word)
			}
			require.Contains(t, said.String(), `"level":"ERROR"`)
		})
	}
	t.Run("limits that are allowed", func(t *testing.T) {
		rig := newHookRig(t, &mw.Handler{Timeout: 28 * time.Second, MaxBodyBytes: 1000, MaxInFlightBytes: 1000,
			VerifierFor: verifierReturning(v, nil)}).serve()
		require.Equal(t, 200, rig.post(hookBody("a")).Status)
	})
}

// Whoever is refused for what stands in front of the body has none of it read.
func TestHandlerRefusesBeforeReading(t *testing.T) {
	tests := []struct {
		name  string
		h     *mw.Handler
		edits []hookEdit
		want  int
	}{
		{"method", &mw.Handler{}, []hookEdit{hookMethod("PUT")}, 405},
		{"type", &mw.Handler{}, []hookEdit{hookHeader("Content-Type", "video/mp4")}, 415},
		{"encoding", &mw.Handler{}, []hookEdit{hookHeader("Content-Encoding", "gzip")}, 415},
		{"guard", &mw.Handler{Guards: guardReturning(errHook)}, nil, 403},
		{"password", &mw.Handler{Guards: []mw.Guard{mw.BasicAuth("u", "p")}}, nil, 401},
		{"token", &mw.Handler{Guards: []mw.Guard{mw.QueryToken("t", "p")}}, nil, 403},
		{"address", &mw.Handler{Guards: []mw.Guard{mw.NewIPAllowlist(mw.IPRanges()).Guard()}}, nil, 403},
		{"no such tenant", &mw.Handler{VerifierFor: verifierReturning(nil, nil)}, nil, 403},
		{"tenant's store is down", &mw.Handler{VerifierFor: verifierReturning(nil, errHook)}, nil, 503},
		{"no signature", &mw.Handler{}, []hookEdit{hookUnsigned}, 400},
		{"two signatures", &mw.Handler{}, []hookEdit{hookHeader(mw.SignatureHeader, "a", "b")}, 400},
		{"size", &mw.Handler{MaxBodyBytes: 10}, nil, 413},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rig := newHookRig(t, test.h)
			body := &hookReading{Reader: bytes.NewReader(hookBody("a"))}
			got := rig.direct(hookBody("a"), append(test.edits, func(r *http.Request) { r.Body = io.NopCloser(body) })...)
			require.Equal(t, test.want, got.Status)
			require.Zero(t, body.reads.Load(), "the body was read")
			require.Zero(t, rig.last().BodyBytes)
		})
	}
	t.Run("a client that waits for 100 Continue", func(t *testing.T) {
		rig := newHookRig(t, &mw.Handler{Guards: guardReturning(errHook)}).serve()
		head, _, _ := strings.Cut(hookRaw("1.1", nil, 100), "\r\n\r\n")
		conn := rig.dial(head + "\r\nExpect: 100-continue\r\n\r\n")
		require.Equal(t, 403, hookReadStatus(t, conn))
	})
}

func TestHandlerContentTypes(t *testing.T) {
	bodies := map[string][]byte{
		"JSON":       hookBody("a", "b"),
		"JSON Lines": []byte(hookEvent("a") + "\n" + hookEvent("b") + "\n"),
	}
	formats := map[string]mw.Format{"JSON": mw.FormatJSON, "JSON Lines": mw.FormatJSONLines}
	tests := []struct {
		name   string
		header string
		values []string
		want   int
	}{
		{"missing", "Content-Type", nil, 200},
		{"empty", "Content-Type", []string{""}, 200},
		{"JSON", "Content-Type", []string{"application/json"}, 200},
		{"JSON with a charset", "Content-Type", []string{"application/json; charset=utf-8"}, 200},
		{"JSON Lines", "Content-Type", []string{"application/jsonl"}, 200},
		{"other names of JSON Lines", "Content-Type", []string{"application/x-ndjson"}, 200},
		{"a suffix", "Content-Type", []string{"application/cloudevents+json"}, 200},
		{"text", "Content-Type", []string{"text/plain"}, 200},
		{"octets", "Content-Type", []string{"application/octet-stream"}, 200},
		{"a form, as curl says", "Content-Type", []string{"application/x-www-form-urlencoded"}, 200},
		{"nonsense", "Content-Type", []string{";;;"}, 200},
		{"a name that only begins so", "Content-Type", []string{"imagery"}, 200},
		{"multipart", "Content-Type", []string{"multipart/form-data; boundary=x"}, 415},
		{"image", "Content-Type", []string{"image/png"}, 415},
		{"audio", "Content-Type", []string{"audio/mpeg"}, 415},
		{"video", "Content-Type", []string{"video/mp4"}, 415},
		{"font", "Content-Type", []string{"font/woff2"}, 415},
		{"capitals and space", "Content-Type", []string{" IMAGE/PNG"}, 415},
		{"identity", "Content-Encoding", []string{"identity"}, 200},
		{"Identity", "Content-Encoding", []string{"Identity"}, 200},
		{"gzip", "Content-Encoding", []string{"gzip"}, 415},
		{"br", "Content-Encoding", []string{"br"}, 415},
		{"an unknown encoding", "Content-Encoding", []string{"x"}, 415},
		{"identity and gzip", "Content-Encoding", []string{"identity, gzip"}, 415},
		{"identity and gzip on two lines", "Content-Encoding", []string{"identity", "gzip"}, 415},
	}
	rig := newHookRig(t, &mw.Handler{}).serve()
	for format, body := range bodies {
		for _, test := range tests {
			t.Run(format+"/"+test.header+" "+test.name, func(t *testing.T) {
				before := len(rig.handled())
				require.Equal(t, test.want, rig.post(body, hookHeader(test.header, test.values...)).Status)
				if test.want == 200 {
					require.Equal(t, []string{"a", "b"}, rig.handled()[before:])
					require.Equal(t, formats[format], rig.last().Format)
				} else {
					require.Len(t, rig.handled(), before)
				}
			})
		}
	}
}

func TestHandlerTenants(t *testing.T) {
	tenants := map[string]*mw.Verifier{"/one": hookVerifier(t, hookSecret), "/two": hookVerifier(t, hookSecret), "/three": hookVerifier(t, "3")}
	store := &hookStore{}
	rig := newHookRig(t, &mw.Handler{
		VerifierFor: func(r *http.Request) (*mw.Verifier, error) { return tenants[r.URL.Path], nil },
		Scope:       func(r *http.Request) string { return r.URL.Path },
		Dedup:       store,
	}).serve()
	at := func(path string) hookEdit { return func(r *http.Request) { r.URL.Path = path } }

	require.Equal(t, 200, rig.post(hookBody("a"), at("/one")).Status)
	require.Equal(t, 200, rig.post(hookBody("a"), at("/two")).Status)
	require.Equal(t, []string{"a", "a"}, rig.handled(), "each tenant's event is its own")
	require.Equal(t, 200, rig.post(hookBody("a"), at("/one")).Status)
	require.Equal(t, []string{"a", "a"}, rig.handled(), "a retry is recognised")
	require.Equal(t, 1, rig.last().Duplicates)
	require.Equal(t, 400, rig.post(hookBody("a"), at("/three")).Status, "another tenant's signature")
	require.Equal(t, 403, rig.post(hookBody("a"), at("/four")).Status)

	keys := store.keysOf("Reserve")
	require.Len(t, keys, 3)
	require.True(t, strings.HasPrefix(keys[0][0], "/one"), keys)
	require.True(t, strings.HasPrefix(keys[1][0], "/two"), keys)
}

func TestHandlerBodyLimit(t *testing.T) {
	for _, limit := range []int{500, 64 << 10, 64<<10 + 1, 200_000} {
		for _, length := range []int{limit - 1, limit, limit + 1, 2 * limit} {
			for name, edit := range map[string]hookEdit{"Content-Length": func(*http.Request) {}, "chunked": hookChunked} {
				t.Run(fmt.Sprintf("%d of %d %s", length, limit, name), func(t *testing.T) {
					t.Parallel()
					rig := newHookRig(t, &mw.Handler{MaxBodyBytes: int64(limit), MaxInFlightBytes: int64(limit)}).serve()
					want := 200
					if length > limit {
						want = 413
					}
					require.Equal(t, want, rig.post(hookPadded("a", length), edit).Status)
					if want == 200 {
						require.Equal(t, length, rig.last().BodyBytes)
						require.Equal(t, []string{"a"}, rig.handled())
					} else {
						require.Empty(t, rig.handled())
					}
					require.Equal(t, 200, rig.post(hookPadded("b", limit), edit).Status, "all memory has been given back")
				})
			}
		}
	}
}

func TestHandlerDefaultBodyLimit(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{}).serve()
	require.Equal(t, 200, rig.post(hookPadded("a", 8<<20)).Status)
	require.Equal(t, 413, rig.post(hookPadded("a", 8<<20+1)).Status)
}

// A limit that a middleware has set is one too.
func TestHandlerBehindMaxBytesHandler(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{})
	rig.serveAs(http.MaxBytesHandler(rig.h, 300))
	require.Equal(t, 200, rig.post(hookPadded("a", 300)).Status)
	require.Equal(t, 413, rig.post(hookPadded("a", 301)).Status)
}

func TestHandlerMaxEvents(t *testing.T) {
	lines := func(n int) []byte { return []byte(strings.Repeat("{\"event\":\"x\"}\n", n)) }
	envelope := func(n int) []byte { return hookEnvelope(slices.Repeat([]string{"{}"}, n)...) }
	tests := []struct {
		name string
		max  int
		body []byte
		want int
	}{
		{"as many as allowed", 3, envelope(3), 200},
		{"one more", 3, envelope(4), 413},
		{"as many lines as allowed", 3, lines(3), 200},
		{"one more line", 3, lines(4), 413},
		{"as many as by default", 0, envelope(10_000), 200},
		{"one more than by default", 0, envelope(10_001), 413},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var called atomic.Int32
			rig := newHookRig(t, &mw.Handler{MaxEvents: test.max,
				OnEvent: func(context.Context, mw.Event) error { called.Add(1); return nil }}).serve()
			require.Equal(t, test.want, rig.post(test.body).Status)
			if test.want == 413 {
				require.Zero(t, called.Load())
			} else {
				require.EqualValues(t, rig.last().Events, called.Load())
				require.Equal(t, rig.last().Events, rig.last().Unknown)
			}
		})
	}
}

func TestHandlerMaxInFlightBytes(t *testing.T) {
	const limit = 4096
	for name, edit := range map[string]hookEdit{"Content-Length": func(*http.Request) {}, "chunked": hookChunked} {
		t.Run(name, func(t *testing.T) {
			rig := newHookRig(t, &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: limit})
			free := rig.hog(limit)
			require.Equal(t, 503, rig.post(hookBody("a"), edit).Status)
			require.Empty(t, rig.handled())
			free()
			hookWait(t, "the memory is given back", func() bool {
				return rig.post(hookPadded("a", limit), edit).Status == 200
			})
		})
	}
	t.Run("room for both", func(t *testing.T) {
		rig := newHookRig(t, &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: 2 * limit})
		free := rig.hog(limit)
		defer free()
		require.Equal(t, 200, rig.post(hookPadded("a", limit)).Status)
	})
	t.Run("a chunked body that outgrows what is left", func(t *testing.T) {
		rig := newHookRig(t, &mw.Handler{MaxBodyBytes: 300_000, MaxInFlightBytes: 400_000})
		free := rig.hog(300_000)
		defer free()
		require.Equal(t, 200, rig.post(hookPadded("a", 1000), hookChunked).Status)
		require.Equal(t, 503, rig.post(hookPadded("a", 250_000), hookChunked).Status)
		require.Equal(t, 200, rig.post(hookPadded("a", 1000), hookChunked).Status)
	})
}

// Memory that was not given back would add up until nothing passes.
func TestHandlerGivesMemoryBack(t *testing.T) {
	const limit = 4096
	panicking := func(context.Context, mw.Event) error { panic(errHook) }
	tests := []struct {
		name    string
		onEvent func(context.Context, mw.Event) error
		send    func(rig *hookRig)
	}{
		{"handled", eventReturning(nil), func(rig *hookRig) { rig.post(hookPadded("a", limit)) }},
		{"forged", eventReturning(nil), func(rig *hookRig) { rig.post(hookPadded("a", limit), hookForged) }},
		{"too large", eventReturning(nil), func(rig *hookRig) { rig.post(hookPadded("a", limit+1), hookChunked) }},
		{"broken", eventReturning(nil), func(rig *hookRig) { rig.post(hookBroken()) }},
		{"failed", eventReturning(errHook), func(rig *hookRig) { rig.post(hookPadded("a", limit)) }},
		{"panicked", panicking, func(rig *hookRig) { rig.post(hookPadded("a", limit)) }},
		{"hung up while sending", eventReturning(nil), func(rig *hookRig) {
			rig.dial(hookRaw("1.1", hookBody("a"), limit)).Close()
		}},
		{"hung up while waiting", func(context.Context, mw.Event) error { time.Sleep(20 * time.Millisecond); return nil },
			func(rig *hookRig) { rig.dial(hookRaw("1.1", hookPadded("a", limit), limit)).Close() }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rig := newHookRig(t, &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: limit})
			rig.h.OnEvent = func(ctx context.Context, ev mw.Event) error {
				if hookID(ev) == "last" {
					return nil
				}
				return test.onEvent(ctx, ev)
			}
			rig.serve()
			test.send(rig)
			hookWait(t, "Observe", func() bool { return len(rig.observed()) == 1 })
			hookWait(t, "the memory is given back", func() bool { return rig.post(hookPadded("last", limit)).Status == 200 })
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
				body := hookPadded("a", limit)
				switch kind {
				case "OnEvent":
					h.OnEvent = func(context.Context, mw.Event) error { return stay() }
				case "OnDelivery":
					h.OnDelivery = func(context.Context, *mw.Delivery) error { return stay() }
				default:
					h.OnMalformed = func(context.Context, *mw.Delivery, error) error { return stay() }
					body = append(hookBroken(), bytes.Repeat([]byte(" "), limit-len(hookBroken()))...)
				}
				rig := newHookRig(t, h)
				require.Equal(t, 500, rig.direct(body).Status)
				require.Equal(t, 503, rig.direct(hookBody("b")).Status, "the callback still runs")
				time.Sleep(time.Hour)
				require.Equal(t, 503, rig.direct(hookBody("b")).Status, "and goes on")
				close(leave)
				synctest.Wait()
				require.Equal(t, 200, rig.direct(hookPadded("b", limit)).Status)
			})
		})
	}
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
				inner.ServeHTTP(hookUnwrapping{hookWrapped{w}, w}, r)
			})
		}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rig := newHookRig(t, &mw.Handler{Timeout: test.timeout}).serve(test.edit)
			body := hookBody("a")
			began := time.Now()
			conn := rig.dial(hookRaw("1.1", body, len(body)+1_000_000))
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
			require.Equal(t, 503, hookReadStatus(t, conn))
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
		{"guard", &mw.Handler{Guards: guardReturning(errHook)}, hookRaw("1.1", hookBody("a"), 2000), 403},
		{"no signature", &mw.Handler{}, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\nx", 400},
		{"too large", &mw.Handler{MaxBodyBytes: 1000}, hookRaw("1.1", hookBody("a"), 2000), 413},
		{"wrong set-up", &mw.Handler{OnEvent: eventReturning(nil), OnDelivery: deliveryReturning(nil)}, hookRaw("1.1", hookBody("a"), 2000), 500},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.h.Timeout = 200 * time.Millisecond
			rig := newHookRig(t, test.h).serve()
			conn := rig.dial(test.text)
			require.NoError(t, conn.SetDeadline(time.Now().Add(3*time.Second)))
			require.Equal(t, test.want, hookReadStatus(t, conn))
		})
	}
}

type hookWrapped struct{ http.ResponseWriter }

type hookUnwrapping struct {
	hookWrapped
	inner http.ResponseWriter
}

func (w hookUnwrapping) Unwrap() http.ResponseWriter { return w.inner }

func TestHandlerTellsOnceThatItCannotCutOff(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{})
	rig.serveAs(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { rig.h.ServeHTTP(hookWrapped{w}, r) }))
	for range 3 {
		require.Equal(t, 200, rig.post(hookBody("a")).Status)
	}
	require.Equal(t, 1, rig.said.count("Unwrap"))
}

// A connection outlives the deadline that one of its requests had.
func TestHandlerKeepsConnectionsAlive(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{Timeout: 100 * time.Millisecond}).serve()
	conn := rig.dial("")
	reader := bufio.NewReader(conn)
	for range 3 {
		_, err := io.WriteString(conn, hookRaw("1.1", hookBody("a"), len(hookBody("a"))))
		require.NoError(t, err)
		resp, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode)
		time.Sleep(150 * time.Millisecond)
	}
}

func TestHandlerBrokenOffBody(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{}).serve()
	conn := rig.dial(hookRaw("1.1", hookBody("a"), len(hookBody("a"))+1))
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	require.Equal(t, 400, hookReadStatus(t, conn), "what is cut off is not what was signed")
	require.Empty(t, rig.handled())
}

func TestHandlerProtocols(t *testing.T) {
	t.Run("HTTP/1.0", func(t *testing.T) {
		rig := newHookRig(t, &mw.Handler{}).serve()
		conn := rig.dial(hookRaw("1.0", hookBody("a"), len(hookBody("a"))))
		require.Equal(t, 200, hookReadStatus(t, conn))
		require.Equal(t, []string{"a"}, rig.handled())
	})
	t.Run("HTTP/2", func(t *testing.T) {
		rig := newHookRig(t, &mw.Handler{MaxBodyBytes: 200_000}).serve(func(srv *httptest.Server) { srv.EnableHTTP2 = true })
		got := rig.post(hookBody("a"))
		require.Equal(t, 2, got.Proto)
		require.Equal(t, 200, got.Status)
		require.Equal(t, 200, rig.post(hookPadded("b", 200_000), hookChunked).Status)
		require.Equal(t, []string{"a", "b"}, rig.handled())
		require.Equal(t, 413, rig.post(hookPadded("b", 200_001), hookChunked).Status)
		require.Equal(t, 400, rig.post(hookBody("a"), hookForged).Status)
	})
	t.Run("a slow body over HTTP/2", func(t *testing.T) {
		rig := newHookRig(t, &mw.Handler{Timeout: 150 * time.Millisecond}).serve(func(srv *httptest.Server) { srv.EnableHTTP2 = true })
		body, w := io.Pipe()
		defer w.Close()
		go func() { _, _ = w.Write(hookBody("a")) }()
		got, err := rig.try(hookBody("a"), func(r *http.Request) { r.Body, r.ContentLength = body, -1 })
		require.NoError(t, err)
		require.Equal(t, 503, got.Status)
	})
}

func TestReport(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{Dedup: mw.NewMemoryDeduplicator(0, 0), OnEvent: func(_ context.Context, ev mw.Event) error {
		switch hookID(ev) {
		case "fails":
			return errHook
		case "drops":
			return mw.Permanent(errHook)
		}
		return nil
	}}).serve()
	check := func(want mw.Report) {
		t.Helper()
		if diff := cmp.Diff(want, rig.last(), cmpopts.IgnoreFields(mw.Report{}, "Duration", "Err")); diff != "" {
			t.Errorf("report (-want +got):\n%s", diff)
		}
		require.Positive(t, rig.last().Duration)
	}
	require.Equal(t, 200, rig.post(hookBody("before")).Status)
	check(mw.Report{Status: 200, Format: mw.FormatJSON, BodyBytes: len(hookBody("before")), Events: 1, Handled: 1})
	body := hookEnvelope(hookEvent("before"), hookEvent("fails"), hookEvent("drops"), hookEvent("new"), `{"event":"x"}`)
	require.Equal(t, 500, rig.post(body).Status)
	check(mw.Report{Status: 500, Format: mw.FormatJSON, BodyBytes: len(body), Events: 5, Handled: 2, Duplicates: 1, Dropped: 1,
		Failed: 1, Unknown: 1})
	require.ErrorIs(t, rig.last().Err, errHook)
	require.Equal(t, 400, rig.post(body, hookForged).Status)
	require.Zero(t, rig.last().Events)
	require.ErrorIs(t, rig.last().Err, mw.ErrInvalidSignature)
	require.Equal(t, 405, rig.post(nil, hookMethod("GET")).Status)
	check(mw.Report{Status: 405})
	require.Equal(t, 422, rig.post(hookBroken()).Status)
	require.Zero(t, rig.last().Handled)
	var fault *mw.DecodeError
	require.ErrorAs(t, rig.last().Err, &fault)
}

func TestObservePanics(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{Observe: func(context.Context, mw.Report) { panic("of Observe") }}).serve()
	require.Equal(t, 200, rig.post(hookBody("a")).Status)
	require.Equal(t, 400, rig.post(hookBody("a"), hookForged).Status)
	require.Contains(t, rig.said.String(), "of Observe")
	require.NotContains(t, rig.said.String(), "http: panic")
}

func TestHandlerSecrets(t *testing.T) {
	var got []int
	rig := newHookRig(t, &mw.Handler{Verifier: hookVerifier(t, "one", hookSecret, "three"),
		OnDelivery: func(_ context.Context, d *mw.Delivery) error { got = append(got, d.Secret); return nil }}).serve()
	for _, secret := range []string{"three", "one", hookSecret} {
		require.Equal(t, 200, rig.post(hookBody("a"), hookHeader(mw.SignatureHeader, mw.Sign(hookBody("a"), secret))).Status)
	}
	require.Equal(t, 200, rig.post(hookBody("a"),
		hookHeader(mw.SignatureHeader, strings.ToUpper(mw.Sign(hookBody("a"), "three")))).Status)
	require.Equal(t, []int{2, 0, 1, 2}, got)
	require.NoError(t, rig.h.Verifier.SetSecrets("four"))
	require.Equal(t, 400, rig.post(hookBody("a")).Status, "the secret was taken away")
}

// Where tenants share a store, an empty scope would make their keys the same.
func TestEmptyScopeIsRefused(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{
		VerifierFor: func(*http.Request) (*mw.Verifier, error) { return hookVerifier(t, hookSecret), nil },
		Dedup:       mw.NewMemoryDeduplicator(0, 0),
		Scope:       func(*http.Request) string { return "" },
	})
	require.Equal(t, 500, rig.direct(hookBody("a")).Status)
	require.Empty(t, rig.handled())
	require.Equal(t, 1, rig.said.count("Scope"))
}

// The answer does not wait for a body that is not wanted, even if the time was over before.
func TestHandlerAnswersAfterSlowGuards(t *testing.T) {
	for name, serverTimeout := range map[string]time.Duration{"no ReadTimeout": 0, "a long ReadTimeout": time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newHookRig(t, &mw.Handler{Timeout: 50 * time.Millisecond, Guards: []mw.Guard{func(*http.Request) error {
				time.Sleep(100 * time.Millisecond)
				return errHook
			}}}).serve(func(s *httptest.Server) { s.Config.ReadTimeout = serverTimeout })
			conn := rig.dial(hookRaw("1.1", hookBody("a"), 2000))
			require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
			require.Equal(t, 403, hookReadStatus(t, conn))
		})
	}
}

type idleBody struct{}

func (idleBody) Read([]byte) (int, error) { return 0, nil }
func (idleBody) Close() error             { return nil }

func TestBodyThatNeverComes(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{})
	require.Equal(t, 400, rig.direct(nil, func(r *http.Request) { r.Body, r.ContentLength = idleBody{}, -1 }).Status)
	require.ErrorIs(t, rig.last().Err, io.ErrNoProgress)
}
