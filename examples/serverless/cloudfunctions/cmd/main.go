// Cmd runs the function of cloudfunctions on your machine, for a try, or with
// -listen :8080 in a container. Google Cloud replaces it with its own main
// function.
//
// Deliveries come in at /MailtrapWebhook, at the port PORT. /healthz answers
// 200 while the program runs, and /readyz while it takes deliveries and its
// store answers. At SIGTERM /readyz answers 503 first. The program takes
// deliveries for 5 more seconds (-drain), answers those that have begun, and
// ends within 35 seconds. A second SIGTERM ends it at once.
package main

import (
	"cmp"
	"context"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/cloudfunctions"
)

// shutdownTimeout is more than a delivery takes: the webhook answers within
// 29.5 seconds.
const shutdownTimeout = 30 * time.Second

func main() {
	listen := flag.String("listen", "127.0.0.1:"+cmp.Or(os.Getenv("PORT"), "8080"), "receive deliveries on this `address`")
	drain := flag.Duration("drain", 5*time.Second, "receive for this `long` after a signal, while /readyz answers 503")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, *listen, *drain); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

// run receives deliveries until ctx ends.
func run(ctx context.Context, address string, drain time.Duration) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	var leaving atomic.Bool
	mux := http.NewServeMux()
	mux.Handle("/MailtrapWebhook", cloudfunctions.Webhook)
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case leaving.Load():
			http.Error(w, "the program ends", http.StatusServiceUnavailable)
		case cloudfunctions.Webhook.Ready(r.Context()) != nil: // it may name the store, and strangers may ask
			http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // Mailtrap waits no longer
		WriteTimeout:      35 * time.Second, // callbacks may take 20 seconds
		IdleTimeout:       2 * time.Minute,
	}
	slog.Info("listening", "url", "http://"+listener.Addr().String()+"/MailtrapWebhook")
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	leaving.Store(true)
	slog.Info("ending: /readyz answers 503", "drain", drain.String())
	select {
	case err := <-failed:
		return err
	case <-time.After(drain): // load balancers go on sending until they have asked
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		slog.Warn("connections were open to the last: Mailtrap sends again what was not answered", "err", err)
	}
	return nil
}
