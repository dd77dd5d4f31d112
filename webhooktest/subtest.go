package webhooktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A receiverTest is one call of [TestReceiver].
type receiverTest struct {
	Receiver
	limits
	kinds    []string                 // that the receiver handles
	format   mailtrapwebhook.Format   // of the deliveries
	formats  []mailtrapwebhook.Format // that the receiver reads
	stuck    atomic.Bool              // whether the receiver gave no answer in time
	hopeless bool                     // whether every subtest fails for the same cause
	outcomes []outcome
}

// An outcome is what a subtest found about an event.
type outcome struct {
	subtest string
	event   mailtrapwebhook.Event
	most    int    // how often its effect may come about
	advice  string // if it comes about more often
}

// checkAgain finds effects that came after their subtest had passed.
func (run *receiverTest) checkAgain(t *testing.T) {
	t.Helper()
	// The workers of a queue may overtake one another, so that the delivery
	// behind a forged one has its effect first.
	time.Sleep(50 * time.Millisecond)
	told := ""
	for _, o := range run.outcomes {
		if told != o.subtest && run.Count(o.event) > o.most {
			told = o.subtest // once is enough
			t.Errorf("after the subtest %s had passed, %s", o.subtest, o.advice)
		}
	}
}

// A subtest is one of the things that a receiver is tested for.
type subtest struct {
	*testing.T
	*receiverTest
	now      time.Time // of all events, so that none is older than another
	server   *httptest.Server
	midway   atomic.Pointer[func() error] // see onBody
	ended    atomic.Int32                 // requests
	panicked atomic.Pointer[string]       // what the Handler panicked with first
	expected []outcome                    // that check is to look at
}

func (run *receiverTest) newSubtest(t *testing.T) *subtest {
	s := &subtest{T: t, receiverTest: run, now: time.Now().Truncate(time.Second)}
	s.server = httptest.NewServer(s)
	t.Cleanup(func() {
		closed := make(chan bool)
		go func() {
			s.server.Close() // which waits for the Handler
			close(closed)
		}()
		select {
		case <-closed:
		case <-time.After(s.effect): // a Handler may never return
		}
		if p := s.panicked.Load(); p != nil {
			t.Errorf("the Handler panicked, so that Mailtrap gets no answer: see the stack: %s", *p)
		}
	})
	return s
}

// ServeHTTP passes a request on to the receiver.
func (t *subtest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer t.ended.Add(1)
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p != http.ErrAbortHandler { // which is how a handler hangs up
			text := fmt.Sprintf("%v\n%s", p, debug.Stack())
			t.panicked.CompareAndSwap(nil, &text)
		}
		panic(http.ErrAbortHandler)
	}()
	r.RemoteAddr = mailtrapAddr // an IPAllowlist refuses the real one
	if midway := t.midway.Load(); midway != nil {
		body, _ := io.ReadAll(r.Body)
		half := len(body) / 2
		r.Body = io.NopCloser(&stagedBody{head: body[:half], tail: body[half:], between: *midway})
	}
	t.Handler.ServeHTTP(w, r)
}

// onBody lets each request call midway when the receiver has read half the body.
// An error breaks the body off. If midway is nil, bodies are whole again.
func (t *subtest) onBody(midway func() error) {
	if midway == nil {
		t.midway.Store(nil)
		return
	}
	t.midway.Store(&midway)
}

// A proxy stands between Mailtrap and the receiver.
type proxy struct {
	http.RoundTripper
	header func(http.Header)    // changes a request; nil changes nothing
	status func(status int) int // changes an answer
}

func (p proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.header != nil {
		r = r.Clone(r.Context()) // a RoundTripper must not change its request
		p.header(r.Header)
	}
	answer, err := p.RoundTripper.RoundTrip(r)
	if err == nil {
		answer.StatusCode = p.status(answer.StatusCode)
	}
	return answer, err
}

// lenient makes every 2xx a 200: one subtest is about that difference, and no
// other must fail for it.
func lenient(status int) int {
	if status/100 == 2 {
		return http.StatusOK
	}
	return status
}

// mailtrap returns a Mailtrap that plays no fault.
func (t *subtest) mailtrap() *Mailtrap {
	return &Mailtrap{
		URL:       t.server.URL,
		Secret:    t.Secret,
		Client:    t.client(nil, lenient),
		Interval:  10 * time.Millisecond, // long enough for another copy to be handled
		TimeLimit: t.answer,
	}
}

func (t *subtest) client(header func(http.Header), status func(int) int) *http.Client {
	return &http.Client{Transport: proxy{t.server.Client().Transport, header, status}}
}

// deliver has m deliver the events. It ends the subtest if the Handler panics or
// does not answer.
func (t *subtest) deliver(m *Mailtrap, events ...mailtrapwebhook.Event) Result {
	t.Helper()
	return t.post(m, Body(t.format, events...))
}

func (t *subtest) post(m *Mailtrap, body []byte) Result {
	t.Helper()
	return t.answered(t.send(m, body))
}

// send has m deliver the body. Several goroutines may call it.
func (t *subtest) send(m *Mailtrap, body []byte) (Result, error) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	onAttempt := m.OnAttempt
	m.OnAttempt = func(a Attempt) {
		if onAttempt != nil {
			onAttempt(a)
		}
		if errors.Is(a.Err, context.DeadlineExceeded) {
			t.stuck.Store(true)
			cancel() // each retry would take as long
		}
	}
	return m.Deliver(ctx, body)
}

