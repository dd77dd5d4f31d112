package mailtrapwebhook_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestOnDropSeesWhatIsDropped(t *testing.T) {
	reason := mw.Permanent(errBoom)
	rig := newRig(t, &mw.Handler{OnEvent: func(_ context.Context, ev mw.Event) error {
		if idOf(ev) == "bad" {
			return reason
		}
		return nil
	}})
	var dropped []string
	rig.h.OnDrop = func(ctx context.Context, ev mw.Event, err error) error {
		require.Same(t, reason, err, "it is the callback's own error")
		require.NoError(t, ctx.Err())
		require.Equal(t, "delivery/m-bad/bad", mw.KeyFromContext(ctx))
		dropped = append(dropped, idOf(ev))
		return nil
	}
	require.Equal(t, 200, rig.direct(bodyOf("a", "bad", "b")).Status)
	require.Equal(t, []string{"bad"}, dropped)
	require.Equal(t, 1, rig.last().Dropped)
	require.Equal(t, 1, rig.said.count("delivery/m-bad/bad"), "the log line names the message")
}

func TestOnDropIsCalledForEachEventOfADelivery(t *testing.T) {
	var mu sync.Mutex
	var dropped []string
	rig := newRig(t, &mw.Handler{
		OnDelivery:  deliveryReturning(mw.Permanent(errBoom)),
		Concurrency: 3,
		OnDrop: func(_ context.Context, ev mw.Event, _ error) error {
			mu.Lock()
			defer mu.Unlock()
			dropped = append(dropped, idOf(ev))
			return nil
		},
	})
	require.Equal(t, 200, rig.direct(bodyOf("a", "b", "c")).Status)
	require.ElementsMatch(t, []string{"a", "b", "c"}, dropped)
}

// Whatever OnDrop does, an event is acknowledged only if OnDrop returned nil.
func TestOnDropThatDoesNotReturnNil(t *testing.T) {
	for name, onDrop := range map[string]func(context.Context) error{
		"fails":           func(context.Context) error { return errBoom },
		"is permanent":    func(context.Context) error { return mw.Permanent(errBoom) },
		"panics":          func(context.Context) error { panic("boom") },
		"hangs":           func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"hangs for hours": func(context.Context) error { time.Sleep(3 * time.Hour); return errBoom },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := &recordingStore{}
				rig := newRig(t, &mw.Handler{
					Dedup:   store,
					OnEvent: eventReturning(mw.Permanent(errBoom)),
					OnDrop:  func(ctx context.Context, _ mw.Event, _ error) error { return onDrop(ctx) },
				})
				began := time.Now()
				require.Equal(t, 500, rig.direct(bodyOf("a", "b")).Status)
				require.Less(t, time.Since(began), 29500*time.Millisecond)
				require.Equal(t, 2, rig.last().Failed)
				require.Zero(t, rig.said.count(droppedLine))
				require.ErrorContains(t, rig.last().Err, "OnDrop failed, first for the event with key delivery/m-a/a")
				require.ErrorContains(t, rig.last().Err, "to be dropped because of: "+errBoom.Error())
				time.Sleep(4 * time.Hour)
				require.Empty(t, store.keysOf("Commit"))
			})
		})
	}
}

// An event that took all the time can still be dropped.
func TestOnDropHasTimeAfterTimeout(t *testing.T) {
	for _, timeout := range []time.Duration{0, 28 * time.Second, time.Second} {
		for _, heeds := range []bool{true, false} {
			t.Run(fmt.Sprintf("Timeout %v, heeding the context %t", timeout, heeds), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					dropped := 0
					store := &recordingStore{}
					rig := newRig(t, &mw.Handler{
						Dedup: store, Timeout: timeout, EventTimeout: time.Hour, GiveUpAfter: time.Hour,
						OnDelivery: func(ctx context.Context, _ *mw.Delivery) error {
							<-ctx.Done()
							if !heeds {
								time.Sleep(time.Minute)
							}
							return ctx.Err()
						},
						OnDrop: func(ctx context.Context, _ mw.Event, _ error) error {
							time.Sleep(100 * time.Millisecond)
							dropped++
							return ctx.Err()
						},
					})
					began := time.Now()
					require.Equal(t, 200, rig.direct(bodyOf("a", "b")).Status)
					require.Less(t, time.Since(began), 29500*time.Millisecond)
					require.Equal(t, 2, dropped)
					require.Len(t, store.keysOf("Commit"), 2)
					time.Sleep(time.Hour)
					require.Equal(t, 2, dropped, "what was dropped is not dropped again")
				})
			})
		}
	}
}

