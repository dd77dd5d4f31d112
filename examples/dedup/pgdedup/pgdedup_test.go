package pgdedup_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/pgdedup"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/storetest"
)

var server, bouncer *servers.Server

func TestMain(m *testing.M) {
	os.Exit(servers.Main(m,
		servers.Use{In: &server, Start: servers.Postgres},
		servers.Use{In: &bouncer, Start: func(dir string) (*servers.Server, error) {
			return servers.PgBouncer(dir, server)
		}}))
}

func connect(t *testing.T, proxy *servers.Proxy, settings string) *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(
		fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable&%s", proxy.Address(), settings))
	require.NoError(t, err)
	// The tests count round trips: the pool must not ping idle connections.
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func TestConformance(t *testing.T) {
	t.Run("a server", func(t *testing.T) { conform(t, server, "") })
	t.Run("serializable transactions", func(t *testing.T) {
		conform(t, server, "default_transaction_isolation=serializable")
	})
	t.Run("PgBouncer", func(t *testing.T) { conform(t, bouncer, "") })
}

func conform(t *testing.T, front *servers.Server, settings string) {
	storetest.Run(t, func(t *testing.T, retention time.Duration) storetest.Store {
		proxy := servers.NewProxy(t, front)
		pool := connect(t, proxy, "")
		_, err := pool.Exec(t.Context(), "DROP TABLE IF EXISTS mailtrap_dedup", pgx.QueryExecModeExec)
		require.NoError(t, err)
		require.NoError(t, pgdedup.New(pool, 0).CreateTable(t.Context()))
		store := storetest.Store{
			Replica: func(t *testing.T) (mailtrapwebhook.Deduplicator, func()) {
				pool := connect(t, proxy, settings)
				return pgdedup.New(pool, retention), pool.Close
			},
			Count: func(t *testing.T) (n int) {
				err := pool.QueryRow(t.Context(), "SELECT count(*) FROM mailtrap_dedup", pgx.QueryExecModeExec).Scan(&n)
				require.NoError(t, err)
				return n
			},
			Hold:       func(*testing.T) func() { return proxy.Hold() },
			RoundTrips: proxy.RoundTrips,
			OwnClock:   true,
		}
		if front == server { // PgBouncer makes its clients wait for a server that restarts
			store.Kill = func(t *testing.T) { require.NoError(t, server.Kill()) }
			store.Start = func(t *testing.T) { require.NoError(t, server.Start()) }
		}
		return store
	})
}

// Processes that start at the same time must not fail to create the table.
func TestProcessesCreateTheTableTogether(t *testing.T) {
	proxy := servers.NewProxy(t, server)
	pool := connect(t, proxy, "")
	for range 5 {
		_, err := pool.Exec(t.Context(), "DROP TABLE IF EXISTS mailtrap_dedup")
		require.NoError(t, err)
		_, err = pgdedup.New(pool, 0).Reserve(t.Context(), []string{"a"}, time.Minute)
		require.ErrorContains(t, err, "mailtrap_dedup", "the call worked without the table")
		var all sync.WaitGroup
		for range 8 {
			d := pgdedup.New(connect(t, proxy, ""), 0)
			all.Go(func() {
				if err := d.CreateTable(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}

// A role that may create nothing can use a table that is there.
func TestRoleThatMayNotCreate(t *testing.T) {
	proxy := servers.NewProxy(t, server)
	admin := connect(t, proxy, "")
	exec := func(statement string) {
		_, err := admin.Exec(context.Background(), statement)
		require.NoError(t, err)
	}
	exec("DROP TABLE IF EXISTS mailtrap_dedup")
	require.NoError(t, pgdedup.New(admin, 0).CreateTable(t.Context()))
	exec("CREATE ROLE plain LOGIN")
	t.Cleanup(func() {
		exec("DROP OWNED BY plain")
		exec("DROP ROLE plain")
	})
	exec("GRANT SELECT, INSERT, UPDATE, DELETE ON mailtrap_dedup TO plain")
	plain := pgdedup.New(connect(t, proxy, "user=plain"), 0)
	require.NoError(t, plain.CreateTable(t.Context()))
	answers, err := plain.Reserve(t.Context(), []string{"a"}, time.Minute)
	require.NoError(t, err)
	require.Equal(t, []mailtrapwebhook.Reservation{mailtrapwebhook.Reserved}, answers)
	require.NoError(t, plain.Commit(t.Context(), []string{"a"}))
	require.NoError(t, plain.Release(t.Context(), []string{"a"}))

	exec("DROP TABLE mailtrap_dedup")
	require.ErrorContains(t, plain.CreateTable(t.Context()), "the role may not create the table: run pgdedup.Schema")
	require.NoError(t, pgdedup.New(admin, 0).CreateTable(t.Context()))
}
