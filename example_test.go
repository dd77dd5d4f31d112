package mailtrapwebhook_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// What the examples work with. A real secret comes from the environment, and a real request from Mailtrap.
const (
	secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

	payload = `{"events":[` +
		`{"event":"delivery","timestamp":1728669700,"message_id":"m-1","event_id":"e-1","email":"ann@example.com","category":"Welcome","custom_variables":{"user_id":1234567890123456789}},` +
		`{"event":"bounce","timestamp":1728669701,"message_id":"m-2","event_id":"e-2","email":"bob@example.com","response_code":550,"bounce_category":"badrecipient"}]}`
)

// deliver plays Mailtrap: it posts a signed body to a handler and returns the status.
func deliver(h http.Handler, body string) int {
	r := httptest.NewRequest(http.MethodPost, "/webhooks/mailtrap", strings.NewReader(body))
	r.Header.Set(mailtrapwebhook.SignatureHeader, mailtrapwebhook.Sign([]byte(body), secret))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func mustVerifier() *mailtrapwebhook.Verifier {
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	if err != nil {
		panic(err)
	}
	return verifier
}

var quiet = slog.New(slog.DiscardHandler)

// In a function without a net/http server, verify the body as it came and then parse it.
func ExampleVerify() {
	function := func(body []byte, headers map[string]string) (status int) {
		if err := mailtrapwebhook.Verify(body, headers["mailtrap-signature"], secret); err != nil {
			return http.StatusBadRequest // as Mailtrap asks for
		}
		events, err := mailtrapwebhook.Parse(body)
		if err != nil {
			return http.StatusUnprocessableEntity
		}
		fmt.Println(len(events), "events")
		return http.StatusOK
	}

	fmt.Println(function([]byte(payload), map[string]string{
		"mailtrap-signature": mailtrapwebhook.Sign([]byte(payload), secret),
	}))
	fmt.Println(function([]byte(payload), map[string]string{
		"mailtrap-signature": strings.Repeat("0", 64),
	}))
	// Output:
	// 2 events
	// 200
	// 400
}

func ExampleParse() {
	events, err := mailtrapwebhook.Parse([]byte(payload))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, ev := range events {
		fmt.Println(ev.Time().Format("15:04:05"), ev.Name())
		if sent, ok := ev.(*mailtrapwebhook.SendingWebhookEvent); ok {
			fmt.Println("  message", sent.MessageID, "user", sent.CustomVariables.Text("user_id"))
		}
	}
	// Output:
	// 18:01:40 delivery
	//   message m-1 user 1234567890123456789
	// 18:01:41 bounce
	//   message m-2 user
}

// A file of any size is read with the memory of a few events.
func ExampleDecoder() {
	file := strings.NewReader(`{"event":"open","message_id":"m-1"}
{"event":"click","message_id":"m-1","url":"https://example.com/"}
{"event":"click","message_id":
{"event":"open","message_id":"m-2"}
`)
	for ev, err := range mailtrapwebhook.NewDecoder(file).Events() {
		if err != nil {
			fmt.Println(err)
			break
		}
		if unknown, ok := ev.(*mailtrapwebhook.UnknownEvent); ok {
			fmt.Println("passed over:", unknown.Err)
			continue
		}
		fmt.Println(ev.Name())
	}
	// Output:
	// open
	// click
	// passed over: mailtrapwebhook: line 3, offset 132: the JSON is cut off
	// open
}

func ExampleHandler() {
	handler := &mailtrapwebhook.Handler{
		Verifier: mustVerifier(),
		Dedup:    new(mailtrapwebhook.MemoryDeduplicator),
		Logger:   quiet,
		OnEvent: func(ctx context.Context, ev mailtrapwebhook.Event) error {
			switch ev := ev.(type) {
			case *mailtrapwebhook.SendingWebhookEvent:
				if ev.BounceCategory.Suppresses() {
					fmt.Println(ev.Email, "gets no more mail:", ev.BounceCategory)
				}
			case *mailtrapwebhook.InboundWebhookEvent:
				fmt.Println("mail for inbox", ev.InboxID)
			case *mailtrapwebhook.ActivityLogWebhookEvent:
				fmt.Println(ev.Actor.Name, ev.Description)
			case *mailtrapwebhook.UnknownEvent:
				// New kinds come without notice. Nil acknowledges them; an error would have them sent again.
			}
			return nil
		},
	}
	http.Handle("/webhooks/mailtrap", handler) // or any other router

	fmt.Println(deliver(handler, payload))
	// Output:
	// bob@example.com gets no more mail: badrecipient
	// 200
}

// With OnDelivery, a whole batch goes into one transaction or one message.
func ExampleHandler_onDelivery() {
	handler := &mailtrapwebhook.Handler{
		Verifier: mustVerifier(),
		Dedup:    new(mailtrapwebhook.MemoryDeduplicator),
		Logger:   quiet,
		OnDelivery: func(ctx context.Context, d *mailtrapwebhook.Delivery) error {
			for i, ev := range d.Events {
				fmt.Printf("INSERT %s, unless %.8s… is there\n", ev.Name(), d.Keys[i])
			}
			return nil // the commit's error
		},
	}
	fmt.Println(deliver(handler, payload))
	// Output:
	// INSERT delivery, unless delivery… is there
	// INSERT bounce, unless bounce/m… is there
	// 200
}

// Mailtrap sends a delivery again until it is answered 200. Only what failed is handled again.
func ExampleMemoryDeduplicator() {
	broken := true
	handler := &mailtrapwebhook.Handler{
		Verifier: mustVerifier(),
		Dedup:    new(mailtrapwebhook.MemoryDeduplicator),
		Logger:   quiet,
		OnEvent: func(ctx context.Context, ev mailtrapwebhook.Event) error {
			if ev.Name() == "bounce" && broken {
				return errors.New("the database is away")
			}
			fmt.Println(ev.Name())
			return nil
		},
	}
	fmt.Println(deliver(handler, payload))
	broken = false
	fmt.Println(deliver(handler, payload)) // five minutes later
	fmt.Println(deliver(handler, payload)) // somebody replays it
	// Output:
	// delivery
	// 500
	// bounce
	// 200
	// 200
}

// An error that trying again will not cure must not have the whole batch sent again for hours.
func ExamplePermanent() {
	handler := &mailtrapwebhook.Handler{
		Verifier: mustVerifier(),
		Logger:   quiet,
		OnEvent: func(ctx context.Context, ev mailtrapwebhook.Event) error {
			if _, ok := ev.(*mailtrapwebhook.UnknownEvent); ok {
				return mailtrapwebhook.Permanent(errors.New("no use for this"))
			}
			return nil
		},
	}
	fmt.Println(deliver(handler, `{"events":[{"event":"delivery"},{"event":"quarantine"}]}`))
	// Output: 200
}

// Guards come in front of the signature, which is what to rely on.
func ExampleGuard() {
	allowed := mailtrapwebhook.NewIPAllowlist(
		mailtrapwebhook.IPRanges(),
		netip.MustParsePrefix("10.0.0.0/8"), // the load balancer, whose X-Forwarded-For is believed
	)
	handler := &mailtrapwebhook.Handler{
		Verifier: mustVerifier(),
		Guards: []mailtrapwebhook.Guard{
			allowed.Guard(),
			mailtrapwebhook.BasicAuth("mailtrap", "correct horse"),
		},
		Logger:  quiet,
		OnEvent: func(ctx context.Context, ev mailtrapwebhook.Event) error { return nil },
	}

	request := func(forwardedFor, password string) int {
		r := httptest.NewRequest(http.MethodPost, "/webhooks/mailtrap", strings.NewReader(payload))
		r.RemoteAddr = "10.1.2.3:4567"
		r.Header.Set("X-Forwarded-For", forwardedFor)
		r.SetBasicAuth("mailtrap", password)
		r.Header.Set(mailtrapwebhook.SignatureHeader, mailtrapwebhook.Sign([]byte(payload), secret))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code
	}
	fmt.Println(request("45.158.83.129", "correct horse"))
	fmt.Println(request("45.158.83.129", "battery staple"))
	fmt.Println(request("45.158.83.129, 203.0.113.9", "correct horse")) // the left part is the sender's invention
	// Output:
	// 200
	// 401
	// 403
}

// The middleware leaves the body to be read by a handler of one's own.
func ExampleVerifier_Middleware() {
	handler := mustVerifier().Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Println(string(body) == payload)
	}))
	fmt.Println(deliver(handler, payload))
	// Output:
	// true
	// 200
}

// In a test of one's own handler, sign the request as Mailtrap does.
func ExampleSign() {
	body := []byte(`{"event":"open","message_id":"m-1"}`)
	r := httptest.NewRequest(http.MethodPost, "/webhooks/mailtrap", strings.NewReader(string(body)))
	r.Header.Set(mailtrapwebhook.SignatureHeader, mailtrapwebhook.Sign(body, secret))

	_, err := mustVerifier().VerifyRequest(r)
	fmt.Println(err)
	// Output: <nil>
}

// Diagnose is for finding out, with a captured request, why its signature does not match.
func ExampleDiagnose() {
	signature := mailtrapwebhook.Sign([]byte(payload), secret)
	fmt.Println(mailtrapwebhook.Diagnose([]byte(payload+"\n"), signature, secret))
	fmt.Println(mailtrapwebhook.Diagnose([]byte(payload), signature, `"`+secret+`"`))
	// Output:
	// mailtrapwebhook: a newline was added to the end of the body: verify the raw bytes as they came, before anything changes them
	// mailtrapwebhook: the secret has quotes around it: store the secret without quotes
}
