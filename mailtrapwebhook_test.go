package mailtrapwebhook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestHandlerAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		h     *mw.Handler
		body  []byte // nil: one event
		edits []requestEdit
		want  int
	}{
		{"an event is handled", &mw.Handler{}, nil, nil, 200},
		{"a JSON Lines event is handled", &mw.Handler{}, []byte(eventJSON("a") + "\n" + eventJSON("b") + "\n"), nil, 200},
		{"a delivery without events", &mw.Handler{}, []byte(`{"events":[]}`), nil, 200},
		{"an event of an unknown kind", &mw.Handler{}, envelopeOf(`{"event":"new"}`, `7`), nil, 200},
		{"an event fails for good", &mw.Handler{OnEvent: eventReturning(mw.Permanent(errBoom))}, nil, nil, 200},
		{"a delivery fails for good", &mw.Handler{OnDelivery: deliveryReturning(mw.Permanent(errBoom))}, nil, nil, 200},

		{"no signature", &mw.Handler{}, nil, []requestEdit{withoutSignature}, 400},
		{"an empty signature", &mw.Handler{}, nil, []requestEdit{withHeader(mw.SignatureHeader, "")}, 400},
		{"a forged signature", &mw.Handler{}, nil, []requestEdit{withForgery}, 400},
		{"a signature that is not hexadecimal", &mw.Handler{}, nil,
			[]requestEdit{withHeader(mw.SignatureHeader, strings.Repeat("x", 64))}, 400},
		{"two signatures, both right", &mw.Handler{}, nil, []requestEdit{withHeader(mw.SignatureHeader,
			mw.Sign(bodyOf("a"), testSecret), mw.Sign(bodyOf("a"), testSecret))}, 400},
		{"two signatures in one header", &mw.Handler{}, nil, []requestEdit{withHeader(mw.SignatureHeader,
			mw.Sign(bodyOf("a"), testSecret)+", "+mw.Sign(bodyOf("a"), testSecret))}, 400},
		{"an empty body", &mw.Handler{}, []byte{}, nil, 400},
		{"another secret", &mw.Handler{Verifier: testVerifier(t, "another")}, nil, nil, 400},

		{"a Guard's ErrUnauthorized", &mw.Handler{Guards: guardReturning(mw.ErrUnauthorized)}, nil, nil, 401},
		{"a Guard's error that wraps ErrUnauthorized",
			&mw.Handler{Guards: guardReturning(fmt.Errorf("x: %w", mw.ErrUnauthorized))}, nil, nil, 401},
		{"a Guard's ErrForbidden", &mw.Handler{Guards: guardReturning(mw.ErrForbidden)}, nil, nil, 403},
		{"a Guard's other error", &mw.Handler{Guards: guardReturning(errBoom)}, nil, nil, 403},
		{"the second Guard's error", &mw.Handler{Guards: append(guardReturning(nil), guardReturning(errBoom)...)}, nil, nil, 403},
		{"a Guard that panics", &mw.Handler{Guards: []mw.Guard{func(*http.Request) error { panic(errBoom) }}}, nil, nil, 500},
		{"VerifierFor's error that wraps ErrUnauthorized",
			&mw.Handler{VerifierFor: verifierReturning(nil, fmt.Errorf("x: %w", mw.ErrUnauthorized))}, nil, nil, 401},
		{"VerifierFor's error that wraps ErrForbidden",
			&mw.Handler{VerifierFor: verifierReturning(nil, fmt.Errorf("x: %w", mw.ErrForbidden))}, nil, nil, 403},
		{"VerifierFor has neither", &mw.Handler{VerifierFor: verifierReturning(nil, nil)}, nil, nil, 403},
		{"VerifierFor's other error", &mw.Handler{VerifierFor: verifierReturning(nil, errBoom)}, nil, nil, 503},
		{"VerifierFor's error beside a verifier",
			&mw.Handler{VerifierFor: verifierReturning(testVerifier(t, testSecret), errBoom)}, nil, nil, 503},
		{"VerifierFor's verifier", &mw.Handler{VerifierFor: verifierReturning(testVerifier(t, testSecret), nil)}, nil, nil, 200},
		{"VerifierFor instead of Verifier", &mw.Handler{Verifier: testVerifier(t, testSecret),
			VerifierFor: verifierReturning(testVerifier(t, "another"), nil)}, nil, nil, 400},

		{"GET", &mw.Handler{}, nil, []requestEdit{withMethod("GET")}, 405},
		{"HEAD", &mw.Handler{}, nil, []requestEdit{withMethod("HEAD")}, 405},
		{"PUT", &mw.Handler{}, nil, []requestEdit{withMethod("PUT")}, 405},
		{"OPTIONS", &mw.Handler{}, nil, []requestEdit{withMethod("OPTIONS")}, 405},

		{"a body that is too large", &mw.Handler{MaxBodyBytes: 300}, padded("a", 301), nil, 413},
		{"a body that is too large, in chunks", &mw.Handler{MaxBodyBytes: 300}, padded("a", 301), []requestEdit{inChunks}, 413},
		{"too many events", &mw.Handler{MaxEvents: 1}, bodyOf("a", "b"), nil, 413},
		{"too many lines", &mw.Handler{MaxEvents: 1}, []byte(eventJSON("a") + "\n" + eventJSON("b")), nil, 413},

		{"a broken structure", &mw.Handler{}, brokenBody(), nil, 422},
		{"a body that is neither object nor array", &mw.Handler{}, []byte("7"), nil, 422},
		{"a body of white space", &mw.Handler{}, []byte(" \n"), nil, 422},

		{"an event fails", &mw.Handler{OnEvent: eventReturning(errBoom)}, nil, nil, 500},
		{"a delivery fails", &mw.Handler{OnDelivery: deliveryReturning(errBoom)}, nil, nil, 500},
		{"an event's callback panics",
			&mw.Handler{OnEvent: func(context.Context, mw.Event) error { panic(errBoom) }}, nil, nil, 500},
		{"a delivery's callback panics",
			&mw.Handler{OnDelivery: func(context.Context, *mw.Delivery) error { panic(errBoom) }}, nil, nil, 500},
		{"an event's callback overruns", &mw.Handler{EventTimeout: time.Millisecond,
			OnEvent: func(ctx context.Context, _ mw.Event) error { time.Sleep(300 * time.Millisecond); return nil }}, nil, nil, 500},
		{"an event's callback heeds its context", &mw.Handler{EventTimeout: time.Millisecond,
			OnEvent: func(ctx context.Context, _ mw.Event) error { <-ctx.Done(); return ctx.Err() }}, nil, nil, 500},
		{"a delivery's callback overruns", &mw.Handler{Timeout: time.Second,
			OnDelivery: func(context.Context, *mw.Delivery) error { time.Sleep(1500 * time.Millisecond); return nil }}, nil, nil, 500},
		{"the verifier has no secret", &mw.Handler{Verifier: new(mw.Verifier)}, nil, nil, 500},
		{"a panic in VerifierFor", &mw.Handler{VerifierFor: func(*http.Request) (*mw.Verifier, error) { panic(errBoom) }}, nil, nil, 500},
		{"a panic in Scope", &mw.Handler{Scope: func(*http.Request) string { panic(errBoom) }}, nil, nil, 500},

		{"the store is down", &mw.Handler{Dedup: deadStore{}}, nil, nil, 503},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, test.h).serve()
			body := test.body
			if body == nil {
				body = bodyOf("a")
			}
			got := rig.post(body, test.edits...)
			require.Equal(t, test.want, got.Status)
			require.GreaterOrEqual(t, rig.said.count(fmt.Sprintf(`"status":%d`, test.want)), 1, "the outcome is logged")
			if test.want < 500 && test.want != 200 {
				require.Empty(t, rig.handled())
			}
		})
	}
}

