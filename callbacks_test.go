package mailtrapwebhook_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// A hookCall is a call that a store got.
type hookCall struct {
	Name  string
	Keys  []string
	Lease time.Duration
}

// A hookStore is a store that writes down what it is asked. What has no function of its own goes to a working store.
type hookStore struct {
	mu      sync.Mutex
	calls   []hookCall
	ends    []context.Context
	working mw.MemoryDeduplicator

	reserve func(ctx context.Context, keys []string) ([]mw.Reservation, error)
	commit  func(ctx context.Context) error
	release func(ctx context.Context) error
}

func (s *hookStore) note(ctx context.Context, name string, keys []string, lease time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, hookCall{name, slices.Clone(keys), lease})
	s.ends = append(s.ends, ctx)
}

func (s *hookStore) Reserve(ctx context.Context, keys []string, lease time.Duration) ([]mw.Reservation, error) {
	s.note(ctx, "Reserve", keys, lease)
	if s.reserve != nil {
		return s.reserve(ctx, keys)
	}
	return s.working.Reserve(ctx, keys, lease)
}

func (s *hookStore) Commit(ctx context.Context, keys []string) error {
	s.note(ctx, "Commit", keys, 0)
	if s.commit != nil {
		return s.commit(ctx)
	}
	return s.working.Commit(ctx, keys)
}

func (s *hookStore) Release(ctx context.Context, keys []string) error {
	s.note(ctx, "Release", keys, 0)
	if s.release != nil {
		return s.release(ctx)
	}
	return s.working.Release(ctx, keys)
}

func (s *hookStore) called() []hookCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func (s *hookStore) names() (names []string) {
	for _, call := range s.called() {
		names = append(names, call.Name)
	}
	return names
}

func (s *hookStore) keysOf(name string) (keys [][]string) {
	for _, call := range s.called() {
		if call.Name == name {
			keys = append(keys, call.Keys)
		}
	}
	return keys
}

// hookGate lets callbacks in and says how many are in at a time.
type hookGate struct {
	mu       sync.Mutex
	in, most int
}

func (g *hookGate) enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.in++
	g.most = max(g.most, g.in)
}

func (g *hookGate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.in--
}

type emptyJoin struct{}

func (emptyJoin) Error() string   { return "nothing" }
func (emptyJoin) Unwrap() []error { return nil }

// Whatever becomes of one event, the callback sees the others.
func TestOnEventSeesEveryEvent(t *testing.T) {
	fates := map[string]func(ctx context.Context) error{
		"error":     func(context.Context) error { return errHook },
		"permanent": func(context.Context) error { return mw.Permanent(errHook) },
		"panic":     func(context.Context) error { panic(errHook) },
		"nil panic": func(context.Context) error { var f func() error; return f() },
		"goexit":    func(context.Context) error { runtime.Goexit(); return nil },
		"overrun":   func(context.Context) error { time.Sleep(7 * time.Second); return nil },
		"timeout":   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	}
	for name, fate := range fates {
		for _, concurrency := range []int{0, 1, 3, 100} {
			t.Run(fmt.Sprintf("%s, %d at a time", name, concurrency), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					rig := newHookRig(t, &mw.Handler{Concurrency: concurrency})
					rig.h.OnEvent = func(ctx context.Context, ev mw.Event) error {
						rig.saw(ev)
						if strings.HasPrefix(hookID(ev), "bad") {
							return fate(ctx)
						}
						return nil
					}
					ids := []string{"bad1", "a", "bad2", "bad3", "b", "c"}
					got := rig.direct(hookBody(ids...))
					if concurrency < 2 {
						require.Equal(t, ids, rig.handled(), "in order")
					}
					require.ElementsMatch(t, ids, rig.handled())
					report := rig.last()
					require.Equal(t, 3, report.Handled)
					if name == "permanent" {
						require.Equal(t, 200, got.Status)
						require.Equal(t, 3, report.Dropped)
						require.Equal(t, 3, rig.said.count("dropped: "), "each is logged")
					} else {
						require.Equal(t, 500, got.Status)
						require.Equal(t, 3, report.Failed)
					}
					if strings.HasSuffix(name, "panic") {
						require.Equal(t, 3, rig.said.count("callbacks_test.go"), "each panic is logged with its stack")
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
			synctest.Test(t, func(t *testing.T) {
				var gate hookGate
				rig := newHookRig(t, &mw.Handler{Concurrency: concurrency, OnEvent: func(context.Context, mw.Event) error {
					gate.enter()
					defer gate.leave()
					time.Sleep(time.Second)
					return nil
				}})
				began := time.Now()
				require.Equal(t, 200, rig.direct(hookBody(ids...)).Status)
				require.Equal(t, want, gate.most)
				require.Equal(t, time.Duration(len(ids)/want)*time.Second, time.Since(began))
			})
		})
	}
}

func TestCallbackDeadlines(t *testing.T) {
	tests := []struct {
		name string
		h    *mw.Handler
		want []time.Duration // from the arrival, for events that take a second each
	}{
		{"by default", &mw.Handler{}, []time.Duration{5 * time.Second, 6 * time.Second}},
		{"EventTimeout", &mw.Handler{EventTimeout: 3 * time.Second}, []time.Duration{3 * time.Second, 4 * time.Second}},
		{"the rest of Timeout", &mw.Handler{EventTimeout: 3 * time.Second, Timeout: 3500 * time.Millisecond},
			[]time.Duration{3 * time.Second, 3500 * time.Millisecond}},
		{"EventTimeout over Timeout", &mw.Handler{EventTimeout: time.Hour}, []time.Duration{25 * time.Second, 25 * time.Second}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []time.Duration
				began := time.Now()
				test.h.OnEvent = func(ctx context.Context, _ mw.Event) error {
					deadline, ok := ctx.Deadline()
					require.True(t, ok)
					got = append(got, deadline.Sub(began))
					time.Sleep(time.Second)
					return nil
				}
				require.Equal(t, 200, newHookRig(t, test.h).direct(hookBody("a", "b")).Status)
				require.Equal(t, test.want, got)
			})
		})
	}
	for timeout, want := range map[time.Duration]time.Duration{0: 25 * time.Second, 28 * time.Second: 28 * time.Second} {
		t.Run(fmt.Sprintf("OnDelivery and OnMalformed, %s", timeout), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, calls := time.Now(), 0
				check := func(ctx context.Context) {
					calls++
					deadline, ok := ctx.Deadline()
					require.True(t, ok)
					require.Equal(t, want, deadline.Sub(began))
				}
				rig := newHookRig(t, &mw.Handler{
					Timeout:     timeout,
					OnDelivery:  func(ctx context.Context, _ *mw.Delivery) error { check(ctx); return nil },
					OnMalformed: func(ctx context.Context, _ *mw.Delivery, _ error) error { check(ctx); return nil },
				})
				require.Equal(t, 200, rig.direct(hookBody("a")).Status)
				require.Equal(t, 200, rig.direct(hookBroken()).Status)
				require.Equal(t, 2, calls)
			})
		})
	}
}

