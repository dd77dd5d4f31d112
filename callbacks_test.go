package mailtrapwebhook_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

type occupancy struct {
	mu       sync.Mutex
	in, most int
}

func (g *occupancy) enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.in++
	g.most = max(g.most, g.in)
}

func (g *occupancy) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.in--
}

// Whatever happens to one event, OnEvent is called for the others.
func TestOnEventSeesEveryEvent(t *testing.T) {
	fates := map[string]func(ctx context.Context) error{
		"error":     func(context.Context) error { return errBoom },
		"permanent": func(context.Context) error { return mw.Permanent(errBoom) },
		"panic":     func(context.Context) error { panic(errBoom) },
		"nil panic": func(context.Context) error { var f func() error; return f() },
		"goexit":    func(context.Context) error { runtime.Goexit(); return nil },
		"overrun":   func(context.Context) error { time.Sleep(7 * time.Second); return nil },
		"timeout":   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	}
	for name, fate := range fates {
		for _, concurrency := range []int{0, 1, 3, 100} {
			t.Run(fmt.Sprintf("%s, %d at a time", name, concurrency), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					rig := newRig(t, &mw.Handler{Concurrency: concurrency})
					rig.h.OnEvent = func(ctx context.Context, ev mw.Event) error {
						rig.saw(ev)
						if strings.HasPrefix(idOf(ev), "bad") {
							return fate(ctx)
						}
						return nil
					}
					ids := []string{"bad1", "a", "bad2", "bad3", "b", "c"}
					got := rig.direct(bodyOf(ids...))
					if concurrency < 2 {
						require.Equal(t, ids, rig.handled(), "in order")
					}
					require.ElementsMatch(t, ids, rig.handled())
					report := rig.last()
					require.Equal(t, 3, report.Handled)
					if name == "permanent" {
						require.Equal(t, 200, got.Status)
						require.Equal(t, 3, report.Dropped)
						require.Equal(t, 3, rig.said.count(droppedLine), "each is logged")
					} else {
						require.Equal(t, 500, got.Status)
						require.Equal(t, 3, report.Failed)
					}
					if strings.HasSuffix(name, "panic") {
						require.Equal(t, 3, rig.said.count("_test.go"), "each panic is logged with its stack")
					}
					time.Sleep(time.Minute)
				})
			})
		}
	}
}

func TestOnEventConcurrency(t *testing.T) {
	ids := strings.Fields("a b c d e f g h i j k l")
	for concurrency, want := range map[int]int{0: 1, 1: 1, 3: 3, 12: 12, 50: 12} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var gate occupancy
				rig := newRig(t, &mw.Handler{Concurrency: concurrency, OnEvent: func(context.Context, mw.Event) error {
					gate.enter()
					defer gate.leave()
					time.Sleep(time.Second)
					return nil
				}})
				began := time.Now()
				require.Equal(t, 200, rig.direct(bodyOf(ids...)).Status)
				require.Equal(t, want, gate.most)
				require.Equal(t, time.Duration(len(ids)/want)*time.Second, time.Since(began))
			})
		})
	}
}

func TestLongestEventTimeout(t *testing.T) {
	gate := new(occupancy)
	rig := newRig(t, &mw.Handler{EventTimeout: 1<<63 - 1, OnEvent: func(context.Context, mw.Event) error {
		gate.enter()
		defer gate.leave()
		time.Sleep(time.Millisecond)
		return nil
	}})
	require.Equal(t, 200, rig.direct(bodyOf("a", "b", "c", "d")).Status)
	require.Equal(t, 1, gate.most)
}

