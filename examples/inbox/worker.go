package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	maxAttempts = 10 // River waits 1, 16, 81, … seconds: four hours in all

	// jobTimeout is how long the work for an event may take.
	jobTimeout = 30 * time.Second

	// rescueAfter is when a running job counts as that of a process that died.
	rescueAfter = 2 * time.Minute

	// fetchCooldown is how often a process fetches jobs, at most. River's default
	// of 100 ms holds ten workers to 100 events a second.
	fetchCooldown = 10 * time.Millisecond

	// snooze is how long a job waits if no connection is to be had.
	snooze = 10 * time.Second

	// stopTimeout is how long work may go on after the signal to end. The server
	// answers its last delivery five seconds later.
	stopTimeout = 30 * time.Second
)

// A workFunc does the work for an event. The rows that it writes in tx are
// written exactly once. After an error all of that is rolled back, and the work
// is tried again later.
//
// Return river.JobCancel(err) if no retry helps: the job then waits for you at
// once. River stores the texts of errors: keep addresses out of them.
//
// ctx ends after jobTimeout, and with it the connection of tx. Work that goes on
// has failed.
//
// The key is the event's. Send it along to other services, so that they can
// tell a repeated call.
type workFunc func(ctx context.Context, tx pgx.Tx, key string, ev mailtrapwebhook.Event) error

// eventArgs are the arguments of a job: the id of an event in mailtrap_inbox,
// and its key for people to read. The event itself could not be here, because
// River keeps arguments as jsonb, which refuses some texts that are valid JSON.
type eventArgs struct {
	Inbox int64  `json:"inbox"`
	Key   string `json:"key"`
}

func (eventArgs) Kind() string { return "mailtrap_event" }

// newInbox returns an inbox. Without workers it cannot be started.
func newInbox(pool *pgxpool.Pool, work workFunc, opts options, logger *slog.Logger) (*inbox, error) {
	config := &river.Config{
		Workers:              river.NewWorkers(),
		MaxAttempts:          maxAttempts,
		JobTimeout:           jobTimeout,
		RescueStuckJobsAfter: rescueAfter,
		SoftStopTimeout:      opts.stop,
		FetchCooldown:        fetchCooldown,
		// A job that ignores its context must not keep a place for good.
		JobStuckHandler: func(context.Context, river.JobStuckHandlerParams) river.JobStuckHandlerResult {
			return river.JobStuckHandlerResult{AddWorkerSlot: true}
		},
		// Jobs that wait for a person wait forever: nothing is given up unseen.
		DiscardedJobRetentionPeriod: -1,
		CancelledJobRetentionPeriod: -1,
		ErrorHandler:                &errorLog{logger},
		Logger:                      quiet(logger),
	}
	river.AddWorker(config.Workers, &worker{pool: pool, work: work, logger: logger})
	if opts.workers > 0 {
		config.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: opts.workers}}
	}
	client, err := river.NewClient(riverpgxv5.New(pool), config)
	if err != nil {
		return nil, err
	}
	return &inbox{pool, client, logger}, nil
}

// A worker works on the events of jobs.
type worker struct {
	river.WorkerDefaults[eventArgs]
	pool   *pgxpool.Pool
	work   workFunc
	logger *slog.Logger
	warned atomic.Int64 // when warn last logged, in nanoseconds since 1970
}

func (w *worker) Work(ctx context.Context, job *river.Job[eventArgs]) error {
	pooled, err := w.pool.Acquire(ctx)
	if err != nil {
		w.warn(ctx, err)
		return river.JobSnooze(snooze) // no work has begun, so that this is no attempt
	}
	conn := pooled.Conn()
	// Work may ignore the end of ctx. Close its connection then: deliveries need
	// the place in the pool, and the next attempt needs the event's lock.
	stop := context.AfterFunc(ctx, func() { pooled.Hijack().PgConn().Conn().Close() })
	defer func() {
		if stop() {
			pooled.Release()
		}
	}()
	return pgx.BeginTxFunc(ctx, conn, txOptions, func(tx pgx.Tx) error {
		// FOR UPDATE, because an attempt that River takes for dead may still be
		// at work.
		var raw []byte
		err := tx.QueryRow(ctx, "SELECT raw FROM mailtrap_inbox WHERE id = $1 AND worked IS NULL FOR UPDATE",
			job.Args.Inbox).Scan(&raw)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // an earlier attempt did it, and died before River knew
		}
		if err != nil {
			return fmt.Errorf("cannot read the event: %w", err)
		}
		if err := w.work(ctx, tx, job.Args.Key, parseEvent(raw)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE mailtrap_inbox SET worked = now() WHERE id = $1", job.Args.Inbox); err != nil {
			return fmt.Errorf("cannot mark the event as worked: %w", err)
		}
		return nil
	})
}

// warn logs that jobs wait for a connection. It logs one line for all of them.
func (w *worker) warn(ctx context.Context, err error) {
	now, last := time.Now().UnixNano(), w.warned.Load()
	if now-last >= int64(snooze) && w.warned.CompareAndSwap(last, now) {
		w.logger.WarnContext(ctx, "no connection for the work: jobs wait", "wait", snooze.String(), "err", err)
	}
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

// awaitWorkers waits until the workers have stopped. Work that ignores its
// context is left behind, and tried again by another process.
func (in *inbox) awaitWorkers(timeout <-chan struct{}) {
	select {
	case <-in.river.Stopped():
	case <-timeout:
		in.logger.Error("work was open to the last: it is tried again after " + rescueAfter.String())
	}
}

// errorLog logs jobs that fail.
type errorLog struct{ logger *slog.Logger }

func (l *errorLog) HandleError(ctx context.Context, job *rivertype.JobRow, err error) *river.ErrorHandlerResult {
	l.logger.ErrorContext(ctx, "work failed", "job", job.ID, "attempt", job.Attempt, "of", job.MaxAttempts, "err", err)
	return nil
}

func (l *errorLog) HandlePanic(
	ctx context.Context, job *rivertype.JobRow, _ any, trace string,
) *river.ErrorHandlerResult { // the value may be personal
	l.logger.ErrorContext(ctx, "work panicked", "job", job.ID, "attempt", job.Attempt, "of", job.MaxAttempts, "trace", trace)
	return nil
}

// quiet returns a logger for River. River logs each start and job at Info.
func quiet(logger *slog.Logger) *slog.Logger { return slog.New(warnings{logger.Handler()}) }

type warnings struct{ slog.Handler }

func (warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
