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

// A storeStep does something to a store, or asks it something, some time after
// the step before it.
type storeStep struct {
	after time.Duration
	do    func(t *testing.T, d *mw.MemoryDeduplicator)
}

func reserving(keys string, lease time.Duration, want ...mw.Reservation) storeStep {
	return storeStep{do: func(t *testing.T, d *mw.MemoryDeduplicator) {
		t.Helper()
		got, err := d.Reserve(t.Context(), strings.Fields(keys), lease)
		require.NoError(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Reserve(%q) (-want +got):\n%s", keys, diff)
		}
	}}
}

func committing(keys string) storeStep {
	return storeStep{do: func(t *testing.T, d *mw.MemoryDeduplicator) {
		t.Helper()
		require.NoError(t, d.Commit(t.Context(), strings.Fields(keys)))
	}}
}

func releasing(keys string) storeStep {
	return storeStep{do: func(t *testing.T, d *mw.MemoryDeduplicator) {
		t.Helper()
		require.NoError(t, d.Release(t.Context(), strings.Fields(keys)))
	}}
}

// after returns the step, to be taken that much later.
func after(pause time.Duration, s storeStep) storeStep {
	s.after = pause
	return s
}

func TestMemoryDeduplicator(t *testing.T) {
	const lease, retention = time.Minute, time.Hour
	tests := []struct {
		name  string
		steps []storeStep
	}{
		{"a free key is reserved, then held", []storeStep{
			reserving("a", lease, reserved),
			reserving("a", lease, held),
		}},
		{"no keys, no answers", []storeStep{
			{do: func(t *testing.T, d *mw.MemoryDeduplicator) {
				got, err := d.Reserve(t.Context(), nil, lease)
				require.NoError(t, err)
				require.Empty(t, got)
			}},
			committing(""),
			releasing(""),
		}},
		{"each key is answered, in order", []storeStep{
			reserving("a b", lease, reserved, reserved),
			committing("a"),
			reserving("c b a d", lease, reserved, held, handled, reserved),
		}},
		{"of equal keys in a call the first is reserved", []storeStep{
			reserving("a b a a", lease, reserved, reserved, held, held),
		}},
		{"equal handled keys in a call are all handled", []storeStep{
			committing("a"),
			reserving("a a", lease, handled, handled),
		}},
		{"a lease ends", []storeStep{
			reserving("a", lease, reserved),
			after(lease-1, reserving("a", lease, held)),
			after(1, reserving("a", lease, reserved)),
			after(lease-1, reserving("a", lease, held)),
		}},
		{"a Held answer does not prolong the lease", []storeStep{
			reserving("a", lease, reserved),
			after(lease/2, reserving("a", lease, held)),
			after(lease/2, reserving("a", lease, reserved)),
		}},
		{"each lease has its own length", []storeStep{
			reserving("long", 3*lease, reserved),
			reserving("short", lease, reserved),
			after(lease, reserving("long short", lease, held, reserved)),
			after(2*lease, reserving("long", lease, reserved)),
		}},
		{"the longest lease does not overflow", []storeStep{
			after(time.Hour, reserving("a", math.MaxInt64, reserved)),
			after(time.Hour, reserving("a", math.MaxInt64, held)),
		}},
		{"a released key is free", []storeStep{
			reserving("a b", lease, reserved, reserved),
			releasing("a"),
			reserving("a b", lease, reserved, held),
		}},
		{"a key can be released twice, and unseen", []storeStep{
			releasing("never"),
			reserving("a", lease, reserved),
			releasing("a a never"),
			releasing("a"),
			reserving("a never", lease, reserved, reserved),
		}},
		{"Release does not remove a handled mark", []storeStep{
			reserving("a", lease, reserved),
			committing("a"),
			releasing("a"),
			reserving("a", lease, handled),
		}},
		{"Release does not remove an old handled mark", []storeStep{
			committing("a b c d"),
			releasing("a"),
			reserving("a", lease, handled),
		}},
		{"Commit outlasts the lease", []storeStep{
			reserving("a", lease, reserved),
			committing("a"),
			after(lease, reserving("a", lease, handled)),
		}},
		{"Commit counts after the lease", []storeStep{
			reserving("a", lease, reserved),
			after(2*lease, committing("a")),
			reserving("a", lease, handled),
		}},
		{"Commit counts while another holds the key", []storeStep{
			reserving("a", lease, reserved),
			after(lease, reserving("a", lease, reserved)),
			committing("a"),
			releasing("a"),
			reserving("a", lease, handled),
		}},
		{"Commit counts without a reservation", []storeStep{
			committing("a"),
			reserving("a", lease, handled),
		}},
		{"Commit ends the lease", []storeStep{
			reserving("a", math.MaxInt64, reserved),
			committing("a"),
			after(2*retention, reserving("a", lease, reserved)),
		}},
		{"the empty key is a key", []storeStep{
			{do: func(t *testing.T, d *mw.MemoryDeduplicator) {
				got, err := d.Reserve(t.Context(), []string{"", ""}, lease)
				require.NoError(t, err)
				require.Equal(t, []mw.Reservation{reserved, held}, got)
			}},
		}},

		// The first generation begins with the first call.
		{"a mark from the beginning of a generation lasts twice Retention", []storeStep{
			committing("a"),
			after(2*retention-1, reserving("a", lease, handled)),
			after(1, reserving("a", lease, reserved)),
			releasing("a"),
			reserving("a", lease, reserved),
		}},
		{"a mark from the end of a generation lasts Retention", []storeStep{
			committing("first"),
			after(retention-1, committing("last")),
			after(retention-1, reserving("last", lease, handled)),
			after(2, reserving("last", lease, reserved)),
		}},
		{"marks end without calls in between", []storeStep{
			committing("a"),
			after(2*retention, reserving("a", lease, reserved)),
		}},
		{"marks last Retention after a long time without calls", []storeStep{
			committing("a"),
			after(100*retention+retention/2, committing("b")),
			after(1, reserving("a b", lease, reserved, handled)),
			after(retention-2, reserving("b", lease, handled)),
			after(retention+1, reserving("b", lease, reserved)),
		}},
		{"a turn that was noticed late counts from when it was due", []storeStep{
			committing("a"),
			after(retention+retention/2, reserving("a", lease, handled)),
			after(retention/2, reserving("a", lease, reserved)),
		}},
		{"a second Commit begins the retention anew", []storeStep{
			committing("a"),
			after(retention+1, committing("a")), // it is in the old generation only
			after(retention-1, reserving("a", lease, handled)),
			after(retention, reserving("a", lease, reserved)),
		}},

		// The stores of these tests have a MaxKeys of 3.
		{"the last MaxKeys keys are remembered", []storeStep{
			committing("a b c"),
			committing("d e f"),
			reserving("a b c d e f", lease, handled, handled, handled, handled, handled, handled),
			committing("g"),
			reserving("d e f g a b c", lease, handled, handled, handled, handled, reserved, reserved, reserved),
		}},
		{"twice MaxKeys keys are the most, in one Commit too", []storeStep{
			committing("a b c d e f g h i j"),
			reserving("g h i j", lease, handled, handled, handled, handled),
			reserving("a b c d e f", lease, reserved, reserved, reserved, reserved, reserved, reserved),
		}},
		{"a second Commit makes a key the newest", []storeStep{
			committing("a b c"),
			committing("d a"), // a is in the old generation only
			committing("e f g"),
			reserving("a b c", lease, handled, reserved, reserved),
		}},
		{"a second Commit of a young key forgets none", []storeStep{
			committing("a b c d e f"),
			committing("f e d f e d"),
			reserving("a b c", lease, handled, handled, handled),
		}},
		{"leases are not evicted", []storeStep{
			reserving("a b c d e", lease, reserved, reserved, reserved, reserved, reserved),
			committing("q r s t u v w x y z"),
			reserving("a b c d e", lease, held, held, held, held, held),
		}},
		{"leases are not evicted by time", []storeStep{
			reserving("a", 3*retention+1, reserved),
			after(3*retention, reserving("b a", lease, reserved, held)),
		}},
		{"leases do not evict", []storeStep{
			committing("a b c"),
			reserving("p q r s t u v", lease, slices.Repeat([]mw.Reservation{reserved}, 7)...),
			reserving("a b c", lease, handled, handled, handled),
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &mw.MemoryDeduplicator{Retention: retention, MaxKeys: 3}
				for _, s := range tt.steps {
					time.Sleep(s.after)
					s.do(t, d)
				}
			})
		})
	}
}

