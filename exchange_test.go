package mailtrapwebhook_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// A request that is wrong in two ways gets the answer of the earlier check.
func TestHandlerChecksInOrder(t *testing.T) {
	const limit = 2048
	type attempt struct {
		h     *mw.Handler
		body  []byte
		edits []requestEdit
		hog   bool // another request takes the whole budget
	}
	unlessHog := func(r *http.Request, err error) error {
		if r.Header.Get("X-Hog") != "" {
			return nil
		}
		return err
	}
	hogVerifier := testVerifier(t, testSecret)
	faults := []struct {
		name  string
		want  int
		apply func(*attempt)
	}{
		{"set-up", 500, func(a *attempt) { a.h.Timeout = 29 * time.Second }},
		{"method", 405, func(a *attempt) { a.edits = append(a.edits, withMethod("PUT")) }},
		{"type", 415, func(a *attempt) { a.edits = append(a.edits, withHeader("Content-Type", "image/png")) }},
		{"guard", 401, func(a *attempt) {
			a.h.Guards = []mw.Guard{func(r *http.Request) error { return unlessHog(r, mw.ErrUnauthorized) }}
		}},
		{"verifier", 403, func(a *attempt) {
			a.h.VerifierFor = func(r *http.Request) (*mw.Verifier, error) { return hogVerifier, unlessHog(r, mw.ErrForbidden) }
		}},
		{"signature header", 400, func(a *attempt) { a.edits = append(a.edits, withoutSignature) }},
		{"size", 413, func(a *attempt) { a.body = append(a.body, bytes.Repeat([]byte(" "), 2*limit)...) }},
		{"budget", 503, func(a *attempt) { a.hog = true }},
		{"signature", 400, func(a *attempt) { a.edits = append(a.edits, withForgery) }},
		{"structure", 422, func(a *attempt) { a.body = append([]byte(`{"events":[{},}`), a.body...) }},
		{"store", 503, func(a *attempt) {
			a.h.Dedup = &recordingStore{reserve: func(context.Context, []string) ([]mw.Reservation, error) { return nil, errBoom }}
		}},
		{"callback", 500, func(a *attempt) { a.h.OnEvent = eventReturning(errBoom) }},
	}
	for i, first := range faults {
		for _, second := range faults[i+1:] {
			if first.name == "set-up" && second.name == "budget" {
				continue // no request of such a Handler takes memory
			}
			if second.name == "signature" && first.name == "signature header" {
				continue // there is no signature to forge
			}
			t.Run(first.name+" before "+second.name, func(t *testing.T) {
				t.Parallel()
				a := &attempt{
					h: &mw.Handler{MaxBodyBytes: limit, MaxInFlightBytes: limit, Scope: func(*http.Request) string { return "t" }},
				}
				a.body = bodyOf("a")
				first.apply(a)
				second.apply(a)
				rig := newRig(t, a.h)
				if a.hog {
					free := rig.hog(limit)
					defer free()
				}
				if rig.srv == nil {
					rig.serve()
				}
				require.Equal(t, first.want, rig.post(a.body, a.edits...).Status)
			})
		}
	}
}

