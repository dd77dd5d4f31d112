package serve

import (
	"log/slog"
	"os"
)

// levelVariable is the environment variable with the level of the log. At debug
// a Handler logs a line for each request, even if all is well.
const levelVariable = "MAILTRAP_LOG_LEVEL"

// LogOptions returns the options of a program's log. Its level is that of
// levelVariable, or Info.
func LogOptions() *slog.HandlerOptions {
	level := slog.LevelInfo
	if text := os.Getenv(levelVariable); text != "" {
		if err := level.UnmarshalText([]byte(text)); err != nil {
			slog.Warn(levelVariable+" names no level: make it debug, info, warn or error", "value", text)
		}
	}
	return &slog.HandlerOptions{Level: level}
}
