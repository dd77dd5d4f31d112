package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

func fail(context.Context, mailtrapwebhook.Event) error { return errors.New("the database is down") }

func TestDroppedEventsAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dropped.jsonl")
	p := start(t, fail, "-give-up-after", "1h", "-dropped", path)
	young := event("open", 1, time.Now().Add(-50*time.Minute))
	old, older := event("open", 2, time.Now().Add(-2*time.Hour)), event("click", 3, time.Now().Add(-3*time.Hour))
	require.Equal(t, 500, p.deliver(t, envelope(young, " \n"+old)))
	require.Equal(t, 200, p.deliver(t, envelope(older)))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, old+"\n"+older+"\n", string(text))
	events, err := mailtrapwebhook.Parse(text)
	require.NoError(t, err)
	require.Len(t, events, 2)
	p.end(t)
}

func TestAnEventThatCannotBeKeptIsNotDropped(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.Mkdir(dir, 0o700))
	p := start(t, fail, "-dropped", filepath.Join(dir, "dropped.jsonl"))
	require.NoError(t, os.RemoveAll(dir))
	require.Equal(t, 500, p.deliver(t, envelope(event("open", 1, time.Now().Add(-4*time.Hour)))))
	p.end(t)
}

// Parse reads each dropped event back, whichever comes first.
func TestDroppedEventsCanBeReadBack(t *testing.T) {
	whole := event("click", 1, time.Now())
	for name, test := range map[string]struct{ body, want string }{
		"a broken line":        {lines(event("open", 2, time.Now()), `cut "off`), `{"unreadable":"cut \"off"}`},
		"a cut-off object":     {lines(event("open", 2, time.Now()), `{"event":`), `{"unreadable":"{\"event\":"}`},
		"a number":             {envelope("17"), `{"unreadable":"17"}`},
		"an array":             {envelope("[1, 2]"), `{"unreadable":"[1, 2]"}`},
		"an envelope":          {envelope(`{"events":[1]}`), `{"unreadable":"{\"events\":[1]}"}`},
		"an event of tomorrow": {envelope(`{"event": "brand new"}`), `{"event":"brand new"}`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "dropped.jsonl")
			// The first line of JSON Lines must be an event. It is handled.
			p := start(t, func(_ context.Context, ev mailtrapwebhook.Event) error {
				if ev.Name() == "open" {
					return nil
				}
				return mailtrapwebhook.Permanent(errors.New("no such message"))
			}, "-dropped", path)
			require.Equal(t, 200, p.deliver(t, test.body))
			require.Equal(t, 200, p.deliver(t, envelope(whole)))
			p.end(t)
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			events, err := mailtrapwebhook.Parse(text)
			require.NoError(t, err, "%s", text)
			require.Len(t, events, 2, "%s", text)
			require.Equal(t, []string{test.want, whole}, []string{events[0].RawJSON(), events[1].RawJSON()})
			for line := range bytes.Lines(text) {
				require.True(t, json.Valid(line), "%s", line)
			}
		})
	}
}

// A full disk takes a part of a line. The event is not acknowledged, and the
// next one must not be appended to that part.
func TestAFullDiskLeavesNoPartOfALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dropped.jsonl")
	p := start(t, fail, "-dropped", path)
	old := func(id int) string { return event("open", id, time.Now().Add(-4*time.Hour)) }
	require.Equal(t, 200, p.deliver(t, envelope(old(1))))
	before, err := os.ReadFile(path)
	require.NoError(t, err)

	limitFileSize(t, uint64(len(before)+20), func() { require.Equal(t, 500, p.deliver(t, envelope(old(2)))) })
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
	require.Equal(t, 200, p.deliver(t, envelope(old(3))))
	requireParsed(t, path, 2)
	p.end(t)
}

// limitFileSize lets no file grow beyond a size while f runs.
func limitFileSize(t *testing.T, size uint64, f func()) {
	t.Helper()
	var usual syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &usual))
	signal.Ignore(syscall.SIGXFSZ)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: usual.Max}))
	defer func() {
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &usual))
		signal.Reset(syscall.SIGXFSZ)
	}()
	f()
}

// A machine that died in the middle of a write leaves a part of a line.
func TestAPartOfALineIsEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dropped.jsonl")
	older, old := event("open", 1, time.Now().Add(-5*time.Hour)), event("open", 2, time.Now().Add(-4*time.Hour))
	require.NoError(t, os.WriteFile(path, []byte(older+"\n"+old[:30]), 0o600))
	p := start(t, fail, "-dropped", path)
	require.NoError(t, os.WriteFile(path, []byte(older+"\n"+old[:30]), 0o600)) // also after the start
	require.Equal(t, 200, p.deliver(t, envelope(old)))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, older+"\n"+old[:30]+"\n"+old+"\n", string(text))
	requireParsed(t, path, 3)
	p.end(t)
}

func requireParsed(t *testing.T, path string, events int) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	parsed, err := mailtrapwebhook.Parse(text)
	require.NoError(t, err, "%s", text)
	require.Len(t, parsed, events, "%s", text)
}

func TestGivingUpCanBeTurnedOff(t *testing.T) {
	p := start(t, fail, "-give-up-after", "0")
	require.Equal(t, 500, p.deliver(t, envelope(event("open", 1, time.Now().Add(-4*time.Hour)))))
	p.end(t)
}