// A request that its head refuses has none of its body read.
func TestHandlerRefusesBeforeReading(t *testing.T) {
	tests := []struct {
		name  string
		h     *mw.Handler
		edits []requestEdit
		want  int
	}{
		{"method", &mw.Handler{}, []requestEdit{withMethod("PUT")}, 405},
		{"type", &mw.Handler{}, []requestEdit{withHeader("Content-Type", "video/mp4")}, 415},
		{"encoding", &mw.Handler{}, []requestEdit{withHeader("Content-Encoding", "gzip")}, 415},
		{"guard", &mw.Handler{Guards: guardReturning(errBoom)}, nil, 403},
		{"password", &mw.Handler{Guards: []mw.Guard{mw.BasicAuth("u", "p")}}, nil, 401},
		{"token", &mw.Handler{Guards: []mw.Guard{mw.QueryToken("t", "p")}}, nil, 403},
		{"address", &mw.Handler{Guards: []mw.Guard{mw.NewIPAllowlist(mw.IPRanges()).Guard()}},
			[]requestEdit{func(r *http.Request) { r.RemoteAddr = "192.0.2.1:1234" }}, 403},
		{"no such tenant", &mw.Handler{VerifierFor: verifierReturning(nil, nil)}, nil, 403},
		{"tenant's store is down", &mw.Handler{VerifierFor: verifierReturning(nil, errBoom)}, nil, 503},
		{"no signature", &mw.Handler{}, []requestEdit{withoutSignature}, 400},
		{"two signatures", &mw.Handler{}, []requestEdit{withHeader(mw.SignatureHeader, "a", "b")}, 400},
		{"size", &mw.Handler{MaxBodyBytes: 10}, nil, 413},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rig := newRig(t, test.h)
			body := &countedReader{Reader: bytes.NewReader(bodyOf("a"))}
			got := rig.direct(bodyOf("a"), append(test.edits, func(r *http.Request) { r.Body = io.NopCloser(body) })...)
			require.Equal(t, test.want, got.Status)
			require.Zero(t, body.reads.Load(), "the body was read")
			require.Zero(t, rig.last().BodyBytes)
		})
	}
	t.Run("a client that waits for 100 Continue", func(t *testing.T) {
		rig := newRig(t, &mw.Handler{Guards: guardReturning(errBoom)}).serve()
		head, _, _ := strings.Cut(rawRequest("1.1", nil, 100), "\r\n\r\n")
		conn := rig.dial(head + "\r\nExpect: 100-continue\r\n\r\n")
		require.Equal(t, 403, readStatus(t, conn))
	})
}

func TestHandlerContentTypes(t *testing.T) {
	bodies := map[string][]byte{
		"JSON":       bodyOf("a", "b"),
		"JSON Lines": []byte(eventJSON("a") + "\n" + eventJSON("b") + "\n"),
	}
	formats := map[string]mw.Format{"JSON": mw.FormatJSON, "JSON Lines": mw.FormatJSONLines}
	tests := []struct {
		name   string
		header string
		values []string
		want   int
	}{
		{"missing", "Content-Type", nil, 200},
		{"empty", "Content-Type", []string{""}, 200},
		{"JSON", "Content-Type", []string{"application/json"}, 200},
		{"JSON with a charset", "Content-Type", []string{"application/json; charset=utf-8"}, 200},
		{"JSON Lines", "Content-Type", []string{"application/jsonl"}, 200},
		{"other names of JSON Lines", "Content-Type", []string{"application/x-ndjson"}, 200},
		{"a suffix", "Content-Type", []string{"application/cloudevents+json"}, 200},
		{"text", "Content-Type", []string{"text/plain"}, 200},
		{"octets", "Content-Type", []string{"application/octet-stream"}, 200},
		{"a form, as curl says", "Content-Type", []string{"application/x-www-form-urlencoded"}, 200},
		{"nonsense", "Content-Type", []string{";;;"}, 200},
		{"a name that only begins so", "Content-Type", []string{"imagery"}, 200},
		{"multipart", "Content-Type", []string{"multipart/form-data; boundary=x"}, 415},
		{"image", "Content-Type", []string{"image/png"}, 415},
		{"audio", "Content-Type", []string{"audio/mpeg"}, 415},
		{"video", "Content-Type", []string{"video/mp4"}, 415},
		{"font", "Content-Type", []string{"font/woff2"}, 415},
		{"capitals and space", "Content-Type", []string{" IMAGE/PNG"}, 415},
		{"identity", "Content-Encoding", []string{"identity"}, 200},
		{"Identity", "Content-Encoding", []string{"Identity"}, 200},
		{"gzip", "Content-Encoding", []string{"gzip"}, 415},
		{"br", "Content-Encoding", []string{"br"}, 415},
		{"an unknown encoding", "Content-Encoding", []string{"x"}, 415},
		{"identity and gzip", "Content-Encoding", []string{"identity, gzip"}, 415},
		{"identity and gzip on two lines", "Content-Encoding", []string{"identity", "gzip"}, 415},
	}
	rig := newRig(t, &mw.Handler{}).serve()
	for format, body := range bodies {
		for _, test := range tests {
			t.Run(format+"/"+test.header+" "+test.name, func(t *testing.T) {
				before := len(rig.handled())
				require.Equal(t, test.want, rig.post(body, withHeader(test.header, test.values...)).Status)
				if test.want == 200 {
					require.Equal(t, []string{"a", "b"}, rig.handled()[before:])
					require.Equal(t, formats[format], rig.last().Format)
				} else {
					require.Len(t, rig.handled(), before)
				}
			})
		}
	}
}

