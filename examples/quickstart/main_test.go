package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const testSecret = "0123456789abcdef0123456789abcdef"

// environment returns a getenv in which the secret is set.
func environment(secret string) func(string) string {
	return func(name string) string {
		if name == secretVariable {
			return secret
		}
		return ""
	}
}

func TestPayloadsAreThoseOfTestdata(t *testing.T) {
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

// # The demo

func TestDemoShowsThatAllGoesAsItShould(t *testing.T) {
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), nil, environment(""), &stdout, &stderr)
	require.Equal(t, exitOK, status, "%s%s", &stdout, &stderr)
	require.Empty(t, stderr.String())

	var got []string
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	for _, line := range lines[:len(lines)-2] {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	require.Equal(t, "SENT FORMAT ANSWERED EVENTS HANDLED DUPLICATES FAILED UNKNOWN RESULT CALLED FOR", got[0])
	var want []string
	for _, sample := range []struct{ name, counts, called string }{
		{"audit_log_profile_update", "200 1 1 0 0 0", "activity_log.user.updated"},
		{"audit_log_user_login", "200 1 1 0 0 0", "activity_log.user.login"},
		{"bounce", "200 1 1 0 0 0", "bounce"},
		{"click", "200 1 1 0 0 0", "click"},
		{"delivery", "200 1 1 0 0 0", "delivery"},
		{"open", "200 1 1 0 0 0", "open"},
		{"reject", "200 1 1 0 0 0", "reject"},
		{"soft_bounce", "200 1 1 0 0 0", "soft bounce"},
		{"spam", "200 1 1 0 0 0", "spam"},
		{"suspension", "200 1 1 0 0 0", "suspension"},
		{"unsubscribe", "200 1 1 0 0 0", "unsubscribe"},
	} {
		want = append(want,
			fmt.Sprintf("%s as printed JSON %s ok %s", sample.name, sample.counts, sample.called),
			fmt.Sprintf("%s converted JSON Lines %s ok %s", sample.name, sample.counts, sample.called))
	}
	for _, sample := range []struct{ name, counts, called string }{
		{"bounce", "200 1 1 0 0 0", "bounce"},
		{"delivery", "200 2 2 0 0 0", "delivery, delivery"},
		{"mixed", "200 3 3 0 0 0", "delivery, open, click"},
	} {
		want = append(want,
			fmt.Sprintf("%s converted JSON %s ok %s", sample.name, sample.counts, sample.called),
			fmt.Sprintf("%s as printed JSON Lines %s ok %s", sample.name, sample.counts, sample.called))
	}
	for _, format := range []string{"JSON", "JSON Lines"} {
		want = append(want,
			"forged "+format+" 400 0 0 0 0 0 ok -",
			"the same, signed "+format+" 200 3 3 0 0 0 ok delivery, open, click",
			"its retry "+format+" 200 3 0 3 0 0 ok -",
			"a broken element "+format+" 200 3 3 0 0 1 ok delivery, unknown, click",
			"a callback fails "+format+" 500 3 2 0 1 0 ok delivery, open, click",
			"its retry "+format+" 200 3 1 2 0 0 ok open",
		)
	}
	require.Empty(t, cmp.Diff(want, got[1:]))
	require.Equal(t, "all 40 deliveries went as they should", lines[len(lines)-1])
}

// Each field of what is expected is checked in each delivery.
func TestDemoFailsWhereTheOutcomeIsNotTheExpectedOne(t *testing.T) {
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
		"called":     func(o *outcome) { o.called += ", open" },
	} {
		t.Run(name, func(t *testing.T) {
			steps := script()
			for i := range steps {
				spoil(&steps[i].want)
			}
			var stdout bytes.Buffer
			err := demo(t.Context(), steps, &stdout)
			require.EqualError(t, err, "40 of 40 deliveries did not go as they should: see FAIL in the table")
			require.Equal(t, 40, strings.Count(stdout.String(), "  FAIL  "), &stdout)
			require.Equal(t, 40, strings.Count(stdout.String(), ", want "), &stdout)
			require.NotContains(t, stdout.String(), "  ok  ")
			require.NotContains(t, stdout.String(), "as they should")
		})
	}
}

