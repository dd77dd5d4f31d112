package mailtrapwebhook_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestWithoutDedupRetriesAreHandledAgain(t *testing.T) {
	rig := newRig(t, &mw.Handler{}).serve()
	rig.post(bodyOf("a"))
	rig.post(bodyOf("a"))
	require.Equal(t, []string{"a", "a"}, rig.handled())
}

func TestRetryHandlesWhatFailed(t *testing.T) {
	failing := true
	rig := newRig(t, &mw.Handler{Dedup: newStore()})
	rig.h.OnEvent = func(_ context.Context, ev mw.Event) error {
		rig.saw(ev)
		if failing && (idOf(ev) == "b" || idOf(ev) == "d") {
			return errBoom
		}
		return nil
	}
	rig.serve()
	require.Equal(t, 500, rig.post(bodyOf("a", "b", "c", "d")).Status)
	require.Equal(t, []string{"a", "b", "c", "d"}, rig.handled())
	failing = false
	require.Equal(t, 200, rig.post(bodyOf("a", "b", "c", "d")).Status)
	require.Equal(t, []string{"a", "b", "c", "d", "b", "d"}, rig.handled())
	require.Equal(t, 200, rig.post(bodyOf("a", "b", "c", "d")).Status)
	require.Len(t, rig.handled(), 6)
}

func TestHeldEvents(t *testing.T) {
	rig := newRig(t, &mw.Handler{Dedup: newStore()})
	free := rig.hog(300)
	require.Equal(t, 503, rig.post(bodyOf("a", "hog", "b")).Status)
	require.Equal(t, []string{"a", "b"}, rig.handled(), "the free events are handled")
	require.Equal(t, 1, rig.last().Held)
	require.Equal(t, 2, rig.last().Handled)
	free()
	require.Equal(t, 200, rig.post(bodyOf("a", "hog", "b")).Status)
	require.Equal(t, 3, rig.last().Duplicates, "the retry finds it handled")
	require.Len(t, rig.handled(), 2)
}

func TestFailureBeatsHeld(t *testing.T) {
	rig := newRig(t, &mw.Handler{Dedup: newStore(), OnEvent: eventReturning(errBoom)})
	free := rig.hog(300)
	defer free()
	require.Equal(t, 500, rig.post(bodyOf("a", "hog")).Status)
}

func TestDedupCalls(t *testing.T) {
	fate := func(_ context.Context, ev mw.Event) error {
		if strings.HasPrefix(idOf(ev), "bad") {
			return errBoom
		}
		return nil
	}
	tests := []struct {
		name  string
		body  []byte
		edits []requestEdit
		want  map[string]int // keys that each method got
	}{
		{"handled", bodyOf("a", "b", "c"), nil, map[string]int{"Reserve": 3, "Commit": 3}},
		{"failed", bodyOf("bad1", "bad2"), nil, map[string]int{"Reserve": 2, "Release": 2}},
		{"both", bodyOf("bad1", "a", "bad2", "b", "c"), nil, map[string]int{"Reserve": 5, "Commit": 3, "Release": 2}},
		{"nothing", []byte(`{"events":[]}`), nil, map[string]int{}},
		{"broken", brokenBody(), nil, map[string]int{}},
		{"forged", bodyOf("a"), []requestEdit{withForgery}, map[string]int{}},
		{"unsigned", bodyOf("a"), []requestEdit{withoutSignature}, map[string]int{}},
		{"GET", bodyOf("a"), []requestEdit{withMethod("GET")}, map[string]int{}},
	}
	for _, test := range tests {
		for _, concurrency := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s, %d at a time", test.name, concurrency), func(t *testing.T) {
				store := &recordingStore{}
				rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: fate, Concurrency: concurrency, Timeout: 11 * time.Second}).serve()
				rig.post(test.body, test.edits...)
				got := make(map[string]int)
				for i, call := range store.called() {
					got[call.Name] += len(call.Keys)
					require.NotContains(t, call.Keys, "")
					if call.Name == "Reserve" {
						require.Equal(t, 71*time.Second, call.Lease, "Timeout and 60 seconds")
					}
					_, ends := store.ends[i].Deadline()
					require.True(t, ends, "%s may take forever", call.Name)
				}
				require.Equal(t, test.want, got)
			})
		}
	}
	t.Run("by default the lease is 85 seconds", func(t *testing.T) {
		store := &recordingStore{}
		newRig(t, &mw.Handler{Dedup: store}).direct(bodyOf("a"))
		require.Equal(t, 85*time.Second, store.called()[0].Lease)
	})
}