func TestHandlerMaxEvents(t *testing.T) {
	lines := func(n int) []byte { return []byte(strings.Repeat("{\"event\":\"x\"}\n", n)) }
	envelope := func(n int) []byte { return envelopeOf(slices.Repeat([]string{"{}"}, n)...) }
	tests := []struct {
		name string
		max  int
		body []byte
		want int
	}{
		{"as many as allowed", 3, envelope(3), 200},
		{"one more", 3, envelope(4), 413},
		{"as many lines as allowed", 3, lines(3), 200},
		{"one more line", 3, lines(4), 413},
		{"as many as by default", 0, envelope(10_000), 200},
		{"one more than by default", 0, envelope(10_001), 413},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var called atomic.Int32
			rig := newRig(t, &mw.Handler{MaxEvents: test.max,
				OnEvent: func(context.Context, mw.Event) error { called.Add(1); return nil }}).serve()
			require.Equal(t, test.want, rig.post(test.body).Status)
			if test.want == 413 {
				require.Zero(t, called.Load())
			} else {
				require.EqualValues(t, rig.last().Events, called.Load())
				require.Equal(t, rig.last().Events, rig.last().Unknown)
			}
		})
	}
}

func TestHandlerSecrets(t *testing.T) {
	var got []int
	rig := newRig(t, &mw.Handler{Verifier: testVerifier(t, "one", testSecret, "three"),
		OnDelivery: func(_ context.Context, d *mw.Delivery) error { got = append(got, secretOf(d)); return nil }}).serve()
	for _, secret := range []string{"three", "one", testSecret} {
		require.Equal(t, 200, rig.post(bodyOf("a"), withHeader(mw.SignatureHeader, mw.Sign(bodyOf("a"), secret))).Status)
	}
	require.Equal(t, 200, rig.post(bodyOf("a"),
		withHeader(mw.SignatureHeader, strings.ToUpper(mw.Sign(bodyOf("a"), "three")))).Status)
	require.Equal(t, []int{2, 0, 1, 2}, got)
	require.NoError(t, rig.h.Verifier.SetSecrets("four"))
	require.Equal(t, 400, rig.post(bodyOf("a")).Status, "the secret was taken away")
}

func TestHandlerTenants(t *testing.T) {
	tenants := map[string]*mw.Verifier{"/one": testVerifier(t, testSecret), "/two": testVerifier(t, testSecret), "/three": testVerifier(t, "3")}
	store := &recordingStore{}
	rig := newRig(t, &mw.Handler{
		VerifierFor: func(r *http.Request) (*mw.Verifier, error) { return tenants[r.URL.Path], nil },
		Scope:       func(r *http.Request) string { return r.URL.Path },
		Dedup:       store,
	}).serve()
	at := func(path string) requestEdit { return func(r *http.Request) { r.URL.Path = path } }

	require.Equal(t, 200, rig.post(bodyOf("a"), at("/one")).Status)
	require.Equal(t, 200, rig.post(bodyOf("a"), at("/two")).Status)
	require.Equal(t, []string{"a", "a"}, rig.handled(), "each tenant's event is its own")
	require.Equal(t, 200, rig.post(bodyOf("a"), at("/one")).Status)
	require.Equal(t, []string{"a", "a"}, rig.handled(), "a retry is recognised")
	require.Equal(t, 1, rig.last().Duplicates)
	require.Equal(t, 400, rig.post(bodyOf("a"), at("/three")).Status, "another tenant's signature")
	require.Equal(t, 403, rig.post(bodyOf("a"), at("/four")).Status)

	keys := store.keysOf("Reserve")
	require.Len(t, keys, 3)
	require.True(t, strings.HasPrefix(keys[0], "/one"), keys)
	require.True(t, strings.HasPrefix(keys[1], "/two"), keys)
}

