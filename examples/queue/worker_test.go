package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
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
	waitUntilHandled(t, q, consumer)

	require.Equal(t, map[string]int{"fails": 2, "panics": 2, "succeeds": 1}, handed.count())
	require.Len(t, handed.ids, 3, "an event came again with another id")
	require.Contains(t, logs.String(), "worker_test.go", "no stack of the panic")
	require.Contains(t, logs.String(), `retry_in=1ms error="no database"`)
	require.NotContains(t, logs.String(), "example.com")
}

func TestEventOfAKilledWorkerComesAgain(t *testing.T) {
	t.Parallel()
	_, url := startNode(t, "alone", t.TempDir(), "-1")
	q := openTestQueue(t, options{nats: servers{urls: url}, replicas: 1, maxBytes: testMaxBytes})
	publishAll(t, q, bounce("m-1"))
	hanging, _ := startProcess(t, "worker", regexp.MustCompile(`(handed m-1)`), url)
	hanging.kill()

	var handed handings
	_, consumer := startWorker(t, q, killedAckWait, handed.handle)
	waitUntilHandled(t, q, consumer)
	require.Equal(t, map[string]int{"m-1": 1}, handed.count())
}

const killedAckWait = time.Second

// runWorkerThatHangs runs a worker that never ends an event. Its argument has
// the URLs of the servers.
func runWorkerThatHangs() {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	q, err := openQueue(context.Background(), options{nats: servers{urls: os.Args[1]}, replicas: 1, maxBytes: testMaxBytes}, logger)
	if err != nil {
		panic(err)
	}
	consumer, err := q.consumer(context.Background(), q.stream, killedAckWait)
	if err != nil {
		panic(err)
	}
	panic(newTestWorker(q, consumer, logger, func(_ context.Context, _ string, ev mailtrapwebhook.Event) error {
		fmt.Fprintln(os.Stderr, "handed", ev.(*mailtrapwebhook.SendingWebhookEvent).MessageID)
		select {}
	}).run(context.Background()))
}

// A worker that ends acknowledges the event that it has begun. It gives the
// others back at once: other programs need not wait for ackWait.
func TestEndingWorkerEndsItsEventAndGivesBackTheOthers(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	publishAll(t, q, bounce("m-1"), bounce("m-2"), bounce("m-3"))
	consumer, err := q.consumer(t.Context(), q.stream, ackWait)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	before := q.conn.Stats().InMsgs
	w := newTestWorker(q, consumer, slog.New(slog.DiscardHandler), func(
		ctx context.Context, _ string, _ mailtrapwebhook.Event,
	) error {
		for q.conn.Stats().InMsgs < before+3 && ctx.Err() == nil { // until all three are here
			time.Sleep(tick)
		}
		cancel()
		return ctx.Err()
	})
	w.parallel = 1
	require.NoError(t, w.run(ctx))
	info, err := consumer.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, info.AckFloor.Stream)
	require.Equal(t, 2, info.NumAckPending)

	var handed handings
	_, consumer = startWorker(t, q, ackWait, handed.handle)
	waitUntilHandled(t, q, consumer)
	require.Equal(t, map[string]int{"m-2": 1, "m-3": 1}, handed.count())
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
		consumer, err := q.consumer(t.Context(), q.stream, ackWait)
		require.NoError(t, err)
		info := consumer.CachedInfo()
		handled := strings.Count(program.logs.String(), eventLine)
		require.NotZero(t, handled)
		left := int(info.NumPending) + info.NumAckPending
		require.Equal(t, len(stored(t, q.stream)), handled+left)
		q.close()
	}
}

