package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// TestItAnswersAsAHandlerDoes compares the answers to requests with those of a
// Handler.
func TestItAnswersAsAHandlerDoes(t *testing.T) {
	verifier, err := mailtrapwebhook.NewVerifier(testSecret)
	require.NoError(t, err)
	good := sampleBody("bounce", "inbound.message_received")
	many := []byte(strings.Repeat(`{"event":"open"}`+"\n", maxEvents+1))
	manyAndBroken := []byte(`[` + strings.Repeat(`{"event":"open"},`, maxEvents+1) + `x`)
	for _, test := range []struct {
		name   string
		change func(r *http.Request)
		body   []byte
		want   int
	}{
		{"good", func(*http.Request) {}, good, 200},
		{"unknown kind", func(*http.Request) {}, []byte(`{"event":"new"}`), 200},
		{"no events", func(*http.Request) {}, []byte(`{"events":[]}`), 200},
		{"GET", func(r *http.Request) { r.Method = "GET" }, good, 405},
		{"unsigned", func(r *http.Request) { r.Header.Del("Mailtrap-Signature") }, good, 400},
		{"two signatures", func(r *http.Request) { r.Header.Add("Mailtrap-Signature", "0") }, good, 400},
		{"altered", func(r *http.Request) { setBody(r, append(good, ' ')) }, good, 400},
		{"empty", func(*http.Request) {}, nil, 400},
		{"broken", func(*http.Request) {}, []byte(`{"events":[`), 422},
		{"not JSON", func(*http.Request) {}, []byte(`hello`), 422},
		{"multipart", func(r *http.Request) { r.Header.Set("Content-Type", "multipart/form-data") }, good, 415},
		{"encoded", func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, good, 415},
		{"identity", func(r *http.Request) { r.Header.Set("Content-Encoding", "identity") }, good, 200},
		{"form", func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, good, 200},
		{"8 MiB", func(*http.Request) {}, fill(good, maxBody), 200},
		{"over 8 MiB", func(*http.Request) {}, fill(good, maxBody+1), 413},
		{"too many events", func(*http.Request) {}, many, 413},
		{"too many events and a fault", func(*http.Request) {}, manyAndBroken, 413},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := newTestInspector(t, listenOptions{secrets: []string{testSecret}})
			handler := &mailtrapwebhook.Handler{
				Verifier: verifier, Dedup: mailtrapwebhook.NoDedup, Logger: slog.New(slog.DiscardHandler),
				OnDelivery: func(_ context.Context, _ *mailtrapwebhook.Delivery) error { return nil },
			}
			require.Equal(t, test.want, answerOf(handler, test.body, test.change), "of a Handler")
			require.Equal(t, test.want, answerOf(http.HandlerFunc(in.receive), test.body, test.change))
		})
	}
}

func TestWhatAHandlerRefusesIsCapturedToo(t *testing.T) {
	l := startListen(t, testSecret)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte(`{"event":"open"}`))
	require.NoError(t, w.Close())
	r, err := http.NewRequest("POST", l.url+webhookPath, &zipped)
	require.NoError(t, err)
	r.Header.Set("Content-Encoding", "gzip")
	r.Header.Set("Mailtrap-Signature", mailtrapwebhook.Sign([]byte(`{"event":"open"}`), testSecret))
	status, text := do(t, r)
	require.Equal(t, 415, status)
	require.Equal(t, "Unsupported Media Type\n", text)
	d := l.detail(t, "1")
	require.Contains(t, d.Verdict, "gzip")
	require.NotEmpty(t, d.Fix)
	require.Contains(t, d.Error, "encoded")
}

func TestTheVerdictNamesCauseAndFix(t *testing.T) {
	l := startListen(t, "'"+testSecret+"'")
	require.Equal(t, 400, l.deliver(t, testSecret, sampleBody("bounce")))
	d := l.detail(t, "1")
	require.Equal(t, verifiedNo, d.Verified)
	require.Regexp(t, `^The .*quote.*[^.]\.$`, d.Verdict)
	require.Regexp(t, `^[A-Z].*[^.]\.$`, d.Fix)
}