func TestHandlerSetUpErrors(t *testing.T) {
	v := testVerifier(t, testSecret)
	tests := []struct {
		name string
		h    *mw.Handler
		says []string
	}{
		{"no verifier", &mw.Handler{OnEvent: eventReturning(nil)}, []string{"Verifier", "NewVerifier"}},
		{"no callback", &mw.Handler{Verifier: v}, []string{"OnEvent", "OnDelivery", "set one"}},
		{"two callbacks", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), OnDelivery: deliveryReturning(nil)},
			[]string{"OnEvent", "OnDelivery", "set one"}},
		{"Timeout too long", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), Timeout: 28*time.Second + 1},
			[]string{"Timeout", "28"}},
		{"MaxInFlightBytes too small", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), MaxBodyBytes: 1000, MaxInFlightBytes: 999},
			[]string{"MaxInFlightBytes", "MaxBodyBytes"}},
		{"MaxInFlightBytes below the default MaxBodyBytes",
			&mw.Handler{Verifier: v, OnEvent: eventReturning(nil), MaxInFlightBytes: 8<<20 - 1},
			[]string{"MaxInFlightBytes", "MaxBodyBytes"}},
		{"MaxBodyBytes over the default MaxInFlightBytes",
			&mw.Handler{Verifier: v, OnEvent: eventReturning(nil), MaxBodyBytes: 64<<20 + 1},
			[]string{"MaxInFlightBytes", "MaxBodyBytes"}},
		{"no Scope", &mw.Handler{VerifierFor: verifierReturning(v, nil), OnEvent: eventReturning(nil), Dedup: newStore()},
			[]string{"Scope", "VerifierFor"}},
		{"no Scope for the Handler's own store", &mw.Handler{VerifierFor: verifierReturning(v, nil), OnEvent: eventReturning(nil)},
			[]string{"Scope", "VerifierFor", "NoDedup"}},
		{"a Verifier without a secret", &mw.Handler{Verifier: new(mw.Verifier), OnEvent: eventReturning(nil)},
			[]string{"Verifier", "NewVerifier"}},
		{"a nil store", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), Dedup: (*mw.MemoryDeduplicator)(nil)},
			[]string{"MemoryDeduplicator"}},
		{"Timeout", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), Timeout: -1}, []string{"Timeout"}},
		{"EventTimeout", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), EventTimeout: -1}, []string{"EventTimeout"}},
		{"GiveUpAfter", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), GiveUpAfter: -1}, []string{"GiveUpAfter"}},
		{"Concurrency", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), Concurrency: -1}, []string{"Concurrency"}},
		{"MaxEvents", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), MaxEvents: -1}, []string{"MaxEvents"}},
		{"MaxBodyBytes", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), MaxBodyBytes: -1}, []string{"MaxBodyBytes"}},
		{"MaxBodyBytes without bound", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), MaxBodyBytes: 1<<63 - 1,
			MaxInFlightBytes: 1<<63 - 1}, []string{"MaxBodyBytes"}},
		{"MaxInFlightBytes", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), MaxInFlightBytes: -1},
			[]string{"MaxInFlightBytes"}},
		{"Retention", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), Dedup: memoryStore(-1, 0)}, []string{"Retention"}},
		{"MaxKeys", &mw.Handler{Verifier: v, OnEvent: eventReturning(nil), Dedup: memoryStore(0, -1)}, []string{"MaxKeys"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			said := new(recordedLog)
			test.h.Logger = said.logger()
			var called atomic.Int32
			if test.h.OnEvent != nil {
				test.h.OnEvent = func(context.Context, mw.Event) error { called.Add(1); return nil }
			}
			if test.h.OnDelivery != nil {
				test.h.OnDelivery = func(context.Context, *mw.Delivery) error { called.Add(1); return nil }
			}
			test.h.Guards = []mw.Guard{func(*http.Request) error { called.Add(1); return nil }}
			var reports []mw.Report
			test.h.Observe = func(_ context.Context, r mw.Report) { reports = append(reports, r) }
			body := &countedReader{Reader: bytes.NewReader(bodyOf("a"))}
			r := httptest.NewRequest(http.MethodPost, "/", body)
			r.Header.Set(mw.SignatureHeader, mw.Sign(bodyOf("a"), testSecret))
			w := httptest.NewRecorder()
			test.h.ServeHTTP(w, r)

			require.Equal(t, http.StatusInternalServerError, w.Code)
			require.Zero(t, called.Load(), "something was called")
			require.Zero(t, body.reads.Load(), "the body was read")
			require.Len(t, reports, 1)
			require.Equal(t, w.Code, reports[0].Status)
			for _, word := range test.says {
				require.Contains(t, said.String(), word)
				require.ErrorContains(t, reports[0].Err, word)
				require.NotContains(t, w.Body.String(), word)
			}
			require.Contains(t, said.String(), `"level":"ERROR"`)
			require.Equal(t, reports[0].Err, test.h.Validate(), "Validate says the same at start")
			require.Equal(t, 1, strings.Count(test.h.Validate().Error(), "mailtrapwebhook:"))
		})
	}
	t.Run("a nil Guard", func(t *testing.T) {
		rig := newRig(t, &mw.Handler{Guards: []mw.Guard{nil}})
		require.ErrorContains(t, rig.h.Validate(), "Guard")
		require.Equal(t, 500, rig.direct(bodyOf("a")).Status)
	})
}

