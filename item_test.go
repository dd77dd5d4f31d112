package mailtrapwebhook_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestRetriesAreRecognised(t *testing.T) {
	twin := `{"event":"delivery","message_id":"other","event_id":"a","timestamp":1716070000}`
	tests := []struct {
		name   string
		bodies [][]byte
		want   []int // events handled, by body
	}{
		{"a retry", [][]byte{bodyOf("a", "b"), bodyOf("a", "b")}, []int{2, 0}},
		{"the same event in another body", [][]byte{bodyOf("a"), bodyOf("b", "a")}, []int{1, 1}},
		{"the same event in the other format", [][]byte{bodyOf("a"), []byte(eventJSON("a"))}, []int{1, 0}},
		{"one event_id, different events", [][]byte{envelopeOf(eventJSON("a"), twin), envelopeOf(twin, eventJSON("a"))}, []int{2, 0}},
		{"one event_id, different events, two bodies", [][]byte{bodyOf("a"), envelopeOf(twin)}, []int{1, 1}},
		{"equal audit entries in one body", [][]byte{envelopeOf(auditJSON, auditJSON), envelopeOf(auditJSON, auditJSON)}, []int{2, 0}},
		{"equal audit entries in two bodies",
			[][]byte{envelopeOf(auditJSON), envelopeOf(auditJSON, `{"event":"x"}`), envelopeOf(auditJSON), envelopeOf(auditJSON, `{"event":"x"}`)},
			[]int{1, 2, 0, 0}},
		{"equal unknown events", [][]byte{envelopeOf("7", "7", "7"), envelopeOf("7"), envelopeOf("7", "7", "7")}, []int{3, 1, 0}},
		{"equal keys in one body", [][]byte{bodyOf("a", "a", "b"), bodyOf("a", "a", "b")}, []int{3, 0}},
		{"inbound mail with another event_id", [][]byte{
			envelopeOf(`{"event":"inbound.message_received","event_id":"1","inbox_id":1,"message_id":"m"}`),
			envelopeOf(`{"event":"inbound.message_received","event_id":"2","inbox_id":1,"message_id":"m"}`),
			envelopeOf(`{"event":"inbound.message_received","event_id":"1","inbox_id":2,"message_id":"m"}`)}, []int{1, 0, 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rig := newRig(t, &mw.Handler{Dedup: newStore()}).serve()
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

func TestDeliveryKeysWithoutDedup(t *testing.T) {
	var keys []string
	rig := newRig(t, &mw.Handler{Scope: func(*http.Request) string { return "tenant" },
		OnDelivery: func(_ context.Context, d *mw.Delivery) error { keys = d.Keys; return nil }})
	require.Equal(t, 200, rig.direct(envelopeOf(eventJSON("a"), auditJSON, auditJSON, eventJSON("b"), eventJSON("b"))).Status)
	require.Len(t, keys, 5)
	slices.Sort(keys)
	require.Len(t, slices.Compact(keys), 5, "equal events have keys of their own")
	for _, key := range keys {
		require.True(t, strings.HasPrefix(key, "tenant"), key)
	}
}

func TestDeliveryKeysAreThoseOfTheEvents(t *testing.T) {
	var bodies [][]byte
	for _, ids := range []string{
		`"message_id":"a","event_id":"b"`, `"message_id":"\u0061\"","event_id":"\\"`, `"message_id":1,"event_id":-0.5e1`,
		`"message_id":null,"event_id":"b"`, `"message_id":"a"`, `"message_id":"a","message_id":"b","event_id":"c"`,
		`"event_id":"` + "\xff" + `","message_id":"é"`, `"message_id":{},"event_id":"b"`,
		`"message_id":true,"message_id":"a","event_id":"b"`, `"message_id":"a","event_id":"b","message_id":null`,
		`"\u006dessage_id":"a","event_id":"b"`, `"MESSAGE_ID":"a","event_id":"b"`, `"message_id":"","event_id":"b"`,
		`"inbox_id":1,"message_id":"a"`, `"inbox_id":"1","message_id":":"`,
	} {
		for _, name := range []string{"open", "inbound.message_received", "activity_log.user.login", "telepathy"} {
			early, late := `{"event":"`+name+`",`+ids+`}`, `{`+ids+`,"event":"`+name+`"}`
			bodies = append(bodies, []byte(early), envelopeOf(late, eventJSON("z"), late), []byte(late+"\n"+eventJSON("z")))
		}
	}
	keys := 0
	rig := newRig(t, &mw.Handler{OnDelivery: func(_ context.Context, d *mw.Delivery) error {
		require.Len(t, d.Keys, len(d.Events))
		for i, ev := range d.Events {
			keys++
			require.True(t, strings.HasPrefix(d.Keys[i], ev.Key()), d.Body)
			twin := slices.ContainsFunc(d.Events, func(other mw.Event) bool { return other != ev && other.Key() == ev.Key() })
			switch ev.(type) {
			case *mw.SendingWebhookEvent, *mw.InboundWebhookEvent:
				if twin {
					require.NotEqual(t, ev.Key(), d.Keys[i], d.Body)
				}
			default:
				require.NotEqual(t, ev.Key(), d.Keys[i], "two audit-log entries may be equal")
			}
		}
		return nil
	}})
	for _, body := range bodies {
		rig.direct(body)
	}
	require.Greater(t, keys, 300)
}

// randomScope makes names out of few parts. Some are prefixes of others or of
// keys, and some hold keys.
func randomScope(random *rand.Rand, keys []string) string {
	parts := []string{"a", "b", "A", ":", "::", "-", "sending", "sending-", "unknown-", "0", "é", "\xff", "\x00", " ", "%3A", "/", "a:", ":a"}
	var scope strings.Builder
	for range random.IntN(5) {
		if random.IntN(6) == 0 && len(keys) > 0 {
			scope.WriteString(keys[random.IntN(len(keys))])
			continue
		}
		scope.WriteString(parts[random.IntN(len(parts))])
	}
	return scope.String()
}

// randomEvents returns a body of few possible events, so that they repeat. Their
// ids look like scopes.
func randomEvents(random *rand.Rand) []byte {
	id := func() string {
		return strconv.Quote([]string{"", "a", "b", ":", "a:", ":a", "a:a", "sending-a", "1"}[random.IntN(9)])
	}
	var events []string
	for range 1 + random.IntN(4) {
		switch random.IntN(6) {
		case 0, 1:
			events = append(events, fmt.Sprintf(`{"event":"delivery","message_id":%s,"event_id":%s,"timestamp":1716070000}`, id(), id()))
		case 2:
			events = append(events, fmt.Sprintf(`{"event":"inbound.message_received","inbox_id":%d,"message_id":%s}`, random.IntN(3), id()))
		case 3:
			events = append(events, auditJSON)
		case 4:
			events = append(events, fmt.Sprintf(`{"event":%s}`, id()))
		case 5:
			events = append(events, strconv.Itoa(random.IntN(3)))
		}
	}
	return envelopeOf(events...)
}

// twoOwners returns a key that two scopes share, if there is one.
func twoOwners(deliveries func(yield func(scope string, keys []string))) (key string, found bool) {
	owners := make(map[string]string)
	deliveries(func(scope string, keys []string) {
		for _, k := range keys {
			owner, ok := owners[k]
			if ok && owner != scope {
				key, found = k, true
			}
			owners[k] = scope
		}
	})
	return key, found
}

// No two scopes share a key, whatever their names are and their events say.
func TestScopesShareNoKeys(t *testing.T) {
	t.Parallel()
	total := 1_500
	if fullSize() {
		total = 300_000
	}
	var got *mw.Delivery
	rig := newRig(t, &mw.Handler{Scope: scopeOf, OnDelivery: func(_ context.Context, d *mw.Delivery) error {
		got = d
		return nil
	}})
	rig.h.Observe, rig.h.Logger = nil, slog.New(slog.DiscardHandler)
	random := rand.New(rand.NewPCG(3, 14))
	scopes, repeated := make(map[string]int), 0
	key, found := twoOwners(func(yield func(scope string, keys []string)) {
		var some []string
		seen := make(map[string]bool)
		for range total {
			scope := randomScope(random, some)
			require.Equal(t, http.StatusOK, rig.direct(randomEvents(random), inScope(scope)).Status)
			require.Len(t, got.Keys, len(got.Events))
			require.NotContains(t, got.Keys, "")
			yield(scope, got.Keys)
			scopes[scope]++
			for _, key := range got.Keys {
				if seen[key] {
					repeated++
				}
				seen[key] = true
			}
			if len(some) < 20 {
				some = append(some, got.Keys...)
			}
		}
	})
	require.False(t, found, "two scopes have the key %q", key)
	t.Logf("%d scopes, %d keys seen again in their own", len(scopes), repeated)
	require.Greater(t, len(scopes), total/10)
	require.Greater(t, repeated, total/10, "no key came again")
}

// Keys that are made the obvious way lack the property above.
func TestScopesShareKeysThatAreNoDigests(t *testing.T) {
	t.Parallel()
	for name, keyOf := range map[string]func(scope string, ev mw.Event) string{
		"the id, behind the scope and a colon": func(scope string, ev mw.Event) string { return scope + ":" + idOf(ev) },
		"the id, behind the scope if any":      func(scope string, ev mw.Event) string { return scope + idOf(ev) },
		"no scope":                             func(_ string, ev mw.Event) string { return ev.Key() },
		"the scope, in lower case":             func(scope string, ev mw.Event) string { return strings.ToLower(scope) + ":" + ev.Key() },
		"the scope, trimmed":                   func(scope string, ev mw.Event) string { return strings.Trim(scope, ": ") + ":" + ev.Key() },
	} {
		random := rand.New(rand.NewPCG(3, 14))
		_, found := twoOwners(func(yield func(scope string, keys []string)) {
			for range 4_000 {
				events, err := mw.Parse(randomEvents(random))
				require.NoError(t, err)
				scope := randomScope(random, nil)
				for _, ev := range events {
					yield(scope, []string{keyOf(scope, ev)})
				}
			}
		})
		require.True(t, found, name)
	}
}
