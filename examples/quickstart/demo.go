package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
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
	served := make(chan error, 1)
	go func() {
		served <- serve(serving, newServer(r.handlers(steps, verifier), discard), listener)
	}()
	defer func() {
		stop()
		err = cmp.Or(err, <-served)
	}()

	mailtrap := newSender(listener.Addr().String(), secret)
	defer mailtrap.client.CloseIdleConnections()
	var results []result
	for _, s := range steps {
		got, err := mailtrap.play(ctx, s, r)
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

// A sender delivers as Mailtrap does.
type sender struct {
	base, secret string
	client       *http.Client
}

func newSender(address, secret string) *sender {
	return &sender{
		base:   "http://" + address,
		secret: secret,
		client: &http.Client{Transport: &http.Transport{}}, // no proxy for requests to this machine
	}
}

// play delivers a step and returns its outcome.
func (m *sender) play(ctx context.Context, s step, r *receiver) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // Mailtrap waits no longer
	defer cancel()
	r.expect(s.failFor) // deliveries do not overlap, so a receiver expects one
	secret := m.secret
	if s.forged {
		secret = rand.Text()
	}
	status, err := m.send(ctx, s.webhook, s.format, s.body, mailtrapwebhook.Sign(s.body, secret))
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
	case <-ctx.Done():
		return outcome{}, fmt.Errorf("answered %d but not reported: %w", status, ctx.Err())
	}
}

func (m *sender) send(
	ctx context.Context, webhook string, format mailtrapwebhook.Format, body []byte, signature string,
) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.base, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.URL.Path = "/" + webhook // set here, because it has blanks
	req.Header.Set("Content-Type", "application/json")
	if format == formatLines {
		req.Header.Set("Content-Type", "application/jsonl")
	}
	req.Header.Set(mailtrapwebhook.SignatureHeader, signature)
	resp, err := m.client.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body) // the client then reuses the connection
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}
