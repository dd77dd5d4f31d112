package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

func probe(t *testing.T, h *health) int {
	t.Helper()
	answer := httptest.NewRecorder()
	h.ready(answer, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	require.NotContains(t, answer.Body.String(), "192.0.2.1")
	return answer.Code
}

func TestReadyOnlyWhileTheStoreAnswers(t *testing.T) {
	fail := func() error { return errors.New("dial 192.0.2.1: connection refused") }
	require.Equal(t, 200, probe(t, &health{store: &faultyStore{}}))
	require.Equal(t, 503, probe(t, &health{store: &faultyStore{reserve: fail}}))
	require.Equal(t, 503, probe(t, &health{store: &faultyStore{release: fail}}))
}

func TestStrangersProbesDoNotLoadTheStore(t *testing.T) {
	calls := 0
	h := &health{store: &faultyStore{release: func() error { calls++; return nil }}}
	for range 100 {
		require.Equal(t, 200, probe(t, h))
	}
	require.Less(t, calls, 10)
	h.asked = h.asked.Add(-askEvery)
	require.Equal(t, 200, probe(t, h))
	require.Greater(t, calls, 1)
}

// Two replicas that share a store probe it at the same time.
func TestReadyWhileAnotherReplicaProbes(t *testing.T) {
	store := new(mailtrapwebhook.MemoryDeduplicator)
	_, err := store.Reserve(t.Context(), []string{"readyz"}, time.Minute)
	require.NoError(t, err)
	require.Equal(t, 200, probe(t, &health{store: store}))
}

// At a signal the program first says that it is not ready, and still receives.
// Load balancers need the time in between.
func TestUnreadyBeforeItStopsReceiving(t *testing.T) {
	p := start(t, succeed, "-drain", "2s")
	get := func(path string) int { return p.send(t, newRequest(t, http.MethodGet, p.origin+path, "", "")) }
	require.Equal(t, 200, get("/healthz"))
	require.Equal(t, 200, get("/readyz"))
	signaled := time.Now()
	p.cancel()
	p.waitForLine(t, "ending: /readyz answers 503")
	require.Equal(t, 503, get("/readyz"))
	require.Equal(t, 200, get("/healthz"))
	require.Equal(t, 200, p.deliver(t, envelope(event("bounce", 1, time.Now()))))
	p.end(t)
	require.GreaterOrEqual(t, time.Since(signaled), 2*time.Second)
}
