// Package pgdedup de-duplicates Mailtrap's events for all processes that share a PostgreSQL database.
//
// Each call is one statement, and so one round trip whatever the number of keys, once its connection has prepared it.
// Time is the server's alone: the processes send how long a mark is to last, never a time of day. Marks that have ended
// are removed by later calls of Reserve, two for each key that comes in, so that the table stays as small as what it has
// to remember.
//
// What a call has done outlasts a crash of the server, unless synchronous_commit was switched off. When a replica that
// lags behind takes over, the last marks may be lost; an event whose mark is lost is handled again if Mailtrap sends it
// again.
//
// Where the effect of an event is a row in the same database, look at the program exactlyonce beside this package: there
// the effect and the mark are one transaction, and no crash can come between them.
package pgdedup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// DefaultRetention outlasts the longest of Mailtrap's retries, 24 hours, by enough for a webhook that was paused.
const DefaultRetention = 72 * time.Hour

// Schema makes the table. Have a migration execute it, or call CreateTable.
const Schema = `
CREATE TABLE IF NOT EXISTS mailtrap_dedup (
	key     bytea PRIMARY KEY, -- not text, which cannot have every byte
	handled boolean NOT NULL,  -- or else reserved
	until   timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS mailtrap_dedup_until ON mailtrap_dedup (until);`

// schemaLock keeps processes from creating the table at the same time, which IF NOT EXISTS does not.
const schemaLock = `SELECT pg_advisory_xact_lock(hashtext('mailtrap_dedup'));`

// Statements lock rows in the order of their keys, so that no two of them ever wait for each other. They see one time,
// now(), which is when they began: where a statement had to wait for another, a mark may be taken to last a little
// longer than it does, never shorter.
const (
	// The keys that were free are answered with false, the handled ones with true, and those that are held not at all.
	//
	// What swept needs of taken has it begin when taken is complete. It waits for no lock, so that it cannot hold up
	// a call that this one waits for.
	reserve = `
		WITH taken AS (
			INSERT INTO mailtrap_dedup AS mark (key, handled, until)
			SELECT DISTINCT key, false, now() + $2::interval FROM unnest($1::bytea[]) AS key ORDER BY key
			ON CONFLICT (key) DO UPDATE SET handled = false, until = excluded.until
			WHERE mark.until <= now()
			RETURNING key
		), swept AS (
			DELETE FROM mailtrap_dedup WHERE key = ANY (ARRAY (
				SELECT key FROM mailtrap_dedup
				WHERE until <= now() AND key NOT IN (SELECT key FROM taken)
				ORDER BY until LIMIT (SELECT 2 * count(*) FROM taken)
				FOR UPDATE SKIP LOCKED
			))
		)
		SELECT key, false FROM taken
		UNION ALL
		SELECT key, true FROM mailtrap_dedup
		WHERE key = ANY ($1) AND handled AND until > now() AND key NOT IN (SELECT key FROM taken)`

	commit = `
		INSERT INTO mailtrap_dedup (key, handled, until)
		SELECT DISTINCT key, true, now() + $2::interval FROM unnest($1::bytea[]) AS key ORDER BY key
		ON CONFLICT (key) DO UPDATE SET handled = true, until = excluded.until`

	release = `
		DELETE FROM mailtrap_dedup WHERE key = ANY (ARRAY (
			SELECT key FROM mailtrap_dedup WHERE key = ANY ($1::bytea[]) AND NOT handled ORDER BY key FOR UPDATE
		))`
)

var errNoLease = errors.New("pgdedup: the lease is not positive: it would protect nothing")

// A Deduplicator is a [mailtrapwebhook.Deduplicator] in PostgreSQL. It is safe for concurrent use.
//
// Programs that use one table and each want every event need a name of their own in [mailtrapwebhook.Handler].Scope.
type Deduplicator struct {
	pool      *pgxpool.Pool
	retention time.Duration
}

// New returns a Deduplicator on a pool, which it does not close. It remembers handled keys for the time of retention, or
// for [DefaultRetention] where that is zero or negative.
func New(pool *pgxpool.Pool, retention time.Duration) *Deduplicator {
	if retention <= 0 {
		retention = DefaultRetention
	}
	return &Deduplicator{pool, retention}
}

// CreateTable creates the table if it is not there. Processes may call it at the same time.
func (d *Deduplicator) CreateTable(ctx context.Context) error {
	_, err := d.pool.Exec(ctx, schemaLock+Schema, pgx.QueryExecModeSimpleProtocol) // which takes several statements
	if err != nil {
		return fmt.Errorf("pgdedup: cannot create the table: %w", err)
	}
	return nil
}

// Reserve implements [mailtrapwebhook.Deduplicator]. After an error that leaves open whether the server had done its
// work, such as a lost connection, keys may stay taken until their lease ends.
func (d *Deduplicator) Reserve(
	ctx context.Context, keys []string, lease time.Duration,
) ([]mailtrapwebhook.Reservation, error) {
	if lease <= 0 {
		return nil, errNoLease
	}
	if len(keys) == 0 {
		return nil, ctx.Err()
	}
	rows, _ := d.pool.Query(ctx, reserve, toBytes(keys), lease) // ForEachRow returns its error
	found := make(map[string]mailtrapwebhook.Reservation, len(keys))
	var key []byte
	var handled bool
	_, err := pgx.ForEachRow(rows, []any{&key, &handled}, func() error {
		found[string(key)] = mailtrapwebhook.Reserved
		if handled {
			found[string(key)] = mailtrapwebhook.Handled
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pgdedup: cannot reserve: %w", err)
	}
	return inOrder(keys, found), nil
}

// inOrder returns the answer for each key. One that was not found is held, and one that is reserved is so once.
func inOrder(keys []string, found map[string]mailtrapwebhook.Reservation) []mailtrapwebhook.Reservation {
	answers := make([]mailtrapwebhook.Reservation, len(keys))
	for i, key := range keys {
		answer, ok := found[key]
		if !ok {
			answer = mailtrapwebhook.Held
		}
		answers[i] = answer
		if answer == mailtrapwebhook.Reserved {
			delete(found, key)
		}
	}
	return answers
}

// Commit implements [mailtrapwebhook.Deduplicator].
func (d *Deduplicator) Commit(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return ctx.Err()
	}
	if _, err := d.pool.Exec(ctx, commit, toBytes(keys), d.retention); err != nil {
		return fmt.Errorf("pgdedup: cannot commit: %w", err)
	}
	return nil
}

// Release implements [mailtrapwebhook.Deduplicator].
func (d *Deduplicator) Release(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return ctx.Err()
	}
	if _, err := d.pool.Exec(ctx, release, toBytes(keys)); err != nil {
		return fmt.Errorf("pgdedup: cannot release: %w", err)
	}
	return nil
}

func toBytes(keys []string) [][]byte {
	all := make([][]byte, len(keys))
	for i, key := range keys {
		all[i] = []byte(key)
	}
	return all
}
