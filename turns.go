package mailtrapwebhook

import (
	"strings"
	"sync"
)

// turns remembers of deliveries that are repeated where the next attempt
// begins. A delivery that began in the same place each time would spend its
// time on the same slow events, and never reach the others.
type turns struct {
	mu     sync.Mutex
	places map[string]int // by the delivery's id
}

// maxTurns bounds the memory for deliveries that do not come again. Far fewer
// are ever under way.
const maxTurns = 1000

func (t *turns) of(id string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.places[id]
}

func (t *turns) set(id string, place int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.places) >= maxTurns || t.places == nil {
		t.places = make(map[string]int)
	}
	t.places[strings.Clone(id)] = place // id may be part of all the request's headers
}

func (t *turns) forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.places, id)
}
