package main

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

const testSecret = "0123456789abcdef0123456789abcdef"

// environment returns a getenv that knows the secret.
func environment(secret string) func(string) string {
	return func(name string) string {
		if name == serve.SecretVariable {
			return secret
		}
		return ""
	}
}

func TestCommandLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()

	for name, test := range map[string]struct {
		args   []string
		secret string
		status int
		want   string
	}{
		"unknown flag":          {[]string{"-lisen", ":0"}, testSecret, exitUsage, "not defined: -lisen"},
		"flag with a line end":  {[]string{"-lis\nen"}, testSecret, exitUsage, "not defined: -lis"},
		"flag without a value":  {[]string{"-listen"}, testSecret, exitUsage, "needs an argument: -listen"},
		"stray argument":        {[]string{":8080"}, testSecret, exitUsage, `unexpected argument ":8080"`},
		"argument after a flag": {[]string{"-listen", ":0", "x"}, testSecret, exitUsage, `unexpected argument "x"`},
		"empty address":         {[]string{"-listen", ""}, testSecret, exitUsage, "name an address"},
		"negative drain":        {[]string{"-listen", ":0", "-drain", "-5s"}, testSecret, exitUsage, "make it 0s to 10s"},
		"no secret":             {[]string{"-listen", "127.0.0.1:0"}, "", exitUsage, serve.SecretVariable},
		"blank secret":          {[]string{"-listen", "127.0.0.1:0"}, " \n", exitUsage, serve.SecretVariable},
		"blank among secrets":   {[]string{"-listen", "127.0.0.1:0"}, testSecret + ",", exitUsage, "secret 2 of 2 is blank"},
		"address in use": {
			[]string{"-listen", taken.Addr().String()}, testSecret, exitFailure, "bind: ",
		},
		"address without a port": {[]string{"-listen", "localhost"}, testSecret, exitFailure, "missing port"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, test.status, run(t.Context(), test.args, environment(test.secret), &stdout, &stderr))
			require.Empty(t, stdout.String())
			requireOneLine(t, stderr.String(), test.want)
			require.NotContains(t, stderr.String(), testSecret)
		})
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitOK, run(t.Context(), []string{"-h"}, environment(""), &stdout, &stderr))
	require.Equal(t, usage, stdout.String())
	require.Empty(t, stderr.String())
}

func requireOneLine(t *testing.T, got, want string) {
	t.Helper()
	require.True(t, strings.HasPrefix(got, "quickstart: "), "%q", got)
	require.Contains(t, got, want)
	require.Equal(t, 1, strings.Count(got, "\n"), "%q", got)
	require.True(t, strings.HasSuffix(got, "\n"), "%q", got)
}