func TestCallbackContext(t *testing.T) {
	type key struct{}
	run := func(t *testing.T, wantErr error, onEvent func(ctx context.Context) error) (kept context.Context) {
		rig := newHookRig(t, &mw.Handler{OnEvent: func(ctx context.Context, _ mw.Event) error {
			kept = ctx
			return onEvent(ctx)
		}})
		status := map[bool]int{true: 200, false: 500}[wantErr == nil]
		answer := rig.direct(hookBody("a"), func(r *http.Request) {
			*r = *r.WithContext(context.WithValue(r.Context(), key{}, "of the request"))
		})
		require.Equal(t, status, answer.Status)
		require.ErrorIs(t, rig.last().Err, wantErr)
		return kept
	}
	for name, wait := range map[string]func(ctx context.Context){
		"that is looked at":   func(ctx context.Context) { <-ctx.Done() },
		"that others hang on": func(ctx context.Context) { inner, cancel := context.WithCancel(ctx); <-inner.Done(); cancel() },
		"that is asked again and again": func(ctx context.Context) {
			for ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
		},
	} {
		t.Run("ends with its time, one "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				run(t, context.DeadlineExceeded, func(ctx context.Context) error {
					wait(ctx)
					require.Equal(t, 5*time.Second, time.Since(began).Round(time.Second))
					require.Equal(t, context.DeadlineExceeded, context.Cause(ctx))
					return ctx.Err()
				})
			})
		})
	}
	for name, look := range map[string]func(ctx context.Context){
		"looked at":     func(ctx context.Context) { require.NoError(t, ctx.Err()) },
		"not looked at": func(context.Context) {},
	} {
		t.Run("ends with its callback, "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kept := run(t, nil, func(ctx context.Context) error {
					look(ctx)
					return nil
				})
				<-kept.Done()
				require.Equal(t, context.Canceled, kept.Err())
				require.Equal(t, context.Canceled, context.Cause(kept))
			})
		})
	}
	t.Run("has ended when the next callback runs", func(t *testing.T) {
		var kept context.Context
		rig := newHookRig(t, &mw.Handler{OnEvent: func(ctx context.Context, _ mw.Event) error {
			if kept != nil {
				require.Equal(t, context.Canceled, kept.Err())
			}
			kept = ctx
			return nil
		}})
		require.Equal(t, 200, rig.direct(hookBody("a", "b", "c")).Status)
	})
	t.Run("was canceled if its callback returned in time, whenever it is looked at", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var kept context.Context
			rig := newHookRig(t, &mw.Handler{EventTimeout: time.Second, OnEvent: func(ctx context.Context, _ mw.Event) error {
				if kept == nil {
					kept = ctx
					return nil
				}
				<-ctx.Done()
				time.Sleep(time.Millisecond)
				require.Equal(t, context.Canceled, kept.Err())
				return nil
			}})
			require.Equal(t, 200, rig.direct(hookBody("a", "b")).Status)
		})
	})
	t.Run("ended with its time if its callback overran, whenever it is looked at", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kept := make(chan context.Context, 1)
			rig := newHookRig(t, &mw.Handler{EventTimeout: time.Second, OnEvent: func(ctx context.Context, _ mw.Event) error {
				kept <- ctx
				time.Sleep(time.Minute)
				return nil
			}})
			require.Equal(t, 500, rig.direct(hookBody("a")).Status)
			require.Equal(t, context.DeadlineExceeded, (<-kept).Err())
			time.Sleep(time.Hour)
		})
	})
	t.Run("may be printed while it is looked at", func(t *testing.T) {
		run(t, nil, func(ctx context.Context) error {
			done := make(chan struct{})
			go func() {
				ctx.Done()
				close(done)
			}()
			require.Contains(t, fmt.Sprint(ctx), "WithDeadline")
			<-done
			return nil
		})
	})
	t.Run("has the request's values", func(t *testing.T) {
		run(t, nil, func(ctx context.Context) error {
			require.Equal(t, "of the request", ctx.Value(key{}))
			require.NoError(t, ctx.Err())
			require.Equal(t, "of the request", ctx.Value(key{}))
			return nil
		})
	})
	t.Run("is hung on without a goroutine", func(t *testing.T) {
		run(t, nil, func(ctx context.Context) error {
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

// Mailtrap gives up after 30 seconds, so that the answer must come before, whatever the callbacks do.
func TestAnswerComesInTime(t *testing.T) {
	forever := func(leave chan struct{}) error { <-leave; return nil }
	for _, kind := range []string{"OnEvent", "OnEvent with a long EventTimeout", "OnDelivery", "OnMalformed", "sleepy OnEvent", "Dedup"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				leave := make(chan struct{})
				defer close(leave)
				h, body, want := &mw.Handler{Timeout: 28 * time.Second}, hookBody(strings.Fields("a b c d e f g h i j k l")...), 500
				switch kind {
				case "OnEvent with a long EventTimeout":
					h.EventTimeout = time.Hour
					fallthrough
				case "OnEvent":
					h.OnEvent = func(context.Context, mw.Event) error { return forever(leave) }
				case "OnDelivery":
					h.OnDelivery = func(context.Context, *mw.Delivery) error { return forever(leave) }
				case "OnMalformed":
					h.OnMalformed = func(context.Context, *mw.Delivery, error) error { return forever(leave) }
					body = hookBroken()
				case "sleepy OnEvent":
					// the last that begins ends in the time that one is granted after its context
					h.OnEvent = func(context.Context, mw.Event) error { time.Sleep(4010 * time.Millisecond); return nil }
					want = 503
				case "Dedup":
					hang := func(context.Context) error { return forever(leave) }
					h.Dedup = &hookStore{commit: hang, release: hang}
					h.OnEvent = func(_ context.Context, ev mw.Event) error {
						if hookID(ev) == "a" {
							return nil
						}
						return forever(leave)
					}
				}
				rig := newHookRig(t, h)
				began := time.Now()
				require.Equal(t, want, rig.direct(body).Status)
				require.Less(t, time.Since(began), 30*time.Second)
				if kind != "Dedup" && kind != "OnMalformed" && kind != "OnDelivery" {
					require.Positive(t, rig.last().Unstarted, "there was no time for the last")
				}
			})
		})
	}
}

