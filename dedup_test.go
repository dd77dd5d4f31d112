package mailtrapwebhook_test

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	reserved = mw.Reserved
	handled  = mw.Handled
	held     = mw.Held
)

// A dedupStep does something to a store, or asks it something, some time after the step before it.
type dedupStep struct {
	after time.Duration
	do    func(t *testing.T, d *mw.MemoryDeduplicator)
}

func reserving(keys string, lease time.Duration, want ...mw.Reservation) dedupStep {
	return dedupStep{do: func(t *testing.T, d *mw.MemoryDeduplicator) {
		t.Helper()
		got, err := d.Reserve(t.Context(), strings.Fields(keys), lease)
		require.NoError(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Reserve(%q) (-want +got):\n%s", keys, diff)
		}
	}}
}

func committing(keys string) dedupStep {
	return dedupStep{do: func(t *testing.T, d *mw.MemoryDeduplicator) {
		t.Helper()
		require.NoError(t, d.Commit(t.Context(), strings.Fields(keys)))
	}}
}

func releasing(keys string) dedupStep {
	return dedupStep{do: func(t *testing.T, d *mw.MemoryDeduplicator) {
		t.Helper()
		require.NoError(t, d.Release(t.Context(), strings.Fields(keys)))
	}}
}

// after returns the step, to be taken that much later.
func after(pause time.Duration, s dedupStep) dedupStep {
	s.after = pause
	return s
}

