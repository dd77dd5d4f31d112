package webhooktest

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestRightDeduplicators(t *testing.T) {
	stores := map[string]func() mailtrapwebhook.Deduplicator{
		"MemoryDeduplicator": func() mailtrapwebhook.Deduplicator { return new(mailtrapwebhook.MemoryDeduplicator) },
		"mapStore":           func() mailtrapwebhook.Deduplicator { return newMapStore() },
	}
	for name, make := range stores {
		t.Run("a "+name+" for each call of open", func(t *testing.T) {
			t.Parallel()
			TestDeduplicator(t, func(*testing.T) mailtrapwebhook.Deduplicator { return make() })
		})
		t.Run("one "+name, func(t *testing.T) {
			t.Parallel()
			d := make()
			TestDeduplicator(t, func(*testing.T) mailtrapwebhook.Deduplicator { return d })
		})
	}
}

// wrongDedupVariable makes the test binary test the wrong implementations, each of
// which must fail.
const wrongDedupVariable = "WEBHOOKTEST_WRONG_DEDUPLICATORS"

func TestWrongDeduplicators(t *testing.T) {
	if os.Getenv(wrongDedupVariable) != "" {
		testWrongDeduplicators(t)
		return
	}
	t.Parallel()
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), program,
		"-test.run=^TestWrongDeduplicators$", "-test.v", "-test.parallel=64", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), wrongDedupVariable+"=1")
	output, _ := cmd.CombinedOutput() // fails, as it must
	proved := make(map[string]bool)
	for _, w := range wrongDeduplicators {
		failure := "--- FAIL: TestWrongDeduplicators/" + strings.ReplaceAll(w.name, " ", "_")
		require.Contains(t, string(output), failure, "%q does not find a store that %s", w.fails, w.name)
		require.Contains(t, string(output), w.says, "for a store that %s", w.name)
		proved[w.fails] = true
	}
	for _, tt := range dedupTests() {
		require.True(t, proved[tt.name], "no wrong implementation fails the subtest %q", tt.name)
	}
}

func testWrongDeduplicators(t *testing.T) {
	callLimit = time.Second
	tests := make(map[string]func(*subject))
	for _, tt := range dedupTests() {
		tests[tt.name] = tt.test
	}
	for _, w := range wrongDeduplicators {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			store := newMapStore()
			w.spoil(store)
			tests[w.fails](openSubject(t, func(*testing.T) mailtrapwebhook.Deduplicator { return store }))
		})
	}
}

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

