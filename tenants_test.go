package mailtrapwebhook_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// tenantScope is the header that has a request's scope in these tests.
const tenantScope = "X-Scope"

func scopeOf(r *http.Request) string {
	if values := r.Header[tenantScope]; len(values) > 0 {
		return values[0]
	}
	return ""
}

func inScope(scope string) requestEdit {
	return func(r *http.Request) { r.Header[tenantScope] = []string{scope} }
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
	total := 4_000
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

// Tenants that share a store may send the same body. Each has it handled once.
func TestTenantsOfOneStoreDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	tenants := []string{"a", "a:", ":a", "a:a", "A", ":", "::", "sending", "a:sending"}
	verifiers := make(map[string]*mw.Verifier)
	for _, tenant := range tenants {
		verifiers[tenant] = testVerifier(t, testSecret) // one secret: only the scope tells tenants apart
	}
	body := envelopeOf(eventJSON("a"), eventJSON("b"), eventJSON("b"), auditJSON, auditJSON, `{"event":"new"}`, `7`)
	const events = 7
	rig := newRig(t, &mw.Handler{
		VerifierFor: func(r *http.Request) (*mw.Verifier, error) { return verifiers[scopeOf(r)], nil },
		Scope:       scopeOf,
		Dedup:       newStore(),
	})
	for _, tenant := range tenants {
		require.Equal(t, 200, rig.direct(body, inScope(tenant)).Status)
		require.Equal(t, events, rig.last().Handled, "%q", tenant)
	}
	for _, tenant := range tenants {
		require.Equal(t, 200, rig.direct(body, inScope(tenant)).Status)
		require.Equal(t, events, rig.last().Duplicates, "%q", tenant)
	}
	require.Len(t, rig.handled(), events*len(tenants))
	require.Equal(t, 403, rig.direct(body, inScope("nobody")).Status)
	verifiers[""] = verifiers["a"]
	require.Equal(t, 500, rig.direct(body, inScope("")).Status, "a tenant without a scope")
	require.Len(t, rig.handled(), events*len(tenants))
}

// Forged requests make a full store forget nothing, however many come. A signed
// one makes it forget the oldest.
func TestForgedRequestsEvictNothing(t *testing.T) {
	t.Parallel()
	const batch, batches, forged = 100, 10, 3_000
	rig := newRig(t, &mw.Handler{
		Scope: scopeOf,
		Dedup: memoryStore(0, batch*batches),
	})
	var report mw.Report
	rig.h.Logger = slog.New(slog.DiscardHandler)
	rig.h.Observe = func(_ context.Context, r mw.Report) { report = r }
	bodies := make([][]byte, batches)
	for i := range bodies {
		var ids []string
		for j := range batch {
			ids = append(ids, fmt.Sprintf("%d-%d", i, j))
		}
		bodies[i] = bodyOf(ids...)
	}
	for _, body := range bodies {
		require.Equal(t, 200, rig.direct(body, inScope("a")).Status)
		require.Equal(t, batch, report.Handled)
	}
	allRemembered := func() {
		for i, body := range bodies {
			require.Equal(t, 200, rig.direct(body, inScope("a")).Status)
			require.Equal(t, batch, report.Duplicates, "of batch %d", i)
		}
	}
	allRemembered()
	edits := []requestEdit{withForgery, withoutSignature, withHeader(mw.SignatureHeader, rawDigits, rawDigits),
		withHeader(mw.SignatureHeader, rawDigits[:62]), withHeader(mw.SignatureHeader, "")}
	for i := range forged {
		id := strconv.Itoa(i)
		answer := rig.direct(bodyOf("x"+id, "y"+id), inScope([]string{"a", "", "b"}[i%3]), edits[i%len(edits)])
		require.Equal(t, 400, answer.Status)
	}
	allRemembered()
}
