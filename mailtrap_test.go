package mailtrapwebhook_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// This file simulates Mailtrap, a receiver, and the network between them. It
// runs in a synctest bubble, so days of retries pass in milliseconds.

var errStore = errors.New("boom-of-the-store")

// A traffic says what Mailtrap sends and when.
type traffic struct {
	retries int
	wait    func(retry int) time.Duration // before each retry; the first is 0
	every   time.Duration                 // between the first attempts of two batches
	event   func(name string, sent time.Time, attempt int) string
}

var (
	// Mailtrap collects a batch every 30 seconds. It repeats a failed batch
	// every 5 minutes, 40 times, and then pauses the webhook.
	sendingTraffic = traffic{40, always(5 * time.Minute), 30 * time.Second, sendingJSON}

	// A burst has every batch arrive at once.
	burstTraffic = traffic{40, always(5 * time.Minute), 0, sendingJSON}

	// Mailtrap repeats inbound mail 10 times over 24 hours, with back-off.
	inboundTraffic = traffic{10, backOff, 0, inboundJSON}
)

func always(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }

func backOff(retry int) time.Duration { return 24 * time.Hour / (1<<10 - 1) << retry }

func sendingJSON(name string, sent time.Time, _ int) string {
	return fmt.Sprintf(`{"event":"delivery","message_id":"m-%s","event_id":%q,"email":"recipient@example.com","timestamp":%d}`,
		name, name, sent.Unix())
}

// inboundJSON has another event_id in each attempt, as Mailtrap has.
func inboundJSON(name string, sent time.Time, attempt int) string {
	return fmt.Sprintf(`{"event":"inbound.message_received","inbox_id":1,"message_id":%q,"event_id":"%d-%s","timestamp":%d}`,
		name, attempt, name, sent.UnixMilli())
}

const (
	// mailtrapPatience is how long Mailtrap waits for an answer.
	mailtrapPatience = 30 * time.Second

	oldSecret = "old-" + testSecret
	newSecret = "new-" + testSecret

	// forever is longer than any simulation.
	forever = 90 * 24 * time.Hour
)

// A scenario is what happens to a receiver. A zero field means that nothing
// out of the ordinary happens there.
type scenario struct {
	traffic   traffic                                                  // zero: sendingTraffic
	events    int                                                      // in a batch; 0: 20
	secret    func(w *world, batch int) string                         // nil: oldSecret
	network   func(w *world, attempt int, r *http.Request) (lost bool) // may alter r
	handler   func(h *mw.Handler)                                      // sets its fields
	callback  func(w *world, p *process, batch, event int) error       // the outcome of OnEvent
	store     func(w *world, p *process, d mw.Deduplicator) mw.Deduplicator
	meanwhile func(w *world)       // runs beside the deliveries
	poisoned  func(event int) bool // which events must be dropped
	attempts  int                  // the most a batch may need; 0: all
	times     int                  // how often an event may be handled; 0: once
	soon      time.Duration        // the longest an event may wait, but the first; 0: any
}

// A world is Mailtrap, a receiver, and the network between them.
type world struct {
	scenario
	ledger
	began    time.Time
	verifier *mw.Verifier
	memory   mw.Deduplicator // outlives every process
	said     recordedLog
	process  *process // serves now; guarded by ledger.mu
}

// A process is one run of the receiver.
type process struct {
	number int // from 0
	h      *mw.Handler
	dead   atomic.Bool
}

// simulate has Mailtrap send a number of batches. It returns when each batch
// is acknowledged or given up.
func (s scenario) simulate(t *testing.T, batches int) (w *world) {
	if s.traffic.wait == nil {
		s.traffic = sendingTraffic
	}
	s.events, s.times = max(s.events, 0), max(s.times, 1)
	if s.events == 0 {
		s.events = 20
	}
	bubble(t, func(t *testing.T) {
		w = &world{scenario: s, ledger: newLedger(), began: time.Now(),
			verifier: testVerifier(t, oldSecret), memory: newStore()}
		w.restart()
		var all sync.WaitGroup
		if s.meanwhile != nil {
			all.Go(func() { s.meanwhile(w) })
		}
		for batch := range batches {
			all.Go(func() { w.deliver(batch) })
		}
		all.Wait()
		time.Sleep(time.Hour) // every abandoned callback but a stuck one returns
		synctest.Wait()
		w.judge(batches)
		time.Sleep(forever) // a bubble must not end before its goroutines
	})
	return w
}

