package sqlitededup_test

import (
	"database/sql"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/sqlitededup"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T, retention time.Duration) storetest.Store {
		path := filepath.Join(t.TempDir(), "it's 100% #1?.db")
		return storetest.Store{
			Replica: func(t *testing.T) (mailtrapwebhook.Deduplicator, func()) {
				d, err := sqlitededup.Open(t.Context(), path, retention)
				require.NoError(t, err)
				closeFile := sync.OnceFunc(func() { require.NoError(t, d.Close()) })
				t.Cleanup(closeFile)
				return d, closeFile
			},
			Count: func(t *testing.T) (n int) {
				require.NoError(t, openRaw(t, path).QueryRow(`
					SELECT (SELECT count(*) FROM mailtrap_dedup_reserved) + (SELECT count(*) FROM mailtrap_dedup_handled)`).Scan(&n))
				return n
			},
			Hold: func(t *testing.T) func() {
				db := openRaw(t, path)
				_, err := db.Exec("BEGIN IMMEDIATE")
				require.NoError(t, err)
				return func() {
					_, err := db.Exec("ROLLBACK")
					require.NoError(t, err)
				}
			},
		}
	})
}

// openRaw opens the file as another program does.
func openRaw(t *testing.T, path string) *sql.DB {
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath())
	require.NoError(t, err)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// Processes that start at the same time must not fail to create the file.
func TestProcessesCreateTheFileTogether(t *testing.T) {
	for range 5 {
		path := filepath.Join(t.TempDir(), "dedup.db")
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				d, err := sqlitededup.Open(t.Context(), path, 0)
				if err != nil {
					t.Error(err)
					return
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}
