package deduptest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// awaitFree reserves a key as soon as it is free and returns the time. Until
// then, the answer must be until.
func awaitFree(t *testing.T, d mailtrapwebhook.Deduplicator, key string, until mailtrapwebhook.Reservation) time.Time {
	t.Helper()
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		got, err := d.Reserve(t.Context(), []string{key}, long)
		require.NoError(t, err)
		if got[0] == reserved {
			return time.Now()
		}
		require.Equal(t, until, got[0])
	}
	t.Fatalf("the key is still %v: it does not become free", until)
	return time.Time{}
}

func testLeaseEnds(t *testing.T, s Store) {
	const lease = 300 * time.Millisecond
	one, _ := s.Replica(t)
	other, _ := s.Replica(t)
	began := time.Now()
	requireAnswers(t, one, []string{"short", "long"}, lease, reserved, reserved)
	requireAnswers(t, one, []string{"longer"}, long, reserved)
	free := awaitFree(t, other, "short", held)
	require.GreaterOrEqual(t, free.Sub(began), lease)
	requireAnswers(t, one, []string{"short"}, long, held)
	requireAnswers(t, one, []string{"longer"}, long, held)

	t.Run("and a commit still counts", func(t *testing.T) {
		require.NoError(t, one.Commit(t.Context(), []string{"short"}), "another process has the key")
		requireAnswers(t, other, []string{"short"}, long, handled)
		require.NoError(t, one.Commit(t.Context(), []string{"long"}), "nobody has the key")
		require.NoError(t, other.Release(t.Context(), []string{"short", "long"}))
		requireAnswers(t, other, []string{"short", "long"}, long, handled, handled)
	})
}

// testManyLeasesEnd reserves one key among many expired marks.
func testManyLeasesEnd(t *testing.T, s Store) {
	const n = 100
	d, _ := s.Replica(t)
	keys := numbered("many", n)
	requireAnswers(t, d, keys, time.Millisecond, repeat(reserved, n)...)
	time.Sleep(5 * time.Millisecond) // they expire
	requireAnswers(t, d, keys[n/2:n/2+1], long, reserved)
	requireAnswers(t, d, keys[n-1:], long, reserved)
	requireAnswers(t, d, []string{keys[n/2], keys[0], keys[n-1]}, long, held, reserved, held)
}

func testRetentionEnds(t *testing.T, s Store) {
	const retention = 300 * time.Millisecond // as in Run
	d, _ := s.Replica(t)
	began := time.Now()
	require.NoError(t, d.Commit(t.Context(), []string{"a", "b"}))
	free := awaitFree(t, d, "a", handled)
	require.GreaterOrEqual(t, free.Sub(began), retention)
	awaitFree(t, d, "b", handled)
	require.NoError(t, d.Release(t.Context(), []string{"b"}), "the key is reserved, not handled")
	requireAnswers(t, d, []string{"a", "b"}, long, held, reserved)
}

func testReplicaDies(t *testing.T, s Store) {
	const lease = 500 * time.Millisecond
	dies, kill := s.Replica(t)
	lives, _ := s.Replica(t)
	require.NoError(t, dies.Commit(t.Context(), []string{"done"}))
	began := time.Now()
	requireAnswers(t, dies, []string{"done", "a"}, lease, handled, reserved)
	kill()
	free := awaitFree(t, lives, "a", held)
	require.GreaterOrEqual(t, free.Sub(began), lease)
	requireAnswers(t, lives, []string{"done"}, long, handled)

	born, _ := s.Replica(t)
	requireAnswers(t, born, []string{"done", "a"}, long, handled, held)
}

// testRemoval never uses a key twice: the store must remove expired marks by
// itself.
func testRemoval(t *testing.T, s Store) {
	if s.Count == nil {
		t.Skip("the store has no Count")
	}
	const batch, batches = 100, 30
	d, _ := s.Replica(t)
	lasting := numbered("lasting", batch)
	requireAnswers(t, d, lasting, long, repeat(reserved, batch)...)
	for i := range batches {
		keys := numbered(fmt.Sprint(i), batch)
		requireAnswers(t, d, keys, time.Millisecond, repeat(reserved, batch)...)
		if i%2 == 0 {
			require.NoError(t, d.Commit(t.Context(), keys))
		}
		time.Sleep(5 * time.Millisecond) // they expire
	}
	require.Eventually(t, func() bool { return s.Count(t) <= 4*batch }, soon, 10*time.Millisecond,
		"the store still has %d marks", s.Count(t))
	requireAnswers(t, d, lasting, long, repeat(held, batch)...)
}
