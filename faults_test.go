package mailtrapwebhook_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// These four stores are wrong. The tests use them to show that the simulation
// notices.

// A markingStore marks events as handled when it reserves them.
type markingStore struct{ mw.Deduplicator }

func (s markingStore) Reserve(ctx context.Context, keys []string, lease time.Duration) ([]mw.Reservation, error) {
	answers, err := s.Deduplicator.Reserve(ctx, keys, lease)
	if err == nil {
		err = s.Deduplicator.Commit(ctx, keys)
	}
	return answers, err
}

// A forgettingStore forgets events when it commits them.
type forgettingStore struct{ mw.Deduplicator }

func (s forgettingStore) Commit(ctx context.Context, keys []string) error {
	return s.Release(ctx, keys)
}

// A sharingStore reserves one event for several deliveries.
type sharingStore struct{ mw.Deduplicator }

func (s sharingStore) Reserve(ctx context.Context, keys []string, lease time.Duration) ([]mw.Reservation, error) {
	answers, err := s.Deduplicator.Reserve(ctx, keys, lease)
	for i, answer := range answers {
		if answer == mw.Held {
			answers[i] = mw.Reserved
		}
	}
	return answers, err
}

// A deadStore cannot be reached.
type deadStore struct{ mw.Deduplicator }

func (s deadStore) Reserve(context.Context, []string, time.Duration) ([]mw.Reservation, error) {
	return nil, errStore
}

// A faultyStore is a store behind a network that fails. Faults come by the
// count of calls, so that every kind comes up in every run.
type faultyStore struct {
	mw.Deduplicator
	w     *world
	calls [3]atomic.Int64 // of Reserve, Commit and Release
}

func newFaultyStore(w *world, _ *process, d mw.Deduplicator) mw.Deduplicator {
	return &faultyStore{Deduplicator: d, w: w}
}

// call runs effect and fails before it, after it, or not at all.
func (s *faultyStore) call(ctx context.Context, method int, effect func() error) error {
	name := []string{"Reserve", "Commit", "Release"}[method]
	n := s.calls[method].Add(1)
	switch {
	case n%97 == 7:
		s.w.count(name + " hangs")
		<-ctx.Done()
		return ctx.Err()
	case n%37 == 5: // the store's client has a timeout of its own
		s.w.count(name + " times out")
		time.Sleep(10 * time.Millisecond)
		return context.DeadlineExceeded
	case n%23 == 3:
		s.w.count(name + " fails")
		return errStore
	}
	if err := effect(); err != nil {
		return err
	}
	if n%29 == 11 {
		s.w.count(name + "'s answer is lost")
		return errStore
	}
	return ctx.Err()
}

