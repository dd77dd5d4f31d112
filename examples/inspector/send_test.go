package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// A receiver is a Handler, or what a person puts in its place.
func startReceiver(t *testing.T, h http.Handler) string {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

// handler returns a Handler that counts its events.
func handler(t *testing.T, events *atomic.Int32) http.Handler {
	verifier, err := mailtrapwebhook.NewVerifier(testSecret)
	require.NoError(t, err)
	return &mailtrapwebhook.Handler{
		Verifier: verifier, Logger: slog.New(slog.DiscardHandler),
		OnEvent: func(context.Context, mailtrapwebhook.Event) error {
			events.Add(1)
			return nil
		},
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func TestSendPrintsATableOfAttempts(t *testing.T) {
	var events atomic.Int32
	got := runWith(t, testSecret, "", "send", "-kind", "bounce, open", "-n", "1001", "-format", "jsonl", startReceiver(t, handler(t, &events)))
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Empty(t, got.stderr)
	lines := strings.Split(got.stdout, "\n")
	require.Regexp(t, `^DELIVERY +COPY +ATTEMPT +AFTER +STATUS +TOOK +ERROR$`, lines[0])
	require.Regexp(t, `^3 +1 +1 +\S+ +200 +\S+ *$`, lines[3])
	require.Len(t, lines, 5)
	require.Equal(t, int32(1001), events.Load())
}

func TestSendEveryFaultToAHandler(t *testing.T) {
	for _, fault := range faultNames() {
		var events atomic.Int32
		got := runWith(t, testSecret, "", "send", "-fault", fault, startReceiver(t, handler(t, &events)))
		require.Equal(t, exitOK, got.status, "%s: %s", fault, got.stderr)
		if fault == "late" {
			require.Contains(t, got.stdout, "on purpose by fault late", "the flag's word, not that of Go")
		}
		if fault == "forged" {
			require.Zero(t, events.Load())
		} else {
			require.GreaterOrEqual(t, int(events.Load()), len(sampleKinds()), fault)
		}
	}
}

func TestSendFailsForAReceiverThatDoesWrong(t *testing.T) {
	for name, test := range map[string]struct {
		receiver http.Handler
		fault    string
		want     string
	}{
		"202":           {status(202), "", "answer 200"},
		"redirect":      {http.RedirectHandler("/elsewhere", http.StatusMovedPermanently), "", "redirect"},
		"not found":     {status(404), "", "404"},
		"takes forgery": {status(200), "forged", "forged"},
		"hangs up":      {http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), "", "gives no answer"},
	} {
		got := runWith(t, testSecret, "", "send", "-kind", "open", "-fault", test.fault, startReceiver(t, test.receiver))
		require.Equal(t, exitFailure, got.status, name)
		require.Regexp(t, `^inspector: delivery 1: [^\n]*`+test.want+`[^\n]*\n$`, got.stderr, name)
	}
}

func TestSendRetriesAsMailtrapDoesAndStopsWhereItWouldPause(t *testing.T) {
	var requests atomic.Int32
	receiver := startReceiver(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(500)
	}))
	got := runWith(t, testSecret, "", "send", "-kind", "open", "-n", "1000", "-retries", "-speed", "1000000", receiver)
	require.Equal(t, exitFailure, got.status)
	require.Equal(t, int32(mailtrapAttempts), requests.Load(), "the second delivery must not be sent")
	require.Contains(t, got.stdout, "\n1         1     41 ")
	require.Contains(t, got.stderr, "; Mailtrap would now pause the webhook\n")
}

func TestWithoutRetriesEveryDeliveryIsSent(t *testing.T) {
	got := runWith(t, testSecret, "", "send", "-kind", "open", "-n", "1000", startReceiver(t, status(500)))
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stderr, "inspector: 2 of 2 deliveries went wrong; delivery 1: ")
	require.NotContains(t, got.stderr, "pause", "Mailtrap would go on")
}

func TestAnInterruptedSendPrintsWhatItHas(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	receiver := startReceiver(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(500)
		time.AfterFunc(20*time.Millisecond, cancel)
	}))
	var stdout, stderr record
	got := run(ctx, []string{"send", "-retries", receiver}, environment{func(string) string { return testSecret }, nil, &stdout, &stderr})
	require.Equal(t, exitFailure, got)
	require.Contains(t, stdout.String(), "500")
	require.Contains(t, stderr.String(), "interrupted")
}

