package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func withSecret(string) string { return secret }

func TestWrongArguments(t *testing.T) {
	t.Parallel()
	for says, args := range map[string][]string{
		`unexpected argument "x"`:              {"x"},
		"flag provided but not defined: -port": {"-port", "1"},
		"-trust: write prefixes as":            {"-trust", "192.0.2.1"},
		`invalid value "" for flag -listen`:    {"-listen", ""},
		"-drain: make it 0s to 10s":            {"-drain", "-5s"},
		`invalid value "" for flag -trust`:     {"-trust", ""},
	} {
		var said bytes.Buffer
		require.Equal(t, 2, run(t.Context(), args, withSecret, &said))
		require.Contains(t, said.String(), says)
	}
	for _, value := range []string{"", "\n", secret + ","} {
		var said bytes.Buffer
		require.Equal(t, 2, run(t.Context(), nil, func(string) string { return value }, &said))
		require.Contains(t, said.String(), "set "+serve.SecretVariable)
		require.NotContains(t, said.String(), secret)
	}
	var said bytes.Buffer
	require.Equal(t, 0, run(t.Context(), []string{"-h"}, withSecret, &said))
	require.Contains(t, said.String(), "-listen")
	require.Equal(t, 1, run(t.Context(), []string{"-listen", "192.0.2.1:1"}, withSecret, &said))
	require.Contains(t, said.String(), "cannot assign requested address")
	require.Equal(t, 1, run(t.Context(), []string{"-listen", "unix:"}, withSecret, &said))
	require.Contains(t, said.String(), "-listen names no socket")
}

// A program takes deliveries of Mailtrap's from its proxy on a Unix socket,
// though one that was killed has left a socket there. It ends when it is told
// to, and is unready first.
func TestProgramOnUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "socket")
	leaveSocket(t, path)
	ctx, term := context.WithCancel(t.Context())
	defer term()
	var said lockedBuffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"-listen", "unix:" + path, "-drain", "3s", "-trust", "192.0.2.0/24"}, withSecret, &said)
	}()
	client := clientOf(path)
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
	require.Equal(t, http.StatusOK, status("POST", webhook, "45.158.83.130, 192.0.2.1"))
	require.Equal(t, http.StatusForbidden, status("POST", webhook, "45.158.83.130, 198.51.100.1"))
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

// clientOf returns a client of a Unix socket.
func clientOf(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
}

// A second program does not start on the socket of one that runs, and leaves
// the socket to it.
func TestSecondProgramDoesNotStart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "socket")
	args := []string{"-listen", "unix:" + path, "-drain", "0"}
	start := func() (end func() int) {
		ctx, term := context.WithCancel(t.Context())
		var said lockedBuffer
		ended := make(chan int, 1)
		go func() { ended <- run(ctx, args, withSecret, &said) }()
		require.Eventually(t, func() bool { return ask(path) == nil }, aWhile, time.Millisecond, "%s", &said)
		return func() int { term(); return <-ended }
	}
	requireRefusal := func() {
		t.Helper()
		ctx, term := context.WithTimeout(t.Context(), 2*time.Second) // ends a program that starts
		defer term()
		var said lockedBuffer
		require.Equal(t, 1, run(ctx, args, withSecret, &said), "%s", &said)
		require.Contains(t, said.String(), "another program listens there")
	}
	end := start()
	requireRefusal()
	require.NoError(t, ask(path))
	require.Zero(t, end())
	require.NoFileExists(t, path)

	end = start()
	require.NoError(t, os.Remove(path)) // by hand
	requireRefusal()
	require.Zero(t, end())

	foreign, err := net.Listen("unix", path)
	require.NoError(t, err)
	requireRefusal()
	require.FileExists(t, path)
	require.NoError(t, foreign.Close())
	require.Zero(t, start()())
}

// A child process has a copy of the lock until its exec. It must not keep the
// next program out.
func TestLockEndsWhileChildrenStart(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	var starters sync.WaitGroup
	for range 4 {
		starters.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command("true").Run()
				}
			}
		})
	}
	defer starters.Wait()
	defer close(stop)
	path := "unix:" + filepath.Join(shortDir(t), "socket")
	for range 200 {
		listener, err := listen(path)
		require.NoError(t, err)
		require.NoError(t, listener.Close())
	}
}

// ask returns an error unless a program answers on a Unix socket.
func ask(path string) error {
	client := clientOf(path)
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://webhooks.example.com/readyz")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Of programs that start at the same time after a kill, one listens.
func TestOneOfManyListens(t *testing.T) {
	t.Parallel()
	for range 20 {
		path := filepath.Join(shortDir(t), "socket")
		leaveSocket(t, path)
		listeners := make(chan net.Listener)
		const n = 8
		for range n {
			go func() {
				listener, _ := listen("unix:" + path)
				listeners <- listener
			}()
		}
		var one net.Listener
		for range n {
			if listener := <-listeners; listener != nil {
				require.Nil(t, one, "two programs listen")
				one = listener
			}
		}
		require.NotNil(t, one)
		conn, err := net.Dial("unix", path)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.NoError(t, one.Close())
		require.NoFileExists(t, path)
	}
}

// leaveSocket leaves a socket at path, as a program does that is killed. It never
// listens: a child process would have a copy of the listener until its exec.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	require.NoError(t, syscall.Close(fd))
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
