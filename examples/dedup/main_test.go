package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/internal/replicas"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/internal/servers"
)

// replicaVariable makes the test's program a replica of the receiver, on the store that it names.
const replicaVariable = "DEDUP_TEST_REPLICA"

var redisServer, postgresServer *servers.Server

func TestMain(m *testing.M) {
	if store := os.Getenv(replicaVariable); store != "" {
		if err := replica(store); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(servers.Main(m,
		servers.Use{In: &redisServer, Start: servers.Redis}, servers.Use{In: &postgresServer, Start: servers.Postgres}))
}

// A store is one that -store can name.
type store struct {
	name, url string
	restart   func() error // nil for a file, which has no server
}

func stores(t *testing.T) []store {
	redis, postgres := servers.NewProxy(t, redisServer), servers.NewProxy(t, postgresServer)
	return []store{
		{"redis", fmt.Sprintf("redis://%s", redis.Address()), redisServer.Restart},
		{"postgres", fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable", postgres.Address()), postgresServer.Restart},
		{"sqlite", "sqlite:" + filepath.Join(t.TempDir(), "dedup.db"), nil},
	}
}

// # A replica

// lease is what a replica has leases last, in place of the 85 seconds that a Handler asks for, since no test can wait so
// long for what a killed replica had.
const lease = 3 * time.Second

// replica is the receiver, but that its callback fails now and then, and says what it has done.
func replica(store string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	dedup, closeStore, err := openStore(ctx, store)
	if err != nil {
		return err
	}
	defer closeStore()
	verifier, err := mailtrapwebhook.NewVerifier(replicas.Secret)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "listening on %s\n", listener.Addr())
	handler := newHandler(verifier, &accountable{inner: dedup}, moody, slog.New(slog.DiscardHandler))
	return serve(ctx, handler, listener)
}

// moody handles an event by writing a line, fails, or panics.
func moody(_ context.Context, ev mailtrapwebhook.Event) error {
	switch rand.IntN(100) {
	case 0:
		return errors.New("the callback fails on purpose")
	case 1:
		panic("the callback panics on purpose")
	}
	fmt.Println("handled", ev.Key())
	time.Sleep(5 * time.Millisecond) // so that there is time for retries, and for being killed, in the middle of a batch
	return nil
}

// An accountable store says which keys may not have been committed before their lease was over: what has them may be
// handled again.
type accountable struct {
	inner mailtrapwebhook.Deduplicator
	since sync.Map // when a key was reserved
}

func (a *accountable) Reserve(
	ctx context.Context, keys []string, _ time.Duration,
) ([]mailtrapwebhook.Reservation, error) {
	now := time.Now()
	answers, err := a.inner.Reserve(ctx, keys, lease)
	for i, answer := range answers {
		if answer == mailtrapwebhook.Reserved {
			a.since.Store(keys[i], now)
		}
	}
	return answers, err
}

func (a *accountable) Commit(ctx context.Context, keys []string) error {
	err := a.inner.Commit(ctx, keys)
	for _, key := range keys {
		since, _ := a.since.Load(key)
		if err != nil || time.Since(since.(time.Time)) > lease {
			fmt.Println("uncommitted", key)
		}
	}
	return err
}

func (a *accountable) Release(ctx context.Context, keys []string) error {
	return a.inner.Release(ctx, keys)
}

// # Tests

// Four replicas behind one address, and everything goes wrong that can. Every event is handled. It is handled once, but
// for those that a replica was at work on when it was killed, and those whose commit failed because the store was gone.
func TestReplicas(t *testing.T) {
	tests := []struct {
		name   string
		faults map[replicas.Fault]int
	}{
		{"unreliable network", map[replicas.Fault]int{
			replicas.None: 40, replicas.Busy: 10, replicas.Lost: 10, replicas.Cut: 10}},
		{"store started again", map[replicas.Fault]int{
			replicas.None: 40, replicas.Lost: 5, replicas.Cut: 5, replicas.Restart: 1}},
		{"replicas killed", map[replicas.Fault]int{
			replicas.None: 40, replicas.Busy: 5, replicas.Lost: 5, replicas.Cut: 5, replicas.Kill: 8}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, store := range stores(t) {
				if store.restart == nil && tt.faults[replicas.Restart] > 0 {
					continue
				}
				t.Run(store.name, func(t *testing.T) { testReplicas(t, store, tt.faults) })
			}
		})
	}
}

func testReplicas(t *testing.T, store store, faults map[replicas.Fault]int) {
	program, err := os.Executable()
	require.NoError(t, err)
	cluster := replicas.NewCluster(t, 4, func() *exec.Cmd {
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), replicaVariable+"="+store.url)
		return cmd
	}, store.restart)
	const n, events = 60, 20
	batches := replicas.NewBatches(t, n, events)
	cluster.Plan(faults)
	attempts := replicas.Deliver(t, cluster.URL, batches)
	again := replicas.Deliver(t, cluster.URL, batches) // by somebody who has recorded it all

	var did account
	for _, p := range cluster.End() {
		did.add(p)
	}
	t.Logf("%d and %d attempts, %d events handled %d times, of these %d by replicas that were killed; %d not committed",
		attempts, again, n*events, did.times, did.timesByKilled, len(did.uncommitted))
	for _, b := range batches {
		for _, ev := range b.Events {
			did.judge(t, ev.Key())
		}
	}
	require.Less(t, len(did.uncommitted), n*events*3/4, "too few are left of which it is known that they are handled once")
}

