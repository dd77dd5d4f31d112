package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
)

// A receiver that answers a delivery with another status than 200 fails the
// measurement.
func TestMeasuresEachReceiver(t *testing.T) {
	redis, postgres := start(t, servers.Redis), start(t, servers.Postgres)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{
		"-for", "100ms", "-redis", "redis://" + redis, "-postgres", "postgres://postgres@" + postgres + "/postgres",
	}, &out))
	table := out.String()
	names := []string{
		verifyOnly, inMemory, "dedup, Redis", "dedup, PostgreSQL", "exactlyonce", "inbox", "dedup, SQLite", "queue",
	}
	for _, name := range names {
		require.Regexp(t, name+` .*ms\) *\|.*ms\) *\|.*ms\)`, table)
	}
	require.Equal(t, 2+len(names), strings.Count(table, "\n"), table) // with two lines of headings
}

// start starts a server and returns an address of it on loopback.
func start(t *testing.T, server func(string) (*servers.Server, error)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "throughput") // a short name: the path of a socket has at most 107 bytes
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s, err := server(dir)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Kill() })
	return servers.NewProxy(t, s).Address()
}

func TestOnlyNamedReceiversAreMeasured(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-for", "50ms", "-only", "^memory$"}, &out))
	require.Contains(t, out.String(), inMemory)
	require.NotContains(t, out.String(), verifyOnly)
}

func TestAnotherAnswerFails(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	_, err := load(t.Context(), s.URL, 2, time.Second)
	require.ErrorContains(t, err, "404")
}

// A repeated event would be a duplicate, and cost the receiver less.
func TestEveryEventIsNew(t *testing.T) {
	seen := make(map[string]bool)
	for range 2 {
		d := newDelivery()
		for n := range uint64(3) {
			d.renew(n)
			events, err := mailtrapwebhook.Parse(d.body)
			require.NoError(t, err)
			require.Len(t, events, eventsEach)
			for _, ev := range events {
				require.False(t, seen[ev.Key()], "%s is repeated", ev)
				seen[ev.Key()] = true
			}
		}
	}
}
