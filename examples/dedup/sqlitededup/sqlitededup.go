// Package sqlitededup de-duplicates Mailtrap's events for all processes of one machine that share a SQLite file. Unlike
// [mailtrapwebhook.MemoryDeduplicator] it remembers them when the program is started again.
//
// The file must be on a disk of the machine: SQLite's locks do not hold on network file systems. Its write-ahead log is
// in two more files beside it. Each call is one transaction, with a sync to the disk, so that what was committed outlasts
// a loss of power; without that sync (synchronous=NORMAL) it would outlast a crash of the program only. One transaction
// writes at a time, the others wait, as long as their context lasts and no longer than 30 seconds.
//
// Time is the machine's, the same for all of its processes. If its clock is set forward, marks end sooner.
//
// Marks that have ended are removed by later calls of Reserve, two for each key that is asked for.
package sqlitededup

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"modernc.org/sqlite" // the driver, which needs no C compiler
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// DefaultRetention outlasts the longest of Mailtrap's retries, 24 hours, by enough for a webhook that was paused.
const DefaultRetention = 72 * time.Hour

const openTimeout = 30 * time.Second

// Times are in milliseconds since 1970. Keys are handed to a statement as one JSON array, and in hexadecimal digits, since
// a string in JSON cannot have every byte.
const (
	schema = `
		CREATE TABLE IF NOT EXISTS mailtrap_dedup (
			key     BLOB PRIMARY KEY,
			handled INTEGER NOT NULL, -- 1, or 0 for reserved
			until   INTEGER NOT NULL
		) WITHOUT ROWID;
		CREATE INDEX IF NOT EXISTS mailtrap_dedup_until ON mailtrap_dedup (until);`

	find = `
		SELECT key, handled FROM mailtrap_dedup
		WHERE key IN (SELECT unhex(value) FROM json_each(?)) AND until > ?`

	mark = `
		INSERT OR REPLACE INTO mailtrap_dedup (key, handled, until)
		SELECT unhex(value), ?, ? FROM json_each(?)`

	release = `
		DELETE FROM mailtrap_dedup
		WHERE key IN (SELECT unhex(value) FROM json_each(?)) AND NOT handled`

	sweep = `
		DELETE FROM mailtrap_dedup WHERE key IN (
			SELECT key FROM mailtrap_dedup WHERE until <= ? ORDER BY until LIMIT ?
		)`
)

var errNoLease = errors.New("sqlitededup: the lease is not positive: it would protect nothing")

// A Deduplicator is a [mailtrapwebhook.Deduplicator] in a SQLite file. It is safe for concurrent use.
//
// Programs that use one file and each want every event need a name of their own in [mailtrapwebhook.Handler].Scope.
type Deduplicator struct {
	db        *sql.DB
	retention time.Duration
}

// Open opens the file, or creates it. The Deduplicator remembers handled keys for the time of retention, or for
// [DefaultRetention] where that is zero or negative. Close it when it is no longer used.
func Open(ctx context.Context, path string, retention time.Duration) (*Deduplicator, error) {
	if retention <= 0 {
		retention = DefaultRetention
	}
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return nil, fmt.Errorf("sqlitededup: cannot open the file: %w", err)
	}
	db.SetMaxOpenConns(1) // more would only wait for each other in SQLite rather than here
	if err := createTable(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("sqlitededup: cannot create the table: %w", err), db.Close())
	}
	return &Deduplicator{db, retention}, nil
}

// createTable creates the table if it is not there. Processes that open a new file at the same time get in each other's
// way, and for the change to a write-ahead log SQLite does not wait by itself.
func createTable(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for {
		_, err := db.ExecContext(ctx, schema)
		var failure *sqlite.Error
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

func dsn(path string) string {
	settings := url.Values{
		"_busy_timeout": {"30000"},
		"_journal_mode": {"WAL"},
		"_synchronous":  {"FULL"},
		"_txlock":       {"immediate"}, // so that nobody else writes between what a transaction finds and what it makes of it
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + settings.Encode()
}

// Close closes the file.
func (d *Deduplicator) Close() error { return d.db.Close() }

// Reserve implements [mailtrapwebhook.Deduplicator]. With an error nothing is taken.
func (d *Deduplicator) Reserve(
	ctx context.Context, keys []string, lease time.Duration,
) ([]mailtrapwebhook.Reservation, error) {
	if lease <= 0 {
		return nil, errNoLease
	}
	var answers []mailtrapwebhook.Reservation
	err := d.inTx(ctx, keys, func(tx *sql.Tx, now int64) error {
		if _, err := tx.ExecContext(ctx, sweep, now, 2*len(keys)); err != nil {
			return err
		}
		found, err := findMarks(ctx, tx, keys, now)
		if err != nil {
			return err
		}
		var free []string
		answers, free = answer(keys, found)
		_, err = tx.ExecContext(ctx, mark, false, after(now, lease), toJSON(free))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sqlitededup: cannot reserve: %w", err)
	}
	return answers, nil
}

// findMarks returns which of the keys are handled or held.
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

// answer returns the answer for each key, in order, and the keys that are to be reserved, each once.
func answer(
	keys []string, found map[string]mailtrapwebhook.Reservation,
) (answers []mailtrapwebhook.Reservation, free []string) {
	for _, key := range keys {
		answer, ok := found[key]
		if !ok {
			answer = mailtrapwebhook.Reserved
			found[key] = mailtrapwebhook.Held
			free = append(free, key)
		}
		answers = append(answers, answer)
	}
	return answers, free
}

// Commit implements [mailtrapwebhook.Deduplicator]. With an error no key has become Handled.
func (d *Deduplicator) Commit(ctx context.Context, keys []string) error {
	err := d.inTx(ctx, keys, func(tx *sql.Tx, now int64) error {
		_, err := tx.ExecContext(ctx, mark, true, after(now, d.retention), toJSON(keys))
		return err
	})
	if err != nil {
		return fmt.Errorf("sqlitededup: cannot commit: %w", err)
	}
	return nil
}

// Release implements [mailtrapwebhook.Deduplicator].
func (d *Deduplicator) Release(ctx context.Context, keys []string) error {
	err := d.inTx(ctx, keys, func(tx *sql.Tx, _ int64) error {
		_, err := tx.ExecContext(ctx, release, toJSON(keys))
		return err
	})
	if err != nil {
		return fmt.Errorf("sqlitededup: cannot release: %w", err)
	}
	return nil
}

// inTx calls f in a transaction, if there are keys at all, with the time at which it has come to be the one that writes.
func (d *Deduplicator) inTx(ctx context.Context, keys []string, f func(tx *sql.Tx, now int64) error) error {
	if len(keys) == 0 {
		return ctx.Err()
	}
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // which does nothing after Commit
	if err := f(tx, time.Now().UnixMilli()); err != nil {
		return err
	}
	return tx.Commit()
}

// after returns the time that is last after now, and no earlier for being in milliseconds.
func after(now int64, last time.Duration) int64 { return now + last.Milliseconds() + 1 }

func toJSON(keys []string) string {
	quoted := make([]string, len(keys))
	for i, key := range keys {
		quoted[i] = `"` + hex.EncodeToString([]byte(key)) + `"`
	}
	return "[" + strings.Join(quoted, ",") + "]"
}
