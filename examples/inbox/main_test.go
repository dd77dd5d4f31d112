package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/replicas"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
)

// programVariable makes the test binary run the program.
const programVariable = "INBOX_TEST_PROGRAM"

// hangVariable gives the program the work hang in place of moody.
const hangVariable = "INBOX_TEST_HANG"

var server *servers.Server

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		work := moody
		if os.Getenv(hangVariable) != "" {
			work = hang
		}
		os.Exit(run(ctx, os.Args[1:], os.Getenv, work, slog.New(slog.DiscardHandler), os.Stdout, os.Stderr))
	}
	os.Exit(servers.Main(m, servers.Use{In: &server, Start: servers.Postgres}))
}

// recordEffect is work that a test can count.
func recordEffect(ctx context.Context, tx pgx.Tx, key string, ev mailtrapwebhook.Event) error {
	_, err := tx.Exec(ctx, "INSERT INTO effects (key, raw) VALUES ($1, $2)", key, []byte(ev.RawJSON()))
	return err
}

// moody records the effect, and then fails or panics now and then.
func moody(ctx context.Context, tx pgx.Tx, key string, ev mailtrapwebhook.Event) error {
	if err := recordEffect(ctx, tx, key, ev); err != nil {
		return err
	}
	switch mathrand.IntN(50) {
	case 0:
		return errors.New("the work fails on purpose")
	case 1:
		panic("the work panics on purpose")
	}
	time.Sleep(time.Millisecond) // leaves time for a kill
	return nil
}

// hang records the effect and does not come to its end.
func hang(ctx context.Context, tx pgx.Tx, key string, ev mailtrapwebhook.Event) error {
	if err := recordEffect(ctx, tx, key, ev); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// A database belongs to one test.
type database struct {
	name  string
	url   string
	proxy *servers.Proxy
	pool  *pgxpool.Pool
}

// newDatabase returns a database with the tables, and one for effects.
func newDatabase(t *testing.T) *database {
	db := emptyDatabase(t)
	require.NoError(t, db.inbox(t, recordEffect, 0).createTables(t.Context()))
	db.exec(t, "CREATE TABLE effects (key text NOT NULL, raw bytea NOT NULL)")
	return db
}

func emptyDatabase(t *testing.T) *database {
	proxy := servers.NewProxy(t, server)
	name := "t" + strings.ToLower(rand.Text())
	url := func(database string) string {
		return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", proxy.Address(), database)
	}
	openPool(t, url("postgres")).exec(t, "CREATE DATABASE "+name)
	db := openPool(t, url(name))
	db.name, db.proxy = name, proxy
	return db
}

// readme returns the statements in examples/README.md that begin so.
func readme(t *testing.T, begin string) (statements []string) {
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	for _, found := range regexp.MustCompile(`(?m)^    (`+begin+`[^;]*);`).FindAllSubmatch(text, -1) {
		statements = append(statements, string(found[1]))
	}
	return statements
}

// as returns the database as a new role sees it, which may create nothing.
func (db *database) as(t *testing.T, role, options string) *database {
	role += strings.ToLower(rand.Text())
	db.exec(t, "CREATE ROLE "+role+" LOGIN "+options)
	t.Cleanup(func() {
		_, err := db.pool.Exec(context.Background(), fmt.Sprintf("DROP OWNED BY %[1]s; DROP ROLE %[1]s", role),
			pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
	})
	for _, grant := range readme(t, "GRANT ") {
		db.exec(t, strings.Replace(grant, "TO app", "TO "+role, 1))
	}
	return openPool(t, strings.Replace(db.url, "postgres@", role+"@", 1))
}

func openPool(t *testing.T, url string) *database {
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return &database{url: url, pool: pool}
}

func (db *database) inbox(t *testing.T, work workFunc, workers int) *inbox {
	in, err := newInbox(db.pool, work, options{workers: workers, stop: stopTimeout}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return in
}

// work starts an inbox with workers, which stop when the test ends.
func (db *database) work(t *testing.T, work workFunc) *inbox {
	in := db.inbox(t, work, 10)
	require.NoError(t, in.river.Start(t.Context()))
	t.Cleanup(func() { <-in.river.Stopped() })
	return in
}

func (db *database) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	_, err := db.pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func (db *database) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, db.pool.QueryRow(t.Context(), "SELECT count(*) FROM "+sql, args...).Scan(&n))
	return n
}

// awaitEffects waits until n events were worked. It lets the time pass that
// River waits for the next attempt, which is 81 seconds after the third.
func (db *database) awaitEffects(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		db.exec(t, "UPDATE river_job SET scheduled_at = now()"+
			" WHERE state = 'retryable' AND scheduled_at > now() + interval '10 seconds'")
		return db.count(t, "effects") >= n
	}, time.Minute, 20*time.Millisecond, "some events were not worked")
}