// What would serve, and cannot be meant, shows at start and nowhere else.
func TestValidateReportsWhatCannotBeMeant(t *testing.T) {
	refusing := func(guard mw.Guard) *mw.Handler {
		return &mw.Handler{Guards: []mw.Guard{guardReturning(nil)[0], guard}}
	}
	for want, h := range map[string]*mw.Handler{
		"Guards[1] refuses every request: BasicAuth":  refusing(mw.BasicAuth("mailtrap", "")),
		"Guards[1] refuses every request: QueryToken": refusing(mw.QueryToken("t", "")),
		"has a colon in the user name":                refusing(mw.BasicAuth("a:b", "c")),
		"Timeout is 25ns: give it a unit":             {Timeout: 25},
		"EventTimeout is 5ns":                         {EventTimeout: 5},
		"GiveUpAfter is 3ns":                          {GiveUpAfter: 3},
		"Timeout is 25µs":                             {Timeout: 25_000},
		"EventTimeout is 5µs":                         {EventTimeout: 5000},
		"GiveUpAfter is 10.8µs":                       {GiveUpAfter: 10_800},
		"Dedup.Retention is 72ns":                     {Dedup: &mw.MemoryDeduplicator{Retention: 72}},
	} {
		rig := newRig(t, h)
		require.ErrorContains(t, rig.h.Validate(), want)
		require.Equal(t, 1, strings.Count(rig.h.Validate().Error(), "mailtrapwebhook:"))
		require.NotEqual(t, 500, rig.direct(bodyOf("a")).Status)
	}
	for _, h := range []*mw.Handler{
		{GiveUpAfter: time.Nanosecond, EventTimeout: time.Millisecond},
		refusing(mw.NewIPAllowlist(nil).Guard()), // Set may follow
	} {
		require.NoError(t, newRig(t, h).h.Validate())
	}
}