func (s *faultyStore) Reserve(ctx context.Context, keys []string, lease time.Duration) (answers []mw.Reservation, err error) {
	err = s.call(ctx, 0, func() (err error) {
		answers, err = s.Deduplicator.Reserve(ctx, keys, lease)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

func (s *faultyStore) Commit(ctx context.Context, keys []string) error {
	return s.call(ctx, 1, func() error { return s.Deduplicator.Commit(ctx, keys) })
}

func (s *faultyStore) Release(ctx context.Context, keys []string) error {
	return s.call(ctx, 2, func() error { return s.Deduplicator.Release(ctx, keys) })
}

// faultyCallback fails, panics, overruns and exits, now and then.
func faultyCallback(w *world, _ *process, _, _ int) error {
	time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	switch fate := rand.IntN(100); {
	case fate < 5:
		w.count("callback fails")
		return errBoom
	case fate < 7:
		w.count("callback panics")
		panic(errBoom)
	case fate < 8:
		w.count("callback overruns")
		time.Sleep(time.Duration(5+rand.IntN(20)) * time.Second)
		if rand.IntN(2) == 0 {
			return errBoom
		}
	case fate < 9:
		w.count("callback exits")
		runtime.Goexit()
	}
	return nil
}

func (l *faultLog) violations() (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rule, n := range l.broken {
		list = append(list, fmt.Sprintf("%s (%d times)", rule, n))
	}
	slices.Sort(list)
	return list
}

// A loggedStore notes which commits succeeded, as the handler sees it.
type loggedStore struct {
	mw.Deduplicator
	log *faultLog
}

func (s loggedStore) Commit(ctx context.Context, keys []string) error {
	err := s.Deduplicator.Commit(ctx, keys)
	if err == nil && ctx.Err() == nil {
		s.log.mu.Lock()
		defer s.log.mu.Unlock()
		for _, key := range keys {
			s.log.committed[key] = true
		}
	}
	return err
}

// A faultLoad is a load of deliveries under which everything goes wrong now and then.
type faultLoad struct {
	batches  int
	patience time.Duration                         // with which all is waited for
	calm     bool                                  // the store has no faults
	wrong    func(mw.Deduplicator) mw.Deduplicator // nil: the store is as it should be
	stuck    <-chan struct{}                       // if not nil, the first callback waits for it
}

const (
	faultSenders  = 64
	faultEvents   = 20      // of a batch
	faultInFlight = 2 << 20 // not quite enough for all senders at once
)

// onEvent is a callback that fails, panics, overruns and exits.
func (load faultLoad) onEvent(log *faultLog) func(context.Context, mw.Event) error {
	var calls atomic.Int64
	return func(_ context.Context, ev mw.Event) error {
		ok := false
		log.begin(ev.Key())
		defer func() { log.end(ev.Key(), ok) }()
		if load.stuck != nil && calls.Add(1) == 1 {
			<-load.stuck
		}
		switch fate := rand.IntN(100); {
		case fate < 5:
			log.count("callback fails")
			return errHook
		case fate < 7:
			log.count("callback panics")
			panic(errHook)
		case fate < 8:
			log.count("callback overruns")
			time.Sleep(time.Duration(150+rand.IntN(100)) * time.Millisecond)
			if rand.IntN(2) == 0 {
				return errHook
			}
		case fate < 9:
			log.count("callback exits")
			runtime.Goexit()
		}
		ok = true
		return nil
	}
}

// run has all batches sent until they are answered 200, and returns the rules that were broken.
func (load faultLoad) run(t *testing.T) (violations []string, figures string) {
	before := settledGoroutines()
	log := &faultLog{
		running: make(map[string]int), handled: make(map[string]int), committed: make(map[string]bool),
		broken: make(map[string]int), faults: make(map[string]int),
	}
	store := &faultyStore{inner: new(mw.MemoryDeduplicator), faults: make(map[string]int)}
	store.calm.Store(load.calm)
	var used mw.Deduplicator = store
	if load.wrong != nil {
		used = load.wrong(store)
	}
	h := &mw.Handler{
		OnEvent: load.onEvent(log), Dedup: loggedStore{used, log}, EventTimeout: 20 * time.Millisecond, Timeout: 3 * time.Second,
		MaxBodyBytes: faultInFlight, MaxInFlightBytes: faultInFlight,
	}
	rig := newHookRig(t, h)
	h.Logger = slog.New(slog.DiscardHandler)
	rig.serve()
	rig.srv.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = faultSenders

	began := time.Now()
	deadline := began.Add(load.patience)
	var sent atomic.Int64
	var senders sync.WaitGroup
	for range faultSenders {
		senders.Go(func() {
			for n := sent.Add(1); n <= int64(load.batches); n = sent.Add(1) {
				if !sendUnderFaults(rig, log, fmt.Sprint("batch-", n), deadline) {
					log.mu.Lock()
					log.violate("a delivery is never answered 200")
					log.mu.Unlock()
				}
			}
		})
	}
	senders.Wait()
	took := time.Since(began)

	store.calm.Store(true)
	if !load.waitFor(func(i int) bool { // a body that takes the whole budget
		got, err := rig.try(hookPadded(fmt.Sprint("last-", i), faultInFlight), hookHeader("X-Calm", "1"))
		return err == nil && got.Status != http.StatusServiceUnavailable
	}) {
		log.mu.Lock()
		log.violate("the in-flight budget is not given back")
		log.mu.Unlock()
	}
	rig.srv.Client().CloseIdleConnections()
	rig.srv.CloseClientConnections()
	rig.srv.Close()
	if !load.waitFor(func(int) bool { return runtime.NumGoroutine() <= before && ownGoroutines() == 0 }) {
		log.mu.Lock()
		log.violate("goroutines stay behind")
		log.mu.Unlock()
	}

	log.mu.Lock()
	faults := store.counted()
	for name, n := range log.faults {
		faults[name] = n
	}
	repeated := 0
	for _, n := range log.handled {
		repeated += n - 1
	}
	figures = fmt.Sprintf("%d batches of %d events in %d attempts and %v; %d events handled, %d of them again for want of a commit; faults: %v",
		load.batches, faultEvents, log.attempts, took.Round(time.Millisecond), len(log.handled), repeated, faults)
	log.mu.Unlock()
	return log.violations(), figures
}

// settledGoroutines counts the goroutines when those of the tests before have ended.
func settledGoroutines() int {
	n := runtime.NumGoroutine()
	for range 20 {
		time.Sleep(5 * time.Millisecond)
		n = min(n, runtime.NumGoroutine())
	}
	return n
}

// ownGoroutines counts the goroutines that the package began.
func ownGoroutines() int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return strings.Count(string(stacks), "created by github.com/mailtrapwebhook/mailtrapwebhook.")
}

func (load faultLoad) waitFor(ready func(i int) bool) bool {
	for i, end := 0, time.Now().Add(min(load.patience, 15*time.Second)); time.Now().Before(end); i++ {
		if ready(i) {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

const faultBudget = 256 << 10 // room for four bodies, which is not always enough

// underFaults is a load under which everything goes wrong now and then. An
// event may come again where its commit failed.
func underFaults() scenario {
	traffic := sendingTraffic
	traffic.every = 300 * time.Millisecond
	return scenario{
		traffic: traffic, network: faultyNetwork, callback: faultyCallback, store: newFaultyStore, times: math.MaxInt,
		handler: func(h *mw.Handler) {
			h.MaxBodyBytes, h.MaxInFlightBytes, h.Concurrency = faultBudget, faultBudget, 3
		},
	}
}

// Whatever fails: each event is handled, and not again once its commit has
// succeeded. Everything that a delivery took is given back.
func TestEveryEventIsHandledUnderFaults(t *testing.T) {
	batches := 600
	if fullSize() {
		batches = 10_000
	}
	w := underFaults().simulate(t, batches)
	t.Log(w.faults)
	require.Empty(t, w.violations)
	require.Positive(t, w.said.count("MaxInFlightBytes"), "the load never reached the budget")
	for _, fault := range []string{
		"callback fails", "callback panics", "callback overruns", "callback exits",
		"client breaks off", "client hangs up", "client sends twice",
		"Reserve hangs", "Reserve times out", "Reserve fails", "Reserve's answer is lost",
		"Commit hangs", "Commit times out", "Commit fails", "Commit's answer is lost",
		"Release hangs", "Release times out", "Release fails", "Release's answer is lost",
		"answer 500", "answer 503",
	} {
		require.Positive(t, w.faults[fault], "the load lacks %q", fmt.Sprint(fault))
	}
}
