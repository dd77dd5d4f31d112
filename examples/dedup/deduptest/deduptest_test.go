package deduptest_test

import (
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/deduptest"
)

// MemoryDeduplicator passes the tests for a store without a server, so the
// tests ask for the right things.
func TestMemoryDeduplicator(t *testing.T) {
	deduptest.Run(t, func(_ *testing.T, retention time.Duration) deduptest.Store {
		d := &mailtrapwebhook.MemoryDeduplicator{Retention: retention}
		return deduptest.Store{
			Replica: func(*testing.T) (mailtrapwebhook.Deduplicator, func()) { return d, func() {} },
		}
	})
}
