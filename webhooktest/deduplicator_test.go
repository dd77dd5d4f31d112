package webhooktest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

func init() { shortLease = 100 * time.Millisecond }

func TestRightDeduplicators(t *testing.T) {
	t.Parallel()
	stores := map[string]func() mailtrapwebhook.Deduplicator{
		"MemoryDeduplicator": func() mailtrapwebhook.Deduplicator { return new(mailtrapwebhook.MemoryDeduplicator) },
		"mapStore":           func() mailtrapwebhook.Deduplicator { return newMapStore() },
		"mapStore that refuses a call without keys": func() mailtrapwebhook.Deduplicator {
			m := newMapStore()
			m.commit = func(ctx context.Context, keys []string) error {
				return errors.Join(wantKeys(keys), m.rightCommit(ctx, keys))
			}
			m.release = func(ctx context.Context, keys []string) error {
				return errors.Join(wantKeys(keys), m.rightRelease(ctx, keys))
			}
			return m
		},
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

func wantKeys(keys []string) error {
	if len(keys) == 0 {
		return errors.New("no keys")
	}
	return nil
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
	for _, w := range allWrongDeduplicators {
		failure := "--- FAIL: TestWrongDeduplicators/" + strings.ReplaceAll(w.name, " ", "_")
		require.Contains(t, string(output), failure, "%q does not find a store that %s", w.fails, w.name)
		require.Contains(t, string(output), w.says, "for a store that %s", w.name)
		proved[w.fails] = true
	}
	stops := "the subtests after \"a committed key is Handled\" were not run: mend this first, since they build on it"
	require.Contains(t, string(output), stops)
	require.NotContains(t, string(output), "TestWrongDeduplicators/whole/Commit_can_be_repeated")
	for _, tt := range dedupTests() {
		require.True(t, proved[tt.name], "no wrong implementation fails the subtest %q", tt.name)
	}
}

func testWrongDeduplicators(t *testing.T) {
	shortLease = 500 * time.Millisecond // longer than a busy machine stops a goroutine for
	leaseLimit, callLimit = time.Second, time.Second
	tests := make(map[string]func(*subject))
	for _, tt := range dedupTests() {
		tests[tt.name] = tt.test
	}
	t.Run("whole", func(t *testing.T) {
		t.Parallel()
		TestDeduplicator(t, func(*testing.T) mailtrapwebhook.Deduplicator {
			store := newMapStore()
			store.commit = store.rightRelease
			return store
		})
	})
	for _, w := range allWrongDeduplicators {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			store := newMapStore()
			w.spoil(store)
			tests[w.fails](openSubject(t, func(*testing.T) mailtrapwebhook.Deduplicator { return store }))
		})
	}
}

// A wrongDeduplicator fails a subtest, which says what is wrong.
type wrongDeduplicator struct {
	name, fails, says string
	spoil             func(m *mapStore)
}

// allWrongDeduplicators has those that fail under concurrent calls, too.
var allWrongDeduplicators = slices.Concat(wrongDeduplicators, wrongConcurrentDeduplicators)

var wrongDeduplicators = []wrongDeduplicator{
	{"takes all keys of a call or none", "a free key is Reserved, then Held",
		`"b", key 2 of 2, and not Reserved`, func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				answers, err := m.rightReserve(ctx, keys, lease)
				if len(keys) == 2 && answers[0] == held && answers[1] == reserved {
					answers[1] = held
					err = m.rightRelease(ctx, keys[1:])
				}
				return answers, err
			}
		}},
	{"waits until a key is free", "a free key is Reserved, then Held",
		"Reserve of 1 keys fails: context deadline exceeded: Reserve takes a free key for its caller, and for nobody else." +
			" That a key is Held is an answer and no error: give it at once", func(m *mapStore) {
			m.reserve = func(ctx context.Context, keys []string, lease time.Duration) (reservations, error) {
				answers, err := m.rightReserve(ctx, keys, lease)
				if slices.Contains(answers, held) {
					<-ctx.Done()
					err = ctx.Err()
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
	{"remembers 6000 keys", "ten thousand keys in a call",
		"a key must stay Handled, however many are committed with it or after it", func(m *mapStore) {
			var done []string
			m.commit = func(ctx context.Context, keys []string) error {
				for done = append(done, keys...); len(done) > 6000; done = done[1:] {
					m.set(done[0], mark{})
				}
				return m.rightCommit(ctx, done)
			}
		}},
	{"rounds leases down to whole seconds", "a lease ends",
		"a lease of 500ms ended after", func(m *mapStore) {
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
}
