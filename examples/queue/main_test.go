package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func TestEventsAreQueuedOnce(t *testing.T) {
	events := []string{
		`{"event":"soft bounce","message_id":"m-1","event_id":"e-1","email":"a@example.com","timestamp":1728669700}`,
		`{"event":"activity_log.user.login","description":"b@example.com logged in","actor":{"id":1,"name":"Ann"}}`,
		`{"event":"activity_log.user.login","description":"b@example.com logged in","actor":{"id":1,"name":"Ann"}}`,
		`{"event":"inbound.message_received","inbox_id":11,"message_id":"22","from":"c@example.com"}`,
		`{"event":"brand new.* > kind","email":"d@example.com"}`,
	}
	for name, body := range map[string]string{"JSON": envelope(events...), "JSON Lines": lines(events...)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			program := startProgram(t, "-dir", dir)
			require.Equal(t, http.StatusBadRequest, post(t, program.address, body, "another secret"))
			require.Equal(t, http.StatusOK, post(t, program.address, body, testSecret))
			program.waitForEvents(t, len(events))
			require.Equal(t, http.StatusOK, post(t, program.address, body, testSecret), "the retry")
			require.Equal(t, http.StatusOK, post(t, program.address, lines(events[0]), testSecret), "in another delivery")
			require.Equal(t, exitOK, program.end(t), program.logs.String())

			type stored struct{ Subject, Text string }
			var got []stored
			for _, msg := range storedIn(t, dir) {
				got = append(got, stored{msg.Subject, string(msg.Data)})
			}
			require.Empty(t, cmp.Diff([]stored{
				{"mailtrap.sending.soft_bounce", events[0]},
				{"mailtrap.activity_log.user_login", events[1]},
				{"mailtrap.activity_log.user_login", events[2]},
				{"mailtrap.inbound.message_received", events[3]},
				{"mailtrap.unknown.brand_new_____kind", events[4]},
			}, got))
			require.Equal(t, 5, strings.Count(program.logs.String(), eventLine), program.logs.String())
			require.NotContains(t, program.logs.String(), "example.com")
		})
	}
}

// The effects come from the workers, after the answer.
func TestReceiver(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	var mu sync.Mutex
	effects := make(map[string]int)
	startWorker(t, q, ackWait, func(_ context.Context, _ string, ev mailtrapwebhook.Event) error {
		mu.Lock()
		defer mu.Unlock()
		effects[ev.Key()]++
		return nil
	})
	verifier, err := mailtrapwebhook.NewVerifier(testSecret)
	require.NoError(t, err)
	webhooktest.TestReceiver(t, webhooktest.Receiver{
		Handler: newHandler(verifier, q, slog.New(slog.DiscardHandler)),
		Secret:  testSecret,
		Count: func(ev mailtrapwebhook.Event) int {
			mu.Lock()
			defer mu.Unlock()
			return effects[ev.Key()]
		},
	})
}

// The stream must remember a handled event, also after a restart.
func TestHandledEventIsNotQueuedAgainAfterARestart(t *testing.T) {
	dir := t.TempDir()
	body := envelope(bounce("m-1"), bounce("m-2"))
	for attempt := range 3 {
		program := startProgram(t, "-dir", dir)
		require.Equal(t, http.StatusOK, post(t, program.address, body, testSecret))
		if attempt == 0 {
			program.waitForEvents(t, 2)
		}
		require.Equal(t, exitOK, program.end(t))
	}
	var sequences []uint64
	for _, msg := range storedIn(t, dir) {
		sequences = append(sequences, msg.Sequence)
	}
	require.Equal(t, []uint64{1, 2}, sequences)
}

