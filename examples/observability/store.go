package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// The operations of a store, as values of a label.
const (
	storeReserve = "reserve"
	storeCommit  = "commit"
	storeRelease = "release"
)

// A watchedStore measures the calls of a Deduplicator.
type watchedStore struct {
	store   mailtrapwebhook.Deduplicator
	metrics *metrics
}

func (s *watchedStore) Reserve(
	ctx context.Context, keys []string, lease time.Duration,
) (answers []mailtrapwebhook.Reservation, err error) {
	err = s.watch(storeReserve, func() error {
		answers, err = s.store.Reserve(ctx, keys, lease)
		return err
	})
	return answers, err
}

func (s *watchedStore) Commit(ctx context.Context, keys []string) error {
	return s.watch(storeCommit, func() error { return s.store.Commit(ctx, keys) })
}

func (s *watchedStore) Release(ctx context.Context, keys []string) error {
	return s.watch(storeRelease, func() error { return s.store.Release(ctx, keys) })
}

func (s *watchedStore) watch(operation string, call func() error) error {
	started, ok := time.Now(), false // stays so if the store panics
	defer func() { s.metrics.storeCalled(operation, ok, started) }()
	err := call()
	ok = err == nil
	return err
}

// ready returns an error unless the store makes the calls of a delivery. A ping
// may succeed where those fail, such as on a replica that is read-only.
func ready(ctx context.Context, store mailtrapwebhook.Deduplicator) error {
	key := []string{"readyz"} // no event's key, because it has no slash
	if _, err := store.Reserve(ctx, key, time.Minute); err != nil {
		return err
	}
	return store.Release(ctx, key)
}

// readyTimeout is how long the store may take to answer a scrape.
const readyTimeout = time.Second

// showReadiness makes a metric that asks the store at each scrape. Nothing else
// tells of an outage: load balancers send no delivery to a process that is not
// ready, so that no failure is counted.
func showReadiness(registry prometheus.Registerer, store mailtrapwebhook.Deduplicator) {
	promauto.With(registry).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "mailtrap_webhook_ready",
		Help: "1 if the store of handled events answers, and /readyz with it, or else 0.",
	}, func() float64 {
		if answers(store) {
			return 1
		}
		return 0
	})
}

// answers reports whether the store is ready. A store that hangs or panics must
// not take the other metrics along.
func answers(store mailtrapwebhook.Deduplicator) bool {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	answer := make(chan bool, 1)
	go func() {
		ok := false // stays so if the store panics
		defer func() {
			_ = recover()
			answer <- ok
		}()
		ok = ready(ctx, store) == nil
	}()
	select {
	case ok := <-answer:
		return ok
	case <-ctx.Done():
		return false
	}
}
