package mailtrapwebhook_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
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

var errStore = errors.New("boom-of-the-store")

// Stores that are wrong, by which the checks show that they find something.

// A markingStore marks events as handled when they are reserved, as a receiver does that remembers first and works then.
type markingStore struct{ mw.Deduplicator }

func (s markingStore) Reserve(ctx context.Context, keys []string, lease time.Duration) ([]mw.Reservation, error) {
	answers, err := s.Deduplicator.Reserve(ctx, keys, lease)
	if err == nil {
		err = s.Deduplicator.Commit(ctx, keys)
	}
	return answers, err
}

// A forgettingStore forgets events when they are committed.
type forgettingStore struct{ mw.Deduplicator }

func (s forgettingStore) Commit(ctx context.Context, keys []string) error {
	return s.Release(ctx, keys)
}

// A sharingStore reserves for several at a time.
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

// A faultyStore is a [mw.MemoryDeduplicator] behind a network that fails. Faults come by the count of calls, so that
// none of them is missing in a test. Most faults leave keys reserved. Rather than wait for the end of their lease, it
// frees them soon after, which is no different, because the delivery that reserved them does nothing more with them.
type faultyStore struct {
	inner *mw.MemoryDeduplicator
	calm  atomic.Bool
	calls [3]atomic.Int64 // of Reserve, Commit and Release

	mu     sync.Mutex
	faults map[string]int
}

// call makes a call that may fail before or after it has its effect.
func (s *faultyStore) call(ctx context.Context, method int, effect func() error) error {
	if s.calm.Load() {
		return effect()
	}
	name := []string{"Reserve", "Commit", "Release"}[method]
	n := s.calls[method].Add(1)
	switch {
	case n%397 == 7: // it hangs as long as it may
		s.count(name + " hangs")
		<-ctx.Done()
		return ctx.Err()
	case n%37 == 5: // its own timeout
		s.count(name + " times out")
		time.Sleep(10 * time.Millisecond)
		return context.DeadlineExceeded
	case n%23 == 3:
		s.count(name + " fails")
		return errStore
	}
	if err := effect(); err != nil {
		return err
	}
	if n%29 == 11 {
		s.count(name + "'s answer is lost")
		return errStore
	}
	return ctx.Err() // which the handler heeds as well
}

func (s *faultyStore) count(fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[fault]++
}

func (s *faultyStore) counted() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	faults := make(map[string]int, len(s.faults))
	for name, n := range s.faults {
		faults[name] = n
	}
	return faults
}

// endLease frees keys after a while.
func (s *faultyStore) endLease(keys []string) {
	time.AfterFunc(100*time.Millisecond, func() { _ = s.inner.Release(context.Background(), keys) })
}

func (s *faultyStore) Reserve(ctx context.Context, keys []string, lease time.Duration) (answers []mw.Reservation, err error) {
	err = s.call(ctx, 0, func() (err error) {
		answers, err = s.inner.Reserve(ctx, keys, lease)
		return err
	})
	if err == nil {
		return answers, nil
	}
	var taken []string
	for i, answer := range answers {
		if answer == mw.Reserved {
			taken = append(taken, keys[i])
		}
	}
	s.endLease(taken)
	return nil, err
}

func (s *faultyStore) Commit(ctx context.Context, keys []string) error {
	return s.settle(ctx, 1, keys, s.inner.Commit)
}

func (s *faultyStore) Release(ctx context.Context, keys []string) error {
	return s.settle(ctx, 2, keys, s.inner.Release)
}

func (s *faultyStore) settle(ctx context.Context, method int, keys []string, settle func(context.Context, []string) error) error {
	settled := false // then the keys may be another delivery's already, whatever the answer
	err := s.call(ctx, method, func() error {
		err := settle(ctx, keys)
		settled = err == nil
		return err
	})
	if !settled {
		s.endLease(keys)
	}
	return err
}

// A faultLog knows of each event what has become of it, and judges.
type faultLog struct {
	mu        sync.Mutex
	running   map[string]int // callbacks
	handled   map[string]int // callbacks that succeeded
	committed map[string]bool
	broken    map[string]int // rules
	faults    map[string]int // of callbacks and clients
	attempts  int
}

func (l *faultLog) violate(rule string) { // with mu held
	l.broken[rule]++
}

func (l *faultLog) count(fault string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults[fault]++
}

// begin and end surround a callback.
func (l *faultLog) begin(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running[key]++; l.running[key] > 1 {
		l.violate("an event is handled by two deliveries at once")
	}
}

func (l *faultLog) end(key string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running[key]--
	if !ok {
		return
	}
	l.handled[key]++
	if l.committed[key] {
		l.violate("an event is handled again after its commit")
	}
}