func TestOverrunningCallbacksAndTheirKeys(t *testing.T) {
	tests := []struct {
		name  string
		takes time.Duration
		err   error
		want  []string // calls after the answer
	}{
		{"succeeds before the lease ends", 30 * time.Second, nil, []string{"Commit"}},
		{"fails for good before the lease ends", 30 * time.Second, mw.Permanent(errBoom), []string{"Commit"}},
		{"fails before the lease ends", 30 * time.Second, errBoom, []string{"Release"}},
		{"fails just before the lease ends", 84 * time.Second, errBoom, []string{"Release"}},
		{"succeeds after the lease", 86 * time.Second, nil, []string{"Commit"}},
		{"fails for good after the lease", 86 * time.Second, mw.Permanent(errBoom), []string{"Commit"}},
		{"fails after the lease", 86 * time.Second, errBoom, nil},
		{"fails a day later", 24 * time.Hour, errBoom, nil},
	}
	for _, test := range tests {
		for _, end := range []string{"returns", "panics", "exits"} {
			if end != "returns" && test.err != errBoom {
				continue
			}
			t.Run(test.name+", "+end, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					store := &recordingStore{}
					rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(_ context.Context, ev mw.Event) error {
						if idOf(ev) != "slow" {
							return nil
						}
						time.Sleep(test.takes)
						switch end {
						case "panics":
							panic(errBoom)
						case "exits":
							runtime.Goexit()
						}
						return test.err
					}})
					require.Equal(t, 500, rig.direct(bodyOf("slow", "a")).Status)
					require.Equal(t, []string{"Reserve", "Commit"}, store.names(), "the key stays reserved while the call runs")
					require.Equal(t, 503, rig.direct(bodyOf("slow", "a")).Status, "another delivery must wait")
					require.Equal(t, 1, rig.last().Duplicates)
					before := len(store.names())
					time.Sleep(test.takes + time.Second)
					synctest.Wait()
					if after := store.names()[before:]; len(after) > 0 || test.want != nil {
						require.Equal(t, test.want, after)
					}
					if test.want != nil {
						late := store.called()[before]
						require.Equal(t, store.keysOf("Reserve")[:1], late.Keys)
					}
				})
			})
		}
	}
}

func TestOnDeliveryOverruns(t *testing.T) {
	for want, result := range map[string]error{"Commit": nil, "Release": errBoom} {
		t.Run(want, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := &recordingStore{}
				leave := make(chan struct{})
				rig := newRig(t, &mw.Handler{Dedup: store, OnDelivery: func(context.Context, *mw.Delivery) error {
					<-leave
					return result
				}})
				require.Equal(t, 500, rig.direct(bodyOf("a", "b")).Status)
				require.Equal(t, 2, rig.last().Failed)
				require.Equal(t, []string{"Reserve"}, store.names(), "the keys stay reserved while the call runs")
				require.Equal(t, 503, rig.direct(bodyOf("a", "b")).Status)
				require.Equal(t, 2, rig.last().Held)
				close(leave)
				synctest.Wait()
				require.Equal(t, store.keysOf("Reserve")[:2], store.keysOf(want))
			})
		})
	}
}

// The retry comes after five minutes. By then the lease of a dead process is
// over.
func TestLeaseEndsBeforeTheRetry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		leave := make(chan struct{})
		var calls atomic.Int32
		rig := newRig(t, &mw.Handler{Timeout: 28 * time.Second, Dedup: newStore(),
			OnEvent: func(context.Context, mw.Event) error {
				if calls.Add(1) == 1 {
					<-leave
				}
				return nil
			}})
		require.Equal(t, 500, rig.direct(bodyOf("a")).Status)
		time.Sleep(5 * time.Minute)
		require.Equal(t, 200, rig.direct(bodyOf("a")).Status)
		require.EqualValues(t, 2, calls.Load())
		close(leave)
		synctest.Wait()
		require.Equal(t, 200, rig.direct(bodyOf("a")).Status)
		require.EqualValues(t, 2, calls.Load())
	})
}

