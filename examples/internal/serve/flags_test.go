package serve

import (
	"bytes"
	"flag"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

func parse(args ...string) (listen string, drain time.Duration, err error) {
	flags := flag.NewFlagSet("program", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	AddressVar(flags, &listen, "listen", ":8080", "")
	DrainVar(flags, &drain)
	err = flags.Parse(args)
	return listen, drain, err
}

func TestFlags(t *testing.T) {
	listen, drain, err := parse()
	require.NoError(t, err)
	require.Equal(t, ":8080", listen)
	require.Equal(t, DefaultDrain, drain)
	listen, _, err = parse("-listen", "unix:/run/mailtrap/webhook.sock")
	require.NoError(t, err)
	require.Equal(t, "unix:/run/mailtrap/webhook.sock", listen)
	for text, want := range map[string]time.Duration{"0": 0, "2s": 2 * time.Second, "10s": 10 * time.Second} {
		_, drain, err := parse("-drain", text)
		require.NoError(t, err)
		require.Equal(t, want, drain)
	}

	_, _, err = parse("-listen", "")
	require.ErrorContains(t, err, `invalid value "" for flag -listen: name an address, such as :8080`)
	for _, text := range []string{"", "5", "-1ns", "10001ms"} {
		_, _, err = parse("-drain", text)
		require.ErrorContains(t, err, "for flag -drain: make it 0s to 10s", text)
	}
}

func TestFlagsShowTheirDefaults(t *testing.T) {
	var usage bytes.Buffer
	flags := flag.NewFlagSet("program", flag.ContinueOnError)
	flags.SetOutput(&usage)
	AddressVar(flags, new(string), "listen", ":8080", "receive on this `address`")
	DrainVar(flags, new(time.Duration))
	flags.PrintDefaults()
	require.Contains(t, usage.String(), "receive on this address (default :8080)")
	require.Contains(t, usage.String(), "-drain duration")
	require.Contains(t, usage.String(), "(default 5s)")
}

func TestNewVerifier(t *testing.T) {
	const hint = "a signing secret is missing or blank: set MAILTRAP_SIGNING_SECRET to the webhook's signing secret," +
		" or to those of several webhooks with commas between"
	for _, secrets := range []string{"", " \n"} {
		_, err := NewVerifier(secrets)
		require.EqualError(t, err, hint)
	}
	_, err := NewVerifier("one, ,three")
	require.ErrorContains(t, err, hint+": mailtrapwebhook: signing secret 2 of 3 is blank")
	require.NotContains(t, err.Error(), "three")

	verifier, err := NewVerifier("one, two\n") // as a file has it
	require.NoError(t, err)
	body := []byte("a body")
	for _, secret := range []string{"one", "two"} {
		require.NoError(t, verifier.Verify(body, mailtrapwebhook.Sign(body, secret)))
	}
}
