package redisdedup_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/internal/servers"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/internal/storetest"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/redisdedup"
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
