package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func withSecret(string) string { return secret }

func TestWrongArguments(t *testing.T) {
	t.Parallel()
	for says, args := range map[string][]string{
		`unexpected argument "x"`:              {"x"},
		"flag provided but not defined: -port": {"-port", "1"},
		"-trust has something else":            {"-trust", "192.0.2.1"},
	} {
		var said bytes.Buffer
		require.Equal(t, 2, run(t.Context(), args, withSecret, &said))
		require.Contains(t, said.String(), says)
	}
	for _, value := range []string{"", "\n", secret + ","} {
		var said bytes.Buffer
		require.Equal(t, 2, run(t.Context(), nil, func(string) string { return value }, &said))
		require.Contains(t, said.String(), "set "+secretVariable)
		require.NotContains(t, said.String(), secret)
	}
	var said bytes.Buffer
	require.Equal(t, 0, run(t.Context(), []string{"-h"}, withSecret, &said))
	require.Contains(t, said.String(), "-listen")
	require.Equal(t, 1, run(t.Context(), []string{"-listen", "192.0.2.1:1"}, withSecret, &said))
	require.Contains(t, said.String(), "cannot assign requested address")
}

// A program takes deliveries of Mailtrap's from its proxy on a Unix socket,
// though one that was killed has left a socket there. It ends when it is told
// to, and is unready first.
func TestProgramOnUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "socket")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	left.SetUnlinkOnClose(false)
	require.NoError(t, left.Close())

	ctx, term := context.WithCancel(t.Context())
	defer term()
	var said lockedBuffer
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"-listen", "unix:" + path, "-drain", "3s"}, withSecret, &said) }()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	status := func(method, path string, forwarded ...string) int {
		body := webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Sample("bounce"))
		r := webhooktest.NewRequest("http://webhooks.example.com"+path, secret, body)
		r.Method, r.URL.Scheme, r.URL.Host, r.RequestURI = method, "http", r.Host, ""
		r.Header["X-Forwarded-For"] = forwarded
		answer, err := client.Do(r)
		if err != nil {
			return 0
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	require.Eventually(t, func() bool { return status("GET", "/readyz") == http.StatusOK }, aWhile, time.Millisecond, "%s", &said)
	require.Equal(t, http.StatusOK, status("GET", "/healthz"))
	const webhook = "/webhooks/mailtrap"
	require.Equal(t, http.StatusOK, status("POST", webhook, "45.158.83.130"))
	require.Equal(t, http.StatusForbidden, status("POST", webhook, "45.158.83.130, 192.0.2.1"))
	require.Equal(t, http.StatusForbidden, status("POST", webhook))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o660), info.Mode().Perm())

	term()
	require.Eventually(t, func() bool { return status("GET", "/readyz") == http.StatusServiceUnavailable },
		aWhile, time.Millisecond)
	require.Equal(t, http.StatusOK, status("GET", "/healthz"))
	require.Equal(t, http.StatusOK, status("POST", webhook, "45.158.83.130"))
	client.CloseIdleConnections()
	require.Equal(t, 0, <-ended)
	require.NoFileExists(t, path)
	require.Contains(t, said.String(), "msg=listening address="+path)
}

func TestProgramRemovesNothingButASocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
	require.Equal(t, 1, run(t.Context(), []string{"-listen", "unix:" + path}, withSecret, io.Discard))
	require.FileExists(t, path)
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
