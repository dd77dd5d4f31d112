package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// schema makes the table of the events. It takes any event: keys are plain
// text, and raw is bytea because json refuses some texts that are valid JSON.
//
// worked is null until the work for an event is done, or its job is deleted. An
// event is stored once for as long as its row is there: purge it after months,
// since a captured request stays valid until the secret is reset.
//
// to_regclass and not IF NOT EXISTS, which fails in a schema where the role may
// not create tables, also if they are there.
const schema = `
DO $$ BEGIN IF to_regclass('mailtrap_inbox') IS NULL THEN
	CREATE TABLE mailtrap_inbox (
		id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		key      text UNIQUE,
		received timestamptz NOT NULL,
		raw      bytea NOT NULL,
		worked   timestamptz
	);
	CREATE INDEX mailtrap_inbox_received ON mailtrap_inbox (received);
END IF; END $$`

// An inbox stores events and works on them.
type inbox struct {
	pool   *pgxpool.Pool
	river  *river.Client[pgx.Tx]
	logger *slog.Logger
}

// createTables creates those tables of the inbox and of River that are missing.
// It needs two connections.
func (in *inbox) createTables(ctx context.Context) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(in.pool), &rivermigrate.Config{Logger: quiet(in.logger)})
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, in.pool, func(tx pgx.Tx) error {
		// The lock keeps processes that start together from colliding.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext('mailtrap_inbox'))"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, schema); err != nil {
			return err
		}
		// River cannot migrate in one transaction. Migrate has a connection of
		// its own, under the lock, and writes nothing if no migration is pending.
		_, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
		return err
	})
}

// checkConnections returns an error if the database allows fewer connections
// than this program may open. It cannot count those of other programs.
func (in *inbox) checkConnections(ctx context.Context, workers int) error {
	var limit int
	err := in.pool.QueryRow(ctx, `
		SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
			- COALESCE(current_setting('reserved_connections', true)::int, 0) -- since PostgreSQL 16`).Scan(&limit)
	if err != nil {
		return fmt.Errorf("cannot read max_connections: %w", err)
	}
	need := int(in.pool.Config().MaxConns) + 1 // River listens on one that leaves the pool
	switch fits := workers - (need - limit); {
	case need <= limit:
		return nil
	case fits > 0:
		return fmt.Errorf("-workers %d needs %d connections, but the database allows %d: use -workers %d or fewer",
			workers, need, limit, fits)
	}
	return fmt.Errorf("the program needs %d connections, but the database allows %d: make pool_max_conns in %s smaller",
		need, limit, databaseVariable)
}

// ready returns an error unless the database can store events. The statement
// finds nothing, writes nothing, and fails on a standby.
func (in *inbox) ready(ctx context.Context) error {
	_, err := in.pool.Exec(ctx, "SELECT FROM mailtrap_inbox WHERE id = 0 FOR UPDATE")
	return err
}

func (in *inbox) newHandler(verifier *mailtrapwebhook.Verifier) *mailtrapwebhook.Handler {
	return &mailtrapwebhook.Handler{
		Verifier:   verifier,
		OnDelivery: in.store,
		// The table remembers the events. After a crash, a second memory could
		// contradict it.
		Dedup:  mailtrapwebhook.NoDedup,
		Logger: in.logger,
	}
}

// txOptions are those of every transaction. Stricter ones, which may be the
// database's default, fail where two deliveries have the same event.
var txOptions = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}

// store stores the events of a delivery that are new, each with its job. After
// an error Mailtrap sends the delivery again.
func (in *inbox) store(ctx context.Context, d *mailtrapwebhook.Delivery) error {
	return pgx.BeginTxFunc(ctx, in.pool, txOptions, func(tx pgx.Tx) error {
		jobs, err := insertEvents(ctx, tx, d)
		if err != nil {
			return fmt.Errorf("cannot insert the events: %w", err)
		}
		if len(jobs) == 0 {
			return nil
		}
		if _, err := in.river.InsertManyFastTx(ctx, tx, jobs); err != nil {
			return fmt.Errorf("cannot insert the jobs: %w", err)
		}
		return nil
	})
}

// insertEvents inserts the events that are new, and returns a job for each. If
// an open transaction has inserted one of them, insertEvents waits until that
// one ends.
func insertEvents(ctx context.Context, tx pgx.Tx, d *mailtrapwebhook.Delivery) (jobs []river.InsertManyParams, err error) {
	raws := make([][]byte, len(d.Events))
	for i, ev := range d.Events {
		raws[i] = []byte(ev.RawJSON())
	}
	// ORDER BY, so that two transactions never wait for each other. NULL keys
	// are all different: nothing tells an event without a key, so store it
	// twice rather than never.
	rows, _ := tx.Query(ctx, `
		INSERT INTO mailtrap_inbox (key, received, raw)
		SELECT NULLIF(key, ''), $1, raw FROM unnest($2::text[], $3::bytea[]) AS event (key, raw) ORDER BY key
		ON CONFLICT (key) DO NOTHING
		RETURNING id, COALESCE(key, '')`, d.ReceivedAt, d.Keys, raws) // ForEachRow returns its error
	var job eventArgs
	_, err = pgx.ForEachRow(rows, []any{&job.Inbox, &job.Key}, func() error {
		jobs = append(jobs, river.InsertManyParams{Args: job})
		return nil
	})
	return jobs, err
}

// purgeWorked uses the index on received. Events that wait for their work, or
// for a person, stay.
const purgeWorked = "DELETE FROM mailtrap_inbox WHERE received < $1 AND worked IS NOT NULL"

// purge deletes the worked events from before a time.
func (in *inbox) purge(ctx context.Context, before time.Time) (int64, error) {
	tag, err := in.pool.Exec(ctx, purgeWorked, before)
	return tag.RowsAffected(), err
}
