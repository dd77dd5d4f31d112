package mailtrapwebhook_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// These four stores are wrong. The tests use them to show that the simulation
// notices.

// A markingStore marks events as handled when it reserves them.
type markingStore struct{ mw.Deduplicator }

func (s markingStore) Reserve(ctx context.Context, keys []string, lease time.Duration) ([]mw.Reservation, error) {
	answers, err := s.Deduplicator.Reserve(ctx, keys, lease)
	if err == nil {
		err = s.Deduplicator.Commit(ctx, keys)
	}
	return answers, err
}

// A forgettingStore forgets events when it commits them.
type forgettingStore struct{ mw.Deduplicator }

func (s forgettingStore) Commit(ctx context.Context, keys []string) error {
	return s.Release(ctx, keys)
}

// A sharingStore reserves one event for several deliveries.
type sharingStore struct{ mw.Deduplicator }

func (s sharingStore) Reserve(ctx context.Context, keys []string, lease time.Duration) ([]mw.Reservation, error) {
	answers, err := s.Deduplicator.Reserve(ctx, keys, lease)
	for i, answer := range answers {
		if answer == mw.Held {
			answers[i] = mw.Reserved
		}
	}
	return answers, err
}

// A deadStore cannot be reached.
type deadStore struct{ mw.Deduplicator }

func (s deadStore) Reserve(context.Context, []string, time.Duration) ([]mw.Reservation, error) {
	return nil, errStore
}

// A faultyStore is a store behind a network that fails. Faults come by the
// count of calls, so that every kind comes up in every run.
type faultyStore struct {
	mw.Deduplicator
	w     *world
	calls [3]atomic.Int64 // of Reserve, Commit and Release
}

func newFaultyStore(w *world, _ *process, d mw.Deduplicator) mw.Deduplicator {
	return &faultyStore{Deduplicator: d, w: w}
}

// call runs effect and fails before it, after it, or not at all.
func (s *faultyStore) call(ctx context.Context, method int, effect func() error) error {
	name := []string{"Reserve", "Commit", "Release"}[method]
	n := s.calls[method].Add(1)
	switch {
	case n%97 == 7:
		s.w.count(name + " hangs")
		<-ctx.Done()
		return ctx.Err()
	case n%37 == 5: // the store's client has a timeout of its own
		s.w.count(name + " times out")
		time.Sleep(10 * time.Millisecond)
		return context.DeadlineExceeded
	case n%23 == 3:
		s.w.count(name + " fails")
		return errStore
	}
	if err := effect(); err != nil {
		return err
	}
	if n%29 == 11 {
		s.w.count(name + "'s answer is lost")
		return errStore
	}
	return ctx.Err()
}

func (s *faultyStore) Reserve(ctx context.Context, keys []string, lease time.Duration) (answers []mw.Reservation, err error) {
	err = s.call(ctx, 0, func() (err error) {
		answers, err = s.Deduplicator.Reserve(ctx, keys, lease)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

func (s *faultyStore) Commit(ctx context.Context, keys []string) error {
	return s.call(ctx, 1, func() error { return s.Deduplicator.Commit(ctx, keys) })
}

func (s *faultyStore) Release(ctx context.Context, keys []string) error {
	return s.call(ctx, 2, func() error { return s.Deduplicator.Release(ctx, keys) })
}

// faultyCallback fails, panics, overruns and exits, now and then.
func faultyCallback(w *world, _ *process, _, _ int) error {
	time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	switch fate := rand.IntN(100); {
	case fate < 5:
		w.count("callback fails")
		return errBoom
	case fate < 7:
		w.count("callback panics")
		panic(errBoom)
	case fate < 8:
		w.count("callback overruns")
		time.Sleep(time.Duration(5+rand.IntN(20)) * time.Second)
		if rand.IntN(2) == 0 {
			return errBoom
		}
	case fate < 9:
		w.count("callback exits")
		runtime.Goexit()
	}
	return nil
}

// faultyNetwork breaks off bodies, hangs up, and sends batches twice.
func faultyNetwork(w *world, _ int, r *http.Request) (lost bool) {
	switch fate := rand.IntN(100); {
	case fate < 3:
		w.count("client breaks off")
		half := io.LimitReader(r.Body, r.ContentLength/2)
		r.Body = io.NopCloser(io.MultiReader(half, failingReader{io.ErrUnexpectedEOF}))
	case fate < 8:
		w.count("client hangs up")
		ctx, hangUp := context.WithCancel(r.Context())
		time.AfterFunc(time.Duration(rand.IntN(100))*time.Millisecond, hangUp)
		*r = *r.WithContext(ctx)
	case fate < 13:
		w.count("client sends twice")
		sendTwice(w, 0, r)
	}
	return false
}

// sendTwice has the receiver serve r at the same time as a copy of it.
func sendTwice(w *world, _ int, r *http.Request) (lost bool) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	twin := r.Clone(r.Context())
	twin.Body = io.NopCloser(bytes.NewReader(body))
	go w.serve(twin)
	return false
}

const faultBudget = 320 << 10 // room for five bodies, which is not always enough

// underFaults is a load under which everything goes wrong now and then. An
// event may come again where its commit failed.
func underFaults() scenario {
	traffic := sendingTraffic
	traffic.every = 2 * time.Second
	return scenario{
		traffic: traffic, network: faultyNetwork, callback: faultyCallback, store: newFaultyStore, times: math.MaxInt,
		handler: func(h *mw.Handler) {
			h.MaxBodyBytes, h.MaxInFlightBytes, h.Concurrency = faultBudget, faultBudget, 3
		},
	}
}

// Whatever fails: each event is handled, and not again once its commit has
// succeeded. Everything that a delivery took is given back.
func TestEveryEventIsHandledUnderFaults(t *testing.T) {
	t.Parallel()
	w := underFaults().simulate(t, sized(4_000, 300))
	t.Log(w.faults, w.said.count("MaxInFlightBytes"), "refused for memory")
	require.Empty(t, w.violations)
	require.Positive(t, w.said.count("MaxInFlightBytes"), "the load never reached the budget")
	for _, fault := range []string{
		"callback fails", "callback panics", "callback overruns", "callback exits",
		"client breaks off", "client hangs up", "client sends twice",
		"Reserve hangs", "Reserve times out", "Reserve fails", "Reserve's answer is lost",
		"Commit hangs", "Commit times out", "Commit fails", "Commit's answer is lost",
		"Release hangs", "Release times out", "Release fails", "Release's answer is lost",
		"answer 500", "answer 503",
	} {
		require.Positive(t, w.faults[fault], "the load lacks %q", fmt.Sprint(fault))
	}
}
