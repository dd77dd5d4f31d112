package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/replicas"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// The kit asks whether the program loses, repeats or lets in anything.
func TestReceiver(t *testing.T) {
	db := newDatabase(t)
	in := db.work(t, recordEffect)
	verifier, err := mailtrapwebhook.NewVerifier(replicas.Secret)
	require.NoError(t, err)
	webhooktest.TestReceiver(t, webhooktest.Receiver{
		Handler: in.newHandler(verifier),
		Secret:  replicas.Secret,
		Count: func(ev mailtrapwebhook.Event) int {
			return db.count(t, "effects WHERE raw = $1", []byte(ev.RawJSON()))
		},
	})
}

// delivery returns a delivery as a Handler makes it of events that have ids.
func delivery(events ...mailtrapwebhook.Event) *mailtrapwebhook.Delivery {
	d := &mailtrapwebhook.Delivery{Events: events, ReceivedAt: time.Now()}
	for _, ev := range events {
		d.Keys = append(d.Keys, ev.Key())
	}
	return d
}

// Whatever an event is, the work gets it as it came.
func TestOddEventsAreWorked(t *testing.T) {
	db := newDatabase(t)
	body := []byte(strings.Join([]string{
		`{"event":"delivery","message_id":"1","event_id":"1","email":"\u0000@example.com","timestamp":1}`,
		`{"event":"a\u0000b","timestamp":1}`,
		"{\"event\":\"\xff\",\"timestamp\":1}",
		`{"event":"delivery","message_id":"2","event_id":"2","events":[{"event":"open"}]}`,
		`"no object"`, `7`, `{}`, `1],[2`, `{"event":"open"},{"event":"click"}`,
		"no JSON",
	}, "\n") + "\n")
	events, err := mailtrapwebhook.Parse(body)
	require.NoError(t, err)
	var mu sync.Mutex
	var worked []mailtrapwebhook.Event
	in := db.work(t, func(ctx context.Context, tx pgx.Tx, key string, ev mailtrapwebhook.Event) error {
		mu.Lock()
		defer mu.Unlock()
		worked = append(worked, ev)
		return recordEffect(ctx, tx, key, ev)
	})
	d := delivery(events...)
	require.NoError(t, in.store(t.Context(), d))
	db.awaitEffects(t, len(events))
	mu.Lock()
	defer mu.Unlock()
	text := func(ev mailtrapwebhook.Event) string { return fmt.Sprintf("%T %q %s", ev, ev.Name(), ev.RawJSON()) }
	var got, want []string
	for i := range events {
		got, want = append(got, text(worked[i])), append(want, text(events[i]))
	}
	slices.Sort(got)
	slices.Sort(want)
	require.Equal(t, want, got)
}

// Nothing tells events without keys, so each of them is stored.
func TestEventsWithoutKeysAreStoredEachTime(t *testing.T) {
	db := newDatabase(t)
	in := db.inbox(t, recordEffect, 0)
	d := delivery(replicas.NewBatches(t, 1, 3)[0].Events...)
	d.Keys[0], d.Keys[2] = "", ""
	require.NoError(t, in.store(t.Context(), d))
	require.NoError(t, in.store(t.Context(), d))
	require.Equal(t, 5, db.count(t, "mailtrap_inbox"))
	require.Equal(t, 5, db.count(t, "river_job"))
}

// Events and jobs are stored together or not at all.
func TestEventsAndJobsAreOneTransaction(t *testing.T) {
	db := newDatabase(t)
	in := db.inbox(t, recordEffect, 0)
	d := delivery(replicas.NewBatches(t, 1, 3)[0].Events...)
	db.exec(t, "ALTER TABLE river_job RENAME TO away")
	require.ErrorContains(t, in.store(t.Context(), d), "cannot insert the jobs")
	db.exec(t, "ALTER TABLE away RENAME TO river_job")
	require.Zero(t, db.count(t, "mailtrap_inbox"), "the retry would find the events stored, and no job would come")

	// A deferred trigger makes the COMMIT fail.
	db.exec(t, "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE 'refused'; END $$ LANGUAGE plpgsql")
	db.exec(t, `CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON mailtrap_inbox
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`)
	require.ErrorContains(t, in.store(t.Context(), d), "refused")
	require.Zero(t, db.count(t, "river_job"), "a worker would find no events")
	db.exec(t, "DROP TRIGGER refuse ON mailtrap_inbox")
	require.NoError(t, in.store(t.Context(), d))
	require.Equal(t, 3, db.count(t, "river_job"))
}

