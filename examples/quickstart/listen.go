package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// shutdownTimeout is how long a shutdown waits for deliveries under way, which a Handler answers within 29.5 seconds.
const shutdownTimeout = 30 * time.Second

// listen receives deliveries on address and prints their events, until ctx ends.
func listen(
	ctx context.Context, address string, verifier *mailtrapwebhook.Verifier, stdout, stderr io.Writer,
) error {
	// At the level of debugging there is a line for each delivery, so that one of nothing but duplicates shows as well,
	// such as a second "Run Test". Without it only those are logged that were not answered 200, with the reason.
	logger := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	out := log.New(stdout, "", 0) // for its lock: deliveries arrive side by side

	handler := &mailtrapwebhook.Handler{
		Verifier: verifier,
		// Mailtrap delivers at least once. Dedup keeps an event that comes again from being handled again. This one
		// forgets all when the process ends; several processes need a store that they share.
		Dedup: new(mailtrapwebhook.MemoryDeduplicator),
		// OnEvent should put the event into a database or a queue, and return nil only when it is safe there: nil tells
		// Mailtrap that it need not send the event again. An error makes it try again in five minutes; a
		// mailtrapwebhook.Permanent error says that trying again is of no use.
		OnEvent: func(_ context.Context, ev mailtrapwebhook.Event) error {
			return out.Output(1, describe(ev))
		},
		Logger: logger,
	}

	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "listening on %s, Ctrl-C ends\n", listener.Addr())
	return serve(ctx, newServer(handler, logger), listener)
}

// newServer returns a server for handler. Give it the [mailtrapwebhook.Handler] as it is, or with a path on a ServeMux,
// but nothing in between that reads the body: the signature is that of its raw bytes.
func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // Mailtrap waits no longer
		WriteTimeout:      35 * time.Second, // must leave time for the callbacks, which have 25 seconds
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// serve serves until ctx ends, and then lets the deliveries that are under way come to their end.
func serve(ctx context.Context, server *http.Server, listener net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("shutting down: %w", err), server.Close())
	}
	return nil
}

// describe returns a line that says what happened. It shows addresses, which is for one's own terminal: pass the event
// itself to slog, and nothing personal shows.
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
		// Something that Mailtrap has added, or that cannot be read. Keep ev.Raw where it must not be lost.
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

// printable replaces what could break the line or command the terminal: anybody can write a mail, and so choose a
// sender's name.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
