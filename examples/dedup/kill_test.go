package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/internal/replicas"
)

// slowly prints a line with the time for an event, and takes six milliseconds.
func slowly(_ context.Context, ev mailtrapwebhook.Event) error {
	time.Sleep(6 * time.Millisecond)
	fmt.Println("handled", ev.Key(), time.Now().UnixMilli())
	return nil
}

// A process that is killed in the middle of a slow delivery repeats what it did
// in the last second, and nothing older.
func TestKillRepeatsASecond(t *testing.T) {
	for _, store := range stores(t) {
		t.Run(store.name, func(t *testing.T) {
			t.Parallel()
			const events = 500 // three seconds
			program, err := os.Executable()
			require.NoError(t, err)
			start := func() (*replicas.Process, string) {
				cmd := exec.Command(program)
				cmd.Env = append(os.Environ(), replicaVariable+"="+store.url, slowVariable+"=1")
				p, address := replicas.Start(t, cmd)
				return p, "http://" + address
			}
			batches := replicas.NewBatches(t, 1, events)
			killed, url := start()
			answered := make(chan int)
			go func() { answered <- batches[0].Post(t.Context(), url) }()
			time.Sleep(1500*time.Millisecond + rand.N(time.Second))
			killed.Kill()
			died := time.Now()
			require.Zero(t, <-answered)

			next, url := start()
			replicas.Deliver(t, url, batches)
			next.End(t)
			first, second := handledAt(t, killed), handledAt(t, next)
			var repeated int
			var oldest time.Duration
			for _, ev := range batches[0].Events {
				at, once := first[ev.Key()]
				_, again := second[ev.Key()]
				require.True(t, once || again, "event %s is lost", ev.Key())
				if once && again {
					repeated++
					oldest = max(oldest, died.Sub(at))
				}
			}
			t.Logf("handled before the kill: %d, repeated: %d, the oldest %v before the kill", len(first), repeated, oldest)
			require.Less(t, oldest, 2*time.Second) // a second for the machine
		})
	}
}

// handledAt returns when a process handled each event.
func handledAt(t *testing.T, p *replicas.Process) map[string]time.Time {
	at := make(map[string]time.Time)
	for _, line := range p.Lines {
		verb, rest, _ := strings.Cut(line, "handled ")
		key, millis, found := strings.Cut(rest, " ")
		if verb != "" || !found {
			continue // cut off by the kill, or another line
		}
		ms, err := strconv.ParseInt(millis, 10, 64)
		require.NoError(t, err)
		at[key] = time.UnixMilli(ms)
	}
	return at
}
