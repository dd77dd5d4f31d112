package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestFailedEventComesAgain(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	publishAll(t, q, bounce("fails"), bounce("panics"), bounce("succeeds"))
	var handed handings
	logs, consumer := startWorker(t, q, ackWait, func(_ context.Context, id string, ev mailtrapwebhook.Event) error {
		sending := ev.(*mailtrapwebhook.SendingWebhookEvent)
		switch first := handed.add(id, sending.MessageID) == 1; {
		case first && sending.MessageID == "fails":
			return errors.New("no database")
		case first && sending.MessageID == "panics":
			panic(sending.Email)
		}
		return nil
	})
	waitUntilHandled(t, consumer)

	require.Equal(t, map[string]int{"fails": 2, "panics": 2, "succeeds": 1}, handed.count())
	require.Len(t, handed.ids, 3, "an event came again with another id")
	require.Contains(t, logs.String(), "deliveries=1 retry_in=1ms error=\"no database\"")
	require.NotContains(t, logs.String(), "example.com")
}

func TestWorkerSkipsAMessageThatIsNoEvent(t *testing.T) {
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
	logs, consumer := startWorker(t, q, ackWait, func(_ context.Context, id string, ev mailtrapwebhook.Event) error {
		handed.add(id, ev.(*mailtrapwebhook.SendingWebhookEvent).MessageID)
		return nil
	})
	waitUntilHandled(t, consumer)

	require.Equal(t, map[string]int{"m-1": 1}, handed.count())
	info, err := consumer.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 6, info.Delivered.Consumer, "a message came again")
	require.Equal(t, 5, strings.Count(logs.String(), "message is no event"), logs)
	require.NotContains(t, logs.String(), "example.com")
}

func TestEventOfAKilledWorkerComesAgain(t *testing.T) {
	_, url := startNode(t, "alone", t.TempDir(), "-1")
	q := openTestQueue(t, options{nats: url, replicas: 1, maxBytes: testMaxBytes})
	publishAll(t, q, bounce("m-1"))
	hanging, _ := startProcess(t, "worker", regexp.MustCompile(`(handed m-1)`), url)
	hanging.kill()

	var handed handings
	_, consumer := startWorker(t, q, killedAckWait, func(_ context.Context, id string, ev mailtrapwebhook.Event) error {
		handed.add(id, ev.(*mailtrapwebhook.SendingWebhookEvent).MessageID)
		return nil
	})
	waitUntilHandled(t, consumer)
	require.Equal(t, map[string]int{"m-1": 1}, handed.count())
}

const killedAckWait = time.Second

// runWorkerThatHangs runs a worker that never ends an event. Its argument has
// the URLs of the servers.
func runWorkerThatHangs() {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	q, err := openQueue(context.Background(), options{nats: os.Args[1], replicas: 1, maxBytes: testMaxBytes}, logger)
	if err != nil {
		panic(err)
	}
	consumer, err := q.consumer(context.Background(), killedAckWait)
	if err != nil {
		panic(err)
	}
	w := &worker{consumer: consumer, backoff: backoff, logger: logger, handle: func(
		_ context.Context, _ string, ev mailtrapwebhook.Event,
	) error {
		fmt.Fprintln(os.Stderr, "handed", ev.(*mailtrapwebhook.SendingWebhookEvent).MessageID)
		select {}
	}}
	panic(w.run(context.Background()))
}