func TestHandlerServesWithinItsLimits(t *testing.T) {
	rig := newRig(t, &mw.Handler{
		Timeout: 28 * time.Second, MaxBodyBytes: 1000, MaxInFlightBytes: 1000,
		VerifierFor: verifierReturning(testVerifier(t, testSecret), nil),
	}).serve()
	require.NoError(t, rig.h.Validate())
	require.Equal(t, 200, rig.post(bodyOf("a")).Status)
}

func TestHandlerOverHTTP2(t *testing.T) {
	t.Run("bodies within and over the limit", func(t *testing.T) {
		rig := newRig(t, &mw.Handler{MaxBodyBytes: 200_000}).serve(func(srv *httptest.Server) { srv.EnableHTTP2 = true })
		got := rig.post(bodyOf("a"))
		require.Equal(t, 2, got.Proto)
		require.Equal(t, 200, got.Status)
		require.Equal(t, 200, rig.post(padded("b", 200_000), inChunks).Status)
		require.Equal(t, []string{"a", "b"}, rig.handled())
		require.Equal(t, 413, rig.post(padded("b", 200_001), inChunks).Status)
	})
	t.Run("a slow body", func(t *testing.T) {
		rig := newRig(t, &mw.Handler{Timeout: 150 * time.Millisecond}).serve(func(srv *httptest.Server) { srv.EnableHTTP2 = true })
		body, w := io.Pipe()
		defer w.Close()
		go func() { _, _ = w.Write(bodyOf("a")) }()
		got, err := rig.try(bodyOf("a"), func(r *http.Request) { r.Body, r.ContentLength = body, -1 })
		require.NoError(t, err)
		require.Equal(t, 503, got.Status)
	})
}

