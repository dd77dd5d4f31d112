package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
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

func TestForgedDeliveryIsNotQueued(t *testing.T) {
	dir := t.TempDir()
	program := startProgram(t, "-dir", dir)
	body := envelope(bounce("m-1"))
	require.Equal(t, http.StatusBadRequest, post(t, program.address, body, "another secret"))
	require.Equal(t, http.StatusBadRequest, post(t, program.address, lines(bounce("m-1")), "another secret"))
	require.Equal(t, exitOK, program.end(t))
	require.Empty(t, storedIn(t, dir))
	require.NotContains(t, program.logs.String(), eventLine)
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
	event := strings.Replace(frame, `""`, `"`+strings.Repeat("x", maxPayload-headerRoom-len(frame))+`"`, 1)
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

	consumer, err := q.consumer(t.Context(), ackWait)
	require.NoError(t, err)
	require.Equal(t, -1, consumer.CachedInfo().Config.MaxDeliver)
	require.Equal(t, jetstream.AckExplicitPolicy, consumer.CachedInfo().Config.AckPolicy)
	const longest = handleTimeout + grace
	require.Greater(t, ackWait, (prefetch+1)*longest+publishTimeout, "slow events would make the stream hand out others twice")
}

func TestCommandLine(t *testing.T) {
	for name, test := range map[string]struct {
		args   []string
		secret string
		status int
		want   string
	}{
		"unknown flag":    {[]string{"-lisen", ":0"}, testSecret, exitUsage, "not defined: -lisen"},
		"stray argument":  {[]string{"x"}, testSecret, exitUsage, `unexpected argument "x"`},
		"no secret":       {nil, "", exitUsage, secretVariable},
		"blank secret":    {nil, " \n", exitUsage, secretVariable},
		"replicas of one": {[]string{"-replicas", "3"}, testSecret, exitUsage, "-nats"},
		"no replicas":     {[]string{"-replicas", "0"}, testSecret, exitUsage, "at least 1"},
		"no room":         {[]string{"-max-bytes", "0"}, testSecret, exitUsage, "at least 1"},
		"no such address": {[]string{"-listen", "localhost"}, testSecret, exitFailure, "missing port"},
		"no directory":    {[]string{"-listen", "127.0.0.1:0", "-dir", os.Args[0]}, testSecret, exitFailure, "-dir is no directory"},
		"malformed URL":   {[]string{"-listen", "127.0.0.1:0", "-nats", "nats://u:pass/@h"}, testSecret, exitFailure, "-nats"},
		"nobody is there": {[]string{"-listen", "127.0.0.1:0", "-nats", "nats://127.0.0.1:1"}, testSecret, exitFailure, "no servers"},
		"help":            {[]string{"-h"}, "", exitOK, "-max-bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			require.Equal(t, test.status, run(t.Context(), test.args, environment(test.secret), &stderr), &stderr)
			require.Contains(t, stderr.String(), test.want)
			require.NotContains(t, stderr.String(), testSecret)
			require.NotContains(t, stderr.String(), "pass")
		})
	}
}

// A second program on the same address must end before it opens the directory.
func TestProgramWithoutItsAddressOpensNoDirectory(t *testing.T) {
	program := startProgram(t, "-dir", t.TempDir())
	dir := filepath.Join(t.TempDir(), "queue-data")
	args := []string{"-listen", program.address, "-dir", dir}
	require.Equal(t, exitFailure, run(t.Context(), args, environment(testSecret), io.Discard))
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