func TestMemoryDeduplicatorDefaults(t *testing.T) {
	t.Parallel()
	t.Run("72 hours", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var d mw.MemoryDeduplicator
			committing("first").do(t, &d)
			time.Sleep(72*time.Hour - 1)
			committing("last").do(t, &d)
			time.Sleep(72*time.Hour - 1)
			reserving("first last", 1, handled, handled).do(t, &d)
			time.Sleep(2 * time.Nanosecond)
			reserving("first last", 1, reserved, reserved).do(t, &d)
		})
	})
	t.Run("500,000 keys", func(t *testing.T) {
		if testing.Short() {
			t.Skip("half a second")
		}
		var d mw.MemoryDeduplicator
		commitDistinct(t, &d, 0, 499_999)
		committing("last").do(t, &d)
		commitDistinct(t, &d, 499_999, 500_000)
		reserving("last", time.Minute, handled).do(t, &d)
		committing("another").do(t, &d)
		reserving("last", time.Minute, reserved).do(t, &d)
	})
	t.Run("the longest retention does not overflow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := &mw.MemoryDeduplicator{Retention: math.MaxInt64, MaxKeys: math.MaxInt}
			committing("a").do(t, d)
			time.Sleep(10 * 365 * 24 * time.Hour)
			committing("b").do(t, d)
			reserving("a b", 1, handled, handled).do(t, d)
		})
	})
}

