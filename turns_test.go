package mailtrapwebhook_test

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// untilRetry is how long Mailtrap waits before it sends a delivery again.
const untilRetry = 5 * time.Minute

// numbered is a delivery of n events, whose ids are their places in it.
func numbered(n int) []byte {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = strconv.Itoa(i)
	}
	return bodyOf(ids...)
}

// A tally counts the calls for each event.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (l *tally) add(ev mw.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counts == nil {
		l.counts = make(map[string]int)
	}
	l.counts[idOf(ev)]++
}

func (l *tally) all() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.counts)
}

func TestEventsThatHangDoNotStarveTheOthers(t *testing.T) {
	t.Parallel()
	const events, attempts = 500, 3
	places := map[string]func(i int) bool{
		"in front":        func(i int) bool { return i < 10 },
		"five in front":   func(i int) bool { return i < 5 },
		"at the end":      func(i int) bool { return i >= events-10 },
		"in the middle":   func(i int) bool { return i >= 200 && i < 210 },
		"at both ends":    func(i int) bool { return i < 5 || i >= events-5 },
		"all over":        func(i int) bool { return i%50 == 0 },
		"in pairs":        func(i int) bool { return i%100 < 2 },
		"before the last": func(i int) bool { return i >= events-11 && i < events-1 },
	}
	for place, hangs := range places {
		for _, store := range []mw.Deduplicator{nil, mw.NoDedup} {
			for _, eventTimeout := range []time.Duration{0, 25 * time.Second} {
				for _, heeds := range []bool{true, false} {
					name := fmt.Sprintf("%s, store %t, EventTimeout %v, heeding the context %t",
						place, store == nil, eventTimeout, heeds)
					t.Run(name, func(t *testing.T) {
						bubble(t, func(t *testing.T) {
							var handled tally
							leave := make(chan struct{})
							rig := newRig(t, &mw.Handler{EventTimeout: eventTimeout, OnEvent: func(ctx context.Context, ev mw.Event) error {
								i, err := strconv.Atoi(idOf(ev))
								require.NoError(t, err)
								switch {
								case hangs(i) && heeds:
									<-ctx.Done()
									return ctx.Err()
								case hangs(i):
									<-leave
									return errBoom
								}
								time.Sleep(10 * time.Millisecond)
								if ctx.Err() == nil {
									handled.add(ev)
								}
								return ctx.Err()
							}})
							rig.h.Dedup = store
							for range attempts {
								began := time.Now()
								require.Equal(t, 500, rig.direct(numbered(events)).Status)
								require.Less(t, time.Since(began), 30*time.Second)
								time.Sleep(untilRetry)
							}
							counts := handled.all()
							for i := range events {
								n := counts[strconv.Itoa(i)]
								require.Equal(t, !hangs(i), n > 0, "event %d was handled %d times", i, n)
								require.False(t, store == nil && n > 1, "event %d was handled %d times", i, n)
							}
							close(leave)
							time.Sleep(time.Minute)
						})
					})
				}
			}
		}
	}
}

func TestEachAttemptReachesEventsThatTheOneBeforeDidNot(t *testing.T) {
	t.Parallel()
	for _, store := range []mw.Deduplicator{nil, mw.NoDedup} {
		for _, concurrency := range []int{1, 3} {
			t.Run(fmt.Sprintf("store %t, concurrency %d", store == nil, concurrency), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					var called tally
					rig := newRig(t, &mw.Handler{Concurrency: concurrency, OnEvent: func(ctx context.Context, ev mw.Event) error {
						called.add(ev)
						<-ctx.Done()
						return ctx.Err()
					}})
					rig.h.Dedup = store
					for reached := 0; reached < 500; {
						rig.direct(numbered(500))
						now := len(called.all())
						require.Greater(t, now, reached)
						reached = now
						time.Sleep(untilRetry)
					}
				})
			})
		}
	}
}

