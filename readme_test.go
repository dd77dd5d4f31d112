package mailtrapwebhook_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whoever copies a program from the README must get one that compiles and does not handle retries twice.
func TestProgramsInREADMECompileAndSetDedup(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	programs := 0
	for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		if !strings.HasPrefix(block[1], "package main") {
			continue
		}
		programs++
		require.Contains(t, block[1], "Dedup:")
		file := filepath.Join(t.TempDir(), "main.go")
		require.NoError(t, os.WriteFile(file, []byte(block[1]), 0o600))
		out, err := exec.Command("go", "vet", file).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	require.Positive(t, programs)
}
