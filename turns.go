package mailtrapwebhook

import (
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
)

// turns remembers where the next attempt of a repeated delivery begins. A
// delivery that began in the same place each time would spend its time on the
// same slow events, and never reach the others.
type turns struct {
	mu     sync.Mutex
	places map[uint64]int
}

// maxTurns bounds the memory for deliveries that do not come again. Far fewer
// are ever under way.
const maxTurns = 1000

var turnSeed = maphash.MakeSeed()

// turnID identifies a delivery by its signature, which repeats with the body.
// It is a hash, so that no way of printing a Handler shows a signature.
func turnID(signature string) uint64 {
	return maphash.String(turnSeed, strings.ToLower(signature))
}

// order returns the items in the order of this attempt.
func (t *turns) order(id uint64, items []*item) []*item {
	from := t.of(id)
	first := slices.IndexFunc(items, func(it *item) bool { return it.place >= from })
	if first <= 0 {
		return items
	}
	return slices.Concat(items[first:], items[:first])
}

// note decides where the next attempt begins, after c has made the calls for
// the items.
func (t *turns) note(id uint64, c *calls, items []*item) {
	hasCut, hasNext := c.cut < c.n, c.next < c.n
	wentRound := hasNext && items[c.next].place < t.of(id)
	next := c.next
	if hasCut && (!hasNext || wentRound) {
		// Every event has had a turn, and some too short a turn. Begin with any of
		// these: each fixed step has numbers of events with which the same calls
		// come last in every round.
		next = c.cut + rand.IntN(c.n-c.cut)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if next == c.n {
		delete(t.places, id)
		return
	}
	if len(t.places) >= maxTurns || t.places == nil {
		t.places = make(map[uint64]int)
	}
	t.places[id] = items[next].place
}

func (t *turns) of(id uint64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.places[id]
}
