package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A letter is what a dead letter says.
type letter struct{ Subject, Key, Reason, Error, Attempts, Text string }

func lettersIn(t *testing.T, stream jetstream.Stream) (letters []letter) {
	t.Helper()
	for _, msg := range stored(t, stream) {
		get := msg.Header.Get
		letters = append(letters, letter{
			msg.Subject, get(headerKey), get(headerReason), get(headerError), get(headerAttempts), string(msg.Data),
		})
	}
	return letters
}

func TestEventThatCannotBeHandledIsADeadLetter(t *testing.T) {
	t.Parallel()
	failed := errors.New("no such user\r\nX: y")
	for name, test := range map[string]struct {
		err                    error
		reason, text, attempts string
	}{
		"failed":        {failed, reasonAttempts, "no such user  X: y", "3"},
		"permanent":     {mailtrapwebhook.Permanent(failed), reasonPermanent, "no such user  X: y", "1"},
		"wrapped":       {fmt.Errorf("a: %w", mailtrapwebhook.Permanent(errors.New("b"))), reasonPermanent, "a: b", "1"},
		"both":          {errors.Join(mailtrapwebhook.Permanent(failed), mailtrapwebhook.Permanent(failed)), reasonPermanent, "no such user  X: y no such user  X: y", "1"},
		"one of two":    {errors.Join(mailtrapwebhook.Permanent(errors.New("a")), errors.New("b")), reasonAttempts, "a b", "3"},
		"long":          {mailtrapwebhook.Permanent(errors.New(strings.Repeat("ä", 8<<20))), reasonPermanent, strings.Repeat("ä", maxError/2), "1"},
		"without words": {mailtrapwebhook.Permanent(errors.New("")), reasonPermanent, "", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
			publishAll(t, q, bounce("m-1"))
			registry := prometheus.NewRegistry()
			_, consumer := startWorker(t, q, ackWait, func(context.Context, string, mailtrapwebhook.Event) error {
				return test.err
			}, func(w *worker) { w.attempts, w.metrics = 3, newMetrics(registry) })
			waitUntilHandled(t, q, consumer)
			require.Empty(t, cmp.Diff([]letter{{
				"mailtrap_dead.sending.bounce", "bounce/m-1/e", test.reason, test.text, test.attempts, bounce("m-1"),
			}}, lettersIn(t, q.dead)))
			require.EqualValues(t, 1, valueOf(t, registry, `mailtrap_queue_dead_letters_total{reason="`+test.reason+`"}`))
		})
	}
}

func TestMessageThatIsNoEventIsADeadLetter(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	for _, test := range [][2]string{
		{"mailtrap.sending.bounce", "a@example.com"},
		{"mailtrap.sending.bounce", `{"event":"activity_log.user.login"}`},
		{"mailtrap.activity_log.user_login", bounce("m-1")},
		{"mailtrap.inbound.message_received", `null`},
		{"mailtrap.else", bounce("m-1")},
	} {
		_, err := q.js.Publish(t.Context(), test[0], []byte(test[1]))
		require.NoError(t, err)
	}
	publishAll(t, q, bounce("m-1"))
	var handed handings
	logs, consumer := startWorker(t, q, ackWait, handed.handle)
	waitUntilHandled(t, q, consumer)

	require.Equal(t, map[string]int{"m-1": 1}, handed.count())
	info, err := consumer.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 6, info.Delivered.Consumer, "a message came again")
	letters := lettersIn(t, q.dead)
	require.Len(t, letters, 5)
	for _, letter := range letters {
		require.Equal(t, reasonNoEvent, letter.Reason)
	}
	require.NotContains(t, logs.String(), "example.com")
}

// An event that ends each process that has it must not do so for good.
func TestEventThatNoWorkerSurvivesIsADeadLetter(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	publishAll(t, q, bounce("m-1"))
	consumer, err := q.consumer(t.Context(), q.stream, ackWait)
	require.NoError(t, err)
	for range 2 {
		msg, err := consumer.Next()
		require.NoError(t, err)
		require.NoError(t, msg.Nak())
	}
	var handed handings
	startWorker(t, q, ackWait, handed.handle, func(w *worker) { w.attempts = 2 })
	waitUntilHandled(t, q, consumer)
	require.Empty(t, handed.count())
	require.Equal(t, reasonAttempts, lettersIn(t, q.dead)[0].Reason)
}

// An event whose dead letter cannot be stored stays in the stream.
func TestEventStaysIfThereIsNoRoomForItsDeadLetter(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: 2000}) // and 201 for dead letters
	publishAll(t, q, bounce("m-1"))
	logs, consumer := startWorker(t, q, ackWait, func(context.Context, string, mailtrapwebhook.Event) error {
		return mailtrapwebhook.Permanent(errors.New("no such user"))
	})
	require.Eventually(t, func() bool {
		return strings.Contains(logs.String(), "dead letter cannot be stored") && strings.Contains(logs.String(), "-discard make room")
	}, patience, tick)
	require.Eventually(t, func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumAckPending == 1
	}, patience, tick)
	require.Empty(t, stored(t, q.dead))
	require.Len(t, stored(t, q.stream), 1)
}

