package webhook

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/programtest"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// Two instances share nothing but the store.
func TestInstancesShareAStore(t *testing.T) {
	for name, test := range map[string]struct {
		start         func(dir string) (*servers.Server, error)
		variable, url string // the directory of the socket replaces %s
	}{
		"PostgreSQL": {servers.Postgres, databaseVariable, "postgres://postgres@/postgres?host=%s"},
		"Redis":      {servers.Redis, redisVariable, "unix://%s/redis.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			log := captureLog(t)
			url := fmt.Sprintf(test.url, filepath.Dir(programtest.StartServer(t, test.start).Address))
			var mu sync.Mutex
			count := make(map[string]int)
			instances := make([]*Webhook, 2)
			for i := range instances {
				w, err := New(environment(map[string]string{SecretVariable: secret, test.variable: url}))
				require.NoError(t, err)
				require.NoError(t, w.Ready(t.Context()))
				w.OnEvent = func(_ context.Context, ev mailtrapwebhook.Event) error {
					mu.Lock()
					defer mu.Unlock()
					count[ev.Key()]++
					return nil
				}
				instances[i] = w
			}
			require.Equal(t, len(instances), strings.Count(log.String(), name+" remembers"), log)
			require.Equal(t, len(instances), strings.Count(log.String(), "\n"), log)

			samples := webhooktest.Samples()
			body := webhooktest.Body(mailtrapwebhook.FormatJSON, samples...)
			for _, w := range instances {
				m := webhooktest.Mailtrap{Handler: w, Secret: secret, Retries: -1}
				result, err := m.Deliver(t.Context(), body)
				require.NoError(t, err)
				require.NoError(t, result.Err())
			}
			require.Len(t, count, len(samples))
			for key, n := range count {
				require.Equal(t, 1, n, key)
			}
		})
	}
}

func TestRedisBehindOthers(t *testing.T) {
	captureLog(t)
	has, lacks := servers.RedisNodes(t)
	for name, url := range map[string]string{
		"cluster":  fmt.Sprintf("redis://%s?addr=%s", lacks.Address, has.Address),
		"sentinel": fmt.Sprintf("redis://%s?master_name=main", servers.RedisSentinel(t).Address),
	} {
		w, err := New(environment(map[string]string{SecretVariable: secret, redisVariable: url}))
		require.NoError(t, err, name)
		require.NoError(t, w.Ready(t.Context()), name)
	}
}

func TestWithoutAStoreItSaysSo(t *testing.T) {
	log := captureLog(t)
	w, err := New(environment(map[string]string{SecretVariable: secret}))
	require.NoError(t, err)
	require.NoError(t, w.Ready(t.Context()))
	require.Contains(t, log.String(), "set DATABASE_URL or REDIS_URL")
	require.Equal(t, 1, strings.Count(log.String(), "\n"), log)
}

// The errors must not show a password.
func TestStoreThatCannotBeUsed(t *testing.T) {
	for _, test := range []struct{ variable, url, want string }{
		{databaseVariable, "mysql://user:hunter2@127.0.0.1/db", "write it as postgres://"},
		{databaseVariable, "postgres://user:hunter2@127.0.0.1:1/db", "DATABASE_URL cannot be used"},
		{redisVariable, "http://user:hunter2@127.0.0.1", "write it as redis://"},
		{redisVariable, "redis://user:hunter2@127.0.0.1:1/0", "REDIS_URL cannot be used"},
	} {
		_, err := New(environment(map[string]string{SecretVariable: secret, test.variable: test.url}))
		require.ErrorContains(t, err, test.want)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// The program is ready only while the store answers.
func TestReady(t *testing.T) {
	captureLog(t)
	server := programtest.StartServer(t, servers.Redis)
	w, err := New(environment(map[string]string{SecretVariable: secret, redisVariable: "unix://" + server.Address}))
	require.NoError(t, err)
	require.NoError(t, w.Ready(t.Context()))
	require.NoError(t, server.Kill())
	require.Error(t, w.Ready(t.Context()))
}