func TestMemoryDeduplicator(t *testing.T) {
	const lease, retention = time.Minute, time.Hour
	tests := []struct {
		name  string
		steps []dedupStep
	}{
		{"a free key is reserved, then held", []dedupStep{
			reserving("a", lease, reserved),
			reserving("a", lease, held),
		}},
		{"no keys, no answers", []dedupStep{
			{do: func(t *testing.T, d *mw.MemoryDeduplicator) {
				got, err := d.Reserve(t.Context(), nil, lease)
				require.NoError(t, err)
				require.Empty(t, got)
			}},
			committing(""),
			releasing(""),
		}},
		{"keys are answered one by one, in order", []dedupStep{
			reserving("a b", lease, reserved, reserved),
			committing("a"),
			reserving("c b a d", lease, reserved, held, handled, reserved),
		}},
		{"of equal keys in a call the first is reserved", []dedupStep{
			reserving("a b a a", lease, reserved, reserved, held, held),
		}},
		{"of equal handled keys in a call all are handled", []dedupStep{
			committing("a"),
			reserving("a a", lease, handled, handled),
		}},
		{"a lease ends", []dedupStep{
			reserving("a", lease, reserved),
			after(lease-1, reserving("a", lease, held)),
			after(1, reserving("a", lease, reserved)),
			after(lease-1, reserving("a", lease, held)),
		}},
		{"being asked for does not prolong a lease", []dedupStep{
			reserving("a", lease, reserved),
			after(lease/2, reserving("a", lease, held)),
			after(lease/2, reserving("a", lease, reserved)),
		}},
		{"leases of different lengths end in their own time", []dedupStep{
			reserving("long", 3*lease, reserved),
			reserving("short", lease, reserved),
			after(lease, reserving("long short", lease, held, reserved)),
			after(2*lease, reserving("long", lease, reserved)),
		}},
		{"the longest lease does not overflow", []dedupStep{
			after(time.Hour, reserving("a", math.MaxInt64, reserved)),
			after(time.Hour, reserving("a", lease, held)),
		}},
		{"a released key is free", []dedupStep{
			reserving("a b", lease, reserved, reserved),
			releasing("a"),
			reserving("a b", lease, reserved, held),
		}},
		{"a key can be released twice, and unseen", []dedupStep{
			reserving("a", lease, reserved),
			releasing("a a never"),
			releasing("a"),
			reserving("a never", lease, reserved, reserved),
		}},
		{"releasing does not remove a handled mark", []dedupStep{
			reserving("a", lease, reserved),
			committing("a"),
			releasing("a"),
			reserving("a", lease, handled),
		}},
		{"a commit outlasts the lease", []dedupStep{
			reserving("a", lease, reserved),
			committing("a"),
			after(lease, reserving("a", lease, handled)),
		}},
		{"a commit after the lease counts", []dedupStep{
			reserving("a", lease, reserved),
			after(2*lease, committing("a")),
			reserving("a", lease, handled),
		}},
		{"a commit counts while another holds the key", []dedupStep{
			reserving("a", lease, reserved),
			after(lease, reserving("a", lease, reserved)),
			committing("a"),
			releasing("a"),
			reserving("a", lease, handled),
		}},
		{"a commit counts without a reservation", []dedupStep{
			committing("a"),
			reserving("a", lease, handled),
		}},
		{"a handled mark ends with the retention", []dedupStep{
			committing("a"),
			after(retention-1, reserving("a", lease, handled)),
			after(1, reserving("a", lease, reserved)),
			releasing("a"),
			reserving("a", lease, reserved),
		}},
		{"a second commit begins the retention anew", []dedupStep{
			committing("a"),
			after(retention/2, committing("a")),
			after(retention-1, reserving("a", lease, handled)),
			after(1, reserving("a", lease, reserved)),
		}},
		{"the oldest commit is forgotten first", []dedupStep{
			reserving("a b c d", lease, reserved, reserved, reserved, reserved),
			committing("d c"),
			committing("b a"), // the store keeps three
			reserving("c b a d", lease, handled, handled, handled, reserved),
		}},
		{"a second commit makes a key the newest", []dedupStep{
			committing("a b c"),
			committing("a"),
			committing("d"),
			reserving("a c d b", lease, handled, handled, handled, reserved),
		}},
		{"a commit of more keys than are kept keeps the last", []dedupStep{
			committing("a b c d e"),
			reserving("c d e a b", lease, handled, handled, handled, reserved, reserved),
		}},
		{"leases are not evicted", []dedupStep{
			reserving("a b c d e", lease, reserved, reserved, reserved, reserved, reserved),
			committing("w x y z"),
			reserving("a b c d e", lease, held, held, held, held, held),
			reserving("x y z", lease, handled, handled, handled),
		}},
		{"leases do not evict", []dedupStep{
			committing("a b c"),
			reserving("p q r s", lease, reserved, reserved, reserved, reserved),
			reserving("a b c", lease, handled, handled, handled),
		}},
		{"what was forgotten makes no room twice", []dedupStep{
			committing("a b c"),
			after(retention, reserving("a", lease, reserved)),
			committing("d e f"),
			reserving("a d e f", lease, held, handled, handled, handled),
		}},
		{"the empty key is a key", []dedupStep{
			{do: func(t *testing.T, d *mw.MemoryDeduplicator) {
				got, err := d.Reserve(t.Context(), []string{"", ""}, lease)
				require.NoError(t, err)
				require.Equal(t, []mw.Reservation{reserved, held}, got)
			}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := mw.NewMemoryDeduplicator(retention, 3)
				for _, s := range tt.steps {
					time.Sleep(s.after)
					s.do(t, d)
				}
			})
		})
	}
}

func TestMemoryDeduplicatorDefaults(t *testing.T) {
	stores := map[string]func() *mw.MemoryDeduplicator{
		"zero value": func() *mw.MemoryDeduplicator { return new(mw.MemoryDeduplicator) },
		"zeros":      func() *mw.MemoryDeduplicator { return mw.NewMemoryDeduplicator(0, 0) },
		"negatives":  func() *mw.MemoryDeduplicator { return mw.NewMemoryDeduplicator(-1, -1) },
	}
	for name, store := range stores {
		t.Run(name+" keeps for 72 hours", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := store()
				committing("a").do(t, d)
				time.Sleep(72*time.Hour - 1)
				reserving("a", 1, handled).do(t, d)
				time.Sleep(time.Nanosecond)
				reserving("a", 1, reserved).do(t, d)
			})
		})
	}
	t.Run("a million keys", func(t *testing.T) {
		if testing.Short() {
			t.Skip("half a second")
		}
		var d mw.MemoryDeduplicator
		committing("oldest second").do(t, &d)
		commitDistinct(t, &d, 0, 999_999)
		reserving("second oldest", time.Minute, handled, reserved).do(t, &d)
	})
	t.Run("the longest retention does not overflow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := mw.NewMemoryDeduplicator(math.MaxInt64, 0)
			committing("a").do(t, d)
			time.Sleep(10 * 365 * 24 * time.Hour)
			committing("b").do(t, d)
			reserving("a b", 1, handled, handled).do(t, d)
		})
	})
}

