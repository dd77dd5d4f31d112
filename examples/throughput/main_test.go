package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// Every receiver that needs no server of its own takes the deliveries. One that
// answers another status fails the measurement.
func TestMeasuresEachReceiver(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-for", "100ms"}, &out))
	table := out.String()
	for _, name := range []string{verifyOnly, inMemory, "dedup, SQLite", "queue"} {
		require.Regexp(t, name+` .*ms\) *\|.*ms\) *\|.*ms\)`, table)
	}
	require.Equal(t, 6, strings.Count(table, "\n"), table)
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
