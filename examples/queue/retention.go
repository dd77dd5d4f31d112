package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// sweepEvery is how often the stream is swept.
const sweepEvery = 10 * time.Minute

// keepSwept sweeps the stream until ctx ends.
func (q *queue) keepSwept(ctx context.Context, consumer jetstream.Consumer) error {
	for {
		if err := q.sweep(ctx, consumer, time.Now().Add(-duplicateWindow)); err != nil && ctx.Err() == nil {
			q.logger.Error("handled events cannot be removed: the stream grows until it is full", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery):
		}
	}
}

// sweep removes the events from before a time, up to the first that is not
// handled. So no event leaves the stream before it is handled or a dead letter.
func (q *queue) sweep(ctx context.Context, consumer jetstream.Consumer, before time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	worked, err := consumer.Info(ctx)
	if err != nil {
		return err
	}
	// A consumer that begins at the time knows the place of the first event
	// since.
	probe, err := q.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy,
		OptStartTime:  &before,
		AckPolicy:     jetstream.AckNonePolicy,
		Replicas:      1,
		MemoryStorage: true,
	})
	if err != nil {
		return fmt.Errorf("cannot find the first event since: %w", err)
	}
	info := probe.CachedInfo()
	if err := q.stream.DeleteConsumer(ctx, info.Name); err != nil {
		return err
	}
	// The sequence number of the first event that stays; the numbers start at 1.
	first := min(info.Delivered.Stream, worked.AckFloor.Stream) + 1
	return q.stream.Purge(ctx, jetstream.WithPurgeSequence(first))
}