// An empty scope would let two tenants share keys.
func TestEmptyScopeIsRefused(t *testing.T) {
	rig := newRig(t, &mw.Handler{
		VerifierFor: func(*http.Request) (*mw.Verifier, error) { return testVerifier(t, testSecret), nil },
		Dedup:       newStore(),
		Scope:       func(*http.Request) string { return "" },
	})
	require.Equal(t, 500, rig.direct(bodyOf("a")).Status)
	require.Empty(t, rig.handled())
	require.Equal(t, 1, rig.said.count("Scope"))
}

func TestOnMalformed(t *testing.T) {
	tests := []struct {
		name   string
		result func(fault error) error
		want   int
	}{
		{"takes it", func(error) error { return nil }, 200},
		{"fails for good", func(error) error { return mw.Permanent(errBoom) }, 200},
		{"fails for good with the fault", mw.Permanent, 200},
		{"returns the fault", func(fault error) error { return fault }, 422},
		{"returns another error", func(error) error { return errBoom }, 500},
		{"panics", func(error) error { panic(errBoom) }, 500},
		{"panics with the fault", func(fault error) error { panic(fault) }, 500},
		{"panics with a Permanent error", func(error) error { panic(mw.Permanent(errBoom)) }, 500},
		{"exits", func(error) error { runtime.Goexit(); return nil }, 500},
		{"overruns", func(error) error { time.Sleep(time.Minute); return nil }, 500},
	}
	for _, callback := range []string{"OnEvent", "OnDelivery"} {
		for _, test := range tests {
			t.Run(callback+"/"+test.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					store := &recordingStore{}
					var got *mw.Delivery
					var fault error
					h := &mw.Handler{Dedup: store, OnMalformed: func(_ context.Context, d *mw.Delivery, err error) error {
						got, fault = d, err
						return test.result(err)
					}}
					if callback == "OnDelivery" {
						h.OnDelivery = func(context.Context, *mw.Delivery) error { t.Error("OnDelivery was called"); return nil }
					}
					rig := newRig(t, h)
					require.Equal(t, test.want, rig.direct(brokenBody()).Status)
					synctest.Wait()
					require.Equal(t, test.want, rig.last().Status)
					require.Empty(t, rig.handled(), "no event is handed out")
					require.Equal(t, brokenBody(), got.Body)
					require.Equal(t, []string{"a", "b"}, idsOf(got.Events), "those before the fault")
					require.Len(t, got.Keys, 2)
					if test.want != 200 {
						require.Equal(t, 2, rig.last().Failed)
					}
					require.Equal(t, mw.FormatJSON, got.Format)
					require.True(t, got.Request.Body == http.NoBody)
					var decodeError *mw.DecodeError
					require.ErrorAs(t, fault, &decodeError)
					require.NotContains(t, store.names(), "Commit")

					got = nil
					require.Equal(t, 400, rig.direct(brokenBody(), withForgery).Status)
					require.Nil(t, got, "a forged body is never handed out")
					time.Sleep(time.Hour)
				})
			})
		}
	}
	t.Run("is not called for a sound body", func(t *testing.T) {
		rig := newRig(t, &mw.Handler{OnMalformed: func(context.Context, *mw.Delivery, error) error {
			t.Error("OnMalformed was called")
			return nil
		}}).serve()
		require.Equal(t, 200, rig.post(envelopeOf(`7`, `{"event":3}`)).Status)
		require.Equal(t, 200, rig.post([]byte("{\"event\":\"x\"}\nnot JSON\n{\"event\":\"y\"}")).Status)
	})
}

// oddEvent is a bounce of which one field cannot be read.
const oddEvent = `{"event":"bounce","message_id":"m1","event_id":"odd","custom_variables":[]}`