// What the demo shows depends on what is sent, not only on what is expected.
func TestDemoFailsWhereTheDeliveryIsNotTheExpectedOne(t *testing.T) {
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
			// Then it is the next that is the duplicate.
			func(steps []step) { find(steps, "forged").forged = false }, 2,
		},
		"a sample is forged":     {func(steps []step) { find(steps, "mixed as printed").forged = true }, 1},
		"a sample is cut off":    {func(steps []step) { s := find(steps, "open as printed"); s.body = s.body[:99] }, 1},
		"a callback fails":       {func(steps []step) { find(steps, "spam converted").failFor = "spam" }, 1},
		"none fails":             {func(steps []step) { find(steps, "a callback fails").failFor = "" }, 2},
		"the stores are shared":  {func(steps []step) { shareStores(steps) }, 18},
		"the retry is of others": {func(steps []step) { find(steps, "its retry").body = []byte(`{"events":[]}`) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			steps := script()
			test.spoil(steps)
			var stdout bytes.Buffer
			err := demo(t.Context(), steps, &stdout)
			require.Error(t, err, &stdout)
			require.Equal(t, test.wrong, strings.Count(stdout.String(), "  FAIL  "), &stdout)
		})
	}
}

func shareStores(steps []step) {
	for i := range steps {
		steps[i].webhook = "the only one"
	}
}

func TestDemoThatCannotBeShownFails(t *testing.T) {
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

// # The command line

func TestCommandLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()

	for name, test := range map[string]struct {
		args   []string
		secret string
		status int
		want   string
	}{
		"unknown flag":          {[]string{"-lisen", ":0"}, testSecret, exitUsage, "not defined: -lisen"},
		"flag with a line end":  {[]string{"-lis\nen"}, testSecret, exitUsage, "not defined: -lis"},
		"flag without a value":  {[]string{"-listen"}, testSecret, exitUsage, "needs an argument: -listen"},
		"stray argument":        {[]string{":8080"}, testSecret, exitUsage, `unexpected argument ":8080"`},
		"argument after a flag": {[]string{"-listen", ":0", "x"}, testSecret, exitUsage, `unexpected argument "x"`},
		"empty address":         {[]string{"-listen", ""}, testSecret, exitUsage, "-listen needs an address"},
		"no secret":             {[]string{"-listen", "127.0.0.1:0"}, "", exitUsage, secretVariable},
		"blank secret":          {[]string{"-listen", "127.0.0.1:0"}, " \n", exitUsage, secretVariable},
		"address in use": {
			[]string{"-listen", taken.Addr().String()}, testSecret, exitFailure, "bind: ",
		},
		"address without a port": {[]string{"-listen", "localhost"}, testSecret, exitFailure, "missing port"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, test.status, run(t.Context(), test.args, environment(test.secret), &stdout, &stderr))
			require.Empty(t, stdout.String())
			requireOneLine(t, stderr.String(), test.want)
			require.NotContains(t, stderr.String(), testSecret)
		})
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitOK, run(t.Context(), []string{"-h"}, environment(""), &stdout, &stderr))
	require.Equal(t, usage, stdout.String())
	require.Empty(t, stderr.String())
}

func requireOneLine(t *testing.T, got, want string) {
	t.Helper()
	require.True(t, strings.HasPrefix(got, "quickstart: "), "%q", got)
	require.Contains(t, got, want)
	require.Equal(t, 1, strings.Count(got, "\n"), "%q", got)
	require.True(t, strings.HasSuffix(got, "\n"), "%q", got)
}

// # Listening

// A listening is a program that listens, until end is called.
type listening struct {
	address        string
	stdout, stderr bytes.Buffer // to be read after end
	cancel         context.CancelFunc
	status         chan int
}

func startListening(t *testing.T, secret string) *listening {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &listening{cancel: cancel, status: make(chan int, 1)}
	read, write := io.Pipe()
	go func() {
		status := run(ctx, []string{"-listen", "127.0.0.1:0"}, environment(secret), &l.stdout,
			io.MultiWriter(&l.stderr, write))
		write.Close()
		l.status <- status
	}()
	line, err := bufio.NewReader(read).ReadString('\n')
	require.NoError(t, err, "it did not start to listen")
	go io.Copy(io.Discard, read)
	_, err = fmt.Sscanf(line, "listening on %s", &l.address)
	require.NoError(t, err, line)
	l.address = strings.TrimSuffix(l.address, ",")
	return l
}

func (l *listening) end(t *testing.T) (status int) {
	t.Helper()
	l.cancel()
	select {
	case status := <-l.status:
		return status
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
		return 0
	}
}