func TestABrowsersPageCannotDeliver(t *testing.T) {
	l := startListen(t, "")
	for name, value := range map[string]string{"Origin": "https://example.com", "Sec-Fetch-Site": "cross-site"} {
		r, err := http.NewRequest("POST", l.url+webhookPath, strings.NewReader(`{"event":"open"}`))
		require.NoError(t, err)
		r.Header.Set(name, value)
		status, _ := do(t, r)
		require.Equal(t, 403, status)
	}
	require.Equal(t, 0, l.list(t, "").Total)
}

func TestTheWebhookTakesAnyHostAndProxyHeaders(t *testing.T) {
	l := startListen(t, "")
	r, err := http.NewRequest("POST", l.url+webhookPath, strings.NewReader(`{"event":"open"}`))
	require.NoError(t, err)
	r.Host = "tunnel.example.com"
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	status, _ := do(t, r)
	require.Equal(t, 200, status)
	require.Contains(t, l.detail(t, "1").Header, [2]string{"Host", "tunnel.example.com"})
}

func TestACaptureIsOnDiskBeforeTheAnswer(t *testing.T) {
	dir := t.TempDir()
	in := newTestInspector(t, listenOptions{secrets: []string{testSecret}, dir: dir})
	files := -1
	w := &headerWatcher{onHeader: func() { files = len(captureFiles(t, dir)) }}
	in.receive(w, signedRequest(sampleBody("bounce")))
	require.Equal(t, 200, w.status)
	require.Equal(t, 1, files)
}

func TestADiskThatCannotBeWrittenIs503AndALine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "captures")
	l := startListen(t, testSecret, "-dir", dir)
	require.NoError(t, os.RemoveAll(dir))
	require.Equal(t, 503, l.deliver(t, testSecret, sampleBody("bounce")))
	d := l.list(t, "").Deliveries[0]
	require.Equal(t, 503, d.Status)
	require.Contains(t, d.Error, "the capture cannot be written: ")
	require.NotContains(t, d.Error, dir)
	require.Contains(t, l.stdout.String(), d.Error)
}

func TestStrangersCannotFillTheDisk(t *testing.T) {
	dir := t.TempDir()
	in := newTestInspector(t, listenOptions{secrets: []string{testSecret}, dir: dir})
	in.dir.strangers.Store(maxStrangers - 10_000)
	forged := fill([]byte(`{"event":"open"}`), 4000)
	for range 5 {
		require.Equal(t, 400, answerOf(http.HandlerFunc(in.receive), forged, func(r *http.Request) {
			r.Header.Set("Mailtrap-Signature", "0")
		}))
	}
	require.Less(t, len(captureFiles(t, dir)), 3)
	_, total, _ := in.store.list(filter{limit: 10})
	require.Equal(t, 5, total)
	before := len(captureFiles(t, dir))
	require.Equal(t, 200, answerOf(http.HandlerFunc(in.receive), sampleBody("open"), nil))
	require.Len(t, captureFiles(t, dir), before+1)
}

func TestTerminalLinesHoldNoControlCharacters(t *testing.T) {
	l := startListen(t, "")
	body := fmt.Sprintf(`{"event":"activity_log.%s"}`, `\u001b[31m\u202e\nx`)
	require.Equal(t, 200, l.deliver(t, "", []byte(body)))
	require.Contains(t, l.stdout.String(), "1 activity_log.\uFFFD[31m\uFFFD\uFFFDx\n")
}

// A headerWatcher is told when the answer begins.
type headerWatcher struct {
	onHeader func()
	status   int
	header   http.Header
}

func (w *headerWatcher) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *headerWatcher) WriteHeader(status int) {
	w.onHeader()
	w.status = status
}

func (w *headerWatcher) Write(p []byte) (int, error) { return io.Discard.Write(p) }

func TestADeliveryThatBreaksOffIsNotedWithItsTime(t *testing.T) {
	l := startListen(t, testSecret)
	conn, err := net.Dial("tcp", strings.TrimPrefix(l.url, "http://"))
	require.NoError(t, err)
	_, err = io.WriteString(conn, "POST "+webhookPath+" HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	line := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d  not kept +400 .*the body broke off`)
	require.Eventually(t, func() bool { return line.MatchString(l.stderr.String()) }, time.Minute, time.Millisecond)
	require.Zero(t, l.list(t, "").Total)
}
