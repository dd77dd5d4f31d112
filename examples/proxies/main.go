// Proxies receives Mailtrap's webhooks behind a reverse proxy and knows the
// client's address all the same. The configurations of nginx, HAProxy and Caddy
// are beside it.
//
//	MAILTRAP_SIGNING_SECRET=… go run . -listen 127.0.0.1:8080
//	MAILTRAP_SIGNING_SECRET=… go run . -listen unix:/run/mailtrap/webhook.sock
//
// Deliveries come in at /webhooks/mailtrap. Only Mailtrap's addresses are let
// in, and everybody else is answered 403. /healthz answers 200 while the
// program runs, and /readyz while it takes deliveries. The configurations pass
// neither of them to the public.
//
// The program believes what proxies on the same machine say about the client.
// With -trust, name the addresses that other proxies connect from, and no
// others. A client of the Unix socket counts as 127.0.0.1. The program's group
// can connect: let the proxy's user, such as www-data, be in it. While one
// program has the socket, another does not start there. The file beside it that
// ends in .lock stays.
//
// At SIGTERM /readyz answers 503 first. The program takes deliveries for 5 more
// seconds (-drain), answers those that have begun, and ends within 35 seconds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stderr))
}

// run returns the exit status.
func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) int {
	opts, err := parseOptions(args, getenv, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "proxies: %v (-h shows the usage)\n", err)
		return 2
	}
	logger := slog.New(slog.NewTextHandler(stderr, serve.LogOptions()))
	list := mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges(), opts.trust...)
	if err := receive(ctx, opts, newHandler(opts.verifier, list, logger), logger); err != nil {
		fmt.Fprintf(stderr, "proxies: %v\n", err)
		return 1
	}
	return 0
}

type options struct {
	verifier *mailtrapwebhook.Verifier
	listen   string
	trust    []netip.Prefix
	drain    time.Duration
}

func parseOptions(args []string, getenv func(string) string, stderr io.Writer) (opts options, err error) {
	flags := flag.NewFlagSet("proxies", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error in one line
	serve.AddressVar(flags, &opts.listen, "listen", "127.0.0.1:8080",
		"receive deliveries on this `address`, or on unix:/path of a socket")
	serve.DrainVar(flags, &opts.drain)
	opts.trust = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}
	flags.Func("trust", "believe also the proxies that connect from these `prefixes`, with commas between",
		func(prefixes string) error {
			for text := range strings.SplitSeq(prefixes, ",") {
				prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
				if err != nil {
					return errors.New("write prefixes as 192.0.2.0/24,2001:db8::/32")
				}
				opts.trust = append(opts.trust, prefix)
			}
			return nil
		})
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stderr)
		fmt.Fprintf(stderr, "Usage of proxies; %s must hold the signing secret,"+
			" or those of several webhooks with commas between:\n", serve.SecretVariable)
		flags.PrintDefaults()
		return opts, err
	case err != nil:
		return opts, err
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	opts.verifier, err = serve.NewVerifier(getenv(serve.SecretVariable))
	return opts, err
}