func TestListenPrintsTheEventsOfWhatIsSigned(t *testing.T) {
	l := startListening(t, testSecret+"\n") // as read from a file
	mailtrap := newSender(l.address, testSecret)
	defer mailtrap.client.CloseIdleConnections()
	send := func(format mailtrapwebhook.Format, body, secret string) int {
		t.Helper()
		signature := mailtrapwebhook.Sign([]byte(body), secret)
		status, err := mailtrap.send(t.Context(), "any/path", format, []byte(body), signature)
		require.NoError(t, err)
		return status
	}
	const (
		envelope = `{"events":[
			{"event":"bounce","timestamp":1728669700,"message_id":"m-1","email":"a@example.com","event_id":"e-1",
			 "response":"no such user"},
			{"event":"activity_log.user.login","description":"logged in with SSO","actor":{"id":1,"name":"Ann"},
			 "timestamp":1735830138}]}`
		lines = `{"event":"inbound.message_received","timestamp":1788113042436,"inbox_id":11,"message_id":"22",` +
			`"from":"\u001b[2Jevil\n <c@example.com>"}` + "\n" +
			`{"event":"brand new","timestamp":1788113042}` + "\n" +
			`{"event":` + "\n"
		forged = `{"events":[{"event":"spam","timestamp":1728669700,"message_id":"m-2","email":"x@example.com"}]}`
	)
	require.Equal(t, http.StatusOK, send(formatJSON, envelope, testSecret))
	require.Equal(t, http.StatusOK, send(formatLines, lines, testSecret))
	require.Equal(t, http.StatusBadRequest, send(formatJSON, forged, "another secret"))
	require.Equal(t, http.StatusOK, send(formatJSON, envelope, testSecret), "its retry")

	require.Equal(t, exitOK, l.end(t), &l.stderr)
	got := strings.Split(strings.TrimSuffix(l.stdout.String(), "\n"), "\n")
	require.Len(t, got, 5, l.stdout.String())
	require.Equal(t, []string{
		"2024-10-11T18:01:40Z  bounce        message m-1 to a@example.com: no such user",
		"2025-01-02T15:02:18Z  activity_log.user.login  Ann logged in with SSO",
		"2026-08-30T18:04:02Z  inbound.message_received  inbox 11, message 22 from \ufffd[2Jevil\ufffd <c@example.com>",
		"-                     brand new     unknown, 44 bytes",
	}, got[:4])
	require.Contains(t, got[4], "unknown, 9 bytes: ")
	require.Equal(t, 1, strings.Count(l.stderr.String(), "status=400"))
	require.Equal(t, 3, strings.Count(l.stderr.String(), "status=200"))
	require.Contains(t, l.stderr.String(), "duplicates=2")
	require.NotContains(t, l.stderr.String(), "example.com")

	_, err := net.DialTimeout("tcp", l.address, time.Second)
	require.Error(t, err, "it still listens")
}

// What could not be printed is not acknowledged.
func TestListenRefusesWhatItCannotPrint(t *testing.T) {
	verifier, err := mailtrapwebhook.NewVerifier(testSecret)
	require.NoError(t, err)
	read, stderr := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- listen(ctx, "127.0.0.1:0", verifier, brokenWriter{}, stderr) }()
	line, err := bufio.NewReader(read).ReadString('\n')
	require.NoError(t, err)
	go io.Copy(io.Discard, read)
	address, _, _ := strings.Cut(strings.TrimPrefix(line, "listening on "), ",")

	mailtrap := newSender(address, testSecret)
	defer mailtrap.client.CloseIdleConnections()
	body := []byte(`{"events":[{"event":"open","message_id":"m-1","event_id":"e-1"}]}`)
	status, err := mailtrap.send(ctx, "", formatJSON, body, mailtrapwebhook.Sign(body, testSecret))
	require.NoError(t, err)
	require.Equal(t, http.StatusInternalServerError, status)
	cancel()
	require.NoError(t, <-ended)
}

// A server that ends lets the delivery that it is handling come to its end.
func TestServeEndsAfterTheDeliveriesUnderWay(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cancel()
		time.Sleep(100 * time.Millisecond)
		select {
		case err := <-ended:
			ended <- err
			w.WriteHeader(http.StatusTeapot)
		default:
		}
	})
	server := newServer(handler, discard)
	require.NotZero(t, server.ReadHeaderTimeout)
	require.NotZero(t, server.ReadTimeout)
	require.NotZero(t, server.WriteTimeout)
	require.NotZero(t, server.IdleTimeout)
	go func() { ended <- serve(ctx, server, listener) }()

	mailtrap := newSender(listener.Addr().String(), testSecret)
	defer mailtrap.client.CloseIdleConnections()
	status, err := mailtrap.send(t.Context(), "", formatJSON, nil, "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.NoError(t, <-ended)
}