func TestReport(t *testing.T) {
	rig := newRig(t, &mw.Handler{Dedup: newStore(), OnEvent: func(_ context.Context, ev mw.Event) error {
		switch idOf(ev) {
		case "fails":
			return errBoom
		case "drops":
			return mw.Permanent(errBoom)
		}
		return nil
	}}).serve()
	check := func(want mw.Report) {
		t.Helper()
		if diff := cmp.Diff(want, rig.last(), cmpopts.IgnoreFields(mw.Report{}, "Duration", "Err")); diff != "" {
			t.Errorf("report (-want +got):\n%s", diff)
		}
		require.Positive(t, rig.last().Duration)
	}
	require.Equal(t, 200, rig.post(bodyOf("before")).Status)
	check(mw.Report{Status: 200, Format: mw.FormatJSON, BodyBytes: len(bodyOf("before")), Events: 1, Handled: 1})
	body := envelopeOf(eventJSON("before"), eventJSON("fails"), eventJSON("drops"), eventJSON("new"), `{"event":"x"}`)
	require.Equal(t, 500, rig.post(body).Status)
	check(mw.Report{Status: 500, Format: mw.FormatJSON, BodyBytes: len(body), Events: 5, Handled: 2, Duplicates: 1, Dropped: 1,
		Failed: 1, Unknown: 1})
	require.ErrorIs(t, rig.last().Err, errBoom)
	require.Equal(t, 400, rig.post(body, withForgery).Status)
	require.Zero(t, rig.last().Events)
	require.ErrorIs(t, rig.last().Err, mw.ErrInvalidSignature)
	require.Equal(t, 405, rig.post(nil, withMethod("GET")).Status)
	check(mw.Report{Status: 405})
	require.Equal(t, 422, rig.post(brokenBody()).Status)
	require.Zero(t, rig.last().Handled)
	var fault *mw.DecodeError
	require.ErrorAs(t, rig.last().Err, &fault)
}

func TestObservePanics(t *testing.T) {
	rig := newRig(t, &mw.Handler{Observe: func(context.Context, mw.Report) { panic("of Observe") }}).serve()
	require.Equal(t, 200, rig.post(bodyOf("a")).Status)
	require.Equal(t, 400, rig.post(bodyOf("a"), withForgery).Status)
	require.Contains(t, rig.said.String(), "of Observe")
	require.NotContains(t, rig.said.String(), "http: panic")
}