func TestLargestEventFits(t *testing.T) {
	dir := t.TempDir()
	program := startProgram(t, "-dir", dir)
	frame := `{"event":"bounce","message_id":"m-1","response":""}`
	event := strings.Replace(frame, `""`, `"`+strings.Repeat("x", maxPayload-maxHeaderBytes-len(frame))+`"`, 1)
	require.Equal(t, http.StatusOK, post(t, program.address, event, testSecret))
	require.Equal(t, http.StatusRequestEntityTooLarge, post(t, program.address, event+" ", testSecret))
	require.Equal(t, exitOK, program.end(t), program.logs)
	stored := storedIn(t, dir)
	require.Len(t, stored, 1)
	require.True(t, event == string(stored[0].Data), "the text differs")
}

// A full stream keeps acknowledged events and acknowledges no event that it
// does not store.
func TestFullStreamRefusesDeliveries(t *testing.T) {
	dir := t.TempDir()
	program := startProgram(t, "-dir", dir, "-max-bytes", "4000")
	acknowledged := make(map[string]int)
	refused := 0
	for i := 0; refused < 3; i++ {
		id := fmt.Sprint("m-", i)
		switch status := post(t, program.address, envelope(bounce(id)), testSecret); status {
		case http.StatusOK:
			acknowledged[id] = 1
		default:
			require.Equal(t, http.StatusInternalServerError, status)
			refused++
		}
		require.Less(t, i, 100, "the stream is never full")
	}
	require.Equal(t, exitOK, program.end(t))
	require.Contains(t, program.logs.String(), "maximum bytes exceeded")
	require.NotEmpty(t, acknowledged)
	require.Equal(t, acknowledged, counted(t, storedIn(t, dir)))
}

func TestDeliveryIsRefusedIfOneOfItsEventsIsNotStored(t *testing.T) {
	dir := t.TempDir()
	program := startProgram(t, "-dir", dir, "-max-bytes", "4000")
	var events []string
	for i := range 100 {
		events = append(events, bounce(fmt.Sprint("m-", i)))
	}
	for range 2 {
		require.Equal(t, http.StatusInternalServerError, post(t, program.address, lines(events...), testSecret))
	}
	require.Equal(t, exitOK, program.end(t))
	for id, times := range counted(t, storedIn(t, dir)) {
		require.Equal(t, 1, times, id)
	}
}

func TestStreamIsSetUpToKeepEvents(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	require.True(t, q.server.JetStreamConfig().SyncAlways, "a loss of power would lose acknowledged events")

	info, err := q.stream.Info(t.Context())
	require.NoError(t, err)
	got := info.Config
	require.GreaterOrEqual(t, got.Duplicates, 24*time.Hour, "Mailtrap repeats an inbound event for 24 hours")
	require.Zero(t, got.MaxAge, "an event that waits would leave")
	require.Equal(t, jetstream.FileStorage, got.Storage)
	require.Equal(t, jetstream.LimitsPolicy, got.Retention)
	require.Equal(t, jetstream.DiscardNew, got.Discard)
	require.EqualValues(t, testMaxBytes, got.MaxBytes)
	require.EqualValues(t, -1, got.MaxMsgs)
	require.EqualValues(t, -1, got.MaxMsgsPerSubject)

	consumer, err := q.consumer(t.Context(), q.stream, ackWait)
	require.NoError(t, err)
	require.Equal(t, -1, consumer.CachedInfo().Config.MaxDeliver)
	require.Equal(t, jetstream.AckExplicitPolicy, consumer.CachedInfo().Config.AckPolicy)
	const longest = handleTimeout + grace
	require.Greater(t, ackWait, (prefetch+1)*longest+publishTimeout, "slow events would make the stream hand out others twice")
}

// Work that does not end must not keep the program from its end.
func TestProgramEndsWithoutThePartsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var told time.Duration
		hang := make(chan struct{})
		time.AfterFunc(time.Minute, cancel)
		started := time.Now()
		err := runAll(ctx, time.Second,
			func(ctx context.Context) error {
				<-ctx.Done()
				told = time.Since(started)
				return nil
			},
			func(context.Context) error {
				<-hang
				return nil
			},
		)
		require.ErrorContains(t, err, "not all work ended within 20s")
		require.Equal(t, time.Minute+time.Second, told)
		require.Equal(t, told+shutdownTimeout, time.Since(started))
		close(hang)
	})
}

