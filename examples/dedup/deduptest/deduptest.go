// Package deduptest tests implementations of [mailtrapwebhook.Deduplicator]: call [Run] in a test of your own. It tests what
// the interface's documentation asks for, and that a call takes one round trip, whatever the number of keys.
//
// [mailtrapwebhook.MemoryDeduplicator] passes, as far as it applies.
package deduptest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// The answers, and times that no test waits for.
const (
	reserved = mailtrapwebhook.Reserved
	handled  = mailtrapwebhook.Handled
	held     = mailtrapwebhook.Held

	long = time.Hour
	soon = 30 * time.Second // for what happens at once, but on a busy machine
)

// A Store is a store, at first empty, and what a test has to do to it. What is nil cannot be done.
type Store struct {
	// Replica returns a Deduplicator as another process has one, with connections of its own. Closing it is what a
	// process does that is killed: it lets go of the connections and tells the store nothing. It is also closed when the
	// test ends.
	Replica func(t *testing.T) (d mailtrapwebhook.Deduplicator, close func())

	// Count returns how many marks the store has, with those that have ended and are still there.
	Count func(t *testing.T) int

	// Hold has the store, or the way to it, answer nobody until resume is called.
	Hold func(t *testing.T) (resume func())

	// RoundTrips returns how many round trips the replicas have made so far.
	RoundTrips func() int

	// Kill ends the store's server as a crash does, and Start starts it again.
	Kill, Start func(t *testing.T)

	// OwnClock says that the store has a clock, so that those of the replicas do not matter.
	OwnClock bool
}

// Run tests the stores that open returns, each of which remembers handled marks for the time of retention. It skips what
// cannot be done to them.
func Run(t *testing.T, open func(t *testing.T, retention time.Duration) Store) {
	tests := []struct {
		name      string
		retention time.Duration
		test      func(t *testing.T, s Store)
	}{
		{"reserve, commit and release", long, testSteps},
		{"keys of any bytes", long, testOddKeys},
		{"ten thousand keys in a call", long, testLargeBatch},
		{"of all that reserve a key one gets it", long, testOneGetsIt},
		{"who has a key has it alone until it is released", long, testExclusion},
		{"calls do not block each other for good", time.Millisecond, testChurn},
		{"a lease ends", long, testLeaseEnds},
		{"many leases end at once", long, testManyLeasesEnd},
		{"a handled mark ends", 300 * time.Millisecond, testRetentionEnds},
		{"a replica dies between reserve and commit", long, testReplicaDies},
		{"what has ended is removed", time.Millisecond, testRemoval},
		{"a context that has ended", long, testEndedContext},
		{"a context that ends during a call", long, testContextEnds},
		{"one round trip a call", long, testRoundTrips},
		{"the server is started again", long, testRestart},
		{"a replica's clock is wrong", long, testWrongClock},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, open(t, tt.retention)) })
	}
}

// # Steps

// A step does something to a store by one of its replicas, and has answers.
type step struct {
	verb string
	keys string // separated by spaces
	want []mailtrapwebhook.Reservation
}

func reserving(keys string, want ...mailtrapwebhook.Reservation) step {
	return step{"reserve", keys, want}
}
func committing(keys string) step { return step{"commit", keys, nil} }
func releasing(keys string) step  { return step{"release", keys, nil} }

