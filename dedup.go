package mailtrapwebhook

import (
	"context"
	"time"
)

// A Deduplicator remembers which events were handled, so that a retry does not
// handle them again. [Handler] calls it only for a delivery whose signature is
// valid, in this order:
//
//  1. Reserve, once, with the key of every event. Only events whose key is
//     Reserved reach the callbacks.
//  2. Commit, with the keys of events that were handled or dropped. A slow
//     delivery calls it about once a second, each time for what has finished.
//  3. Release, with the keys of events that failed, so that the retry handles
//     them: before the answer, and again when abandoned callbacks return.
//
// Keys are opaque and never empty. Every key is of bounded length, except for
// the prefix that Handler.Scope adds. The keys of a delivery share one text:
// clone a key that you keep in memory.
//
// # Guarantees
//
// Events are delivered at least once. De-duplication makes a second call rare,
// not impossible: a process that dies after a callback and before its Commit
// handles the event again. To handle an event exactly once, insert its key
// into a table with a unique index, in the transaction that holds the
// callback's own changes. Otherwise write callbacks that may run twice.
//
// # Implementing a Deduplicator
//
// [MemoryDeduplicator] serves one process. Processes that receive the same
// webhook need a store that they share. Its methods must be safe for
// concurrent use by all of them. Decide each key atomically, as SET NX in Redis
// or INSERT … ON CONFLICT in SQL do. When several calls reserve a free key, one
// of them gets it. The keys of one call need not be decided together.
//
// Every method must return when ctx ends, because Mailtrap waits 30 seconds.
// It must return an error if it could not do its work. After an error from
// Reserve the Handler answers 503 and Mailtrap tries again. A store must never
// answer Reserved in place of an error.
//
// Remember handled keys for longer than Mailtrap retries. It tries 40 times,
// every 5 minutes, and inbound events 10 times over 24 hours. Longer is better:
// a signature covers no time, so a captured request can be replayed until the
// secret is reset.
type Deduplicator interface {
	// Reserve tries to take each key for the duration of lease. It returns one
	// [Reservation] for each key, in the order of keys. The answers may be
	// mixed: a Held or Handled key is no error. If keys holds a free key twice,
	// the first is Reserved and the second is Held.
	//
	// When a lease ends without Commit or Release, the key is free again: its
	// process has gone. [Handler] asks for a lease that is longer than it works
	// on a delivery, of up to 88 seconds. The next retry comes after 5 minutes.
	// The first one of an inbound event may come earlier, and is then Held.
	//
	// After an error the Handler ignores the answers and calls no callback. The
	// store should free the keys that it took. The others stay taken until
	// their lease ends.
	Reserve(ctx context.Context, keys []string, lease time.Duration) ([]Reservation, error)

	// Commit makes each key Handled from now on. It must do so for any key:
	// reserved, reserved by another delivery, free because its lease has ended,
	// Handled already, or never seen. The event was handled, and only that
	// counts.
	//
	// After an error some keys may be Handled and others not. Mailtrap's answer
	// does not change, because the work is done. If such an event comes again
	// after its lease, it is handled again.
	Commit(ctx context.Context, keys []string) error

	// Release frees each key that is reserved. It must not remove a Handled
	// mark, and must accept a key that it does not know. It need not check
	// whose the reservation is: [Handler] releases no key whose lease has
	// ended.
	//
	// After an error the keys stay taken until their lease ends.
	Release(ctx context.Context, keys []string) error
}

// A Reservation is a [Deduplicator]'s answer for one key. The zero Reservation
// is no answer: the Handler replies 503 to it and Mailtrap tries again.
type Reservation int

const (
	Reserved Reservation = iota + 1 // it was free; now yours for the lease
	Handled                         // it was committed: a duplicate
	Held                            // another delivery has it
)

// String returns "Reserved", "Handled", "Held" or "unknown".
func (r Reservation) String() string {
	switch r {
	case Reserved:
		return "Reserved"
	case Handled:
		return "Handled"
	case Held:
		return "Held"
	}
	return "unknown"
}

// NoDedup turns de-duplication off: set it as Handler.Dedup. It answers Reserved
// for every key and remembers nothing, so every retry and every replayed request
// reaches the callbacks again.
var NoDedup Deduplicator = noDedup{}

// noDedup has no fields, so that values of it are equal and comparable.
type noDedup struct{}

func (noDedup) Reserve(_ context.Context, keys []string, _ time.Duration) ([]Reservation, error) {
	answers := make([]Reservation, len(keys))
	for i := range answers {
		answers[i] = Reserved
	}
	return answers, nil
}

func (noDedup) Commit(context.Context, []string) error { return nil }

func (noDedup) Release(context.Context, []string) error { return nil }