// The level of a request's line says how much a person should care.
func TestRequestsAreLoggedAtTheirLevel(t *testing.T) {
	old := bodyOf("old")
	tests := []struct {
		name  string
		h     *mw.Handler
		body  []byte
		level string
		says  []string
		not   []string
	}{
		{"nothing odd", &mw.Handler{}, bodyOf("a"), "DEBUG", []string{`"handled":1`}, []string{"duplicates", "unknown", "failed"}},
		{"duplicates", &mw.Handler{}, old, "INFO", []string{`"duplicates":1`, `"handled":0`}, []string{"unreadable"}},
		{"an unknown kind", &mw.Handler{}, envelopeOf(`{"event":"telepathy"}`), "DEBUG", []string{`"unknown":1`}, []string{"unreadable"}},
		{"an odd field", &mw.Handler{}, envelopeOf(eventJSON("a"), oddEvent, `{"event":"open","timestamp":1.5}`), "WARN",
			[]string{`"unreadable":2`, "custom_variables is not"}, []string{`"unknown"`}},
		{"an element that is no object", &mw.Handler{}, envelopeOf(`5`), "WARN", []string{`"unreadable":1`, `"unknown":1`}, nil},
		{"a failure", &mw.Handler{OnEvent: eventReturning(errBoom)}, bodyOf("a"), "ERROR",
			[]string{`"failed":1`, "delivery/m-a/a", errBoom.Error()}, nil},
		{"held", &mw.Handler{Dedup: &recordingStore{reserve: func(context.Context, []string) ([]mw.Reservation, error) {
			return []mw.Reservation{mw.Held}, nil
		}}}, bodyOf("a"), "INFO", []string{`"held":1`, `"status":503`}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.h.Dedup == nil {
				test.h.Dedup = newStore()
			}
			rig := newRig(t, test.h)
			if test.name == "duplicates" {
				rig.direct(old)
			}
			rig.direct(test.body)
			lines := slices.Collect(strings.Lines(rig.said.String()))
			last := lines[len(lines)-1]
			require.Contains(t, last, `"level":"`+test.level+`"`)
			for _, part := range test.says {
				require.Contains(t, last, part)
			}
			for _, part := range test.not {
				require.NotContains(t, last, part)
			}
		})
	}
}

func TestOddFieldIsCountedAndHandled(t *testing.T) {
	var got []mw.Event
	rig := newRig(t, &mw.Handler{OnEvent: func(_ context.Context, ev mw.Event) error {
		got = append(got, ev)
		return nil
	}})
	require.Equal(t, 200, rig.direct(envelopeOf(oddEvent)).Status)
	require.Equal(t, 1, rig.last().Unreadable)
	require.Zero(t, rig.last().Unknown)
	require.IsType(t, &mw.SendingWebhookEvent{}, got[0])
	require.Equal(t, "bounce/m1/odd", got[0].Key())
}

// A mismatch is diagnosed once a minute, and only for bodies that cost little.
func TestMismatchExplainsItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rig := newRig(t, &mw.Handler{MaxBodyBytes: 2 << 20})
		body := bodyOf("a")
		signed := func(r *http.Request) { r.Header.Set(mw.SignatureHeader, mw.Sign(body, testSecret)) }
		send := func(n int) string {
			before := rig.said.String()
			received := append(slices.Clone(body), bytes.Repeat([]byte("\n"), n)...)
			require.Equal(t, 400, rig.direct(received, signed).Status)
			require.ErrorIs(t, rig.last().Err, mw.ErrInvalidSignature)
			return strings.TrimPrefix(rig.said.String(), before)
		}
		require.NotContains(t, send(1<<20), "newline", "a large body costs too much")
		require.Contains(t, send(1), "a newline was added")
		for range 3 {
			time.Sleep(19 * time.Second)
			require.Contains(t, send(1), "explains one mismatch a minute")
		}
		time.Sleep(4 * time.Second)
		require.Contains(t, send(1), "a newline was added")
	})
}

func TestBodyThatWasReadBefore(t *testing.T) {
	for name, meddle := range map[string]func(r *http.Request){
		"read":      func(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
		"half read": func(r *http.Request) { _, _ = io.CopyN(io.Discard, r.Body, 10) },
		"closed":    func(r *http.Request) { _ = r.Body.Close() },
		"read and closed": func(r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
		},
		"parsed as a form": func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			_ = r.ParseForm()
		},
	} {
		t.Run(name, func(t *testing.T) {
			rig := newRig(t, &mw.Handler{})
			rig.serveAs(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				meddle(r)
				rig.h.ServeHTTP(w, r)
			}))
			require.Equal(t, 400, rig.post(bodyOf("a")).Status)
			require.ErrorContains(t, rig.last().Err, "other code read or closed the body first")
		})
	}
}