func TestCallbackDeadlines(t *testing.T) {
	tests := []struct {
		name string
		h    *mw.Handler
		want []time.Duration // after the arrival; each call takes a second
	}{
		{"by default", &mw.Handler{}, []time.Duration{5 * time.Second, 6 * time.Second}},
		{"EventTimeout", &mw.Handler{EventTimeout: 3 * time.Second}, []time.Duration{3 * time.Second, 4 * time.Second}},
		{"the rest of Timeout", &mw.Handler{EventTimeout: 3 * time.Second, Timeout: 3500 * time.Millisecond},
			[]time.Duration{1750 * time.Millisecond, 3500 * time.Millisecond}},
		{"half of Timeout while another event waits", &mw.Handler{EventTimeout: time.Hour},
			[]time.Duration{12500 * time.Millisecond, 25 * time.Second}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var got []time.Duration
				began := time.Now()
				test.h.OnEvent = func(ctx context.Context, _ mw.Event) error {
					deadline, ok := ctx.Deadline()
					require.True(t, ok)
					got = append(got, deadline.Sub(began))
					time.Sleep(time.Second)
					return nil
				}
				require.Equal(t, 200, newRig(t, test.h).direct(bodyOf("a", "b")).Status)
				require.Equal(t, test.want, got)
			})
		})
	}
	for timeout, want := range map[time.Duration]time.Duration{0: 25 * time.Second, 28 * time.Second: 28 * time.Second} {
		t.Run(fmt.Sprintf("OnDelivery and OnMalformed, %s", timeout), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				began, calls := time.Now(), 0
				check := func(ctx context.Context) {
					calls++
					deadline, ok := ctx.Deadline()
					require.True(t, ok)
					require.Equal(t, want, deadline.Sub(began))
				}
				rig := newRig(t, &mw.Handler{
					Timeout:     timeout,
					OnDelivery:  func(ctx context.Context, _ *mw.Delivery) error { check(ctx); return nil },
					OnMalformed: func(ctx context.Context, _ *mw.Delivery, _ error) error { check(ctx); return nil },
				})
				require.Equal(t, 200, rig.direct(bodyOf("a")).Status)
				require.Equal(t, 200, rig.direct(brokenBody()).Status)
				require.Equal(t, 2, calls)
			})
		})
	}
}

type contextKey struct{}

// runOnEvent has OnEvent called for one event, in a request with a value. It
// returns the context that OnEvent got.
func runOnEvent(t *testing.T, wantErr error, onEvent func(ctx context.Context) error) (kept context.Context) {
	rig := newRig(t, &mw.Handler{OnEvent: func(ctx context.Context, _ mw.Event) error {
		kept = ctx
		return onEvent(ctx)
	}})
	want := 200
	if wantErr != nil {
		want = 500
	}
	answer := rig.direct(bodyOf("a"), func(r *http.Request) {
		*r = *r.WithContext(context.WithValue(r.Context(), contextKey{}, "of the request"))
	})
	require.Equal(t, want, answer.Status)
	require.ErrorIs(t, rig.last().Err, wantErr)
	return kept
}

func TestCallbackContextEnds(t *testing.T) {
	for name, wait := range map[string]func(ctx context.Context){
		"that is waited for": func(ctx context.Context) { <-ctx.Done() },
		"that has children":  func(ctx context.Context) { inner, cancel := context.WithCancel(ctx); <-inner.Done(); cancel() },
		"that is polled": func(ctx context.Context) {
			for ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
		},
	} {
		t.Run("with its time, one "+name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				began := time.Now()
				runOnEvent(t, context.DeadlineExceeded, func(ctx context.Context) error {
					wait(ctx)
					require.Equal(t, 5*time.Second, time.Since(began).Round(time.Second))
					require.Equal(t, context.DeadlineExceeded, context.Cause(ctx))
					return ctx.Err()
				})
			})
		})
	}
	for name, look := range map[string]func(ctx context.Context){
		"used":     func(ctx context.Context) { require.NoError(t, ctx.Err()) },
		"not used": func(context.Context) {},
	} {
		t.Run("with its callback, "+name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				kept := runOnEvent(t, nil, func(ctx context.Context) error {
					look(ctx)
					return nil
				})
				<-kept.Done()
				require.Equal(t, context.Canceled, kept.Err())
				require.Equal(t, context.Canceled, context.Cause(kept))
			})
		})
	}
	t.Run("before the next callback runs", func(t *testing.T) {
		var kept context.Context
		rig := newRig(t, &mw.Handler{OnEvent: func(ctx context.Context, _ mw.Event) error {
			if kept != nil {
				require.Equal(t, context.Canceled, kept.Err())
			}
			kept = ctx
			return nil
		}})
		require.Equal(t, 200, rig.direct(bodyOf("a", "b", "c")).Status)
	})
	t.Run("as canceled if its callback returned in time, even if first used later", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			var kept context.Context
			rig := newRig(t, &mw.Handler{EventTimeout: time.Second, OnEvent: func(ctx context.Context, _ mw.Event) error {
				if kept == nil {
					kept = ctx
					return nil
				}
				<-ctx.Done()
				time.Sleep(time.Millisecond)
				require.Equal(t, context.Canceled, kept.Err())
				return nil
			}})
			require.Equal(t, 200, rig.direct(bodyOf("a", "b")).Status)
		})
	})
	t.Run("as expired if its callback overran, even if first used later", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			kept := make(chan context.Context, 1)
			rig := newRig(t, &mw.Handler{EventTimeout: time.Second, OnEvent: func(ctx context.Context, _ mw.Event) error {
				kept <- ctx
				time.Sleep(time.Minute)
				return nil
			}})
			require.Equal(t, 500, rig.direct(bodyOf("a")).Status)
			require.Equal(t, context.DeadlineExceeded, (<-kept).Err())
			time.Sleep(time.Hour)
		})
	})
}