func TestCallbackOutlivesTheClient(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	store := &hookStore{}
	var ended error
	rig := newHookRig(t, &mw.Handler{Dedup: store, OnEvent: func(ctx context.Context, ev mw.Event) error {
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
	conn := rig.dial(hookRaw("1.1", hookBody("a"), len(hookBody("a"))))
	<-entered
	conn.Close()
	<-clientGone
	close(leave)
	hookWait(t, "Observe", func() bool { return len(rig.observed()) == 1 })
	require.NoError(t, ended)
	require.Equal(t, 1, rig.last().Handled)
	require.Equal(t, []string{"Reserve", "Commit"}, store.names(), "what is handled is remembered")
}

func TestPermanent(t *testing.T) {
	require.NoError(t, mw.Permanent(nil))
	err := mw.Permanent(errHook)
	require.ErrorIs(t, err, errHook)
	require.ErrorContains(t, err, errHook.Error())

	tests := []struct {
		name    string
		onEvent func(context.Context, mw.Event) error
		want    int
	}{
		{"nil", eventReturning(mw.Permanent(nil)), 200},
		{"wrapped", eventReturning(fmt.Errorf("x: %w", mw.Permanent(errHook))), 200},
		{"joined, all of them permanent", eventReturning(errors.Join(mw.Permanent(errHook), mw.Permanent(errHook))), 200},
		{"joined with one that is not", eventReturning(errors.Join(mw.Permanent(errHook), errHook)), 500},
		{"an empty join", eventReturning(emptyJoin{}), 500},
		{"after EventTimeout", func(ctx context.Context, _ mw.Event) error { <-ctx.Done(); return mw.Permanent(ctx.Err()) }, 200},
		{"a panic is a failure, whatever its value", func(context.Context, mw.Event) error { panic(mw.Permanent(errHook)) }, 500},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &hookStore{}
				rig := newHookRig(t, &mw.Handler{Dedup: store, OnEvent: test.onEvent})
				require.Equal(t, test.want, rig.direct(hookBody("a")).Status)
				if test.want == 200 {
					require.Equal(t, []string{"Reserve", "Commit"}, store.names())
				} else {
					require.Equal(t, []string{"Reserve", "Release"}, store.names())
				}
			})
		})
	}
}

func TestGiveUpAfter(t *testing.T) {
	aged := func(age time.Duration) string {
		return fmt.Sprintf(`{"event":"delivery","message_id":"m","event_id":"e","timestamp":%d}`, time.Now().Add(-age).Unix())
	}
	overrun := func(context.Context, mw.Event) error { time.Sleep(time.Minute); return nil }
	tests := []struct {
		name    string
		after   time.Duration
		event   func() string
		onEvent func(context.Context, mw.Event) error
		want    int
	}{
		{"never by default", 0, func() string { return aged(1000 * time.Hour) }, eventReturning(errHook), 500},
		{"younger", time.Hour, func() string { return aged(59 * time.Minute) }, eventReturning(errHook), 500},
		{"older", time.Hour, func() string { return aged(61 * time.Minute) }, eventReturning(errHook), 200},
		{"older and panicking", time.Hour, func() string { return aged(61 * time.Minute) },
			func(context.Context, mw.Event) error { panic(errHook) }, 200},
		{"older and overrunning", time.Hour, func() string { return aged(61 * time.Minute) }, overrun, 200},
		{"without a time", time.Hour, func() string { return `{"event":"delivery","event_id":"e"}` }, eventReturning(errHook), 500},
		{"from the future", time.Hour, func() string { return aged(-61 * time.Minute) }, eventReturning(errHook), 500},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rig := newHookRig(t, &mw.Handler{GiveUpAfter: test.after, OnEvent: test.onEvent})
				require.Equal(t, test.want, rig.direct(hookEnvelope(test.event())).Status)
				if test.want == 200 {
					require.Equal(t, 1, rig.last().Dropped)
					require.Equal(t, 1, rig.said.count("dropped: "), "it is logged")
				}
				time.Sleep(time.Hour)
			})
		})
	}
}

