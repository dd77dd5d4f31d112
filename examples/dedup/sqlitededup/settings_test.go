package sqlitededup

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Without these settings, everything works until the power fails or two
// processes meet.
func TestSettings(t *testing.T) {
	d, err := Open(t.Context(), filepath.Join(t.TempDir(), "dedup.db"), 0)
	require.NoError(t, err)
	defer d.Close()
	for name, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": "30000"} {
		var got string
		require.NoError(t, d.db.QueryRow("PRAGMA "+name).Scan(&got))
		require.Equal(t, want, got, name)
	}
}

// SQLite answers a setting that it cannot make with another one, and no error.
func TestOpenChecksSettings(t *testing.T) {
	d, err := Open(t.Context(), ":memory:", 0)
	require.ErrorContains(t, err, `journal_mode is "memory" and not "wal"`)
	require.Nil(t, d)
}