func TestMemoryDeduplicatorErrors(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	for want, ctx := range map[error]context.Context{context.Canceled: canceled, context.DeadlineExceeded: late} {
		t.Run(want.Error()+" changes nothing", func(t *testing.T) {
			d := mw.NewMemoryDeduplicator(0, 0)
			reserving("reserved", time.Minute, reserved).do(t, d)

			got, err := d.Reserve(ctx, []string{"new"}, time.Minute)
			require.ErrorIs(t, err, want)
			require.Nil(t, got)
			require.ErrorIs(t, d.Commit(ctx, []string{"reserved", "new"}), want)
			require.ErrorIs(t, d.Release(ctx, []string{"reserved"}), want)

			reserving("reserved new", time.Minute, held, reserved).do(t, d)
		})
	}
	t.Run("a nil store has no answers", func(t *testing.T) {
		var d *mw.MemoryDeduplicator
		got, err := d.Reserve(t.Context(), []string{"a"}, time.Minute)
		require.ErrorContains(t, err, "nil")
		require.Nil(t, got)
		require.ErrorContains(t, d.Commit(t.Context(), []string{"a"}), "nil")
		require.ErrorContains(t, d.Release(t.Context(), []string{"a"}), "nil")
	})
	for _, lease := range []time.Duration{0, -1} {
		t.Run(fmt.Sprintf("a lease of %d takes nothing", lease), func(t *testing.T) {
			d := mw.NewMemoryDeduplicator(0, 0)
			got, err := d.Reserve(t.Context(), []string{"a"}, lease)
			require.ErrorContains(t, err, "lease")
			require.Nil(t, got)
			reserving("a", time.Minute, reserved).do(t, d)
		})
	}
}

func TestReservationString(t *testing.T) {
	for want, r := range map[string]mw.Reservation{"Reserved": reserved, "Handled": handled, "Held": held, "unknown": 0} {
		require.Equal(t, want, r.String())
	}
	require.Equal(t, "unknown", mw.Reservation(4).String())
}

// However many keys there are, each is told from the others.
func TestMemoryDeduplicatorManyKeys(t *testing.T) {
	const n, rounds = 5003, 3
	keys := distinctKeys(0, n)
	d := mw.NewMemoryDeduplicator(0, 0)
	want := make([]mw.Reservation, n)
	for round := range rounds {
		_, err := d.Reserve(t.Context(), keys, time.Hour)
		require.NoError(t, err)
		for i := range keys {
			switch (i + round) % 7 {
			case 0:
				want[i] = handled
				require.NoError(t, d.Commit(t.Context(), keys[i:i+1]))
			case 1, 2, 3:
				require.NoError(t, d.Release(t.Context(), keys[i:i+1]))
				if want[i] != handled {
					want[i] = reserved
				}
			default:
				if want[i] != handled {
					want[i] = held
				}
			}
		}
		got, err := d.Reserve(t.Context(), keys, time.Hour)
		require.NoError(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("round %d (-want +got):\n%s", round, diff)
		}
	}
}

// Of many that reserve a key at the same time one gets it, whatever the others do to their own.
func TestMemoryDeduplicatorConcurrently(t *testing.T) {
	const goroutines, keys = 16, 2000
	d := mw.NewMemoryDeduplicator(0, 0)
	won := make([][]mw.Reservation, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range keys {
				got, err := d.Reserve(t.Context(), []string{fmt.Sprint(i)}, time.Hour)
				if err != nil {
					t.Error(err)
					return
				}
				won[g] = append(won[g], got...)
				if got[0] == reserved && i%2 == 0 {
					if err := d.Commit(t.Context(), []string{fmt.Sprint(i)}); err != nil {
						t.Error(err)
					}
				}
				own := []string{fmt.Sprint("own", g)}
				got, err = d.Reserve(t.Context(), own, time.Hour)
				if err != nil || got[0] != reserved || d.Release(t.Context(), own) != nil {
					t.Errorf("goroutine %d, own key: %v, %v", g, got, err)
				}
			}
		})
	}
	wg.Wait()
	for i := range keys {
		winners := 0
		for g := range goroutines {
			require.Len(t, won[g], keys)
			switch won[g][i] {
			case reserved:
				winners++
			case handled:
				require.Zero(t, i%2, "key %d was never committed", i)
			}
		}
		require.Equal(t, 1, winners, "of key %d", i)
	}
}

