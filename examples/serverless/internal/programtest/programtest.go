// Package programtest runs the programs in their tests.
package programtest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
)

// Secret is the signing secret of all tests.
const Secret = "0123456789abcdef0123456789abcdef"

const secretVariable = "MAILTRAP_SIGNING_SECRET"

// programVariable makes the test binary run the program in place of the tests.
const programVariable = "PROGRAMTEST_PROGRAM"

// Main runs the tests, or main if the test binary has to be the program. Call
// it in TestMain.
func Main(m *testing.M, main func()) {
	if os.Getenv(programVariable) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// SetSecret sets the secret for packages that read it in an init function.
// Assign its result to a variable of the test's package: Go initializes
// variables before it calls init. If the test binary has to be the program,
// SetSecret sets nothing.
func SetSecret() (err error) {
	if os.Getenv(programVariable) == "" {
		err = os.Setenv(secretVariable, Secret)
	}
	return err
}

// Self returns the file of the test binary, which can also be the program.
func Self(t *testing.T) (file string) {
	t.Helper()
	file, err := os.Executable()
	require.NoError(t, err)
	return file
}

// Command returns a command for the program in file. It has two secrets, of
// which Secret is the second.
func Command(t *testing.T, file string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), file, args...)
	cmd.Env = append(os.Environ(), programVariable+"=1", secretVariable+"=another,"+Secret+"\n",
		"DATABASE_URL=", "REDIS_URL=",
		"GOCOVERDIR="+t.TempDir()) // or the program prints a warning under "go test -cover"
	return cmd
}

// RequireNeedsSecret fails the test unless the program ends without a secret
// and prints the reason.
func RequireNeedsSecret(t *testing.T, file string, env ...string) {
	t.Helper()
	for _, secrets := range []string{"", " \n", Secret + ","} {
		cmd := Command(t, file)
		cmd.Env = append(append(cmd.Env, env...), secretVariable+"="+secrets)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%s", out)
		require.Equal(t, 1, exit.ExitCode(), "%s", out)
		require.Contains(t, string(out), "set MAILTRAP_SIGNING_SECRET to the webhook's signing secret")
		require.Equal(t, 1, strings.Count(string(out), "\n"), "%s", out)
	}
}

// A Program is running.
type Program struct {
	*exec.Cmd
	Ended <-chan error // has the error of Wait

	output string
}

// Start starts a program and kills it when the test ends.
func Start(t *testing.T, cmd *exec.Cmd) *Program {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "output")) // a pipe would have to be read
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	ended, gone := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- cmd.Wait()
		close(gone)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // as platforms do
		<-gone
		require.NoError(t, out.Close())
	})
	return &Program{cmd, ended, out.Name()}
}

// Printed returns what the program has printed so far.
func (p *Program) Printed(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(p.output)
	require.NoError(t, err)
	return string(text)
}

// FreePort returns a port that nobody listens on.
func FreePort(t *testing.T) string {
	t.Helper()
	port, err := servers.FreePort()
	require.NoError(t, err)
	return port
}

// AwaitPort waits until the program listens at a port of 127.0.0.1.
func (p *Program) AwaitPort(t *testing.T, port string) {
	t.Helper()
	require.Eventually(t, func() bool {
		if len(p.Ended) > 0 {
			return true // the request that follows fails
		}
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	}, time.Minute, 10*time.Millisecond)
}

// StartServer starts a server of its own, such as [servers.Redis], until the
// test ends.
func StartServer(t *testing.T, start func(dir string) (*servers.Server, error)) *servers.Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "store") // a short name: the path of a socket has at most 107 bytes
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	server, err := start(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Kill()) })
	return server
}

// RequireNothingPersonal fails the test if a log has a secret or an address.
func RequireNothingPersonal(t *testing.T, log string) {
	t.Helper()
	require.NotContains(t, log, Secret)
	require.NotContains(t, log, "@example.com")
}
