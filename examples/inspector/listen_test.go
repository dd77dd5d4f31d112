package main

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func TestListenPrintsWhereToGoAndALineForEachDelivery(t *testing.T) {
	l := startListen(t, testSecret)
	require.Contains(t, l.stdout.String(), "the webhook's URL    "+l.url+webhookPath+"\n")
	require.Equal(t, 200, l.deliver(t, testSecret, sampleBody("bounce", "bounce", "open")))
	require.Equal(t, 400, l.deliver(t, strings.Repeat("0", 32), sampleBody("bounce")))
	lines := strings.Split(strings.TrimSpace(l.stdout.String()), "\n")
	require.Regexp(t, `#1 +verified +200 in \S+ +JSON, 3 events: 2 bounce, 1 open$`, lines[len(lines)-2])
	require.Regexp(t, `#2 +NOT VERIFIED +400 in \S+ +JSON, 1 event: 1 bounce  \(.+\)$`, lines[len(lines)-1])
	require.Empty(t, l.stderr.String())
}

func TestWithoutASecretDeliveriesAreReceivedAndNotVerified(t *testing.T) {
	l := startListen(t, "")
	require.Contains(t, l.stderr.String(), "there is no secret")
	require.Equal(t, 200, l.deliver(t, "", sampleBody("bounce")))
	d := l.list(t, "").Deliveries[0]
	require.Equal(t, verifiedUnknown, d.Verified)
	require.Equal(t, "There is no secret to check the signature with.", d.Verdict)
}

func TestSeveralSecrets(t *testing.T) {
	second := strings.Repeat("2", 32)
	for _, l := range []*listening{
		startListen(t, testSecret+", "+second),
		startListen(t, "", "-secret", testSecret, "-secret", second),
	} {
		require.Equal(t, 200, l.deliver(t, second, sampleBody("bounce")))
		require.Equal(t, 2, l.detail(t, "1").Secret)
		require.NotContains(t, l.stdout.String()+l.stderr.String(), second)
	}
}

func TestListeningForOthersIsSaid(t *testing.T) {
	in := newTestInspector(t, listenOptions{})
	var out record
	in.lines, in.notes = &printer{w: &out}, &printer{w: &out}
	server := httptest.NewUnstartedServer(nil)
	defer server.Listener.Close()
	in.greet(server.Listener.Addr())
	require.NotContains(t, out.String(), "warning")
	in.greet(tcpAddr("0.0.0.0", 8080))
	require.Contains(t, out.String(), "warning: other machines can reach 0.0.0.0:8080")
	require.Contains(t, out.String(), "http://127.0.0.1:8080/")
}

func TestOpenDeliveriesAreAnsweredAtTheEnd(t *testing.T) {
	arrived, leave := make(chan struct{}), make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-leave
	}))
	defer app.Close()
	l := startListen(t, testSecret, "-forward", app.URL)
	stream := openStream(t, l, "")
	answered := make(chan int, 1)
	go func() { answered <- l.deliver(t, testSecret, sampleBody("bounce")) }()
	<-arrived
	stopped := make(chan int, 1)
	go func() { stopped <- l.stop() }()
	stream.requireEnd(t)
	require.Empty(t, stopped)
	close(leave)
	require.Equal(t, 200, <-answered)
	require.Equal(t, exitOK, <-stopped)
}

func TestNothingIsLeftRunning(t *testing.T) {
	before := runtime.NumGoroutine()
	l := startListen(t, testSecret)
	stream := openStream(t, l, "")
	// This run would go on for hours.
	app := httptest.NewServer(http.NotFoundHandler())
	forwarding := startListen(t, testSecret, "-forward", app.URL)
	status, _ := forwarding.call(t, "/api/send", `{"kinds":["open"],"retries":true,"speed":1}`)
	require.Equal(t, http.StatusAccepted, status)
	require.Equal(t, exitOK, l.stop())
	require.Equal(t, exitOK, forwarding.stop())
	stream.close()
	app.Close()
	http.DefaultClient.CloseIdleConnections()
	// Eventually would count a goroutine of its own.
	for range 500 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Fatalf("goroutines are left:\n%s", stacks[:runtime.Stack(stacks, true)])
}

func TestARestartShowsTheCapturesAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	l := startListen(t, testSecret, "-dir", dir)
	require.Equal(t, 200, l.deliver(t, testSecret, sampleBody("bounce", "open")))
	require.Equal(t, 400, l.deliver(t, strings.Repeat("0", 32), sampleBody("click")))
	want := l.list(t, "").Deliveries
	require.Equal(t, exitOK, l.stop())
	files := captureFiles(t, dir)
	require.Len(t, files, 2)

	// A file that is not whole, and one of another kind.
	half, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "20200101T000000.000Z-9.http"), half[:len(half)-1], 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("mine"), 0o600))

	l = startListen(t, testSecret, "-dir", dir)
	got := l.list(t, "").Deliveries
	require.Equal(t, want[1].Kinds, got[1].Kinds)
	for i := range want {
		want[i].DurationMS = got[i].DurationMS // which the file has in nanoseconds
	}
	require.Equal(t, want, got)
	require.Equal(t, "inspector: 20200101T000000.000Z-9.http is left out: "+errNotWhole.Error()+"\n", l.stderr.String())
	require.Equal(t, 200, l.deliver(t, testSecret, sampleBody("bounce")))
	require.Equal(t, []string{"3", "2", "1"}, l.list(t, "").ids())
}

func TestDeliveriesDoNotGoOnToTheInspectorItself(t *testing.T) {
	addr := tcpAddr("127.0.0.1", 8080)
	for target, want := range map[string]bool{
		"http://127.0.0.1:8080" + webhookPath: true,
		"http://localhost:8080" + webhookPath: true,
		"http://LocalHost:8080" + webhookPath: true,
		"http://127.0.0.1:8081" + webhookPath: false,
		"http://127.0.0.1:8080/other":         false,
	} {
		u, err := url.Parse(target)
		require.NoError(t, err)
		require.Equal(t, want, isOwn(u, addr), target)
	}
	require.False(t, isOwn(nil, addr))
}

func TestThePageIsServedWithAStrictPolicy(t *testing.T) {
	l := startListen(t, testSecret)
	resp, err := http.Get(l.url + "/")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	require.Contains(t, resp.Header.Get("Content-Type"), "text/html")
	require.Equal(t, contentPolicy, resp.Header.Get("Content-Security-Policy"))
	require.NotContains(t, contentPolicy, "unsafe")
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
		"Cross-Origin-Resource-Policy": "same-origin",
	} {
		require.Equal(t, want, resp.Header.Get(name))
	}
}

// TestAFirstMinute is what the README promises a newcomer.
func TestAFirstMinute(t *testing.T) {
	l := startListen(t, testSecret)
	got := runWith(t, testSecret, "", "send", "-kind", "bounce", l.url+webhookPath)
	require.Equal(t, exitOK, got.status, got.stderr)
	d := l.detail(t, "1")
	require.Equal(t, verifiedYes, d.Verified)
	require.Equal(t, map[string]int{"bounce": 1}, d.Kinds)
	require.Equal(t, webhooktest.Sample("bounce").Name(), d.Items[0].Kind)
}
