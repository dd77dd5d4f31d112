package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/replicas"
)

// steadyVariable gives a replica the callback steady in place of moody.
const steadyVariable = "DEDUP_TEST_STEADY"

// steady prints a line for an event, with the time of its end, and takes 10 ms.
func steady(_ context.Context, ev mailtrapwebhook.Event) error {
	time.Sleep(10 * time.Millisecond)
	fmt.Println(time.Now().Format(time.RFC3339Nano), ev.Key())
	return nil
}

// A process that is killed in the middle of a delivery leaves only the work of
// about its last second to be done again.
func TestKillRepeatsItsLastSecond(t *testing.T) {
	program, err := os.Executable()
	require.NoError(t, err)
	for _, store := range stores(t) {
		t.Run(store.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			command := func() *exec.Cmd {
				cmd := exec.Command(program)
				cmd.Env = append(os.Environ(), replicaVariable+"="+store.url, steadyVariable+"=1")
				return cmd
			}
			b := replicas.NewBatches(t, 1, 500)[0]
			dies, address := replicas.Start(t, command())
			go b.Post(t.Context(), "http://"+address)
			time.Sleep(3 * time.Second) // of the 5 that the callbacks take
			dies.Kill()
			handled := endsOf(t, dies.Lines)
			var killed time.Time
			for _, end := range handled {
				if end.After(killed) {
					killed = end
				}
			}

			lives, address := replicas.Start(t, command())
			require.Eventually(t, func() bool { return b.Post(t.Context(), "http://"+address) == http.StatusOK },
				time.Minute, 100*time.Millisecond, "the leases of the killed process do not end")
			lives.End(t)
			var repeated int
			var oldest time.Duration
			for key := range endsOf(t, lives.Lines) {
				if end, ok := handled[key]; ok {
					repeated++
					oldest = max(oldest, killed.Sub(end))
				}
			}
			t.Logf("%d events handled before the kill; %d handled again, the oldest of them %v before the kill",
				len(handled), repeated, oldest.Round(time.Millisecond))
			require.Greater(t, len(handled), 100)
			// A second, and another for a busy machine.
			require.Less(t, oldest, 2*time.Second, "an event that was handled so long before had no mark")
		})
	}
}

// endsOf returns when each event's callback ended.
func endsOf(t *testing.T, lines []string) map[string]time.Time {
	ends := make(map[string]time.Time)
	for _, line := range lines {
		text, key, ok := strings.Cut(line, " ")
		end, err := time.Parse(time.RFC3339Nano, text)
		if !ok || err != nil {
			continue // the store's account
		}
		require.NotContains(t, ends, key, "one process handled an event twice")
		ends[key] = end
	}
	return ends
}
