package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func TestPayloadsEqualTestdata(t *testing.T) {
	own, err := fs.Sub(payloads, "payloads")
	require.NoError(t, err)
	read := func(fsys fs.FS) map[string]string {
		files := make(map[string]string)
		for _, pattern := range []string{"json/*", "jsonl/*"} {
			names, err := fs.Glob(fsys, pattern)
			require.NoError(t, err)
			for _, name := range names {
				text, err := fs.ReadFile(fsys, name)
				require.NoError(t, err)
				files[name] = string(text)
			}
		}
		return files
	}
	got, want := read(own), read(os.DirFS("../../testdata"))
	require.Len(t, want, 14)
	require.Empty(t, cmp.Diff(want, got))
}

func TestDemoShowsEveryDelivery(t *testing.T) {
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), nil, environment(""), &stdout, &stderr)
	require.Equal(t, exitOK, status, "%s%s", &stdout, &stderr)
	require.Empty(t, stderr.String())

	var got []string
	for line := range strings.Lines(stdout.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	require.Empty(t, cmp.Diff([]string{
		"DELIVERY JSON JSON LINES ONEVENT CALLED FOR BESIDES",
		"audit_log_profile_update.json 200 200 activity_log.user.updated",
		"audit_log_user_login.json 200 200 activity_log.user.login",
		"bounce.json 200 200 bounce",
		"click.json 200 200 click",
		"delivery.json 200 200 delivery",
		"open.json 200 200 open",
		"reject.json 200 200 reject",
		"soft_bounce.json 200 200 soft bounce",
		"spam.json 200 200 spam",
		"suspension.json 200 200 suspension",
		"unsubscribe.json 200 200 unsubscribe",
		"bounce.jsonl 200 200 bounce",
		"delivery.jsonl 200 200 delivery, delivery",
		"mixed.jsonl 200 200 delivery, open, click",
		"a forged delivery 400 400 -",
		"the same, signed by Mailtrap 200 200 delivery, open, click",
		"the same again 200 200 - 3 duplicates",
		"one event is broken 200 200 delivery, unknown, click 1 unknown",
		"a callback fails 500 500 delivery, open, click 1 failed",
		"the retry of that 200 200 open 2 duplicates",
		"",
		"All 40 deliveries had the expected outcome.",
	}, got))
}

func TestDemoComparesEachFieldOfTheOutcome(t *testing.T) {
	for name, spoil := range map[string]func(*outcome){
		"answered":   func(o *outcome) { o.answered++ },
		"status":     func(o *outcome) { o.status++ },
		"format":     func(o *outcome) { o.format++ },
		"events":     func(o *outcome) { o.events++ },
		"handled":    func(o *outcome) { o.handled++ },
		"duplicates": func(o *outcome) { o.duplicates++ },
		"dropped":    func(o *outcome) { o.dropped++ },
		"failed":     func(o *outcome) { o.failed++ },
		"held":       func(o *outcome) { o.held++ },
		"unstarted":  func(o *outcome) { o.unstarted++ },
		"unknown":    func(o *outcome) { o.unknown++ },
		"unreadable": func(o *outcome) { o.unreadable++ },
		"called":     func(o *outcome) { o.called += ", open" },
	} {
		t.Run(name, func(t *testing.T) {
			steps := script()
			for i := range steps {
				spoil(&steps[i].want)
			}
			var stdout bytes.Buffer
			err := demo(t.Context(), steps, &stdout)
			require.EqualError(t, err, "40 of 40 deliveries had an unexpected outcome: see FAIL above")
			require.Equal(t, 40, strings.Count(stdout.String(), "\nFAIL "), &stdout)
			require.Equal(t, 40, strings.Count(stdout.String(), "\n  want "), &stdout)
			require.NotContains(t, stdout.String(), "the expected outcome")
		})
	}
}

func TestDemoFailsForAnotherDelivery(t *testing.T) {
	find := func(steps []step, title string) *step {
		for i := range steps {
			if steps[i].title == title {
				return &steps[i]
			}
		}
		t.Fatalf("no delivery %q", title)
		return nil
	}
	for name, test := range map[string]struct {
		spoil func(steps []step)
		wrong int
	}{
		"the forged one is signed": {
			// The next one is then the duplicate.
			func(steps []step) { find(steps, "a forged delivery").forged = false }, 2,
		},
		"a sample is forged":    {func(steps []step) { find(steps, "mixed.jsonl").forged = true }, 1},
		"a sample is cut off":   {func(steps []step) { s := find(steps, "open.json"); s.body = s.body[:99] }, 1},
		"a callback fails":      {func(steps []step) { find(steps, "spam.json").failFor = "spam" }, 1},
		"no callback fails":     {func(steps []step) { find(steps, "a callback fails").failFor = "" }, 2},
		"the stores are shared": {shareStores, 18},
		"the retry is empty": {
			func(steps []step) { find(steps, "the same again").body = []byte(`{"events":[]}`) }, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			steps := script()
			test.spoil(steps)
			var stdout bytes.Buffer
			err := demo(t.Context(), steps, &stdout)
			require.Error(t, err, &stdout)
			require.Equal(t, test.wrong, strings.Count(stdout.String(), "\nFAIL "), &stdout)
		})
	}
}

func shareStores(steps []step) {
	for i := range steps {
		steps[i].webhook = "the only one"
	}
}

func TestDemoReportsWhyItEnds(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx    context.Context
		stdout io.Writer
		want   string
	}{
		"interrupted": {ended, io.Discard, "context canceled"},
		"no stdout":   {t.Context(), brokenWriter{}, errBroken.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			require.Equal(t, exitFailure, run(test.ctx, nil, environment(""), test.stdout, &stderr))
			requireOneLine(t, stderr.String(), test.want)
		})
	}
}

var errBroken = errors.New("broken pipe")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }
