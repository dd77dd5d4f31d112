package mailtrapwebhook_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	reserved = mw.Reserved
	handled  = mw.Handled
	held     = mw.Held
)

func TestReservationString(t *testing.T) {
	for want, r := range map[string]mw.Reservation{"Reserved": reserved, "Handled": handled, "Held": held, "unknown": 0} {
		require.Equal(t, want, r.String())
	}
	require.Equal(t, "unknown", mw.Reservation(4).String())
}

func TestNoDedupRemembersNothing(t *testing.T) {
	keys := []string{"a", "b", "a"}
	want := []mw.Reservation{reserved, reserved, reserved}
	reserve := func() {
		t.Helper()
		got, err := mw.NoDedup.Reserve(t.Context(), keys, time.Hour)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(want, got))
	}
	reserve()
	reserve()
	require.NoError(t, mw.NoDedup.Commit(t.Context(), keys))
	reserve()
	require.NoError(t, mw.NoDedup.Release(t.Context(), keys))
	reserve()
}

// An uncomparableStore panics when two values of its type are compared.
type uncomparableStore struct {
	mw.Deduplicator
	_ []byte
}

func TestNoDedupCanBeCompared(t *testing.T) {
	same := mw.NoDedup
	require.True(t, same == mw.NoDedup)
	for _, other := range []mw.Deduplicator{
		nil, new(mw.MemoryDeduplicator), uncomparableStore{Deduplicator: mw.NoDedup},
	} {
		require.False(t, other == mw.NoDedup, "%T", other)
	}
}
