package mailtrapwebhook_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// A real secret comes from the environment, and a real payload from Mailtrap.
const (
	secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

	payload = `{"events":[` +
		`{"event":"delivery","timestamp":1728669700,"message_id":"m-1","event_id":"e-1","email":"ann@example.com","custom_variables":{"user_id":1234567890123456789}},` +
		`{"event":"bounce","timestamp":1728669701,"message_id":"m-2","event_id":"e-2","email":"bob@example.com","response_code":550,"bounce_category":"badrecipient"}]}`
)

// quiet keeps the log out of the examples' output.
var quiet = slog.New(slog.DiscardHandler)

// answer returns the status that h answers r with.
func answer(h http.Handler, r *http.Request) int {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

// deliver posts a signed body to h and returns the status.
func deliver(h http.Handler, body string) int {
	return answer(h, webhooktest.NewRequest("/webhooks/mailtrap", secret, []byte(body)))
}

func mustVerifier(secrets ...string) *mailtrapwebhook.Verifier {
	verifier, err := mailtrapwebhook.NewVerifier(secrets...)
	if err != nil {
		log.Fatal(err)
	}
	return verifier
}

// Most programs need a secret, a callback, and Validate at start.
func ExampleHandler() {
	verifier, err := mailtrapwebhook.NewVerifier(secret) // os.Getenv("MAILTRAP_SIGNING_SECRET")
	if err != nil {
		log.Fatal(err)
	}
	handler := &mailtrapwebhook.Handler{
		Verifier: verifier,
		Logger:   quiet,
		OnEvent: func(ctx context.Context, ev mailtrapwebhook.Event) error {
			switch ev := ev.(type) {
			case *mailtrapwebhook.SendingWebhookEvent:
				if ev.BounceCategory.Suppresses() {
					fmt.Println("send no more mail to", ev.Email)
				}
			case *mailtrapwebhook.InboundWebhookEvent:
				fmt.Println("mail for inbox", ev.InboxID)
			case *mailtrapwebhook.ActivityLogWebhookEvent:
				fmt.Println(ev.Actor.Name, ev.Description)
			case *mailtrapwebhook.UnknownEvent:
				// New kinds come without notice: nil acknowledges them.
			}
			return nil
		},
	}
	if err := handler.Validate(); err != nil {
		log.Fatal(err)
	}
	http.Handle("/webhooks/mailtrap", handler)

	fmt.Println(deliver(handler, payload))
	// Output:
	// send no more mail to bob@example.com
	// 200
}

// OnDelivery puts a whole batch into one transaction. A unique index on the
// keys makes each event count once, so the Handler need not de-duplicate.
func ExampleNoDedup() {
	handler := &mailtrapwebhook.Handler{
		Verifier: mustVerifier(secret),
		Dedup:    mailtrapwebhook.NoDedup,
		Logger:   quiet,
		OnDelivery: func(ctx context.Context, d *mailtrapwebhook.Delivery) error {
			for i, ev := range d.Events {
				fmt.Printf("INSERT %q, %d bytes\n", d.Keys[i], len(ev.RawJSON()))
			}
			return nil // or the error of COMMIT
		},
	}
	fmt.Println(deliver(handler, payload))
	// Output:
	// INSERT "delivery/m-1/e-1", 156 bytes
	// INSERT "bounce/m-2/e-2", 156 bytes
	// 200
}

// OnDrop sees each event before it is dropped. Store the event for a person to
// look at.
func ExampleHandler_onDrop() {
	handler := &mailtrapwebhook.Handler{
		Verifier: mustVerifier(secret),
		Logger:   quiet,
		OnEvent: func(ctx context.Context, ev mailtrapwebhook.Event) error {
			if ev.Name() == "bounce" {
				return mailtrapwebhook.Permanent(errors.New("no such customer"))
			}
			return nil
		},
		OnDrop: func(ctx context.Context, ev mailtrapwebhook.Event, err error) error {
			fmt.Printf("store %s: %v\n", ev.Key(), err)
			return nil // an error here keeps the event from being dropped
		},
	}
	fmt.Println(deliver(handler, payload))
	// Output:
	// store bounce/m-2/e-2: no such customer
	// 200
}

// OnMalformed takes a verified body whose JSON is broken. Without it, Mailtrap
// repeats the body for hours and then pauses the webhook.
func ExampleHandler_onMalformed() {
	handler := &mailtrapwebhook.Handler{
		Verifier: mustVerifier(secret),
		Logger:   quiet,
		OnEvent:  func(context.Context, mailtrapwebhook.Event) error { return nil },
		OnMalformed: func(ctx context.Context, d *mailtrapwebhook.Delivery, err error) error {
			fmt.Printf("store %d bytes: %v\n", len(d.Body), err)
			return nil
		},
	}
	fmt.Println(deliver(handler, `{"events":[{"event":"open"},`))
	// Output:
	// store 28 bytes: mailtrapwebhook: line 1, offset 28: the JSON is cut off
	// 200
}

// Many tenants can share one URL. VerifierFor finds the tenant's secret, and
// Scope keeps one tenant's events from passing for another's.
func ExampleHandler_tenants() {
	tenants := map[string]*mailtrapwebhook.Verifier{
		"acme":   mustVerifier("11111111111111111111111111111111"),
		"globex": mustVerifier("22222222222222222222222222222222"),
	}
	handler := &mailtrapwebhook.Handler{
		VerifierFor: func(r *http.Request) (*mailtrapwebhook.Verifier, error) {
			return tenants[r.PathValue("tenant")], nil // nil is answered 403
		},
		Scope:  func(r *http.Request) string { return r.PathValue("tenant") },
		Logger: quiet,
		OnEvent: func(ctx context.Context, ev mailtrapwebhook.Event) error {
			fmt.Println(mailtrapwebhook.KeyFromContext(ctx))
			return nil
		},
	}
	mux := http.NewServeMux()
	mux.Handle("/webhooks/{tenant}", handler)

	body := `{"events":[{"event":"open","message_id":"m-1","event_id":"e-1"}]}`
	fmt.Println(answer(mux, webhooktest.NewRequest("/webhooks/acme", "11111111111111111111111111111111", []byte(body))))
	fmt.Println(answer(mux, webhooktest.NewRequest("/webhooks/globex", "22222222222222222222222222222222", []byte(body))))
	fmt.Println(answer(mux, webhooktest.NewRequest("/webhooks/initech", secret, []byte(body))))
	// Output:
	// acme:open/m-1/e-1
	// 200
	// globex:open/m-1/e-1
	// 200
	// 403
}

// A Handler remembers which events were handled. A retry reaches only the
// events that failed.
func ExampleMemoryDeduplicator() {
	broken := true
	handler := &mailtrapwebhook.Handler{
		Verifier: mustVerifier(secret),
		Dedup:    &mailtrapwebhook.MemoryDeduplicator{MaxKeys: 100_000}, // leave it out for the defaults
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
	fmt.Println(deliver(handler, payload)) // Mailtrap's retry, five minutes later
	fmt.Println(deliver(handler, payload)) // a replay by somebody who captured it
	// Output:
	// delivery
	// 500
	// bounce
	// 200
	// 200
}

// Two audit-log entries may have the same text and yet be two. Their keys in
// the context differ: store an event under this key.
func ExampleKeyFromContext() {
	handler := &mailtrapwebhook.Handler{
		Verifier: mustVerifier(secret),
		Logger:   quiet,
		OnEvent: func(ctx context.Context, ev mailtrapwebhook.Event) error {
			key := mailtrapwebhook.KeyFromContext(ctx) // ends in the event's place in the delivery
			fmt.Println(ev.Name(), key[len(key)-2:])
			return nil
		},
	}
	login := `{"event":"activity_log.user.login","actor":{"name":"Ann"}}`
	deliver(handler, `{"events":[`+login+`,`+login+`]}`)
	// Output:
	// activity_log.user.login /0
	// activity_log.user.login /1
}

// Guards check a request before its body is read, in addition to the signature.
func ExampleGuard() {
	loadBalancer := netip.MustParsePrefix("10.0.0.0/8")
	handler := &mailtrapwebhook.Handler{
		Verifier: mustVerifier(secret),
		Guards: []mailtrapwebhook.Guard{
			mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges(), loadBalancer).Guard(),
			mailtrapwebhook.BasicAuth("mailtrap", "correct horse"),
		},
		Logger:  quiet,
		OnEvent: func(context.Context, mailtrapwebhook.Event) error { return nil },
	}
	request := func(forwardedFor, password string) int {
		r := webhooktest.NewRequest("/webhooks/mailtrap", secret, []byte(payload))
		r.RemoteAddr = "10.1.2.3:4567"
		r.Header.Set("X-Forwarded-For", forwardedFor)
		r.SetBasicAuth("mailtrap", password)
		return answer(handler, r)
	}
	fmt.Println(request("45.158.83.129", "correct horse"))
	fmt.Println(request("45.158.83.129", "battery staple"))
	fmt.Println(request("45.158.83.129, 203.0.113.9", "correct horse")) // the client invented the first address
	// Output:
	// 200
	// 401
	// 403
}

// The middleware verifies the body and leaves it to be read by your handler.
func ExampleVerifier_Middleware() {
	handler := mustVerifier(secret).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Println(string(body) == payload, err)
	}))
	fmt.Println(deliver(handler, payload))
	// Output:
	// true <nil>
	// 200
}