func TestCallbackContextIsOneOfPackageContext(t *testing.T) {
	t.Run("may be printed while another goroutine uses it", func(t *testing.T) {
		runOnEvent(t, nil, func(ctx context.Context) error {
			done := make(chan struct{})
			go func() {
				ctx.Done()
				close(done)
			}()
			require.NotEmpty(t, fmt.Sprint(ctx))
			<-done
			return nil
		})
	})
	t.Run("has the request's values", func(t *testing.T) {
		runOnEvent(t, nil, func(ctx context.Context) error {
			require.Equal(t, "of the request", ctx.Value(contextKey{}))
			require.NoError(t, ctx.Err())
			require.Equal(t, "of the request", ctx.Value(contextKey{}))
			return nil
		})
	})
	t.Run("has children without a goroutine", func(t *testing.T) {
		runOnEvent(t, nil, func(ctx context.Context) error {
			before := runtime.NumGoroutine()
			for range 100 {
				_, cancel := context.WithCancel(ctx)
				defer cancel()
			}
			require.Less(t, runtime.NumGoroutine(), before+50)
			return nil
		})
	})
}

// Mailtrap gives up after 30 seconds. The answer must come before, whatever the
// callbacks do.
func TestAnswerComesInTime(t *testing.T) {
	stay := func(context.Context) error { time.Sleep(time.Hour); return nil }
	onEvent := func(ctx context.Context, _ mw.Event) error { return stay(ctx) }
	sleepy := func(context.Context, mw.Event) error { time.Sleep(4010 * time.Millisecond); return nil }
	firstReturns := func(ctx context.Context, ev mw.Event) error {
		if idOf(ev) == "a" {
			return nil
		}
		return stay(ctx)
	}
	sound := bodyOf(strings.Fields("a b c d e f g h i j k l")...)
	tests := []struct {
		name string
		h    *mw.Handler
		body []byte
	}{
		{"OnEvent", &mw.Handler{OnEvent: onEvent}, sound},
		{"OnEvent with a long EventTimeout", &mw.Handler{OnEvent: onEvent, EventTimeout: time.Hour}, sound},
		{"OnEvent that nearly overruns", &mw.Handler{OnEvent: sleepy}, sound},
		{"OnDelivery", &mw.Handler{OnDelivery: func(ctx context.Context, _ *mw.Delivery) error { return stay(ctx) }}, sound},
		{"OnMalformed",
			&mw.Handler{OnMalformed: func(ctx context.Context, _ *mw.Delivery, _ error) error { return stay(ctx) }}, brokenBody()},
		{"Dedup", &mw.Handler{OnEvent: firstReturns, Dedup: &recordingStore{commit: stay, release: stay}}, sound},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				test.h.Timeout = 28 * time.Second
				rig := newRig(t, test.h)
				began := time.Now()
				require.GreaterOrEqual(t, rig.direct(test.body).Status, 500)
				require.Less(t, time.Since(began), 30*time.Second)
				time.Sleep(24 * time.Hour) // abandoned calls return
			})
		})
	}
}

func TestCallbackOutlivesTheClient(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	store := &recordingStore{}
	var ended error
	rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(ctx context.Context, ev mw.Event) error {
		close(entered)
		<-leave
		ended = ctx.Err()
		return nil
	}}).serve()
	clientGone := make(chan struct{})
	inner := rig.srv.Config.Handler
	rig.srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		context.AfterFunc(r.Context(), func() { close(clientGone) })
		inner.ServeHTTP(w, r)
	})
	conn := rig.dial(rawRequest("1.1", bodyOf("a"), len(bodyOf("a"))))
	<-entered
	conn.Close()
	<-clientGone
	close(leave)
	eventually(t, "Observe", func() bool { return len(rig.observed()) == 1 })
	require.NoError(t, ended)
	require.Equal(t, 1, rig.last().Handled)
	require.Equal(t, []string{"Reserve", "Commit"}, store.names(), "the store learns of it")
}
