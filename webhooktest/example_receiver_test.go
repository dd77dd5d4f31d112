package webhooktest_test

import (
	"context"
	"sync"
	"testing"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// testWebhooks is the test. Call yours TestWebhooks, so that go test finds it.
func testWebhooks(t *testing.T) {
	const secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	counts := make(map[string]int) // stands for your database
	webhooktest.TestReceiver(t, webhooktest.Receiver{
		Handler: &mailtrapwebhook.Handler{
			Verifier: verifier,
			OnEvent: func(_ context.Context, ev mailtrapwebhook.Event) error {
				mu.Lock()
				defer mu.Unlock()
				counts[ev.Key()]++
				return nil
			},
		},
		Secret: secret,
		Count: func(ev mailtrapwebhook.Event) int {
			mu.Lock()
			defer mu.Unlock()
			return counts[ev.Key()]
		},
	})
}

func ExampleTestReceiver() {
	var t *testing.T // go test provides it
	testWebhooks(t)
}
