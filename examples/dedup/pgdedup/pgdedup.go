// Package pgdedup de-duplicates Mailtrap's events for all processes that share
// a PostgreSQL database.
//
// Each call is one statement and takes one round trip, whatever the number of
// keys. Only the server's clock counts: processes send how long a mark lasts,
// never a time of day. Reserve also removes two expired marks for each key, so
// that the table stays small.
//
// It works behind PgBouncer, also in transaction mode, and with any
// default_transaction_isolation. With serializable or repeatable read, calls
// that meet take more round trips, because the server turns some away.
//
// A call outlasts a crash of the server, unless synchronous_commit is off. When
// a replica that lags behind takes over, the last marks may be lost. An event
// whose mark is lost is handled again if Mailtrap sends it again.
//
// Is the effect of an event a row in the same database? Then look at the
// program exactlyonce beside this package. It writes the effect and the mark in
// one transaction.
package pgdedup

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// DefaultRetention outlasts Mailtrap's longest retries, 24 hours, and leaves
// time for a webhook that was paused.
const DefaultRetention = 72 * time.Hour

// Schema makes the table. Put it into a migration, or call CreateTable.
const Schema = `
CREATE TABLE IF NOT EXISTS mailtrap_dedup (
	key     bytea PRIMARY KEY, -- text cannot hold every byte
	handled boolean NOT NULL,  -- false means reserved
	until   timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS mailtrap_dedup_until ON mailtrap_dedup (until);`

// createTable runs Schema if the table is missing. Where the role may not create
// tables, IF NOT EXISTS fails even if the table is there. The lock keeps
// processes from creating it at the same time.
const createTable = `
SELECT pg_advisory_xact_lock(hashtext('mailtrap_dedup'));
DO $do$ BEGIN IF to_regclass('mailtrap_dedup') IS NULL THEN` + Schema + `
END IF; END $do$;`

