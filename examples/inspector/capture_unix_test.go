//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAWriteThatFailsInTheMiddleLeavesNoFile limits the size of files, which
// ends a write as a full disk does.
func TestAWriteThatFailsInTheMiddleLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	in := newTestInspector(t, listenOptions{secrets: []string{testSecret}, dir: dir})
	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old))
	signal.Ignore(syscall.SIGXFSZ) // it would end the process
	defer signal.Reset(syscall.SIGXFSZ)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 5000, Max: old.Max}))
	w := &headerWatcher{onHeader: func() {}}
	in.receive(w, signedRequest(fill(sampleBody("open"), 100_000)))
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old))

	require.Equal(t, 503, w.status)
	require.Equal(t, "the capture cannot be written: file too large", in.store.get(1).answer.err)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}