// run runs a command of the program and returns its output.
func (db *database) run(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	require.Equal(t, 0, db.tryRun(t, &stdout, &stderr, args...), stderr.String())
	return stdout.String()
}

func (db *database) tryRun(t *testing.T, stdout, stderr *strings.Builder, args ...string) int {
	return run(t.Context(), args, db.getenv, recordEffect, slog.New(slog.DiscardHandler), stdout, stderr)
}

func (db *database) getenv(name string) string {
	return map[string]string{databaseVariable: db.url, secretVariable: replicas.Secret}[name]
}

// command returns a command that runs the program in a process of its own.
func (db *database) command(t *testing.T, args ...string) *exec.Cmd {
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(program, append(args, "-listen", "127.0.0.1:0", "-drain", "0")...)
	cmd.Env = append(os.Environ(), programVariable+"=1", secretVariable+"=another,"+replicas.Secret, databaseVariable+"="+db.url)
	return cmd
}

// Three replicas receive and work, and suffer every fault. Each event must be
// stored once and worked once.
func TestReplicas(t *testing.T) {
	db := newDatabase(t)
	cluster := replicas.NewCluster(t, 3, func() *exec.Cmd { return db.command(t) }, server.Restart)
	const n, events = 30, 20
	batches := replicas.NewBatches(t, n, events)
	cluster.Plan(map[replicas.Fault]int{
		replicas.None: 20, replicas.Busy: 3, replicas.Lost: 5, replicas.Cut: 5, replicas.Kill: 6, replicas.Restart: 1,
	})
	attempts := replicas.Deliver(t, cluster.URL, batches)
	replayed := replicas.Deliver(t, cluster.URL, batches) // by somebody who captured all
	cluster.End()
	db.pool.Reset() // the restart cut its connections

	stuck := db.forgetTheDead(t)
	p, _ := replicas.Start(t, db.command(t))
	db.awaitEffects(t, n*events)
	p.End(t)
	t.Logf("%d and %d attempts, %d jobs of killed processes", attempts, replayed, stuck)
	require.Equal(t, n*events, db.count(t, "mailtrap_inbox WHERE worked IS NOT NULL"))
	require.Equal(t, n*events, db.count(t, "mailtrap_inbox"))
	require.Equal(t, n*events, db.count(t, "river_job"))
	require.Equal(t, n*events, db.count(t, "effects"), "some events were worked twice")
	for _, b := range batches {
		for _, ev := range b.Events {
			require.Equal(t, 1, db.count(t, "effects WHERE key = $1 AND raw = $2", ev.Key(), []byte(ev.RawJSON())))
		}
	}
}

// A process that is killed in the middle of its work leaves no effect, and
// another one does the work.
func TestKilledProcess(t *testing.T) {
	db := newDatabase(t)
	cmd := db.command(t)
	cmd.Env = append(cmd.Env, hangVariable+"=1")
	killed, address := replicas.Start(t, cmd)
	require.Equal(t, http.StatusOK, replicas.NewBatches(t, 1, 5)[0].Post(t.Context(), "http://"+address))
	require.Eventually(t, func() bool {
		return db.count(t, "pg_stat_activity WHERE datname = $1 AND state = 'idle in transaction'", db.name) == 5
	}, time.Minute, 10*time.Millisecond, "the work does not begin")
	killed.Kill()
	require.Equal(t, 5, db.forgetTheDead(t))
	next, _ := replicas.Start(t, db.command(t))
	db.awaitEffects(t, 5)
	next.End(t)
	require.Equal(t, 5, db.count(t, "effects"))
	require.Equal(t, 5, db.count(t, "mailtrap_inbox WHERE worked IS NOT NULL"))
}