// restart kills the process and starts another one. Nothing more is heard of
// the dead one.
func (w *world) restart() {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := new(process)
	if w.process != nil {
		w.process.dead.Store(true)
		p.number = w.process.number + 1
	}
	store := w.memory
	if w.store != nil {
		store = w.store(w, p, store)
	}
	p.h = &mw.Handler{
		Verifier: w.verifier,
		Dedup:    processStore{store, w, p},
		Logger:   w.said.logger(),
		OnEvent:  func(_ context.Context, ev mw.Event) error { return w.onEvent(p, ev) },
		Observe:  func(_ context.Context, r mw.Report) { w.observe(p, r) },
	}
	if w.handler != nil {
		w.handler(p.h)
	}
	w.process = p
}

func (w *world) current() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.process
}

// A processStore is the store as one process sees it. A dead process changes
// nothing in it.
type processStore struct {
	mw.Deduplicator
	w *world
	p *process
}

func (s processStore) Commit(ctx context.Context, keys []string) error {
	if s.p.dead.Load() {
		return errStore
	}
	err := s.Deduplicator.Commit(ctx, keys)
	if err == nil && ctx.Err() == nil { // else the Handler cannot know that it worked
		s.w.commit(keys)
	}
	return err
}

func (s processStore) Release(ctx context.Context, keys []string) error {
	if s.p.dead.Load() {
		return errStore
	}
	return s.Deduplicator.Release(ctx, keys)
}

func eventName(batch, event int) string { return fmt.Sprintf("%d-%d", batch, event) }

// parseName returns the name that eventName gave an event, and its parts.
func parseName(ev mw.Event) (name string, batch, event int) {
	switch ev := ev.(type) {
	case *mw.SendingWebhookEvent:
		name = ev.EventID
	case *mw.InboundWebhookEvent:
		name = ev.MessageID
	}
	first, second, _ := strings.Cut(name, "-")
	batch, _ = strconv.Atoi(first)
	event, _ = strconv.Atoi(second)
	return name, batch, event
}

func (w *world) onEvent(p *process, ev mw.Event) error {
	name, batch, event := parseName(ev)
	running := fmt.Sprint(p.number, " ", name)
	ok := false
	w.begin(running, name)
	defer func() { // also where the callback panics or ends its goroutine
		if ok = ok && !p.dead.Load(); ok {
			w.succeed(name, ev.Key(), time.Since(w.firstAttempt(batch)))
		}
		w.end(running)
	}()
	if w.callback != nil {
		if err := w.callback(w, p, batch, event); err != nil {
			return err
		}
	}
	ok = true
	return nil
}

func (w *world) observe(p *process, r mw.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !p.dead.Load() {
		w.dropped += r.Dropped
	}
}

func (w *world) elapsed() time.Duration { return time.Since(w.began) }

func (w *world) firstAttempt(batch int) time.Time {
	return w.began.Add(time.Duration(batch) * w.traffic.every)
}

// deliver sends a batch until it is acknowledged.
func (w *world) deliver(batch int) {
	sent := w.firstAttempt(batch)
	time.Sleep(time.Until(sent))
	for attempt := 1; attempt <= 1+w.traffic.retries; attempt++ {
		began := time.Now()
		if w.attempt(batch, attempt, sent) == http.StatusOK {
			if w.attempts > 0 && attempt > w.attempts {
				w.violate("batch %d is acknowledged late, at attempt %d", batch, attempt)
			}
			return
		}
		time.Sleep(time.Until(began.Add(w.traffic.wait(attempt - 1))))
	}
	w.violate("the webhook is paused because of batch %d", batch)
}

