package main

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// An event leaves the stream when it is both old and handled.
func TestSweepRemovesOldEventsThatAreHandled(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	consumer, err := q.consumer(t.Context(), q.stream, ackWait)
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
	publishAll(t, q, bounce("old"), bounce("old, slow"), bounce("old too"))
	time.Sleep(10 * time.Millisecond)
	between := time.Now()
	publishAll(t, q, bounce("new"))
	sweep(time.Now())
	require.Equal(t, []uint64{1, 2, 3, 4}, left(), "an event left that no worker has had")

	var msgs []jetstream.Msg
	for range 4 {
		msg, err := consumer.Next()
		require.NoError(t, err)
		msgs = append(msgs, msg)
	}
	for _, i := range []int{0, 2, 3} {
		require.NoError(t, msgs[i].DoubleAck(t.Context()))
	}
	sweep(time.Now())
	require.Equal(t, []uint64{2, 3, 4}, left(), "a worker has the second one")
	require.NoError(t, msgs[1].DoubleAck(t.Context()))
	sweep(between)
	require.Equal(t, []uint64{4}, left(), "the stream must know the new event's id")
	publishAll(t, q, bounce("new"))
	require.Equal(t, []uint64{4}, left())
}

// Streams of earlier versions of the program lost events after a week, and dead
// letters after a month.
func TestStreamWithAnAgeIsChanged(t *testing.T) {
	opts := options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes}
	q := openTestQueue(t, opts)
	publishAll(t, q, bounce("m-1"))
	for _, old := range []jetstream.StreamConfig{streamConfig(opts), deadConfig(opts)} {
		old.MaxAge = 7 * 24 * time.Hour
		_, err := q.js.UpdateStream(t.Context(), old)
		require.NoError(t, err)
	}
	q.close()

	q = openTestQueue(t, opts)
	for _, stream := range []jetstream.Stream{q.stream, q.dead} {
		info, err := stream.Info(t.Context())
		require.NoError(t, err)
		require.Zero(t, info.Config.MaxAge, info.Config.Name)
	}
	require.Len(t, stored(t, q.stream), 1)
}
