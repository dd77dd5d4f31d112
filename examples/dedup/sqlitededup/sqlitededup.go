// Package sqlitededup de-duplicates Mailtrap's events for all processes of a
// machine that share a SQLite file. Unlike a
// [mailtrapwebhook.MemoryDeduplicator], it remembers them after a restart.
//
// The file must be on a disk of the machine, because SQLite's locks do not work
// on network file systems. Two more files beside it hold the write-ahead log.
// Each call is one transaction and one sync to the disk, so that a mark
// outlasts a loss of power. With synchronous=NORMAL, it would outlast only a
// crash of the program. One transaction writes at a time. The others wait until
// their context ends, and at most 30 seconds.
//
// All processes use the machine's clock. If it is set forward, marks end
// sooner.
//
// Reserve and Commit also remove expired marks, two for each of their keys.
package sqlitededup

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"modernc.org/sqlite" // this driver needs no C compiler
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// DefaultRetention outlasts Mailtrap's longest retries, 24 hours, and leaves
// time for a webhook that was paused.
const DefaultRetention = 72 * time.Hour

const openTimeout = 30 * time.Second

// Times are in milliseconds since 1970. A statement gets its fingerprints as one
// JSON array, in hexadecimal digits.
//
// Each write to a large table is a write to a page of its own, because no two
// fingerprints are neighbours. Reserved keys therefore have a small table of
// their own: Reserve and Release write to no other.
const (
	schema = `
		CREATE TABLE IF NOT EXISTS mailtrap_dedup_reserved (
			key   BLOB PRIMARY KEY, -- a fingerprint
			until INTEGER NOT NULL
		) WITHOUT ROWID;
		CREATE TABLE IF NOT EXISTS mailtrap_dedup_handled (
			key   BLOB PRIMARY KEY, -- a fingerprint
			until INTEGER NOT NULL
		) WITHOUT ROWID;
		CREATE INDEX IF NOT EXISTS mailtrap_dedup_reserved_until ON mailtrap_dedup_reserved (until);
		CREATE INDEX IF NOT EXISTS mailtrap_dedup_handled_until ON mailtrap_dedup_handled (until);`

	find = `
		WITH asked (key) AS MATERIALIZED (SELECT unhex(value) FROM json_each(?1))
		SELECT key, true FROM mailtrap_dedup_handled WHERE key IN asked AND until > ?2
		UNION ALL
		SELECT key, false FROM mailtrap_dedup_reserved WHERE key IN asked AND until > ?2`

	reserve = `
		INSERT OR REPLACE INTO mailtrap_dedup_reserved (key, until)
		SELECT unhex(value), ?2 FROM json_each(?1)`

	commit = `
		INSERT OR REPLACE INTO mailtrap_dedup_handled (key, until)
		SELECT unhex(value), ?2 FROM json_each(?1)`

	release = `
		DELETE FROM mailtrap_dedup_reserved WHERE key IN (SELECT unhex(value) FROM json_each(?1))`

	sweepReserved = `
		DELETE FROM mailtrap_dedup_reserved WHERE key IN (
			SELECT key FROM mailtrap_dedup_reserved WHERE until <= ?1 ORDER BY until LIMIT ?2
		)`

	sweepHandled = `
		DELETE FROM mailtrap_dedup_handled WHERE key IN (
			SELECT key FROM mailtrap_dedup_handled WHERE until <= ?1 ORDER BY until LIMIT ?2
		)`
)

var errNoLease = errors.New("sqlitededup: the lease is not positive: pass a time that is longer than the work")

// A Deduplicator is a [mailtrapwebhook.Deduplicator] in a SQLite file. It is
// safe for concurrent use.
//
// If several programs share a file and each wants every event, give each its
// own Scope in [mailtrapwebhook.Handler].
type Deduplicator struct {
	db        *sql.DB
	retention time.Duration
}

// Open opens the file and creates it if it does not exist. The Deduplicator
// remembers handled keys for retention, or for [DefaultRetention] if retention
// is not positive. The caller must call Close.
func Open(ctx context.Context, path string, retention time.Duration) (*Deduplicator, error) {
	if retention <= 0 {
		retention = DefaultRetention
	}
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return nil, fmt.Errorf("sqlitededup: cannot open the file: %w", err)
	}
	db.SetMaxOpenConns(1) // SQLite has one writer: wait here, not there
	if err := createTables(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("sqlitededup: cannot create the tables: %w", err), db.Close())
	}
	if err := checkPragmas(ctx, db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Deduplicator{db, retention}, nil
}

