// Observability receives Mailtrap's webhooks and shows how that goes: metrics
// for Prometheus, traces for OpenTelemetry, and log lines that name their
// trace.
//
//	MAILTRAP_SIGNING_SECRET=… go run . -listen :8080 -metrics 127.0.0.1:9464
//
// Deliveries come in at /webhooks/mailtrap. /healthz answers 200 while the
// program runs, and /readyz while it takes deliveries and its store answers.
// The metrics are at /metrics of the other address, which must not be public.
//
// Each webhook has a secret of its own: put commas between several. A secret's
// place, from 0, is the label webhook in the metrics. While you rotate a
// secret, put the new one in its place and the old one at the end.
//
// With -traces stdout the program prints spans. With -traces otlp it sends them
// to a collector, at http://localhost:4318 or at OTEL_EXPORTER_OTLP_ENDPOINT.
// Other OTEL_ variables, such as OTEL_TRACES_SAMPLER, work too.
//
// prometheus/ has the alerts, each with what to do, and the configuration that
// loads them. grafana/dashboard.json is a dashboard to import.
//
// Dropped events are kept in the file of -dropped. It must lie on a volume that
// outlives the process, and each process needs a file of its own.
//
// The program promises:
//
//   - Each request is counted once, by the status of its answer. Each event of
//     a delivery is counted once, by its outcome.
//   - Labels have a bounded number of values, so that no client can fill
//     Prometheus.
//   - Metrics, spans and log lines show nothing personal and nothing of a body.
//     The log repeats your callback's error texts: keep addresses out of them.
//   - A request is one span. It shows at most 32 calls of the callback that
//     failed and 32 others as span events, and says how many it does not show.
//   - A collector that is down or slow holds up no delivery. 2048 spans wait for
//     it. Spans that are lost are counted.
//   - At SIGTERM /readyz answers 503 first. The program takes deliveries for 5
//     more seconds (-drain), answers those that have begun, and ends within 41
//     seconds. A second SIGTERM ends it at once.
//
// It does not promise: a process that dies loses the counts and spans that it
// has not handed over.
//
// Take the program as it is and put your work into logEvent. Several processes
// need a store that they share: set it in receive.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

const secretVariable = serve.SecretVariable

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
	opts, err := parseOptions(args, getenv, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "observability: %s (-h shows the usage)\n", err)
		return exitUsage
	}
	logger := newLogger(stderr)
	if err := receive(ctx, opts, logEvent(logger), stdout, logger); err != nil {
		fmt.Fprintf(stderr, "observability: %s\n", err)
		return exitFailure
	}
	return exitOK
}

type options struct {
	secrets  []string
	verifier *mailtrapwebhook.Verifier
	listen   string
	metrics  string
	traces   string
	drain    time.Duration
	giveUp   time.Duration
	dropped  string
}

func parseOptions(args []string, getenv func(string) string, stderr io.Writer) (opts options, err error) {
	flags := flag.NewFlagSet("observability", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error in one line
	serve.AddressVar(flags, &opts.listen, "listen", ":8080", "receive deliveries on this `address`, at "+webhookPath)
	serve.AddressVar(flags, &opts.metrics, "metrics", "127.0.0.1:9464", "serve /metrics on this `address`, which must not be public")
	serve.DrainVar(flags, &opts.drain)
	flags.DurationVar(&opts.giveUp, "give-up-after", 3*time.Hour, "drop an event that fails and is older; 0 never does")
	flags.StringVar(&opts.dropped, "dropped", "dropped.jsonl", "keep dropped events in this `file`, on a volume that outlives the process; each process needs its own")
	flags.StringVar(&opts.traces, "traces", tracesNone, "where spans go: `destination` is "+tracesNone+", "+tracesStdout+" or "+tracesOTLP)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stderr)
		fmt.Fprintf(stderr, "Usage of observability; %s must hold the signing secret,"+
			" or those of several webhooks with commas between:\n", secretVariable)
		flags.PrintDefaults()
		return opts, err
	case err != nil:
		return opts, err
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case opts.traces != tracesNone && opts.traces != tracesStdout && opts.traces != tracesOTLP:
		return opts, fmt.Errorf("-traces is %q: make it %s, %s or %s", opts.traces, tracesNone, tracesStdout, tracesOTLP)
	}
	opts.secrets = strings.Split(getenv(secretVariable), ",")
	opts.verifier, err = serve.NewVerifier(getenv(secretVariable))
	return opts, err
}