func TestMemoryDeduplicatorErrors(t *testing.T) {
	t.Run("a context that has ended changes nothing", func(t *testing.T) {
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		late, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
		defer cancel()
		for want, ctx := range map[error]context.Context{context.Canceled: canceled, context.DeadlineExceeded: late} {
			d := new(mw.MemoryDeduplicator)
			reserving("reserved", time.Minute, reserved).do(t, d)

			got, err := d.Reserve(ctx, []string{"new"}, time.Minute)
			require.ErrorIs(t, err, want)
			require.Nil(t, got)
			require.ErrorIs(t, d.Commit(ctx, []string{"reserved", "new"}), want)
			require.ErrorIs(t, d.Release(ctx, []string{"reserved"}), want)

			reserving("reserved new", time.Minute, held, reserved).do(t, d)
		}
	})
	unusable := map[string]*mw.MemoryDeduplicator{
		"is nil: use new(MemoryDeduplicator)": nil,
		"Retention is -1ns: set a positive":   {Retention: -1},
		"MaxKeys is -1: set a positive":       {MaxKeys: -1},
	}
	for want, d := range unusable {
		t.Run(want, func(t *testing.T) {
			got, err := d.Reserve(t.Context(), []string{"a"}, time.Minute)
			require.ErrorContains(t, err, want)
			require.Nil(t, got)
			require.ErrorContains(t, d.Commit(t.Context(), []string{"a"}), want)
			require.ErrorContains(t, d.Release(t.Context(), []string{"a"}), want)
		})
	}
	for _, lease := range []time.Duration{0, -1} {
		t.Run(fmt.Sprintf("a lease of %d takes nothing", lease), func(t *testing.T) {
			d := new(mw.MemoryDeduplicator)
			got, err := d.Reserve(t.Context(), []string{"a"}, lease)
			require.ErrorContains(t, err, "the lease is not positive")
			require.Nil(t, got)
			reserving("a", time.Minute, reserved).do(t, d)
		})
	}
}

// No key may be taken for another, however many there are.
func TestMemoryDeduplicatorManyKeys(t *testing.T) {
	const n, rounds = 5003, 3
	keys := distinctKeys(0, n)
	d := new(mw.MemoryDeduplicator)
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

// Several goroutines reserve each key at the same time, while turns go on. One
// of them must get it.
func TestMemoryDeduplicatorConcurrently(t *testing.T) {
	const goroutines, keys = 16, 2000
	d := &mw.MemoryDeduplicator{MaxKeys: keys}
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

// bytesPerKey is the most that each of MaxKeys takes, as the doc comment says.
const bytesPerKey = 120

func TestMemoryDeduplicatorMemory(t *testing.T) {
	const maxKeys, batch = 125_000, 12_500 // maps of this size have just grown, as those of the default
	d := &mw.MemoryDeduplicator{MaxKeys: maxKeys}
	var used, most int64
	for i := range 35 {
		used += heapGrowth(func() { handleDistinct(t, d, i*batch, batch) })
		most = max(most, used)
	}
	t.Logf("at most %.1f bytes for each of MaxKeys", float64(most)/maxKeys)
	require.Less(t, most, int64(maxKeys*bytesPerKey))
	runtime.KeepAlive(d)
}

// Keys that are never seen again must not take memory for long, even while
// another lease lasts.
func TestMemoryDeduplicatorForgets(t *testing.T) {
	const batch, batches = 500, 400
	tests := map[string]func(t *testing.T, d *mw.MemoryDeduplicator, keys []string){
		"ended leases": func(t *testing.T, d *mw.MemoryDeduplicator, keys []string) {
			_, err := d.Reserve(t.Context(), keys, time.Second)
			require.NoError(t, err)
		},
		"ended handled marks": func(t *testing.T, d *mw.MemoryDeduplicator, keys []string) {
			reserveAndCommit(t, d, keys)
		},
	}
	for name, do := range tests {
		for _, retention := range []time.Duration{time.Second, time.Hour} {
			if name == "ended handled marks" && retention == time.Hour {
				continue // they have not ended
			}
			t.Run(fmt.Sprint(name, " with retention ", retention), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := &mw.MemoryDeduplicator{Retention: retention}
					lasting := distinctKeys(1_000_000_000, batch)
					_, err := d.Reserve(t.Context(), lasting, 24*time.Hour)
					require.NoError(t, err)
					used := heapGrowth(func() {
						for i := range batches {
							do(t, d, distinctKeys(i*batch, batch))
							time.Sleep(time.Second)
						}
					})
					t.Logf("%d bytes", used)
					require.Less(t, used, int64(batch*batches*bytesPerKey/20))
					got, err := d.Reserve(t.Context(), lasting, time.Second)
					require.NoError(t, err)
					require.Equal(t, slices.Repeat([]mw.Reservation{held}, batch), got)
				})
			})
		}
	}
}

