// Package storetest tests what webhooktest.TestDeduplicator cannot: what a store
// does when its server or a process that uses it fails, and how little it asks
// of them.
package storetest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const (
	reserved = mailtrapwebhook.Reserved
	handled  = mailtrapwebhook.Handled
	held     = mailtrapwebhook.Held

	long = time.Hour        // outlasts every test
	soon = 30 * time.Second // bounds the wait for what happens at once, on a busy machine
)

// A Store is an empty store and what a test can do to it. A nil function means
// that the store does not support it.
type Store struct {
	// Replica returns a Deduplicator with connections of its own, as another
	// process has. close must drop the connections and tell the store nothing,
	// as a killed process does. It must also be called when the test ends.
	Replica func(t *testing.T) (d mailtrapwebhook.Deduplicator, close func())

	// Count returns the number of marks in the store, expired ones included.
	Count func(t *testing.T) int

	// Hold makes the store answer nobody until resume is called.
	Hold func(t *testing.T) (resume func())

	// RoundTrips returns the number of round trips of all replicas so far.
	RoundTrips func() int

	// Kill ends the store's server as a crash does, and Start starts it again.
	Kill, Start func(t *testing.T)

	// OwnClock is true if the store uses its own clock and not the replicas'.
	OwnClock bool
}

// Run tests the stores that open returns, also with TestDeduplicator. Each must
// remember handled keys for retention. Run skips tests that a store does not
// support.
func Run(t *testing.T, open func(t *testing.T, retention time.Duration) Store) {
	t.Run("TestDeduplicator", func(t *testing.T) {
		s := open(t, long)
		webhooktest.TestDeduplicator(t, func(t *testing.T) mailtrapwebhook.Deduplicator {
			d, _ := s.Replica(t)
			return d
		})
	})
	tests := []struct {
		name      string
		retention time.Duration
		test      func(t *testing.T, s Store)
	}{
		{"odd leases", long, testOddLeases},
		{"a handled mark ends", 300 * time.Millisecond, testRetentionEnds},
		{"a replica dies between reserve and commit", long, testReplicaDies},
		{"expired marks are removed", time.Millisecond, testRemoval},
		{"a context ends during a call", long, testContextEnds},
		{"one round trip a call", long, testRoundTrips},
		{"the server restarts", long, testRestart},
		{"a replica's clock is wrong", long, testWrongClock},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, open(t, tt.retention)) })
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// answers reserves keys and fails the test unless the answers are want.
func answers(
	t *testing.T, d mailtrapwebhook.Deduplicator, keys []string, lease time.Duration, want ...mailtrapwebhook.Reservation,
) {
	t.Helper()
	got, err := d.Reserve(t.Context(), keys, lease)
	noError(t, err)
	if !slices.Equal(got, want) {
		t.Fatalf("Reserve(%.100q) = %.200v, want %.200v", keys, got, want)
	}
}

// repeat returns answer n times.
func repeat(answer mailtrapwebhook.Reservation, n int) []mailtrapwebhook.Reservation {
	return slices.Repeat([]mailtrapwebhook.Reservation{answer}, n)
}

func numbered(name any, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("delivery/%v/%024d", name, i)
	}
	return keys
}

// awaitFree reserves a key as soon as it is free. Until then, the answer must be
// until. The key must not be free sooner than after.
func awaitFree(
	t *testing.T, d mailtrapwebhook.Deduplicator, key string, until mailtrapwebhook.Reservation,
	began time.Time, after time.Duration,
) {
	t.Helper()
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		got, err := d.Reserve(t.Context(), []string{key}, long)
		noError(t, err)
		if got[0] == reserved {
			if took := time.Since(began); took < after {
				t.Fatalf("the key is free after %v, want %v", took, after)
			}
			return
		}
		if got[0] != until {
			t.Fatalf("the key is %v, want %v", got[0], until)
		}
	}
	t.Fatalf("the key is still %v: it does not become free", until)
}

func testOddLeases(t *testing.T, s Store) {
	d, _ := s.Replica(t)
	for _, lease := range []time.Duration{0, -1} {
		if got, err := d.Reserve(t.Context(), []string{"none"}, lease); err == nil {
			t.Fatalf("Reserve with the lease %v = %v, want an error", lease, got)
		}
	}
	answers(t, d, []string{"none"}, long, reserved)
	const longest = 1<<63 - 1
	answers(t, d, []string{"longest"}, longest, reserved)
	answers(t, d, []string{"longest"}, longest, held)
}

func testRetentionEnds(t *testing.T, s Store) {
	const retention = 300 * time.Millisecond // as in Run
	d, _ := s.Replica(t)
	began := time.Now()
	noError(t, d.Commit(t.Context(), []string{"a", "b"}))
	awaitFree(t, d, "a", handled, began, retention)
	awaitFree(t, d, "b", handled, began, retention)
	noError(t, d.Release(t.Context(), []string{"b"})) // it is reserved, no longer handled
	answers(t, d, []string{"a", "b"}, long, held, reserved)
}

func testReplicaDies(t *testing.T, s Store) {
	const lease = 500 * time.Millisecond
	dies, kill := s.Replica(t)
	lives, _ := s.Replica(t)
	noError(t, dies.Commit(t.Context(), []string{"done"}))
	began := time.Now()
	answers(t, dies, []string{"done", "a"}, lease, handled, reserved)
	kill()
	awaitFree(t, lives, "a", held, began, lease)
	answers(t, lives, []string{"done"}, long, handled)

	born, _ := s.Replica(t)
	answers(t, born, []string{"done", "a"}, long, handled, held)
}

// testRemoval never uses a key twice: the store must remove expired marks by
// itself. Several replicas do so at once.
func testRemoval(t *testing.T, s Store) {
	if s.Count == nil {
		t.Skip("the store has no Count")
	}
	const replicas, batch, batches = 4, 100, 15
	d, _ := s.Replica(t)
	lasting := numbered("lasting", batch)
	answers(t, d, lasting, long, repeat(reserved, batch)...)
	var all sync.WaitGroup
	for r := range replicas {
		d, _ := s.Replica(t)
		all.Go(func() {
			for i := range batches {
				keys := numbered(fmt.Sprint(r, i), batch)
				_, err := d.Reserve(t.Context(), keys, time.Millisecond)
				if err == nil && i%2 == 0 {
					err = d.Commit(t.Context(), keys)
				}
				if err != nil {
					t.Errorf("replica %d: %v", r, err)
				}
				time.Sleep(5 * time.Millisecond) // they expire
			}
		})
	}
	all.Wait()
	// Calls remove the last of them, if the server does not.
	const most = 4 * batch
	last := numbered("last", batch)
	for deadline := time.Now().Add(soon); s.Count(t) > most; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the store still has %d marks, want %d or fewer", s.Count(t), most)
		}
		_, err := d.Reserve(t.Context(), last, time.Millisecond)
		noError(t, err)
		noError(t, d.Commit(t.Context(), last))
	}
	answers(t, d, lasting, long, repeat(held, batch)...)
}
