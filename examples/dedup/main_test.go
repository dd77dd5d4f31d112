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
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/replicas"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
)

// replicaVariable makes the test binary run a replica of the receiver on the
// store that the variable names.
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

// A store is a store for -store.
type store struct {
	name, url string
	restart   func() error // nil for a file
}

func stores(t *testing.T) []store {
	redis, postgres := servers.NewProxy(t, redisServer), servers.NewProxy(t, postgresServer)
	return []store{
		{"redis", fmt.Sprintf("redis://%s", redis.Address()), redisServer.Restart},
		{"postgres", fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable", postgres.Address()), postgresServer.Restart},
		{"sqlite", "sqlite:" + filepath.Join(t.TempDir(), "dedup.db"), nil},
	}
}

// lease is a replica's lease in place of a Handler's 85 seconds. A test cannot
// wait that long for the events of a killed replica.
const lease = 3 * time.Second

// replica runs the receiver with a callback that prints the events that it
// handles.
func replica(store string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	dedup, closeStore, err := openStore(ctx, store, slog.New(slog.DiscardHandler))
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
	callback := moody
	if os.Getenv(steadyVariable) != "" {
		callback = steady
	}
	handler := newHandler(verifier, &accountable{inner: dedup}, callback, slog.New(slog.DiscardHandler))
	server := &serve.Server{Webhook: handler, Ready: func(ctx context.Context) error { return ready(ctx, dedup) }}
	return server.Serve(ctx, listener)
}

// moody prints a line for an event, fails, or panics.
func moody(_ context.Context, ev mailtrapwebhook.Event) error {
	switch rand.IntN(100) {
	case 0:
		return errors.New("the callback fails on purpose")
	case 1:
		panic("the callback panics on purpose")
	}
	fmt.Println("handled", ev.Key())
	time.Sleep(5 * time.Millisecond) // leaves time for a retry or a kill in the middle of a batch
	return nil
}

// An accountable store prints the keys whose Commit failed or came after their
// lease. Their events may be handled again.
type accountable struct {
	inner mailtrapwebhook.Deduplicator
	since sync.Map // the time of each key's reservation
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

// Four replicas run behind one address and suffer every fault. Each event must
// be handled, and handled once. There are two exceptions: a killed replica had
// it, or its commit failed because the store was down.
func TestReplicas(t *testing.T) {
	tests := []struct {
		name   string
		faults map[replicas.Fault]int
	}{
		{"unreliable network", map[replicas.Fault]int{
			replicas.None: 40, replicas.Busy: 10, replicas.Lost: 10, replicas.Cut: 10}},
		{"store restarted", map[replicas.Fault]int{
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
	replayed := replicas.Deliver(t, cluster.URL, batches) // by somebody who captured all

	var did account
	for _, p := range cluster.End() {
		did.add(p)
	}
	t.Logf("%d and %d attempts, %d events handled %d times, %d of these by killed replicas, %d not committed",
		attempts, replayed, n*events, did.times, did.timesByKilled, len(did.uncommitted))
	for _, b := range batches {
		for _, ev := range b.Events {
			did.judge(t, ev.Key())
		}
	}
	require.Less(t, len(did.uncommitted), n*events*3/4, "too few events are left that must be handled once")
}

// An account has what the replicas printed.
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
		require.LessOrEqual(t, a.handled[key]-a.byKilled[key], 1, "event %s was handled again", key)
	}
}

// An event that one process handled is a duplicate for another process, also
// after a restart.
func TestProcessesShareTheStore(t *testing.T) {
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

			three := startProgram(t, secretOnly, "-store", store.url) // a new version after a deployment
			require.Equal(t, http.StatusOK, batches[0].Post(t.Context(), three.url))
			require.NotContains(t, three.end(t), "msg=event")
		})
	}
}