// An event that nobody called back for is free as soon as the answer is given.
func TestUnstartedEventsAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &recordingStore{}
		rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(context.Context, mw.Event) error {
			time.Sleep(60 * time.Millisecond)
			return nil
		}})
		ids := make([]string, 500)
		for i := range ids {
			ids[i] = strconv.Itoa(i)
		}
		require.Equal(t, 503, rig.direct(bodyOf(ids...)).Status)
		report := rig.last()
		require.Positive(t, report.Handled)
		require.Positive(t, report.Unstarted)
		require.Zero(t, report.Failed)
		require.Equal(t, 200, rig.direct(bodyOf(ids...)).Status)
		require.Equal(t, report.Handled, rig.last().Duplicates)
		require.Equal(t, report.Unstarted, rig.last().Handled)
	})
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
		{"never by default", 0, func() string { return aged(1000 * time.Hour) }, eventReturning(errBoom), 500},
		{"younger", time.Hour, func() string { return aged(59 * time.Minute) }, eventReturning(errBoom), 500},
		{"older", time.Hour, func() string { return aged(61 * time.Minute) }, eventReturning(errBoom), 200},
		{"older and panicking", time.Hour, func() string { return aged(61 * time.Minute) },
			func(context.Context, mw.Event) error { panic(errBoom) }, 200},
		{"older and overrunning", time.Hour, func() string { return aged(61 * time.Minute) }, overrun, 200},
		{"at the time 0", time.Hour, func() string { return `{"event":"delivery","event_id":"e","timestamp":0}` }, eventReturning(errBoom), 500},
		{"without a time", time.Hour, func() string { return `{"event":"delivery","event_id":"e"}` }, eventReturning(errBoom), 500},
		{"at the end of 2020", time.Hour, func() string {
			return fmt.Sprintf(`{"event":"delivery","message_id":"m","event_id":"e","timestamp":%d}`,
				time.Date(2020, 12, 31, 23, 59, 59, 0, time.UTC).Unix())
		}, eventReturning(errBoom), 500},
		{"from the future", time.Hour, func() string { return aged(-61 * time.Minute) }, eventReturning(errBoom), 500},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				rig := newRig(t, &mw.Handler{GiveUpAfter: test.after, OnEvent: test.onEvent})
				require.Equal(t, test.want, rig.direct(envelopeOf(test.event())).Status)
				if test.want == 200 {
					require.Equal(t, 1, rig.last().Dropped)
					require.Equal(t, 1, rig.said.count(droppedLine), "it is logged")
				}
				time.Sleep(time.Hour)
			})
		})
	}
}

type brokenError struct{ why *string }

func (e *brokenError) Error() string { return *e.why }

func (e *brokenError) Unwrap() error { return errors.New(*e.why) }

// An error whose methods panic fails one event, during the delivery or after it.
func TestErrorsThatPanic(t *testing.T) {
	for name, err := range map[string]error{
		"in Unwrap":          &brokenError{},
		"in Error, dropped":  mw.Permanent(&brokenError{}),
		"typed nil, dropped": mw.Permanent((*brokenError)(nil)),
	} {
		for _, takes := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprintf("%s, after %v", name, takes), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					store := &recordingStore{}
					rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: func(_ context.Context, ev mw.Event) error {
						if idOf(ev) != "bad" {
							return nil
						}
						time.Sleep(takes)
						return err
					}})
					rig.direct(bodyOf("a", "bad", "b"))
					time.Sleep(time.Hour)
					require.Zero(t, rig.said.count("%!"), "the log lacks the reason")
					require.GreaterOrEqual(t, len(store.keysOf("Commit")), 2, "the others are committed")
					require.Len(t, store.keysOf("Commit"), 3-len(store.keysOf("Release")))
				})
			})
		}
	}
}

// An abandoned callback may change its event while the Handler judges it.
func TestOnEventMayChangeItsEvent(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	defer func() { <-ended }() // a test that measures memory may be next
	rig := newRig(t, &mw.Handler{
		EventTimeout: time.Millisecond,
		GiveUpAfter:  time.Hour,
		OnEvent: func(_ context.Context, ev mw.Event) error {
			defer close(ended)
			sent := ev.(*mw.SendingWebhookEvent)
			for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
				*sent = mw.SendingWebhookEvent{}
				sent.Timestamp = time.Time{}
			}
			return errBoom
		},
	})
	require.Equal(t, 200, rig.direct(bodyOf("a")).Status, "the event is older than GiveUpAfter")
	require.Equal(t, 1, rig.last().Dropped)
}

// The log names a failed event by the key that its callback had.
func TestFailureIsLoggedUnderItsKey(t *testing.T) {
	for _, body := range []string{auditJSON, eventJSON("a"), `{"event":"telepathy"}`, `{"event":"bounce","email":5}`} {
		var key string
		rig := newRig(t, &mw.Handler{OnEvent: func(_ context.Context, ev mw.Event) error {
			key = ev.Key()
			return errBoom
		}})
		require.Equal(t, 500, rig.direct(envelopeOf(body)).Status)
		require.NotEmpty(t, key)
		require.Contains(t, rig.said.String(), key)
	}
}
