package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	testservers "github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
)

const clusterMaxBytes = 64 << 20

func TestProgramGoesOnWithTwoOfThreeServers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		killLeader bool // the leader of the stream
		killOwn    bool // the server of the program's connection
	}{
		"without the leader":          {true, false},
		"without its own server":      {false, true},
		"without its own, the leader": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := startCluster(t)
			q := openTestQueue(t, options{nats: servers{urls: nodes.urls()}, replicas: 3, maxBytes: clusterMaxBytes})
			leader := leaderOf(t, q)
			var follower string
			for name := range nodes {
				if name != leader {
					follower = name
				}
			}
			own, victim := follower, follower
			if test.killLeader {
				victim = leader
			}
			if test.killLeader && test.killOwn {
				own = leader
			}

			program := startProgram(t, "-nats", nodes[own].url, "-replicas", "3", "-max-bytes", strconv.Itoa(clusterMaxBytes))
			load := startLoad(t, 4, program.address)
			load.waitForMore(t, 20)
			nodes[victim].process.kill()
			load.waitForMore(t, 50)
			load.stop(t)

			require.NotEqual(t, victim, leaderOf(t, q))
			load.requireEachOnce(t, stored(t, q.stream))
			require.Equal(t, test.killOwn, strings.Contains(program.logs.String(), "nats: reconnected"))
			require.Eventually(t, func() bool {
				consumer, err := q.stream.Consumer(t.Context(), consumerName)
				return err == nil && consumer.CachedInfo().NumPending == 0
			}, patience, tick, "the worker does not go on")
			require.Equal(t, exitOK, program.end(t))
		})
	}
}

func TestDeliveryIsRefusedWhileTheServersAreAway(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), freePort(t)
	node, url := startNode(t, "alone", dir, port)
	program := startProgram(t, "-nats", url, "-max-bytes", strconv.Itoa(clusterMaxBytes))
	require.Equal(t, http.StatusOK, post(t, program.address, envelope(bounce("m-1")), testSecret))
	node.kill()
	require.Equal(t, http.StatusInternalServerError, post(t, program.address, envelope(bounce("m-1")), testSecret))
	require.Equal(t, http.StatusInternalServerError, post(t, program.address, envelope(bounce("m-2")), testSecret))
	require.Contains(t, program.logs.String(), nats.ErrReconnectBufExceeded.Error(), "the program waited for the server")

	startNode(t, "alone", dir, port)
	for _, body := range []string{envelope(bounce("m-1")), envelope(bounce("m-2"))} {
		require.Eventually(t, func() bool {
			return post(t, program.address, body, testSecret) == http.StatusOK
		}, patience, tick)
	}
	q := openTestQueue(t, options{nats: servers{urls: url}, replicas: 1, maxBytes: clusterMaxBytes})
	require.Equal(t, map[string]int{"m-1": 1, "m-2": 1}, counted(t, stored(t, q.stream)))
	require.Equal(t, exitOK, program.end(t))
}

// A server that does not answer must not hold up a delivery beyond its time.
func TestPublishingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	node, url := startNode(t, "alone", t.TempDir(), "-1")
	q := openTestQueue(t, options{nats: servers{urls: url}, replicas: 1, maxBytes: clusterMaxBytes})
	few, many := deliveryOf(t, bounce("m-1")), deliveryOf(t, tooMany()...)
	node.stop(t)

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, q.publish(ctx, few), context.DeadlineExceeded)
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, q.publish(ctx, many), jetstream.ErrTooManyStalledMsgs)
	require.Eventually(t, func() bool { return q.js.PublishAsyncPending() == 0 }, patience, tick)
	require.True(t, q.conn.IsConnected(), "the wait for acknowledgements ended with the connection")
}

