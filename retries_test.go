package mailtrapwebhook_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// losing loses the answers to the first attempts of every batch.
func losing(attempts int) func(*world, int, *http.Request) bool {
	return func(_ *world, attempt int, _ *http.Request) bool { return attempt <= attempts }
}

// outage makes every callback fail for a time.
func outage(d time.Duration) func(*world, *process, int, int) error {
	return func(w *world, _ *process, _, _ int) error {
		if w.elapsed() < d {
			return errBoom
		}
		return nil
	}
}

func onEventOf(event int, f func() error) func(*world, *process, int, int) error {
	return func(_ *world, _ *process, _, given int) error {
		if given == event {
			return f()
		}
		return nil
	}
}

func isEvent(event int) func(int) bool { return func(given int) bool { return given == event } }

// A customStore is a store whose Reserve or Commit is replaced.
type customStore struct {
	mw.Deduplicator
	reserve func(context.Context, []string, time.Duration) ([]mw.Reservation, error)
	commit  func(context.Context, []string) error
}

func (s customStore) Reserve(ctx context.Context, keys []string, lease time.Duration) ([]mw.Reservation, error) {
	if s.reserve != nil {
		return s.reserve(ctx, keys, lease)
	}
	return s.Deduplicator.Reserve(ctx, keys, lease)
}

func (s customStore) Commit(ctx context.Context, keys []string) error {
	if s.commit != nil {
		return s.commit(ctx, keys)
	}
	return s.Deduplicator.Commit(ctx, keys)
}

// storeOutage makes Reserve fail for a time. If it hangs, Reserve fails when its
// context ends.
func storeOutage(d time.Duration, hangs bool) func(*world, *process, mw.Deduplicator) mw.Deduplicator {
	return func(w *world, _ *process, inner mw.Deduplicator) mw.Deduplicator {
		return customStore{Deduplicator: inner,
			reserve: func(ctx context.Context, keys []string, lease time.Duration) ([]mw.Reservation, error) {
				if w.elapsed() >= d {
					return inner.Reserve(ctx, keys, lease)
				}
				if hangs {
					<-ctx.Done()
				}
				return nil, errStore
			}}
	}
}

// leasing ignores the lease that the Handler asks for.
func leasing(d time.Duration) func(*world, *process, mw.Deduplicator) mw.Deduplicator {
	return func(_ *world, _ *process, inner mw.Deduplicator) mw.Deduplicator {
		return customStore{Deduplicator: inner,
			reserve: func(ctx context.Context, keys []string, _ time.Duration) ([]mw.Reservation, error) {
				return inner.Reserve(ctx, keys, d)
			}}
	}
}

// crashIn kills the first process.
func crashIn(d time.Duration) func(*world) {
	return func(w *world) {
		time.Sleep(d)
		w.restart()
	}
}

// slowCallback is slow in the first process only.
func slowCallback(d time.Duration) func(*world, *process, int, int) error {
	return func(_ *world, p *process, _, _ int) error {
		if p.number == 0 {
			time.Sleep(d)
		}
		return nil
	}
}

// resetSecret gives the receiver other secrets a minute before Mailtrap resets
// its own, which is after an hour. If forget is not 0, the receiver knows only
// the new one from then on.
func resetSecret(before []string, forget time.Duration) func(*world) {
	return func(w *world) {
		time.Sleep(59 * time.Minute)
		_ = w.verifier.SetSecrets(before...)
		if forget > 0 {
			time.Sleep(forget - w.elapsed())
			_ = w.verifier.SetSecrets(newSecret)
		}
	}
}

// signNew signs every attempt after the reset with the new secret.
func signNew(w *world, _ int) string {
	if w.elapsed() < time.Hour {
		return oldSecret
	}
	return newSecret
}

// signAsFirst signs each retry as its first attempt was signed.
func signAsFirst(w *world, batch int) string {
	if w.firstAttempt(batch).Sub(w.began) < time.Hour {
		return oldSecret
	}
	return newSecret
}

// signEither signs with either secret after the reset.
func signEither(w *world, batch int) string {
	if rand.IntN(2) == 0 {
		return oldSecret
	}
	return signNew(w, batch)
}