// What the doc comment of MemoryDeduplicator says that a key takes, and a tenth more for the steps in which memory
// grows.
const bytesPerKey = 50 + 5

// TestMemoryDeduplicatorMemory sends ten times as many keys through a store as it keeps.
func TestMemoryDeduplicatorMemory(t *testing.T) {
	const maxKeys = 100_000
	d := mw.NewMemoryDeduplicator(0, maxKeys)
	used := heapGrowth(func() { handleDistinct(t, d, 10*maxKeys) })
	t.Logf("%.1f bytes for each of %d keys", float64(used)/maxKeys, maxKeys)
	require.Less(t, used, int64(maxKeys*bytesPerKey))
	runtime.KeepAlive(d)
}

// Keys for which nobody ever comes back take no memory for long, even behind leases that last.
func TestMemoryDeduplicatorForgets(t *testing.T) {
	const batch, batches = 500, 400
	tests := map[string]func(t *testing.T, d *mw.MemoryDeduplicator, keys []string){
		"ended leases": func(t *testing.T, d *mw.MemoryDeduplicator, keys []string) {
			_, err := d.Reserve(t.Context(), keys, time.Second)
			require.NoError(t, err)
		},
		"ended handled marks": func(t *testing.T, d *mw.MemoryDeduplicator, keys []string) {
			_, err := d.Reserve(t.Context(), keys, time.Second)
			require.NoError(t, err)
			require.NoError(t, d.Commit(t.Context(), keys))
		},
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := mw.NewMemoryDeduplicator(time.Second, 0)
				_, err := d.Reserve(t.Context(), distinctKeys(1_000_000_000, batch), 24*time.Hour)
				require.NoError(t, err)
				used := heapGrowth(func() {
					for i := range batches {
						do(t, d, distinctKeys(i*batch, batch))
						time.Sleep(time.Second)
					}
				})
				t.Logf("%d bytes", used)
				require.Less(t, used, int64(batch*batches*bytesPerKey/10))
				runtime.KeepAlive(d)
			})
		})
	}
}

// One key of many that goes takes no other with it, whether they are reserved or handled.
func TestMemoryDeduplicatorRemovesNoOther(t *testing.T) {
	const n = 10_000
	keys := distinctKeys(0, n)
	reserve := func(d *mw.MemoryDeduplicator, others mw.Reservation) {
		got, err := d.Reserve(t.Context(), keys, time.Hour)
		require.NoError(t, err)
		require.Equal(t, append([]mw.Reservation{reserved}, slices.Repeat([]mw.Reservation{others}, n-1)...), got)
	}
	t.Run("released", func(t *testing.T) {
		d := mw.NewMemoryDeduplicator(0, 0)
		reserve(d, reserved)
		require.NoError(t, d.Release(t.Context(), keys[:1]))
		reserve(d, held)
	})
	t.Run("evicted", func(t *testing.T) {
		d := mw.NewMemoryDeduplicator(0, n)
		require.NoError(t, d.Commit(t.Context(), keys))
		require.NoError(t, d.Commit(t.Context(), distinctKeys(n, 1)))
		reserve(d, handled)
	})
}

// What many keys took is given back when they are gone, and the store works as before.
func TestMemoryDeduplicatorGivesMemoryBack(t *testing.T) {
	const keys = 100_000
	d := mw.NewMemoryDeduplicator(0, 0)
	used := heapGrowth(func() {
		for i := range 3 {
			many := distinctKeys(i*keys, keys)
			_, err := d.Reserve(t.Context(), many, time.Hour)
			require.NoError(t, err)
			require.NoError(t, d.Release(t.Context(), many))
		}
	})
	require.Less(t, used, int64(keys*bytesPerKey/10))
	few := distinctKeys(0, 2)
	_, err := d.Reserve(t.Context(), few, time.Hour)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), few[:1]))
	got, err := d.Reserve(t.Context(), few, time.Hour)
	require.NoError(t, err)
	require.Equal(t, []mw.Reservation{handled, held}, got)
}

