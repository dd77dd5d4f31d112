package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// schema makes the tables that are missing. The lock keeps processes that start
// together from colliding. to_regclass and not IF NOT EXISTS, which fails in a
// schema where the role may not create tables, also if they are there.
//
// An event is stored once for as long as its key is in the table. Keep keys for
// months: a captured request stays valid until the secret is reset.
//
// raw is bytea because json refuses some texts that are valid JSON, and dead
// letters must take any event.
const schema = `
SELECT pg_advisory_xact_lock(hashtext('mailtrap_events'));
DO $$ BEGIN
IF to_regclass('mailtrap_keys') IS NULL THEN
	CREATE TABLE mailtrap_keys (
		key   text PRIMARY KEY,
		since timestamptz NOT NULL DEFAULT now()
	);
	CREATE INDEX mailtrap_keys_since ON mailtrap_keys (since);
END IF;
IF to_regclass('mailtrap_events') IS NULL THEN
	CREATE TABLE mailtrap_events (
		id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		received timestamptz NOT NULL,
		kind     text NOT NULL,
		email    text,
		raw      bytea NOT NULL
	);
	CREATE INDEX mailtrap_events_received ON mailtrap_events (received);
END IF;
IF to_regclass('mailtrap_dead_letters') IS NULL THEN
	CREATE TABLE mailtrap_dead_letters (
		id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		received timestamptz NOT NULL,
		key      text NOT NULL,
		reason   text NOT NULL,
		raw      bytea NOT NULL
	);
END IF;
END $$;`

func createTables(ctx context.Context, pool *pgxpool.Pool) error {
	// Only the simple protocol takes several statements.
	_, err := pool.Exec(ctx, schema, pgx.QueryExecModeSimpleProtocol)
	return err
}

// ready returns an error unless the database can store events. The statement
// finds nothing, writes nothing, and fails on a standby.
func ready(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, "SELECT FROM mailtrap_keys WHERE key = '' FOR UPDATE")
	return err
}

// txOptions are those of every transaction. Stricter ones, which may be the
// database's default, fail where two deliveries have the same event.
var txOptions = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}

// An item is an event to store.
type item struct {
	key      string
	received time.Time
	event    mailtrapwebhook.Event
}

// store stores the events of a delivery that were not stored before, and
// returns how many became dead letters. After an error Mailtrap sends the
// delivery again.
//
// One statement inserts all events. If the database refuses one of them, store
// begins again, with savepoints.
func store(ctx context.Context, pool *pgxpool.Pool, d *mailtrapwebhook.Delivery) (dead int, err error) {
	err = storeWith(ctx, pool, d, insertEvents)
	if isRefused(err) {
		err = storeWith(ctx, pool, d, func(ctx context.Context, tx pgx.Tx, items []item) (err error) {
			dead, err = insertOrBury(ctx, tx, items)
			return err
		})
	}
	return dead, err
}

func storeWith(
	ctx context.Context, pool *pgxpool.Pool, d *mailtrapwebhook.Delivery,
	insert func(context.Context, pgx.Tx, []item) error,
) error {
	return pgx.BeginTxFunc(ctx, pool, txOptions, func(tx pgx.Tx) error {
		isNew, err := insertKeys(ctx, tx, d.Keys)
		if err != nil {
			return fmt.Errorf("cannot insert the keys: %w", err)
		}
		var items []item
		for i, ev := range d.Events {
			// Nothing tells an event without a key: store it twice rather than
			// never.
			if key := d.Keys[i]; key == "" || isNew[key] {
				items = append(items, item{key, d.ReceivedAt, ev})
				delete(isNew, key) // the delivery may have the event twice
			}
		}
		if err := insert(ctx, tx, items); err != nil {
			return fmt.Errorf("cannot insert the events: %w", err)
		}
		return nil
	})
}

// insertKeys inserts the keys and reports which were new. If an open
// transaction has inserted one of them, insertKeys waits until that one ends.
func insertKeys(ctx context.Context, tx pgx.Tx, keys []string) (isNew map[string]bool, err error) {
	// ORDER BY, so that two transactions never wait for each other.
	rows, _ := tx.Query(ctx, `
		INSERT INTO mailtrap_keys (key)
		SELECT key FROM unnest($1::text[]) AS key WHERE key <> '' ORDER BY key
		ON CONFLICT (key) DO NOTHING
		RETURNING key`, keys) // ForEachRow returns its error
	isNew = make(map[string]bool)
	var key string
	_, err = pgx.ForEachRow(rows, []any{&key}, func() error {
		isNew[key] = true
		return nil
	})
	return isNew, err
}

