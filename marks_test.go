package mailtrapwebhook_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// A timedStore notes when each key was committed, and when Commit was called.
type timedStore struct {
	mw.MemoryDeduplicator
	mu      sync.Mutex
	marked  map[string]time.Time
	commits []time.Time
	commit  func(ctx context.Context) error
}

func (s *timedStore) Commit(ctx context.Context, keys []string) error {
	s.mu.Lock()
	s.commits = append(s.commits, time.Now())
	s.mu.Unlock()
	if s.commit != nil {
		if err := s.commit(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	for _, key := range keys {
		if s.marked == nil {
			s.marked = make(map[string]time.Time)
		}
		s.marked[key] = time.Now()
	}
	s.mu.Unlock()
	return s.MemoryDeduplicator.Commit(ctx, keys)
}

func TestMarksComeWithinASecondOfTheirCallbacks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := new(timedStore)
		returned := make(map[string]time.Time)
		rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(ctx context.Context, _ mw.Event) error {
			time.Sleep(30 * time.Millisecond)
			returned[mw.KeyFromContext(ctx)] = time.Now()
			return nil
		}})
		began := time.Now()
		require.Equal(t, 200, rig.direct(numbered(500)).Status)
		took := time.Since(began)
		require.Len(t, store.marked, 500)
		for key, at := range store.marked {
			require.LessOrEqual(t, at.Sub(returned[key]), time.Second, key)
		}
		require.LessOrEqual(t, len(store.commits), int(took/time.Second)+1, "one call for each second")
	})
}

func TestQuickDeliveryIsMarkedByOneCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := new(timedStore)
		rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(context.Context, mw.Event) error {
			time.Sleep(time.Millisecond)
			return nil
		}})
		require.Equal(t, 200, rig.direct(numbered(500)).Status)
		require.Len(t, store.commits, 1)
	})
}

// A process that is killed has told the store of all but the last second.
func TestKilledProcessRepeatsASecondsWork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := new(timedStore)
		var killed atomic.Bool
		store.commit = func(context.Context) error {
			if killed.Load() {
				return errors.New("killed")
			}
			return nil
		}
		rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(_ context.Context, ev mw.Event) error {
			time.Sleep(30 * time.Millisecond)
			if idOf(ev) == "300" {
				killed.Store(true)
			}
			return nil
		}})
		rig.direct(numbered(500))
		require.GreaterOrEqual(t, len(store.marked), 300-int(time.Second/(30*time.Millisecond))-1)
	})
}

func TestFailedMarkIsMadeAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := new(timedStore)
		store.commit = func(context.Context) error {
			if len(store.commits) < 3 {
				return errBoom
			}
			return nil
		}
		rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(context.Context, mw.Event) error {
			time.Sleep(100 * time.Millisecond)
			return nil
		}})
		require.Equal(t, 200, rig.direct(numbered(50)).Status)
		require.Len(t, store.marked, 50)
		require.Equal(t, 2, rig.said.count("Dedup.Commit failed"))
	})
}

// A store that hangs holds up neither the callbacks nor the answer.
func TestStoreThatHangsHoldsUpNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := new(timedStore)
		store.commit = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		rig := newRig(t, &mw.Handler{Dedup: store, Timeout: 28 * time.Second, OnEvent: func(context.Context, mw.Event) error {
			time.Sleep(50 * time.Millisecond)
			return nil
		}})
		began := time.Now()
		require.Equal(t, 200, rig.direct(numbered(500)).Status)
		require.Less(t, time.Since(began), 29500*time.Millisecond)
	})
}

// Of a callback that was abandoned, success is marked and failure released.
func TestLateReturnsAreTold(t *testing.T) {
	for _, result := range []error{nil, errBoom} {
		bubble(t, func(t *testing.T) {
			store := &recordingStore{}
			rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(_ context.Context, ev mw.Event) error {
				if i, _ := strconv.Atoi(idOf(ev)); i < 3 {
					time.Sleep(time.Minute)
					return result
				}
				return nil
			}})
			require.Equal(t, 500, rig.direct(numbered(6)).Status)
			require.Equal(t, 3, rig.last().Failed)
			require.Empty(t, store.keysOf("Release"), "the callbacks still run")
			require.Len(t, store.keysOf("Commit"), 3)
			time.Sleep(time.Minute)
			if result == nil {
				require.Len(t, store.keysOf("Commit"), 6)
			} else {
				require.Len(t, store.keysOf("Release"), 3)
			}
			require.LessOrEqual(t, len(store.called()), 1+2+3, "one call for each second")
		})
	}
}

