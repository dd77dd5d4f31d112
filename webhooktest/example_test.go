package webhooktest_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// newHandler returns the receiver that the examples test. It prints the name of
// each event.
func newHandler(secret string) *mailtrapwebhook.Handler {
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	if err != nil {
		panic(err)
	}
	return &mailtrapwebhook.Handler{
		Verifier: verifier,
		OnEvent: func(_ context.Context, ev mailtrapwebhook.Event) error {
			fmt.Println(ev.Name())
			return nil
		},
		Logger: slog.New(slog.DiscardHandler),
	}
}

func Example() {
	const secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"
	handler := newHandler(secret)

	body := webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Sample("bounce"), webhooktest.Sample("open"))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, webhooktest.NewRequest("/webhooks/mailtrap", secret, body))
	fmt.Println(w.Code)

	// Output:
	// bounce
	// open
	// 200
}

func ExampleSample() {
	bounce := webhooktest.Sample("bounce").(*mailtrapwebhook.SendingWebhookEvent)
	fmt.Println(bounce.Email, bounce.ResponseCode, bounce.BounceCategory)

	// Output: recipient@example.com 550 badrecipient
}

func ExampleSamples() {
	for _, ev := range webhooktest.Samples() {
		fmt.Println(ev.Name())
	}

	// Output:
	// delivery
	// open
	// click
	// unsubscribe
	// spam
	// soft bounce
	// bounce
	// suspension
	// reject
	// activity_log.user.updated
	// activity_log.user.login
	// activity_log.sandbox.updated
	// inbound.message_received
}

// Change the fields of a sample to test what your callback does with them.
func ExampleBody() {
	bounce := webhooktest.Sample("bounce").(*mailtrapwebhook.SendingWebhookEvent)
	bounce.BounceCategory = mailtrapwebhook.BounceOverQuota
	byHand := &mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventSpam, Email: "to@example.com"}
	body := webhooktest.Body(mailtrapwebhook.FormatJSONLines, bounce, byHand)

	events, err := mailtrapwebhook.Parse(body)
	if err != nil {
		panic(err)
	}
	fmt.Println(events[0].(*mailtrapwebhook.SendingWebhookEvent).BounceCategory)
	fmt.Println(events[1].RawJSON())

	// Output:
	// overquota
	// {"event":"spam","email":"to@example.com"}
}

// The receiver hears of the first two attempts, but Mailtrap hangs up on it. The
// third attempt is acknowledged, and the callback has run once.
func ExampleMailtrap() {
	const secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"
	mailtrap := webhooktest.Mailtrap{
		Handler: newHandler(secret),
		Secret:  secret,
		Fault:   webhooktest.FaultLate,
		Speed:   3000, // 5 minutes take 0.1 seconds
	}
	body := webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Sample("spam"))
	result, err := mailtrap.Deliver(context.Background(), body)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(result.Attempts), result.Acknowledged, result.Err())

	// Output:
	// spam
	// 3 true <nil>
}

func ExampleResult_Err() {
	mailtrap := webhooktest.Mailtrap{
		Handler: newHandler("8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"),
		Secret:  "another webhook's secret",
		Retries: -1,
	}
	body := webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Sample("open"))
	result, err := mailtrap.Deliver(context.Background(), body)
	if err != nil {
		panic(err)
	}
	fmt.Println(result.Err())

	// Output:
	// webhooktest: the receiver answers 400: check that it has this signing secret and uses it as text, reads the Mailtrap-Signature header, and verifies the body byte for byte as received
}
