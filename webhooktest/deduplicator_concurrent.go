package webhooktest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// dedupWorkers is the number of concurrent callers. Each pair of them meets
// often enough for what is not atomic to show.
const dedupWorkers = 8

// concurrently calls f in each worker, with the worker's number and
// Deduplicator, and waits for all. Every other worker has that of other.
func (s *subject) concurrently(
	other *subject, f func(ctx context.Context, worker int, d mailtrapwebhook.Deduplicator) error,
) {
	s.Helper()
	failures := make([]error, dedupWorkers)
	var all sync.WaitGroup
	for worker := range dedupWorkers {
		d := s.Deduplicator
		if worker%2 == 1 {
			d = other.Deduplicator
		}
		all.Go(func() { failures[worker] = f(s.Context(), worker, d) })
	}
	all.Wait()
	for _, err := range failures {
		if err != nil {
			s.Fatalf("while %d goroutines use the store: %v", dedupWorkers, err)
		}
	}
}

// sharer opens another Deduplicator on the store. It returns s if the other
// turns out to have a store of its own.
func (s *subject) sharer() *subject {
	s.Helper()
	other := *s
	other.Deduplicator = timely{s.open(s.T)}
	key := s.keys("shared")
	s.reserve("the key is new", longLease, key, reserved)
	answers, err := other.Reserve(s.Context(), key, longLease)
	if err != nil {
		s.Fatalf("Reserve of the second Deduplicator that open returns fails: %v", err)
	}
	if answers[0] == held {
		return &other
	}
	return s
}

// some returns n of the keys in a random order.
func some(keys []string, n int) []string {
	chosen := slices.Clone(keys)
	rand.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	return chosen[:n]
}

func testOneWins(s *subject) {
	const rounds = 10
	var mu sync.Mutex
	winners := make(map[string]int) // of each key that was asked for
	s.concurrently(s.sharer(), func(ctx context.Context, _ int, d mailtrapwebhook.Deduplicator) error {
		for round := range rounds {
			keys := some(s.numbered(fmt.Sprint("round", round), 100), 70)
			answers, err := d.Reserve(ctx, keys, longLease)
			if err != nil {
				return fmt.Errorf("Reserve fails: %w", err)
			}
			mu.Lock()
			for i, key := range keys {
				n := 0
				if answers[i] == reserved {
					n = 1
				}
				winners[key] += n
			}
			mu.Unlock()
			if slices.Contains(answers, handled) {
				return errors.New("Reserve answers Handled for a key that nobody committed")
			}
		}
		return nil
	})
	for _, n := range winners {
		if n != 1 {
			s.Fatalf("%d of the concurrent calls of Reserve got the same free key: "+
				"decide each key atomically, for exactly one", n)
		}
	}
}

// testOneOwner lets workers reserve keys and commit or release them.
func testOneOwner(s *subject) {
	const rounds = 20
	keys := s.numbered("own", 100)
	index := make(map[string]int)
	for i, key := range keys {
		index[key] = i
	}
	var owners [100]atomic.Int64 // 0: nobody, -1: it is Handled
	s.concurrently(s.sharer(), func(ctx context.Context, worker int, d mailtrapwebhook.Deduplicator) error {
		for range rounds {
			asked := some(keys, 30)
			answers, err := d.Reserve(ctx, asked, longLease)
			if err != nil {
				return fmt.Errorf("Reserve fails: %w", err)
			}
			var done, undone []string
			for i, key := range asked {
				if answers[i] != reserved {
					continue
				}
				owner := &owners[index[key]]
				switch {
				case !owner.CompareAndSwap(0, int64(worker+1)):
					return errors.New("Reserve answers Reserved for a key that another call has reserved or committed: " +
						"decide each key atomically, and free a key only in Release")
				case rand.IntN(20) == 0:
					done = append(done, key)
				default:
					undone = append(undone, key)
				}
			}
			time.Sleep(rand.N(2 * time.Millisecond)) // time for others to take what is not theirs
			// The store must not free a key before it is free here.
			for _, key := range done {
				owners[index[key]].Store(-1)
			}
			for _, key := range undone {
				owners[index[key]].Store(0)
			}
			if err := d.Commit(ctx, done); err != nil {
				return fmt.Errorf("Commit fails: %w", err)
			}
			if err := d.Release(ctx, undone); err != nil {
				return fmt.Errorf("Release fails: %w", err)
			}
		}
		return nil
	})
	want := repeat(reserved, len(keys))
	for i := range owners {
		if owners[i].Load() == -1 {
			want[i] = handled
		}
	}
	s.reserve("each call's Commit and Release must count, whatever other calls do", longLease, keys, want...)
}