// A permanent error of an abandoned callback drops the event only if nobody is
// to be asked: OnDrop has had its time, and the retry may ask it.
func TestLatePermanentError(t *testing.T) {
	for _, test := range []struct {
		onDrop func(context.Context, mw.Event, error) error
		want   string
	}{
		{nil, "Commit"},
		{func(context.Context, mw.Event, error) error { t.Error("OnDrop was called"); return nil }, "Release"},
	} {
		bubble(t, func(t *testing.T) {
			store := &recordingStore{}
			rig := newRig(t, &mw.Handler{Dedup: store, OnDrop: test.onDrop, OnEvent: func(context.Context, mw.Event) error {
				time.Sleep(time.Minute)
				return mw.Permanent(errBoom)
			}})
			require.Equal(t, 500, rig.direct(bodyOf("a")).Status)
			require.Equal(t, []string{"Reserve"}, store.names(), "the callback still runs")
			time.Sleep(2 * time.Minute)
			require.Equal(t, []string{"Reserve", test.want}, store.names())
		})
	}
}

// OnDrop and OnEvent of one event may both be abandoned. Its lease stays until
// both have returned, and OnDrop is asked once.
func TestLeaseStaysWhileAnyCallbackRuns(t *testing.T) {
	for name, onDrop := range map[string]error{"agrees": nil, "refuses": errBoom} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := &recordingStore{}
				var asked atomic.Int32
				rig := newRig(t, &mw.Handler{
					Dedup: store, GiveUpAfter: time.Hour,
					OnEvent: func(context.Context, mw.Event) error { time.Sleep(31 * time.Second); return errBoom },
					OnDrop: func(context.Context, mw.Event, error) error {
						asked.Add(1)
						time.Sleep(40 * time.Second)
						return onDrop
					},
				})
				require.Equal(t, 500, rig.direct(bodyOf("a")).Status)
				time.Sleep(10 * time.Second)
				require.Equal(t, []string{"Reserve"}, store.names(), "OnDrop still runs")
				time.Sleep(time.Minute)
				want := "Commit"
				if onDrop != nil {
					want = "Release"
				}
				require.Equal(t, []string{"Reserve", want}, store.names())
				require.EqualValues(t, 1, asked.Load())
			})
		})
	}
}

// OnDrop calls take turns as OnEvent calls do.
func TestEveryDropGetsItsTurn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var dropped tally
		rig := newRig(t, &mw.Handler{
			OnEvent: eventReturning(mw.Permanent(errBoom)),
			OnDrop: func(ctx context.Context, ev mw.Event, _ error) error {
				if i, _ := strconv.Atoi(idOf(ev)); i < 10 {
					<-ctx.Done()
					return ctx.Err()
				}
				time.Sleep(60 * time.Millisecond)
				dropped.add(ev)
				return nil
			},
		})
		for range 3 {
			require.Equal(t, 500, rig.direct(numbered(200)).Status)
			time.Sleep(untilRetry)
		}
		require.Len(t, dropped.all(), 190)
	})
}

// Without OnDrop nobody is to be asked, and a mark comes as soon as any other.
func TestDroppedEventIsMarkedSoon(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := new(timedStore)
		began := time.Now()
		rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(_ context.Context, ev mw.Event) error {
			if idOf(ev) == "0" {
				return mw.Permanent(errBoom)
			}
			time.Sleep(time.Second)
			return nil
		}})
		require.Equal(t, 200, rig.direct(numbered(10)).Status)
		require.LessOrEqual(t, store.marked["delivery/m-0/0"].Sub(began), time.Second)
	})
}

// An event that succeeds while OnDrop refuses it is marked as handled.
func TestSuccessAfterADropThatWasRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := &recordingStore{}
		rig := newRig(t, &mw.Handler{
			Dedup: store, GiveUpAfter: time.Hour,
			OnEvent: func(context.Context, mw.Event) error { time.Sleep(time.Minute); return nil },
			OnDrop:  func(context.Context, mw.Event, error) error { return errors.New("no room") },
		})
		require.Equal(t, 500, rig.direct(bodyOf("a")).Status)
		require.Empty(t, store.keysOf("Release"), "the callback still runs")
		time.Sleep(2 * time.Minute)
		require.Equal(t, []string{"Reserve", "Commit"}, store.names())
	})
}
