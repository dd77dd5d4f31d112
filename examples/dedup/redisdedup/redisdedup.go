// Package redisdedup de-duplicates Mailtrap's events for all processes that
// share a Redis or Valkey server.
//
// Each call is one script and takes one round trip, whatever the number of
// keys. After a restart the server has forgotten the scripts, and the first
// call of each kind takes two. Only the server's clock counts: processes send
// how long a mark lasts, never a time of day. The server removes expired marks.
//
// All keys have the same hash tag. In a Redis Cluster, the keys of a script
// must be in one slot. One node of the cluster therefore has all marks. It can
// bear them: a delivery has at most 500 keys.
//
// The server's settings decide how safe the marks are:
//
//   - With appendonly yes and appendfsync always, a mark outlasts a crash. With
//     everysec, the default of appendfsync, a crash may lose the last second.
//     Without appendonly, it loses everything since the last snapshot.
//   - maxmemory-policy must be noeviction, the default. Other policies remove
//     marks when the memory is full, and nobody notices: see
//     [Deduplicator.Check]. A key takes about 200 bytes.
//   - Replicas lag behind. When one takes over, the last marks may be lost.
//
// An event whose mark is lost is handled again if Mailtrap sends it again.
package redisdedup

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// DefaultRetention outlasts Mailtrap's longest retries, 24 hours, and leaves
// time for a webhook that was paused.
const DefaultRetention = 72 * time.Hour

// prefix has the hash tag: the text in the first braces of a key chooses the
// slot.
const prefix = "{mailtrap-dedup}:"

// A mark is a string that expires: "handled", or the name of the call that
// reserved the key.
var (
	// The answers are the values of Reserved, Handled and Held.
	reserve = redis.NewScript(`
		local answers, taken = {}, {}
		for i, key in ipairs(KEYS) do
			-- NX decides atomically: only one of many processes gets a free key.
			if redis.call('SET', key, ARGV[2], 'NX', 'PX', ARGV[1]) then
				answers[i] = 1
			else
				local mark = redis.call('GET', key)
				if mark == 'handled' then
					answers[i] = 2
				elseif mark == ARGV[2] and not taken[key] then
					answers[i] = 1 -- the client repeats a call whose answer was lost
				else
					answers[i] = 3
				end
			end
			taken[key] = true -- an equal key later in the call is held
		end
		return answers`)

	commit = redis.NewScript(`
		for _, key in ipairs(KEYS) do
			-- No NX: Commit must win over any other mark.
			redis.call('SET', key, 'handled', 'PX', ARGV[1])
		end`)

	release = redis.NewScript(`
		for _, key in ipairs(KEYS) do
			-- A late Release must not remove a handled mark.
			if redis.call('GET', key) ~= 'handled' then
				redis.call('DEL', key)
			end
		end`)

	// A script asks the node that has the keys, whichever client runs it.
	policy = redis.NewScript(`
		local info = redis.pcall('INFO', 'memory')
		return type(info) == 'string' and string.match(info, 'maxmemory_policy:(%S+)') or ''`)
)

// ErrUnknownPolicy is returned by [Deduplicator.Check] if the server does not tell
// its maxmemory-policy. All else is well.
var ErrUnknownPolicy = errors.New("redisdedup: the server does not tell its maxmemory-policy: " +
	"make sure that it is noeviction, or allow INFO")

var errNoLease = errors.New("redisdedup: the lease is not positive: pass a time that is longer than the work")

// A Deduplicator is a [mailtrapwebhook.Deduplicator] in Redis. It is safe for
// concurrent use.
//
// If several programs share a server and each wants every event, give each its
// own Scope in [mailtrapwebhook.Handler].
type Deduplicator struct {
	client    redis.Scripter
	retention time.Duration
}

