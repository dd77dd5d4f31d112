package serve

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// SecretVariable is the environment variable with the signing secrets.
const SecretVariable = "MAILTRAP_SIGNING_SECRET"

// maxDrain keeps the end of a program within 40 seconds, and 46 in observability.
const maxDrain = 10 * time.Second

// NewVerifier returns a Verifier of the secrets that SecretVariable holds, with
// commas between.
func NewVerifier(secrets string) (*mailtrapwebhook.Verifier, error) {
	const hint = "a signing secret is missing or blank: set " + SecretVariable + " to the webhook's signing secret," +
		" or to those of several webhooks with commas between"
	verifier, err := mailtrapwebhook.NewVerifier(strings.Split(secrets, ",")...)
	switch err {
	case nil:
		return verifier, nil
	case mailtrapwebhook.ErrNoSecret:
		return nil, errors.New(hint)
	}
	return nil, fmt.Errorf("%s: %w", hint, err) // which of several
}

// AddressVar defines a flag for the address of a listener. An empty one, such
// as that of an unset variable, is refused: net.Listen would choose any port.
func AddressVar(flags *flag.FlagSet, p *string, name, value, usage string) {
	*p = value
	flags.Var((*address)(p), name, usage)
}

// DrainVar defines the flag -drain for [Server.Drain].
func DrainVar(flags *flag.FlagSet, p *time.Duration) {
	*p = DefaultDrain
	flags.Var((*drain)(p), "drain", "receive for this `duration` after a signal, 10s at most, while /readyz answers 503")
}

type address string

func (a *address) String() string { return string(*a) }

func (a *address) Set(text string) error {
	if text == "" {
		return errors.New("name an address, such as :8080")
	}
	*a = address(text)
	return nil
}

type drain time.Duration

func (d *drain) String() string { return time.Duration(*d).String() }

func (d *drain) Set(text string) error {
	value, err := time.ParseDuration(text)
	if err != nil || value < 0 || value > maxDrain {
		return fmt.Errorf("make it 0s to %v", maxDrain)
	}
	*d = drain(value)
	return nil
}
