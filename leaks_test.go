package mailtrapwebhook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// These must show up in no text.
const (
	canarySecret   = "canary-secret-2f9c"
	canaryToken    = "canary-token-77ab"
	canaryPassword = "canary-password-1c0d"
	canaryQuery    = "canary-query-5e5e"
	canaryEmail    = "canary.person@example.com"
	canaryPeer     = "203.0.113.77"
	canaryForward  = "198.51.100.123"
)

// canaryEvents are events of every kind, sound and broken, full of canaries.
var canaryEvents = []string{
	`{"event":"bounce","message_id":"m-1","event_id":"e-1","email":"` + canaryEmail + `","reason":"canary-reason",` +
		`"response":"canary-response","category":"canary-category","custom_variables":{"canary-name":"canary-value"},"timestamp":1716070000,` +
		`"ip":"` + canaryPeer + `","user_agent":"canary-agent","url":"https://canary-url"}`,
	`{"event":"activity_log.user.login","description":"canary-description","actor":{"id":1,"type":"user","name":"` + canaryEmail + `"},` +
		`"changes":{"canary-field":{"from":"canary-from","to":"canary-to"}},"timestamp":1716070000}`,
	`{"event":"inbound.message_received","inbox_id":7,"message_id":"m-1","from":"` + canaryEmail + `","timestamp":1788113042436}`,
	`{"event":"<` + canaryEmail + `>","x":"canary-unknown"}`,
	`{"event":"activity_log.<` + canaryEmail + `>","description":7}`,
	`{"event":"bounce","email":{"canary":"canary-object"}}`,
	`"canary-string"`,
}

var canaryBody = envelopeOf(canaryEvents...)

// requireNoCanary fails if text shows a canary.
func requireNoCanary(t testing.TB, where, text string, more ...string) {
	t.Helper()
	low := strings.ToLower(text)
	for _, canary := range append(more, "canary", "canary.person", canaryPeer, canaryForward,
		mw.Sign(canaryBody, canarySecret), fmt.Sprintf("%x", canarySecret)) {
		if i := strings.Index(low, strings.ToLower(canary)); i >= 0 {
			t.Fatalf("%s shows %q: …%s…", where, canary, text[max(0, i-200):min(len(text), i+100)])
		}
	}
}

// printedForms returns a value printed and logged in every way.
func printedForms(value any) map[string]string {
	forms := make(map[string]string)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		forms[verb] = fmt.Sprintf(verb, value)
	}
	text, err := json.Marshal(value)
	forms["JSON"] = fmt.Sprintf("%s %v", text, err)
	for name, text := range loggedForms(value) {
		forms[name] = text
	}
	return forms
}

// loggedForms returns a value logged in every way.
func loggedForms(value any) map[string]string {
	var asText, asJSON bytes.Buffer
	slog.New(slog.NewTextHandler(&asText, nil)).Info("x", "value", value, slog.Group("g", "value", value))
	slog.New(slog.NewJSONHandler(&asJSON, nil)).Info("x", "value", value, slog.Group("g", "value", value))
	return map[string]string{"slog text": asText.String(), "slog JSON": asJSON.String()}
}