// acknowledged is told of the events of a body that was answered 200.
func (l *faultLog) acknowledged(keys []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		if l.handled[key] == 0 {
			l.violate("an event is acknowledged and not handled")
		}
	}
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
			return errBoom
		case fate < 7:
			log.count("callback panics")
			panic(errBoom)
		case fate < 8:
			log.count("callback overruns")
			time.Sleep(time.Duration(150+rand.IntN(100)) * time.Millisecond)
			if rand.IntN(2) == 0 {
				return errBoom
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
	store := &faultyStore{inner: mw.NewMemoryDeduplicator(0, 0), faults: make(map[string]int)}
	store.calm.Store(load.calm)
	var used mw.Deduplicator = store
	if load.wrong != nil {
		used = load.wrong(store)
	}
	h := &mw.Handler{
		OnEvent: load.onEvent(log), Dedup: loggedStore{used, log}, EventTimeout: 20 * time.Millisecond, Timeout: 3 * time.Second,
		MaxBodyBytes: faultInFlight, MaxInFlightBytes: faultInFlight,
	}
	rig := newRig(t, h)
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
		got, err := rig.try(padded(fmt.Sprint("last-", i), faultInFlight), withHeader("X-Calm", "1"))
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

// sendUnderFaults repeats a whole batch until it is answered 200, and reports whether it was. At times it hangs up, and
// then what it sent before may still be worked on when it comes again.
func sendUnderFaults(rig *rig, log *faultLog, name string, deadline time.Time) bool {
	ids := make([]string, faultEvents)
	for i := range ids {
		ids[i] = fmt.Sprint(name, "-", i)
	}
	body := bodyOf(ids...)
	events, err := mw.Parse(body)
	if err != nil {
		return false
	}
	keys := make([]string, len(events))
	for i, ev := range events {
		keys[i] = ev.Key()
	}
	var twice sync.WaitGroup
	defer twice.Wait()
	for time.Now().Before(deadline) {
		log.mu.Lock()
		log.attempts++
		log.mu.Unlock()
		var edits []requestEdit
		ctx, hangUp := context.WithCancel(context.Background())
		switch fate := rand.IntN(100); {
		case fate < 3:
			log.count("client breaks off")
			breakOff(rig, body)
		case fate < 8:
			log.count("client hangs up")
			time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, hangUp)
		case fate < 10:
			edits = append(edits, inChunks)
		case fate < 13:
			log.count("client sends twice")
			twice.Go(func() { _, _ = rig.try(body) })
		}
		got, err := rig.try(body, append(edits, func(r *http.Request) { *r = *r.WithContext(ctx) })...)
		hangUp()
		if err == nil && got.Status == http.StatusOK {
			log.acknowledged(keys)
			return true
		}
		if err == nil {
			log.count(fmt.Sprint("answer ", got.Status))
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// breakOff sends a part of a delivery.
func breakOff(rig *rig, body []byte) {
	conn, err := net.Dial("tcp", rig.srv.Listener.Addr().String())
	if err != nil {
		return
	}
	defer conn.Close()
	raw := rawRequest("1.1", body, len(body))
	_, _ = io.WriteString(conn, raw[:len(raw)-1-rand.IntN(len(body))])
}

// Whatever fails, and however often: each event is handled, none again once its commit has succeeded, and nothing of what
// it took stays taken. The whole load is for MAILTRAPWEBHOOK_FULL=1.
func TestDeliveryUnderFaults(t *testing.T) {
	load := faultLoad{batches: 600, patience: 2 * time.Minute}
	if fullSize() {
		load = faultLoad{batches: 4096, patience: 5 * time.Minute}
	}
	violations, figures := load.run(t)
	t.Log(figures)
	require.Empty(t, violations)
	for _, fault := range []string{
		"callback fails", "callback panics", "callback overruns", "callback exits", "client breaks off", "client hangs up", "client sends twice",
		"Reserve hangs", "Reserve times out", "Reserve fails", "Reserve's answer is lost",
		"Commit hangs", "Commit times out", "Commit fails", "Commit's answer is lost",
		"Release hangs", "Release times out", "Release fails", "Release's answer is lost",
		"answer 500", "answer 503",
	} {
		require.Contains(t, figures, fault+":", "the load was no load")
	}
}

// Each rule of TestDeliveryUnderFaults is broken by something that is wrong.
func TestDeliveryUnderFaultsFindsWhatIsWrong(t *testing.T) {
	wrong := func(store func(mw.Deduplicator) mw.Deduplicator) faultLoad {
		return faultLoad{batches: 64, patience: time.Minute, calm: true, wrong: store}
	}
	leave := make(chan struct{})
	defer close(leave)
	tests := []struct {
		name string
		load faultLoad
		want []string
	}{
		{"a store that marks before success",
			wrong(func(d mw.Deduplicator) mw.Deduplicator { return markingStore{d} }),
			[]string{"an event is acknowledged and not handled"}},
		{"a store that forgets on commit",
			wrong(func(d mw.Deduplicator) mw.Deduplicator { return forgettingStore{d} }),
			[]string{"an event is handled again after its commit"}},
		{"a store that reserves for several at once",
			wrong(func(d mw.Deduplicator) mw.Deduplicator { return sharingStore{d} }),
			[]string{"an event is handled by two deliveries at once"}},
		{"a store that cannot be reached",
			faultLoad{batches: 10, patience: time.Second / 2, wrong: func(d mw.Deduplicator) mw.Deduplicator { return deadStore{d} }},
			[]string{"a delivery is never answered 200"}},
		{"a callback that never returns",
			faultLoad{batches: 10, patience: time.Second, calm: true, stuck: leave},
			[]string{"the in-flight budget is not given back", "goroutines stay behind"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			violations, figures := test.load.run(t)
			t.Log(violations, figures)
			for _, rule := range test.want {
				require.Contains(t, fmt.Sprint(violations), rule)
			}
		})
	}
}
