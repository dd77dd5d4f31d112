package main

import (
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/replicas"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// delivery returns a delivery as a Handler makes it of events that have ids.
func delivery(events ...mailtrapwebhook.Event) *mailtrapwebhook.Delivery {
	d := &mailtrapwebhook.Delivery{Events: slices.Clone(events), ReceivedAt: time.Now()}
	for _, ev := range events {
		d.Keys = append(d.Keys, ev.Key())
	}
	return d
}

func newTables(t *testing.T) *database {
	db := newDatabase(t)
	require.NoError(t, createTables(t.Context(), db.pool))
	return db
}

// storeAll stores a delivery of which no event is refused.
func storeAll(t *testing.T, db *database, d *mailtrapwebhook.Delivery) {
	t.Helper()
	dead, err := store(t.Context(), db.pool, d)
	require.NoError(t, err)
	require.Zero(t, dead)
}

func TestRoundTrips(t *testing.T) {
	db := newTables(t)
	for i, n := range []int{1, 1, 500, 10_000} {
		d := delivery(replicas.NewBatches(t, 1, n)[0].Events...)
		before := db.proxy.RoundTrips()
		storeAll(t, db, d)
		if i > 0 { // the first call connects and prepares
			require.Equal(t, before+4, db.proxy.RoundTrips(), "round trips for %d events", n)
		}
	}
}

// Transactions with the same events in different orders must not deadlock. Nor
// must they fail where the database's default is to be stricter.
func TestDifferentOrders(t *testing.T) {
	db := newTables(t)
	db.exec(t, "ALTER DATABASE "+db.name+" SET default_transaction_isolation = serializable")
	pool := openPool(t, db.url)
	var all sync.WaitGroup
	batches := replicas.NewBatches(t, 20, 100)
	for _, b := range batches {
		for range 4 {
			d := delivery(b.Events...)
			mathrand.Shuffle(len(d.Events), func(i, j int) {
				d.Events[i], d.Events[j] = d.Events[j], d.Events[i]
				d.Keys[i], d.Keys[j] = d.Keys[j], d.Keys[i]
			})
			all.Go(func() {
				if dead, err := store(t.Context(), pool, d); dead > 0 || err != nil {
					t.Error(dead, err)
				}
			})
		}
	}
	all.Wait()
	db.requireOnce(t, batches)
}

// Processes that start at the same time must not fail to create the tables.
func TestProcessesCreateTheTablesTogether(t *testing.T) {
	for range 5 {
		db := newDatabase(t)
		var all sync.WaitGroup
		for range 8 {
			pool := openPool(t, db.url)
			all.Go(func() {
				if err := createTables(t.Context(), pool); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}

// Nothing tells events without keys, so each of them is stored.
// A delivery may have an event more than once.
func TestEqualEventsOfADeliveryAreStoredOnce(t *testing.T) {
	db := newDatabase(t)
	require.NoError(t, createTables(t.Context(), db.pool))
	good := webhooktest.Sample("delivery")
	refused := parseEvent([]byte(`{"event":"delivery","message_id":"1","event_id":"1","email":"\u0000@example.com"}`))
	dead, err := store(t.Context(), db.pool, delivery(good, refused, good, refused))
	require.NoError(t, err)
	require.Equal(t, 1, dead)
	require.Equal(t, []string{good.RawJSON()}, db.stored(t))
}

func TestEventsWithoutKeysAreStoredEachTime(t *testing.T) {
	db := newTables(t)
	batches := replicas.NewBatches(t, 1, 3)
	d := delivery(batches[0].Events...)
	d.Keys[0], d.Keys[2] = "", ""
	storeAll(t, db, d)
	db.requireOnce(t, batches)
	storeAll(t, db, d)
	require.Len(t, db.stored(t), 5, "an event without a key was not stored again")
}

// PgBouncer gives each transaction another connection to the server.
func TestPgBouncer(t *testing.T) {
	proxy := servers.NewProxy(t, bouncer)
	pool := openPool(t, "postgres://postgres@"+proxy.Address()+"/postgres?sslmode=disable")
	require.NoError(t, createTables(t.Context(), pool))
	var all sync.WaitGroup
	for _, b := range replicas.NewBatches(t, 40, 5) {
		b.Events[1] = spoil(t, b.Events[1])
		all.Go(func() {
			if dead, err := store(t.Context(), pool, delivery(b.Events...)); dead != 1 || err != nil {
				t.Error(dead, err)
			}
		})
	}
	all.Wait()
	require.NoError(t, ready(t.Context(), pool))
}

// The kit asks whether the program loses, repeats or lets in anything.
func TestReceiver(t *testing.T) {
	db := newTables(t)
	verifier, err := mailtrapwebhook.NewVerifier(replicas.Secret)
	require.NoError(t, err)
	webhooktest.TestReceiver(t, webhooktest.Receiver{
		Handler: newHandler(verifier, db.pool, slog.New(slog.DiscardHandler)),
		Secret:  replicas.Secret,
		Count: func(ev mailtrapwebhook.Event) (n int) {
			err := db.pool.QueryRow(t.Context(), "SELECT count(*) FROM mailtrap_events WHERE raw = $1", []byte(ev.RawJSON())).Scan(&n)
			require.NoError(t, err)
			return n
		},
	})
}

// A deadLetter is a row of mailtrap_dead_letters.
type deadLetter struct{ Key, Reason, Raw string }

func (db *database) deadLetters(t *testing.T) []deadLetter {
	t.Helper()
	rows, _ := db.pool.Query(t.Context(), "SELECT key, reason, raw FROM mailtrap_dead_letters ORDER BY id")
	letters, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d deadLetter, err error) {
		var raw []byte
		err = row.Scan(&d.Key, &d.Reason, &raw)
		d.Raw = string(raw)
		return d, err
	})
	require.NoError(t, err)
	return letters
}

// spoil puts a NUL into the address of an event.
func spoil(t *testing.T, ev mailtrapwebhook.Event) mailtrapwebhook.Event {
	t.Helper()
	raw := strings.Replace(ev.RawJSON(), `"email":"`, `"email":"\u0000`, 1)
	require.NotEqual(t, ev.RawJSON(), raw)
	return parseEvent([]byte(raw))
}

// An event that the table refuses must not keep the others from being stored.
func TestRefusedEventsBecomeDeadLetters(t *testing.T) {
	db := newTables(t)
	for _, bad := range [][]int{{0}, {499}, {0, 1, 250, 498, 499}, {137}} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			db.exec(t, "TRUNCATE mailtrap_keys, mailtrap_events, mailtrap_dead_letters")
			b := replicas.NewBatches(t, 1, 500)[0]
			var want []deadLetter
			good := slices.Clone(b.Events)
			for _, i := range slices.Backward(bad) {
				b.Events[i] = spoil(t, b.Events[i])
				want = append(want, deadLetter{
					b.Events[i].Key(), `ERROR: invalid byte sequence for encoding "UTF8": 0x00 (SQLSTATE 22021)`, b.Events[i].RawJSON(),
				})
				good = slices.Delete(good, i, i+1)
			}
			slices.Reverse(want)
			for range 2 { // a retry changes nothing
				before, began := db.proxy.RoundTrips(), time.Now()
				_, err := store(t.Context(), db.pool, delivery(b.Events...))
				require.NoError(t, err)
				t.Logf("%d round trips, %v", db.proxy.RoundTrips()-before, time.Since(began))
				require.Equal(t, want, db.deadLetters(t))
				db.requireOnce(t, []replicas.Batch{{Events: good}})
			}
		})
	}
}

