package mailtrapwebhook_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
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