// An event that overran and then succeeds while others are still called for
// has failed for this delivery, and is marked all the same.
func TestLateReturnWithinTheDelivery(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := new(timedStore)
		rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(_ context.Context, ev mw.Event) error {
			if idOf(ev) == "0" {
				time.Sleep(7 * time.Second)
			} else {
				time.Sleep(time.Second)
			}
			return nil
		}})
		require.Equal(t, 500, rig.direct(numbered(6)).Status)
		require.Equal(t, 1, rig.last().Failed)
		require.Equal(t, 5, rig.last().Handled)
		require.Len(t, store.marked, 6)
		require.Equal(t, 200, rig.direct(numbered(6)).Status)
		require.Equal(t, 6, rig.last().Duplicates)
	})
}

// A mark that failed is made again a second later, though no callback returns.
func TestFailedMarkIsMadeAgainWhileACallbackRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := new(timedStore)
		store.commit = func(context.Context) error {
			if len(store.commits) == 1 {
				return errBoom
			}
			return nil
		}
		began := time.Now()
		rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(_ context.Context, ev mw.Event) error {
			if idOf(ev) == "1" {
				time.Sleep(4 * time.Second)
			}
			return nil
		}})
		require.Equal(t, 200, rig.direct(numbered(2)).Status)
		require.LessOrEqual(t, store.marked["delivery/m-0/0"].Sub(began), 2*time.Second)
	})
}

// A client that hangs up does not end the contexts of the store's calls.
func TestDedupOutlivesTheClient(t *testing.T) {
	var errs []error
	store := &recordingStore{}
	note := func(ctx context.Context) error { errs = append(errs, ctx.Err()); return nil }
	store.commit, store.release = note, note
	store.reserve = func(ctx context.Context, keys []string) ([]mw.Reservation, error) {
		return store.working.Reserve(ctx, keys, time.Minute)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(ctx context.Context, ev mw.Event) error {
		errs = append(errs, ctx.Err())
		if idOf(ev) == "b" {
			return errBoom
		}
		return nil
	}})
	hangUp()
	rig.direct(bodyOf("a", "b"), func(r *http.Request) { *r = *r.WithContext(ctx) })
	require.Equal(t, []string{"Reserve", "Commit", "Release"}, store.names())
	require.Equal(t, make([]error, 4), errs)
}