// No part is useful without the others.
func TestProgramEndsWithTheFirstPart(t *testing.T) {
	broken := errors.New("no more connections")
	err := runAll(t.Context(), time.Hour,
		func(ctx context.Context) error { <-ctx.Done(); return nil },
		func(context.Context) error { return broken },
	)
	require.ErrorIs(t, err, broken)
}

// The server ends, too, when an administrator has deleted the worker's consumer.
func TestProgramEndsWithItsWorker(t *testing.T) {
	url := startInside(t, &server.Options{})
	program := startProgram(t, "-nats", url, "-max-bytes", strconv.Itoa(clusterMaxBytes))
	q := openTestQueue(t, options{nats: servers{urls: url}, replicas: 1, maxBytes: clusterMaxBytes})
	require.NoError(t, q.stream.DeleteConsumer(t.Context(), consumerName))
	require.Equal(t, exitFailure, <-program.status)
	require.Contains(t, program.logs.String(), "the worker ended: see the log for the reason")
	require.NotContains(t, program.logs.String(), "not all work ended")
	_, err := net.Dial("tcp", program.address)
	require.Error(t, err)
}

// A second program on the same address must end before it opens the directory.
func TestProgramWithoutItsAddressOpensNoDirectory(t *testing.T) {
	program := startProgram(t, "-dir", t.TempDir())
	dir := filepath.Join(t.TempDir(), "queue-data")
	args := []string{"-listen", program.address, "-metrics", "127.0.0.1:0", "-dir", dir}
	require.Equal(t, exitFailure, run(t.Context(), args, environment(testSecret), io.Discard, io.Discard))
	require.NoDirExists(t, dir)
	require.Equal(t, exitOK, program.end(t))
}

func TestDirectoryServesOneProgramAtATime(t *testing.T) {
	dir := t.TempDir()
	first := openTestQueue(t, options{dir: dir, replicas: 1, maxBytes: 1 << 20})
	_, err := openQueue(t.Context(), options{dir: dir, replicas: 1, maxBytes: 1 << 20}, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "another process uses "+dir)
	first.close()
	openTestQueue(t, options{dir: dir, replicas: 1, maxBytes: 1 << 20})
}

func TestProbesSayWhetherTheProgramIsReady(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), freePort(t)
	node, url := startNode(t, "alone", dir, port)
	program := startProgram(t, "-nats", url, "-max-bytes", strconv.Itoa(clusterMaxBytes), "-unready", "10s")
	public, private := "http://"+program.address, "http://"+program.metrics
	statuses := func(path string) [2]int {
		atPublic, _ := fetch(t, public+path)
		atPrivate, _ := fetch(t, private+path)
		return [2]int{atPublic, atPrivate}
	}
	ready, unready := [2]int{200, 200}, [2]int{503, 503}
	requireUp := func(want float64) {
		status, text := fetch(t, private+"/metrics")
		require.Equal(t, http.StatusOK, status)
		up, ok := valueIn(text, "mailtrap_queue_up")
		require.True(t, ok && up == want, text)
	}
	require.Equal(t, ready, statuses("/readyz"))
	requireUp(1)
	status, _ := fetch(t, public+"/metrics")
	require.NotEqual(t, http.StatusOK, status, "the public address has the metrics")

	node.kill()
	require.Equal(t, unready, statuses("/readyz"))
	require.Equal(t, ready, statuses("/healthz"))
	requireUp(0)

	startNode(t, "alone", dir, port)
	require.Eventually(t, func() bool { return statuses("/readyz") == ready }, patience, tick)

	// At the end the program is unready first, and receives for a while longer.
	program.cancel()
	require.Eventually(t, func() bool { return statuses("/readyz") == unready }, patience, tick)
	require.Equal(t, http.StatusOK, post(t, program.address, envelope(bounce("m-1")), testSecret))
	require.Contains(t, program.logs.String(), `msg="ending: /readyz answers 503" drain=10s`)
}