// The statements lock rows in the order of the keys, so that no two of them
// wait for each other. In a statement, now() is the time when the statement
// began. If a statement waits for another, a mark may seem to last a little
// longer, but never shorter.
const (
	// reserve returns free keys with false and handled keys with true. It
	// returns no held keys.
	//
	// swept reads taken, and so begins when taken is complete. It skips locked
	// rows, so that it cannot hold up a call that this one waits for.
	reserve = `
		WITH taken AS (
			INSERT INTO mailtrap_dedup AS mark (key, handled, until)
			-- DISTINCT, because a statement must not change a row twice.
			SELECT DISTINCT key, false, now() + $2::interval FROM unnest($1::bytea[]) AS key ORDER BY key
			ON CONFLICT (key) DO UPDATE SET handled = false, until = excluded.until
			WHERE mark.until <= now()
			RETURNING key
		), swept AS (
			DELETE FROM mailtrap_dedup WHERE key = ANY (ARRAY (
				SELECT key FROM mailtrap_dedup
				WHERE until <= now() AND key NOT IN (SELECT key FROM taken)
				-- Two for each new mark, so that the table shrinks again.
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

const insufficientPrivilege = "42501"

// The codes of errors after which the same statement may succeed.
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"

	maxPause = 20 * time.Millisecond // a random part of it keeps two statements from meeting again
)

var errNoLease = errors.New("pgdedup: the lease is not positive: pass a time that is longer than the work")

// A Deduplicator is a [mailtrapwebhook.Deduplicator] in PostgreSQL. It is safe
// for concurrent use.
//
// If several programs share a table and each wants every event, give each its
// own Scope in [mailtrapwebhook.Handler].
type Deduplicator struct {
	pool      *pgxpool.Pool
	retention time.Duration
}

// New returns a Deduplicator on pool. It remembers handled keys for retention,
// or for [DefaultRetention] if retention is not positive. It does not close
// pool.
func New(pool *pgxpool.Pool, retention time.Duration) *Deduplicator {
	if retention <= 0 {
		retention = DefaultRetention
	}
	return &Deduplicator{pool, retention}
}

// CreateTable creates the table if it does not exist. Several processes may
// call it at the same time. If the table exists, the role needs no privilege but
// SELECT, INSERT, UPDATE and DELETE on it.
func (d *Deduplicator) CreateTable(ctx context.Context) error {
	// Only the simple protocol takes several statements.
	_, err := d.pool.Exec(ctx, createTable, pgx.QueryExecModeSimpleProtocol)
	var failure *pgconn.PgError
	switch {
	case errors.As(err, &failure) && failure.Code == insufficientPrivilege:
		return fmt.Errorf("pgdedup: the role may not create the table: run pgdedup.Schema with a role that may,"+
			" then grant this one SELECT, INSERT, UPDATE and DELETE on mailtrap_dedup: %w", err)
	case err != nil:
		return fmt.Errorf("pgdedup: cannot create the table: %w", err)
	}
	return nil
}

// Reserve implements [mailtrapwebhook.Deduplicator]. If the connection is lost,
// the server may have done its work: keys may then stay taken until their lease
// ends.
func (d *Deduplicator) Reserve(
	ctx context.Context, keys []string, lease time.Duration,
) ([]mailtrapwebhook.Reservation, error) {
	if lease <= 0 {
		return nil, errNoLease // such a mark would protect no work
	}
	if len(keys) == 0 {
		return nil, ctx.Err() // saves a round trip
	}
	found, err := d.run(ctx, reserve, toBytes(keys), lease)
	if err != nil {
		return nil, fmt.Errorf("pgdedup: cannot reserve: %w", err)
	}
	return inOrder(keys, found), nil
}

// inOrder returns the answer for each key. A key that was not found is held. Of
// equal keys, the first is reserved and the others are held.
func inOrder(keys []string, found map[string]mailtrapwebhook.Reservation) []mailtrapwebhook.Reservation {
	answers := make([]mailtrapwebhook.Reservation, len(keys))
	for i, key := range keys {
		answer, ok := found[key]
		if !ok {
			answer = mailtrapwebhook.Held // reserve returns no held keys
		}
		answers[i] = answer
		if answer == mailtrapwebhook.Reserved {
			delete(found, key) // an equal key later in the call is held
		}
	}
	return answers
}

// Commit implements [mailtrapwebhook.Deduplicator].
func (d *Deduplicator) Commit(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return ctx.Err()
	}
	if _, err := d.run(ctx, commit, toBytes(keys), d.retention); err != nil {
		return fmt.Errorf("pgdedup: cannot commit: %w", err)
	}
	return nil
}

// Release implements [mailtrapwebhook.Deduplicator].
func (d *Deduplicator) Release(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return ctx.Err()
	}
	if _, err := d.run(ctx, release, toBytes(keys)); err != nil {
		return fmt.Errorf("pgdedup: cannot release: %w", err)
	}
	return nil
}

// run runs a statement. It tries again while the server turns the statement away
// for the sake of another one, as it may with serializable transactions.
func (d *Deduplicator) run(
	ctx context.Context, statement string, args ...any,
) (found map[string]mailtrapwebhook.Reservation, err error) {
	for {
		found, err = d.runOnce(ctx, statement, args)
		var failure *pgconn.PgError
		if !errors.As(err, &failure) || failure.Code != serializationFailure && failure.Code != deadlockDetected {
			return found, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(rand.N(maxPause)):
		}
	}
}

// runOnce returns the rows of a statement, which are those of reserve.
func (d *Deduplicator) runOnce(
	ctx context.Context, statement string, args []any,
) (map[string]mailtrapwebhook.Reservation, error) {
	// This mode leaves no prepared statement on the connection, which behind
	// PgBouncer may serve another client next.
	args = append([]any{pgx.QueryExecModeExec}, args...)
	rows, _ := d.pool.Query(ctx, statement, args...) // ForEachRow returns its error
	found := make(map[string]mailtrapwebhook.Reservation)
	var key []byte
	var handled bool
	_, err := pgx.ForEachRow(rows, []any{&key, &handled}, func() error {
		found[string(key)] = mailtrapwebhook.Reserved
		if handled {
			found[string(key)] = mailtrapwebhook.Handled
		}
		return nil
	})
	return found, err
}

func toBytes(keys []string) [][]byte {
	all := make([][]byte, len(keys))
	for i, key := range keys {
		all[i] = []byte(key)
	}
	return all
}