func TestDedupFailures(t *testing.T) {
	some := func(reservations ...mw.Reservation) func(context.Context, []string) ([]mw.Reservation, error) {
		return func(context.Context, []string) ([]mw.Reservation, error) { return reservations, nil }
	}
	hang := func(ctx context.Context) error { time.Sleep(time.Hour); return nil }
	wait := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	panics := func(context.Context) error { panic("of the store") }
	fails := func(context.Context) error { return errBoom }
	exits := func(context.Context) error { runtime.Goexit(); return nil }
	answering := func(f func(context.Context) error) func(context.Context, []string) ([]mw.Reservation, error) {
		return func(ctx context.Context, keys []string) ([]mw.Reservation, error) {
			return slices.Repeat([]mw.Reservation{mw.Reserved}, len(keys)), f(ctx)
		}
	}
	tests := []struct {
		name    string
		store   *recordingStore
		onEvent func(context.Context, mw.Event) error
		want    int
		calls   []string
	}{
		{"a reservation is none", &recordingStore{reserve: some(mw.Reserved, 0, mw.Reserved)}, nil, 503, []string{"Reserve", "Release"}},
		{"a reservation is unknown", &recordingStore{reserve: some(mw.Reserved, 9, mw.Reserved)}, nil, 503, []string{"Reserve", "Release"}},
		{"too few reservations", &recordingStore{reserve: some(mw.Reserved, mw.Reserved)}, nil, 503, nil},
		{"no reservations", &recordingStore{reserve: some()}, nil, 503, nil},
		{"too many reservations", &recordingStore{reserve: some(mw.Reserved, mw.Reserved, mw.Reserved, mw.Reserved)}, nil, 503, nil},
		{"Reserve fails", &recordingStore{reserve: answering(fails)}, nil, 503, nil},
		{"Reserve panics", &recordingStore{reserve: answering(panics)}, nil, 503, nil},
		{"Reserve exits", &recordingStore{reserve: answering(exits)}, nil, 503, nil},
		{"Reserve hangs", &recordingStore{reserve: answering(hang)}, nil, 503, nil},
		{"Reserve waits", &recordingStore{reserve: answering(wait)}, nil, 503, nil},
		{"Commit fails", &recordingStore{commit: fails}, eventReturning(nil), 200, []string{"Reserve", "Commit"}},
		{"Commit panics", &recordingStore{commit: panics}, eventReturning(nil), 200, []string{"Reserve", "Commit"}},
		{"Commit exits", &recordingStore{commit: exits}, eventReturning(nil), 200, []string{"Reserve", "Commit"}},
		{"Commit hangs", &recordingStore{commit: hang}, eventReturning(nil), 200, []string{"Reserve", "Commit"}},
		{"Release fails", &recordingStore{release: fails}, eventReturning(errBoom), 500, []string{"Reserve", "Release"}},
		{"Release panics", &recordingStore{release: panics}, eventReturning(errBoom), 500, []string{"Reserve", "Release"}},
		{"Release hangs", &recordingStore{release: hang}, eventReturning(errBoom), 500, []string{"Reserve", "Release"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				rig := newRig(t, &mw.Handler{Dedup: test.store, OnEvent: test.onEvent})
				began := time.Now()
				require.Equal(t, test.want, rig.direct(bodyOf("a", "b", "c")).Status)
				require.Less(t, time.Since(began), 30*time.Second)
				require.Contains(t, rig.said.String(), `"level":"ERROR"`, "it is logged")
				if test.onEvent == nil {
					require.Empty(t, rig.handled())
				}
				if test.calls != nil {
					require.Equal(t, test.calls, test.store.names())
				}
				if released := test.store.keysOf("Release"); test.onEvent == nil && released != nil {
					keys := test.store.keysOf("Reserve")
					require.Equal(t, []string{keys[0], keys[2]}, released, "what was reserved is released")
				}
				if strings.HasSuffix(test.name, "panics") {
					require.Contains(t, rig.said.String(), "_test.go", "the log has the stack")
				}
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

// When Commit hangs, the store still gets time to release what failed.
func TestReleaseAfterCommitHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var released error = errBoom
		store := &recordingStore{
			commit:  func(context.Context) error { time.Sleep(time.Hour); return nil },
			release: func(ctx context.Context) error { released = ctx.Err(); return nil },
		}
		rig := newRig(t, &mw.Handler{Timeout: 28 * time.Second, Dedup: store, OnEvent: func(ctx context.Context, ev mw.Event) error {
			if idOf(ev) == "a" {
				return nil
			}
			return errBoom
		}})
		require.Equal(t, 500, rig.direct(bodyOf("a", "b")).Status)
		require.Equal(t, []string{"Reserve", "Commit", "Release"}, store.names())
		require.NoError(t, released)
		time.Sleep(2 * time.Hour)
	})
}

// When a callback returns late, the answer is long given. Its Commit has the
// full five seconds.
func TestLateCommitIsNotRushed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := &recordingStore{commit: func(ctx context.Context) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(context.Context, mw.Event) error {
			time.Sleep(29400 * time.Millisecond)
			return nil
		}})
		require.Equal(t, 500, rig.direct(bodyOf("a")).Status)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"Reserve", "Commit"}, store.names())
		require.Zero(t, rig.said.count("Dedup failed"))
	})
}