func TestOnDelivery(t *testing.T) {
	store := &hookStore{}
	var got []*mw.Delivery
	var result error
	rig := newHookRig(t, &mw.Handler{
		Verifier: hookVerifier(t, "another", hookSecret),
		Dedup:    store,
		OnDelivery: func(_ context.Context, d *mw.Delivery) error {
			got = append(got, d)
			return result
		},
	}).serve()
	began := time.Now()
	body := hookEnvelope(hookEvent("a"), hookAudit, hookEvent("b"))
	require.Equal(t, 200, rig.post(body, hookQuery("q=1"), hookHeader("X-Test", "x")).Status)
	require.Len(t, got, 1)
	d := got[0]
	require.Equal(t, body, d.Body)
	require.Equal(t, []string{"a", "activity_log.user.updated", "b"}, hookIDs(d.Events))
	require.Equal(t, store.keysOf("Reserve")[0], d.Keys, "the keys are those that are reserved")
	require.Equal(t, d.Events[0].Key(), d.Keys[0])
	require.NotEqual(t, d.Events[1].Key(), d.Keys[1])
	require.Contains(t, d.Keys[1], d.Events[1].Key())
	require.Equal(t, mw.FormatJSON, d.Format)
	require.Equal(t, 1, d.Secret)
	require.Zero(t, d.Duplicates)
	require.WithinRange(t, d.ReceivedAt, began, time.Now())
	require.True(t, d.Request.Body == http.NoBody)
	require.Equal(t, "q=1", d.Request.URL.RawQuery)
	require.Equal(t, "x", d.Request.Header.Get("X-Test"))
	require.Equal(t, 3, rig.last().Handled)

	more := []byte(hookEvent("a") + "\n" + hookEvent("c") + "\n")
	require.Equal(t, 200, rig.post(more).Status)
	require.Len(t, got, 2)
	require.Equal(t, mw.FormatJSONLines, got[1].Format)
	require.Equal(t, []string{"c"}, hookIDs(got[1].Events), "only what is new")
	require.Equal(t, []string{got[1].Events[0].Key()}, got[1].Keys)
	require.Equal(t, 1, got[1].Duplicates)

	require.Equal(t, 200, rig.post(body).Status)
	require.Equal(t, 200, rig.post([]byte(`{"events":[]}`)).Status)
	require.Len(t, got, 2, "nothing new, no call")

	result = errHook
	require.Equal(t, 500, rig.post(hookBody("d", "e", "a")).Status)
	require.Equal(t, 2, rig.last().Failed)
	result = mw.Permanent(errHook)
	require.Equal(t, 200, rig.post(hookBody("d", "e")).Status)
	require.Equal(t, []string{"d", "e"}, hookIDs(got[3].Events), "an error releases all")
	require.Equal(t, 2, rig.last().Dropped)
	require.Equal(t, 200, rig.post(hookBody("d", "e")).Status)
	require.Len(t, got, 4, "a Permanent error commits all")
}

func TestDeliveryKeysWithoutDedup(t *testing.T) {
	var keys []string
	rig := newHookRig(t, &mw.Handler{Scope: func(*http.Request) string { return "tenant" },
		OnDelivery: func(_ context.Context, d *mw.Delivery) error { keys = d.Keys; return nil }})
	require.Equal(t, 200, rig.direct(hookEnvelope(hookEvent("a"), hookAudit, hookAudit, hookEvent("b"), hookEvent("b"))).Status)
	require.Len(t, keys, 5)
	slices.Sort(keys)
	require.Len(t, slices.Compact(keys), 5, "equal events have keys of their own")
	for _, key := range keys {
		require.True(t, strings.HasPrefix(key, "tenant"), key)
	}
}

func TestDeliveryKeysAreThoseOfTheEvents(t *testing.T) {
	var all []string
	for _, test := range bodies {
		all = append(all, test.body)
	}
	for _, test := range decodable {
		all = append(all, `{"events":[`+test.json+`]}`)
	}
	for _, ids := range []string{`"message_id":"a","event_id":"b"`, `"message_id":"\u0061\"","event_id":"\\"`, `"message_id":1,"event_id":-0.5e1`,
		`"message_id":null,"event_id":"b"`, `"message_id":"a"`, `"message_id":"a","message_id":"b","event_id":"c"`, `"event_id":"` + "\xff" + `","message_id":"é"`,
		`"message_id":{},"event_id":"b"`, `"message_id":true,"message_id":"a","event_id":"b"`, `"message_id":"a","event_id":"b","message_id":null`,
		`"\u006dessage_id":"a","event_id":"b"`, `"MESSAGE_ID":"a","event_id":"b"`, `"message_id":"","event_id":"b"`} {
		all = append(all, `{"event":"open",`+ids+`}`, "{\"events\":[{"+ids+`,"event":"open"}]}`+"\n"+opened)
	}
	keys := 0
	for _, body := range all {
		rig := newHookRig(t, &mw.Handler{OnDelivery: func(_ context.Context, d *mw.Delivery) error {
			require.Len(t, d.Keys, len(d.Events))
			for i, ev := range d.Events {
				keys++
				require.True(t, strings.HasPrefix(d.Keys[i], ev.Key()), body)
				twin := slices.ContainsFunc(d.Events, func(other mw.Event) bool { return other != ev && other.Key() == ev.Key() })
				switch ev.(type) {
				case *mw.SendingWebhookEvent, *mw.InboundWebhookEvent:
					require.Equal(t, twin, d.Keys[i] != ev.Key(), body)
				default:
					require.NotEqual(t, ev.Key(), d.Keys[i], "two audit-log entries may be equal")
				}
			}
			return nil
		}})
		rig.direct([]byte(body))
	}
	require.Greater(t, keys, 150)
}

// What a callback does to its Delivery is its own affair: nil commits all, an error releases all.
func TestOnDeliveryMayAlterItsDelivery(t *testing.T) {
	for want, result := range map[string]error{"Commit": nil, "Release": errHook} {
		t.Run(want, func(t *testing.T) {
			store := &hookStore{}
			rig := newHookRig(t, &mw.Handler{Dedup: store, OnDelivery: func(_ context.Context, d *mw.Delivery) error {
				slices.Reverse(d.Events)
				clear(d.Keys)
				d.Events, d.Keys, d.Body = append(d.Events[:1], d.Events...), nil, nil
				return result
			}})
			status := 200
			if result != nil {
				status = 500
			}
			require.Equal(t, status, rig.direct(hookBody("a", "b", "c")).Status)
			require.Equal(t, store.keysOf("Reserve"), store.keysOf(want))
		})
	}
}

// A Body that a callback got is its own, whatever comes afterwards.
func TestBodyStaysAsItWas(t *testing.T) {
	var got, want []string
	var kept [][]byte
	keep := func(d *mw.Delivery) error {
		kept = append(kept, d.Body)
		return nil
	}
	onDelivery := newHookRig(t, &mw.Handler{OnDelivery: func(_ context.Context, d *mw.Delivery) error { return keep(d) }})
	onMalformed := newHookRig(t, &mw.Handler{OnMalformed: func(_ context.Context, d *mw.Delivery, _ error) error { return keep(d) }})
	onEvent := newHookRig(t, &mw.Handler{})
	for i := range 50 {
		id := fmt.Sprint(i)
		whole, broken := hookPadded(id, 2000), append(hookPadded(id, 1999), '!')
		require.Equal(t, 200, onDelivery.direct(whole).Status)
		require.Equal(t, 200, onMalformed.direct(broken).Status)
		for range 3 {
			require.Equal(t, 200, onEvent.direct(hookPadded("later", 2000)).Status)
		}
		want = append(want, string(whole), string(broken))
	}
	for _, body := range kept {
		got = append(got, string(body))
	}
	require.Equal(t, want, got)
}