// Keys are parts of a body or made with one; a stored key must not keep that in memory, whichever way it was stored.
func TestMemoryDeduplicatorKeepsNoBodies(t *testing.T) {
	const bodies, bodyBytes, keyBytes = 64, 1 << 20, 40
	bodyOf := func(i int) string { return fmt.Sprintf("%0*d", keyBytes, i) + strings.Repeat("x", bodyBytes) }
	synctest.Test(t, func(t *testing.T) {
		d := mw.NewMemoryDeduplicator(0, 0)
		reserve := func(i int, want mw.Reservation) {
			got, err := d.Reserve(t.Context(), []string{bodyOf(i)[:keyBytes]}, time.Second)
			require.NoError(t, err)
			require.Equal(t, []mw.Reservation{want}, got)
		}
		used := heapGrowth(func() {
			for i := range bodies {
				reserve(i, reserved)
			}
			time.Sleep(time.Second)
			for i := range bodies {
				reserve(i, reserved) // again, from another body
				require.NoError(t, d.Commit(t.Context(), []string{bodyOf(i)[:keyBytes]}))
				require.NoError(t, d.Commit(t.Context(), []string{bodyOf(bodies + i)[:keyBytes]}))
			}
		})
		require.Less(t, used, int64(bodyBytes))
		reserve(0, handled)
	})
}

// BenchmarkMemoryDeduplicator reserves and commits deliveries of 500 new events each, in a store that keeps few keys and
// in one that keeps the default million, both full. The keys are made anew each time, outside of what is measured,
// because those of a delivery have just been made as well.
func BenchmarkMemoryDeduplicator(b *testing.B) {
	const batch = 500
	for _, maxKeys := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint(maxKeys), func(b *testing.B) {
			d := mw.NewMemoryDeduplicator(0, maxKeys)
			commitDistinct(b, d, 0, maxKeys)
			b.ReportAllocs()
			for next := maxKeys; b.Loop(); next += batch {
				b.StopTimer()
				keys := distinctKeys(next, batch)
				b.StartTimer()
				reserveAndCommit(b, d, keys)
			}
		})
	}
}

// BenchmarkMemoryDeduplicatorMemory sends ten million keys through a store of a million.
func BenchmarkMemoryDeduplicatorMemory(b *testing.B) {
	const maxKeys = 1_000_000
	for b.Loop() {
		d := mw.NewMemoryDeduplicator(0, maxKeys)
		used := heapGrowth(func() { handleDistinct(b, d, maxKeys) })
		b.ReportMetric(float64(used)/maxKeys, "bytes/key-when-filled")
		used += heapGrowth(func() { handleDistinct(b, d, 10*maxKeys) })
		b.ReportMetric(float64(used)/maxKeys, "bytes/key-in-the-end")
		runtime.KeepAlive(d)
	}
}

// distinctKeys returns n keys of 40 bytes, beginning with the key of that number.
func distinctKeys(from, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("sending:%032x", from+i)
	}
	return keys
}

// handleDistinct reserves and commits n keys, delivery by delivery.
func handleDistinct(tb testing.TB, d mw.Deduplicator, n int) {
	tb.Helper()
	const batch = 500
	for i := 0; i < n; i += batch {
		reserveAndCommit(tb, d, distinctKeys(i, batch))
	}
}

func commitDistinct(tb testing.TB, d mw.Deduplicator, from, n int) {
	tb.Helper()
	require.NoError(tb, d.Commit(tb.Context(), distinctKeys(from, n)))
}

func reserveAndCommit(tb testing.TB, d mw.Deduplicator, keys []string) {
	if _, err := d.Reserve(tb.Context(), keys, 85*time.Second); err != nil {
		tb.Fatal(err)
	}
	if err := d.Commit(tb.Context(), keys); err != nil {
		tb.Fatal(err)
	}
}

// heapGrowth returns by how much the memory in use grows while f runs, garbage apart.
func heapGrowth(f func()) int64 {
	before := heapInUse()
	f()
	return heapInUse() - before
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools held goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