// Redriven events come with the ids that they had, each once. Those that fail
// again are dead letters again.
func TestRedrivePutsDeadLettersBack(t *testing.T) {
	dir := t.TempDir()
	opts := options{dir: dir, replicas: 1, maxBytes: testMaxBytes}
	q, err := openQueue(t.Context(), opts, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	publishAll(t, q, bounce("m-1"), bounce("m-2"), bounce("m-3"))
	var broken atomic.Bool
	broken.Store(true)
	var handed handings
	handle := func(ctx context.Context, id string, ev mailtrapwebhook.Event) error {
		if broken.Load() || ev.(*mailtrapwebhook.SendingWebhookEvent).MessageID == "m-2" {
			return mailtrapwebhook.Permanent(errors.New("no such user"))
		}
		return handed.handle(ctx, id, ev)
	}
	work := func(q *queue) {
		consumer, err := q.consumer(t.Context(), q.stream, ackWait)
		require.NoError(t, err)
		w := newTestWorker(q, consumer, slog.New(slog.DiscardHandler), handle)
		w.parallel = 1 // keeps the order
		end := startBoth(t, w)
		waitUntilHandled(t, q, consumer)
		end()
	}
	work(q)
	before := lettersIn(t, q.dead)
	require.Len(t, before, 3)
	q.close()

	var logs syncBuffer
	require.Equal(t, exitOK, run(t.Context(), []string{"-redrive", "-dir", dir}, environment(""), io.Discard, &logs), &logs)
	require.Contains(t, logs.String(), "events=3")
	q, err = connectQueue(opts, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	stream, err := q.js.Stream(t.Context(), streamName)
	require.NoError(t, err)
	require.EqualValues(t, testMaxBytes, stream.CachedInfo().Config.MaxBytes, "the flags' default must not change the stream")
	q.close()
	require.NotContains(t, logs.String(), "example.com")

	q = openTestQueue(t, opts)
	require.Empty(t, stored(t, q.dead))
	broken.Store(false)
	work(q)
	require.Equal(t, map[string]int{"bounce/m-1/e": 1, "bounce/m-3/e": 1}, handed.ids)
	require.Equal(t, before[1:2], lettersIn(t, q.dead))
	n, err := q.redrive(t.Context(), selection{all: true})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	work(q)
	require.Equal(t, before[1:2], lettersIn(t, q.dead))
}

// A person lists the dead letters, puts one back and deletes others.
func TestPersonDecidesAboutDeadLetters(t *testing.T) {
	dir := t.TempDir()
	opts := options{dir: dir, replicas: 1, maxBytes: testMaxBytes}
	q := openTestQueue(t, opts)
	publishAll(t, q, bounce("m-1"), bounce("m-2"), bounce("m-3"), bounce("m-4"))
	consumer, err := q.consumer(t.Context(), q.stream, ackWait)
	require.NoError(t, err)
	w := newTestWorker(q, consumer, q.logger, func(context.Context, string, mailtrapwebhook.Event) error {
		return mailtrapwebhook.Permanent(errors.New("no such user"))
	})
	w.parallel = 1 // keeps the order
	end := startBoth(t, w)
	waitUntilHandled(t, q, consumer)
	end()
	letters := stored(t, q.dead)
	require.Len(t, letters, 4)
	q.close()

	command := func(status int, args ...string) (stdout, logs string) {
		var out, log bytes.Buffer
		require.Equal(t, status, run(t.Context(), append(args, "-dir", dir), environment(""), &out, &log), &log)
		require.NotContains(t, out.String()+log.String(), "example.com")
		return out.String(), log.String()
	}
	list := func() (lines []string) {
		out, _ := command(exitOK, "-dead")
		for line := range strings.Lines(out) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		return lines
	}
	line := func(id int) string {
		return fmt.Sprintf(`%d %s 1 bounce/m-%d/e permanent "no such user"`, id, letters[id-1].Time.Format(time.RFC3339), id)
	}
	const head = "ID SINCE ATTEMPTS EVENT REASON ERROR"
	require.Equal(t, []string{head, line(1), line(2), line(3), line(4)}, list())

	_, logs := command(exitOK, "-redrive", "-letter", "2")
	require.Contains(t, logs, "events=1")
	_, logs = command(exitFailure, "-redrive", "-letter", "2")
	require.Contains(t, logs, "there is no dead letter 2: -dead lists them")
	require.Equal(t, []string{head, line(1), line(3), line(4)}, list())

	_, logs = command(exitOK, "-discard", "-letter", "3")
	require.Contains(t, logs, `letter=3 id=bounce/m-3/e reason=permanent error="no such user"`, "nobody would know what was deleted")
	require.Equal(t, []string{head, line(1), line(4)}, list())
	_, logs = command(exitFailure, "-discard", "-letter", "3")
	require.Contains(t, logs, "there is no dead letter 3: -dead lists them")

	_, logs = command(exitOK, "-discard", "-letter", "all")
	require.Contains(t, logs, "events=2")
	require.Equal(t, []string{head}, list())
	require.Equal(t, map[string]int{"m-1": 1, "m-2": 2, "m-3": 1, "m-4": 1}, counted(t, storedIn(t, dir)),
		"of the four, only m-2 is to be handled again")
}

func TestRedriveNeedsTheStreams(t *testing.T) {
	var logs syncBuffer
	require.Equal(t, exitFailure, run(t.Context(), []string{"-redrive", "-dir", t.TempDir()}, environment(""), io.Discard, &logs))
	require.Contains(t, logs.String(), "are -dir and -nats those of the program that receives?")
}

// A redrive that ends between the two streams must not double an event.
func TestRedriveThatWasCutOffGoesOn(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	publishAll(t, q, bounce("m-1"))
	_, consumer := startWorker(t, q, ackWait, func(context.Context, string, mailtrapwebhook.Event) error {
		return mailtrapwebhook.Permanent(errors.New("no such user"))
	})
	waitUntilHandled(t, q, consumer)
	msg, err := q.dead.GetMsg(t.Context(), 1)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, q.putBack(ctx, msg))
	require.Error(t, q.putBack(ctx, msg), "the letter is there no more")
	require.Len(t, stored(t, q.stream), 2, "the event of the letter was stored twice")
}