// answered returns the result of send. It ends the subtest if there was no
// answer.
func (t *subtest) answered(result Result, err error) Result {
	t.Helper()
	switch {
	case t.panicked.Load() != nil:
		t.FailNow() // the cleanup says why
	case t.stuck.Load():
		t.Fatalf("the Handler gave no answer within %v: store or enqueue the events, answer 200,"+
			" and do the work afterwards", t.answer)
	case err != nil:
		t.Fatal(err)
	}
	return result
}

// mustDeliver delivers the events and ends the subtest if they are not
// acknowledged. what names the delivery.
func (t *subtest) mustDeliver(m *Mailtrap, what string, events ...mailtrapwebhook.Event) {
	t.Helper()
	t.mustAcknowledge(what, t.deliver(m, events...))
}

// mustAcknowledge ends the subtest if a delivery was not acknowledged.
func (t *subtest) mustAcknowledge(what string, result Result) {
	t.Helper()
	if err := result.err(handlerAdvice); err != nil {
		t.Fatalf("for %s, %s", what, strings.TrimPrefix(err.Error(), "webhooktest: "))
	}
}

// awaitEnded waits until the receiver has ended n requests.
func (t *subtest) awaitEnded(n int32) {
	for deadline := time.Now().Add(t.effect); t.ended.Load() < n && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// handlerAdvice is advice for a Handler, which TestReceiver gives its URL.
func handlerAdvice(status int) string {
	const path = `wrap the Handler in one that sets r.URL.Path to your webhook's path, because TestReceiver requests "/"`
	switch {
	case status == 0:
		return "let the Handler write a status and return"
	case status == http.StatusUnauthorized:
		return "wrap the Handler in one that adds the password with r.SetBasicAuth, or the token to r.URL.RawQuery"
	case status == http.StatusMethodNotAllowed:
		return "accept POST. If the path is not yours, " + path
	case status == http.StatusNotFound || status/100 == 3:
		return path
	}
	return advice(status)
}

// answer says how a delivery was answered that was not acknowledged.
func answer(result Result) string {
	if failed := result.failed(); failed.Err == nil {
		return fmt.Sprintf("was answered %d", failed.Status)
	}
	return "got no answer"
}

// fresh returns new events of a kind that the receiver handles. It is always
// the same kind: a receiver that loses another one fails "every kind" only.
func (t *subtest) fresh(n int) []mailtrapwebhook.Event {
	events := make([]mailtrapwebhook.Event, n)
	for i := range events {
		events[i] = t.sample(t.kinds[0])
	}
	return events
}

// sample returns a new event of the kind.
func (t *subtest) sample(kind string) mailtrapwebhook.Event { return sampleAt(kind, t.now) }

// await waits until each event has had its effect. It returns those that have
// none.
func (t *subtest) await(events []mailtrapwebhook.Event) []mailtrapwebhook.Event {
	return t.awaitFor(t.effect, events)
}

func (t *subtest) awaitFor(limit time.Duration, events []mailtrapwebhook.Event) []mailtrapwebhook.Event {
	missing := slices.Clone(events)
	deadline := time.Now().Add(limit)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		missing = slices.DeleteFunc(missing, func(ev mailtrapwebhook.Event) bool { return t.Count(ev) > 0 })
		if len(missing) == 0 || time.Now().After(deadline) {
			return missing
		}
		time.Sleep(pause)
	}
}

// wantOnce checks that each event has its effect, and has it once. lost and
// repeated say what is wrong otherwise, and what to change.
func (t *subtest) wantOnce(lost, repeated string, events ...mailtrapwebhook.Event) {
	t.Helper()
	t.wantHandled(lost, events)
	t.wantAtMost(1, repeated, events)
}

// wantHandled checks that each event has its effect.
func (t *subtest) wantHandled(lost string, events []mailtrapwebhook.Event) {
	t.Helper()
	if missing := t.await(events); len(missing) > 0 {
		t.Fatalf("%d of %d events had no effect within %v: %s (the first has the key %s)",
			len(missing), len(events), t.effect, lost, missing[0].Key())
	}
}

// wantNone checks that no event has its effect.
func (t *subtest) wantNone(advice string, events ...mailtrapwebhook.Event) {
	t.Helper()
	t.expectNone(advice, events...)
	t.check()
}

// wantAtMost checks that no event has its effect more often than that.
func (t *subtest) wantAtMost(most int, advice string, events []mailtrapwebhook.Event) {
	t.Helper()
	t.expect(most, advice, events)
	t.check()
}

// expectNone lets the next check be about these events, too: none may have its
// effect.
func (t *subtest) expectNone(advice string, events ...mailtrapwebhook.Event) {
	t.expect(0, advice, events)
}

func (t *subtest) expect(most int, advice string, events []mailtrapwebhook.Event) {
	for _, ev := range events {
		t.expected = append(t.expected, outcome{t.Name(), ev, most, advice})
	}
}

// check checks what was expected. It takes as long as an effect of the receiver.
func (t *subtest) check() {
	t.Helper()
	// No time is long enough to wait for what must not come. A queue works in
	// order: it has handled the events when it has handled the next one.
	next := t.fresh(1)
	t.mustDeliver(t.mailtrap(), "the next delivery", next...)
	if len(t.await(next)) > 0 {
		t.Fatalf("the next delivery had no effect within %v: handle every delivery,"+
			" whatever came before it", t.effect)
	}
	for _, o := range t.expected {
		if t.Count(o.event) > o.most {
			t.Fatal(o.advice)
		}
	}
	t.outcomes = append(t.outcomes, t.expected...)
	t.expected = nil
}