// Each of them fails a subtest, which says what is wrong.
var wrongDeduplicators = []struct {
	name, fails, says string
	spoil             func(m *mapStore)
}{
	{"takes all keys of a call or none", "a free key is Reserved, then Held",
		`"b", key 1 of 2, and not Reserved`, func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				answers, err := m.rightReserve(ctx, keys, lease)
				if len(keys) == 2 && answers[0] == reserved && answers[1] == held && keys[0] != keys[1] {
					answers[0] = held
					err = m.rightRelease(ctx, keys[:1])
				}
				return answers, err
			}
		}},
	{"sorts the keys and answers in that order", "answers are in the order of the keys",
		"must be in the order of the keys", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				return m.rightReserve(ctx, slices.Sorted(slices.Values(keys)), lease)
			}
		}},
	{"sorts the slice of keys", "the keys of a call stay as they are",
		"sort or edit a copy", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				answers, err := m.rightReserve(ctx, keys, lease)
				slices.Sort(keys)
				return answers, err
			}
		}},
	{"reserves equal keys of a call twice", "an equal key later in a call is Held",
		"only the first is Reserved", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				answers, err := m.rightReserve(ctx, keys, lease)
				for i, key := range keys {
					answers[i] = answers[slices.Index(keys, key)]
				}
				return answers, err
			}
		}},
	{"never says Handled", "a committed key is Handled",
		"Commit makes its keys Handled", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				answers, err := m.rightReserve(ctx, keys, lease)
				for i, answer := range answers {
					if answer == handled {
						answers[i] = held
					}
				}
				return answers, err
			}
		}},
	{"inserts at Commit and fails for what is there", "Commit can be repeated",
		"Commit of 3 keys fails: duplicate key", func(m *mapStore) {
			m.commit = func(ctx context.Context, keys []string) error {
				for _, key := range keys {
					if found, _ := m.get(key); found.handled {
						return errors.New("duplicate key")
					}
					if err := m.rightCommit(ctx, []string{key}); err != nil {
						return err
					}
				}
				return ctx.Err()
			}
		}},
	{"updates at Commit what is there", "Commit needs no reservation",
		"also one that is free", func(m *mapStore) {
			m.commit = func(ctx context.Context, keys []string) error {
				return m.rightCommit(ctx, slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
					_, ok := m.get(key)
					return !ok
				}))
			}
		}},
	{"releases only the first key", "a released key is free",
		"Release must free a reserved key", func(m *mapStore) {
			m.release = func(ctx context.Context, keys []string) error { return m.rightRelease(ctx, keys[:min(1, len(keys))]) }
		}},
	{"fails to release an unknown key", "Release accepts any key",
		"Release of 1 keys fails: no such key", func(m *mapStore) {
			m.release = func(ctx context.Context, keys []string) error {
				for _, key := range keys {
					if _, ok := m.get(key); !ok {
						return errors.New("no such key")
					}
				}
				return m.rightRelease(ctx, keys)
			}
		}},
	{"releases Handled keys", "Release keeps a Handled mark",
		"Release must not remove a Handled mark", func(m *mapStore) {
			m.release = func(ctx context.Context, keys []string) error {
				for _, key := range keys {
					m.set(key, mark{})
				}
				return ctx.Err()
			}
		}},
	{"ends a key at a NUL", "keys of any bytes",
		"tell any two strings apart", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				cut := slices.Clone(keys)
				for i, key := range cut {
					cut[i], _, _ = strings.Cut(key, "\x00")
				}
				return m.rightReserve(ctx, cut, lease)
			}
		}},
	{"takes at most 8192 keys", "ten thousand keys in a call",
		"Reserve of 10000 keys fails: too many parameters", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				if len(keys) > 8192 {
					return nil, errors.New("too many parameters")
				}
				return m.rightReserve(ctx, keys, lease)
			}
		}},
	{"rounds leases down to whole seconds", "a lease ends",
		"a lease of 300ms ended after", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				return m.rightReserve(ctx, keys, lease.Truncate(time.Second))
			}
		}},
	{"has leases that never end", "a lease ends",
		"is not free 1s later", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, _ time.Duration) (reservations, error) {
				return m.rightReserve(ctx, keys, longLease)
			}
		}},
	{"ends one lease in a call", "many leases end at once",
		"whichever other keys", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				ended := 0
				for _, key := range keys {
					found, ok := m.get(key)
					if ok && !time.Now().Before(found.until) {
						if ended++; ended > 1 {
							m.set(key, mark{false, time.Now().Add(time.Second)})
						}
					}
				}
				return m.rightReserve(ctx, keys, lease)
			}
		}},
	{"commits only within the lease", "Commit counts after the lease",
		"Commit must count after the lease", func(m *mapStore) {
			m.commit = func(ctx context.Context, keys []string) error {
				return m.rightCommit(ctx, slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
					found, ok := m.get(key)
					return ok && !time.Now().Before(found.until)
				}))
			}
		}},
	{"keeps the end of the lease at Commit", "Commit outlasts the lease",
		"Commit must replace the end of the lease", func(m *mapStore) {
			m.commit = func(ctx context.Context, keys []string) error {
				for _, key := range keys {
					found, ok := m.get(key)
					if !ok {
						found.until = time.Now().Add(longLease)
					}
					m.set(key, mark{true, found.until})
				}
				return ctx.Err()
			}
		}},
	{"renews the lease of another", "another Reserve leaves a mark as it is",
		"Reserve must not change how long", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				answers, err := m.rightReserve(ctx, keys, lease)
				for i, key := range keys {
					if answers[i] == held && lease != longLease {
						m.set(key, mark{false, time.Now().Add(lease)})
					}
				}
				return answers, err
			}
		}},
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
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(30 * time.Millisecond):
					return m.rightCommit(context.WithoutCancel(ctx), keys)
				}
			}
		}},
}
