package main

import (
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The stream has each acknowledged event once, however often the program is
// killed. With MAILTRAPWEBHOOK_FULL=1 the test kills it a hundred times.
func TestKilledProgramLosesNothing(t *testing.T) {
	t.Parallel()
	kills := 20
	if os.Getenv("MAILTRAPWEBHOOK_FULL") == "1" {
		kills = 100
	}
	dir := t.TempDir()
	args := append(slices.Clone(onFreePorts), "-dir", dir)
	program, address := startProcess(t, "queue", listeningLine, args...)
	load := startLoad(t, 4, address)
	started := time.Now()
	for range kills {
		load.waitForMore(t, rand.IntN(30))
		time.Sleep(time.Duration(rand.IntN(10_000)) * time.Microsecond) // somewhere in a delivery
		program.kill()
		require.NotContains(t, program.logs.String(), "DATA RACE")
		program, address = startProcess(t, "queue", listeningLine, args...)
		load.address.Store(address)
	}
	load.stop(t)
	require.NoError(t, program.cmd.Process.Signal(syscall.SIGTERM))
	<-program.ended
	require.Zero(t, program.cmd.ProcessState.ExitCode(), program.logs.String())

	t.Logf("%d kills in %s", kills, time.Since(started).Round(time.Millisecond))
	load.requireEachOnce(t, storedIn(t, dir))
	require.NotZero(t, load.broken.Load(), "no kill hit a delivery")
}
