package deduptest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A worker is one of many that use the replicas at the same time.
type worker struct {
	number int
	d      mailtrapwebhook.Deduplicator
}

// concurrently calls f with several workers on each of several replicas and
// waits for them.
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

// some returns n of the keys in a random order.
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
				return errors.New("a key that nobody committed is Handled")
			}
		}
		return nil
	})
	require.Len(t, asked, rounds*100)
	for key := range asked {
		require.Equal(t, 1, got[key], "workers that got %s", key)
	}
}

// testExclusion lets workers reserve keys and release or commit them. A
// reserved key must have one owner. After a commit, nobody may get the key.
func testExclusion(t *testing.T, s Store) {
	const rounds = 30
	keys := numbered("own", 100)
	var owners [100]atomic.Int64 // 0: nobody, -1: handled
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
					return fmt.Errorf("%s is reserved, but worker %d owns it", key, owner.Load())
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

// testChurn lets all workers make, remove and outlive the same marks. No call
// may wait for another for good.
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