// Work that fails leaves nothing behind, and is tried again.
func TestFailedWorkIsRolledBackAndRetried(t *testing.T) {
	db := newDatabase(t)
	var calls atomic.Int32
	in := db.work(t, func(ctx context.Context, tx pgx.Tx, key string, ev mailtrapwebhook.Event) error {
		if err := recordEffect(ctx, tx, key, ev); err != nil {
			return err
		}
		if calls.Add(1) == 1 {
			return errors.New("the first attempt fails")
		}
		return nil
	})
	require.NoError(t, in.store(t.Context(), delivery(replicas.NewBatches(t, 1, 1)[0].Events...)))
	db.awaitEffects(t, 1)
	require.EqualValues(t, 2, calls.Load())
	require.Equal(t, 1, db.count(t, "effects"))
}

// An attempt that River takes for dead may come to its end after all. The event
// is worked once all the same.
func TestTwoAttemptsAtOnceWorkOnce(t *testing.T) {
	db := newDatabase(t)
	begun, goOn := make(chan struct{}, 2), make(chan struct{})
	w := &worker{pool: db.pool, work: func(ctx context.Context, tx pgx.Tx, key string, ev mailtrapwebhook.Event) error {
		begun <- struct{}{}
		<-goOn
		return recordEffect(ctx, tx, key, ev)
	}}
	require.NoError(t, db.inbox(t, recordEffect, 0).store(t.Context(), delivery(replicas.NewBatches(t, 1, 1)[0].Events...)))
	var id int64
	require.NoError(t, db.pool.QueryRow(t.Context(), "SELECT id FROM mailtrap_inbox").Scan(&id))
	job := &river.Job[eventArgs]{Args: eventArgs{Inbox: id}}
	failed := make(chan error, 2)
	for range 2 {
		go func() { failed <- w.Work(t.Context(), job) }()
	}
	<-begun
	require.Eventually(t, func() bool { return db.count(t, "pg_stat_activity WHERE wait_event_type = 'Lock'") == 1 },
		time.Minute, 10*time.Millisecond, "the other attempt must wait")
	close(goOn)
	require.NoError(t, <-failed)
	require.NoError(t, <-failed)
	require.Equal(t, 1, db.count(t, "effects"))
}

