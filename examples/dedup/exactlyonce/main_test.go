package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/replicas"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// programVariable makes the test binary run the program.
const programVariable = "EXACTLYONCE_TEST_PROGRAM"

var server, bouncer *servers.Server

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		main()
		return
	}
	os.Exit(servers.Main(m,
		servers.Use{In: &server, Start: servers.Postgres},
		servers.Use{In: &bouncer, Start: func(dir string) (*servers.Server, error) { return servers.PgBouncer(dir, server) }},
	))
}

// A database belongs to one test.
type database struct {
	name  string
	url   string
	proxy *servers.Proxy
	pool  *pgxpool.Pool
}

func newDatabase(t *testing.T) *database {
	proxy := servers.NewProxy(t, server)
	name := "t" + strings.ToLower(rand.Text())
	url := func(database string) string {
		return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", proxy.Address(), database)
	}
	admin := openPool(t, url("postgres"))
	_, err := admin.Exec(t.Context(), "CREATE DATABASE "+name)
	require.NoError(t, err)
	return &database{name: name, url: url(name), proxy: proxy, pool: openPool(t, url(name))}
}

func (db *database) getenv(name string) string {
	return map[string]string{databaseVariable: db.url, secretVariable: replicas.Secret}[name]
}

func openPool(t *testing.T, url string) *pgxpool.Pool {
	config, err := poolConfig(url)
	require.NoError(t, err)
	// The tests count round trips: the pool must not ping idle connections.
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// command returns a command that runs the program in a process of its own.
func (db *database) command(t *testing.T) *exec.Cmd {
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(program, "-listen", "127.0.0.1:0", "-drain", "0")
	cmd.Env = append(os.Environ(), programVariable+"=1", secretVariable+"=another,"+replicas.Secret, databaseVariable+"="+db.url)
	return cmd
}

func (db *database) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	_, err := db.pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// stored returns the texts of the stored events, sorted.
func (db *database) stored(t *testing.T) (raws []string) {
	t.Helper()
	rows, err := db.pool.Query(t.Context(), "SELECT raw FROM mailtrap_events ORDER BY raw")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var raw []byte
		require.NoError(t, rows.Scan(&raw))
		raws = append(raws, string(raw))
	}
	require.NoError(t, rows.Err())
	return raws
}

