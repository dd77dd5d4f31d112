package redisdedup_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/redisdedup"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/storetest"
)

var single, cluster *servers.Server

func TestMain(m *testing.M) {
	os.Exit(servers.Main(m,
		servers.Use{In: &single, Start: servers.Redis}, servers.Use{In: &cluster, Start: servers.RedisCluster}))
}

func TestConformance(t *testing.T) {
	t.Run("a server", func(t *testing.T) {
		conform(t, single, func(address string) redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: address, ReadTimeout: -1})
		})
	})
	t.Run("a cluster", func(t *testing.T) { conform(t, cluster, newClusterClient) })
}

func newClusterClient(address string) redis.UniversalClient {
	return redis.NewClusterClient(&redis.ClusterOptions{
		ReadTimeout: -1,
		ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
			return []redis.ClusterSlot{{Start: 0, End: 16383, Nodes: []redis.ClusterNode{{Addr: address}}}}, nil
		},
	})
}

// conform tests a server. The clients have no timeout of their own: only its
// context ends a call.
func conform(t *testing.T, server *servers.Server, connect func(address string) redis.UniversalClient) {
	storetest.Run(t, func(t *testing.T, retention time.Duration) storetest.Store {
		proxy := servers.NewProxy(t, server)
		direct := redis.NewClient(&redis.Options{Network: server.Network, Addr: server.Address})
		t.Cleanup(func() { direct.Close() })
		require.NoError(t, direct.FlushAll(t.Context()).Err())
		return storetest.Store{
			Replica: func(t *testing.T) (mailtrapwebhook.Deduplicator, func()) {
				client := connect(proxy.Address())
				closeClient := sync.OnceFunc(func() { client.Close() })
				t.Cleanup(closeClient)
				return redisdedup.New(client, retention), closeClient
			},
			Count: func(t *testing.T) int {
				n, err := direct.DBSize(t.Context()).Result()
				require.NoError(t, err)
				return int(n)
			},
			Hold:       func(*testing.T) func() { return proxy.Hold() },
			RoundTrips: proxy.RoundTrips,
			Kill:       func(t *testing.T) { require.NoError(t, server.Kill()) },
			Start:      func(t *testing.T) { require.NoError(t, server.Start()) },
			OwnClock:   server == single, // a cluster's client leaves goroutines in the bubble
		}
	})
}

// A full server must return errors, not wrong answers.
func TestFullServerReturnsErrors(t *testing.T) {
	client := redis.NewClient(&redis.Options{Network: single.Network, Addr: single.Address})
	defer client.Close()
	d := redisdedup.New(client, 0)
	require.NoError(t, d.Commit(t.Context(), []string{"done"}))
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", "1").Err())
	defer client.ConfigSet(context.Background(), "maxmemory", "0")
	answers, err := d.Reserve(t.Context(), []string{"new"}, time.Minute)
	require.ErrorContains(t, err, "OOM")
	require.Nil(t, answers)
	require.ErrorContains(t, d.Commit(t.Context(), []string{"new"}), "OOM")
}

// The client repeats a script when the connection breaks before the answer.
func TestRepeatedReserveFindsItsKeys(t *testing.T) {
	proxy := servers.NewProxy(t, single)
	client := redis.NewClient(&redis.Options{Addr: proxy.Address()})
	defer client.Close()
	d := redisdedup.New(client, 0)
	const reserved, handled, held = mailtrapwebhook.Reserved, mailtrapwebhook.Handled, mailtrapwebhook.Held
	require.NoError(t, d.Commit(t.Context(), []string{"repeated/done"}))
	got, err := d.Reserve(t.Context(), []string{"repeated/other"}, time.Minute)
	require.NoError(t, err)
	require.Equal(t, []mailtrapwebhook.Reservation{reserved}, got)

	proxy.LoseAnswer()
	keys := []string{"repeated/a", "repeated/done", "repeated/a", "repeated/other", "repeated/b"}
	got, err = d.Reserve(t.Context(), keys, time.Minute)
	require.NoError(t, err)
	require.Equal(t, []mailtrapwebhook.Reservation{reserved, handled, held, held, reserved}, got)
}

func TestNewClient(t *testing.T) {
	for _, url := range []string{
		"redis://127.0.0.1:1", "redis://127.0.0.1:1?addr=127.0.0.1:2", "redis://127.0.0.1:1?master_name=main", "unix:///x.sock",
	} {
		for poolSize, want := range map[int]int{0: 7, 3: 3} {
			sized := url + "?pool_size=7"
			if strings.Contains(url, "?") {
				sized = url + "&pool_size=7"
			}
			client, err := redisdedup.NewClient(sized, poolSize)
			require.NoError(t, err)
			defer client.Close()
			var timeout bool
			var got int
			switch client := client.(type) {
			case *redis.Client:
				timeout, got = client.Options().ContextTimeoutEnabled, client.Options().PoolSize
			case *redis.ClusterClient:
				timeout, got = client.Options().ContextTimeoutEnabled, client.Options().PoolSize
			}
			require.True(t, timeout, "a call may outlive its context: %s", url)
			require.Equal(t, want, got, url)
		}
	}
	for _, url := range []string{"redis://:hunter2@h:port", "http://:hunter2@h", "redis://:hunter2@h?addr=h&pool=1"} {
		_, err := redisdedup.NewClient(url, 0)
		require.ErrorContains(t, err, "not a URL of Redis: write it as redis://")
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestCheck(t *testing.T) {
	client := redis.NewClient(&redis.Options{Network: single.Network, Addr: single.Address})
	defer client.Close()
	d := redisdedup.New(client, 0)
	require.NoError(t, d.Check(t.Context()))

	t.Run("a policy that evicts", func(t *testing.T) {
		require.NoError(t, client.ConfigSet(t.Context(), "maxmemory-policy", "volatile-lru").Err())
		defer client.ConfigSet(context.Background(), "maxmemory-policy", "noeviction")
		require.ErrorContains(t, d.Check(t.Context()), "maxmemory-policy is volatile-lru")
	})
	t.Run("a user who may not look", func(t *testing.T) {
		acl := client.Do(t.Context(), "ACL", "SETUSER", "app", "on", "nopass", "~*", "+@all", "-info")
		require.NoError(t, acl.Err())
		app := redis.NewClient(&redis.Options{Network: single.Network, Addr: single.Address, Username: "app", Password: "x"})
		defer app.Close()
		require.ErrorIs(t, redisdedup.New(app, 0).Check(t.Context()), redisdedup.ErrUnknownPolicy)
	})
	t.Run("a node that lacks the keys", func(t *testing.T) {
		_, lacks := servers.RedisNodes(t)
		node := redis.NewClient(&redis.Options{Addr: lacks.Address})
		defer node.Close()
		require.NoError(t, node.Ping(t.Context()).Err())
		require.ErrorContains(t, redisdedup.New(node, 0).Check(t.Context()), "use a redis.ClusterClient")
		cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{lacks.Address}})
		defer cluster.Close()
		require.NoError(t, redisdedup.New(cluster, 0).Check(t.Context()))
	})
}