func TestOnDeliveryOverruns(t *testing.T) {
	for want, result := range map[string]error{"Commit": nil, "Release": errHook} {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &hookStore{}
				leave := make(chan struct{})
				rig := newHookRig(t, &mw.Handler{Dedup: store, OnDelivery: func(context.Context, *mw.Delivery) error {
					<-leave
					return result
				}})
				require.Equal(t, 500, rig.direct(hookBody("a", "b")).Status)
				require.Equal(t, 2, rig.last().Failed)
				require.Equal(t, []string{"Reserve"}, store.names(), "nothing is released while the callback runs")
				require.Equal(t, 503, rig.direct(hookBody("a", "b")).Status)
				require.Equal(t, 2, rig.last().Held)
				close(leave)
				synctest.Wait()
				require.Equal(t, store.keysOf("Reserve")[:1], store.keysOf(want))
			})
		})
	}
}

func TestOnMalformed(t *testing.T) {
	tests := []struct {
		name   string
		result func(fault error) error
		want   int
	}{
		{"takes it", func(error) error { return nil }, 200},
		{"fails for good", func(error) error { return mw.Permanent(errHook) }, 200},
		{"fails for good with the fault", mw.Permanent, 200},
		{"returns the fault", func(fault error) error { return fault }, 422},
		{"returns another error", func(error) error { return errHook }, 500},
		{"panics", func(error) error { panic(errHook) }, 500},
		{"panics with the fault", func(fault error) error { panic(fault) }, 500},
		{"panics with a Permanent error", func(error) error { panic(mw.Permanent(errHook)) }, 500},
		{"exits", func(error) error { runtime.Goexit(); return nil }, 500},
		{"overruns", func(error) error { time.Sleep(time.Minute); return nil }, 500},
	}
	for _, callback := range []string{"OnEvent", "OnDelivery"} {
		for _, test := range tests {
			t.Run(callback+"/"+test.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := &hookStore{}
					var got *mw.Delivery
					var fault error
					h := &mw.Handler{Dedup: store, OnMalformed: func(_ context.Context, d *mw.Delivery, err error) error {
						got, fault = d, err
						return test.result(err)
					}}
					if callback == "OnDelivery" {
						h.OnDelivery = func(context.Context, *mw.Delivery) error { t.Error("OnDelivery was called"); return nil }
					}
					rig := newHookRig(t, h)
					require.Equal(t, test.want, rig.direct(hookBroken()).Status)
					synctest.Wait()
					require.Equal(t, test.want, rig.last().Status)
					require.Empty(t, rig.handled(), "no event is handed out")
					require.Equal(t, hookBroken(), got.Body)
					require.Equal(t, []string{"a", "b"}, hookIDs(got.Events), "those before the fault")
					require.Len(t, got.Keys, 2)
					require.Equal(t, mw.FormatJSON, got.Format)
					require.True(t, got.Request.Body == http.NoBody)
					var decodeError *mw.DecodeError
					require.ErrorAs(t, fault, &decodeError)
					require.NotContains(t, store.names(), "Commit")

					got = nil
					require.Equal(t, 400, rig.direct(hookBroken(), hookForged).Status)
					require.Nil(t, got, "a forged body is never handed out")
					time.Sleep(time.Hour)
				})
			})
		}
	}
	t.Run("is not called for a sound body", func(t *testing.T) {
		rig := newHookRig(t, &mw.Handler{OnMalformed: func(context.Context, *mw.Delivery, error) error {
			t.Error("OnMalformed was called")
			return nil
		}}).serve()
		require.Equal(t, 200, rig.post(hookEnvelope(`7`, `{"event":3}`)).Status)
		require.Equal(t, 200, rig.post([]byte("{\"event\":\"x\"}\nnot JSON\n{\"event\":\"y\"}")).Status)
	})
}

func TestRetriesAreRecognised(t *testing.T) {
	twin := `{"event":"delivery","message_id":"other","event_id":"a","timestamp":1716070000}`
	tests := []struct {
		name   string
		bodies [][]byte
		want   []int // events handled of each
	}{
		{"a retry", [][]byte{hookBody("a", "b"), hookBody("a", "b")}, []int{2, 0}},
		{"the same event in another body", [][]byte{hookBody("a"), hookBody("b", "a")}, []int{1, 1}},
		{"the same event in the other format", [][]byte{hookBody("a"), []byte(hookEvent("a"))}, []int{1, 0}},
		{"one event_id, different events", [][]byte{hookEnvelope(hookEvent("a"), twin), hookEnvelope(twin, hookEvent("a"))}, []int{2, 0}},
		{"one event_id, different events, two bodies", [][]byte{hookBody("a"), hookEnvelope(twin)}, []int{1, 1}},
		{"equal audit entries in one body", [][]byte{hookEnvelope(hookAudit, hookAudit), hookEnvelope(hookAudit, hookAudit)}, []int{2, 0}},
		{"equal audit entries in two bodies",
			[][]byte{hookEnvelope(hookAudit), hookEnvelope(hookAudit, `{"event":"x"}`), hookEnvelope(hookAudit), hookEnvelope(hookAudit, `{"event":"x"}`)},
			[]int{1, 2, 0, 0}},
		{"equal unknown events", [][]byte{hookEnvelope("7", "7", "7"), hookEnvelope("7"), hookEnvelope("7", "7", "7")}, []int{3, 1, 0}},
		{"equal keys in one body", [][]byte{hookBody("a", "a", "b"), hookBody("a", "a", "b")}, []int{3, 0}},
		{"inbound mail with another event_id", [][]byte{
			hookEnvelope(`{"event":"inbound.message_received","event_id":"1","inbox_id":1,"message_id":"m"}`),
			hookEnvelope(`{"event":"inbound.message_received","event_id":"2","inbox_id":1,"message_id":"m"}`),
			hookEnvelope(`{"event":"inbound.message_received","event_id":"1","inbox_id":2,"message_id":"m"}`)}, []int{1, 0, 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rig := newHookRig(t, &mw.Handler{Dedup: mw.NewMemoryDeduplicator(0, 0)}).serve()
			for i, body := range test.bodies {
				before := len(rig.handled())
				require.Equal(t, 200, rig.post(body).Status)
				require.Equal(t, test.want[i], rig.last().Handled, "body %d", i)
				require.Equal(t, rig.last().Events-test.want[i], rig.last().Duplicates)
				require.Len(t, rig.handled(), before+test.want[i])
			}
		})
	}
}