// A fault of the database is not the events' fault: they must come again.
// Rules of your own refuse events as the types of the columns do.
func TestRulesRefuseEvents(t *testing.T) {
	for name, rule := range map[string]string{
		"check":   "ALTER TABLE mailtrap_events ADD CHECK (kind <> 'open')",
		"trigger": "CREATE TRIGGER rule BEFORE INSERT ON mailtrap_events FOR EACH ROW WHEN (NEW.kind = 'open') EXECUTE FUNCTION refuse()",
		"deferred": `CREATE CONSTRAINT TRIGGER rule AFTER INSERT ON mailtrap_events DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (NEW.kind = 'open') EXECUTE FUNCTION refuse()`,
	} {
		t.Run(name, func(t *testing.T) {
			db := newTables(t)
			db.exec(t, "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$")
			db.exec(t, rule)
			good, bad := webhooktest.Sample("delivery"), webhooktest.Sample("open")
			dead, err := store(t.Context(), db.pool, delivery(good, bad))
			require.NoError(t, err)
			require.Equal(t, 1, dead)
			require.Equal(t, []string{good.RawJSON()}, db.stored(t))
			require.Equal(t, "events stored: 0, dead letters left: 1\n", db.run(t, "-redrive"))
		})
	}
}

func TestFaultsOfTheDatabaseAreRetried(t *testing.T) {
	db := newTables(t)
	b := replicas.NewBatches(t, 1, 3)[0]
	b.Events[1] = spoil(t, b.Events[1])
	d := delivery(b.Events...)
	db.exec(t, "ALTER TABLE mailtrap_events RENAME email TO address")
	_, err := store(t.Context(), db.pool, d)
	require.ErrorContains(t, err, "email")
	require.Empty(t, db.deadLetters(t))

	db.exec(t, "ALTER TABLE mailtrap_events RENAME address TO email")
	dead, err := store(t.Context(), db.pool, d)
	require.NoError(t, err)
	require.Equal(t, 1, dead)
	require.Len(t, db.stored(t), 2, "the failed attempt left keys")
}