// requireOnce fails the test unless the table has each event of the batches
// once and nothing else.
func (db *database) requireOnce(t *testing.T, batches []replicas.Batch) {
	t.Helper()
	var want []string
	for _, b := range batches {
		for _, ev := range b.Events {
			want = append(want, ev.RawJSON())
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, db.stored(t)); diff != "" {
		t.Fatalf("events stored (-want +got):\n%s", diff)
	}
}

func TestStoresOnce(t *testing.T) {
	db := newDatabase(t)
	one, oneAddress := replicas.Start(t, db.command(t))
	other, otherAddress := replicas.Start(t, db.command(t))
	batches := replicas.NewBatches(t, 2, 3)
	for _, b := range batches {
		require.Equal(t, http.StatusBadRequest, b.Forge(t.Context(), "http://"+oneAddress))
		require.Equal(t, http.StatusOK, b.Post(t.Context(), "http://"+oneAddress))
		require.Equal(t, http.StatusOK, b.Post(t.Context(), "http://"+otherAddress))
	}
	db.requireOnce(t, batches)
	one.End(t)
	other.End(t)
	for _, line := range append(one.Lines, other.Lines...) {
		require.NotContains(t, line, "example.com", "nothing personal is logged")
	}
}

// Four replicas run behind one address and suffer every fault. Each event must
// be stored once.
func TestReplicas(t *testing.T) {
	db := newDatabase(t)
	cluster := replicas.NewCluster(t, 4, func() *exec.Cmd { return db.command(t) }, server.Restart)
	batches := replicas.NewBatches(t, 60, 20)
	cluster.Plan(map[replicas.Fault]int{
		replicas.None: 30, replicas.Busy: 10, replicas.Lost: 10, replicas.Cut: 10, replicas.Kill: 20, replicas.Restart: 3,
	})
	attempts := replicas.Deliver(t, cluster.URL, batches)
	replayed := replicas.Deliver(t, cluster.URL, batches) // by somebody who captured all
	cluster.End()
	t.Logf("%d and %d attempts", attempts, replayed)
	require.Eventually(t, func() bool { return db.pool.Ping(t.Context()) == nil }, time.Minute, 10*time.Millisecond,
		"the database does not come back")
	db.requireOnce(t, batches)
}

// A transaction that ends between the keys and the events leaves no keys. The
// retry stores the events.
func TestTransactionEndsInTheMiddle(t *testing.T) {
	tests := []struct {
		name string
		end  func(t *testing.T, db *database, p *replicas.Process)
		want int // the status of the first attempt
	}{
		{"the process is killed", func(_ *testing.T, _ *database, p *replicas.Process) { p.Kill() }, 0},
		{"the connection breaks", func(t *testing.T, db *database, _ *replicas.Process) {
			db.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_locks"+waiting)
		}, http.StatusInternalServerError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			db := newDatabase(t)
			first, firstAddress := replicas.Start(t, db.command(t))
			second, secondAddress := replicas.Start(t, db.command(t))
			batches := replicas.NewBatches(t, 1, 20)
			// The keys can be inserted; the events must wait.
			locking, err := db.pool.Begin(t.Context())
			require.NoError(t, err)
			_, err = locking.Exec(t.Context(), "LOCK TABLE mailtrap_events IN EXCLUSIVE MODE")
			require.NoError(t, err)

			status := make(chan int, 2)
			go func() { status <- batches[0].Post(t.Context(), "http://"+firstAddress) }()
			require.Eventually(t, func() bool {
				var n int
				require.NoError(t, db.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks"+waiting).Scan(&n))
				return n == 1
			}, time.Minute, 10*time.Millisecond)
			tt.end(t, db, first)
			require.Equal(t, tt.want, <-status)

			go func() { status <- batches[0].Post(t.Context(), "http://"+secondAddress) }()
			require.NoError(t, locking.Commit(t.Context()))
			require.Equal(t, http.StatusOK, <-status)
			db.requireOnce(t, batches)
			second.End(t)
			if !first.Killed {
				first.End(t)
			}
		})
	}
}

// waiting selects the transactions in pg_locks that wait to store events.
const waiting = " WHERE NOT granted AND relation = 'mailtrap_events'::regclass"

// An odd event must not keep itself or its neighbours from being kept.
func TestOddEventsAreKept(t *testing.T) {
	db := newDatabase(t)
	p, address := replicas.Start(t, db.command(t))
	equal := `{"event":"activity_log.user.login","timestamp":1735830138,"actor":{"name":"Mailtrap"}}`
	objects := []string{
		equal, equal,
		`{"event":"a\u0000b","timestamp":1}`,
		"{\"event\":\"\xff\",\"timestamp\":1}",
		`{"event":"delivery","message_id":"\u0000","event_id":"\ud800","timestamp":9223372036854775807}`,
		`{"event":"inbound.message_received","inbox_id":1,"message_id":"2","timestamp":-9223372036854775808}`,
		`"no object"`, `7`, `{}`, `{}`,
		fmt.Sprintf(`{"event":%q}`, strings.Repeat("long ", 2000)),
	}
	envelope := []byte(`{"events":[` + strings.Join(objects, ",") + `]}`)
	lines := []byte(strings.Join(objects, "\n") + "\n" + "no JSON\n")
	for range 2 {
		for _, body := range [][]byte{envelope, lines} {
			m := webhooktest.Mailtrap{URL: "http://" + address, Secret: replicas.Secret, Retries: -1}
			result, err := m.Deliver(t.Context(), body)
			require.NoError(t, err)
			require.NoError(t, result.Err())
		}
	}
	// Events with ids are the same in both bodies. The others count as
	// different.
	want := append([]string{"no JSON"}, objects...)
	for _, object := range objects {
		if !strings.Contains(object, "message_id") {
			want = append(want, object)
		}
	}
	slices.Sort(want)
	got := db.stored(t)
	for _, letter := range db.deadLetters(t) {
		got = append(got, letter.Raw)
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("events and dead letters (-want +got):\n%s", diff)
	}
	p.End(t)
}

// A database that answers no more does not keep the program from its end.
func TestEndsWithoutAnAnswer(t *testing.T) {
	db := newDatabase(t)
	ctx, end := context.WithCancel(t.Context())
	stdout, listening := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"-listen", "127.0.0.1:0", "-drain", "0"}, db.getenv, io.Discard, listening)
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	url := "http://" + strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
	resume := db.proxy.Hold()
	defer resume()
	resp, err := http.Get(url + "/readyz")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	began := time.Now()
	end()
	require.Zero(t, <-ended)
	require.Less(t, time.Since(began), 20*time.Second)
}

// A database that takes connections and says nothing must not hold up the
// program for good.
func TestDatabaseThatDoesNotAnswer(t *testing.T) {
	db := newDatabase(t)
	defer db.proxy.Hold()()
	for name, opts := range map[string]options{"receive": {}, "redrive": {redrive: true}, "purge": {purge: minPurge}} {
		opts.address, opts.open = "127.0.0.1:0", 100*time.Millisecond
		err := do(t.Context(), opts, db.getenv, io.Discard, io.Discard)
		require.ErrorContains(t, err, "cannot open the database: check DATABASE_URL", name)
	}
	opts, err := parseOptions(nil)
	require.NoError(t, err)
	require.Equal(t, openTimeout, opts.open)
}