func TestNothingLeaksFromValues(t *testing.T) {
	verifier := testVerifier(t, canarySecret, canarySecret+"2")
	handler := &mw.Handler{
		Verifier: verifier, OnEvent: eventReturning(nil), Logger: slog.New(slog.DiscardHandler),
		Guards: []mw.Guard{mw.BasicAuth("canary", canaryPassword), mw.QueryToken("t", canaryToken)},
	}
	peer := netip.PrefixFrom(netip.MustParseAddr(canaryPeer), 32)
	values := map[string]any{
		"Verifier":      verifier,
		"zero Verifier": new(mw.Verifier),
		"nil Verifier":  (*mw.Verifier)(nil),
		"Verifiers":     []*mw.Verifier{verifier},
		"in a struct":   struct{ V *mw.Verifier }{verifier},
		"in a map":      map[string]*mw.Verifier{"x": verifier},
		"Handler":       handler,
		"IPAllowlist":   mw.NewIPAllowlist([]netip.Prefix{peer}, peer),
	}
	for name, value := range values {
		for form, text := range printedForms(value) {
			requireNoCanary(t, name+" as "+form, text)
		}
	}
	events, err := mw.Parse(canaryBody)
	require.NoError(t, err)
	require.Len(t, events, len(canaryEvents))
	for i, ev := range events {
		for form, text := range loggedForms(ev) {
			requireNoCanary(t, fmt.Sprintf("event %d in %s", i, form), text)
		}
		var value any
		switch ev := ev.(type) {
		case *mw.SendingWebhookEvent:
			value = *ev
		case *mw.ActivityLogWebhookEvent:
			value = *ev
		case *mw.InboundWebhookEvent:
			value = *ev
		case *mw.UnknownEvent:
			value = *ev
			if ev.Err != nil {
				for form, text := range printedForms(ev.Err) {
					requireNoCanary(t, fmt.Sprintf("the error of event %d as %s", i, form), text)
				}
			}
		}
		for form, text := range loggedForms(value) {
			requireNoCanary(t, fmt.Sprintf("the value of event %d in %s", i, form), text)
		}
	}
	d := mw.Delivery{Body: canaryBody, Events: events, Keys: []string{"canary"},
		Request: httptest.NewRequest(http.MethodPost, "/?q="+canaryQuery, nil)}
	for _, value := range []any{d, &d} {
		for form, text := range loggedForms(value) {
			requireNoCanary(t, "Delivery in "+form, text)
		}
	}
}

