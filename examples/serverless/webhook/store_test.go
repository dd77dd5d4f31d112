package webhook

import (
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/programtest"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// Two instances share nothing but the store.
func TestInstancesShareAStore(t *testing.T) {
	for name, test := range map[string]struct {
		start    func(t *testing.T) (variable, url string)
		remember string
	}{
		"PostgreSQL": {startPostgres, "PostgreSQL remembers"},
		"Redis":      {startRedis, "Redis remembers"},
	} {
		t.Run(name, func(t *testing.T) {
			log := captureLog(t)
			variable, url := test.start(t)
			var mu sync.Mutex
			count := make(map[string]int)
			instances := make([]*Webhook, 2)
			for i := range instances {
				w, err := New(environment(map[string]string{SecretVariable: secret, variable: url}))
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
			require.Equal(t, len(instances), strings.Count(log.String(), test.remember), log)
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
	url, kill := programtest.StartRedis(t)
	w, err := New(environment(map[string]string{SecretVariable: secret, redisVariable: url}))
	require.NoError(t, err)
	require.NoError(t, w.Ready(t.Context()))
	kill()
	require.Error(t, w.Ready(t.Context()))
}

func startRedis(t *testing.T) (variable, url string) {
	url, _ = programtest.StartRedis(t)
	return redisVariable, url
}

// startPostgres starts a PostgreSQL server of its own, on a socket.
func startPostgres(t *testing.T) (variable, url string) {
	t.Helper()
	dir := programtest.ShortDir(t)
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	require.NoError(t, err)
	require.NotEmpty(t, found, "PostgreSQL is missing: apt-get install postgresql")
	command := func(program string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(slices.Max(found), program), args...)
		cmd.Dir = dir
		if os.Getuid() == 0 { // PostgreSQL refuses to run as root
			postgres, err := user.Lookup("postgres")
			require.NoError(t, err)
			uid, err := strconv.Atoi(postgres.Uid)
			require.NoError(t, err)
			require.NoError(t, os.Chown(dir, uid, -1))
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid)}}
		}
		return cmd
	}
	data := filepath.Join(dir, "data")
	out, err := command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8", "-N").CombinedOutput()
	require.NoError(t, err, "%s", out)
	server := command("postgres", "-D", data, "-k", dir, "-h", "", "-F")
	programtest.StartServer(t, server, filepath.Join(dir, ".s.PGSQL.5432"))
	ready := func() bool { return command("pg_isready", "-h", dir).Run() == nil }
	require.Eventually(t, ready, 30*time.Second, 20*time.Millisecond)
	return databaseVariable, "postgres://postgres@/postgres?host=" + dir
}
