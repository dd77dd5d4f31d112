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
