// Inspector is a bench for Mailtrap's webhooks. It receives deliveries, checks
// their signatures and shows them on a page; it plays Mailtrap against a
// receiver; and it says why a captured delivery does not verify.
//
//	go run github.com/mailtrapwebhook/mailtrapwebhook/examples/inspector@latest listen
//
// The README has the rest.
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

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const secretVariable = "MAILTRAP_SIGNING_SECRET"

const usage = `Usage: inspector command [flags] [arguments]

  listen     receive deliveries and show them on a page
  send       play Mailtrap against a URL
  replay     send captured deliveries again
  diagnose   say why a delivery does not verify, and what is in it
  sign       print the signature of a body

inspector command -h shows the flags of a command.
`

// The exit statuses.
const (
	exitOK = iota
	exitFailure
	exitUsage
)

func main() {
	ctx := context.Background()
	if len(os.Args) > 1 && commands[os.Args[1]].stops {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop) // a second signal ends the program at once
	}
	os.Exit(run(ctx, os.Args[1:], environment{os.Getenv, os.Stdin, os.Stdout, os.Stderr}))
}

// An environment is what the program has from the outside. Tests have their
// own.
type environment struct {
	getenv func(string) string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// A command is one of the program's.
type command struct {
	usage string
	run   func(ctx context.Context, args []string, env environment) error
	stops bool // when ctx ends; a signal ends the others, which may wait for a file
}

var commands = map[string]command{
	"listen":   {listenUsage, listen, true},
	"send":     {sendUsage, send, true},
	"replay":   {replayUsage, replay, true},
	"diagnose": {diagnoseUsage, diagnose, false},
	"sign":     {signUsage, sign, false},
}

// A usageError is an error in how the program was called.
type usageError struct{ error }

func misused(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// errReported is the error of a command that has already said what is wrong.
var errReported = errors.New("the reason is printed above")

func run(ctx context.Context, args []string, env environment) int {
	if len(args) == 0 {
		fmt.Fprint(env.stderr, usage)
		return exitUsage
	}
	if name := args[0]; name == "-h" || name == "-help" || name == "--help" || name == "help" {
		fmt.Fprint(env.stdout, usage)
		return exitOK
	}
	cmd, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(env.stderr, "inspector: there is no command %s: inspector -h lists them\n", printable(args[0]))
		return exitUsage
	}
	err := cmd.run(ctx, args[1:], env)
	wrongUse, isUsage := errors.AsType[usageError](err)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(env.stdout, cmd.usage)
		return exitOK
	case isUsage:
		fmt.Fprintf(env.stderr, "inspector: %s: inspector %s -h shows the usage\n", printable(wrongUse.Error()), args[0])
		return exitUsage
	case err != errReported:
		fmt.Fprintf(env.stderr, "inspector: %s\n", printable(errorText(err)))
	}
	return exitFailure
}

// errorText returns the text of an error without the name of the package that
// made it, and with the names of faults that -fault takes.
func errorText(err error) string {
	text := strings.TrimPrefix(err.Error(), "mailtrapwebhook: ")
	text = strings.TrimPrefix(text, "webhooktest: ")
	return strings.ReplaceAll(text, "FaultLate", "fault late")
}

// newFlags returns an empty set of flags that prints nothing by itself.
func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	return flags
}

// parseFlags parses the arguments of a command.
func parseFlags(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args)
	if err == nil || err == flag.ErrHelp {
		return err
	}
	return usageError{err}
}

// A secretList is the value of -secret, which may be given several times.
type secretList []string

// addTo adds -secret to the flags.
func (l *secretList) addTo(flags *flag.FlagSet) {
	flags.Func("secret", "", func(secret string) error {
		*l = append(*l, secret)
		return nil
	})
}

// secrets returns the secrets of -secret, or else those of the environment. A
// blank one is an error: the variable that held it may be unset.
func (l secretList) secrets(getenv func(string) string) ([]string, error) {
	source := "-secret"
	if len(l) == 0 {
		source = secretVariable
		if value := getenv(secretVariable); value != "" {
			l = strings.Split(value, ",")
		}
	}
	if len(l) == 0 {
		return nil, nil
	}
	if _, err := mailtrapwebhook.NewVerifier(l...); err != nil {
		return nil, misused("a secret in %s is blank: pass the one from the webhook's settings", source)
	}
	return l, nil
}
