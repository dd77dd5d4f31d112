package webhooktest

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"
)

// wrongConcurrentDeduplicators are cases of TestWrongDeduplicators.
var wrongConcurrentDeduplicators = []wrongDeduplicator{
	{"looks first and then takes", "one of many concurrent calls gets a key",
		"decide each key atomically, for exactly one", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				free := make(map[string]bool)
				for _, key := range keys {
					found, _ := m.get(key)
					free[key] = !time.Now().Before(found.until)
				}
				time.Sleep(rand.N(time.Millisecond))
				answers, err := m.rightReserve(ctx, keys, lease)
				for i, key := range keys {
					if free[key] && answers[i] == held {
						answers[i] = reserved
					}
					free[key] = false
				}
				return answers, err
			}
		}},
	{"releases a second time after a while", "a reserved key has one owner",
		"free a key only in Release", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				time.Sleep(time.Millisecond)
				return m.rightReserve(ctx, keys, lease)
			}
			m.release = func(ctx context.Context, keys []string) error {
				time.AfterFunc(time.Millisecond, func() { _ = m.rightRelease(context.WithoutCancel(ctx), keys) })
				return m.rightRelease(ctx, keys)
			}
		}},
	{"looks at a mark and then releases it", "Commit wins over a concurrent Release",
		"in one atomic step", func(m *mapStore) {
			m.release = func(ctx context.Context, keys []string) error {
				var undone []string
				for _, key := range keys {
					if found, _ := m.get(key); !found.handled {
						undone = append(undone, key)
					}
				}
				time.Sleep(2 * time.Millisecond)
				for _, key := range undone {
					m.set(key, mark{})
				}
				return ctx.Err()
			}
		}},
	{"locks keys in any order", "concurrent calls do not deadlock",
		"it waits for another call", func(m *mapStore) {
			var locks sync.Map
			m.release = func(ctx context.Context, keys []string) error {
				for i, key := range keys {
					if slices.Contains(keys[:i], key) {
						continue
					}
					lock, _ := locks.LoadOrStore(key, new(sync.Mutex))
					lock.(*sync.Mutex).Lock()
					defer lock.(*sync.Mutex).Unlock()
					runtime.Gosched()
				}
				return m.rightRelease(ctx, keys)
			}
		}},
	{"ignores its context", "an ended context",
		"Commit ignores that its context is canceled", func(m *mapStore) {
			m.commit = func(ctx context.Context, keys []string) error { return m.rightCommit(context.WithoutCancel(ctx), keys) }
		}},
	{"does not wait for the answer to Commit", "a context that ends during a call",
		"before its context ended", func(m *mapStore) {
			m.commit = func(ctx context.Context, keys []string) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				if deadline, _ := ctx.Deadline(); time.Until(deadline) < callLimit/2 {
					<-ctx.Done()
					return nil
				}
				time.Sleep(5 * time.Millisecond)
				return m.rightCommit(ctx, keys)
			}
		}},
}
