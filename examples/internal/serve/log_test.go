package serve

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLogOptions(t *testing.T) {
	var warned bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewTextHandler(&warned, nil)))

	for text, want := range map[string]slog.Level{
		"": slog.LevelInfo, "debug": slog.LevelDebug, "WARN": slog.LevelWarn, "error": slog.LevelError,
	} {
		t.Setenv(levelVariable, text)
		require.Equal(t, want, LogOptions().Level, text)
	}
	require.Empty(t, warned.String())

	t.Setenv(levelVariable, "verbose")
	require.Equal(t, slog.LevelInfo, LogOptions().Level)
	require.Contains(t, warned.String(), `msg="MAILTRAP_LOG_LEVEL names no level: make it debug, info, warn or error" value=verbose`)
}
