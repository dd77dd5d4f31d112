package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

// listen receives deliveries and prints their events until ctx ends.
func listen(ctx context.Context, opts options, stdout, stderr io.Writer) error {
	logger := slog.New(slog.NewTextHandler(stderr, serve.LogOptions()))
	out := log.New(stdout, "", 0) // deliveries overlap, and a Logger has a lock

	// The Handler remembers in memory which events it has handled. Set Dedup to
	// a shared store where several processes receive the same webhook.
	handler := &mailtrapwebhook.Handler{
		Verifier: opts.verifier,
		// In your program, store or enqueue the event. Return nil when it is
		// safe: Mailtrap then does not send it again. After an error Mailtrap
		// tries again in five minutes. Return mailtrapwebhook.Permanent(err) if
		// no retry cures the error.
		OnEvent: func(_ context.Context, ev mailtrapwebhook.Event) error {
			return out.Output(1, describe(ev))
		},
		Logger: logger,
	}
	if err := handler.Validate(); err != nil {
		return err
	}

	listener, err := net.Listen("tcp", opts.address)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "listening on %s, Ctrl-C ends\n", listener.Addr())
	server := &serve.Server{Webhook: handler, Drain: opts.drain, Logger: logger}
	return server.Serve(ctx, listener)
}

// describe returns a line about the event for your terminal. The line shows
// addresses. In a log, pass the event itself to slog: it shows nothing
// personal.
func describe(ev mailtrapwebhook.Event) string {
	var what string
	switch ev := ev.(type) {
	case *mailtrapwebhook.SendingWebhookEvent:
		what = fmt.Sprintf("message %s to %s", ev.MessageID, ev.Email)
		if detail := cmp.Or(ev.Reason, ev.Response, ev.URL); detail != "" {
			what += ": " + detail
		}
	case *mailtrapwebhook.ActivityLogWebhookEvent:
		what = fmt.Sprintf("%s %s", ev.Actor.Name, ev.Description)
	case *mailtrapwebhook.InboundWebhookEvent:
		what = fmt.Sprintf("inbox %d, message %s from %s", ev.InboxID, ev.MessageID, ev.From)
	case *mailtrapwebhook.UnknownEvent:
		// Mailtrap has added a kind, or the event cannot be read. Store ev.Raw
		// if you must not lose it.
		what = fmt.Sprintf("unknown, %d bytes", len(ev.Raw))
		if ev.Err != nil {
			what += fmt.Sprintf(": %v", ev.Err)
		}
	}
	when := "-"
	if t := ev.Time(); !t.IsZero() {
		when = t.Format(time.RFC3339)
	}
	return printable(fmt.Sprintf("%-20s  %-12s  %s", when, cmp.Or(ev.Name(), "-"), what))
}

// printable replaces characters that break the line or control the terminal.
// Anybody can write a mail and choose the sender's name in it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
