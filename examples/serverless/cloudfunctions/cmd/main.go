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
	"syscall"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/cloudfunctions"
)

func main() {
	var listen string
	var drain time.Duration
	serve.AddressVar(flag.CommandLine, &listen, "listen", "127.0.0.1:"+cmp.Or(os.Getenv("PORT"), "8080"),
		"receive deliveries on this `address`")
	serve.DrainVar(flag.CommandLine, &drain)
	flag.Parse()
	if flag.NArg() > 0 {
		slog.Error("unexpected argument (-h shows the usage)", "argument", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, listen, drain); err != nil {
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
	mux := http.NewServeMux()
	mux.Handle("/MailtrapWebhook", cloudfunctions.Webhook)
	slog.Info("listening", "url", "http://"+listener.Addr().String()+"/MailtrapWebhook")
	server := &serve.Server{Webhook: mux, Ready: cloudfunctions.Webhook.Ready, Drain: drain}
	return server.Serve(ctx, listener)
}