func TestSlowCallsAreAllMadeInTwoAttempts(t *testing.T) {
	for _, store := range []mw.Deduplicator{nil, mw.NoDedup} {
		t.Run(fmt.Sprintf("store %t", store == nil), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var handled tally
				rig := newRig(t, &mw.Handler{OnEvent: func(_ context.Context, ev mw.Event) error {
					time.Sleep(60 * time.Millisecond)
					handled.add(ev)
					return nil
				}})
				rig.h.Dedup = store
				require.Equal(t, 503, rig.direct(numbered(500)).Status)
				require.Equal(t, 1, rig.said.count("too slow to handle the whole delivery within Timeout"))
				rig.direct(numbered(500))
				require.Len(t, handled.all(), 500)
			})
		})
	}
}

// A callback that fails at once needs no more time, however short its share is.
func TestInstantFailureIsNoSlowness(t *testing.T) {
	for _, err := range []error{errBoom, mw.Permanent(errBoom)} {
		bubble(t, func(t *testing.T) {
			rig := newRig(t, &mw.Handler{Timeout: 5 * time.Second, OnEvent: func(_ context.Context, ev mw.Event) error {
				if idOf(ev) == "1" {
					return err
				}
				time.Sleep(time.Millisecond)
				return nil
			}})
			rig.direct(numbered(3))
			require.Zero(t, rig.said.count("too slow"))
		})
	}
}

// A call that needs its whole EventTimeout gets it in some attempt, even if
// every attempt reaches it last.
func TestSlowCallBehindHangingOnesGetsItsShare(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var handled tally
		rig := newRig(t, &mw.Handler{OnEvent: func(ctx context.Context, ev mw.Event) error {
			if i, _ := strconv.Atoi(idOf(ev)); i < 5 {
				<-ctx.Done()
				return ctx.Err()
			}
			select {
			case <-time.After(4 * time.Second):
				handled.add(ev)
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}})
		rig.h.Dedup = nil
		for range 3 {
			rig.direct(numbered(7))
			time.Sleep(untilRetry)
		}
		require.Len(t, handled.all(), 2)
	})
}

func TestFirstAttemptKeepsTheOrderOfTheBody(t *testing.T) {
	rig := newRig(t, &mw.Handler{})
	require.Equal(t, 200, rig.direct(numbered(50)).Status)
	require.Equal(t, 200, rig.direct(numbered(50)).Status)
	for i, id := range rig.handled() {
		require.Equal(t, strconv.Itoa(i%50), id)
	}
}

// Where every round of turns reaches the same call last, it still gets its
// whole share in some attempt.
func TestSlowCallAmongHangingOnesGetsItsShare(t *testing.T) {
	t.Parallel()
	for _, slow := range []string{"0", "4", "5", "9", "10", "14", "19"} {
		t.Run(slow, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var handled tally
				rig := newRig(t, &mw.Handler{OnEvent: func(ctx context.Context, ev mw.Event) error {
					wait := time.After(time.Hour)
					if idOf(ev) == slow {
						wait = time.After(3 * time.Second)
					}
					select {
					case <-wait:
						handled.add(ev)
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}})
				rig.h.Dedup = nil
				for range 100 { // it fails by chance once in a billion times
					rig.direct(numbered(20))
					time.Sleep(untilRetry)
				}
				require.Len(t, handled.all(), 1)
			})
		})
	}
}

// Calls that can never fit are said to be too slow, also if each had a turn.
func TestTooSlowIsSaid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rig := newRig(t, &mw.Handler{OnEvent: func(ctx context.Context, _ mw.Event) error {
			select {
			case <-time.After(4900 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}})
		rig.direct(numbered(7))
		require.Equal(t, 1, rig.said.count("OnEvent is too slow"))
	})
}

func TestPrintedHandlerShowsNoSignature(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rig := newRig(t, &mw.Handler{OnEvent: func(ctx context.Context, _ mw.Event) error { <-ctx.Done(); return ctx.Err() }})
		body := numbered(20)
		require.Equal(t, 500, rig.direct(body).Status, "so that it is remembered where the next attempt begins")
		for _, format := range []string{"%v", "%+v", "%#v"} {
			require.NotContains(t, fmt.Sprintf(format, rig.h), mw.Sign(body, testSecret))
		}
	})
}