// A test without a server has the body in memory: there is nothing to cut off.
func TestRecorderCausesNoWarning(t *testing.T) {
	rig := newRig(t, &mw.Handler{})
	w := httptest.NewRecorder()
	rig.h.ServeHTTP(w, webhooktest.NewRequest("/hook", testSecret, bodyOf("a")))
	require.Equal(t, 200, w.Code)
	require.Zero(t, rig.said.count("WARN"))
}

type panickingHandler struct{ slog.Handler }

func (panickingHandler) Handle(context.Context, slog.Record) error { panic("a logger that panics") }

// Lines are logged from goroutines that nobody recovers, too.
func TestLoggerThatPanicsEndsNothing(t *testing.T) {
	rig := newRig(t, &mw.Handler{OnEvent: eventReturning(mw.Permanent(errBoom))})
	rig.h.Logger = slog.New(panickingHandler{rig.h.Logger.Handler()})
	require.Equal(t, 200, rig.direct(bodyOf("a")).Status)
	rig.h.OnEvent = func(context.Context, mw.Event) error { panic("a callback that panics") }
	require.Equal(t, 500, rig.direct(bodyOf("a")).Status)
}

// Look-ups that heed their request's context end with Timeout.
func TestGuardsAndLookUpsHaveADeadline(t *testing.T) {
	for name, h := range map[string]*mw.Handler{
		"Guard": {Guards: []mw.Guard{func(r *http.Request) error { <-r.Context().Done(); return r.Context().Err() }}},
		"VerifierFor": {VerifierFor: func(r *http.Request) (*mw.Verifier, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, Scope: func(*http.Request) string { return "t" }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				began := time.Now()
				require.Contains(t, []int{403, 503}, newRig(t, h).direct(bodyOf("a")).Status)
				require.Equal(t, 25*time.Second, time.Since(began))
			})
		})
	}
}

// A request without a signature is no mismatch: it says what it is, and does not
// take the minute's diagnosis from one.
func TestMissingSignatureIsNoMismatch(t *testing.T) {
	rig := newRig(t, &mw.Handler{})
	for range 2 {
		require.Equal(t, 400, rig.direct(bodyOf("a"), withHeader(mw.SignatureHeader, "")).Status)
		require.ErrorIs(t, rig.last().Err, mw.ErrMissingSignature)
	}
	require.Equal(t, 2, rig.said.count("header is missing"))
	require.Equal(t, 400, rig.direct(append(bodyOf("a"), '\n'), func(r *http.Request) {
		r.Header.Set(mw.SignatureHeader, mw.Sign(bodyOf("a"), testSecret))
	}).Status)
	require.Equal(t, 1, rig.said.count("a newline was added"))
}

// The line of a request answers how long it took and how large it was.
func TestLineHasDurationAndSize(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rig := newRig(t, &mw.Handler{OnEvent: func(context.Context, mw.Event) error {
			time.Sleep(1500 * time.Millisecond)
			return nil
		}})
		require.Equal(t, 200, rig.direct(bodyOf("a")).Status)
		require.Equal(t, 1, rig.said.count(fmt.Sprintf(`"duration":"1.5s","bytes":%d`, len(bodyOf("a")))))
	})
}

// After a rotation the log shows whether the old secret is still in use.
func TestLineNamesASecretThatIsNotTheFirst(t *testing.T) {
	rig := newRig(t, &mw.Handler{Verifier: testVerifier(t, "new", testSecret)})
	require.Equal(t, 200, rig.direct(bodyOf("a")).Status)
	require.Equal(t, 1, rig.said.count(`"secret_index":1`))
	rig.h.Verifier = testVerifier(t, testSecret, "old")
	require.Equal(t, 200, rig.direct(bodyOf("a")).Status)
	require.Equal(t, 1, rig.said.count(`"secret_index":`))
}

