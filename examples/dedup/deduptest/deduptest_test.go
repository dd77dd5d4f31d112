package deduptest_test

import (
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/deduptest"
)

// MemoryDeduplicator passes, as far as a store without a server can, so that what the tests ask for is right.
func TestMemoryDeduplicator(t *testing.T) {
	deduptest.Run(t, func(_ *testing.T, retention time.Duration) deduptest.Store {
		d := &mailtrapwebhook.MemoryDeduplicator{Retention: retention}
		return deduptest.Store{
			Replica: func(*testing.T) (mailtrapwebhook.Deduplicator, func()) { return d, func() {} },
		}
	})
}