func TestWithoutDedupRetriesAreHandledAgain(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{}).serve()
	rig.post(hookBody("a"))
	rig.post(hookBody("a"))
	require.Equal(t, []string{"a", "a"}, rig.handled())
}

func TestRetryHandlesWhatFailed(t *testing.T) {
	failing := true
	rig := newHookRig(t, &mw.Handler{Dedup: mw.NewMemoryDeduplicator(0, 0)})
	rig.h.OnEvent = func(_ context.Context, ev mw.Event) error {
		rig.saw(ev)
		if failing && (hookID(ev) == "b" || hookID(ev) == "d") {
			return errHook
		}
		return nil
	}
	rig.serve()
	require.Equal(t, 500, rig.post(hookBody("a", "b", "c", "d")).Status)
	require.Equal(t, []string{"a", "b", "c", "d"}, rig.handled())
	failing = false
	require.Equal(t, 200, rig.post(hookBody("a", "b", "c", "d")).Status)
	require.Equal(t, []string{"a", "b", "c", "d", "b", "d"}, rig.handled())
	require.Equal(t, 200, rig.post(hookBody("a", "b", "c", "d")).Status)
	require.Len(t, rig.handled(), 6)
}

func TestHeldEvents(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{Dedup: mw.NewMemoryDeduplicator(0, 0)})
	free := rig.hog(300)
	require.Equal(t, 503, rig.post(hookBody("a", "hog", "b")).Status)
	require.Equal(t, []string{"a", "b"}, rig.handled(), "the others are done")
	require.Equal(t, 1, rig.last().Held)
	require.Equal(t, 2, rig.last().Handled)
	free()
	require.Equal(t, 200, rig.post(hookBody("a", "hog", "b")).Status)
	require.Equal(t, 3, rig.last().Duplicates, "the retry finds it handled")
	require.Len(t, rig.handled(), 2)
}

func TestFailureBeatsHeld(t *testing.T) {
	rig := newHookRig(t, &mw.Handler{Dedup: mw.NewMemoryDeduplicator(0, 0), OnEvent: eventReturning(errHook)})
	free := rig.hog(300)
	defer free()
	require.Equal(t, 500, rig.post(hookBody("a", "hog")).Status)
}

func TestDedupCalls(t *testing.T) {
	fate := func(_ context.Context, ev mw.Event) error {
		if strings.HasPrefix(hookID(ev), "bad") {
			return errHook
		}
		return nil
	}
	tests := []struct {
		name  string
		body  []byte
		edits []hookEdit
		want  []string
	}{
		{"handled", hookBody("a", "b", "c"), nil, []string{"Reserve 3", "Commit 3"}},
		{"failed", hookBody("bad1", "bad2"), nil, []string{"Reserve 2", "Release 2"}},
		{"both", hookBody("bad1", "a", "bad2", "b", "c"), nil, []string{"Reserve 5", "Commit 3", "Release 2"}},
		{"nothing", []byte(`{"events":[]}`), nil, nil},
		{"broken", hookBroken(), nil, nil},
		{"forged", hookBody("a"), []hookEdit{hookForged}, nil},
		{"unsigned", hookBody("a"), []hookEdit{hookUnsigned}, nil},
		{"GET", hookBody("a"), []hookEdit{hookMethod("GET")}, nil},
	}
	for _, test := range tests {
		for _, concurrency := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s, %d at a time", test.name, concurrency), func(t *testing.T) {
				store := &hookStore{}
				rig := newHookRig(t, &mw.Handler{Dedup: store, OnEvent: fate, Concurrency: concurrency, Timeout: 11 * time.Second}).serve()
				rig.post(test.body, test.edits...)
				var got []string
				for i, call := range store.called() {
					got = append(got, fmt.Sprint(call.Name, " ", len(call.Keys)))
					require.NotContains(t, call.Keys, "")
					if call.Name == "Reserve" {
						require.Equal(t, 71*time.Second, call.Lease, "Timeout and 60 seconds")
					}
					_, ends := store.ends[i].Deadline()
					require.True(t, ends, "%s may take forever", call.Name)
				}
				slices.Sort(got[min(1, len(got)):])
				require.Equal(t, test.want, got)
			})
		}
	}
	t.Run("by default the lease is 85 seconds", func(t *testing.T) {
		store := &hookStore{}
		newHookRig(t, &mw.Handler{Dedup: store}).direct(hookBody("a"))
		require.Equal(t, 85*time.Second, store.called()[0].Lease)
	})
}