// attempt sends a batch once. It returns the status that Mailtrap sees, 0 if
// it sees none.
func (w *world) attempt(batch, attempt int, sent time.Time) int {
	events := make([]string, w.events)
	for i := range events {
		events[i] = w.traffic.event(eventName(batch, i), sent, attempt)
	}
	secret := oldSecret
	if w.secret != nil {
		secret = w.secret(w, batch)
	}
	r := webhooktest.NewRequest("/hook", secret, envelopeOf(events...))
	lost := w.network != nil && w.network(w, attempt, r)
	began := time.Now()
	status := w.serve(r)
	w.count(fmt.Sprint("answer ", status))
	if took := time.Since(began); status != 0 && took > mailtrapPatience {
		w.violate("batch %d is answered after %v", batch, took)
		return 0
	}
	if lost {
		return 0
	}
	return status
}

// serve returns the status that the receiver answers, 0 if the process dies or
// the client hangs up before it.
func (w *world) serve(r *http.Request) int {
	p := w.current()
	answer := recorder{httptest.NewRecorder()}
	p.h.ServeHTTP(answer, r)
	if p.dead.Load() || r.Context().Err() != nil {
		return 0
	}
	return answer.Code
}

// judge checks, when all is over, what became of every event.
func (w *world) judge(batches int) {
	poisoned := 0
	for batch := range batches {
		for event := range w.events {
			isPoisoned := w.poisoned != nil && w.poisoned(event)
			if isPoisoned {
				poisoned++
			}
			w.judgeEvent(eventName(batch, event), event, isPoisoned)
		}
	}
	if w.dropped != poisoned {
		w.violate("%d events are reported as dropped, want %d", w.dropped, poisoned)
	}
	if n := w.said.count(droppedLine); n != poisoned {
		w.violate("%d events are logged as dropped, want %d", n, poisoned)
	}
	if budget := w.current().h.MaxInFlightBytes; budget > 0 && !w.hasRoom(int(budget)) {
		w.violate("the in-flight budget is not given back")
	}
}

func (w *world) judgeEvent(name string, event int, isPoisoned bool) {
	switch n := w.handled[name]; {
	case isPoisoned:
		if n > 0 {
			w.violate("event %s fails for good and is handled", name)
		}
	case n == 0:
		w.violate("event %s is lost", name)
	case n > w.times:
		w.violate("event %s is handled %d times", name, n)
	case w.soon > 0 && event > 0 && w.after[name] > w.soon:
		w.violate("event %s is handled only after %v", name, w.after[name])
	}
}

// hasRoom reports whether a body of n bytes gets past the in-flight budget. A
// faulty store answers 503 too, now and then.
func (w *world) hasRoom(n int) bool {
	for i := range 10 {
		body := padded(fmt.Sprint("last-", i), n)
		if w.serve(webhooktest.NewRequest("/hook", oldSecret, body)) != http.StatusServiceUnavailable {
			return true
		}
	}
	return false
}

// A ledger records what became of each event, and which rules were broken.
type ledger struct {
	mu         sync.Mutex
	running    map[string]int // calls that have not returned
	handled    map[string]int // calls that succeeded
	after      map[string]time.Duration
	committed  map[string]bool // keys
	faults     map[string]int
	dropped    int
	violations []string
}

func newLedger() ledger {
	return ledger{running: make(map[string]int), handled: make(map[string]int), after: make(map[string]time.Duration),
		committed: make(map[string]bool), faults: make(map[string]int)}
}

func (l *ledger) violate(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.violations = append(l.violations, fmt.Sprintf(format, args...))
}

// count notes that a fault happened, so that a test can tell a load from none.
func (l *ledger) count(fault string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults[fault]++
}

func (l *ledger) begin(running, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running[running]++; l.running[running] > 1 {
		l.violations = append(l.violations, fmt.Sprintf("event %s is handled by two deliveries at once", name))
	}
}

func (l *ledger) end(running string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running[running]--
}

func (l *ledger) succeed(name, key string, after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handled[name]++
	l.after[name] = after
	if l.committed[key] {
		l.violations = append(l.violations, fmt.Sprintf("event %s is handled again after its commit", name))
	}
}

func (l *ledger) commit(keys []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		l.committed[key] = true
	}
}