func TestReplaySendsCapturesByteForByte(t *testing.T) {
	var mu sync.Mutex
	var requests []*http.Request
	var bodies [][]byte
	receiver := startReceiver(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		mu.Lock()
		defer mu.Unlock()
		requests, bodies = append(requests, r), append(bodies, body.Bytes())
	}))
	receiver = strings.Replace(receiver, "http://", "http://user:pass@", 1)
	other := strings.Repeat("0", 32)
	name := writeCapture(t, other, awkward)
	want, err := readCaptureFile(name)
	require.NoError(t, err)

	got := runWith(t, testSecret, "", "replay", name, name, receiver+"/hook?token=x")
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Len(t, requests, 2)
	require.Equal(t, awkward, bodies[1])
	require.Equal(t, "/hook?token=x", requests[0].URL.String())
	header := requests[0].Header
	require.NotEmpty(t, header.Get("Authorization"))
	header.Del("Authorization")
	require.Equal(t, want.header, header)

	got = runWith(t, "", "", "replay", "-secret", testSecret, name, receiver)
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Equal(t, awkward, bodies[2])
	require.Equal(t, mailtrapwebhook.Sign(awkward, testSecret), requests[2].Header.Get("Mailtrap-Signature"))
	require.NotEqual(t, header.Get("Mailtrap-Signature"), requests[2].Header.Get("Mailtrap-Signature"))
}

func TestReplayAddsNoHeaders(t *testing.T) {
	var got http.Header
	receiver := startReceiver(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	name := filepath.Join(t.TempDir(), "mine.http")
	require.NoError(t, os.WriteFile(name, []byte("POST / HTTP/1.1\nHost: a\nContent-Length: 2\n\n{}"), 0o600))
	require.Equal(t, exitOK, runWith(t, testSecret, "", "replay", name, receiver).status)
	require.Equal(t, http.Header{"Content-Length": {"2"}, "Accept-Encoding": {"gzip"}}, got)
}

func TestReplayLeavesOutWhatItCannotRead(t *testing.T) {
	good := writeCapture(t, testSecret, sampleBody("open"))
	content, err := os.ReadFile(good)
	require.NoError(t, err)
	half := filepath.Join(t.TempDir(), "half.http")
	require.NoError(t, os.WriteFile(half, content[:len(content)/2], 0o600))
	var events atomic.Int32
	got := runWith(t, testSecret, "", "replay", half, "missing.http", t.TempDir(), good, startReceiver(t, handler(t, &events)))
	require.Equal(t, exitFailure, got.status)
	require.Equal(t, int32(1), events.Load())
	lines := strings.Split(strings.TrimSpace(got.stderr), "\n")
	require.Len(t, lines, 3)
	require.Contains(t, lines[0], " is left out: the folder has no captures")
	require.Equal(t, "inspector: "+half+" is left out: "+errNotWhole.Error(), lines[1])
	require.Equal(t, "inspector: missing.http is left out: no such file or directory", lines[2])
}

func TestReplaySendsTheCapturesOfAFolderAndNamesTheFileThatWentWrong(t *testing.T) {
	dir := t.TempDir()
	for i, secret := range []string{testSecret, "another-secret", testSecret} {
		content, err := os.ReadFile(writeCapture(t, secret, sampleBody("open")))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, string(rune('c'-i))+captureExt), content, 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600))
	var events atomic.Int32
	got := runWith(t, testSecret, "", "replay", dir, startReceiver(t, handler(t, &events)))
	require.Equal(t, exitFailure, got.status)
	at := regexp.QuoteMeta(dir + string(filepath.Separator))
	require.Regexp(t, "^FILE +COPY.*\n"+at+"a.http +1 +1 .* 200 .*\n"+at+"b.http +1 +1 .* 400 .*\n"+at+"c.http +1 +1 .* 200 .*\n$", got.stdout)
	require.Regexp(t, "^inspector: file "+at+"b.http: the receiver answers 400: ", got.stderr)
	require.Equal(t, int32(2), events.Load())
}

func TestReplayOfNothingPrintsNoTable(t *testing.T) {
	empty := t.TempDir()
	got := runWith(t, testSecret, "", "replay", empty, "missing.http", startReceiver(t, status(200)))
	require.Equal(t, exitFailure, got.status)
	require.Empty(t, got.stdout)
	require.Equal(t, "inspector: "+empty+" is left out: the folder has no captures\n"+
		"inspector: missing.http is left out: no such file or directory\n", got.stderr)
}

func TestTheBarShowsHowFarItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out record
		b := startBar(&out, 4, true)
		b.attempt(1, webhooktest.Attempt{Number: 1, Status: 200})
		time.Sleep(barDelay - time.Millisecond)
		synctest.Wait()
		require.Empty(t, out.String(), "what takes less than a second needs no bar")
		b.attempt(3, webhooktest.Attempt{Number: 2, Err: context.DeadlineExceeded})
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, "\r\x1b[K[############............] delivery 3 of 4, attempt 2: no answer", out.String())
		b.stop()
		require.True(t, strings.HasSuffix(out.String(), "\r\x1b[K"))
	})
}

func TestABarIsForATerminalAlone(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer file.Close()
	require.False(t, isTerminal(file))
	require.False(t, isTerminal(new(record)))
	device, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer device.Close()
	require.True(t, isTerminal(device))
	var none *bar
	none.attempt(1, webhooktest.Attempt{})
	none.stop()
}
