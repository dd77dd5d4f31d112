package pgdedup_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/internal/servers"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/internal/storetest"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/pgdedup"
)

var server *servers.Server

func TestMain(m *testing.M) {
	os.Exit(servers.Main(m, servers.Use{In: &server, Start: servers.Postgres}))
}

func connect(t *testing.T, proxy *servers.Proxy) *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable", proxy.Address()))
	require.NoError(t, err)
	// The tests count round trips: the pool must not ping idle connections.
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T, retention time.Duration) storetest.Store {
		proxy := servers.NewProxy(t, server)
		pool := connect(t, proxy)
		_, err := pool.Exec(t.Context(), "DROP TABLE IF EXISTS mailtrap_dedup")
		require.NoError(t, err)
		require.NoError(t, pgdedup.New(pool, 0).CreateTable(t.Context()))
		return storetest.Store{
			Replica: func(t *testing.T) (mailtrapwebhook.Deduplicator, func()) {
				pool := connect(t, proxy)
				return pgdedup.New(pool, retention), pool.Close
			},
			Count: func(t *testing.T) (n int) {
				require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM mailtrap_dedup").Scan(&n))
				return n
			},
			Hold:       func(*testing.T) func() { return proxy.Hold() },
			RoundTrips: proxy.RoundTrips,
			Kill:       func(t *testing.T) { require.NoError(t, server.Kill()) },
			Start:      func(t *testing.T) { require.NoError(t, server.Start()) },
			OwnClock:   true,
		}
	})
}

// Processes that start at the same time must not fail to create the table.
func TestProcessesCreateTheTableTogether(t *testing.T) {
	proxy := servers.NewProxy(t, server)
	pool := connect(t, proxy)
	for range 5 {
		_, err := pool.Exec(t.Context(), "DROP TABLE IF EXISTS mailtrap_dedup")
		require.NoError(t, err)
		_, err = pgdedup.New(pool, 0).Reserve(t.Context(), []string{"a"}, time.Minute)
		require.ErrorContains(t, err, "mailtrap_dedup", "the call worked without the table")
		var all sync.WaitGroup
		for range 8 {
			d := pgdedup.New(connect(t, proxy), 0)
			all.Go(func() {
				if err := d.CreateTable(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}
