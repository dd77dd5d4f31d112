package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// startTimeout is long enough for a program that creates tables.
const startTimeout = 30 * time.Second

// A program is a receiver to measure.
type program struct {
	name  string
	dir   string // of its package
	args  []string
	env   []string
	floor func(context.Context) (floor, error)
}

// programs returns the programs whose servers the options name. The first two
// have no store and are this program: one verifies, the other also decodes and
// remembers.
func programs(opts options, dir string) []program {
	all := []program{
		{name: verifyOnly, dir: ".", args: []string{"-receive", verifyOnly}, floor: noFloor},
		{name: inMemory, dir: ".", args: []string{"-receive", inMemory}, floor: noFloor},
	}
	if opts.redis != "" {
		all = append(all, program{
			name: "dedup, Redis", dir: "../dedup", args: []string{"-store", opts.redis}, floor: redisFloor(opts.redis),
		})
	}
	if opts.postgres != "" {
		floor := postgresFloor(opts.postgres)
		all = append(all, program{
			name: "dedup, PostgreSQL", dir: "../dedup", args: []string{"-store", opts.postgres}, floor: floor,
		}, program{
			name: "exactlyonce", dir: "../dedup/exactlyonce", env: []string{"DATABASE_URL=" + opts.postgres}, floor: floor,
		}, program{
			name: "inbox", dir: "../inbox", env: []string{"DATABASE_URL=" + opts.postgres}, floor: floor,
		})
	}
	return append(all, program{
		name: "dedup, SQLite", dir: "../dedup", args: []string{"-store", "sqlite:" + filepath.Join(dir, "dedup.db")},
		floor: sqliteFloor(filepath.Join(dir, "floor.db")),
	}, program{
		name: "queue", dir: "../queue",
		args:  []string{"-dir", filepath.Join(dir, "queue-data"), "-metrics", "127.0.0.1:0"},
		floor: fileFloor(filepath.Join(dir, "floor")),
	})
}

// start builds and runs the program. stop kills it.
func (p program) start(ctx context.Context, dir string) (address string, stop func(), err error) {
	file := filepath.Join(dir, "receiver")
	if err := build(ctx, p.dir, file); err != nil {
		return "", nil, err
	}
	if address, err = freeAddress(); err != nil {
		return "", nil, err
	}
	// It has no output, since some print a line for each event.
	cmd := exec.CommandContext(ctx, file, append(p.args, "-listen", address)...)
	cmd.Env = append(append(os.Environ(), "MAILTRAP_SIGNING_SECRET="+secret), p.env...)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the program is killed at the end
		close(ended)
	}()
	stop = func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	}
	if err := awaitListener(ctx, address, ended); err != nil {
		stop()
		return "", nil, err
	}
	return address, stop, nil
}

func build(ctx context.Context, dir, file string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", file, ".")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build %s, which must be a directory: %w\n%s", dir, err, out)
	}
	return nil
}

// awaitListener waits until a program listens on address, unless it ends.
func awaitListener(ctx context.Context, address string, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ended:
			return errors.New("the program has ended before it listened: run it by itself to see why")
		case <-ctx.Done():
			return fmt.Errorf("the program does not listen: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// The receivers that are this program.
const (
	verifyOnly = "verify only"
	inMemory   = "memory"
)

func receive(name, address string) error {
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	if err != nil {
		return err
	}
	switch name {
	case verifyOnly:
		nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		return http.ListenAndServe(address, verifier.Middleware(nothing))
	case inMemory:
		onEvent := func(context.Context, mailtrapwebhook.Event) error { return nil }
		return http.ListenAndServe(address, &mailtrapwebhook.Handler{Verifier: verifier, OnEvent: onEvent})
	}
	return fmt.Errorf("no receiver is named %q", name)
}
