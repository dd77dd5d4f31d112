package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite"
)

// A floor is how long the least takes that a store can do for a delivery.
type floor struct {
	roundTrip, rows string
}

// floorRuns is how often a floor is measured. It is the median.
const floorRuns = 101

func noFloor(context.Context) (floor, error) { return floor{"", ""}, nil }

// median returns how long do usually takes.
func median(do func(run int) error) (string, error) {
	times := make([]time.Duration, floorRuns)
	for i := range times {
		began := time.Now()
		if err := do(i); err != nil {
			return "", err
		}
		times[i] = time.Since(began)
	}
	slices.Sort(times)
	return milliseconds(times[len(times)/2]), nil
}

// both returns the floor of a store from its two steps.
func both(roundTrip, rows func(run int) error) (f floor, err error) {
	if f.roundTrip, err = median(roundTrip); err != nil {
		return f, err
	}
	f.rows, err = median(rows)
	return f, err
}

// floorKeys returns the keys of a delivery, each as long as that of an event.
func floorKeys(run int) []string {
	keys := make([]string, eventsEach)
	for i := range keys {
		keys[i] = fmt.Sprintf("floor/%036d/%036d", run, i)
	}
	return keys
}

func redisFloor(url string) func(context.Context) (floor, error) {
	return func(ctx context.Context) (floor, error) {
		opts, err := redis.ParseURL(url)
		if err != nil {
			return floor{}, fmt.Errorf("-redis is not a URL of Redis") // err may have the password
		}
		client := redis.NewClient(opts)
		defer client.Close()
		return both(
			func(int) error { return client.Ping(ctx).Err() },
			func(run int) error {
				var pairs []any
				for _, key := range floorKeys(run) {
					pairs = append(pairs, key, 1)
				}
				return client.MSet(ctx, pairs...).Err()
			})
	}
}

// sqlFloor measures with a statement that inserts the keys of a JSON array.
func sqlFloor(ctx context.Context, driver, dsn, insert string) (floor, error) {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return floor{}, err
	}
	defer db.Close()
	for _, statement := range []string{
		"DROP TABLE IF EXISTS throughput_floor", "CREATE TABLE throughput_floor (key text PRIMARY KEY)",
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return floor{}, err
		}
	}
	return both(
		func(int) error { return db.QueryRowContext(ctx, "SELECT 1").Scan(new(int)) },
		func(run int) error {
			keys, err := json.Marshal(floorKeys(run))
			if err == nil {
				_, err = db.ExecContext(ctx, insert, string(keys))
			}
			return err
		})
}

func postgresFloor(url string) func(context.Context) (floor, error) {
	return func(ctx context.Context) (floor, error) {
		return sqlFloor(ctx, "pgx", url, "INSERT INTO throughput_floor SELECT json_array_elements_text($1::json)")
	}
}

// sqliteFloor has the settings of sqlitededup: a write-ahead log, and a sync to
// the disk for each transaction.
func sqliteFloor(file string) func(context.Context) (floor, error) {
	return func(ctx context.Context) (floor, error) {
		return sqlFloor(ctx, "sqlite", file+"?_pragma=journal_mode(wal)&_pragma=synchronous(full)",
			"INSERT INTO throughput_floor SELECT value FROM json_each(?1)")
	}
}

// fileFloor writes a delivery to a file and syncs it to the disk.
func fileFloor(name string) func(context.Context) (floor, error) {
	return func(context.Context) (f floor, err error) {
		file, err := os.Create(name)
		if err != nil {
			return f, err
		}
		defer file.Close()
		body := newDelivery().body
		f.rows, err = median(func(int) error {
			if _, err := file.Write(body); err != nil {
				return err
			}
			return file.Sync()
		})
		return f, err
	}
}
