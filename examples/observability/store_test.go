package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A faultyStore fails or panics in one of its operations.
type faultyStore struct {
	mailtrapwebhook.MemoryDeduplicator
	reserve, commit, release func() error
}

func (s *faultyStore) Reserve(
	ctx context.Context, keys []string, lease time.Duration,
) ([]mailtrapwebhook.Reservation, error) {
	if s.reserve != nil {
		return nil, s.reserve()
	}
	return s.MemoryDeduplicator.Reserve(ctx, keys, lease)
}

func (s *faultyStore) Commit(ctx context.Context, keys []string) error {
	if s.commit != nil {
		return s.commit()
	}
	return s.MemoryDeduplicator.Commit(ctx, keys)
}

func (s *faultyStore) Release(ctx context.Context, keys []string) error {
	if s.release != nil {
		return s.release()
	}
	return s.MemoryDeduplicator.Release(ctx, keys)
}

func TestErrorsOfTheStoreAreCounted(t *testing.T) {
	fail := func() error { return errors.New("the store is away") }
	for name, test := range map[string]struct {
		store     *faultyStore
		kind      string
		status    int
		operation string
	}{
		"Reserve fails":  {&faultyStore{reserve: fail}, "delivery", 503, storeReserve},
		"Commit fails":   {&faultyStore{commit: fail}, "delivery", 200, storeCommit},
		"Commit panics":  {&faultyStore{commit: func() error { panic("nil map") }}, "delivery", 200, storeCommit},
		"Release fails":  {&faultyStore{release: fail}, "unsubscribe", 500, storeRelease},
		"nothing fails":  {&faultyStore{}, "delivery", 200, ""},
		"a failed event": {&faultyStore{}, "unsubscribe", 500, ""},
	} {
		t.Run(name, func(t *testing.T) {
			verifier, err := mailtrapwebhook.NewVerifier(testSecret)
			require.NoError(t, err)
			m := newMetrics(prometheus.NewRegistry(), 1)
			var log lockedBuffer
			handler := newWebhook(options{verifier: verifier}, test.store, newScript().onEvent, m, newLogger(&log))
			body := envelope(event(test.kind, 1, time.Now()))
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, newRequest(t, http.MethodPost, "/", body, mailtrapwebhook.Sign([]byte(body), testSecret)))
			require.Equal(t, test.status, answer.Code)
			for _, operation := range []string{storeReserve, storeCommit, storeRelease} {
				var errors dto.Metric
				require.NoError(t, m.storeErrors.WithLabelValues(operation).Write(&errors))
				require.Equal(t, operation == test.operation, errors.Counter.GetValue() > 0, operation)
			}
		})
	}
}

func TestReadyOnlyWhileTheStoreAnswers(t *testing.T) {
	away := errors.New("the store is away")
	fail := func() error { return away }
	require.NoError(t, ready(t.Context(), &faultyStore{}))
	require.ErrorIs(t, ready(t.Context(), &faultyStore{reserve: fail}), away)
	require.ErrorIs(t, ready(t.Context(), &faultyStore{release: fail}), away)
}

func TestReadinessIsAMetric(t *testing.T) {
	fail := func() error { return errors.New("the store is away") }
	for name, test := range map[string]struct {
		store *faultyStore
		want  float64
	}{
		"the store answers": {&faultyStore{}, 1},
		"Reserve fails":     {&faultyStore{reserve: fail}, 0},
		"Release fails":     {&faultyStore{release: fail}, 0},
		"Reserve panics":    {&faultyStore{reserve: func() error { panic("nil map") }}, 0},
		"Reserve hangs":     {&faultyStore{reserve: func() error { <-t.Context().Done(); return t.Context().Err() }}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			showReadiness(registry, test.store)
			families, err := registry.Gather()
			require.NoError(t, err)
			require.Len(t, families, 1)
			require.Equal(t, "mailtrap_webhook_ready", families[0].GetName())
			require.Equal(t, test.want, families[0].Metric[0].Gauge.GetValue())
		})
	}
}

// Load balancers turn away from a process that is not ready. Their probes are
// then all that shows the errors of the store.
func TestProbesOfTheStoreAreCounted(t *testing.T) {
	p := start(t, succeed)
	require.Equal(t, 200, p.send(t, newRequest(t, http.MethodGet, p.origin+"/readyz", "", "")))
	got := p.scrape(t)
	p.end(t)
	require.EqualValues(t, 1, got[`mailtrap_webhook_store_duration_seconds_count{operation="reserve"}`])
	require.EqualValues(t, 1, got[`mailtrap_webhook_store_duration_seconds_count{operation="release"}`])
	require.EqualValues(t, 1, got["mailtrap_webhook_ready"])
}

// Two replicas that share a store probe it at the same time.
func TestReadyWhileAnotherReplicaProbes(t *testing.T) {
	store := new(mailtrapwebhook.MemoryDeduplicator)
	_, err := store.Reserve(t.Context(), []string{"readyz"}, time.Minute)
	require.NoError(t, err)
	require.NoError(t, ready(t.Context(), store))
}
