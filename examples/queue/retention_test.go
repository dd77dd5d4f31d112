package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// An event leaves the stream when it is both old and handled.
func TestSweepRemovesOldEventsThatAreHandled(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	consumer, err := q.consumer(t.Context(), ackWait)
	require.NoError(t, err)
	left := func() (sequences []uint64) {
		for _, msg := range stored(t, q.stream) {
			sequences = append(sequences, msg.Sequence)
		}
		return sequences
	}
	sweep := func(before time.Time) {
		require.NoError(t, q.sweep(t.Context(), consumer, before))
	}
	sweep(time.Now())
	publishAll(t, q, bounce("old"), bounce("old-fails"), bounce("old-later"))
	time.Sleep(10 * time.Millisecond)
	between := time.Now()
	publishAll(t, q, bounce("new"))
	sweep(time.Now())
	require.Equal(t, []uint64{1, 2, 3, 4}, left(), "an event left that no worker has had")

	var handed handings
	broken := true
	handle := func(ctx context.Context, id string, ev mailtrapwebhook.Event) error {
		if ev.(*mailtrapwebhook.SendingWebhookEvent).MessageID == "old-fails" && broken {
			return errors.New("no database")
		}
		return handed.handle(ctx, id, ev)
	}
	w := newTestWorker(q, consumer, slog.New(slog.DiscardHandler), handle)
	w.backoff = backoffForGood
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx) }()
	require.Eventually(t, func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumPending == 0 && info.NumAckPending == 1 && len(handed.count()) == 3
	}, patience, tick)
	cancel()
	require.NoError(t, <-ended)
	sweep(time.Now())
	require.Equal(t, []uint64{2, 3, 4}, left(), "the failed event must stay, and the first one leave")

	msg, err := q.stream.GetMsg(t.Context(), 2)
	require.NoError(t, err)
	require.NotEmpty(t, msg.Data)
	acknowledgeAll(t, q, consumer)
	sweep(between)
	require.Equal(t, []uint64{4}, left(), "the stream must know the new event's id")
	publishAll(t, q, bounce("new"))
	require.Equal(t, []uint64{4}, left())
}

// acknowledgeAll ends the wait of the events that failed.
func acknowledgeAll(t *testing.T, q *queue, consumer jetstream.Consumer) {
	t.Helper()
	require.NoError(t, q.conn.Publish("$JS.ACK."+streamName+"."+consumerName+".1.2.2.0.0", []byte("+ACK")))
	waitUntilHandled(t, consumer)
}

// A stream of an earlier version of the program lost events after a week.
func TestStreamWithAnAgeIsChanged(t *testing.T) {
	opts := options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes}
	q := openTestQueue(t, opts)
	publishAll(t, q, bounce("m-1"))
	old := streamConfig(opts)
	old.MaxAge = 7 * 24 * time.Hour
	_, err := q.js.UpdateStream(t.Context(), old)
	require.NoError(t, err)
	q.close()

	q = openTestQueue(t, opts)
	info, err := q.stream.Info(t.Context())
	require.NoError(t, err)
	require.Empty(t, differences(info.Config, streamConfig(opts)))
	require.Len(t, stored(t, q.stream), 1)
}