func TestOnDelivery(t *testing.T) {
	store := &recordingStore{}
	var got []*mw.Delivery
	var result error
	rig := newRig(t, &mw.Handler{
		Verifier: testVerifier(t, "another", testSecret),
		Dedup:    store,
		OnDelivery: func(_ context.Context, d *mw.Delivery) error {
			got = append(got, d)
			return result
		},
	}).serve()
	began := time.Now()
	body := envelopeOf(eventJSON("a"), auditJSON, eventJSON("b"))
	require.Equal(t, 200, rig.post(body, withQuery("q=1"), withHeader("X-Test", "x")).Status)
	require.Len(t, got, 1)
	d := got[0]
	require.Equal(t, body, d.Body)
	require.Equal(t, []string{"a", "activity_log.user.updated", "b"}, idsOf(d.Events))
	require.Equal(t, store.keysOf("Reserve"), d.Keys, "the keys are those that are reserved")
	require.Equal(t, d.Events[0].Key(), d.Keys[0])
	require.NotEqual(t, d.Events[1].Key(), d.Keys[1])
	require.Contains(t, d.Keys[1], d.Events[1].Key())
	require.Equal(t, mw.FormatJSON, d.Format)
	require.Equal(t, 1, secretOf(d))
	require.Zero(t, d.Duplicates)
	require.WithinRange(t, d.ReceivedAt, began, time.Now())
	require.True(t, d.Request.Body == http.NoBody)
	require.Equal(t, "q=1", d.Request.URL.RawQuery)
	require.Equal(t, "x", d.Request.Header.Get("X-Test"))
	require.Equal(t, 3, rig.last().Handled)

	more := []byte(eventJSON("a") + "\n" + eventJSON("c") + "\n")
	require.Equal(t, 200, rig.post(more).Status)
	require.Len(t, got, 2)
	require.Equal(t, mw.FormatJSONLines, got[1].Format)
	require.Equal(t, []string{"c"}, idsOf(got[1].Events), "only what is new")
	require.Equal(t, []string{got[1].Events[0].Key()}, got[1].Keys)
	require.Equal(t, 1, got[1].Duplicates)

	require.Equal(t, 200, rig.post(body).Status)
	require.Equal(t, 200, rig.post([]byte(`{"events":[]}`)).Status)
	require.Len(t, got, 2, "no new event, no call")

	result = errBoom
	require.Equal(t, 500, rig.post(bodyOf("d", "e", "a")).Status)
	require.Equal(t, 2, rig.last().Failed)
	result = mw.Permanent(errBoom)
	require.Equal(t, 200, rig.post(bodyOf("d", "e")).Status)
	require.Equal(t, []string{"d", "e"}, idsOf(got[3].Events), "an error releases all")
	require.Equal(t, 2, rig.last().Dropped)
	require.Equal(t, 200, rig.post(bodyOf("d", "e")).Status)
	require.Len(t, got, 4, "a Permanent error commits all")
}

// A callback may change its Delivery. A nil error still commits every event, any
// other releases every event.
func TestOnDeliveryMayAlterItsDelivery(t *testing.T) {
	for want, result := range map[string]error{"Commit": nil, "Release": errBoom} {
		t.Run(want, func(t *testing.T) {
			store := &recordingStore{}
			rig := newRig(t, &mw.Handler{Dedup: store, OnDelivery: func(_ context.Context, d *mw.Delivery) error {
				slices.Reverse(d.Events)
				clear(d.Keys)
				d.Events, d.Keys, d.Body = append(d.Events[:1], d.Events...), nil, nil
				return result
			}})
			status := 200
			if result != nil {
				status = 500
			}
			require.Equal(t, status, rig.direct(bodyOf("a", "b", "c")).Status)
			require.Equal(t, store.keysOf("Reserve"), store.keysOf(want))
		})
	}
}

// The program in the README, the test of it, and the functions that are whole
// work when they are copied.
func TestProgramInREADMEPassesItsTest(t *testing.T) {
	t.Parallel() // go test takes a while
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	programs := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindAllSubmatch(readme, -1)
	require.Len(t, programs, 2)
	functions := regexp.MustCompile("(?s)```go\n((?://[^\n]*\n)?func .*?)```").FindAllSubmatch(readme, -1)
	require.Len(t, functions, 2)
	library := "package main\nimport (\"context\"; \"database/sql\"; \"github.com/mailtrapwebhook/mailtrapwebhook\")\n"
	for _, function := range functions {
		library += string(function[1])
	}
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "main.go"), filepath.Join(dir, "main_test.go"), filepath.Join(dir, "functions.go")}
	for i, text := range []string{string(programs[0][1]), string(programs[1][1]), library} {
		require.NoError(t, os.WriteFile(files[i], []byte(text), 0o600))
	}
	out, err := exec.Command("go", append([]string{"test", "-timeout", "1m"}, files...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, "^ok ", string(out))
}

type emptyJoin struct{}

func (emptyJoin) Error() string { return "nothing" }

func (emptyJoin) Unwrap() []error { return nil }