func testSteps(t *testing.T, s Store) {
	tests := []struct {
		name  string
		steps []step
	}{
		{"a free key is reserved, then held", []step{
			reserving("a", reserved), reserving("a", held), reserving("a", held),
		}},
		{"no keys, no answers", []step{
			reserving(""), committing(""), releasing(""),
		}},
		{"keys are answered one by one, in order", []step{
			reserving("b a", reserved, reserved), committing("a"), reserving("c b a d", reserved, held, handled, reserved),
		}},
		{"of equal keys in a call the first is reserved", []step{
			reserving("b a b b", reserved, reserved, held, held), reserving("a b", held, held),
		}},
		{"of equal handled keys in a call all are handled", []step{
			committing("a"), reserving("a b a", handled, reserved, handled),
		}},
		{"a released key is free", []step{
			reserving("a b", reserved, reserved), releasing("a"), reserving("a b", reserved, held),
		}},
		{"equal keys are committed and released as one", []step{
			reserving("a b", reserved, reserved), committing("a a"), releasing("b b"), reserving("a b", handled, reserved),
		}},
		{"a key can be released twice, and unseen", []step{
			reserving("a", reserved), releasing("a never"), releasing("a"), reserving("a never", reserved, reserved),
		}},
		{"releasing does not remove a handled mark", []step{
			reserving("a b", reserved, reserved), committing("a"), releasing("b a"), reserving("a b", handled, reserved),
		}},
		{"a commit counts without a reservation", []step{
			committing("a"), reserving("a", handled),
		}},
		{"a commit can be repeated", []step{
			reserving("a", reserved), committing("a"), committing("a"), reserving("a", handled),
		}},
		{"a commit counts after a release", []step{
			reserving("a", reserved), releasing("a"), committing("a"), reserving("a", handled),
		}},
		{"a commit counts after another's reservation", []step{
			reserving("a", reserved), releasing("a"), reserving("a", reserved), committing("a"), releasing("a"),
			reserving("a", handled),
		}},
	}
	var replicas []mailtrapwebhook.Deduplicator
	for range 2 { // that take turns
		d, _ := s.Replica(t)
		replicas = append(replicas, d)
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for j, step := range tt.steps {
				d, keys := replicas[j%2], strings.Fields(step.keys)
				for k := range keys {
					keys[k] = fmt.Sprintf("%d-%s", i, keys[k])
				}
				switch step.verb {
				case "reserve":
					requireAnswers(t, d, keys, long, step.want...)
				case "commit":
					require.NoError(t, d.Commit(t.Context(), keys))
				case "release":
					require.NoError(t, d.Release(t.Context(), keys))
				}
			}
		})
	}
	t.Run("a lease that is not positive takes nothing", func(t *testing.T) {
		for _, lease := range []time.Duration{0, -1} {
			answers, err := replicas[0].Reserve(t.Context(), []string{"unleased"}, lease)
			require.ErrorContains(t, err, "lease")
			require.Nil(t, answers)
		}
		requireAnswers(t, replicas[0], []string{"unleased"}, long, reserved)
	})
	t.Run("the longest lease does not overflow", func(t *testing.T) {
		requireAnswers(t, replicas[0], []string{"longest"}, 1<<63-1, reserved)
		requireAnswers(t, replicas[1], []string{"longest"}, long, held)
	})
}

func requireAnswers(
	t *testing.T, d mailtrapwebhook.Deduplicator, keys []string, lease time.Duration, want ...mailtrapwebhook.Reservation,
) {
	t.Helper()
	got, err := d.Reserve(t.Context(), keys, lease)
	require.NoError(t, err)
	if len(got) != len(want) || len(got) > 0 && !cmp.Equal(want, got) {
		t.Fatalf("Reserve(%.200q) (-want +got):\n%s", keys, cmp.Diff(want, got))
	}
}

// repeat returns an answer for each of n keys.
func repeat(answer mailtrapwebhook.Reservation, n int) []mailtrapwebhook.Reservation {
	answers := make([]mailtrapwebhook.Reservation, n)
	for i := range answers {
		answers[i] = answer
	}
	return answers
}

func numbered(name string, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("sending-%s-%024d", name, i)
	}
	return keys
}

// # Keys