// Work that ignores the end of its context keeps no connection and no lock.
// Deliveries and the event's next attempt need them.
func TestStuckWorkKeepsNoConnection(t *testing.T) {
	db := newDatabase(t)
	in := db.inbox(t, recordEffect, 0)
	require.NoError(t, in.store(t.Context(), delivery(replicas.NewBatches(t, 1, 1)[0].Events...)))
	job := new(river.Job[eventArgs])
	require.NoError(t, db.pool.QueryRow(t.Context(), "SELECT id FROM mailtrap_inbox").Scan(&job.Args.Inbox))
	begun, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	stuck := &worker{pool: db.pool, work: func(ctx context.Context, tx pgx.Tx, key string, ev mailtrapwebhook.Event) error {
		if err := recordEffect(ctx, tx, key, ev); err != nil {
			return err
		}
		close(begun)
		<-goOn
		return nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	release := sync.OnceFunc(func() { close(goOn) })
	t.Cleanup(release) // or a test that fails waits for the work
	go func() { ended <- stuck.Work(ctx, job) }()
	<-begun
	cancel()
	require.Eventually(t, func() bool { return db.pool.Stat().AcquiredConns() == 0 }, 20*time.Second, time.Millisecond,
		"stuck work keeps its connection")
	again, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, (&worker{pool: db.pool, work: recordEffect}).Work(again, job), "stuck work keeps the event's lock")
	release()
	require.Error(t, <-ended, "the work was done twice")
	require.Equal(t, 1, db.count(t, "effects"))
}

func TestDiscardedJobsAreListedAndPutBack(t *testing.T) {
	db := newDatabase(t)
	const header = "JOB"
	require.True(t, strings.HasPrefix(db.run(t, "-discarded"), header))
	b := replicas.NewBatches(t, 1, 4)[0]
	require.NoError(t, db.inbox(t, recordEffect, 0).store(t.Context(), delivery(b.Events...)))
	cancelled := b.Events[0].Key()
	db.exec(t, "UPDATE river_job SET attempt = max_attempts - 1 WHERE args->>'key' <> $1", cancelled) // each has one left
	var mended atomic.Bool
	db.work(t, func(ctx context.Context, tx pgx.Tx, key string, ev mailtrapwebhook.Event) error {
		switch {
		case mended.Load() || key == b.Events[3].Key():
			return recordEffect(ctx, tx, key, ev)
		case key == cancelled:
			return river.JobCancel(errors.New("no retry helps"))
		}
		return errors.New("the other service is\ndown")
	})
	require.Eventually(t, func() bool { return db.count(t, "river_job WHERE finalized_at IS NOT NULL") == 4 },
		time.Minute, 20*time.Millisecond)

	list := strings.Split(db.run(t, "-discarded"), "\n")
	require.Len(t, list, 1+3+1, "a line for each")
	var failed []string // the jobs that are discarded
	for i, want := range []string{`no retry helps"`, `"the other service is\ndown"`, `"the other service is\ndown"`} {
		line := list[1+slices.IndexFunc(list[1:], func(line string) bool { return strings.Contains(line, b.Events[i].Key()) })]
		require.Contains(t, line, b.Events[i].Key())
		require.Contains(t, line, want)
		failed = append(failed, strings.Fields(line)[0])
	}

	mended.Store(true)
	require.Equal(t, "jobs put back: 1\n", db.run(t, "-retry", failed[1]))
	db.awaitEffects(t, 2)
	require.Equal(t, 2, strings.Count(db.run(t, "-discarded"), "delivery/"))
	var stdout, stderr strings.Builder
	require.Equal(t, 1, db.tryRun(t, &stdout, &stderr, "-retry", failed[1]), "it is done")
	require.Contains(t, stderr.String(), "no discarded job has this number")

	require.Equal(t, "jobs put back: 2\n", db.run(t, "-retry", "all"))
	db.awaitEffects(t, 4)
	require.Equal(t, 4, db.count(t, "effects"))
	require.Equal(t, "jobs put back: 0\n", db.run(t, "-retry", "all"))
}

// A job that is deleted comes back neither by -retry nor by Mailtrap. -purge
// deletes its event.
func TestDiscardedJobsAreDeleted(t *testing.T) {
	db := newDatabase(t)
	in := db.inbox(t, recordEffect, 0)
	d := delivery(replicas.NewBatches(t, 1, 4)[0].Events...)
	require.NoError(t, in.store(t.Context(), d))
	db.exec(t, "UPDATE river_job SET state = 'discarded', finalized_at = now() WHERE id > 1")
	var stdout, stderr strings.Builder
	require.Equal(t, 1, db.tryRun(t, &stdout, &stderr, "-delete", "1"), "it waits for its work")
	require.Contains(t, stderr.String(), "no discarded job has this number")
	require.Equal(t, "jobs deleted: 1\n", db.run(t, "-delete", "2"))
	require.Equal(t, "jobs deleted: 2\n", db.run(t, "-delete", "all"))
	require.Equal(t, 1, db.count(t, "river_job"))
	require.NoError(t, in.store(t.Context(), d))
	require.Equal(t, 1, db.count(t, "river_job"), "a repeated delivery brings the jobs back")
	db.exec(t, "UPDATE mailtrap_inbox SET received = now() - interval '1 year'")
	require.Equal(t, "events deleted: 3\n", db.run(t, "-purge", "25h"))
}

// Somebody else may put the job back in the meantime.
func TestJobThatWasPutBackIsNotDeleted(t *testing.T) {
	db := newDatabase(t)
	in := db.inbox(t, recordEffect, 0)
	require.NoError(t, in.store(t.Context(), delivery(replicas.NewBatches(t, 1, 1)[0].Events...)))
	db.exec(t, "UPDATE river_job SET state = 'discarded', finalized_at = now()")
	for job, err := range in.discarded(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, "jobs put back: 1\n", db.run(t, "-retry", "all"))
		require.ErrorContains(t, in.deleteJob(t.Context(), job), "put back in the meantime")
	}
	require.Equal(t, 1, db.count(t, "river_job WHERE state = 'available'"))
	require.Equal(t, 1, db.count(t, "mailtrap_inbox WHERE worked IS NULL"))
}

