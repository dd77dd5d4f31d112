package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const sendUsage = `Usage: inspector send [flags] URL

Plays Mailtrap against the receiver at URL and prints a table of attempts. The
exit status is 1 if the receiver loses an event, or makes Mailtrap pause the
webhook. A user name and password in URL become basic authentication.

  -kind names     kinds of events, with commas between them, or all (default)
  -n number       events in all; one of each kind if it is not given. Up to 500
                  make a delivery
  -format name    json (default) or jsonl
  -fault name     forged     the signature is wrong
                  repeated   the delivery comes again after it was acknowledged
                  twice      two copies come at the same time
                  late       the first attempt hangs up in the middle of the
                             body, the second while your program works
                  broken     one event cannot be read
                  reordered  the events come in reverse order
  -retries        send again what is not acknowledged, as Mailtrap does; without
                  it each delivery has one attempt, or what the fault takes
  -speed factor   how much faster than Mailtrap's retries are; 300 if it is not
                  given, which makes 5 minutes a second
  -secret text    the receiver's signing secret. Prefer ` + secretVariable + `:
                  other users of the machine see a command line
`

const defaultSpeed = 300

// maxSendEvents is more than anybody waits for.
const maxSendEvents = 10_000_000

type sendOptions struct {
	url     string
	samples samples
	player  player
}

func parseSend(args []string, env environment) (opts sendOptions, err error) {
	var secrets secretList
	flags := newFlags("send")
	kinds := flags.String("kind", "all", "")
	fault := flags.String("fault", "", "")
	flags.IntVar(&opts.samples.n, "n", 0, "")
	flags.StringVar(&opts.samples.format, "format", "json", "")
	addPlayerFlags(flags, &opts.player)
	secrets.addTo(flags)
	if err := parseFlags(flags, args); err != nil {
		return opts, err
	}
	if opts.url, err = urlArgument(flags.Args()); err != nil {
		return opts, err
	}
	if flags.NArg() > 1 {
		return opts, misused("there must be one URL, behind the flags")
	}
	for kind := range strings.SplitSeq(*kinds, ",") {
		opts.samples.kinds = append(opts.samples.kinds, strings.TrimSpace(kind))
	}
	opts.samples.fault = webhooktest.Fault(*fault)
	opts.player.fault = opts.samples.fault
	if err := opts.samples.check(maxSendEvents); err != nil {
		return opts, usageError{err}
	}
	known, err := secrets.secrets(env.getenv)
	switch {
	case err != nil:
		return opts, err
	case len(known) == 0:
		return opts, misused("there is no secret to sign with: set %s to the receiver's", secretVariable)
	}
	opts.player.secret = known[0]
	return opts, opts.player.check()
}

// send plays Mailtrap against a URL.
func send(ctx context.Context, args []string, env environment) error {
	opts, err := parseSend(args, env)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: newTransport()}
	defer client.CloseIdleConnections()
	t := newTable(env, "DELIVERY", opts.samples.deliveries(), opts.player.retries)
	for body := range opts.samples.bodies() {
		m := opts.player.mailtrap(body)
		m.URL, m.Client = opts.url, client
		if !t.deliver(ctx, m, strconv.Itoa(t.delivery+1), body) {
			break
		}
	}
	return t.finish()
}

// newTransport returns a transport for requests to the receiver.
func newTransport() *http.Transport {
	return &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
}

// urlArgument returns the URL that comes last.
func urlArgument(args []string) (string, error) {
	if len(args) == 0 {
		return "", misused("the URL of the receiver is missing")
	}
	last := args[len(args)-1]
	if _, err := parseTarget(last); err != nil {
		return "", misused("the last argument %v", err)
	}
	return last, nil
}

// check returns an error for a speed that makes no sense.
func (p player) check() error {
	if !(p.speed > 0 && p.speed <= maxSpeed) {
		return usageError{fmt.Errorf("-speed must be above 0 and at most %d", maxSpeed)}
	}
	return nil
}
