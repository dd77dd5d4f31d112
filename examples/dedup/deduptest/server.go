package deduptest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

func testEndedContext(t *testing.T, s Store) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	d, _ := s.Replica(t)
	requireAnswers(t, d, []string{"reserved"}, long, reserved)
	for want, ctx := range map[error]context.Context{context.Canceled: canceled, context.DeadlineExceeded: expired} {
		answers, err := d.Reserve(ctx, []string{"new"}, long)
		require.ErrorIs(t, err, want)
		require.Nil(t, answers)
		require.ErrorIs(t, d.Commit(ctx, []string{"reserved", "new"}), want)
		require.ErrorIs(t, d.Release(ctx, []string{"reserved"}), want)
	}
	requireAnswers(t, d, []string{"reserved", "new"}, long, held, reserved)
}

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
			require.NoError(t, d.Release(t.Context(), []string{"other"}), "this connects the replica")
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
				require.ErrorIs(t, err, context.Canceled)
			case <-time.After(soon):
				t.Fatal("the call ignores its context")
			}
			resume()
			require.NoError(t, d.Release(t.Context(), []string{"other"}), "the store is usable afterwards")
		})
	}
}

func testRoundTrips(t *testing.T, s Store) {
	if s.RoundTrips == nil {
		t.Skip("the store has no network")
	}
	d, _ := s.Replica(t)
	for i, n := range []int{1, 1, 500, 10_000} {
		keys := numbered(fmt.Sprint(i), n)
		requireTrips := func(want int) {
			t.Helper()
			if i > 0 { // the first calls connect and prepare
				require.Equal(t, want, s.RoundTrips(), "round trips for %d keys", n)
			}
		}
		before := s.RoundTrips()
		requireAnswers(t, d, keys, long, repeat(reserved, n)...)
		requireTrips(before + 1)
		require.NoError(t, d.Commit(t.Context(), keys[:n/2+1]))
		requireTrips(before + 2)
		require.NoError(t, d.Release(t.Context(), keys))
		requireTrips(before + 3)
	}
	before := s.RoundTrips()
	requireAnswers(t, d, nil, long)
	require.NoError(t, d.Commit(t.Context(), nil))
	require.NoError(t, d.Release(t.Context(), nil))
	require.Equal(t, before, s.RoundTrips(), "round trips for no keys")
}

func testRestart(t *testing.T, s Store) {
	if s.Kill == nil {
		t.Skip("the store has no server")
	}
	d, _ := s.Replica(t)
	requireAnswers(t, d, []string{"done", "reserved"}, long, reserved, reserved)
	require.NoError(t, d.Commit(t.Context(), []string{"done"}))

	s.Kill(t)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	answers, err := d.Reserve(ctx, []string{"done", "reserved", "new"}, long)
	require.Error(t, err)
	require.Nil(t, answers)
	require.Error(t, d.Commit(ctx, []string{"reserved"}))
	require.Error(t, d.Release(ctx, []string{"reserved"}))
	require.NoError(t, ctx.Err(), "a missing server must be noticed at once")

	s.Start(t)
	require.Eventually(t, func() bool { // each broken connection may cost an error
		_, err := d.Reserve(t.Context(), []string{"done"}, long)
		return err == nil
	}, soon, 10*time.Millisecond)
	requireAnswers(t, d, []string{"done", "reserved", "new"}, long, handled, held, reserved)
	require.NoError(t, d.Commit(t.Context(), []string{"new"}))
	require.NoError(t, d.Release(t.Context(), []string{"reserved"}))
	requireAnswers(t, d, []string{"new", "reserved"}, long, handled, reserved)
}

// testWrongClock runs a replica in a bubble of synctest: the year is 2000, and
// hours pass at once.
func testWrongClock(t *testing.T, s Store) {
	if !s.OwnClock {
		t.Skip("the store uses the replicas' clock")
	}
	const lease = 500 * time.Millisecond
	right, _ := s.Replica(t)
	requireAnswers(t, right, []string{"reserved", "done"}, long, reserved, reserved)
	require.NoError(t, right.Commit(t.Context(), []string{"done"}))
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		wrong, _ := s.Replica(t)
		require.Equal(t, 2000, time.Now().Year())
		requireAnswers(t, wrong, []string{"reserved", "done", "own"}, long, held, handled, reserved)
		time.Sleep(2 * long)
		requireAnswers(t, wrong, []string{"reserved", "done", "own"}, long, held, handled, held)
		require.NoError(t, wrong.Commit(t.Context(), []string{"own"}))
		requireAnswers(t, wrong, []string{"short"}, lease, reserved)
	})
	requireAnswers(t, right, []string{"reserved", "done", "own"}, long, held, handled, handled)
	free := awaitFree(t, right, "short", held)
	require.GreaterOrEqual(t, free.Sub(began), lease)
}
