package mailtrapwebhook_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// losing loses the answers to the first attempts of every batch.
func losing(attempts int) func(*world, int, *http.Request) bool {
	return func(_ *world, attempt int, _ *http.Request) bool { return attempt <= attempts }
}

var (
	// Mailtrap: 40 times, once every 5 minutes; then the webhook is paused.
	sendingSchedule = retrySchedule{40, func(int) time.Duration { return 5 * time.Minute }}

	// Mailtrap: 10 times, backing off, over 24 hours.
	inboundSchedule = retrySchedule{10, func(retry int) time.Duration { return 24 * time.Hour / (1<<10 - 1) << retry }}
)

// mailtrapPatience is how long Mailtrap waits for an answer.
const mailtrapPatience = 30 * time.Second

const retryOldSecret, retryNewSecret = "old-" + hookSecret, "new-" + hookSecret

// A retryScenario is something that happens to a receiver. What is zero is as usual: each callback succeeds at once, the
// store works, and so on.
type retryScenario struct {
	handler   func(h *mw.Handler)                                     // sets its fields
	schedule  retrySchedule                                           // zero: sendingSchedule
	events    int                                                     // of a batch; 0: 20
	together  bool                                                    // all batches are sent at once, not one every 30 seconds
	callback  func(w *retryWorld, p *process, batch, event int) error // outcome of OnEvent
	store     func(w *retryWorld, p *process, d mw.Deduplicator) mw.Deduplicator
	retention time.Duration                                         // of the store
	text      func(name string, sent time.Time, attempt int) string // nil: retryEvent
	secret    func(w *retryWorld, batch int) string                 // nil: the old one
	meanwhile func(w *retryWorld)                                   // runs beside the deliveries
	lost      func(attempt int) bool                                // whether the answer to an attempt is lost
	poisoned  func(event int) bool                                  // events that are to be dropped
	attempts  int                                                   // after which each batch is acknowledged; 0: those of the schedule
	times     int                                                   // each event is handled at most; 0: once
	soon      time.Duration                                         // if not 0, each event but the first is handled so soon
}

// A retryWorld is Mailtrap, a receiver, and what passes between them, on a clock of its own.
type retryWorld struct {
	retryScenario
	began    time.Time
	verifier *mw.Verifier
	memory   *mw.MemoryDeduplicator // outlives each process
	said     hookSaid

	mu         sync.Mutex
	process    *process // that serves now
	handled    map[string]int
	after      map[string]time.Duration // from its batch's first attempt until an event was handled
	dropped    int
	violations []string
}

// A process is a run of the receiver.
type process struct {
	number int // from 0
	h      *mw.Handler
	dead   atomic.Bool
}

func retryName(batch, event int) string { return fmt.Sprintf("%d-%d", batch, event) }

func retryEvent(name string, sent time.Time, _ int) string {
	return fmt.Sprintf(`{"event":"delivery","message_id":"m-%s","event_id":%q,"email":"recipient@example.com","timestamp":%d}`,
		name, name, sent.Unix())
}

// inboundEvent has another event_id in each attempt.
func inboundEvent(name string, sent time.Time, attempt int) string {
	return fmt.Sprintf(`{"event":"inbound.message_received","inbox_id":1,"message_id":%q,"event_id":"%d-%s","timestamp":%d}`,
		name, attempt, name, sent.UnixMilli())
}

