//go:build unix

package main

import (
	"bufio"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain makes the test binary the program itself where a test starts it so.
func TestMain(m *testing.M) {
	if os.Getenv("INSPECTOR_TEST_PROGRAM") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestASignalEndsWhatWaitsForItsInput(t *testing.T) {
	for _, command := range []string{"sign", "diagnose"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], command, "-")
		cmd.Env = append(os.Environ(), "INSPECTOR_TEST_PROGRAM=1", secretVariable+"="+testSecret)
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		defer in.Close()
		require.NoError(t, cmd.Start())
		// The program has taken this when it reads, and has set up its signals.
		_, err = in.Write(make([]byte, 1<<20))
		require.NoError(t, err)
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case err := <-ended:
			require.EqualError(t, err, "signal: terminated", command)
		case <-time.After(time.Minute):
			t.Fatalf("%s does not end", command)
		}
	}
}

func TestASignalEndsListenOrderly(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "listen", "-addr", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "INSPECTOR_TEST_PROGRAM=1", secretVariable+"="+testSecret)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
}