// A job that gets no connection waits. That is no attempt, since no work began.
func TestJobsWaitForConnections(t *testing.T) {
	db := newDatabase(t)
	role := db.as(t, "few", "CONNECTION LIMIT 4") // 10 workers want more
	var log bytes.Buffer
	in, err := newInbox(role.pool, func(ctx context.Context, tx pgx.Tx, key string, ev mailtrapwebhook.Event) error {
		time.Sleep(100 * time.Millisecond)
		return recordEffect(ctx, tx, key, ev)
	}, options{workers: 10, stop: stopTimeout}, slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	require.NoError(t, in.store(t.Context(), delivery(replicas.NewBatches(t, 1, 10)[0].Events...)))
	ctx, stop := context.WithCancel(t.Context())
	require.NoError(t, in.river.Start(ctx))
	require.Eventually(t, func() bool {
		return db.count(t, "river_job WHERE state <> 'running'") == 10 && db.count(t, "river_job WHERE metadata ? 'snoozes'") > 1
	}, time.Minute, 20*time.Millisecond, "no job waits")
	stop()
	<-in.river.Stopped()
	require.Zero(t, db.count(t, "river_job WHERE state IN ('available', 'scheduled') AND attempt > 0"), "waiting took an attempt")
	require.Zero(t, db.count(t, "river_job WHERE errors IS NOT NULL"))
	require.Equal(t, 1, strings.Count(log.String(), "jobs wait"), log.String())
}

// The statements of examples/README.md to alert on.
func TestStatementsToAlertOn(t *testing.T) {
	db := newDatabase(t)
	statements := readme(t, "SELECT [^;]*FROM river_job")
	require.Len(t, statements, 2)
	values := func() (discarded, age int) {
		require.NoError(t, db.pool.QueryRow(t.Context(), statements[0]).Scan(&discarded))
		require.NoError(t, db.pool.QueryRow(t.Context(), statements[1]).Scan(&age))
		return discarded, age
	}
	require.NoError(t, db.inbox(t, recordEffect, 0).store(t.Context(), delivery(replicas.NewBatches(t, 1, 6)[0].Events...)))
	db.exec(t, "UPDATE river_job SET created_at = now() - id * interval '1 hour', attempt = 1 WHERE id > 1")
	db.exec(t, "UPDATE river_job SET state = 'discarded', finalized_at = now() WHERE id = 5")
	db.exec(t, "UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE id = 4")
	db.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = 3")
	db.exec(t, "UPDATE river_job SET state = 'scheduled', attempt = 0 WHERE id = 2")                   // it waits for a connection
	require.Equal(t, 1, db.count(t, "river_job WHERE id = 6 AND state = 'available' AND attempt > 0")) // it was put back
	discarded, age := values()
	require.Equal(t, 2, discarded)
	require.InDelta(t, 2*time.Hour.Seconds(), age, 60)
	db.exec(t, "DELETE FROM river_job")
	discarded, age = values()
	require.Zero(t, discarded)
	require.Zero(t, age)
}

// There may be more discarded jobs than one page of River has.
func TestAllDiscardedJobsArePutBack(t *testing.T) {
	db := newDatabase(t)
	const n = 2500
	require.NoError(t, db.inbox(t, recordEffect, 0).store(t.Context(), delivery(replicas.NewBatches(t, 1, n)[0].Events...)))
	db.exec(t, "UPDATE river_job SET state = 'discarded', finalized_at = now(), attempt = max_attempts")
	require.Equal(t, n, strings.Count(db.run(t, "-discarded"), "delivery/"))
	require.Equal(t, fmt.Sprintf("jobs put back: %d\n", n), db.run(t, "-retry", "all"))
	require.Equal(t, n, db.count(t, "river_job WHERE state = 'available'"))
}

// River deletes what is done, after a day. What waits for a person stays.
func TestDiscardedJobsAreKept(t *testing.T) {
	db := newDatabase(t)
	require.NoError(t, db.inbox(t, recordEffect, 0).store(t.Context(), delivery(replicas.NewBatches(t, 1, 3)[0].Events...)))
	for id, state := range []string{"completed", "discarded", "cancelled"} {
		db.exec(t, "UPDATE river_job SET state = $1, finalized_at = now() - interval '1 year' WHERE id = $2", state, id+1)
	}
	db.work(t, recordEffect)
	require.Eventually(t, func() bool { return db.count(t, "river_job WHERE state = 'completed'") == 0 },
		time.Minute, 20*time.Millisecond, "River's cleaner does not run")
	require.Equal(t, 2, db.count(t, "river_job"))
}

func TestPurge(t *testing.T) {
	db := newDatabase(t)
	const hours = 20_000
	db.exec(t, `INSERT INTO mailtrap_inbox (received, raw, worked)
		SELECT now() - h * interval '1 hour', '{}', CASE WHEN h < $1::int THEN now() END FROM generate_series(1, $1::int) h`, hours)
	db.exec(t, "ANALYZE mailtrap_inbox")
	rows, _ := db.pool.Query(t.Context(), "EXPLAIN "+purgeWorked, time.Now().Add(-(hours-100)*time.Hour))
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, strings.Join(plan, "\n"), "Index Scan using mailtrap_inbox_received")
	require.Equal(t, "events deleted: 19975\n", db.run(t, "-purge", "25h"), "the oldest waits for its work")
	require.Equal(t, 25, db.count(t, "mailtrap_inbox"))
}

func TestReady(t *testing.T) {
	db := newDatabase(t)
	require.NoError(t, db.inbox(t, recordEffect, 0).ready(t.Context()))
	db.exec(t, "ALTER DATABASE "+db.name+" SET default_transaction_read_only = on")
	require.ErrorContains(t, openPool(t, db.url).inbox(t, recordEffect, 0).ready(t.Context()), "read-only")
	db.exec(t, "SET default_transaction_read_only = off")
	db.exec(t, "ALTER DATABASE "+db.name+" RESET default_transaction_read_only")
}