// simulate has Mailtrap send a number of batches until they are acknowledged or the webhook is paused, and returns what
// went wrong.
func (s retryScenario) simulate(t *testing.T, batches int) (violations []string) {
	if s.schedule.wait == nil {
		s.schedule = sendingSchedule
	}
	if s.events == 0 {
		s.events = 20
	}
	if s.text == nil {
		s.text = retryEvent
	}
	if s.times == 0 {
		s.times = 1
	}
	synctest.Test(t, func(t *testing.T) {
		w := &retryWorld{
			retryScenario: s, began: time.Now(), verifier: hookVerifier(t, retryOldSecret),
			memory:  &mw.MemoryDeduplicator{Retention: s.retention},
			handled: make(map[string]int), after: make(map[string]time.Duration),
		}
		w.restart()
		var all sync.WaitGroup
		if s.meanwhile != nil {
			all.Go(func() { s.meanwhile(w) })
		}
		for batch := range batches {
			all.Go(func() { w.deliver(batch) })
		}
		all.Wait()
		time.Sleep(time.Hour) // for callbacks that were abandoned
		synctest.Wait()
		violations = w.judge(batches)
	})
	return violations
}

// restart kills the process, of which nothing more is heard, and begins another one.
func (w *retryWorld) restart() {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := new(process)
	if w.process != nil {
		w.process.dead.Store(true)
		p.number = w.process.number + 1
	}
	p.h = &mw.Handler{
		Verifier: w.verifier,
		Logger:   w.said.logger(),
		OnEvent:  func(_ context.Context, ev mw.Event) error { return w.onEvent(p, ev) },
		Observe:  func(_ context.Context, r mw.Report) { w.observe(p, r) },
	}
	store := mw.Deduplicator(w.memory)
	if w.store != nil {
		store = w.store(w, p, store)
	}
	p.h.Dedup = mortalStore{store, p}
	if w.handler != nil {
		w.handler(p.h)
	}
	w.process = p
}

// A mortalStore is a store as a process sees it that may die: what it asks after that is not heard.
type mortalStore struct {
	mw.Deduplicator
	p *process
}

func (s mortalStore) Commit(ctx context.Context, keys []string) error {
	if s.p.dead.Load() {
		return errStore
	}
	return s.Deduplicator.Commit(ctx, keys)
}

func (s mortalStore) Release(ctx context.Context, keys []string) error {
	if s.p.dead.Load() {
		return errStore
	}
	return s.Deduplicator.Release(ctx, keys)
}