// Whatever happens to a request, no text about it is secret or personal.
func TestNothingLeaksFromRequests(t *testing.T) {
	panicking := func(_ context.Context, ev mw.Event) error { panic(ev) }
	allow := func(trusted ...netip.Prefix) []mw.Guard {
		return []mw.Guard{mw.NewIPAllowlist(mw.IPRanges(), trusted...).Guard()}
	}
	peer := netip.PrefixFrom(netip.MustParseAddr(canaryPeer), 32)
	broken := canaryBody[:len(canaryBody)-3]
	never := func(err error) requestEdit {
		return func(r *http.Request) {
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader("canary"), failingReader{err}))
		}
	}
	tests := []struct {
		name  string
		h     *mw.Handler
		body  []byte
		edits []requestEdit
		want  int
	}{
		{"handled", &mw.Handler{}, canaryBody, nil, 200},
		{"handled, with a store", &mw.Handler{Dedup: newStore()}, canaryBody, nil, 200},
		{"dropped", &mw.Handler{OnEvent: eventReturning(mw.Permanent(errBoom))}, canaryBody, nil, 200},
		{"given up", &mw.Handler{OnEvent: eventReturning(errBoom), GiveUpAfter: time.Nanosecond}, canaryBody, nil, 500},
		{"dropped delivery", &mw.Handler{OnDelivery: deliveryReturning(mw.Permanent(errBoom))}, canaryBody, nil, 200},
		{"failed", &mw.Handler{OnEvent: eventReturning(errBoom)}, canaryBody, nil, 500},
		{"failed delivery", &mw.Handler{OnDelivery: deliveryReturning(errBoom)}, canaryBody, nil, 500},
		{"panic with an event", &mw.Handler{OnEvent: panicking, Concurrency: 3}, canaryBody, nil, 500},
		{"panic with a delivery",
			&mw.Handler{OnDelivery: func(_ context.Context, d *mw.Delivery) error { panic(d) }}, canaryBody, nil, 500},
		{"panic with a delivery's value",
			&mw.Handler{OnDelivery: func(_ context.Context, d *mw.Delivery) error { panic(*d) }}, canaryBody, nil, 500},
		{"panic with the body",
			&mw.Handler{OnDelivery: func(_ context.Context, d *mw.Delivery) error { panic(d.Body) }}, canaryBody, nil, 500},
		{"panic with the request",
			&mw.Handler{OnDelivery: func(_ context.Context, d *mw.Delivery) error { panic(d.Request) }}, canaryBody, nil, 500},
		{"panic with the verifier", &mw.Handler{Guards: []mw.Guard{
			func(*http.Request) error { panic(testVerifier(t, canarySecret)) }}}, canaryBody, nil, 500},
		{"overrun", &mw.Handler{Concurrency: 10,
			OnEvent: func(context.Context, mw.Event) error { time.Sleep(time.Minute); return errBoom }}, canaryBody, nil, 500},
		{"exit", &mw.Handler{OnEvent: func(context.Context, mw.Event) error { runtime.Goexit(); return nil }}, canaryBody, nil, 500},
		{"forged", &mw.Handler{}, canaryBody, []requestEdit{withHeader(mw.SignatureHeader, mw.Sign(canaryBody, "x"))}, 400},
		{"nonsense for a signature", &mw.Handler{}, canaryBody, []requestEdit{withHeader(mw.SignatureHeader, "canary")}, 400},
		{"unsigned", &mw.Handler{}, canaryBody, []requestEdit{withoutSignature}, 400},
		{"two signatures", &mw.Handler{}, canaryBody, []requestEdit{withHeader(mw.SignatureHeader, "canary", "canary")}, 400},
		{"method", &mw.Handler{}, canaryBody, []requestEdit{withMethod("CANARY")}, 405},
		{"type", &mw.Handler{}, canaryBody, []requestEdit{withHeader("Content-Type", "image/canary")}, 415},
		{"encoding", &mw.Handler{}, canaryBody, []requestEdit{withHeader("Content-Encoding", "canary")}, 415},
		{"too large", &mw.Handler{MaxBodyBytes: 10}, canaryBody, nil, 413},
		{"too many", &mw.Handler{MaxEvents: 1}, canaryBody, nil, 413},
		{"broken", &mw.Handler{}, broken, nil, 422},
		{"broken lines", &mw.Handler{}, []byte("canary\ncanary"), nil, 0},
		{"not JSON", &mw.Handler{}, []byte("canary=" + canaryEmail), nil, 422},
		{"broken and taken", &mw.Handler{OnMalformed: func(context.Context, *mw.Delivery, error) error { return nil }}, broken, nil, 200},
		{"broken and dropped", &mw.Handler{
			OnMalformed: func(_ context.Context, _ *mw.Delivery, err error) error { return mw.Permanent(err) }}, broken, nil, 200},
		{"broken and panicking",
			&mw.Handler{OnMalformed: func(_ context.Context, d *mw.Delivery, _ error) error { panic(d) }}, broken, nil, 500},
		{"address", &mw.Handler{Guards: allow()}, canaryBody, nil, 403},
		{"address behind a proxy", &mw.Handler{Guards: allow(peer)}, canaryBody, nil, 403},
		{"nonsense for an address", &mw.Handler{Guards: allow(peer)}, canaryBody, []requestEdit{withHeader("X-Forwarded-For", "canary")}, 403},
		{"nonsense for a peer", &mw.Handler{Guards: allow()}, canaryBody,
			[]requestEdit{func(r *http.Request) { r.RemoteAddr = "canary" }}, 403},
		{"no password", &mw.Handler{Guards: []mw.Guard{mw.BasicAuth("canary-user", canaryPassword)}}, canaryBody, nil, 401},
		{"wrong password", &mw.Handler{Guards: []mw.Guard{mw.BasicAuth("canary-user", "x")}}, canaryBody,
			[]requestEdit{func(r *http.Request) { r.SetBasicAuth("canary-user", canaryPassword) }}, 401},
		{"empty password", &mw.Handler{Guards: []mw.Guard{mw.BasicAuth("canary-user", "")}}, canaryBody, nil, 401},
		{"no token", &mw.Handler{Guards: []mw.Guard{mw.QueryToken("canary-name", canaryToken)}}, canaryBody, nil, 403},
		{"wrong token", &mw.Handler{Guards: []mw.Guard{mw.QueryToken("q", canaryToken)}}, canaryBody, nil, 403},
		{"malformed query", &mw.Handler{Guards: []mw.Guard{mw.QueryToken("q", canaryToken)}}, canaryBody,
			[]requestEdit{withQuery("q=" + canaryToken + "&canary%zz")}, 403},
		{"no tenant", &mw.Handler{VerifierFor: verifierReturning(nil, nil)}, canaryBody, nil, 403},
		{"store is down", &mw.Handler{Dedup: deadStore{}}, canaryBody, nil, 503},
		{"broken off", &mw.Handler{}, canaryBody,
			[]requestEdit{never(errors.New("read tcp 127.0.0.1:80->" + canaryPeer + ":4711: connection reset by peer"))}, 400},
		{"no secret", &mw.Handler{Verifier: new(mw.Verifier)}, canaryBody, nil, 500},
		{"wrong set-up", &mw.Handler{Timeout: time.Hour}, canaryBody, nil, 500},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				status := requireNothingLeaks(t, test.h, test.body, test.edits...)
				if test.want != 0 {
					require.Equal(t, test.want, status)
				}
			})
		})
	}
}