// forgetTheDead lets the time pass that River gives a process that may be dead:
// rescueAfter for its jobs, and 15 seconds for a leader. It returns the number
// of these jobs.
func (db *database) forgetTheDead(t *testing.T) int {
	stuck := db.count(t, "river_job WHERE state = 'running'")
	db.exec(t, "UPDATE river_job SET attempted_at = now() - interval '1 hour' WHERE state = 'running'")
	db.exec(t, "DELETE FROM river_leader")
	return stuck
}

// At TERM the program finishes its work and ends.
func TestEnds(t *testing.T) {
	db := newDatabase(t)
	p, address := replicas.Start(t, db.command(t))
	resp, err := http.Get("http://" + address + "/readyz")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	b := replicas.NewBatches(t, 1, 50)[0]
	require.Equal(t, http.StatusBadRequest, b.Forge(t.Context(), "http://"+address))
	require.Equal(t, http.StatusOK, b.Post(t.Context(), "http://"+address))
	p.End(t)
	require.Zero(t, db.count(t, "river_job WHERE state = 'running'"), "work was left behind")
	require.Equal(t, 50, db.count(t, "mailtrap_inbox"))
}

// Work that ignores its context does not keep the program from ending.
func TestEndsDespiteStuckWork(t *testing.T) {
	db := newDatabase(t)
	stuck, begun := make(chan struct{}), make(chan struct{})
	opts := options{address: "127.0.0.1:0", workers: 1, open: openTimeout, stop: 100 * time.Millisecond}
	in, err := newInbox(db.pool, func(context.Context, pgx.Tx, string, mailtrapwebhook.Event) error {
		close(begun)
		<-stuck
		return nil
	}, opts, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, in.store(t.Context(), delivery(replicas.NewBatches(t, 1, 1)[0].Events...)))
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- in.receive(ctx, opts, replicas.Secret, io.Discard) }()
	<-begun
	end()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Error("the program waits for its work for good")
	}
	close(stuck)
	<-in.river.Stopped()
}

// A database that takes connections and says nothing must not hold up the
// program for good.
func TestDatabaseThatDoesNotAnswer(t *testing.T) {
	db := emptyDatabase(t)
	defer db.proxy.Hold()()
	for _, command := range []string{"", "discarded"} {
		opts := options{address: "127.0.0.1:0", command: command, open: 100 * time.Millisecond}
		err := do(t.Context(), opts, db.getenv, recordEffect, slog.New(slog.DiscardHandler), io.Discard, io.Discard)
		require.ErrorContains(t, err, "cannot open the database: check DATABASE_URL", command)
	}
	opts, err := parseOptions(nil)
	require.NoError(t, err)
	require.Equal(t, openTimeout, opts.open)
}

// A pool of one connection must not wait for a second.
func TestStartsWithASmallPool(t *testing.T) {
	db := emptyDatabase(t)
	db.url += "&pool_max_conns=1"
	p, _ := replicas.Start(t, db.command(t, "-workers", "0"))
	p.End(t)
}

func TestTooManyConnections(t *testing.T) {
	db := newDatabase(t)
	var stdout, stderr strings.Builder
	require.Equal(t, 1, db.tryRun(t, &stdout, &stderr, "-workers", "500"))
	require.Regexp(t, "-workers 500 needs .* the database allows 97: use -workers 9[0-9] or fewer", stderr.String())

	check := func(connections, workers int) error {
		pooled := openPool(t, fmt.Sprintf("%s&pool_max_conns=%d", db.url, connections))
		return pooled.inbox(t, recordEffect, 0).checkConnections(t.Context(), workers)
	}
	require.NoError(t, check(96, 90))
	require.ErrorContains(t, check(97, 90), "-workers 90 needs 98 connections, but the database allows 97: use -workers 89 or fewer")
	require.ErrorContains(t, check(200, 10), "make pool_max_conns in DATABASE_URL smaller")
}

// A role that may create nothing starts the program if the tables are there.
func TestRoleThatMayNotCreate(t *testing.T) {
	db := newDatabase(t)
	role := db.as(t, "plain", "")
	require.NoError(t, role.work(t, recordEffect).createTables(t.Context()))
	p, address := replicas.Start(t, role.command(t))
	require.Equal(t, http.StatusOK, replicas.NewBatches(t, 1, 5)[0].Post(t.Context(), "http://"+address))
	db.awaitEffects(t, 5)
	p.End(t)

	var stdout, stderr strings.Builder
	require.Equal(t, 1, emptyDatabase(t).as(t, "plain", "").tryRun(t, &stdout, &stderr, "-listen", "127.0.0.1:0"))
	require.Contains(t, stderr.String(), "the role may not create the tables: start the program once with a role that may")
}