func (w *retryWorld) onEvent(p *process, ev mw.Event) error {
	var name string
	switch ev := ev.(type) {
	case *mw.SendingWebhookEvent:
		name = ev.EventID
	case *mw.InboundWebhookEvent:
		name = ev.MessageID
	}
	first, second, _ := strings.Cut(name, "-")
	batch, _ := strconv.Atoi(first)
	event, _ := strconv.Atoi(second)
	if w.callback != nil {
		if err := w.callback(w, p, batch, event); err != nil {
			return err
		}
	}
	if p.dead.Load() {
		return errHook
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handled[name]++
	w.after[name] = time.Since(w.firstAttempt(batch))
	return nil
}

func (w *retryWorld) observe(p *process, r mw.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !p.dead.Load() {
		w.dropped += r.Dropped
	}
}

func (w *retryWorld) elapsed() time.Duration { return time.Since(w.began) }

// firstAttempt is when a batch is sent first: Mailtrap collects one every 30 seconds.
func (w *retryWorld) firstAttempt(batch int) time.Time {
	if w.together {
		return w.began
	}
	return w.began.Add(time.Duration(batch) * 30 * time.Second)
}

func (w *retryWorld) violate(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violations = append(w.violations, fmt.Sprintf(format, args...))
}

// deliver is what Mailtrap does with a batch.
func (w *retryWorld) deliver(batch int) {
	sent := w.firstAttempt(batch)
	time.Sleep(time.Until(sent))
	last := 1 + w.schedule.retries
	for attempt := 1; attempt <= last; attempt++ {
		began := time.Now()
		if w.post(batch, attempt, sent) == http.StatusOK {
			if w.attempts > 0 && attempt > w.attempts {
				w.violate("batch %d is acknowledged late, at attempt %d", batch, attempt)
			}
			return
		}
		time.Sleep(time.Until(began.Add(w.schedule.wait(attempt - 1))))
	}
	w.violate("the webhook is paused because of batch %d", batch)
}

// post makes one attempt and returns the status, or 0 if no answer comes.
func (w *retryWorld) post(batch, attempt int, sent time.Time) int {
	events := make([]string, w.events)
	for i := range events {
		events[i] = w.text(retryName(batch, i), sent, attempt)
	}
	body := hookEnvelope(events...)
	secret := retryOldSecret
	if w.secret != nil {
		secret = w.secret(w, batch)
	}
	r := httptest.NewRequest(http.MethodPost, "/hook", bytes.NewReader(body))
	r.Header.Set(mw.SignatureHeader, mw.Sign(body, secret))
	w.mu.Lock()
	p := w.process
	w.mu.Unlock()
	began := time.Now()
	answer := hookRecorder{httptest.NewRecorder()}
	p.h.ServeHTTP(answer, r)
	switch took := time.Since(began); {
	case p.dead.Load() || w.lost != nil && w.lost(attempt):
		return 0
	case took > mailtrapPatience:
		w.violate("batch %d is answered after %v", batch, took)
		return 0
	}
	return answer.Code
}

// judge returns what went wrong, when all is over.
func (w *retryWorld) judge(batches int) []string {
	poisoned := 0
	for batch := range batches {
		for event := range w.events {
			name := retryName(batch, event)
			n := w.handled[name]
			switch {
			case w.poisoned != nil && w.poisoned(event):
				poisoned++
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
	}
	if w.dropped != poisoned {
		w.violate("%d events are reported as dropped, want %d", w.dropped, poisoned)
	}
	if n := w.said.count(`"mailtrapwebhook: event dropped: `); n != poisoned {
		w.violate("%d events are logged as dropped, want %d", n, poisoned)
	}
	return w.violations
}

// Callbacks.

// outage has all callbacks fail for a time.
func outage(d time.Duration) func(*retryWorld, *process, int, int) error {
	return func(w *retryWorld, _ *process, _, _ int) error {
		if w.elapsed() < d {
			return errBoom
		}
		return nil
	}
}

func onEventOf(event int, f func() error) func(*world, *process, int, int) error {
	return func(_ *world, _ *process, _, given int) error {
		if given == event {
			return f()
		}
		return nil
	}
}

func isEvent(event int) func(int) bool { return func(given int) bool { return given == event } }

// A customStore is a store whose Reserve or Commit is replaced.
type customStore struct {
	mw.Deduplicator
	reserve func(context.Context, []string, time.Duration) ([]mw.Reservation, error)
	commit  func(context.Context, []string) error
}

func (s customStore) Reserve(ctx context.Context, keys []string, lease time.Duration) ([]mw.Reservation, error) {
	if s.reserve != nil {
		return s.reserve(ctx, keys, lease)
	}
	return s.Deduplicator.Reserve(ctx, keys, lease)
}

func (s customStore) Commit(ctx context.Context, keys []string) error {
	if s.commit != nil {
		return s.commit(ctx, keys)
	}
	return s.Deduplicator.Commit(ctx, keys)
}

// storeOutage makes Reserve fail for a time. If it hangs, Reserve fails when its
// context ends.
func storeOutage(d time.Duration, hangs bool) func(*world, *process, mw.Deduplicator) mw.Deduplicator {
	return func(w *world, _ *process, inner mw.Deduplicator) mw.Deduplicator {
		return customStore{Deduplicator: inner,
			reserve: func(ctx context.Context, keys []string, lease time.Duration) ([]mw.Reservation, error) {
				if w.elapsed() >= d {
					return inner.Reserve(ctx, keys, lease)
				}
				if hangs {
					<-ctx.Done()
				}
				return nil, errStore
			}}
	}
}

// leasing ignores the lease that the Handler asks for.
func leasing(d time.Duration) func(*world, *process, mw.Deduplicator) mw.Deduplicator {
	return func(_ *world, _ *process, inner mw.Deduplicator) mw.Deduplicator {
		return customStore{Deduplicator: inner,
			reserve: func(ctx context.Context, keys []string, _ time.Duration) ([]mw.Reservation, error) {
				return inner.Reserve(ctx, keys, d)
			}}
	}
}

// crashIn kills the first process.
func crashIn(d time.Duration) func(*world) {
	return func(w *world) {
		time.Sleep(d)
		w.restart()
	}
}

// slowCallback is slow in the first process only.
func slowCallback(d time.Duration) func(*world, *process, int, int) error {
	return func(_ *world, p *process, _, _ int) error {
		if p.number == 0 {
			time.Sleep(d)
		}
		return nil
	}
}

// resetSecret gives the receiver other secrets a minute before Mailtrap resets
// its own, which is after an hour. If forget is not 0, the receiver knows only
// the new one from then on.
func resetSecret(before []string, forget time.Duration) func(*world) {
	return func(w *world) {
		time.Sleep(59 * time.Minute)
		_ = w.verifier.SetSecrets(before...)
		if forget > 0 {
			time.Sleep(forget - w.elapsed())
			_ = w.verifier.SetSecrets(newSecret)
		}
	}
}

// signNew signs every attempt after the reset with the new secret.
func signNew(w *world, _ int) string {
	if w.elapsed() < time.Hour {
		return oldSecret
	}
	return newSecret
}

// signAsFirst signs each retry as its first attempt was signed.
func signAsFirst(w *world, batch int) string {
	if w.firstAttempt(batch).Sub(w.began) < time.Hour {
		return oldSecret
	}
	return newSecret
}

// signEither signs with either secret after the reset.
func signEither(w *world, batch int) string {
	if rand.IntN(2) == 0 {
		return oldSecret
	}
	return signNew(w, batch)
}

// Trouble that ends in time pauses no webhook and loses no event. No event is
// handled twice, unless a process dies between a callback and its mark.
func TestRetriesBringEverythingInTheEnd(t *testing.T) {
	const poison = 7
	panics := onEventOf(poison, func() error { panic("of the poison") })
	givingUp := func(h *mw.Handler) { h.GiveUpAfter = 3 * time.Hour }
	slow := func(takes time.Duration) func(*world, *process, int, int) error {
		return onEventOf(0, func() error { time.Sleep(takes); return nil })
	}
	both := []string{oldSecret, newSecret}
	halfOutage := func(d time.Duration) func(*world, *process, int, int) error {
		return func(w *world, p *process, batch, event int) error {
			if event%2 == 0 {
				return nil
			}
			return outage(d)(w, p, batch, event)
		}
	}
	tests := []struct {
		name string
		s    scenario
	}{
		{"nothing happens", scenario{attempts: 1}},
		{"an outage of 10 minutes", scenario{callback: outage(10 * time.Minute), attempts: 3}},
		{"an outage of 3 hours and 15 minutes", scenario{callback: outage(195 * time.Minute), attempts: 40}},
		{"an outage of 3 hours and 15 minutes for half of the events", scenario{callback: halfOutage(195 * time.Minute)}},
		{"an outage that ends before GiveUpAfter", scenario{callback: outage(175 * time.Minute), handler: givingUp}},
		{"answers are lost", scenario{network: losing(29), attempts: 30}},
		{"the secret is reset in an outage, and retries are signed with the new one",
			scenario{callback: outage(150 * time.Minute), secret: signNew, meanwhile: resetSecret(both, 4*time.Hour)}},
		{"the secret is reset in an outage, and retries are signed with the old one",
			scenario{callback: outage(150 * time.Minute), secret: signAsFirst, meanwhile: resetSecret(both, 4*time.Hour)}},
		{"the secret is reset in an outage, and retries are signed with either",
			scenario{callback: outage(150 * time.Minute), secret: signEither, meanwhile: resetSecret(both, 4*time.Hour)}},
		{"the secret is reset, and only the new one is known once all that is old has come",
			scenario{callback: outage(150 * time.Minute), secret: signNew, meanwhile: resetSecret(both, 61*time.Minute)}},
		{"an event fails for good",
			scenario{callback: onEventOf(poison, func() error { return mw.Permanent(errBoom) }), poisoned: isEvent(poison), attempts: 1}},
		{"an event fails for good in an outage",
			scenario{callback: func(w *world, p *process, batch, event int) error {
				if event == poison {
					return mw.Permanent(errBoom)
				}
				return outage(time.Hour)(w, p, batch, event)
			}, poisoned: isEvent(poison)}},
		{"an event always panics", scenario{callback: panics, handler: givingUp, poisoned: isEvent(poison), attempts: 38, soon: time.Second}},
		{"an event always overruns", scenario{handler: givingUp, poisoned: isEvent(0), attempts: 38,
			callback: onEventOf(0, func() error { time.Sleep(time.Minute); return errBoom })}},
		{"a slow event before 499 quick ones", scenario{events: 500, callback: slow(20 * time.Second), attempts: 2, soon: 6 * time.Second}},
		{"a slow event before 499 that take a little", scenario{events: 500, attempts: 2, soon: 25 * time.Second,
			callback: func(w *world, p *process, batch, event int) error {
				time.Sleep(10 * time.Millisecond)
				return slow(80*time.Second)(w, p, batch, event)
			}}},
		{"the store is down", scenario{store: storeOutage(2*time.Hour, false), attempts: 25}},
		{"the store hangs", scenario{store: storeOutage(2*time.Hour, true), attempts: 25}},
		{"a crash before the callbacks return", scenario{traffic: burstTraffic, attempts: 2,
			callback: slowCallback(time.Second), meanwhile: crashIn(time.Second / 2)}},
		{"a crash in the middle of the callbacks", scenario{traffic: burstTraffic, attempts: 2, times: 2,
			callback: slowCallback(time.Second), meanwhile: crashIn(5500 * time.Millisecond)}},
		{"a crash before the commit", scenario{traffic: burstTraffic, attempts: 2, times: 2, meanwhile: crashIn(time.Second),
			store: func(_ *world, p *process, inner mw.Deduplicator) mw.Deduplicator {
				return customStore{Deduplicator: inner, commit: func(ctx context.Context, keys []string) error {
					if p.number > 0 {
						return inner.Commit(ctx, keys)
					}
					<-ctx.Done()
					return ctx.Err()
				}}
			}}},
		{"an outage for half of the inbound messages",
			scenario{traffic: inboundTraffic, callback: halfOutage(23 * time.Hour)}},
		{"answers to inbound messages are lost",
			scenario{traffic: inboundTraffic, network: losing(10)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			batches := sized(60, 12)
			if test.s.events > 100 {
				batches = sized(12, 2)
			}
			require.Empty(t, test.s.simulate(t, batches).violations)
		})
	}
}

// The simulation reports a receiver that is wrong, and trouble that lasts too
// long.
func TestSimulationFindsWhatIsWrong(t *testing.T) {
	const poison = 7
	panics := onEventOf(poison, func() error { panic("of the poison") })
	wrong := func(wrap func(mw.Deduplicator) mw.Deduplicator) func(*world, *process, mw.Deduplicator) mw.Deduplicator {
		return func(_ *world, _ *process, d mw.Deduplicator) mw.Deduplicator { return wrap(d) }
	}
	forgetful := memoryStore(time.Hour, 0)
	stuck := func(_ *world, _ *process, batch, event int) error {
		if batch+event == 0 {
			time.Sleep(forever)
		}
		return nil
	}
	tests := []struct {
		name string
		s    scenario
		want string
	}{
		{"a store that reserves for several deliveries", scenario{events: 200, network: faultyNetwork, callback: faultyCallback,
			store: wrong(func(d mw.Deduplicator) mw.Deduplicator { return sharingStore{d} })}, "is handled by two deliveries at once"},
		{"a store that forgets on commit", scenario{callback: faultyCallback,
			store: wrong(func(d mw.Deduplicator) mw.Deduplicator { return forgettingStore{d} })}, "is handled again after its commit"},
		{"a store that cannot be reached",
			scenario{store: wrong(func(d mw.Deduplicator) mw.Deduplicator { return deadStore{d} })}, "is paused"},
		{"a callback that never returns", scenario{callback: stuck, handler: underFaults().handler}, "the in-flight budget is not given back"},
		{"an outage that is too long", scenario{callback: outage(205 * time.Minute)}, "is paused"},
		{"an event always panics, without GiveUpAfter", scenario{callback: panics}, "is paused"},
		{"an event always panics, and GiveUpAfter is too long",
			scenario{callback: panics, handler: func(h *mw.Handler) { h.GiveUpAfter = 4 * time.Hour }}, "is paused"},
		{"an outage that is longer than GiveUpAfter",
			scenario{callback: outage(195 * time.Minute), handler: func(h *mw.Handler) { h.GiveUpAfter = 3 * time.Hour }}, "is lost"},
		{"an event is dropped that should not be",
			scenario{callback: onEventOf(poison, func() error { return mw.Permanent(errBoom) })}, "are reported as dropped"},
		{"the secret is reset in an outage, and the old one forgotten at once",
			scenario{callback: outage(150 * time.Minute), secret: signAsFirst, meanwhile: resetSecret([]string{newSecret}, 0)}, "is paused"},
		{"the secret is reset, and the new one never known",
			scenario{callback: outage(150 * time.Minute), secret: signNew}, "is paused"},
		{"marks come before success",
			scenario{callback: outage(time.Hour), store: wrong(func(d mw.Deduplicator) mw.Deduplicator { return markingStore{d} })}, "is lost"},
		{"commits are forgotten", scenario{network: losing(2),
			store: wrong(func(d mw.Deduplicator) mw.Deduplicator { return forgettingStore{d} })}, "is handled 3 times"},
		{"no store", scenario{network: losing(2), handler: func(h *mw.Handler) { h.Dedup = noDedup }},
			"is handled 3 times"},
		{"a crash, and a lease that outlasts the retry", scenario{traffic: burstTraffic, attempts: 2,
			callback: slowCallback(time.Second), meanwhile: crashIn(time.Second / 2), store: leasing(20 * time.Minute)}, "is acknowledged late, at attempt 5"},
		{"a crash, and a lease that outlasts all retries", scenario{traffic: burstTraffic,
			callback: slowCallback(time.Second), meanwhile: crashIn(time.Second / 2), store: leasing(4 * time.Hour)}, "is paused"},
		{"a lease that ends before the callback", scenario{network: losing(1),
			traffic: traffic{40, always(20 * time.Second), 0, sendingJSON}, store: leasing(time.Second),
			callback: onEventOf(0, func() error { time.Sleep(30 * time.Second); return nil })}, "is handled 2 times"},
		{"a slow event that is waited for", scenario{events: 500, soon: 6 * time.Second,
			callback: onEventOf(0, func() error { time.Sleep(20 * time.Second); return nil }),
			handler:  func(h *mw.Handler) { h.EventTimeout = 25 * time.Second }}, "is handled only after"},
		{"an inbound schedule that outlasts the store's memory", scenario{traffic: inboundTraffic, network: losing(10),
			store: wrong(func(mw.Deduplicator) mw.Deduplicator { return forgetful })}, "times"},
		{"a crash before the commit, and each event once", scenario{traffic: burstTraffic, meanwhile: crashIn(5500 * time.Millisecond),
			callback: slowCallback(time.Second)}, "is handled 2 times"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			violations := test.s.simulate(t, 20).violations
			require.True(t, slices.ContainsFunc(violations, func(v string) bool { return strings.Contains(v, test.want) }),
				"it found %q, want %q", violations, test.want)
		})
	}
}
