package main

import (
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// maxStored bounds the deliveries in memory.
const maxStored = 64 << 20

// A store keeps the newest deliveries in memory and tells subscribers of each
// change. It is safe for concurrent use.
type store struct {
	max int // bytes
	hub hub

	mu         sync.Mutex
	deliveries []*delivery // by id
	bytes      int
	strangers  int // bytes of the deliveries that do not verify
	lastID     int
	changes    uint64
}

func newStore() *store { return &store{max: maxStored} }

// nextID returns the id of the next delivery.
func (s *store) nextID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	return s.lastID
}

// size returns about what a capture takes in memory.
func (c *capture) size() int {
	size := len(c.target) + len(c.host) + len(c.body) + len(c.answer.body) + 1024
	for _, header := range []map[string][]string{c.header, c.answer.header} {
		for name, values := range header {
			size += len(name) + 64
			for _, value := range values {
				size += len(value) + 16 // an empty value takes memory too
			}
		}
	}
	return size
}

func (d *delivery) size() int {
	return d.capture.size() + len(d.content.search) + 64*len(d.content.kinds)
}

// add adds a delivery, or replaces that of the same id. It drops the oldest
// where memory is short.
func (s *store) add(d *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID = max(s.lastID, d.id)
	s.changes++
	d.change = s.changes
	at, found := s.find(d.id)
	if found {
		s.count(s.deliveries[at], -1)
		s.deliveries[at] = d
	} else {
		s.deliveries = slices.Insert(s.deliveries, at, d) // nearly always at the end
	}
	s.count(d, 1)
	s.makeRoom()
	s.hub.publish(deliveryMessage(d))
}

func (s *store) count(d *delivery, sign int) {
	s.bytes += sign * d.size()
	if d.verdict.verified == verifiedNo {
		s.strangers += sign * d.size()
	}
}

// makeRoom drops the oldest deliveries that are too many. Those that do not
// verify get at most half of the memory: a tunnel lets everybody in, and must
// not let them push out the rest.
func (s *store) makeRoom() {
	for s.bytes > s.max && len(s.deliveries) > 1 {
		oldest := 0
		if s.strangers > s.max/2 {
			oldest = slices.IndexFunc(s.deliveries, func(d *delivery) bool {
				return d.verdict.verified == verifiedNo
			})
		}
		s.count(s.deliveries[oldest], -1)
		s.deliveries = slices.Delete(s.deliveries, oldest, oldest+1)
	}
}

// find returns the place of the delivery with that id, or where it would be.
func (s *store) find(id int) (at int, found bool) {
	return sort.Find(len(s.deliveries), func(i int) int { return id - s.deliveries[i].id })
}

// get returns the delivery with that id, or nil.
func (s *store) get(id int) *delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, found := s.find(id); found {
		return s.deliveries[at]
	}
	return nil
}

// A filter tells which deliveries are wanted.
type filter struct {
	kinds    []string  // any of them; all if there is none
	q        string    // in lower case
	verified string    // "" for all
	status   int       // 0 for all
	not200   bool      // answered, but not 200
	since    time.Time // the zero time for all
	until    time.Time // not itself; the zero time for all
	before   int       // an id, or 0
	limit    int
}

func (f *filter) matches(d *delivery) bool {
	switch {
	case f.verified != "" && d.verdict.verified != f.verified,
		f.status != 0 && d.answer.status != f.status,
		f.not200 && (d.answer.status == 200 || !d.answer.isGiven()),
		d.receivedAt.Before(f.since),
		!f.until.IsZero() && !d.receivedAt.Before(f.until),
		!strings.Contains(d.content.search, f.q):
		return false
	}
	return len(f.kinds) == 0 || slices.ContainsFunc(f.kinds, func(kind string) bool {
		return d.content.kinds[kind] > 0
	})
}

// list returns the deliveries that match, newest first, and how many match on
// all pages.
func (s *store) list(f filter) (page []*delivery, total int, more bool) {
	s.mu.Lock()
	all := slices.Clone(s.deliveries) // the search must not hold up deliveries
	s.mu.Unlock()
	for _, d := range slices.Backward(all) {
		if !f.matches(d) {
			continue
		}
		total++
		switch {
		case f.before != 0 && d.id >= f.before:
		case len(page) < f.limit:
			page = append(page, d)
		default:
			more = true
		}
	}
	return page, total, more
}

// subscribe returns the deliveries that have changed since a change, oldest
// first, and a subscription to what happens from then on.
func (s *store) subscribe(since uint64) ([]*delivery, *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var missed []*delivery
	for _, d := range s.deliveries {
		if d.change > since {
			missed = append(missed, d)
		}
	}
	return missed, s.hub.subscribe()
}

// lastChange returns the number of the last change.
func (s *store) lastChange() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}