// createTables creates the tables if they do not exist. It tries again while
// another process opens the same new file: SQLite does not wait by itself when
// it changes to a write-ahead log.
func createTables(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for {
		_, err := db.ExecContext(ctx, schema)
		var failure *sqlite.Error
		// The low byte of an extended code is the primary code.
		if !errors.As(err, &failure) || failure.Code()&0xff != sqlite3.SQLITE_BUSY {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// pragmas are settings of a connection. The driver sets each as _pragma, but
// ignores what it does not know.
var pragmas = []struct{ name, value string }{
	{"busy_timeout", "30000"}, // as long as Mailtrap waits; first, since the others may wait too
	{"journal_mode", "wal"},
	{"synchronous", "2"}, // FULL
}

// checkPragmas returns an error unless the settings hold. Without them
// everything works until the power fails or two processes meet.
func checkPragmas(ctx context.Context, db *sql.DB) error {
	for _, s := range pragmas {
		var is string
		if err := db.QueryRowContext(ctx, "PRAGMA "+s.name).Scan(&is); err != nil {
			return fmt.Errorf("sqlitededup: cannot read the setting %s: %w", s.name, err)
		}
		if is != s.value {
			return fmt.Errorf("sqlitededup: the setting %s is %q and not %q: "+
				"use a file on a local disk, and a current modernc.org/sqlite", s.name, is, s.value)
		}
	}
	return nil
}

func dsn(path string) string {
	settings := url.Values{
		"_txlock": {"immediate"}, // nobody else writes between a transaction's read and its write
	}
	for _, s := range pragmas {
		settings.Add("_pragma", s.name+"("+s.value+")")
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + settings.Encode()
}

// Close closes the file.
func (d *Deduplicator) Close() error { return d.db.Close() }

// Reserve implements [mailtrapwebhook.Deduplicator]. After an error, no key is
// taken.
func (d *Deduplicator) Reserve(
	ctx context.Context, keys []string, lease time.Duration,
) ([]mailtrapwebhook.Reservation, error) {
	if lease <= 0 {
		return nil, errNoLease // such a mark would protect no work
	}
	keys = fingerprints(keys)
	var answers []mailtrapwebhook.Reservation
	err := d.inTx(ctx, keys, func(tx *sql.Tx, now int64) error {
		// Two for each key, so that the table shrinks again.
		if _, err := tx.ExecContext(ctx, sweepReserved, now, 2*len(keys)); err != nil {
			return err
		}
		found, err := findMarks(ctx, tx, keys, now)
		if err != nil {
			return err
		}
		var free []string
		answers, free = answer(keys, found)
		_, err = tx.ExecContext(ctx, reserve, toJSON(free), after(now, lease))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sqlitededup: cannot reserve: %w", err)
	}
	return answers, nil
}

// findMarks returns the keys that are handled or held.
func findMarks(
	ctx context.Context, tx *sql.Tx, keys []string, now int64,
) (map[string]mailtrapwebhook.Reservation, error) {
	rows, err := tx.QueryContext(ctx, find, toJSON(keys), now)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := make(map[string]mailtrapwebhook.Reservation, len(keys))
	for rows.Next() {
		var key []byte
		var handled bool
		if err := rows.Scan(&key, &handled); err != nil {
			return nil, err
		}
		found[string(key)] = mailtrapwebhook.Held
		if handled {
			found[string(key)] = mailtrapwebhook.Handled
		}
	}
	return found, rows.Err()
}

// answer returns the answer for each key, in order. It also returns the free
// keys, each once.
func answer(
	keys []string, found map[string]mailtrapwebhook.Reservation,
) (answers []mailtrapwebhook.Reservation, free []string) {
	for _, key := range keys {
		answer, ok := found[key]
		if !ok {
			answer = mailtrapwebhook.Reserved
			found[key] = mailtrapwebhook.Held // for an equal key later in the call
			free = append(free, key)
		}
		answers = append(answers, answer)
	}
	return answers, free
}

// Commit implements [mailtrapwebhook.Deduplicator]. After an error, no key has
// become Handled.
func (d *Deduplicator) Commit(ctx context.Context, keys []string) error {
	keys = fingerprints(keys)
	err := d.inTx(ctx, keys, func(tx *sql.Tx, now int64) error {
		_, sweepErr := tx.ExecContext(ctx, sweepHandled, now, 2*len(keys))
		_, commitErr := tx.ExecContext(ctx, commit, toJSON(keys), after(now, d.retention))
		_, releaseErr := tx.ExecContext(ctx, release, toJSON(keys))
		return errors.Join(sweepErr, commitErr, releaseErr)
	})
	if err != nil {
		return fmt.Errorf("sqlitededup: cannot commit: %w", err)
	}
	return nil
}

// Release implements [mailtrapwebhook.Deduplicator].
func (d *Deduplicator) Release(ctx context.Context, keys []string) error {
	keys = fingerprints(keys)
	err := d.inTx(ctx, keys, func(tx *sql.Tx, _ int64) error {
		_, err := tx.ExecContext(ctx, release, toJSON(keys))
		return err
	})
	if err != nil {
		return fmt.Errorf("sqlitededup: cannot release: %w", err)
	}
	return nil
}

// inTx calls f in a transaction if there are keys. now is the time at which the
// transaction got its turn to write.
func (d *Deduplicator) inTx(ctx context.Context, keys []string, f func(tx *sql.Tx, now int64) error) error {
	if len(keys) == 0 {
		return ctx.Err() // saves a transaction
	}
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after Commit
	// Read the clock after BeginTx, which waits for other processes.
	if err := f(tx, time.Now().UnixMilli()); err != nil {
		return err
	}
	return tx.Commit()
}

// after returns the time d after now. It adds a millisecond, so that no mark
// ends too soon.
func after(now int64, d time.Duration) int64 { return now + d.Milliseconds() + 1 }

// fingerprints returns 16 bytes of each key's SHA-256. A million of them take
// 60 MB, a third of what the keys would take.
func fingerprints(keys []string) []string {
	all := make([]string, len(keys))
	for i, key := range keys {
		sum := sha256.Sum256([]byte(key))
		all[i] = string(sum[:16])
	}
	return all
}

func toJSON(fingerprints []string) string {
	quoted := make([]string, len(fingerprints))
	for i, f := range fingerprints {
		quoted[i] = `"` + hex.EncodeToString([]byte(f)) + `"`
	}
	return "[" + strings.Join(quoted, ",") + "]"
}