func TestPublishingWaitsForRoom(t *testing.T) {
	t.Parallel()
	node, url := startNode(t, "alone", t.TempDir(), "-1")
	q := openTestQueue(t, options{nats: servers{urls: url}, replicas: 1, maxBytes: clusterMaxBytes})
	d := deliveryOf(t, tooMany()...)
	node.stop(t)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	published := make(chan error, 1)
	go func() { published <- q.publish(ctx, d) }()
	require.Eventually(t, func() bool { return q.js.PublishAsyncPending() >= 4000 }, patience, tick)
	time.Sleep(500 * time.Millisecond) // longer than publishing waits by default
	require.NoError(t, node.cmd.Process.Signal(syscall.SIGCONT))
	require.NoError(t, <-published)
	require.Len(t, stored(t, q.stream), len(d.Events))
}

// tooMany returns more events than may be unacknowledged at a time.
func tooMany() []string {
	events := make([]string, 5000)
	for i := range events {
		events[i] = bounce(strconv.Itoa(i))
	}
	return events
}

type node struct {
	process *process
	url     string
}

// A cluster has its nodes by name.
type cluster map[string]node

// startCluster starts three servers and waits until they can replicate a
// stream.
func startCluster(t testing.TB) cluster {
	t.Helper()
	var ports, routes []string
	for range 3 { // they must know each other's ports before they start
		port := freePort(t)
		ports = append(ports, port)
		routes = append(routes, "nats-route://127.0.0.1:"+port)
	}
	nodes := make(cluster)
	for i, port := range ports {
		name := fmt.Sprint("node-", i)
		process, url := startNode(t, name, t.TempDir(), "-1", port, strings.Join(routes, ","))
		nodes[name] = node{process, url}
	}
	q := &queue{}
	t.Cleanup(q.close)
	var err error
	q.conn, err = connect(servers{urls: nodes.urls()}, nil, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	q.js, err = jetstream.New(q.conn)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := q.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "scratch", Replicas: 3})
		return err == nil || errors.Is(err, jetstream.ErrStreamNameAlreadyInUse)
	}, patience, tick)
	require.NoError(t, q.js.DeleteStream(t.Context(), "scratch"))
	return nodes
}

func (c cluster) urls() string {
	var urls []string
	for _, node := range c {
		urls = append(urls, node.url)
	}
	return strings.Join(urls, ",")
}

// leaderOf returns the name of the server that leads the stream.
func leaderOf(t testing.TB, q *queue) (leader string) {
	t.Helper()
	require.Eventually(t, func() bool {
		info, err := q.stream.Info(t.Context())
		if err == nil {
			leader = info.Cluster.Leader
		}
		return leader != ""
	}, patience, tick)
	return leader
}

// freePort returns a port that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	port, err := testservers.FreePort()
	require.NoError(t, err)
	return port
}

// startNode starts a NATS server in a process of its own and returns its URL.
// The port -1 means any free port.
func startNode(t testing.TB, name, dir, port string, cluster ...string) (_ *process, url string) {
	t.Helper()
	return startProcess(t, "node", regexp.MustCompile(`^ready (\S+)`), append([]string{name, dir, port}, cluster...)...)
}

// runNode runs a NATS server. The arguments are its name, directory and port.
// In a cluster, its port for the other servers and the URLs of all follow.
func runNode() {
	args := os.Args[1:]
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		if err != nil {
			panic(err)
		}
		return n
	}
	opts := &server.Options{
		ServerName: args[0], StoreDir: args[1], Host: "127.0.0.1", Port: number(args[2]), JetStream: true, NoSigs: true,
	}
	if len(args) > 3 {
		opts.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: number(args[3])}
		opts.Routes = server.RoutesFromStr(args[4])
	}
	s, err := server.NewServer(opts)
	if err != nil {
		panic(err)
	}
	s.SetLoggerV2(serverLog{slog.New(slog.NewTextHandler(os.Stderr, nil))}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(patience) {
		panic("the server does not get ready")
	}
	fmt.Fprintln(os.Stderr, "ready", s.ClientURL())
	select {}
}

// httptestServer starts a server until the test ends and returns its address.
func httptestServer(t testing.TB, handler http.Handler) string {
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}