// insertEvents inserts all items or none. Work of your own that must happen
// once for an event belongs here: what it refuses becomes a dead letter too.
func insertEvents(ctx context.Context, tx pgx.Tx, items []item) error {
	var received []time.Time
	var kinds []string
	var emails []*string
	var raws [][]byte
	for _, it := range items {
		received = append(received, it.received)
		kinds = append(kinds, it.event.Name())
		emails = append(emails, emailOf(it.event))
		raws = append(raws, []byte(it.event.RawJSON()))
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO mailtrap_events (received, kind, email, raw)
		SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::bytea[])`, received, kinds, emails, raws)
	return err
}

// emailOf returns the address that an event is about, and nil if it has none.
func emailOf(ev mailtrapwebhook.Event) *string {
	if ev, ok := ev.(*mailtrapwebhook.SendingWebhookEvent); ok && ev.Email != "" {
		return &ev.Email
	}
	return nil
}

// insertOrBury inserts the items that the tables take, and makes dead letters
// of the others. It halves the items until it has found those: one among 500
// takes 18 savepoints in place of 500.
func insertOrBury(ctx context.Context, tx pgx.Tx, items []item) (dead int, err error) {
	if len(items) == 0 {
		return 0, nil
	}
	err = pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error {
		if err := insertEvents(ctx, savepoint, items); err != nil {
			return err
		}
		// A deferred constraint would refuse the whole transaction at its end.
		_, err := savepoint.Exec(ctx, "SET CONSTRAINTS ALL IMMEDIATE")
		return err
	})
	if !isRefused(err) { // stored, or to be tried again
		return 0, err
	}
	if len(items) == 1 {
		return 1, bury(ctx, tx, items[0], err)
	}
	half := len(items) / 2
	dead, err = insertOrBury(ctx, tx, items[:half])
	if err != nil {
		return 0, err
	}
	more, err := insertOrBury(ctx, tx, items[half:])
	return dead + more, err
}

// isRefused reports whether the database refused what a statement holds, so
// that no retry helps. Anything else is not the event's fault, such as a full
// disk or a missing column. Mailtrap must then send the delivery again.
func isRefused(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch pgErr.Code[:2] {
	case "22", "23", "54": // data exception, constraint violation, limit exceeded
		return true
	}
	return pgErr.Code == "P0001" // RAISE in a trigger or function of yours
}

// bury makes a dead letter of an item.
func bury(ctx context.Context, tx pgx.Tx, it item, reason error) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO mailtrap_dead_letters (received, key, reason, raw) VALUES ($1, $2, $3, $4)`,
		it.received, it.key, reason.Error(), []byte(it.event.RawJSON()))
	return err
}

// redriveBatch is how many dead letters a transaction takes. PostgreSQL refuses
// statements of a gigabyte.
const redriveBatch = 500

// redrive stores the dead letters as events. Those that are refused once more
// stay dead letters. Events that are stored stay so after an error.
func redrive(ctx context.Context, pool *pgxpool.Pool) (stored, left int, err error) {
	// Those that are refused get larger ids, and must not come again in this call.
	var last int64
	err = pool.QueryRow(ctx, "SELECT COALESCE(max(id), 0) FROM mailtrap_dead_letters").Scan(&last)
	if err != nil {
		return 0, 0, err
	}
	for {
		var n, dead int
		err = pgx.BeginTxFunc(ctx, pool, txOptions, func(tx pgx.Tx) error {
			items, err := takeDeadLetters(ctx, tx, last)
			if err != nil {
				return err
			}
			n = len(items)
			dead, err = insertOrBury(ctx, tx, items)
			return err
		})
		if err != nil || n == 0 {
			return stored, left, err
		}
		stored, left = stored+n-dead, left+dead
	}
}

// takeDeadLetters deletes some dead letters with ids up to last, and returns
// their items. It leaves out those that another redrive has taken.
func takeDeadLetters(ctx context.Context, tx pgx.Tx, last int64) ([]item, error) {
	rows, _ := tx.Query(ctx, `
		DELETE FROM mailtrap_dead_letters WHERE id = ANY (ARRAY (
			SELECT id FROM mailtrap_dead_letters WHERE id <= $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
		))
		RETURNING key, received, raw`, last, redriveBatch) // CollectRows returns its error
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (it item, err error) {
		var raw []byte
		err = row.Scan(&it.key, &it.received, &raw)
		it.event = parseEvent(raw)
		return it, err
	})
}

// parseEvent returns the event with this text. The text of an unknown event may
// be anything, even no JSON.
func parseEvent(raw []byte) mailtrapwebhook.Event {
	events, err := mailtrapwebhook.Parse(fmt.Appendf(nil, "[%s]", raw))
	if err != nil || len(events) != 1 {
		return &mailtrapwebhook.UnknownEvent{Raw: string(raw)}
	}
	return events[0]
}

// The statements that purge use the indexes on the times.
const (
	purgeKeys   = "DELETE FROM mailtrap_keys WHERE since < $1"
	purgeEvents = "DELETE FROM mailtrap_events WHERE received < $1"
)

// purge deletes the keys and events from before a time. Dead letters wait for a
// person.
func purge(ctx context.Context, pool *pgxpool.Pool, before time.Time) (keys, events int64, err error) {
	tag, err := pool.Exec(ctx, purgeKeys, before)
	if err != nil {
		return 0, 0, err
	}
	keys = tag.RowsAffected()
	tag, err = pool.Exec(ctx, purgeEvents, before)
	return keys, tag.RowsAffected(), err
}
