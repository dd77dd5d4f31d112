// Quickstart receives Mailtrap's webhooks.
//
// Without a flag it shows a demo and needs neither an account nor a network. It
// starts a receiver on this machine, plays Mailtrap against it with the
// payloads of Mailtrap's documentation, and shows the answers:
//
//	go run ./examples/quickstart
//
// With -listen it receives real deliveries at any path. It prints a line for
// each event until it is interrupted:
//
//	MAILTRAP_SIGNING_SECRET=… go run ./examples/quickstart -listen :8080
//
// /healthz answers 200 while the program runs, and /readyz while it takes
// deliveries. At SIGTERM /readyz answers 503 first. The program takes
// deliveries for 5 more seconds (-drain), answers those that have begun, and
// ends within 35 seconds. A second SIGTERM ends it at once.
//
// Start your own program from listen.go, and copy examples/internal/serve
// along. The other files are the demo.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

const usage = `Usage: quickstart [-listen address [-drain time]]

Without a flag, quickstart plays Mailtrap on this machine and shows the answers.

  -listen address   receive real deliveries on address, such as :8080, until
                    interrupted; ` + serve.SecretVariable + ` must hold the
                    webhook's signing secret, or several with commas
                    between them
  -drain time       receive for this long after a signal, while /readyz answers
                    503; the default is 5s, and 10s is the most
`

// The exit statuses.
const (
	exitOK = iota
	exitFailure
	exitUsage
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	opts, err := parseOptions(args, getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "quickstart: %s (-h shows the usage)\n", printable(err.Error()))
		return exitUsage
	}
	if opts.verifier != nil {
		err = listen(ctx, opts, stdout, stderr)
	} else {
		err = demo(ctx, script(), stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "quickstart: %s\n", printable(err.Error()))
		return exitFailure
	}
	return exitOK
}

type options struct {
	address  string
	verifier *mailtrapwebhook.Verifier // nil without -listen: show the demo
	drain    time.Duration
}

func parseOptions(args []string, getenv func(string) string) (opts options, err error) {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error in one line
	serve.AddressVar(flags, &opts.address, "listen", "", "")
	serve.DrainVar(flags, &opts.drain)
	switch err := flags.Parse(args); {
	case err != nil:
		return opts, err
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case opts.address == "":
		return opts, nil
	}
	// Each webhook has a secret of its own. While you rotate one, set both.
	opts.verifier, err = serve.NewVerifier(getenv(serve.SecretVariable))
	return opts, err
}