// A worker that ends first handles and acknowledges the events that it has.
func TestEndingWorkerFinishesItsEvents(t *testing.T) {
	dir := t.TempDir()
	q, err := openQueue(t.Context(), options{dir: dir, replicas: 1, maxBytes: testMaxBytes}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	publishAll(t, q, bounce("m-1"), bounce("m-2"), bounce("m-3"))
	consumer, err := q.consumer(t.Context(), ackWait)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	before := q.conn.Stats().InMsgs
	w := &worker{consumer: consumer, backoff: backoff, logger: slog.New(slog.DiscardHandler), handle: func(
		ctx context.Context, _ string, _ mailtrapwebhook.Event,
	) error {
		for q.conn.Stats().InMsgs < before+3 && ctx.Err() == nil { // until all three are here
			time.Sleep(tick)
		}
		cancel()
		return ctx.Err()
	}}
	require.NoError(t, w.run(ctx))
	q.close()

	q = openTestQueue(t, options{dir: dir, replicas: 1, maxBytes: testMaxBytes})
	consumer, err = q.consumer(t.Context(), ackWait)
	require.NoError(t, err)
	require.EqualValues(t, 3, consumer.CachedInfo().AckFloor.Stream)
}

// Otherwise the program repeats work when it starts again.
func TestEndedProgramHasAcknowledgedEachHandledEvent(t *testing.T) {
	for range 5 {
		dir := t.TempDir()
		program := startProgram(t, "-dir", dir)
		load := startLoad(t, 4, program.address)
		load.waitForMore(t, 5)
		load.stop(t)
		require.Equal(t, exitOK, program.end(t))

		q := openTestQueue(t, options{dir: dir, replicas: 1, maxBytes: testMaxBytes})
		consumer, err := q.consumer(t.Context(), ackWait)
		require.NoError(t, err)
		info := consumer.CachedInfo()
		handled := strings.Count(program.logs.String(), eventLine)
		require.NotZero(t, handled)
		require.EqualValues(t, handled, int(info.Delivered.Consumer)-info.NumAckPending)
		q.close()
	}
}

func TestBackoff(t *testing.T) {
	for deliveries, want := range map[uint64]time.Duration{
		1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 10: 512 * time.Second, 11: maxBackoff, 1 << 63: maxBackoff,
	} {
		require.Equal(t, want, backoff(deliveries), deliveries)
	}
}

func TestDecodeReturnsThePublishedEvent(t *testing.T) {
	bodies := []string{
		`{"events":[[{"event":"bounce","message_id":"m"}],{"events":[{"event":"bounce"}]},5,null,"x",{},{"event":"new"}]}`,
		`{"event":"bounce","message_id":"m-1"}` + "\n" + `{"event":"bou` + "\n" + "no JSON \xff\n",
		`{"events":[{"event":"spam_complaint"},{"event":"inbound_message_received","inbound_inbox_id":1}]}`,
	}
	for _, pattern := range []string{"json/*.json", "jsonl/*.jsonl"} {
		files, err := filepath.Glob("../../testdata/" + pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			bodies = append(bodies, string(text))
		}
	}
	for _, body := range bodies {
		events, err := mailtrapwebhook.Parse([]byte(body))
		require.NoError(t, err)
		for _, want := range events {
			msg := message(want, want.Key())
			got, err := decode(msg.Subject, msg.Data)
			require.NoError(t, err)
			if unknown, ok := want.(*mailtrapwebhook.UnknownEvent); ok {
				require.IsType(t, unknown, got)
				require.Equal(t, unknown.Raw, got.RawJSON())
				continue // an Err names another place
			}
			require.Empty(t, cmp.Diff(want, got))
			require.Equal(t, want.Key(), got.Key())
		}
	}
}

// startWorker starts a worker until the test ends.
func startWorker(t *testing.T, q *queue, ackWait time.Duration, handle handleFunc) (*syncBuffer, jetstream.Consumer) {
	t.Helper()
	logs := new(syncBuffer)
	consumer, err := q.consumer(t.Context(), ackWait)
	require.NoError(t, err)
	w := &worker{
		consumer: consumer,
		handle:   handle,
		backoff:  func(uint64) time.Duration { return time.Millisecond },
		logger:   slog.New(slog.NewTextHandler(logs, nil)),
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return logs, consumer
}

// handings counts the events that a worker gets.
type handings struct {
	mu    sync.Mutex
	ids   map[string]int
	names map[string]int
}

// add counts an event and returns how often its id came.
func (h *handings) add(id, name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ids == nil {
		h.ids, h.names = make(map[string]int), make(map[string]int)
	}
	h.ids[id]++
	h.names[name]++
	return h.ids[id]
}

func (h *handings) count() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.names
}

// publishAll publishes events as one delivery.
func publishAll(t *testing.T, q *queue, events ...string) {
	t.Helper()
	require.NoError(t, q.publish(t.Context(), deliveryOf(t, events...)))
}

// deliveryOf returns the delivery that a Handler makes of the events.
func deliveryOf(t *testing.T, events ...string) (d *mailtrapwebhook.Delivery) {
	t.Helper()
	verifier, err := mailtrapwebhook.NewVerifier(testSecret)
	require.NoError(t, err)
	server := httptestServer(t, &mailtrapwebhook.Handler{
		Verifier: verifier,
		OnDelivery: func(_ context.Context, got *mailtrapwebhook.Delivery) error {
			d = got
			return nil
		},
	})
	require.Equal(t, http.StatusOK, post(t, server, envelope(events...), testSecret))
	return d
}

// waitUntilHandled waits until all events of the stream are acknowledged.
func waitUntilHandled(t *testing.T, consumer jetstream.Consumer) {
	t.Helper()
	require.Eventually(t, func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0
	}, patience, tick)
}