func TestCommandsBeforeTheFirstStart(t *testing.T) {
	db := emptyDatabase(t)
	for _, command := range [][]string{{"-discarded"}, {"-retry", "all"}, {"-delete", "all"}, {"-purge", "25h"}} {
		var stdout, stderr strings.Builder
		require.Equal(t, 1, db.tryRun(t, &stdout, &stderr, command...))
		require.Contains(t, stderr.String(), "the database has no tables yet: check DATABASE_URL")
	}
}

// Processes that start at the same time must not fail to create the tables.
func TestProcessesCreateTheTablesTogether(t *testing.T) {
	admin := newDatabase(t)
	name := "t" + strings.ToLower(rand.Text())
	admin.exec(t, "CREATE DATABASE "+name)
	url := strings.Replace(admin.url, admin.name, name, 1)
	failed := make(chan error)
	const n = 6
	for range n {
		in := openPool(t, url).inbox(t, recordEffect, 0)
		go func() { failed <- in.createTables(t.Context()) }()
	}
	for range n {
		require.NoError(t, <-failed)
	}
}

func TestProgramRefusesToStart(t *testing.T) {
	tests := []struct {
		name, secret, database string
		args                   []string
		want                   string
	}{
		{"without a database", "secret", "", nil, "set DATABASE_URL"},
		{"without a secret", "", "postgres://localhost", nil, "set MAILTRAP_SIGNING_SECRET"},
		{"with a blank secret among others", "secret,", "postgres://localhost", nil, "signing secret is missing or blank"},
		{"on a broken URL", "secret", "postgres://u:hunter2@h:port/", nil, "not a URL of PostgreSQL"},
		{"where no database is", "secret", "postgres://u:hunter2@127.0.0.1:1/db", nil, "cannot open the database: check DATABASE_URL"},
		{"with an argument", "secret", "postgres://localhost", []string{"more"}, `unexpected argument "more"`},
		{"on an empty address", "secret", "postgres://localhost", []string{"-listen", ""}, "name an address"},
		{"with a long drain", "secret", "postgres://localhost", []string{"-drain", "1m"}, "make it 0s to 10s"},
		{"with an unknown flag", "secret", "postgres://localhost", []string{"-lisen", ":80"}, "-lisen"},
		{"with fewer than no workers", "secret", "postgres://localhost", []string{"-workers", "-1"}, "-workers is -1"},
		{"to retry no job", "secret", "postgres://localhost", []string{"-retry", ""}, "no job"},
		{"to purge everything", "secret", "postgres://localhost", []string{"-purge", "0"}, "too short"},
		{"to purge what may come again", "secret", "postgres://localhost", []string{"-purge", "1h"}, "too short"},
		{"to retry the first job", "secret", "postgres://localhost", []string{"-retry", "first"}, "-retry: no job"},
		{"to delete no job", "secret", "postgres://localhost", []string{"-delete", "-1"}, "-delete: no job"},
		{"with two commands", "secret", "postgres://localhost", []string{"-retry", "all", "-discarded"},
			"-discarded and -retry are two commands"},
		{"to delete and retry", "secret", "postgres://localhost", []string{"-retry", "1", "-delete", "1"}, "are two commands"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			getenv := func(name string) string {
				return map[string]string{secretVariable: tt.secret, databaseVariable: tt.database}[name]
			}
			var stdout, stderr bytes.Buffer
			logger := slog.New(slog.DiscardHandler)
			require.Equal(t, 1, run(t.Context(), tt.args, getenv, logEvent(logger), logger, &stdout, &stderr))
			require.Contains(t, stderr.String(), tt.want)
			require.NotContains(t, stderr.String(), "hunter2")
		})
	}
	t.Run("help", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 0, run(t.Context(), []string{"-h"}, os.Getenv, nil, nil, &stdout, &stderr))
		require.Equal(t, usage, stdout.String())
	})
}