// A function that has no net/http server passes the raw body and the header to
// Parse. A platform that encodes bodies as base64 needs them decoded first.
func ExampleVerifier_Parse() {
	verifier := mustVerifier(secret)
	events, err := verifier.Parse([]byte(payload), mailtrapwebhook.Sign([]byte(payload), secret))
	for _, ev := range events {
		fmt.Println(ev.Time().Format("15:04:05"), ev) // prints the key and nothing personal
	}
	fmt.Println(err)

	_, err = verifier.Parse([]byte(payload), strings.Repeat("0", 64))
	fmt.Println(errors.Is(err, mailtrapwebhook.ErrInvalidSignature)) // answer 400
	// Output:
	// 18:01:40 delivery/m-1/e-1
	// 18:01:41 bounce/m-2/e-2
	// <nil>
	// true
}

// A number keeps its digits: Text and json.Number hold what was sent.
func ExampleVariables() {
	v := mailtrapwebhook.Variables(`{"user_id":1234567890123456789,"plan":"pro"}`)
	fmt.Println(v.Text("user_id"))
	var order struct{ Plan string }
	fmt.Println(v.Decode(&order), order.Plan)
	// Output:
	// 1234567890123456789
	// <nil> pro
}

func ExampleChanges() {
	c := mailtrapwebhook.Changes(`{"name":{"from":"Ann","to":"Anne"},"seats":{"from":5,"to":8}}`)
	for attribute, change := range c.All() {
		fmt.Println(attribute, change.From, "->", change.To)
	}
	// Output:
	// name Ann -> Anne
	// seats 5 -> 8
}

// A Decoder reads a file of any size with the memory of a few events.
func ExampleDecoder() {
	file := strings.NewReader(`{"event":"open","message_id":"m-1"}
{"event":"click","message_id":
{"event":"open","message_id":"m-2"}
`)
	for ev, err := range mailtrapwebhook.NewDecoder(file).Events() {
		if err != nil {
			log.Fatal(err)
		}
		switch ev := ev.(type) {
		case *mailtrapwebhook.SendingWebhookEvent:
			fmt.Println(ev.Event, ev.MessageID)
		case *mailtrapwebhook.UnknownEvent:
			fmt.Println("skipped:", ev.Err)
		}
	}
	// Output:
	// open m-1
	// skipped: mailtrapwebhook: line 2, offset 66: the JSON is cut off
	// open m-2
}

// Diagnose says why the signature of a captured request does not match.
func ExampleDiagnose() {
	signature := mailtrapwebhook.Sign([]byte(payload), secret)
	captured := payload + "\n" // an editor added a newline
	fmt.Println(mailtrapwebhook.Diagnose([]byte(captured), signature, secret))
	// Output: mailtrapwebhook: a newline was added to the end of the body: verify the raw bytes as they came, before anything changes them
}
