package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

type options struct {
	verifier *mailtrapwebhook.Verifier
	listen   string
	metrics  string
	unready  time.Duration
	nats     servers
	dir      string // of the server inside the program
	replicas int
	maxBytes int64
	workers  int
	attempts uint64
	dead     bool // list the dead letters
	redrive  bool
	discard  bool
	letter   selection // of what to redrive or discard
}

// decides reports whether a person decides about dead letters. The program then
// receives nothing.
func (o *options) decides() bool {
	return o.dead || o.redrive || o.discard
}

func parseOptions(args []string, getenv func(string) string, stderr io.Writer) (opts options, err error) {
	flags := flag.NewFlagSet("queue", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error in one line
	opts.define(flags)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stderr)
		fmt.Fprintf(stderr, "Usage of queue; %s must hold the webhook's signing secret,"+
			" or those of several webhooks with commas between:\n", serve.SecretVariable)
		flags.PrintDefaults()
		return opts, err
	case err != nil:
		return opts, err
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err := opts.check(); err != nil {
		return opts, err
	}
	if opts.decides() {
		return opts, nil // needs no secret
	}
	opts.verifier, err = serve.NewVerifier(getenv(serve.SecretVariable))
	return opts, err
}

func (o *options) define(flags *flag.FlagSet) {
	serve.AddressVar(flags, &o.listen, "listen", ":8080", "receive deliveries on this `address`, at any path")
	serve.AddressVar(flags, &o.metrics, "metrics", "127.0.0.1:9464",
		"serve /metrics, /healthz and /readyz on this `address`, which must not be public")
	flags.DurationVar(&o.unready, "unready", defaultUnready,
		"at the end, receive for this `time` after /readyz says no, so that load balancers notice")
	flags.StringVar(&o.dir, "dir", "queue-data", "keep the stream in this `directory`")
	flags.StringVar(&o.nats.urls, "nats", "", "keep the stream on the servers with these `URLs`, separated by commas")
	flags.StringVar(&o.nats.credentials, "creds", "", "authenticate to the servers with this credentials `file`")
	flags.StringVar(&o.nats.ca, "tls-ca", "", "trust servers with a certificate by the authorities in this `file`")
	flags.StringVar(&o.nats.cert, "tls-cert", "", "show the servers the certificate in this `file`")
	flags.StringVar(&o.nats.key, "tls-key", "", "the certificate's private key is in this `file`")
	flags.IntVar(&o.replicas, "replicas", 1, "store each event on this `number` of servers")
	flags.Int64Var(&o.maxBytes, "max-bytes", 10<<30,
		"refuse deliveries when the stream has this many `bytes`; events that failed have a quarter more, and dead letters a tenth")
	flags.IntVar(&o.workers, "workers", 8, "handle this `number` of events at a time, and as many that failed before")
	flags.Uint64Var(&o.attempts, "attempts", defaultAttempts, "make an event a dead letter after this `number` of attempts")
	flags.BoolVar(&o.dead, "dead", false, "list the dead letters, and end")
	flags.BoolVar(&o.redrive, "redrive", false, "put all dead letters, or that of -letter, back into the stream, and end")
	flags.BoolVar(&o.discard, "discard", false, "delete the dead letter of -letter, and end")
	flags.Func("letter", "redrive or discard the dead letter with this `id`, or all", o.letter.set)
}

// check reports what does not fit together.
func (o *options) check() error {
	switch {
	case o.dead && o.redrive, o.dead && o.discard, o.redrive && o.discard:
		return errors.New("-dead, -redrive and -discard exclude each other: set one of them")
	case o.discard && o.letter == selection{}:
		return errors.New("-discard needs -letter: name a dead letter by its id, as -dead lists it, or all")
	case o.letter != selection{} && !o.redrive && !o.discard:
		return errors.New("-letter is for -redrive and -discard: set one of them")
	case o.replicas < 1 || o.maxBytes < 1 || o.workers < 1 || o.attempts < 1:
		return errors.New("-replicas, -max-bytes, -workers and -attempts must be at least 1")
	case o.unready < 0 || o.unready > maxUnready:
		return fmt.Errorf("-unready must be between 0 and %s", maxUnready)
	case (o.nats.cert == "") != (o.nats.key == ""):
		return errors.New("-tls-cert and -tls-key need each other: set both")
	case o.nats.urls != "":
		return nil
	case o.replicas > 1:
		return errors.New("-replicas needs a cluster: name its servers with -nats")
	case o.nats != servers{}:
		return errors.New("-creds and -tls-… are for other servers: name them with -nats")
	}
	return nil
}