// requireNothingLeaks gives a Handler a delivery full of canaries, and looks for
// them in everything that comes of it.
func requireNothingLeaks(t *testing.T, h *mw.Handler, body []byte, edits ...requestEdit) (status int) {
	if h.Verifier == nil && h.VerifierFor == nil {
		h.Verifier = testVerifier(t, "canary-other-secret", canarySecret)
	}
	var delivered []*mw.Delivery
	if h.OnEvent == nil && h.OnDelivery == nil {
		h.OnDelivery = func(_ context.Context, d *mw.Delivery) error { delivered = append(delivered, d); return nil }
	}
	rig := newRig(t, h)
	signature := mw.Sign(body, canarySecret)
	got := rig.direct(body, append([]requestEdit{
		withHeader(mw.SignatureHeader, signature),
		withHeader("X-Forwarded-For", canaryForward),
		withHeader("Authorization", "canary"),
		withQuery("q=" + canaryQuery),
		func(r *http.Request) { r.RemoteAddr = canaryPeer + ":4711" },
	}, edits...)...)
	time.Sleep(time.Hour) // abandoned calls return
	synctest.Wait()
	requireNoCanary(t, "the answer", fmt.Sprint(got), signature)
	requireNoCanary(t, "the log", rig.said.String(), signature)
	require.NotEmpty(t, rig.said.String())
	report := rig.last()
	values := map[string]any{"the report": report, "the report's pointer": &report, "the Handler": h, "the error": report.Err}
	for name, value := range values {
		for form, text := range printedForms(value) {
			requireNoCanary(t, name+" as "+form, text, signature)
		}
	}
	for _, d := range delivered {
		for form, text := range loggedForms(d) {
			requireNoCanary(t, "the delivery in "+form, text, signature)
		}
	}
	return got.Status
}

// A failingReader returns an error.
type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// net's errors name the peer, which is personal.
func TestNothingLeaksFromConnections(t *testing.T) {
	for name, rest := range map[string]func(*rig, io.Closer){
		"hung up":  func(_ *rig, conn io.Closer) { conn.Close() },
		"too slow": func(rig *rig, _ io.Closer) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, &mw.Handler{Timeout: 100 * time.Millisecond}).serve()
			conn := rig.dial(rawRequest("1.1", canaryBody, len(canaryBody)+10))
			address := conn.LocalAddr().String()
			rest(rig, conn)
			eventually(t, "Observe", func() bool { return len(rig.observed()) == 1 })
			require.Error(t, rig.last().Err)
			requireNoCanary(t, "the log", rig.said.String(), address)
			for form, text := range printedForms(rig.last()) {
				requireNoCanary(t, "the report as "+form, text, address)
			}
			for _, verb := range []string{"%v", "%+v", "%#v"} {
				requireNoCanary(t, "the error as "+verb, fmt.Sprintf(verb, rig.last().Err), address)
			}
		})
	}
}