func TestLimitsAreNamedWithTheirNumbers(t *testing.T) {
	for _, test := range []struct {
		h    *mw.Handler
		want string
	}{
		{&mw.Handler{MaxEvents: 2}, "MaxEvents, 2, events"},
		{&mw.Handler{MaxBodyBytes: 100}, "MaxBodyBytes, 100 bytes"},
		{&mw.Handler{MaxBodyBytes: 200, MaxInFlightBytes: 200}, "MaxInFlightBytes, 200 bytes"},
	} {
		rig := newRig(t, test.h)
		body := bodyOf("a", "b", "c")
		if test.h.MaxInFlightBytes > 0 {
			// The one that is being handled takes all that is left.
			test.h.OnEvent = func(context.Context, mw.Event) error {
				rig.direct(bodyOf("b"))
				return nil
			}
			body = bodyOf("a")
		}
		rig.direct(body)
		require.Equal(t, 1, rig.said.count(test.want), rig.said)
	}
}

func TestErrorsHaveOnePrefix(t *testing.T) {
	wrapped := fmt.Errorf("mailtrapwebhook: %w", errBoom) // as the package's own errors are
	for _, h := range []*mw.Handler{
		{OnEvent: eventReturning(wrapped)},
		{OnEvent: eventReturning(mw.Permanent(wrapped)), OnDrop: func(context.Context, mw.Event, error) error { return wrapped }},
		{OnDelivery: func(context.Context, *mw.Delivery) error { return wrapped }},
		{OnMalformed: func(context.Context, *mw.Delivery, error) error { return wrapped }},
		{VerifierFor: func(*http.Request) (*mw.Verifier, error) { return nil, wrapped }, Dedup: noDedup},
		{Dedup: &recordingStore{reserve: func(context.Context, []string) ([]mw.Reservation, error) { return nil, wrapped }}},
	} {
		rig := newRig(t, h)
		body := bodyOf("a")
		if h.OnMalformed != nil {
			body = brokenBody()
		}
		require.NotEqual(t, 200, rig.direct(body).Status)
		require.ErrorIs(t, rig.last().Err, errBoom)
		require.Equal(t, 1, strings.Count(rig.last().Err.Error(), "mailtrapwebhook: "), rig.last().Err)
	}
}

// Who took the time is not always the callback.
func TestNoTimeToStartBlamesNoCallback(t *testing.T) {
	slow := &recordingStore{reserve: func(_ context.Context, keys []string) ([]mw.Reservation, error) {
		time.Sleep(24_990 * time.Millisecond)
		return slices.Repeat([]mw.Reservation{reserved}, len(keys)), nil
	}}
	for name, h := range map[string]*mw.Handler{
		"Scope":   {Scope: func(*http.Request) string { time.Sleep(26 * time.Second); return "t" }},
		"Reserve": {Dedup: slow, OnEvent: func(context.Context, mw.Event) error { time.Sleep(time.Millisecond); return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				rig := newRig(t, h)
				rig.direct(numbered(500))
				switch name {
				case "Scope":
					require.ErrorContains(t, rig.last().Err, "Timeout was over before the first callback")
					require.Zero(t, rig.said.count("OnEvent is too slow"))
				case "Reserve":
					require.Equal(t, 1, rig.said.count(`"time":10000000`), "it says how little time the calls had")
				}
			})
		})
	}
}

// One failure of OnDelivery is about all the events, and names none of them.
func TestFailureOfOnDeliveryNamesNoEvent(t *testing.T) {
	rig := newRig(t, &mw.Handler{OnDelivery: func(context.Context, *mw.Delivery) error { return errBoom }})
	require.Equal(t, 500, rig.direct(bodyOf("a", "b")).Status)
	require.EqualError(t, rig.last().Err, "mailtrapwebhook: OnDelivery failed: "+errBoom.Error())
	rig.h.OnDelivery = func(context.Context, *mw.Delivery) error { panic("boom") }
	require.Equal(t, 500, rig.direct(bodyOf("a", "b")).Status)
	require.Equal(t, 1, rig.said.count(`"events":2,"err":"panic`))
	require.Zero(t, rig.said.count("delivery/"))
}