// A role that may create nothing starts the program if the tables are there.
func TestRoleThatMayNotCreate(t *testing.T) {
	as := func(db *database) *database {
		role := "plain" + strings.ToLower(rand.Text())
		db.exec(t, "CREATE ROLE "+role+" LOGIN")
		db.exec(t, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "+role)
		t.Cleanup(func() {
			for _, drop := range []string{"DROP OWNED BY ", "DROP ROLE "} {
				_, err := db.pool.Exec(context.Background(), drop+role)
				require.NoError(t, err)
			}
		})
		restricted := *db
		restricted.url = strings.Replace(db.url, "postgres@", role+"@", 1)
		return &restricted
	}
	db := newTables(t)
	p, address := replicas.Start(t, as(db).command(t))
	batches := replicas.NewBatches(t, 1, 3)
	require.Equal(t, http.StatusOK, batches[0].Post(t.Context(), "http://"+address))
	p.End(t)
	db.requireOnce(t, batches)

	var stderr strings.Builder
	require.Equal(t, 1, run(t.Context(), []string{"-listen", "127.0.0.1:0"}, as(newDatabase(t)).getenv, io.Discard, &stderr))
	require.Contains(t, stderr.String(), "the role may not create the tables: start the program once with a role that may")
}

func TestCommandsBeforeTheFirstStart(t *testing.T) {
	db := newDatabase(t)
	for _, command := range [][]string{{"-redrive"}, {"-purge", "25h"}} {
		var stderr strings.Builder
		require.Equal(t, 1, run(t.Context(), command, db.getenv, io.Discard, &stderr))
		require.Contains(t, stderr.String(), "the database has no tables yet: check DATABASE_URL")
	}
}

// The statement of examples/README.md to alert on.
func TestStatementToAlertOn(t *testing.T) {
	db := newTables(t)
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	statements := regexp.MustCompile(`(?m)^    (SELECT .*mailtrap_dead_letters);$`).FindAllSubmatch(readme, -1)
	require.Len(t, statements, 1)
	db.exec(t, "INSERT INTO mailtrap_dead_letters (received, key, reason, raw) VALUES (now(), 'a', 'b', 'c')")
	var n int
	require.NoError(t, db.pool.QueryRow(t.Context(), string(statements[0][1])).Scan(&n))
	require.Equal(t, 1, n)
}

func TestProgramRefusesToStart(t *testing.T) {
	tests := []struct {
		name, secret, database string
		args                   []string
		want                   string
	}{
		{"without a secret", "", "postgres://localhost", nil, "set MAILTRAP_SIGNING_SECRET"},
		{"without a database", "secret", "", nil, "set DATABASE_URL"},
		{"on a broken URL", "secret", "postgres://u:hunter2@h:port/", nil, "not a URL of PostgreSQL"},
		{"where no database is", "secret", "postgres://u:hunter2@127.0.0.1:1/db", nil, "cannot open the database: check DATABASE_URL"},
		{"with a blank secret among others", "secret,", "postgres://localhost", nil, "signing secret is missing or blank"},
		{"to purge keys of events that may come again", "secret", "postgres://localhost", []string{"-purge", "1h"}, "-purge: too short"},
		{"to purge everything", "secret", "postgres://localhost", []string{"-purge", "0"}, "too short"},
		{"to purge what will come", "secret", "postgres://localhost", []string{"-purge", "-1h"}, "too short"},
		{"with an argument", "secret", "postgres://localhost", []string{"more"}, `unexpected argument "more"`},
		{"on an empty address", "secret", "postgres://localhost", []string{"-listen", ""}, "name an address"},
		{"with a long drain", "secret", "postgres://localhost", []string{"-drain", "1m"}, "make it 0s to 10s"},
		{"with two commands", "secret", "postgres://localhost", []string{"-redrive", "-purge", "2160h"},
			"-purge and -redrive are two commands"},
		{"with an unknown flag", "secret", "postgres://localhost", []string{"-lisen", ":80"}, "-lisen"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			getenv := func(name string) string {
				return map[string]string{secretVariable: tt.secret, databaseVariable: tt.database}[name]
			}
			var stdout, stderr bytes.Buffer
			require.Equal(t, 1, run(t.Context(), tt.args, getenv, &stdout, &stderr))
			require.Contains(t, stderr.String(), tt.want)
			require.NotContains(t, stderr.String(), "hunter2")
		})
	}
	t.Run("help", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 0, run(t.Context(), []string{"-h"}, os.Getenv, &stdout, &stderr))
		require.Equal(t, usage, stdout.String())
	})
}