func testOddKeys(t *testing.T, s Store) {
	keys := []string{
		"a", "A", "a ", " a", "a\n", "a\x00", "a\x00b", "\x00", "\x00a", "\xff", "\xff\xfe", "\xc3", "\xc3\xa9", "e\xcc\x81",
		`\x61`, "61", "'", `"`, `\`, "{a}:b", "{b}:b", "}{", "*", "%", "_", "?", "$1", "NULL", "true", "{}", "[]", ",", "a,b",
		"tenant:a", "tenant:tenant:a", "\U0001f600", strings.Repeat("k", 300), strings.Repeat("k", 301),
	}
	d, _ := s.Replica(t)
	requireAnswers(t, d, keys, long, repeat(reserved, len(keys))...)
	require.NoError(t, d.Release(t.Context(), keys[:10]))
	require.NoError(t, d.Commit(t.Context(), keys[20:]))
	want := repeat(held, len(keys))
	copy(want, repeat(reserved, 10))
	copy(want[20:], repeat(handled, len(keys)-20))
	requireAnswers(t, d, keys, long, want...)
}

// Ten thousand is what MaxEvents of a Handler is.
func testLargeBatch(t *testing.T, s Store) {
	keys := numbered("large", 10_000)
	d, _ := s.Replica(t)
	requireAnswers(t, d, keys, long, repeat(reserved, len(keys))...)
	require.NoError(t, d.Commit(t.Context(), keys[:5000]))
	require.NoError(t, d.Release(t.Context(), keys))
	requireAnswers(t, d, keys, long, append(repeat(handled, 5000), repeat(reserved, 5000)...)...)
}

// # Concurrency

// A worker is one of many that use replicas at the same time.
type worker struct {
	number int
	d      mailtrapwebhook.Deduplicator
}

// concurrently calls f by several workers on each of several replicas, and waits for them.
func concurrently(t *testing.T, s Store, f func(ctx context.Context, w worker) error) {
	t.Helper()
	const replicas, each = 4, 4
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	var all sync.WaitGroup
	for r := range replicas {
		d, _ := s.Replica(t)
		for i := range each {
			all.Go(func() {
				if err := f(ctx, worker{r*each + i, d}); err != nil {
					t.Errorf("worker %d: %v", r*each+i, err)
				}
			})
		}
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// some returns some of the keys, in an order of its own.
func some(keys []string, n int) []string {
	var chosen []string
	for _, i := range rand.Perm(len(keys))[:n] {
		chosen = append(chosen, keys[i])
	}
	return chosen
}

func testOneGetsIt(t *testing.T, s Store) {
	const rounds = 10
	var mu sync.Mutex
	asked, got := make(map[string]bool), make(map[string]int)
	concurrently(t, s, func(ctx context.Context, w worker) error {
		for round := range rounds {
			keys := some(numbered(fmt.Sprint(round), 100), 70)
			answers, err := w.d.Reserve(ctx, keys, long)
			if err != nil {
				return err
			}
			mu.Lock()
			for i, key := range keys {
				asked[key] = true
				if answers[i] == reserved {
					got[key]++
				}
			}
			mu.Unlock()
			if slices.Contains(answers, handled) {
				return errors.New("a key that nobody has handled is Handled")
			}
		}
		return nil
	})
	require.Len(t, asked, rounds*100)
	for key := range asked {
		require.Equal(t, 1, got[key], "who got %s", key)
	}
}

// testExclusion has workers take keys, and release or commit them. Whoever gets a key must be alone with it, and the
// last to ever get it if it commits it.
func testExclusion(t *testing.T, s Store) {
	const rounds = 30
	keys := numbered("own", 100)
	var owners [100]atomic.Int64 // 0: nobody, -1: it is handled
	index := make(map[string]int)
	for i, key := range keys {
		index[key] = i
	}
	concurrently(t, s, func(ctx context.Context, w worker) error {
		me := int64(w.number + 1)
		for range rounds {
			asked := some(keys, 30)
			answers, err := w.d.Reserve(ctx, asked, long)
			if err != nil {
				return err
			}
			var done, undone []string
			for i, key := range asked {
				if answers[i] != reserved {
					continue
				}
				if owner := &owners[index[key]]; !owner.CompareAndSwap(0, me) {
					return fmt.Errorf("%s is reserved and %d has it", key, owner.Load())
				}
				if rand.IntN(20) == 0 {
					owners[index[key]].Store(-1)
					done = append(done, key)
				} else {
					owners[index[key]].Store(0)
					undone = append(undone, key)
				}
			}
			if err := w.d.Commit(ctx, done); err != nil {
				return err
			}
			if err := w.d.Release(ctx, undone); err != nil {
				return err
			}
		}
		return nil
	})
	d, _ := s.Replica(t)
	want := repeat(reserved, len(keys))
	for i := range owners {
		if owners[i].Load() == -1 {
			want[i] = handled
		}
	}
	require.Contains(t, want, handled)
	requireAnswers(t, d, keys, long, want...)
}

// testChurn has marks end, and be removed and made anew by all, which must not make calls wait for each other.
func testChurn(t *testing.T, s Store) {
	const rounds = 20
	keys := numbered("churn", 200)
	concurrently(t, s, func(ctx context.Context, w worker) error {
		for range rounds {
			if _, err := w.d.Reserve(ctx, some(keys, 50), time.Millisecond); err != nil {
				return err
			}
			if err := w.d.Commit(ctx, some(keys, 50)); err != nil {
				return err
			}
			if err := w.d.Release(ctx, some(keys, 50)); err != nil {
				return err
			}
		}
		return nil
	})
}

// # Time

// awaitFree asks for a key, which must be as it is said to be until it is free, and returns when that was.
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
	t.Fatalf("the key is still %v", until)
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
		require.NoError(t, one.Commit(t.Context(), []string{"short"}), "which is another's now")
		requireAnswers(t, other, []string{"short"}, long, handled)
		require.NoError(t, one.Commit(t.Context(), []string{"long"}), "which is nobody's")
		require.NoError(t, other.Release(t.Context(), []string{"short", "long"}))
		requireAnswers(t, other, []string{"short", "long"}, long, handled, handled)
	})
}

// testManyLeasesEnd asks for one key among many that have ended and are still there.
func testManyLeasesEnd(t *testing.T, s Store) {
	const n = 100
	d, _ := s.Replica(t)
	keys := numbered("many", n)
	requireAnswers(t, d, keys, time.Millisecond, repeat(reserved, n)...)
	time.Sleep(5 * time.Millisecond) // so that they end
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
	require.NoError(t, d.Release(t.Context(), []string{"b"}), "which is reserved, no longer handled")
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

// testRemoval never asks for a key twice: what is removed is so without its key being asked for.
func testRemoval(t *testing.T, s Store) {
	if s.Count == nil {
		t.Skip("the marks cannot be counted")
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
		time.Sleep(5 * time.Millisecond) // so that they end
	}
	require.Eventually(t, func() bool { return s.Count(t) <= 4*batch }, soon, 10*time.Millisecond,
		"%d marks are still there", s.Count(t))
	requireAnswers(t, d, lasting, long, repeat(held, batch)...)
}

// # Contexts

func testEndedContext(t *testing.T, s Store) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	d, _ := s.Replica(t)
	requireAnswers(t, d, []string{"reserved"}, long, reserved)
	for want, ctx := range map[error]context.Context{context.Canceled: canceled, context.DeadlineExceeded: late} {
		answers, err := d.Reserve(ctx, []string{"new"}, long)
		require.ErrorIs(t, err, want)
		require.Nil(t, answers)
		require.ErrorIs(t, d.Commit(ctx, []string{"reserved", "new"}), want)
		require.ErrorIs(t, d.Release(ctx, []string{"reserved"}), want)
	}
	requireAnswers(t, d, []string{"reserved", "new"}, long, held, reserved)
}

// testContextEnds has the store answer only when a call has returned.
func testContextEnds(t *testing.T, s Store) {
	if s.Hold == nil {
		t.Skip("the store cannot be held up")
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
			require.NoError(t, d.Release(t.Context(), []string{"other"}), "so that it is connected")
			resume := sync.OnceFunc(s.Hold(t))
			defer resume()
			ctx, cancel := context.WithCancel(t.Context())
			returned := make(chan error, 1)
			go func() { returned <- call(ctx, d) }()
			select {
			case err := <-returned:
				t.Fatalf("it returned while the store was held up: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			cancel()
			select {
			case err := <-returned:
				require.ErrorIs(t, err, context.Canceled)
			case <-time.After(soon):
				t.Fatal("it does not heed its context")
			}
			resume()
			require.NoError(t, d.Release(t.Context(), []string{"other"}), "afterwards")
		})
	}
}

// # The server

func testRoundTrips(t *testing.T, s Store) {
	if s.RoundTrips == nil {
		t.Skip("there is no network")
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
		t.Skip("there is no server")
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
	require.NoError(t, ctx.Err(), "a server that is not there is noticed at once")

	s.Start(t)
	require.Eventually(t, func() bool { // connections that broke may each cost an error
		_, err := d.Reserve(t.Context(), []string{"done"}, long)
		return err == nil
	}, soon, 10*time.Millisecond)
	requireAnswers(t, d, []string{"done", "reserved", "new"}, long, handled, held, reserved)
	require.NoError(t, d.Commit(t.Context(), []string{"new"}))
	require.NoError(t, d.Release(t.Context(), []string{"reserved"}))
	requireAnswers(t, d, []string{"new", "reserved"}, long, handled, reserved)
}

// testWrongClock has a replica in a bubble of synctest, where it is the year 2000 and hours pass at once.
func testWrongClock(t *testing.T, s Store) {
	if !s.OwnClock {
		t.Skip("the store goes by the clock of its one machine or process")
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
