package sqlitededup

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The number of marks must not make Reserve write more: each page that it writes
// costs a copy to the write-ahead log, and later one to the file.
func TestReserveWritesFewPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dedup.db")
	d, err := Open(t.Context(), path, 0)
	require.NoError(t, err)
	defer d.Close()
	written := func() int64 {
		_, err := d.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
		require.NoError(t, err)
		_, err = d.Reserve(t.Context(), newKeys(), time.Minute)
		require.NoError(t, err)
		log, err := os.Stat(path + "-wal")
		require.NoError(t, err)
		return log.Size()
	}
	written() // the first also grows the file
	before := written()
	fill(t, d, 100_000)
	require.LessOrEqual(t, written(), 2*before)
}

// BenchmarkReserve reserves 500 keys among few marks and many.
func BenchmarkReserve(b *testing.B) {
	for _, marks := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprintf("marks=%d", marks), func(b *testing.B) {
			d, err := Open(b.Context(), filepath.Join(b.TempDir(), "dedup.db"), 0)
			require.NoError(b, err)
			defer d.Close()
			fill(b, d, marks)
			for b.Loop() {
				keys := newKeys()
				_, err := d.Reserve(b.Context(), keys, time.Minute)
				b.StopTimer()
				require.NoError(b, err)
				require.NoError(b, d.Release(b.Context(), keys))
				b.StartTimer()
			}
		})
	}
}

func newKeys() []string {
	keys := make([]string, 500)
	for i := range keys {
		keys[i] = rand.Text()
	}
	return keys
}

// fill adds handled marks, faster than Commit does.
func fill(t testing.TB, d *Deduplicator, marks int) {
	_, err := d.db.Exec(`
		WITH RECURSIVE mark (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM mark WHERE i < ?1)
		INSERT INTO mailtrap_dedup_handled SELECT randomblob(16), 99999999999999 + i FROM mark ORDER BY 1`, marks)
	require.NoError(t, err)
	_, err = d.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	require.NoError(t, err)
}
