package webhooktest

import (
	"context"
	"sync"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

type reservations = []mailtrapwebhook.Reservation

// A mapStore is a right implementation whose methods can be made wrong.
type mapStore struct {
	reserve         func(ctx context.Context, keys []string, lease time.Duration) (reservations, error)
	commit, release func(ctx context.Context, keys []string) error

	mu    sync.Mutex
	marks map[string]mark
}

type mark struct {
	handled bool
	until   time.Time
}

func newMapStore() *mapStore {
	m := &mapStore{marks: make(map[string]mark)}
	m.reserve, m.commit, m.release = m.rightReserve, m.rightCommit, m.rightRelease
	return m
}

func (m *mapStore) Reserve(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
	return m.reserve(ctx, keys, lease)
}

func (m *mapStore) Commit(ctx context.Context, keys []string) error { return m.commit(ctx, keys) }

func (m *mapStore) Release(ctx context.Context, keys []string) error { return m.release(ctx, keys) }

func (m *mapStore) rightReserve(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	answers := make([]mailtrapwebhook.Reservation, len(keys))
	for i, key := range keys {
		found := m.marks[key]
		switch {
		case !time.Now().Before(found.until):
			m.marks[key] = mark{until: time.Now().Add(lease)}
			answers[i] = reserved
		case found.handled:
			answers[i] = handled
		default:
			answers[i] = held
		}
	}
	return answers, ctx.Err()
}

func (m *mapStore) rightCommit(ctx context.Context, keys []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		m.marks[key] = mark{true, time.Now().Add(longLease)}
	}
	return ctx.Err()
}

func (m *mapStore) rightRelease(ctx context.Context, keys []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		if !m.marks[key].handled {
			delete(m.marks, key)
		}
	}
	return ctx.Err()
}

// get returns the mark of a key, which may be over.
func (m *mapStore) get(key string) (found mark, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok = m.marks[key]
	return found, ok
}

func (m *mapStore) set(key string, to mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.marks[key] = to
}