// The stream hands out later events although more fail than workers may have at
// a time.
func TestFailingEventsHoldUpNoOthers(t *testing.T) {
	_, url := startNode(t, "alone", t.TempDir(), "-1") // does not sync
	q := openTestQueue(t, options{nats: servers{urls: url}, replicas: 1, maxBytes: testMaxBytes})
	failing := make([]string, 1500)
	for i := range failing {
		failing[i] = bounce(fmt.Sprint("fails-", i))
	}
	publishAll(t, q, failing...)
	publishAll(t, q, bounce("succeeds"))
	handled := make(chan struct{})
	startWorker(t, q, ackWait, func(_ context.Context, _ string, ev mailtrapwebhook.Event) error {
		if ev.(*mailtrapwebhook.SendingWebhookEvent).MessageID == "succeeds" {
			close(handled)
			return nil
		}
		return errors.New("no database")
	}, func(w *worker) { w.backoff = backoffForGood })
	select {
	case <-handled:
	case <-time.After(patience):
		t.Fatal("an event waits for those that fail")
	}
}

// backoffForGood puts off failed events beyond the end of the test.
func backoffForGood(uint64) time.Duration { return time.Hour }

// Events that were tried before have workers of their own.
func TestRetriesHoldUpNoFirstAttempt(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	publishAll(t, q, bounce("m-1"), bounce("m-2"))
	var handed handings
	release, retrying := make(chan struct{}), make(chan struct{}, 2)
	startWorker(t, q, ackWait, func(_ context.Context, id string, ev mailtrapwebhook.Event) error {
		message := ev.(*mailtrapwebhook.SendingWebhookEvent).MessageID
		switch times := handed.add(id, message); {
		case message == "fresh":
			return nil
		case times > 1:
			retrying <- struct{}{}
			<-release
			return nil
		}
		return errors.New("no database")
	}, func(w *worker) { w.parallel = 1 })
	<-retrying
	publishAll(t, q, bounce("fresh"))
	require.Eventually(t, func() bool { return handed.count()["fresh"] == 1 }, patience, tick)
	close(release)
}

// Work that ignores its context holds up no other event, not even with one
// worker. If it succeeds after all, the event does not come again.
func TestHangingWorkIsAbandoned(t *testing.T) {
	for hangsIn, attempt := range map[string]int{"the first attempt": 1, "a retry": 2} {
		t.Run(hangsIn, func(t *testing.T) {
			q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
			publishAll(t, q, bounce("hangs"), bounce("succeeds"))
			hang := make(chan struct{})
			var handed handings
			registry := prometheus.NewRegistry()
			logs, consumer := startWorker(t, q, ackWait, func(_ context.Context, id string, ev mailtrapwebhook.Event) error {
				message := ev.(*mailtrapwebhook.SendingWebhookEvent).MessageID
				switch times := handed.add(id, message); {
				case message == "hangs" && times == attempt:
					<-hang
				case message == "hangs":
					return errors.New("no database")
				}
				return nil
			}, func(w *worker) {
				w.parallel, w.timeout, w.metrics = 1, 10*time.Millisecond, newMetrics(registry)
				w.backoff = func(attempts uint64) time.Duration { return time.Hour * time.Duration(attempts+1-uint64(attempt)) }
			})
			require.Eventually(t, func() bool {
				return handed.count()["succeeds"] == 1 && strings.Contains(logs.String(), errAbandoned.Error())
			}, patience, tick)
			require.EqualValues(t, 1, valueOf(t, registry, `mailtrap_queue_attempts_total{result="abandoned"}`))

			close(hang)
			waitUntilHandled(t, q, consumer)
			require.Equal(t, map[string]int{"hangs": attempt, "succeeds": 1}, handed.count())
			require.Contains(t, logs.String(), "abandoned work has succeeded")
		})
	}
}

// An event that there is no room to retry stays in the stream.
func TestEventStaysIfThereIsNoRoomForItsRetry(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: 800}) // and 201 for retries
	publishAll(t, q, bounce("m-1"))
	var handed handings
	logs, consumer := startWorker(t, q, ackWait, func(ctx context.Context, id string, ev mailtrapwebhook.Event) error {
		if handed.add(id, "m-1") < 3 {
			return errors.New("no database")
		}
		return nil
	})
	waitUntilHandled(t, q, consumer)
	require.Equal(t, map[string]int{"m-1": 3}, handed.count())
	require.Contains(t, logs.String(), "event cannot be moved to the stream of retries")
}

