package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// discard is the demo's logger: the table shows what goes wrong.
var discard = slog.New(slog.DiscardHandler)

// demo delivers the steps to a receiver on this machine and writes the outcomes
// as a table. It returns an error if an outcome is not the expected one.
func demo(ctx context.Context, steps []step, stdout io.Writer) (err error) {
	secret := rand.Text() // any text will do
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r := &receiver{reports: make(chan mailtrapwebhook.Report, 1)} // buffered: Observe must not block
	// The server goes on when ctx ends, until the delivery that has begun ends.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	server := &serve.Server{Webhook: r.handlers(steps, verifier), Logger: discard}
	served := make(chan error, 1)
	go func() { served <- server.Serve(serving, listener) }()
	defer func() {
		stop()
		err = cmp.Or(err, <-served)
	}()

	var results []result
	for _, s := range steps {
		got, err := r.play(ctx, listener.Addr().String(), secret, s)
		if err != nil {
			return fmt.Errorf("%s (%s): %w", s.title, s.format, err)
		}
		results = append(results, result{s, got})
	}
	return writeTable(stdout, results)
}

// A receiver is the demo's program. Its callback remembers its calls.
type receiver struct {
	reports chan mailtrapwebhook.Report

	mu      sync.Mutex
	failFor string
	called  []string
}

var errOnPurpose = errors.New("the callback fails on purpose")

func (r *receiver) onEvent(_ context.Context, ev mailtrapwebhook.Event) error {
	kind := ev.Name()
	if _, ok := ev.(*mailtrapwebhook.UnknownEvent); ok {
		kind = "unknown"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.called = append(r.called, kind)
	if kind == r.failFor {
		return errOnPurpose // Mailtrap sends the delivery again
	}
	return nil
}

// expect forgets the calls and prepares for the next delivery.
func (r *receiver) expect(failFor string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failFor, r.called = failFor, nil
}

func (r *receiver) calledFor() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.called, ", ")
}

// handlers returns a handler that has a Handler at the path of each webhook.
func (r *receiver) handlers(steps []step, verifier *mailtrapwebhook.Verifier) http.Handler {
	webhooks := make(map[string]http.Handler)
	for _, s := range steps {
		if webhooks["/"+s.webhook] == nil {
			webhooks["/"+s.webhook] = &mailtrapwebhook.Handler{
				Verifier: verifier,
				OnEvent:  r.onEvent,
				Logger:   discard,
				Observe:  func(_ context.Context, report mailtrapwebhook.Report) { r.reports <- report },
			}
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if handler := webhooks[req.URL.Path]; handler != nil {
			handler.ServeHTTP(w, req)
			return
		}
		http.NotFound(w, req)
	})
}

// play delivers a step to the server at address and returns the outcome.
func (r *receiver) play(ctx context.Context, address, secret string, s step) (outcome, error) {
	r.expect(s.failFor) // deliveries do not overlap, so a receiver expects one
	if s.forged {
		secret = rand.Text()
	}
	webhook := url.URL{Scheme: "http", Host: address, Path: "/" + s.webhook} // which has blanks
	status, err := send(ctx, webhook.String(), secret, s.body)
	if err != nil {
		return outcome{}, err
	}
	select {
	case report := <-r.reports:
		return outcome{
			answered: status, status: report.Status, format: report.Format,
			events: report.Events, handled: report.Handled, duplicates: report.Duplicates,
			dropped: report.Dropped, failed: report.Failed, held: report.Held, unstarted: report.Unstarted,
			unknown: report.Unknown, unreadable: report.Unreadable,
			called: r.calledFor(),
		}, nil
	case <-time.After(30 * time.Second):
		return outcome{}, fmt.Errorf("answered %d but not reported", status)
	}
}

// send delivers the body once, as Mailtrap does, and returns the status.
func send(ctx context.Context, webhook, secret string, body []byte) (status int, err error) {
	mailtrap := webhooktest.Mailtrap{URL: webhook, Secret: secret, Retries: -1}
	result, err := mailtrap.Deliver(ctx, body)
	if err != nil {
		return 0, err
	}
	return result.Attempts[0].Status, result.Attempts[0].Err
}