func TestPermanent(t *testing.T) {
	require.NoError(t, mw.Permanent(nil))
	err := mw.Permanent(errBoom)
	require.ErrorIs(t, err, errBoom)
	require.ErrorContains(t, err, errBoom.Error())

	tests := []struct {
		name    string
		onEvent func(context.Context, mw.Event) error
		want    int
	}{
		{"nil", eventReturning(mw.Permanent(nil)), 200},
		{"wrapped", eventReturning(fmt.Errorf("x: %w", mw.Permanent(errBoom))), 200},
		{"joined, all of them permanent", eventReturning(errors.Join(mw.Permanent(errBoom), mw.Permanent(errBoom))), 200},
		{"joined with one that is not", eventReturning(errors.Join(mw.Permanent(errBoom), errBoom)), 500},
		{"an empty join", eventReturning(emptyJoin{}), 500},
		{"after EventTimeout", func(ctx context.Context, _ mw.Event) error { <-ctx.Done(); return mw.Permanent(ctx.Err()) }, 200},
		{"a panic is a failure, whatever its value", func(context.Context, mw.Event) error { panic(mw.Permanent(errBoom)) }, 500},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := &recordingStore{}
				rig := newRig(t, &mw.Handler{Dedup: store, OnEvent: test.onEvent})
				require.Equal(t, test.want, rig.direct(bodyOf("a")).Status)
				if test.want == 200 {
					require.Equal(t, []string{"Reserve", "Commit"}, store.names())
				} else {
					require.Equal(t, []string{"Reserve", "Release"}, store.names())
				}
			})
		})
	}
}

func TestKeyFromContext(t *testing.T) {
	require.Empty(t, mw.KeyFromContext(t.Context()))
	var keys []string
	scope := func(*http.Request) string { return "tenant" }
	see := func(ctx context.Context) error {
		derived, cancel := context.WithCancel(ctx)
		defer cancel()
		require.Equal(t, mw.KeyFromContext(ctx), mw.KeyFromContext(derived))
		keys = append(keys, mw.KeyFromContext(ctx))
		return nil
	}
	body := envelopeOf(eventJSON("a"), eventJSON("b"), auditJSON, eventJSON("a"))
	rig := newRig(t, &mw.Handler{Scope: scope, OnEvent: func(ctx context.Context, _ mw.Event) error { return see(ctx) }})
	require.Equal(t, 200, rig.direct(body).Status)
	rig = newRig(t, &mw.Handler{Scope: scope, OnDelivery: func(ctx context.Context, d *mw.Delivery) error {
		require.Empty(t, mw.KeyFromContext(ctx), "a delivery has many")
		require.Equal(t, d.Keys, keys)
		return nil
	}})
	require.Equal(t, 200, rig.direct(body).Status)
	require.Equal(t, "tenant:delivery/m-b/b", keys[1])
	require.Regexp(t, "^tenant:delivery/m-a/a/[0-9a-f]{32}/0$", keys[0], "two events have its ids")
	require.Regexp(t, "^tenant:activity_log.user.updated/[0-9a-f]{32}/[0-9a-f]{32}/2$", keys[2])
}

type selfWrapping struct{}

func (e selfWrapping) Error() string { return "it wraps itself" }

func (e selfWrapping) Unwrap() error { return e }

func TestErrorThatWrapsItself(t *testing.T) {
	rig := newRig(t, &mw.Handler{OnEvent: eventReturning(selfWrapping{})})
	require.Equal(t, 500, rig.direct(bodyOf("a")).Status)
}

// Mailtrap repeats whole batches, so that a Handler de-duplicates unless it is
// told not to.
func TestHandlerDeduplicatesByDefault(t *testing.T) {
	for _, test := range []struct {
		store mw.Deduplicator
		calls int
	}{{nil, 1}, {mw.NoDedup, 3}} {
		rig := newRig(t, &mw.Handler{})
		rig.h.Dedup = test.store
		for range 3 {
			require.Equal(t, 200, rig.direct(bodyOf("a")).Status)
		}
		require.Len(t, rig.handled(), test.calls)
	}
}