func TestWorkerEndsWithoutTheWorkThatHangs(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	publishAll(t, q, bounce("m-1"), bounce("m-2"))
	consumer, err := q.consumer(t.Context(), q.stream, ackWait)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	w := newTestWorker(q, consumer, slog.New(slog.DiscardHandler), func(context.Context, string, mailtrapwebhook.Event) error {
		cancel()
		select {}
	})
	w.timeout = 10 * time.Millisecond
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx) }()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("the worker does not end")
	}
}

func TestWorkersHandleEventsAtTheSameTime(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	const parallel = 4
	var texts []string
	for i := range parallel {
		texts = append(texts, bounce(fmt.Sprint(i)))
	}
	publishAll(t, q, texts...)
	var together sync.WaitGroup
	together.Add(parallel)
	_, consumer := startWorker(t, q, ackWait, func(context.Context, string, mailtrapwebhook.Event) error {
		together.Done()
		together.Wait()
		return nil
	}, func(w *worker) { w.parallel = parallel })
	waitUntilHandled(t, q, consumer)
}

func TestBackoff(t *testing.T) {
	for deliveries, want := range map[uint64]time.Duration{
		1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 10: 512 * time.Second, 11: maxBackoff, 1 << 63: maxBackoff,
	} {
		require.Equal(t, want, backoff(deliveries), deliveries)
	}
}

// startWorker starts a worker, and its retrier, until the test ends. set may
// change it before.
func startWorker(
	t *testing.T, q *queue, ackWait time.Duration, handle handleFunc, set ...func(*worker),
) (*syncBuffer, jetstream.Consumer) {
	t.Helper()
	logs := new(syncBuffer)
	consumer, err := q.consumer(t.Context(), q.stream, ackWait)
	require.NoError(t, err)
	w := newTestWorker(q, consumer, slog.New(slog.NewTextHandler(logs, nil)), handle)
	for _, set := range set {
		set(w)
	}
	t.Cleanup(startBoth(t, w))
	return logs, consumer
}

// startBoth starts a worker and its retrier. The returned function ends them.
func startBoth(t *testing.T, w *worker) (end func()) {
	t.Helper()
	retries, err := w.queue.consumer(t.Context(), w.queue.retry, ackWait)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- w.run(ctx) }()
	go func() { ended <- w.retrier(retries).run(ctx) }()
	return func() {
		cancel()
		require.NoError(t, errors.Join(<-ended, <-ended))
	}
}

func newTestWorker(q *queue, consumer jetstream.Consumer, logger *slog.Logger, handle handleFunc) *worker {
	return &worker{
		queue: q, consumer: consumer, handle: handle, parallel: 2, attempts: defaultAttempts, timeout: handleTimeout,
		backoff: func(uint64) time.Duration { return time.Millisecond },
		metrics: newMetrics(prometheus.NewRegistry()), logger: logger,
	}
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

// handle counts an event and handles it.
func (h *handings) handle(_ context.Context, id string, ev mailtrapwebhook.Event) error {
	h.add(id, ev.(*mailtrapwebhook.SendingWebhookEvent).MessageID)
	return nil
}

func (h *handings) count() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.names)
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

// waitUntilHandled waits until no event waits for a worker or a retry.
func waitUntilHandled(t *testing.T, q *queue, consumer jetstream.Consumer) {
	t.Helper()
	require.Eventually(t, func() bool {
		info, err := consumer.Info(t.Context())
		if err != nil || info.NumPending > 0 || info.NumAckPending > 0 {
			return false
		}
		retries, err := q.retry.Info(t.Context()) // after the other: an event moves from there to here
		return err == nil && retries.State.Msgs == 0
	}, patience, tick)
}