// The program is ready only while its store answers.
func TestReady(t *testing.T) {
	for _, store := range stores(t) {
		t.Run(store.name, func(t *testing.T) {
			dedup, closeStore, err := openStore(t.Context(), store.url, slog.New(slog.DiscardHandler))
			require.NoError(t, err)
			defer closeStore()
			require.NoError(t, ready(t.Context(), dedup))
		})
	}
	url := stores(t)[1].url
	dedup, closeStore, err := openStore(t.Context(), url, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer closeStore()
	p := startProgram(t, secretOnly, "-store", url)
	probe := func() int {
		resp, err := http.Get(p.url + "/readyz")
		require.NoError(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, http.StatusOK, probe())
	require.NoError(t, postgresServer.Kill())
	require.Equal(t, http.StatusServiceUnavailable, probe())
	require.Error(t, ready(t.Context(), dedup))
	require.NoError(t, postgresServer.Start())
	require.Eventually(t, func() bool { return probe() == http.StatusOK }, time.Minute, 10*time.Millisecond)
	p.end(t)
}

// A program is the program, running in this process.
type program struct {
	url    string
	cancel context.CancelFunc
	status chan int
	stdout bytes.Buffer // read it after end
}

func startProgram(t *testing.T, getenv func(string) string, args ...string) *program {
	ctx, cancel := context.WithCancel(t.Context())
	p := &program{cancel: cancel, status: make(chan int, 1)}
	read, stderr := io.Pipe()
	go func() {
		p.status <- run(ctx, append(args, "-listen", "127.0.0.1:0", "-drain", "0"), getenv, &p.stdout, stderr)
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

// end ends the program and returns its output.
func (p *program) end(t *testing.T) string {
	p.cancel()
	require.Equal(t, 0, <-p.status)
	require.NotContains(t, p.stdout.String(), "example.com", "the log shows an address")
	return p.stdout.String()
}

func secretOnly(name string) string {
	if name == secretVariable {
		return "another," + replicas.Secret + "\n"
	}
	return ""
}

// A server's Ping passes on each of these, but not each delivery.
func TestRedisBehindOthers(t *testing.T) {
	has, lacks := servers.RedisNodes(t)
	sentinel := servers.RedisSentinel(t)
	b := replicas.NewBatches(t, 1, 1)[0]
	for name, url := range map[string]string{
		"cluster":  fmt.Sprintf("redis://%s?addr=%s", lacks.Address, has.Address),
		"sentinel": fmt.Sprintf("redis://%s?master_name=main", sentinel.Address),
	} {
		t.Run(name, func(t *testing.T) {
			program := startProgram(t, secretOnly, "-store", url)
			require.Equal(t, http.StatusOK, b.Post(t.Context(), program.url))
			require.Equal(t, 1, strings.Count(program.end(t), "msg=event"))
		})
	}
	for want, server := range map[string]*servers.Server{
		"one node of a cluster": lacks, "if it is a sentinel": sentinel,
	} {
		t.Run(want, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := []string{"-store", "redis://" + server.Address}
			require.Equal(t, 1, run(t.Context(), args, secretOnly, &stdout, &stderr))
			require.Contains(t, stderr.String(), want)
		})
	}
}

// A store that takes connections and says nothing must not hold up the program
// for good.
func TestStoreThatDoesNotAnswer(t *testing.T) {
	redis, postgres := servers.NewProxy(t, redisServer), servers.NewProxy(t, postgresServer)
	for _, held := range []struct {
		proxy *servers.Proxy
		url   string
	}{{redis, "redis://" + redis.Address()}, {postgres, "postgres://postgres@" + postgres.Address() + "/postgres"}} {
		resume := held.proxy.Hold()
		err := receive(t.Context(), options{store: held.url, address: "127.0.0.1:0", open: 100 * time.Millisecond}, io.Discard, io.Discard)
		resume()
		require.ErrorContains(t, err, "the store does not answer: check -store or DEDUP_STORE")
	}
	opts, err := parseOptions([]string{"-store", "sqlite:x"}, secretOnly)
	require.NoError(t, err)
	require.Equal(t, openTimeout, opts.open)
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
		{"without a secret", []string{"-store", sqlite}, none, "set MAILTRAP_SIGNING_SECRET"},
		{"with a blank secret among others", []string{"-store", sqlite}, func(string) string { return "secret," }, "missing or blank"},
		{"without a store", nil, secretOnly, "-store is missing"},
		{"with an argument", []string{"-store", sqlite, "more"}, secretOnly, `unexpected argument "more"`},
		{"with an unknown flag", []string{"-stor", sqlite}, secretOnly, "-stor"},
		{"on a store of another kind", []string{"-store", "mysql://localhost"}, secretOnly, "-store names no store"},
		{"on a broken URL of Redis", []string{"-store", "redis://:hunter2@h:port"}, secretOnly, "not a URL of Redis"},
		{"on a broken URL of PostgreSQL", []string{"-store", "postgres://u:hunter2@h:port/"}, secretOnly, "not a URL of PostgreSQL"},
		{"without Redis", []string{"-store", "redis://:hunter2@127.0.0.1:1"}, secretOnly, "cannot reserve"},
		{"without a cluster", []string{"-store", "redis://:hunter2@127.0.0.1:1?addr=h:2"}, secretOnly, "cannot reserve"},
		{"without PostgreSQL", []string{"-store", "postgres://u:hunter2@127.0.0.1:1/db"}, secretOnly, "cannot create the table"},
		{"on a directory", []string{"-store", "sqlite:" + t.TempDir()}, secretOnly, "cannot create the tables"},
		{"on an empty address", []string{"-store", sqlite, "-listen", ""}, secretOnly, "name an address"},
		{"with a long drain", []string{"-store", sqlite, "-drain", "1m"}, secretOnly, "make it 0s to 10s"},
		{"on a broken address", []string{"-store", sqlite, "-listen", "nowhere"}, secretOnly, "nowhere"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, 1, run(t.Context(), tt.args, tt.getenv, &stdout, &stderr))
			require.Contains(t, stderr.String(), tt.want)
			require.NotContains(t, stderr.String(), "hunter2")
		})
	}
	t.Run("help", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 0, run(t.Context(), []string{"-h"}, none, &stdout, &stderr))
		require.Equal(t, usage, stdout.String())
		require.Empty(t, stderr.String())
	})
}