// An account is what the replicas say that they have done.
type account struct {
	handled, byKilled    map[string]int
	uncommitted          map[string]bool
	times, timesByKilled int
}

func (a *account) add(p *replicas.Process) {
	if a.handled == nil {
		a.handled, a.byKilled, a.uncommitted = make(map[string]int), make(map[string]int), make(map[string]bool)
	}
	for _, line := range p.Lines {
		switch verb, key, _ := strings.Cut(line, " "); {
		case verb == "uncommitted":
			a.uncommitted[key] = true
		case verb == "handled" && p.Killed:
			a.byKilled[key]++
			a.timesByKilled++
			fallthrough
		case verb == "handled":
			a.handled[key]++
			a.times++
		}
	}
}

func (a *account) judge(t *testing.T, key string) {
	t.Helper()
	require.NotZero(t, a.handled[key], "event %s is lost", key)
	if !a.uncommitted[key] {
		require.LessOrEqual(t, a.handled[key]-a.byKilled[key], 1, "event %s is handled again", key)
	}
}

// The program does the same in two processes as in one: what one of them has handled is a duplicate for the other.
func TestProgram(t *testing.T) {
	for _, store := range stores(t) {
		t.Run(store.name, func(t *testing.T) {
			batches := replicas.NewBatches(t, 2, 3)
			one := startProgram(t, secretOnly, "-store", store.url)
			other := startProgram(t, func(name string) string {
				if name == storeVariable {
					return store.url
				}
				return secretOnly(name)
			})
			for _, b := range batches {
				require.Equal(t, http.StatusBadRequest, b.Forge(t.Context(), one.url))
				require.Equal(t, http.StatusOK, b.Post(t.Context(), one.url))
				require.Equal(t, http.StatusOK, b.Post(t.Context(), other.url))
			}
			require.Equal(t, 2*3, strings.Count(one.end(t), "msg=event"))
			require.Equal(t, 0, strings.Count(other.end(t), "msg=event"))

			three := startProgram(t, secretOnly, "-store", store.url) // as after a new version was deployed
			require.Equal(t, http.StatusOK, batches[0].Post(t.Context(), three.url))
			require.NotContains(t, three.end(t), "msg=event")
		})
	}
}

// A program is one that runs in this process.
type program struct {
	url    string
	cancel context.CancelFunc
	status chan int
	stdout bytes.Buffer // to be read when it has ended
}

func startProgram(t *testing.T, getenv func(string) string, args ...string) *program {
	ctx, cancel := context.WithCancel(t.Context())
	p := &program{cancel: cancel, status: make(chan int, 1)}
	read, stderr := io.Pipe()
	go func() {
		p.status <- run(ctx, append(args, "-listen", "127.0.0.1:0"), getenv, &p.stdout, stderr)
		stderr.Close()
	}()
	line, err := bufio.NewReader(read).ReadString('\n')
	require.NoError(t, err, line)
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	require.True(t, ok, line)
	go io.Copy(io.Discard, read)
	p.url = "http://" + address
	return p
}

// end ends the program and returns what it wrote.
func (p *program) end(t *testing.T) string {
	p.cancel()
	require.Equal(t, 0, <-p.status)
	require.NotContains(t, p.stdout.String(), "example.com", "nothing personal is logged")
	return p.stdout.String()
}

func secretOnly(name string) string {
	if name == secretVariable {
		return replicas.Secret + "\n"
	}
	return ""
}

func TestProgramRefusesToStart(t *testing.T) {
	none := func(string) string { return "" }
	sqlite := "sqlite:" + filepath.Join(t.TempDir(), "dedup.db")
	tests := []struct {
		name   string
		args   []string
		getenv func(string) string
		want   string
	}{
		{"without a secret", []string{"-store", sqlite}, none, "MAILTRAP_SIGNING_SECRET is not set"},
		{"without a store", nil, secretOnly, "-store is missing"},
		{"with an argument", []string{"-store", sqlite, "more"}, secretOnly, "more than flags"},
		{"with a flag that is none", []string{"-stor", sqlite}, secretOnly, "-stor"},
		{"on a store of another kind", []string{"-store", "mysql://localhost"}, secretOnly, "-store names no store"},
		{"on a broken URL of Redis", []string{"-store", "redis://:hunter2@h:port"}, secretOnly, "not a URL of Redis"},
		{"on a broken URL of PostgreSQL", []string{"-store", "postgres://u:hunter2@h:port/"}, secretOnly, "not a URL of PostgreSQL"},
		{"where no Redis is", []string{"-store", "redis://:hunter2@127.0.0.1:1"}, secretOnly, "redis does not answer"},
		{"where no PostgreSQL is", []string{"-store", "postgres://u:hunter2@127.0.0.1:1/db"}, secretOnly, "cannot create the table"},
		{"where no file can be", []string{"-store", "sqlite:" + t.TempDir()}, secretOnly, "cannot create the table"},
		{"on an address that is none", []string{"-store", sqlite, "-listen", "nowhere"}, secretOnly, "nowhere"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, 1, run(t.Context(), tt.args, tt.getenv, &stdout, &stderr))
			require.Contains(t, stderr.String(), tt.want)
			require.NotContains(t, stderr.String(), "hunter2")
		})
	}
	t.Run("but shows its usage", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 0, run(t.Context(), []string{"-h"}, none, &stdout, &stderr))
		require.Equal(t, usage, stdout.String())
		require.Empty(t, stderr.String())
	})
}
