package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
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
	p := start(t, fail, "-dropped", filepath.Join(t.TempDir(), "missing", "dropped.jsonl"))
	require.Equal(t, 500, p.deliver(t, envelope(event("open", 1, time.Now().Add(-4*time.Hour)))))
	p.end(t)
}

func TestGivingUpCanBeTurnedOff(t *testing.T) {
	p := start(t, fail, "-give-up-after", "0")
	require.Equal(t, 500, p.deliver(t, envelope(event("open", 1, time.Now().Add(-4*time.Hour)))))
	p.end(t)
}
