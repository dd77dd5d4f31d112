package main

import (
	"context"
	"time"

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