// The memory of a flood is free again after two turns.
func TestMemoryDeduplicatorGivesMemoryBack(t *testing.T) {
	const keys = 100_000
	synctest.Test(t, func(t *testing.T) {
		d := &mw.MemoryDeduplicator{Retention: time.Hour}
		used := heapGrowth(func() {
			many := distinctKeys(0, keys)
			_, err := d.Reserve(t.Context(), many, time.Minute)
			require.NoError(t, err)
			require.NoError(t, d.Commit(t.Context(), many[:keys/2]))
			require.NoError(t, d.Release(t.Context(), many[keys/2:]))
			time.Sleep(2 * time.Hour)
			reserving("a b", time.Minute, reserved, reserved).do(t, d)
		})
		require.Less(t, used, int64(keys))
		committing("a").do(t, d)
		reserving("a b", time.Minute, handled, held).do(t, d)
	})
}

// A turn must not stop everybody for as long as many keys take.
func TestMemoryDeduplicatorTurnsWithoutCopying(t *testing.T) {
	const maxKeys = 200_000
	d := &mw.MemoryDeduplicator{MaxKeys: maxKeys}
	commitDistinct(t, d, 0, maxKeys)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	committing("turn").do(t, d)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(10_000))
}

// A key is part of a body or was made with one. A stored key must not keep that
// in memory.
func TestMemoryDeduplicatorKeepsNoBodies(t *testing.T) {
	const bodies, bodyBytes, keyBytes = 64, 1 << 20, 40
	bodyOf := func(i int) string { return fmt.Sprintf("%0*d", keyBytes, i) + strings.Repeat("x", bodyBytes) }
	synctest.Test(t, func(t *testing.T) {
		d := new(mw.MemoryDeduplicator)
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

// BenchmarkMemoryDeduplicator reserves and commits a delivery of 500 new events,
// in a store that is full. Making the keys is not measured.
func BenchmarkMemoryDeduplicator(b *testing.B) {
	const batch = 500
	for _, maxKeys := range []int{10_000, 500_000} {
		b.Run(fmt.Sprint(maxKeys), func(b *testing.B) {
			d := &mw.MemoryDeduplicator{MaxKeys: maxKeys}
			commitDistinct(b, d, 0, 2*maxKeys)
			b.ReportAllocs()
			for next := 2 * maxKeys; b.Loop(); next += batch {
				b.StopTimer()
				keys := distinctKeys(next, batch)
				b.StartTimer()
				reserveAndCommit(b, d, keys)
			}
		})
	}
}

// distinctKeys returns n keys of the length that Handler's have, beginning with
// the key of that number.
func distinctKeys(from, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("delivery/1df37d17-0286-4d8b-8edf-%012x/bede7236-2284-43d6-a953-%012x", from+i, from+i)
	}
	return keys
}

// handleDistinct reserves and commits n keys, delivery by delivery.
func handleDistinct(tb testing.TB, d mw.Deduplicator, from, n int) {
	tb.Helper()
	const batch = 500
	for i := 0; i < n; i += batch {
		reserveAndCommit(tb, d, distinctKeys(from+i, batch))
	}
}

func commitDistinct(tb testing.TB, d mw.Deduplicator, from, n int) {
	tb.Helper()
	require.NoError(tb, d.Commit(tb.Context(), distinctKeys(from, n)))
}

func reserveAndCommit(tb testing.TB, d mw.Deduplicator, keys []string) {
	if _, err := d.Reserve(tb.Context(), keys, 90*time.Second); err != nil {
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
