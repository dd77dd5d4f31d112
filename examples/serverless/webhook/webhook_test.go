package webhook

import (
	"bytes"
	"context"
	"log/slog"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/programtest"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const secret = programtest.Secret

// environment returns a getenv.
func environment(variables map[string]string) func(string) string {
	return func(name string) string { return variables[name] }
}

// deliver gives w the samples and returns the answer.
func deliver(w *Webhook, ctx context.Context, secret string) (status int) {
	body := webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Samples()...)
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, webhooktest.NewRequest("/", secret, body).WithContext(ctx))
	return rec.Code
}

// captureLog returns what the package logs during the test.
func captureLog(t *testing.T) *bytes.Buffer {
	t.Helper()
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &log
}

// A slowStore takes all the time that it is given to tell what was handled.
type slowStore struct{ mailtrapwebhook.Deduplicator }

func (slowStore) Commit(ctx context.Context, _ []string) error {
	<-ctx.Done()
	return ctx.Err()
}

func (slowStore) Release(ctx context.Context, _ []string) error {
	<-ctx.Done()
	return ctx.Err()
}

// A platform kills an instance that has not answered by the deadline.
func TestAnswersBeforeTheDeadline(t *testing.T) {
	waits := func(ctx context.Context, _ mailtrapwebhook.Event) error {
		<-ctx.Done()
		return ctx.Err()
	}
	ignores := func(context.Context, mailtrapwebhook.Event) error {
		time.Sleep(40 * time.Second)
		return nil
	}
	first := func() func(ctx context.Context, ev mailtrapwebhook.Event) error {
		var calls atomic.Int32
		return func(ctx context.Context, ev mailtrapwebhook.Event) error {
			if calls.Add(1) == 1 {
				return nil
			}
			return waits(ctx, ev)
		}
	}
	memory := func() mailtrapwebhook.Deduplicator { return new(mailtrapwebhook.MemoryDeduplicator) }
	for _, left := range []time.Duration{time.Second, 3 * time.Second, 15 * time.Second, 29 * time.Second, time.Minute} {
		for name, test := range map[string]struct {
			onEvent func(context.Context, mailtrapwebhook.Event) error
			store   mailtrapwebhook.Deduplicator
		}{
			"callbacks that wait":       {waits, memory()},
			"callbacks that ignore ctx": {ignores, memory()},
			"a slow store":              {first(), slowStore{memory()}},
		} {
			t.Run(left.String()+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					verifier, err := mailtrapwebhook.NewVerifier(secret)
					require.NoError(t, err)
					w := &Webhook{Verifier: verifier, Dedup: test.store, OnEvent: test.onEvent, Logger: slog.New(slog.DiscardHandler)}
					ctx, cancel := context.WithTimeout(t.Context(), left)
					defer cancel()
					began := time.Now()
					require.Equal(t, 500, deliver(w, ctx, secret))
					took := time.Since(began)
					require.Less(t, took, min(left, 29*time.Second), "the platform killed the instance")
					require.Greater(t, took, min(left, maxTimeout)/3, "the callbacks did not get their time")
					time.Sleep(time.Minute) // the callbacks that were abandoned return
				})
			})
		}
	}
}

// A callback that returns after the deadline, when the instance works again,
// still has its event marked.
func TestLateSuccessIsMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		verifier, err := mailtrapwebhook.NewVerifier(secret)
		require.NoError(t, err)
		var calls atomic.Int32
		w := &Webhook{Verifier: verifier, Dedup: new(mailtrapwebhook.MemoryDeduplicator), Logger: slog.New(slog.DiscardHandler)}
		w.OnEvent = func(context.Context, mailtrapwebhook.Event) error {
			if calls.Add(1) == 1 {
				time.Sleep(10 * time.Second)
			}
			return nil
		}
		body := webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Sample("bounce"))
		for _, want := range []int{500, 200} {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			rec := httptest.NewRecorder()
			w.ServeHTTP(rec, webhooktest.NewRequest("/", secret, body).WithContext(ctx))
			cancel()
			require.Equal(t, want, rec.Code)
			time.Sleep(time.Minute)
		}
		require.EqualValues(t, 1, calls.Load())
	})
}

// Each webhook has a secret of its own.
func TestSeveralSecrets(t *testing.T) {
	captureLog(t)
	w, err := New(environment(map[string]string{SecretVariable: "a, b\n"}))
	require.NoError(t, err)
	for secret, want := range map[string]int{"a": 200, "b": 200, "a,b": 400, "c": 400} {
		require.Equal(t, want, deliver(w, t.Context(), secret), secret)
	}
}

func TestSecretIsMissing(t *testing.T) {
	for _, secrets := range []string{"", " \n", "a,", ",a", "a,,b"} {
		_, err := New(environment(map[string]string{SecretVariable: secrets}))
		require.ErrorContains(t, err, "set MAILTRAP_SIGNING_SECRET", "%q", secrets)
	}
}
