package main

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWrongUseIsOneLineAndExitStatus2(t *testing.T) {
	for _, args := range [][]string{
		{"frobnicate"},
		{"listen", "here"},
		{"listen", "-addr", "8080"},
		{"listen", "-forward", "ftp://example.com"},
		{"listen", "-secret", " "},
		{"listen", "-frobnicate"},
		{"send"},
		{"send", "example.com"},
		{"send", "http://example.com", "-n", "3"},
		{"send", "-n", "-1", "http://example.com"},
		{"send", "-kind", "bounced", "http://example.com"},
		{"send", "-format", "xml", "http://example.com"},
		{"send", "-fault", "lost", "http://example.com"},
		{"send", "-speed", "0", "http://example.com"},
		{"send", "-speed", "NaN", "http://example.com"},
		{"replay", "http://example.com"},
		{"replay", "file"},
		{"diagnose"},
		{"diagnose", "one", "two"},
		{"sign"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			got := runWith(t, testSecret, "", args...)
			require.Equal(t, exitUsage, got.status)
			require.Regexp(t, `^inspector: [^\n]+\n$`, got.stderr)
			require.Empty(t, got.stdout)
		})
	}
}

func TestSendAndSignNeedASecret(t *testing.T) {
	for _, args := range [][]string{{"send", "http://example.com"}, {"sign", "-"}} {
		got := runWith(t, "", "{}", args...)
		require.Equal(t, exitUsage, got.status)
		require.Contains(t, got.stderr, secretVariable)
	}
}

func TestABlankSecretInTheVariableIsNoticed(t *testing.T) {
	got := runWith(t, testSecret+", ", "", "listen")
	require.Equal(t, exitUsage, got.status)
	require.Contains(t, got.stderr, secretVariable+" is blank")
	require.NotContains(t, got.stderr, testSecret)
}

func TestHelpGoesToStdout(t *testing.T) {
	for name, cmd := range commands {
		got := runWith(t, "", "", name, "-h")
		require.Equal(t, outcome{exitOK, cmd.usage, ""}, got)
		require.Contains(t, usage, "\n  "+name)
	}
	require.Equal(t, outcome{exitOK, usage, ""}, runWith(t, "", "", "-h"))
	require.Equal(t, outcome{exitUsage, "", usage}, runWith(t, "", ""))
}

func TestAPortInUseIsOneLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	got := runWith(t, testSecret, "", "listen", "-addr", taken.Addr().String())
	require.Equal(t, exitFailure, got.status)
	require.Equal(t, "inspector: another program listens on "+taken.Addr().String()+
		": end it, or choose another address with -addr\n", got.stderr)
}

func TestErrorsQuoteNoPassword(t *testing.T) {
	got := runWith(t, testSecret, "", "listen", "-forward", "http://user:hunter2@exa mple.com/%zz")
	require.Equal(t, exitUsage, got.status)
	require.NotContains(t, got.stderr, "hunter2")
	got = runWith(t, testSecret, "", "send", "http://user:hunter2@127.0.0.1:1/?token=hunter2")
	require.Equal(t, exitFailure, got.status)
	require.NotContains(t, got.stdout+got.stderr, "hunter2")
	require.NotContains(t, got.stdout+got.stderr, testSecret)
}

func TestPrintableKeepsTheTerminalSafe(t *testing.T) {
	require.Equal(t, "a\uFFFDb\uFFFD[31mc\uFFFDd é", printable("a\nb\x1b[31mc\u202ed é"))
}