// testCommitWins commits and releases the same reserved keys at once, as a
// delivery whose callback ended late and its retry do.
func testCommitWins(s *subject) {
	const rounds, each = 10, 50
	keys := s.numbered("both", rounds*each)
	s.reserve("the keys are new", longLease, keys, repeat(reserved, len(keys))...)
	other := s.sharer()
	for round := range slices.Chunk(keys, each) {
		// All begin each round together, or some would be through before others begin.
		s.concurrently(other, func(ctx context.Context, worker int, d mailtrapwebhook.Deduplicator) error {
			if worker < dedupWorkers/2 {
				return d.Commit(ctx, some(round, each))
			}
			return d.Release(ctx, some(round, each))
		})
	}
	s.reserve("Release must find and remove a reservation in one atomic step, "+
		"or it removes the Handled mark of a Commit in between", longLease, keys, repeat(handled, len(keys))...)
}

// testChurn lets all workers make, remove and outlive the same marks.
func testChurn(s *subject) {
	const rounds = 10
	keys := s.numbered("churn", 200)
	s.concurrently(s.sharer(), func(ctx context.Context, _ int, d mailtrapwebhook.Deduplicator) error {
		for range rounds {
			_, err := d.Reserve(ctx, some(keys, 50), time.Millisecond)
			err = errors.Join(err, d.Release(ctx, some(keys, 50)), d.Commit(ctx, some(keys, 2)))
			if err != nil {
				return fmt.Errorf("a call with keys in another order fails: lock keys in one order, or try again: %w", err)
			}
		}
		return nil
	})
}

func testEndedContext(s *subject) {
	canceled, cancel := context.WithCancel(s.Context())
	cancel()
	expired, cancel := context.WithDeadline(s.Context(), time.Now().Add(-time.Second))
	defer cancel()
	keys := s.keys("a")
	for name, ctx := range map[string]context.Context{"canceled": canceled, "over its deadline": expired} {
		_, reserveErr := s.Reserve(ctx, keys, longLease)
		for method, err := range map[string]error{
			"Reserve": reserveErr, "Commit": s.Commit(ctx, keys), "Release": s.Release(ctx, keys),
		} {
			if err == nil || errors.Is(err, errHangs) {
				s.Errorf("%s ignores that its context is %s (error: %v): it must return an error at once, "+
					"because Mailtrap does not wait", method, name, err)
			}
		}
	}
}

// testContextEnds ends contexts at many points of calls. A call may fail then,
// but must not claim what it did not do, nor leave the store unusable.
func testContextEnds(s *subject) {
	const rounds = 30
	usual := callLimit
	for i := range 5 {
		began := time.Now()
		s.commit(s.numbered(fmt.Sprint("usual", i), 10))
		usual = min(usual, time.Since(began)) // the first call may connect
	}
	var timeout time.Duration // grows from nothing to twice the usual, and a little for timers
	brief := func(call func(ctx context.Context) error) (ok bool) {
		ctx, cancel := context.WithTimeout(s.Context(), timeout)
		defer cancel()
		err := call(ctx)
		if errors.Is(err, errHangs) {
			s.Fatalf("a call whose context ends does not return: %v", err)
		}
		return err == nil
	}
	for round := range rounds {
		timeout = time.Duration(round) * (2*usual + 200*time.Microsecond) / rounds
		fresh := s.numbered(fmt.Sprint("reserve", round), 10)
		var answers []mailtrapwebhook.Reservation
		if brief(func(ctx context.Context) (err error) {
			answers, err = s.Reserve(ctx, fresh, longLease)
			return err
		}) {
			s.compare("the keys are new", fresh, answers, repeat(reserved, 10))
			s.reserve("Reserve returned no error when its context ended, and so must have taken the keys",
				longLease, fresh, repeat(held, 10)...)
		}
		fresh = s.numbered(fmt.Sprint("commit", round), 10)
		if brief(func(ctx context.Context) error { return s.Commit(ctx, fresh) }) {
			s.reserve("Commit must return an error if it could not make every key Handled before its context ended",
				longLease, fresh, repeat(handled, 10)...)
		}
		fresh = s.numbered(fmt.Sprint("release", round), 10)
		s.reserve("the keys are new", longLease, fresh, repeat(reserved, 10)...)
		if brief(func(ctx context.Context) error { return s.Release(ctx, fresh) }) {
			s.reserve("Release must return an error if it could not free every key before its context ended",
				longLease, fresh, repeat(reserved, 10)...)
		}
	}
}