func TestRedrive(t *testing.T) {
	db := newTables(t)
	db.exec(t, "ALTER TABLE mailtrap_events ADD CONSTRAINT strict CHECK (email NOT LIKE '%example.com')")
	b := replicas.NewBatches(t, 1, 20)[0]
	b.Events[7] = spoil(t, b.Events[7])
	dead, err := store(t.Context(), db.pool, delivery(b.Events...))
	require.NoError(t, err)
	require.Equal(t, 20, dead)

	require.Equal(t, "events stored: 0, dead letters left: 20\n", db.run(t, "-redrive"))
	db.exec(t, "ALTER TABLE mailtrap_events DROP CONSTRAINT strict")
	require.Equal(t, "events stored: 19, dead letters left: 1\n", db.run(t, "-redrive"))
	require.Equal(t, "events stored: 0, dead letters left: 1\n", db.run(t, "-redrive"))
	require.Equal(t, b.Events[7].Key(), db.deadLetters(t)[0].Key)
	db.requireOnce(t, []replicas.Batch{{Events: slices.Delete(b.Events, 7, 8)}})
}

// run runs a command of the program and returns its output.
func (db *database) run(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	require.Equal(t, 0, run(t.Context(), args, db.getenv, &stdout, &stderr), stderr.String())
	return stdout.String()
}

// There may be more dead letters than a transaction can take. What is stored
// stays stored if the rest fails.
func TestRedriveInBatches(t *testing.T) {
	db := newTables(t)
	const letters = 2*redriveBatch + 1
	db.exec(t, `INSERT INTO mailtrap_dead_letters (received, key, reason, raw)
		SELECT now(), n, 'a reason', convert_to(format('{"event":"open","email":"%s@example.com"}', n), 'UTF8')
		FROM generate_series(1, $1::int) AS n`, letters)
	db.exec(t, `CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE 'the disk is full' USING ERRCODE = 'disk_full'; END $$`)
	db.exec(t, fmt.Sprintf(`CREATE TRIGGER fail BEFORE INSERT ON mailtrap_events FOR EACH ROW
		WHEN (NEW.email = '%d@example.com') EXECUTE FUNCTION fail()`, letters))
	stored, _, err := redrive(t.Context(), db.pool)
	require.ErrorContains(t, err, "the disk is full")
	require.Equal(t, 2*redriveBatch, stored)
	require.Len(t, db.stored(t), stored)
	require.Len(t, db.deadLetters(t), 1)
	db.exec(t, "DROP TRIGGER fail ON mailtrap_events")
	require.Equal(t, "events stored: 1, dead letters left: 0\n", db.run(t, "-redrive"))
}

func TestPurge(t *testing.T) {
	db := newTables(t)
	const hours = 20_000 // each has a key and an event
	db.exec(t, "INSERT INTO mailtrap_keys SELECT 'key ' || h, now() - h * interval '1 hour' FROM generate_series(1, $1::int) h", hours)
	db.exec(t, `INSERT INTO mailtrap_events (received, kind, raw)
		SELECT now() - h * interval '1 hour', 'delivery', '{}' FROM generate_series(1, $1::int) h`, hours)
	db.exec(t, "ANALYZE mailtrap_keys, mailtrap_events")
	for statement, index := range map[string]string{
		purgeKeys: "mailtrap_keys_since", purgeEvents: "mailtrap_events_received",
	} {
		rows, _ := db.pool.Query(t.Context(), "EXPLAIN "+statement, time.Now().Add(-(hours-100)*time.Hour))
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.Contains(t, strings.Join(plan, "\n"), "Index Scan using "+index)
	}

	b := replicas.NewBatches(t, 1, 3)
	storeAll(t, db, delivery(b[0].Events...))
	require.Equal(t, "keys deleted: 100, events deleted: 100\n", db.run(t, "-purge", fmt.Sprint(hours-100, "h30m")))
	require.Equal(t, "keys deleted: 19876, events deleted: 19876\n", db.run(t, "-purge", "25h"))
	storeAll(t, db, delivery(b[0].Events...))
	require.Len(t, db.stored(t), 24+3, "the purge took what is new")
}

func TestReady(t *testing.T) {
	db := newDatabase(t)
	require.Error(t, ready(t.Context(), db.pool), "there are no tables yet")
	require.NoError(t, createTables(t.Context(), db.pool))
	require.NoError(t, ready(t.Context(), db.pool))
	db.exec(t, "ALTER DATABASE "+db.name+" SET default_transaction_read_only = on")
	require.ErrorContains(t, ready(t.Context(), openPool(t, db.url)), "read-only", "a standby answers, but stores nothing")
}