// The store is asked in contexts that do not end with the client's.
func TestDedupOutlivesTheClient(t *testing.T) {
	var errs []error
	store := &hookStore{}
	note := func(ctx context.Context) error { errs = append(errs, ctx.Err()); return nil }
	store.commit, store.release = note, note
	store.reserve = func(ctx context.Context, keys []string) ([]mw.Reservation, error) {
		return store.working.Reserve(ctx, keys, time.Minute)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	rig := newHookRig(t, &mw.Handler{Dedup: store, OnEvent: func(ctx context.Context, ev mw.Event) error {
		errs = append(errs, ctx.Err())
		if hookID(ev) == "b" {
			return errHook
		}
		return nil
	}})
	hangUp()
	rig.direct(hookBody("a", "b"), func(r *http.Request) { *r = *r.WithContext(ctx) })
	require.Equal(t, []string{"Reserve", "Commit", "Release"}, store.names())
	require.Equal(t, make([]error, 4), errs)
}

func TestDedupFailures(t *testing.T) {
	some := func(reservations ...mw.Reservation) func(context.Context, []string) ([]mw.Reservation, error) {
		return func(context.Context, []string) ([]mw.Reservation, error) { return reservations, nil }
	}
	hang := func(ctx context.Context) error { time.Sleep(time.Hour); return nil }
	wait := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	panics := func(context.Context) error { panic("of the store") }
	fails := func(context.Context) error { return errHook }
	exits := func(context.Context) error { runtime.Goexit(); return nil }
	answering := func(f func(context.Context) error) func(context.Context, []string) ([]mw.Reservation, error) {
		return func(ctx context.Context, keys []string) ([]mw.Reservation, error) {
			return slices.Repeat([]mw.Reservation{mw.Reserved}, len(keys)), f(ctx)
		}
	}
	tests := []struct {
		name    string
		store   *hookStore
		onEvent func(context.Context, mw.Event) error
		want    int
		calls   []string
	}{
		{"a reservation is none", &hookStore{reserve: some(mw.Reserved, 0, mw.Reserved)}, nil, 503, []string{"Reserve", "Release"}},
		{"a reservation is unknown", &hookStore{reserve: some(mw.Reserved, 9, mw.Reserved)}, nil, 503, []string{"Reserve", "Release"}},
		{"too few reservations", &hookStore{reserve: some(mw.Reserved, mw.Reserved)}, nil, 503, nil},
		{"no reservations", &hookStore{reserve: some()}, nil, 503, nil},
		{"too many reservations", &hookStore{reserve: some(mw.Reserved, mw.Reserved, mw.Reserved, mw.Reserved)}, nil, 503, nil},
		{"Reserve fails", &hookStore{reserve: answering(fails)}, nil, 503, nil},
		{"Reserve panics", &hookStore{reserve: answering(panics)}, nil, 503, nil},
		{"Reserve exits", &hookStore{reserve: answering(exits)}, nil, 503, nil},
		{"Reserve hangs", &hookStore{reserve: answering(hang)}, nil, 503, nil},
		{"Reserve waits", &hookStore{reserve: answering(wait)}, nil, 503, nil},
		{"Commit fails", &hookStore{commit: fails}, eventReturning(nil), 200, []string{"Reserve", "Commit"}},
		{"Commit panics", &hookStore{commit: panics}, eventReturning(nil), 200, []string{"Reserve", "Commit"}},
		{"Commit exits", &hookStore{commit: exits}, eventReturning(nil), 200, []string{"Reserve", "Commit"}},
		{"Commit hangs", &hookStore{commit: hang}, eventReturning(nil), 200, []string{"Reserve", "Commit"}},
		{"Release fails", &hookStore{release: fails}, eventReturning(errHook), 500, []string{"Reserve", "Release"}},
		{"Release panics", &hookStore{release: panics}, eventReturning(errHook), 500, []string{"Reserve", "Release"}},
		{"Release hangs", &hookStore{release: hang}, eventReturning(errHook), 500, []string{"Reserve", "Release"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rig := newHookRig(t, &mw.Handler{Dedup: test.store, OnEvent: test.onEvent})
				began := time.Now()
				require.Equal(t, test.want, rig.direct(hookBody("a", "b", "c")).Status)
				require.Less(t, time.Since(began), 30*time.Second)
				require.Contains(t, rig.said.String(), `"level":"ERROR"`, "it is logged")
				if test.onEvent == nil {
					require.Empty(t, rig.handled())
				}
				if test.calls != nil {
					require.Equal(t, test.calls, test.store.names())
				}
				if released := test.store.keysOf("Release"); test.onEvent == nil && released != nil {
					keys := test.store.keysOf("Reserve")[0]
					require.Equal(t, []string{keys[0], keys[2]}, released[0], "what was reserved is released")
				}
				if strings.HasSuffix(test.name, "panics") {
					require.Contains(t, rig.said.String(), "callbacks_test.go", "with its stack")
				}
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

// A store that hangs once is still asked, with time to do it, to release what failed.
func TestReleaseAfterCommitHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var released error = errHook
		store := &hookStore{
			commit:  func(context.Context) error { time.Sleep(time.Hour); return nil },
			release: func(ctx context.Context) error { released = ctx.Err(); return nil },
		}
		rig := newHookRig(t, &mw.Handler{Timeout: 28 * time.Second, Dedup: store, OnEvent: func(ctx context.Context, ev mw.Event) error {
			if hookID(ev) == "a" {
				return nil
			}
			return errHook
		}})
		require.Equal(t, 500, rig.direct(hookBody("a", "b")).Status)
		require.Equal(t, []string{"Reserve", "Commit", "Release"}, store.names())
		require.NoError(t, released)
		time.Sleep(2 * time.Hour)
	})
}

func TestOverrunningCallbacksAndTheirKeys(t *testing.T) {
	tests := []struct {
		name  string
		takes time.Duration
		err   error
		want  []string // after Reserve and the Commit of the event that is handled
	}{
		{"succeeds before the lease ends", 30 * time.Second, nil, []string{"Commit"}},
		{"fails for good before the lease ends", 30 * time.Second, mw.Permanent(errHook), []string{"Commit"}},
		{"fails before the lease ends", 30 * time.Second, errHook, []string{"Release"}},
		{"fails just before the lease ends", 84 * time.Second, errHook, []string{"Release"}},
		{"succeeds after the lease", 86 * time.Second, nil, []string{"Commit"}},
		{"fails for good after the lease", 86 * time.Second, mw.Permanent(errHook), []string{"Commit"}},
		{"fails after the lease", 86 * time.Second, errHook, nil},
		{"fails a day later", 24 * time.Hour, errHook, nil},
	}
	for _, test := range tests {
		for _, end := range []string{"returns", "panics", "exits"} {
			if end != "returns" && test.err != errHook {
				continue
			}
			t.Run(test.name+", "+end, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := &hookStore{}
					rig := newHookRig(t, &mw.Handler{Dedup: store, OnEvent: func(_ context.Context, ev mw.Event) error {
						if hookID(ev) != "slow" {
							return nil
						}
						time.Sleep(test.takes)
						switch end {
						case "panics":
							panic(errHook)
						case "exits":
							runtime.Goexit()
						}
						return test.err
					}})
					require.Equal(t, 500, rig.direct(hookBody("slow", "a")).Status)
					require.Equal(t, []string{"Reserve", "Commit"}, store.names(), "not released while it runs")
					require.Equal(t, 503, rig.direct(hookBody("slow", "a")).Status, "held meanwhile")
					require.Equal(t, 1, rig.last().Duplicates)
					before := len(store.names())
					time.Sleep(test.takes + time.Second)
					synctest.Wait()
					if after := store.names()[before:]; len(after) > 0 || test.want != nil {
						require.Equal(t, test.want, after)
					}
					if test.want != nil {
						late := store.called()[before]
						require.Equal(t, store.keysOf("Reserve")[0][:1], late.Keys)
					}
				})
			})
		}
	}
}

