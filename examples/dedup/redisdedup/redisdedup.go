// Package redisdedup de-duplicates Mailtrap's events for all processes that share a Redis server, or one of Valkey.
//
// Each call is one script, and so one round trip whatever the number of keys; after a restart of the server, which
// forgets scripts, the first call of each kind takes two. Time is the server's alone: the processes send how long a
// mark is to last, never a time of day, and the server removes what has ended.
//
// All keys carry one hash tag, so that in a Redis Cluster the keys of a call are in one slot, as a script must have them.
// One node of the cluster then has all marks, which is far from what it can bear: a delivery has some 500 keys.
//
// How well marks are kept is a matter of the server's settings:
//
//   - With appendonly yes and appendfsync always a mark outlasts a crash. With everysec, the default of appendfsync, the
//     marks of the last second may be lost, and without appendonly all since the last snapshot.
//   - maxmemory-policy must be noeviction, the default: the others forget marks when the memory is full, and nobody is
//     told. A key takes about 180 bytes.
//   - Replicas lag behind. When one of them takes over, the last marks may be lost.
//
// An event whose mark is lost is handled again if Mailtrap sends it again.
package redisdedup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// DefaultRetention outlasts the longest of Mailtrap's retries, 24 hours, by enough for a webhook that was paused.
const DefaultRetention = 72 * time.Hour

// prefix has the hash tag in it. Of a name in Redis only what is in the first braces chooses the slot.
const prefix = "{mailtrap-dedup}:"

// Each mark is a string, "reserved" or "handled", that expires.
var (
	// The numbers are those of Reserved, Handled and Held.
	reserve = redis.NewScript(`
		local answers = {}
		for i, key in ipairs(KEYS) do
			if redis.call('SET', key, 'reserved', 'NX', 'PX', ARGV[1]) then
				answers[i] = 1
			elseif redis.call('GET', key) == 'handled' then
				answers[i] = 2
			else
				answers[i] = 3
			end
		end
		return answers`)

	commit = redis.NewScript(`
		for _, key in ipairs(KEYS) do
			redis.call('SET', key, 'handled', 'PX', ARGV[1])
		end`)

	release = redis.NewScript(`
		for _, key in ipairs(KEYS) do
			if redis.call('GET', key) == 'reserved' then
				redis.call('DEL', key)
			end
		end`)
)

var errNoLease = errors.New("redisdedup: the lease is not positive: it would protect nothing")

// A Deduplicator is a [mailtrapwebhook.Deduplicator] in Redis. It is safe for concurrent use.
//
// Programs that use one server and each want every event need a name of their own in [mailtrapwebhook.Handler].Scope.
type Deduplicator struct {
	client    redis.Scripter
	retention time.Duration
}

// New returns a Deduplicator on a *redis.Client, *redis.ClusterClient or any other client, which it does not close. It
// remembers handled keys for the time of retention, or for [DefaultRetention] where that is zero or negative.
//
// Set ContextTimeoutEnabled in the client's options: calls heed their context without it, but may leave a goroutine
// behind until the client's own timeout.
func New(client redis.Scripter, retention time.Duration) *Deduplicator {
	if retention <= 0 {
		retention = DefaultRetention
	}
	return &Deduplicator{client, retention}
}

// Reserve implements [mailtrapwebhook.Deduplicator]. After an error some keys may stay taken until their lease ends.
func (d *Deduplicator) Reserve(
	ctx context.Context, keys []string, lease time.Duration,
) ([]mailtrapwebhook.Reservation, error) {
	if lease <= 0 {
		return nil, errNoLease
	}
	if len(keys) == 0 {
		return nil, ctx.Err()
	}
	cmd, err := d.run(ctx, reserve, keys, milliseconds(lease))
	if err != nil {
		return nil, fmt.Errorf("redisdedup: cannot reserve: %w", err)
	}
	numbers, err := cmd.Int64Slice()
	if err != nil {
		return nil, fmt.Errorf("redisdedup: cannot reserve: %w", err)
	}
	answers := make([]mailtrapwebhook.Reservation, len(numbers))
	for i, number := range numbers {
		answers[i] = mailtrapwebhook.Reservation(number)
	}
	return answers, nil
}

// Commit implements [mailtrapwebhook.Deduplicator].
func (d *Deduplicator) Commit(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return ctx.Err()
	}
	if _, err := d.run(ctx, commit, keys, milliseconds(d.retention)); err != nil {
		return fmt.Errorf("redisdedup: cannot commit: %w", err)
	}
	return nil
}

// Release implements [mailtrapwebhook.Deduplicator].
func (d *Deduplicator) Release(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return ctx.Err()
	}
	if _, err := d.run(ctx, release, keys); err != nil {
		return fmt.Errorf("redisdedup: cannot release: %w", err)
	}
	return nil
}

// run runs a script. It does so in a goroutine, since the client heeds the end of a context only if it is told to, and a
// cancellation not while it waits for an answer.
func (d *Deduplicator) run(
	ctx context.Context, script *redis.Script, keys []string, args ...any,
) (*redis.Cmd, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = prefix + key
	}
	done := make(chan *redis.Cmd, 1)
	go func() { done <- script.Run(ctx, d.client, names, args...) }()
	select {
	case cmd := <-done:
		if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) { // which is no error: the script returned nothing
			return nil, err
		}
		return cmd, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// milliseconds are what Redis counts. It is one more, so that no mark ends too soon.
func milliseconds(d time.Duration) int64 { return d.Milliseconds() + 1 }
