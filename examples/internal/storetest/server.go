package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// testContextEnds holds up the store until a call has returned.
func testContextEnds(t *testing.T, s Store) {
	if s.Hold == nil {
		t.Skip("the store has no Hold")
	}
	keys := []string{"a"}
	calls := map[string]func(context.Context, mailtrapwebhook.Deduplicator) error{
		"reserve": func(ctx context.Context, d mailtrapwebhook.Deduplicator) error {
			_, err := d.Reserve(ctx, keys, long)
			return err
		},
		"commit":  func(ctx context.Context, d mailtrapwebhook.Deduplicator) error { return d.Commit(ctx, keys) },
		"release": func(ctx context.Context, d mailtrapwebhook.Deduplicator) error { return d.Release(ctx, keys) },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			d, _ := s.Replica(t)
			noError(t, d.Release(t.Context(), []string{"other"})) // connects the replica
			resume := sync.OnceFunc(s.Hold(t))
			defer resume()
			ctx, cancel := context.WithCancel(t.Context())
			returned := make(chan error, 1)
			go func() { returned <- call(ctx, d) }()
			select {
			case err := <-returned:
				t.Fatalf("the call returned while the store was held up: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			cancel()
			select {
			case err := <-returned:
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("the call returned %v, want context.Canceled", err)
				}
			case <-time.After(soon):
				t.Fatal("the call ignores its context")
			}
			resume()
			noError(t, d.Release(t.Context(), []string{"other"})) // the store is usable afterwards
		})
	}
}

func testRoundTrips(t *testing.T, s Store) {
	if s.RoundTrips == nil {
		t.Skip("the store has no network")
	}
	d, _ := s.Replica(t)
	for i, n := range []int{1, 1, 500, 10_000} {
		keys := numbered(i, n)
		before := s.RoundTrips()
		answers(t, d, keys, long, repeat(reserved, n)...)
		noError(t, d.Commit(t.Context(), keys[:n/2+1]))
		noError(t, d.Release(t.Context(), keys))
		if took := s.RoundTrips() - before; took != 3 && i > 0 { // the first calls connect and prepare
			t.Fatalf("three calls with %d keys took %d round trips, want 3", n, took)
		}
	}
	before := s.RoundTrips()
	answers(t, d, nil, long)
	noError(t, d.Commit(t.Context(), nil))
	noError(t, d.Release(t.Context(), nil))
	if took := s.RoundTrips() - before; took != 0 {
		t.Fatalf("calls without keys took %d round trips, want none", took)
	}
}

func testRestart(t *testing.T, s Store) {
	if s.Kill == nil {
		t.Skip("the store has no server")
	}
	d, _ := s.Replica(t)
	answers(t, d, []string{"done", "reserved"}, long, reserved, reserved)
	noError(t, d.Commit(t.Context(), []string{"done"}))

	s.Kill(t)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	got, err := d.Reserve(ctx, []string{"done", "reserved", "new"}, long)
	commitErr, releaseErr := d.Commit(ctx, []string{"reserved"}), d.Release(ctx, []string{"reserved"})
	switch {
	case err == nil || got != nil || commitErr == nil || releaseErr == nil:
		t.Fatalf("without a server, Reserve = %v, %v; Commit = %v; Release = %v", got, err, commitErr, releaseErr)
	case ctx.Err() != nil:
		t.Fatalf("a missing server was not noticed in %v", soon)
	}

	s.Start(t)
	for deadline := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
		_, err := d.Reserve(t.Context(), []string{"done"}, long)
		if err == nil {
			break
		}
		if time.Now().After(deadline) { // each broken connection may cost an error before
			t.Fatal(err)
		}
	}
	answers(t, d, []string{"done", "reserved", "new"}, long, handled, held, reserved)
	noError(t, d.Commit(t.Context(), []string{"new"}))
	noError(t, d.Release(t.Context(), []string{"reserved"}))
	answers(t, d, []string{"new", "reserved"}, long, handled, reserved)
}

// testWrongClock runs a replica in a bubble of synctest: the year is 2000, and
// hours pass at once.
func testWrongClock(t *testing.T, s Store) {
	if !s.OwnClock {
		t.Skip("the store uses the replicas' clock")
	}
	const lease = 500 * time.Millisecond
	right, _ := s.Replica(t)
	answers(t, right, []string{"reserved", "done"}, long, reserved, reserved)
	noError(t, right.Commit(t.Context(), []string{"done"}))
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		wrong, _ := s.Replica(t)
		answers(t, wrong, []string{"reserved", "done", "own"}, long, held, handled, reserved)
		time.Sleep(2 * long)
		answers(t, wrong, []string{"reserved", "done", "own"}, long, held, handled, held)
		noError(t, wrong.Commit(t.Context(), []string{"own"}))
		answers(t, wrong, []string{"short"}, lease, reserved)
	})
	answers(t, right, []string{"reserved", "done", "own"}, long, held, handled, handled)
	awaitFree(t, right, "short", held, began, lease)
}