// The retry, five minutes later, gets what a process that is gone had reserved.
func TestLeaseEndsBeforeTheRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan struct{})
		var calls atomic.Int32
		rig := newHookRig(t, &mw.Handler{Timeout: 28 * time.Second, Dedup: mw.NewMemoryDeduplicator(0, 0),
			OnEvent: func(context.Context, mw.Event) error {
				if calls.Add(1) == 1 {
					<-leave
				}
				return nil
			}})
		require.Equal(t, 500, rig.direct(hookBody("a")).Status)
		time.Sleep(5 * time.Minute)
		require.Equal(t, 200, rig.direct(hookBody("a")).Status)
		require.EqualValues(t, 2, calls.Load())
		close(leave)
		synctest.Wait()
		require.Equal(t, 200, rig.direct(hookBody("a")).Status)
		require.EqualValues(t, 2, calls.Load())
	})
}

// A key that is reserved must be the store's to free when there is no time left to call back.
func TestUnstartedEventsAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookStore{}
		rig := newHookRig(t, &mw.Handler{Dedup: store, Timeout: 10 * time.Second, OnEvent: func(context.Context, mw.Event) error {
			time.Sleep(5020 * time.Millisecond)
			return nil
		}})
		require.Equal(t, 503, rig.direct(hookBody("a", "b", "c", "d", "e")).Status)
		report := rig.last()
		require.Positive(t, report.Handled)
		require.Positive(t, report.Unstarted)
		require.Equal(t, 200, rig.direct(hookBody("d", "e")).Status)
		time.Sleep(time.Minute)
	})
}

type brokenError struct{ why *string }

func (e *brokenError) Error() string { return *e.why }
func (e *brokenError) Unwrap() error { return errors.New(*e.why) }

// An error whose methods panic is one event's failure, during the delivery and after it.
func TestErrorsThatPanic(t *testing.T) {
	for name, err := range map[string]error{
		"in Unwrap":          &brokenError{},
		"in Error, dropped":  mw.Permanent(&brokenError{}),
		"typed nil, dropped": mw.Permanent((*brokenError)(nil)),
	} {
		for _, takes := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprintf("%s, after %v", name, takes), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := &hookStore{}
					rig := newHookRig(t, &mw.Handler{Dedup: store, OnEvent: func(_ context.Context, ev mw.Event) error {
						if hookID(ev) != "bad" {
							return nil
						}
						time.Sleep(takes)
						return err
					}})
					rig.direct(hookBody("a", "bad", "b"))
					time.Sleep(time.Hour)
					require.Zero(t, rig.said.count("%!"), "the log lacks the reason")
					require.GreaterOrEqual(t, len(store.keysOf("Commit")[0]), 2, "the others are committed")
					require.Len(t, slices.Concat(store.keysOf("Commit")...), 3-len(slices.Concat(store.keysOf("Release")...)))
				})
			})
		}
	}
}

// A callback that is abandoned may change its event while the handler still has to do with it.
func TestOnEventMayChangeItsEvent(t *testing.T) {
	ended := make(chan struct{})
	defer func() { <-ended }() // it would disturb tests that look at memory
	rig := newHookRig(t, &mw.Handler{
		EventTimeout: time.Millisecond,
		GiveUpAfter:  time.Hour,
		OnEvent: func(_ context.Context, ev mw.Event) error {
			defer close(ended)
			sent := ev.(*mw.SendingWebhookEvent)
			for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
				*sent = mw.SendingWebhookEvent{Event: sent.Event, MessageID: sent.MessageID, EventID: sent.EventID, Raw: sent.Raw}
				sent.Timestamp = time.Time{}
			}
			return errHook
		},
	})
	require.Equal(t, 200, rig.direct(hookBody("a")).Status, "it is older than GiveUpAfter")
	require.Equal(t, 1, rig.last().Dropped)
}

// A failure is logged under the key that the callback had, also where the event alone would have another: this one cannot
// be read because of the memory that it takes in the body.
func TestFailureIsLoggedUnderItsKey(t *testing.T) {
	var attributes strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&attributes, `"%d":{},`, i)
	}
	large := `{"event":"activity_log.x","changes":{` + attributes.String() + `"z":{}}}`
	for _, body := range []string{large, hookAudit, hookEvent("a"), `{"event":"telepathy"}`, `{"event":"bounce","email":5}`} {
		var key string
		rig := newHookRig(t, &mw.Handler{OnEvent: func(_ context.Context, ev mw.Event) error {
			key = ev.Key()
			return errHook
		}})
		require.Equal(t, 500, rig.direct(hookEnvelope(body)).Status)
		require.NotEmpty(t, key)
		require.ErrorContains(t, rig.last().Err, key)
	}
}

func TestLongestEventTimeout(t *testing.T) {
	gate := new(hookGate)
	rig := newHookRig(t, &mw.Handler{EventTimeout: 1<<63 - 1, OnEvent: func(context.Context, mw.Event) error {
		gate.enter()
		defer gate.leave()
		time.Sleep(time.Millisecond)
		return nil
	}})
	require.Equal(t, 200, rig.direct(hookBody("a", "b", "c", "d")).Status)
	require.Equal(t, 1, gate.most)
}

// A callback that returns late has its mark made at leisure: the answer has been given.
func TestLateCommitIsNotRushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookStore{commit: func(ctx context.Context) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		rig := newHookRig(t, &mw.Handler{Dedup: store, OnEvent: func(context.Context, mw.Event) error {
			time.Sleep(29400 * time.Millisecond)
			return nil
		}})
		require.Equal(t, 500, rig.direct(hookBody("a")).Status)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"Reserve", "Commit"}, store.names())
		require.Zero(t, rig.said.count("Dedup failed"))
	})
}
