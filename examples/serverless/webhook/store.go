package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/pgdedup"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/redisdedup"
)

const (
	databaseVariable = "DATABASE_URL"
	redisVariable    = "REDIS_URL"

	// openTimeout is half of the time that Lambda gives an instance to start.
	openTimeout = 5 * time.Second

	// connections is the most that an instance opens to its store. An instance
	// has few requests at a time, but there may be many instances.
	connections = 2
)

// openStore opens the store that the environment names, and checks that it
// answers.
func openStore(getenv func(string) string) (mailtrapwebhook.Deduplicator, error) {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	if url := getenv(databaseVariable); url != "" {
		return openPostgres(ctx, url)
	}
	if url := getenv(redisVariable); url != "" {
		return openRedis(ctx, url)
	}
	slog.Warn("each instance remembers only the events that it handled itself, and a retry may reach another one: set " +
		databaseVariable + " or " + redisVariable + " to a store that the instances share")
	return new(mailtrapwebhook.MemoryDeduplicator), nil
}

func openPostgres(ctx context.Context, url string) (mailtrapwebhook.Deduplicator, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil { // which may have the password
		return nil, errors.New(databaseVariable + " cannot be read: write it as postgres://user:password@host/database")
	}
	config.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("cannot open the database of %s: %w", databaseVariable, err)
	}
	store := pgdedup.New(pool, 0)
	if err := store.CreateTable(ctx); err != nil { // leave this out if a migration creates the table
		pool.Close()
		return nil, fmt.Errorf("the database of %s cannot be used: %w", databaseVariable, err)
	}
	slog.Info("PostgreSQL remembers the events that were handled")
	return store, nil
}

func openRedis(ctx context.Context, url string) (mailtrapwebhook.Deduplicator, error) {
	client, err := redisdedup.NewClient(url, connections)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", redisVariable, err)
	}
	store := redisdedup.New(client, 0)
	err = store.Check(ctx)
	if errors.Is(err, redisdedup.ErrUnknownPolicy) { // some hosts forbid the look
		slog.Warn(err.Error())
		err = nil
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the server of %s cannot be used: %w", redisVariable, err), client.Close())
	}
	slog.Info("Redis remembers the events that were handled")
	return store, nil
}

// endKey is the key of a context's time at which the platform ends the request.
// Handler's calls of the store have no deadline of the request, but its values.
type endKey struct{}

// A limitedStore is told in time what was handled. Reserve needs no limit,
// because Timeout is one.
type limitedStore struct{ mailtrapwebhook.Deduplicator }

// Commit implements [mailtrapwebhook.Deduplicator].
func (s limitedStore) Commit(ctx context.Context, keys []string) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	return s.Deduplicator.Commit(ctx, keys)
}

// Release implements [mailtrapwebhook.Deduplicator].
func (s limitedStore) Release(ctx context.Context, keys []string) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	return s.Deduplicator.Release(ctx, keys)
}

// limit gives a call half of the time that is left. The other half is for the
// call after it.
func limit(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Value(endKey{}).(time.Time)
	left := time.Until(end)
	if !ok || left <= 0 { // then the instance works on another request already
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, left/2)
}
