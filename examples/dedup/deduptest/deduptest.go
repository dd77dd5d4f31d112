// Package deduptest tests implementations of [mailtrapwebhook.Deduplicator]:
// call [Run] in a test of your own. It tests what the interface's documentation
// asks for. It also tests that a call takes one round trip, whatever the number
// of keys.
//
// [mailtrapwebhook.MemoryDeduplicator] passes the tests that apply to it.
package deduptest

import (
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// The answers.
const (
	reserved = mailtrapwebhook.Reserved
	handled  = mailtrapwebhook.Handled
	held     = mailtrapwebhook.Held

	long = time.Hour        // outlasts every test
	soon = 30 * time.Second // bounds the wait for what happens at once, on a busy machine
)

// A Store is an empty store and what a test can do to it. A nil function means
// that the store does not support it.
type Store struct {
	// Replica returns a Deduplicator with connections of its own, as another
	// process has. close must drop the connections and tell the store nothing,
	// as a killed process does. It must also be called when the test ends.
	Replica func(t *testing.T) (d mailtrapwebhook.Deduplicator, close func())

	// Count returns the number of marks in the store, expired ones included.
	Count func(t *testing.T) int

	// Hold makes the store answer nobody until resume is called.
	Hold func(t *testing.T) (resume func())

	// RoundTrips returns the number of round trips of all replicas so far.
	RoundTrips func() int

	// Kill ends the store's server as a crash does, and Start starts it again.
	Kill, Start func(t *testing.T)

	// OwnClock is true if the store uses its own clock and not the replicas'.
	OwnClock bool
}

// Run tests the stores that open returns. Each must remember handled keys for
// retention. Run skips tests that a store does not support.
func Run(t *testing.T, open func(t *testing.T, retention time.Duration) Store) {
	tests := []struct {
		name      string
		retention time.Duration
		test      func(t *testing.T, s Store)
	}{
		{"reserve, commit and release", long, testSteps},
		{"keys of any bytes", long, testOddKeys},
		{"ten thousand keys in a call", long, testLargeBatch},
		{"one of many concurrent calls reserves a key", long, testOneGetsIt},
		{"a reserved key has one owner", long, testExclusion},
		{"concurrent calls do not deadlock", time.Millisecond, testChurn},
		{"a lease ends", long, testLeaseEnds},
		{"many leases end at once", long, testManyLeasesEnd},
		{"a handled mark ends", 300 * time.Millisecond, testRetentionEnds},
		{"a replica dies between reserve and commit", long, testReplicaDies},
		{"expired marks are removed", time.Millisecond, testRemoval},
		{"an ended context", long, testEndedContext},
		{"a context ends during a call", long, testContextEnds},
		{"one round trip a call", long, testRoundTrips},
		{"the server restarts", long, testRestart},
		{"a replica's clock is wrong", long, testWrongClock},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, open(t, tt.retention)) })
	}
}
