package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
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

// Workers are killed while events move from stream to stream. In the end each
// event is handled or a dead letter.
func TestKilledWorkersLoseNothing(t *testing.T) {
	t.Parallel()
	_, url := startNode(t, "alone", t.TempDir(), "-1")
	q := openTestQueue(t, options{nats: servers{urls: url}, replicas: 1, maxBytes: testMaxBytes})
	texts := make([]string, 2000)
	for i := range texts {
		texts[i] = bounce(fmt.Sprint("m-", i))
	}
	publishAll(t, q, texts...)

	became := make(map[string]bool)
	handledLine := regexp.MustCompile(`(?m)^handled (\S+)$`)
	note := func(logs string) {
		for _, match := range handledLine.FindAllStringSubmatch(logs, -1) {
			became[match[1]] = true
		}
	}
	for range 8 {
		worker, _ := startProcess(t, "flaky", handledLine, url)
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		worker.kill()
		note(worker.logs.String())
	}
	last, _ := startProcess(t, "flaky", handledLine, url)
	consumer, err := q.stream.Consumer(t.Context(), consumerName)
	require.NoError(t, err)
	waitUntilHandled(t, q, consumer)
	last.kill()
	note(last.logs.String())
	letters := lettersIn(t, q.dead)
	require.NotEmpty(t, letters)
	t.Logf("%d handled, %d dead letters", len(became), len(letters))
	for _, letter := range letters {
		became[letter.Key] = true
	}
	require.Equal(t, len(texts), len(became), "events are gone")
}

// runFlakyWorker runs a worker whose work often fails. Its argument has the
// URLs of the servers.
func runFlakyWorker() {
	logger := slog.New(slog.DiscardHandler)
	q, err := openQueue(context.Background(), options{nats: servers{urls: os.Args[1]}, replicas: 1, maxBytes: testMaxBytes}, logger)
	if err != nil {
		panic(err)
	}
	var consumers []jetstream.Consumer
	for _, stream := range []jetstream.Stream{q.stream, q.retry} {
		consumer, err := q.consumer(context.Background(), stream, killedAckWait)
		if err != nil {
			panic(err)
		}
		consumers = append(consumers, consumer)
	}
	w := newTestWorker(q, consumers[0], logger, func(_ context.Context, id string, _ mailtrapwebhook.Event) error {
		switch rand.IntN(10) {
		case 0:
			return mailtrapwebhook.Permanent(errors.New("no such user"))
		case 1, 2, 3:
			return errors.New("no database")
		}
		fmt.Fprintln(os.Stderr, "handled", id)
		return nil
	})
	go func() { panic(w.retrier(consumers[1]).run(context.Background())) }()
	panic(w.run(context.Background()))
}