// Trouble that ends in time pauses no webhook and loses no event. No event is
// handled twice, unless a process dies between a callback and its mark.
func TestRetriesBringEverythingInTheEnd(t *testing.T) {
	t.Parallel()
	const poison = 7
	panics := onEventOf(poison, func() error { panic("of the poison") })
	givingUp := func(h *mw.Handler) { h.GiveUpAfter = 3 * time.Hour }
	slow := func(takes time.Duration) func(*world, *process, int, int) error {
		return onEventOf(0, func() error { time.Sleep(takes); return nil })
	}
	both := []string{oldSecret, newSecret}
	halfOutage := func(d time.Duration) func(*world, *process, int, int) error {
		return func(w *world, p *process, batch, event int) error {
			if event%2 == 0 {
				return nil
			}
			return outage(d)(w, p, batch, event)
		}
	}
	tests := []struct {
		name string
		s    scenario
	}{
		{"nothing happens", scenario{attempts: 1}},
		{"an outage of 10 minutes", scenario{callback: outage(10 * time.Minute), attempts: 3}},
		{"an outage of 3 hours and 15 minutes", scenario{callback: outage(195 * time.Minute), attempts: 40}},
		{"an outage of 3 hours and 15 minutes for half of the events", scenario{callback: halfOutage(195 * time.Minute)}},
		{"an outage that ends before GiveUpAfter", scenario{callback: outage(175 * time.Minute), handler: givingUp}},
		{"answers are lost", scenario{network: losing(29), attempts: 30}},
		{"the secret is reset in an outage, and retries are signed with the new one",
			scenario{callback: outage(150 * time.Minute), secret: signNew, meanwhile: resetSecret(both, 4*time.Hour)}},
		{"the secret is reset in an outage, and retries are signed with the old one",
			scenario{callback: outage(150 * time.Minute), secret: signAsFirst, meanwhile: resetSecret(both, 4*time.Hour)}},
		{"the secret is reset in an outage, and retries are signed with either",
			scenario{callback: outage(150 * time.Minute), secret: signEither, meanwhile: resetSecret(both, 4*time.Hour)}},
		{"the secret is reset, and only the new one is known once all that is old has come",
			scenario{callback: outage(150 * time.Minute), secret: signNew, meanwhile: resetSecret(both, 61*time.Minute)}},
		{"an event fails for good",
			scenario{callback: onEventOf(poison, func() error { return mw.Permanent(errBoom) }), poisoned: isEvent(poison), attempts: 1}},
		{"an event fails for good in an outage",
			scenario{callback: func(w *world, p *process, batch, event int) error {
				if event == poison {
					return mw.Permanent(errBoom)
				}
				return outage(time.Hour)(w, p, batch, event)
			}, poisoned: isEvent(poison)}},
		{"an event always panics", scenario{callback: panics, handler: givingUp, poisoned: isEvent(poison), attempts: 38, soon: time.Second}},
		{"an event always overruns", scenario{handler: givingUp, poisoned: isEvent(0), attempts: 38,
			callback: onEventOf(0, func() error { time.Sleep(time.Minute); return errBoom })}},
		{"a slow event before 499 quick ones", scenario{events: 500, callback: slow(20 * time.Second), attempts: 2, soon: 6 * time.Second}},
		{"a slow event before 499 that take a little", scenario{events: 500, attempts: 2, soon: 25 * time.Second,
			callback: func(w *world, p *process, batch, event int) error {
				time.Sleep(10 * time.Millisecond)
				return slow(80*time.Second)(w, p, batch, event)
			}}},
		{"the store is down", scenario{store: storeOutage(2*time.Hour, false), attempts: 25}},
		{"the store hangs", scenario{store: storeOutage(2*time.Hour, true), attempts: 25}},
		{"a crash before the callbacks return", scenario{traffic: burstTraffic, attempts: 2,
			callback: slowCallback(time.Second), meanwhile: crashIn(time.Second / 2)}},
		{"a crash in the middle of the callbacks", scenario{traffic: burstTraffic, attempts: 2, times: 2,
			callback: slowCallback(time.Second), meanwhile: crashIn(5500 * time.Millisecond)}},
		{"a crash before the commit", scenario{traffic: burstTraffic, attempts: 2, times: 2, meanwhile: crashIn(time.Second),
			store: func(_ *world, p *process, inner mw.Deduplicator) mw.Deduplicator {
				return customStore{Deduplicator: inner, commit: func(ctx context.Context, keys []string) error {
					if p.number > 0 {
						return inner.Commit(ctx, keys)
					}
					<-ctx.Done()
					return ctx.Err()
				}}
			}}},
		{"an outage for half of the inbound messages",
			scenario{traffic: inboundTraffic, callback: halfOutage(23 * time.Hour)}},
		{"answers to inbound messages are lost",
			scenario{traffic: inboundTraffic, network: losing(10)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			batches := sized(60, 12)
			if test.s.events > 100 {
				batches = sized(12, 2)
			}
			require.Empty(t, test.s.simulate(t, batches).violations)
		})
	}
}

