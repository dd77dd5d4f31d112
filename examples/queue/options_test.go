package main

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestCommandLine(t *testing.T) {
	const noSecret = "a signing secret is missing or blank: set MAILTRAP_SIGNING_SECRET to the webhook's signing secret," +
		" or to those of several webhooks with commas between"
	for name, test := range map[string]struct {
		args   []string
		secret string
		status int
		want   string
	}{
		"unknown flag":    {[]string{"-lisen", ":0"}, testSecret, exitUsage, "not defined: -lisen"},
		"stray argument":  {[]string{"x"}, testSecret, exitUsage, `unexpected argument "x"`},
		"no secret":       {nil, "", exitUsage, noSecret},
		"no address":      {[]string{"-listen", ""}, testSecret, exitUsage, "name an address, such as :8080"},
		"no metrics":      {[]string{"-metrics", ""}, testSecret, exitUsage, "name an address, such as :8080"},
		"blank secret":    {nil, " \n", exitUsage, noSecret},
		"replicas of one": {[]string{"-replicas", "3"}, testSecret, exitUsage, "-nats"},
		"no replicas":     {[]string{"-replicas", "0"}, testSecret, exitUsage, "at least 1"},
		"no room":         {[]string{"-max-bytes", "0"}, testSecret, exitUsage, "at least 1"},
		"no workers":      {[]string{"-workers", "0"}, testSecret, exitUsage, "at least 1"},
		"no attempts":     {[]string{"-attempts", "0"}, testSecret, exitUsage, "at least 1"},
		"long unready":    {[]string{"-unready", "1m"}, testSecret, exitUsage, "between 0 and 10s"},
		"creds of nobody": {[]string{"-creds", "x"}, testSecret, exitUsage, "name them with -nats"},
		"no key":          {[]string{"-nats", "nats://h", "-tls-cert", "x"}, testSecret, exitUsage, "set both"},
		"blank in a list": {nil, testSecret + ",", exitUsage, noSecret + ": mailtrapwebhook: signing secret 2 of 2 is blank"},
		"discard what":    {[]string{"-discard", "-dir", "x"}, "", exitUsage, "as -dead lists it, or all"},
		"no such letter":  {[]string{"-discard", "-letter", "0"}, "", exitUsage, "as -dead lists it, or all"},
		"a letter alone":  {[]string{"-letter", "1"}, testSecret, exitUsage, "for -redrive and -discard"},
		"two decisions":   {[]string{"-discard", "-redrive", "-letter", "all"}, "", exitUsage, "exclude each other"},
		"list and delete": {[]string{"-dead", "-discard", "-letter", "all"}, "", exitUsage, "exclude each other"},
		"missing creds":   {[]string{"-dead", "-nats", "nats://127.0.0.1:1", "-creds", "none"}, "", exitFailure, "none"},
		"no such address": {[]string{"-listen", "localhost"}, testSecret, exitFailure, "missing port"},
		"no directory":    {[]string{"-listen", "127.0.0.1:0", "-metrics", "127.0.0.1:0", "-dir", os.Args[0]}, testSecret, exitFailure, "-dir is no directory"},
		"malformed URL":   {[]string{"-listen", "127.0.0.1:0", "-metrics", "127.0.0.1:0", "-nats", "nats://u:hunter2/@h"}, testSecret, exitFailure, "-nats"},
		"nobody is there": {[]string{"-listen", "127.0.0.1:0", "-metrics", "127.0.0.1:0", "-nats", "nats://127.0.0.1:1"}, testSecret, exitFailure, "no servers"},
		"help":            {[]string{"-h"}, "", exitOK, "-max-bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			require.Equal(t, test.status, run(t.Context(), test.args, environment(test.secret), io.Discard, &stderr), &stderr)
			require.Contains(t, stderr.String(), test.want)
			require.NotContains(t, stderr.String(), testSecret)
			require.NotContains(t, stderr.String(), "hunter2")
		})
	}
}

// Each webhook has its own secret.
func TestProgramTakesDeliveriesOfSeveralWebhooks(t *testing.T) {
	opts, err := parseOptions(nil, environment(testSecret+", another secret\n"), io.Discard)
	require.NoError(t, err)
	for _, secret := range []string{testSecret, "another secret"} {
		body := []byte(bounce("m-1"))
		require.NoError(t, opts.verifier.Verify(body, mailtrapwebhook.Sign(body, secret)))
	}
}
