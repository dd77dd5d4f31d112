package mailtrapwebhook_test
import ("testing"; mw "github.com/mailtrapwebhook/mailtrapwebhook")
func BenchmarkZZ(b *testing.B) {
	const batch=500
	sets := make([][]string, 2000)
	for i := range sets { sets[i] = distinctKeys(i*batch, batch) }
	for _, n := range []int{10_000, 100_000, 500_000} {
	b.Run("", func(b *testing.B) {
		d := &mw.MemoryDeduplicator{MaxKeys: n}
		i := 0
		for b.Loop() {
			reserveAndCommit(b, d, sets[i%len(sets)])
			i++
		}
	})
	}
}
