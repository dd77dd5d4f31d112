package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// A listening is a program that listens until end is called.
type listening struct {
	address        string
	stdout, stderr bytes.Buffer // read them after end
	cancel         context.CancelFunc
	status         chan int
}

func startListening(t *testing.T, secret, drain string) *listening {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &listening{cancel: cancel, status: make(chan int, 1)}
	read, write := io.Pipe()
	go func() {
		status := run(ctx, []string{"-listen", "127.0.0.1:0", "-drain", drain}, environment(secret), &l.stdout,
			io.MultiWriter(&l.stderr, write))
		write.Close()
		l.status <- status
	}()
	line, err := bufio.NewReader(read).ReadString('\n')
	require.NoError(t, err, "the program does not listen")
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
		t.Fatal("the program does not end")
		return 0
	}
}

func TestListenPrintsTheEventsOfSignedDeliveries(t *testing.T) {
	const otherSecret = "another webhook's secret"
	l := startListening(t, otherSecret+", "+testSecret+"\n", "0") // as a file has it
	post := func(body, secret string) int {
		t.Helper()
		status, err := send(t.Context(), "http://"+l.address+"/any/path", secret, []byte(body))
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
	require.Equal(t, http.StatusOK, post(envelope, testSecret))
	require.Equal(t, http.StatusOK, post(lines, otherSecret))
	require.Equal(t, http.StatusBadRequest, post(forged, "a forger's secret"))
	require.Equal(t, http.StatusOK, post(envelope, testSecret), "the retry")

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
	require.Equal(t, 1, strings.Count(l.stderr.String(), "status=400"), &l.stderr)
	require.Contains(t, l.stderr.String(), "duplicates=2", "a repeated delivery does not show")
	require.NotContains(t, l.stderr.String(), "example.com")

	_, err := net.DialTimeout("tcp", l.address, time.Second)
	require.Error(t, err, "the program still listens")
}

func TestLogsEachRequestAtDebug(t *testing.T) {
	for level, want := range map[string]int{"": 0, "debug": 1} {
		t.Setenv("MAILTRAP_LOG_LEVEL", level)
		l := startListening(t, testSecret, "0")
		body := webhooktest.Body(formatJSON, webhooktest.Sample("open"))
		status, err := send(t.Context(), "http://"+l.address, testSecret, body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, exitOK, l.end(t), &l.stderr)
		require.Equal(t, want, strings.Count(l.stderr.String(), "status=200"), &l.stderr)
	}
}

func TestListenAcknowledgesNoEventThatItCannotPrint(t *testing.T) {
	verifier, err := mailtrapwebhook.NewVerifier(testSecret)
	require.NoError(t, err)
	read, stderr := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- listen(ctx, options{address: "127.0.0.1:0", verifier: verifier}, brokenWriter{}, stderr)
	}()
	line, err := bufio.NewReader(read).ReadString('\n')
	require.NoError(t, err)
	go io.Copy(io.Discard, read)
	address, _, _ := strings.Cut(strings.TrimPrefix(line, "listening on "), ",")

	body := webhooktest.Body(formatJSON, webhooktest.Sample("open"))
	status, err := send(ctx, "http://"+address, testSecret, body)
	require.NoError(t, err)
	require.Equal(t, http.StatusInternalServerError, status)
	cancel()
	require.NoError(t, <-ended)
}

// At a signal the program is unready at once, and takes deliveries for a while
// longer.
func TestProbes(t *testing.T) {
	l := startListening(t, testSecret, "1s")
	get := func(path string) int {
		t.Helper()
		resp, err := http.Get("http://" + l.address + path)
		require.NoError(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, http.StatusOK, get("/healthz"))
	require.Equal(t, http.StatusOK, get("/readyz"))

	l.cancel()
	require.Eventually(t, func() bool { return get("/readyz") == http.StatusServiceUnavailable },
		time.Second, time.Millisecond)
	require.Equal(t, http.StatusOK, get("/healthz"))
	body := webhooktest.Body(formatJSON, webhooktest.Sample("open"))
	status, err := send(t.Context(), "http://"+l.address, testSecret, body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, exitOK, l.end(t), &l.stderr)
	require.Contains(t, l.stderr.String(), "ending: /readyz answers 503")
	require.Equal(t, 1, strings.Count(l.stdout.String(), "\n"))
}