// The simulation reports a receiver that is wrong, and trouble that lasts too
// long.
func TestSimulationFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	const poison = 7
	panics := onEventOf(poison, func() error { panic("of the poison") })
	wrong := func(wrap func(mw.Deduplicator) mw.Deduplicator) func(*world, *process, mw.Deduplicator) mw.Deduplicator {
		return func(_ *world, _ *process, d mw.Deduplicator) mw.Deduplicator { return wrap(d) }
	}
	forgetful := memoryStore(time.Hour, 0)
	stuck := func(_ *world, _ *process, batch, event int) error {
		if batch+event == 0 {
			time.Sleep(forever)
		}
		return nil
	}
	tests := []struct {
		name string
		s    scenario
		want string
	}{
		{"a store that reserves for several deliveries", scenario{network: sendTwice, callback: slowCallback(time.Second / 100),
			store: wrong(func(d mw.Deduplicator) mw.Deduplicator { return sharingStore{d} })}, "is handled by two deliveries at once"},
		{"a store that forgets on commit", scenario{callback: faultyCallback,
			store: wrong(func(d mw.Deduplicator) mw.Deduplicator { return forgettingStore{d} })}, "is handled again after its commit"},
		{"a store that cannot be reached",
			scenario{store: wrong(func(d mw.Deduplicator) mw.Deduplicator { return deadStore{d} })}, "is paused"},
		{"a callback that never returns", scenario{callback: stuck, handler: underFaults().handler}, "the in-flight budget is not given back"},
		{"an outage that is too long", scenario{callback: outage(205 * time.Minute)}, "is paused"},
		{"an event always panics, without GiveUpAfter", scenario{callback: panics}, "is paused"},
		{"an event always panics, and GiveUpAfter is too long",
			scenario{callback: panics, handler: func(h *mw.Handler) { h.GiveUpAfter = 4 * time.Hour }}, "is paused"},
		{"an outage that is longer than GiveUpAfter",
			scenario{callback: outage(195 * time.Minute), handler: func(h *mw.Handler) { h.GiveUpAfter = 3 * time.Hour }}, "is lost"},
		{"an event is dropped that should not be",
			scenario{callback: onEventOf(poison, func() error { return mw.Permanent(errBoom) })}, "are reported as dropped"},
		{"the secret is reset in an outage, and the old one forgotten at once",
			scenario{callback: outage(150 * time.Minute), secret: signAsFirst, meanwhile: resetSecret([]string{newSecret}, 0)}, "is paused"},
		{"the secret is reset, and the new one never known",
			scenario{callback: outage(150 * time.Minute), secret: signNew}, "is paused"},
		{"marks come before success",
			scenario{callback: outage(time.Hour), store: wrong(func(d mw.Deduplicator) mw.Deduplicator { return markingStore{d} })}, "is lost"},
		{"commits are forgotten", scenario{network: losing(2),
			store: wrong(func(d mw.Deduplicator) mw.Deduplicator { return forgettingStore{d} })}, "is handled 3 times"},
		{"no store", scenario{network: losing(2), handler: func(h *mw.Handler) { h.Dedup = noDedup }},
			"is handled 3 times"},
		{"a crash, and a lease that outlasts the retry", scenario{traffic: burstTraffic, attempts: 2,
			callback: slowCallback(time.Second), meanwhile: crashIn(time.Second / 2), store: leasing(20 * time.Minute)}, "is acknowledged late, at attempt 5"},
		{"a crash, and a lease that outlasts all retries", scenario{traffic: burstTraffic,
			callback: slowCallback(time.Second), meanwhile: crashIn(time.Second / 2), store: leasing(4 * time.Hour)}, "is paused"},
		{"a lease that ends before the callback", scenario{network: losing(1),
			traffic: traffic{40, always(20 * time.Second), 0, sendingJSON}, store: leasing(time.Second),
			callback: onEventOf(0, func() error { time.Sleep(30 * time.Second); return nil })}, "is handled 2 times"},
		{"a slow event that is waited for", scenario{events: 500, soon: 6 * time.Second,
			callback: onEventOf(0, func() error { time.Sleep(20 * time.Second); return nil }),
			handler:  func(h *mw.Handler) { h.EventTimeout = 25 * time.Second }}, "is handled only after"},
		{"an inbound schedule that outlasts the store's memory", scenario{traffic: inboundTraffic, network: losing(10),
			store: wrong(func(mw.Deduplicator) mw.Deduplicator { return forgetful })}, "times"},
		{"a crash before the commit, and each event once", scenario{traffic: burstTraffic, meanwhile: crashIn(5500 * time.Millisecond),
			callback: slowCallback(300 * time.Millisecond)}, "is handled 2 times"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			violations := test.s.simulate(t, 20).violations
			require.True(t, slices.ContainsFunc(violations, func(v string) bool { return strings.Contains(v, test.want) }),
				"it found %q, want %q", violations, test.want)
		})
	}
}