// NewClient returns a client for a URL that suits New. It is a client for one
// server, for a cluster if the URL has addr=…, or for the server that sentinels
// name if it has master_name=…:
//
//	redis://:password@host:6379/0
//	redis://host:6379?addr=another:6379
//	redis://sentinel:26379?master_name=name
//
// It opens at most poolSize connections to a server. If poolSize is 0, the URL's
// pool_size or the client's default applies.
func NewClient(rawURL string, poolSize int) (redis.UniversalClient, error) {
	parsed, err := url.Parse(rawURL)
	if err == nil {
		switch query := parsed.Query(); {
		case query.Has("master_name"):
			var opts *redis.FailoverOptions
			if opts, err = redis.ParseFailoverURL(rawURL); err == nil {
				opts.ContextTimeoutEnabled = true
				opts.PoolSize = cmp.Or(poolSize, opts.PoolSize)
				return redis.NewFailoverClient(opts), nil
			}
		case query.Has("addr"):
			var opts *redis.ClusterOptions
			if opts, err = redis.ParseClusterURL(rawURL); err == nil {
				opts.ContextTimeoutEnabled = true
				opts.PoolSize = cmp.Or(poolSize, opts.PoolSize)
				return redis.NewClusterClient(opts), nil
			}
		default:
			var opts *redis.Options
			if opts, err = redis.ParseURL(rawURL); err == nil {
				opts.ContextTimeoutEnabled = true
				opts.PoolSize = cmp.Or(poolSize, opts.PoolSize)
				return redis.NewClient(opts), nil
			}
		}
	}
	// err may have the password.
	return nil, errors.New("redisdedup: not a URL of Redis: write it as redis://:password@localhost:6379/0")
}

// New returns a Deduplicator on client, which may be any [redis.UniversalClient].
// It remembers handled keys for retention, or for [DefaultRetention] if retention
// is not positive. It does not close client. Call Check when your program starts.
//
// Set ContextTimeoutEnabled in the client's options, as NewClient does. Without
// it, a call whose context ends may leave a goroutine behind until the client's
// own timeout.
func New(client redis.Scripter, retention time.Duration) *Deduplicator {
	if retention <= 0 {
		retention = DefaultRetention
	}
	return &Deduplicator{client, retention}
}

// Check reserves a key and releases it, and looks at the server's settings. It
// returns an error that says what to change, or [ErrUnknownPolicy].
func (d *Deduplicator) Check(ctx context.Context) error {
	key := []string{"check/" + rand.Text()}
	answers, err := d.Reserve(ctx, key, time.Minute)
	_, moved := redis.IsMovedError(err)
	switch {
	case moved:
		return errors.New("redisdedup: the server is one node of a cluster: use a redis.ClusterClient," +
			" or add addr=host:port to the URL of NewClient")
	case err != nil && strings.Contains(err.Error(), "unknown command"):
		return errors.New("redisdedup: the server runs no scripts: if it is a sentinel, use redis.NewFailoverClient," +
			" or add master_name=name to the URL of NewClient")
	case err != nil:
		return err
	case answers[0] != mailtrapwebhook.Reserved:
		return fmt.Errorf("redisdedup: a new key is %v: use a server that answers as Redis does", answers[0])
	}
	if err := d.Release(ctx, key); err != nil {
		return err
	}
	cmd, err := d.run(ctx, policy, key)
	if err != nil {
		return fmt.Errorf("redisdedup: cannot read the server's settings: %w", err)
	}
	switch is, err := cmd.Text(); {
	case err != nil || is == "":
		return ErrUnknownPolicy
	case is != "noeviction":
		return fmt.Errorf("redisdedup: the server's maxmemory-policy is %s, "+
			"which forgets handled events when its memory is full: set it to noeviction", is)
	}
	return nil
}

// Reserve implements [mailtrapwebhook.Deduplicator]. After an error, some keys
// may stay taken until their lease ends.
func (d *Deduplicator) Reserve(
	ctx context.Context, keys []string, lease time.Duration,
) ([]mailtrapwebhook.Reservation, error) {
	if lease <= 0 {
		return nil, errNoLease // such a mark would protect no work
	}
	if len(keys) == 0 {
		return nil, ctx.Err() // saves a round trip
	}
	// The name tells this call's marks from others' when the client repeats it.
	cmd, err := d.run(ctx, reserve, keys, milliseconds(lease), "reserved:"+rand.Text()[:13])
	if err != nil {
		return nil, fmt.Errorf("redisdedup: cannot reserve: %w", err)
	}
	// Anything but a list of numbers is an error: a wrong answer would lose
	// events.
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

// run runs a script in a goroutine, so that it can return when ctx ends. The
// client ignores a cancellation while it waits for an answer.
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
	done := make(chan *redis.Cmd, 1) // buffered, so that the goroutine ends if ctx ends first
	go func() { done <- script.Run(ctx, d.client, names, args...) }()
	select {
	case cmd := <-done:
		// redis.Nil means that the script returned nothing.
		if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return nil, err
		}
		return cmd, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// milliseconds returns d in Redis's unit. It adds one, so that no mark expires
// too soon.
func milliseconds(d time.Duration) int64 { return d.Milliseconds() + 1 }
