package mailtrapwebhook

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// No key can be made whose fingerprint is like another's in half of its bits, so that the fingerprints are given here.
func TestFingerprintsAreComparedWhole(t *testing.T) {
	d := NewMemoryDeduplicator(0, 0)
	_, err := d.Reserve(t.Context(), nil, time.Hour) // makes it ready
	require.NoError(t, err)
	alike := []fingerprint{{1, 1}, {1, 2}, {2, 1}, {1 | 1<<63, 1}, {1, 1 | 1<<63}}
	for i, key := range alike {
		require.Equal(t, Reserved, d.reserve(key, 0, time.Hour), i)
	}
	d.remove(d.find(alike[1]))
	for i, key := range alike {
		want := Held
		if i == 1 {
			want = Reserved
		}
		require.Equal(t, want, d.reserve(key, 0, time.Hour), i)
	}
}
