package mailtrapwebhook

import (
	"context"
	"errors"
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"time"
)

// A Deduplicator remembers which events were handled, so that one that Mailtrap delivers again is not handled again. A
// [Handler] that has one uses it so, once the signature holds and never before:
//
//  1. Reserve takes all keys of the delivery that are free. Only their events go to the callbacks.
//  2. Commit makes the keys of the events that were handled, or that failed for good, Handled.
//  3. Release frees the keys of the others, so that the retry may have them.
//
// Each is one call for a delivery, with at most as many keys as it has events. Keys are opaque, never empty, and of
// bounded length, but for the prefix that [Handler] puts before them where its Scope is set.
//
// # What it guarantees
//
// Delivery stays at least once: de-duplication makes a second handling rare, not impossible. The callback's effect and
// the Handled mark are two steps, and a process that dies between them leaves an event that was handled and is not
// marked; its retry is handled again. Only where both are written in one transaction, such as by a callback that
// inserts the key into a table with a unique index along with its own rows, are they one. Otherwise let the callback
// bear being repeated.
//
// # Implementing one
//
// [MemoryDeduplicator] serves one process. Several that receive the same webhook need a store that they share. It must
// be safe for concurrent use, by all its processes together: of any number of calls that reserve a free key, one gets
// it. Each key is decided by itself and in one atomic step, as by SET with NX in Redis or by INSERT with ON CONFLICT in
// SQL; the keys of a call need not be decided together.
//
// Every method must heed ctx, since Mailtrap waits 30 seconds and no longer, and must return an error if it cannot do
// its work. Reserve without an answer is answered 503, and Mailtrap tries again; a store must never answer Reserved in
// place of an error.
//
// Handled marks should outlast the retries of Mailtrap. It tries 40 times, every 5 minutes, which takes 3 hours and
// 20 minutes, and for inbound events 10 times over 24 hours. And since the signature covers no time, nothing else stops
// somebody who captured a request from sending it again later.
type Deduplicator interface {
	// Reserve tries to take each key, for the time of lease, and returns one [Reservation] for each, in their order. Any
	// mixture is possible, and none of them is an error: some keys Reserved, some Handled, some Held. Of equal keys in
	// one call the first may be Reserved and the others are Held.
	//
	// When lease is over and neither Commit nor Release came, the key is free again: the process that had it is gone. The
	// lease that [Handler] asks for is longer than it works on a delivery and ends before the next retry.
	//
	// With an error the answers are not read and no callback runs. Keys that were taken by then should be freed; those
	// that are not stay taken until their lease ends.
	Reserve(ctx context.Context, keys []string, lease time.Duration) ([]Reservation, error)

	// Commit makes each key Handled and remembers it from now on, whatever it was: reserved, no longer reserved since its
	// lease ended, reserved by another, Handled already, or never seen. The event was handled, and that is all that
	// counts.
	//
	// With an error some keys may be Handled and others not. The answer to Mailtrap stays as it is, since the work is
	// done; should the event come again after the lease, it is handled again.
	Commit(ctx context.Context, keys []string) error

	// Release frees each key that is reserved. It must never remove a Handled mark, and a key that is neither is no
	// error. It need not know whose the reservation is: [Handler] does not release what its lease no longer covers.
	//
	// With an error the keys stay taken until their lease ends.
	Release(ctx context.Context, keys []string) error
}

// Reservation is what [Deduplicator] answers for a key. The zero Reservation is no answer: the delivery is then answered
// 503 and comes again.
type Reservation int

const (
	Reserved Reservation = iota + 1 // free until now, and the caller's for the time of the lease
	Handled                         // handled before: a duplicate
	Held                            // being handled by another delivery now, which may yet fail
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

// What a [MemoryDeduplicator] keeps unless told otherwise. Three days outlast the longest retries, 24 hours, by enough
// for a webhook that was paused meanwhile.
const (
	defaultRetention = 72 * time.Hour
	defaultMaxKeys   = 1_000_000
)

// forever bounds the durations, so that adding them to the time cannot overflow.
const forever = 100 * 365 * 24 * time.Hour

var (
	errNilDeduplicator = errors.New("mailtrapwebhook: the *MemoryDeduplicator is nil:" +
		" make one with NewMemoryDeduplicator")
	errNoLease = errors.New("mailtrapwebhook: the lease is not positive: it would protect nothing")
)

// A MemoryDeduplicator is a [Deduplicator] in the memory of one process. It forgets everything when the process ends,
// and other processes do not see it. It is safe for concurrent use. The zero MemoryDeduplicator is ready to use and has
// the defaults of [NewMemoryDeduplicator]; a nil one returns errors. It must not be copied after its first use.
//
// A handled key is kept for the retention time, or until more than the maximum are kept: then the one whose commit is
// the oldest goes first. A key that is reserved is never evicted, whatever their number.
//
// Of a key, whatever its length, it keeps a fingerprint of 128 bits. With all that belongs to it that takes about 50 bytes,
// so that the default of 1,000,000 keys comes to 50 MB, which covers the default 72 hours at up to 3.8 events a second, and
// the 3 hours and 20 minutes of Mailtrap's retries at up to 83. With more the oldest are forgotten sooner. The memory of a
// key that is gone serves the next ones, and is given back when none is left.
type MemoryDeduplicator struct {
	retention time.Duration
	maxKeys   int

	mu    sync.Mutex
	start time.Time // of the first use, from which the marks count
	seeds [2]maphash.Seed
	slabs []*slab
	made  slot // slots of the slabs that are in use or free
	free  slot // the first of the free ones, which are linked by next; noSlot if there is none
	kept  int  // slots in handledList

	buckets int // of the slabs that are in use: two for each slot made
}

// A fingerprint stands for a key. Among a million keys two have the same with a chance of less than one in 10^26; that
// nobody can make it so is not maphash's to promise, but the keys of [Handler] are digests, which nobody can choose.
// Without a pointer and of one size, it takes less time and memory than the key, and none of the garbage collector's time.
type fingerprint [2]uint64

// A mark says of a key that it is handled or leased, and until when. It is in one of two circular lists.
type mark struct {
	key        fingerprint
	until      time.Duration // since the start: half the size of a time.Time, and a million add up
	prev, next slot          // in its list
	chain      slot          // next in its bucket
	handled    bool
}

// A slot is the number of the place that a mark is in.
type slot uint32

// A slab has places for marks and for twice as many buckets. There is another when these are full, so that nothing that
// is there ever has to be moved.
type slab struct {
	marks   [slabSize]mark
	buckets [2 * slabSize]slot // the first in each, the others being linked by chain; noSlot if there is none
}

const (
	leaseList   slot        = iota // head of the list of what is reserved, or was and has not been swept
	handledList                    // head of the list of what is handled, the oldest commit first
	noSlot      = leaseList        // which no key has

	slabSize   = 64
	spareSlots = 4096 // that are not given back
)

// NewMemoryDeduplicator returns a [MemoryDeduplicator] that remembers handled keys for the time of retention, and at
// most maxKeys of them. Where retention is zero or negative it is 72 hours; where maxKeys is, 1,000,000.
func NewMemoryDeduplicator(retention time.Duration, maxKeys int) *MemoryDeduplicator {
	return &MemoryDeduplicator{retention: retention, maxKeys: maxKeys}
}

// Reserve implements [Deduplicator]. If ctx is done or lease is not positive it returns an error and takes nothing.
func (d *MemoryDeduplicator) Reserve(
	ctx context.Context, keys []string, lease time.Duration,
) ([]Reservation, error) {
	if lease <= 0 {
		return nil, errNoLease
	}
	now, err := d.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	d.sweep(now, 2*len(keys))
	answers := make([]Reservation, len(keys))
	for i, key := range keys {
		answers[i] = d.reserve(d.fingerprint(key), now, now+min(lease, forever))
	}
	return answers, nil
}

func (d *MemoryDeduplicator) reserve(key fingerprint, now, until time.Duration) Reservation {
	at := d.find(key)
	switch {
	case at == noSlot || now >= d.mark(at).until:
		d.set(key, at, false, until)
		return Reserved
	case d.mark(at).handled:
		return Handled
	}
	return Held
}

// Commit implements [Deduplicator]. If ctx is done it returns its error and changes nothing.
func (d *MemoryDeduplicator) Commit(ctx context.Context, keys []string) error {
	now, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer d.mu.Unlock()
	for _, key := range keys {
		key := d.fingerprint(key)
		d.set(key, d.find(key), true, now+d.retention)
		if d.kept > d.maxKeys {
			d.remove(d.mark(handledList).next)
		}
	}
	return nil
}

// Release implements [Deduplicator]. If ctx is done it returns its error and changes nothing.
func (d *MemoryDeduplicator) Release(ctx context.Context, keys []string) error {
	if _, err := d.lock(ctx); err != nil {
		return err
	}
	defer d.mu.Unlock()
	for _, key := range keys {
		if at := d.find(d.fingerprint(key)); at != noSlot && !d.mark(at).handled {
			d.remove(at)
		}
	}
	return nil
}

// lock locks d, makes it ready and returns the time on its clock. With an error it is not locked.
func (d *MemoryDeduplicator) lock(ctx context.Context) (now time.Duration, err error) {
	if d == nil {
		return 0, errNilDeduplicator
	}
	d.mu.Lock()
	if err := ctx.Err(); err != nil { // asked under the lock, because waiting for it takes time
		d.mu.Unlock()
		return 0, err
	}
	if d.slabs == nil {
		d.init()
	}
	return time.Since(d.start), nil
}

func (d *MemoryDeduplicator) init() {
	if d.retention <= 0 {
		d.retention = defaultRetention
	}
	d.retention = min(d.retention, forever)
	if d.maxKeys <= 0 {
		d.maxKeys = defaultMaxKeys
	}
	d.maxKeys = min(d.maxKeys, math.MaxInt32) // since slots are numbers of 32 bits
	d.start = time.Now()
	d.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	d.clear()
}

// clear makes d empty.
func (d *MemoryDeduplicator) clear() {
	d.slabs, d.made, d.free, d.buckets = nil, 0, noSlot, 1
	for _, list := range []slot{leaseList, handledList} {
		d.takeSlot()
		d.mark(list).prev, d.mark(list).next = list, list
	}
}

// sweep removes ended marks, looking at no more than n of each list. Reserve calls it with two for each key that may
// come in, so that more go than come and a call's time depends on its own keys only.
func (d *MemoryDeduplicator) sweep(now time.Duration, n int) {
	for range n {
		at := d.mark(handledList).next
		if at == handledList || now < d.mark(at).until {
			break // they are in the order of their commits, so the rest ends later
		}
		d.remove(at)
	}
	for range n {
		at := d.mark(leaseList).next
		switch {
		case at == leaseList:
			return
		case now < d.mark(at).until: // leases differ in length, so one that lasts may stand before others that have ended
			d.unlink(at)
			d.link(at)
		default:
			d.remove(at)
		}
	}
}

// set gives a key a mark, in the slot that it has if it has one, and puts it at the end of its list.
func (d *MemoryDeduplicator) set(key fingerprint, at slot, handled bool, until time.Duration) {
	if at != noSlot {
		d.unlink(at)
	} else {
		at = d.takeSlot()
		d.mark(at).key = key
		d.putIntoBucket(at)
	}
	m := d.mark(at)
	m.handled, m.until = handled, until
	d.link(at)
}

func (d *MemoryDeduplicator) remove(at slot) {
	d.unlink(at)
	d.takeOutOfBucket(at)
	d.mark(at).next, d.free = d.free, at
	if d.made > spareSlots && d.mark(leaseList).next == leaseList && d.mark(handledList).next == handledList {
		d.clear()
	}
}

func (d *MemoryDeduplicator) fingerprint(key string) fingerprint {
	return fingerprint{maphash.String(d.seeds[0], key), maphash.String(d.seeds[1], key)}
}

func (d *MemoryDeduplicator) mark(at slot) *mark { return &d.slabs[at/slabSize].marks[at%slabSize] }

func (d *MemoryDeduplicator) takeSlot() slot {
	if at := d.free; at != noSlot {
		d.free = d.mark(at).next
		return at
	}
	if d.made%slabSize == 0 {
		d.slabs = append(d.slabs, new(slab))
	}
	d.made++
	return d.made - 1
}

func (d *MemoryDeduplicator) unlink(at slot) {
	m := d.mark(at)
	d.mark(m.prev).next, d.mark(m.next).prev = m.next, m.prev
	if m.handled {
		d.kept--
	}
}

// link puts a mark at the end of its list.
func (d *MemoryDeduplicator) link(at slot) {
	m, list := d.mark(at), leaseList
	if m.handled {
		list = handledList
		d.kept++
	}
	head := d.mark(list)
	m.prev, m.next = head.prev, list
	d.mark(head.prev).next, head.prev = at, at
}

// # Buckets
//
// The slot of a key is found by linear hashing. Buckets are made along with the slots, and what a new one takes over stands
// in one other, so that no call has to move all keys at once. (A map from fingerprints to slots would be shorter, and take
// more memory and time.)

// bucketOf returns the first slot in the bucket of a key. Its number is the lowest bits of the key: as many as there are in
// the highest number, or one fewer where that would be a bucket that is still to be made.
func (d *MemoryDeduplicator) bucketOf(key fingerprint) (first *slot) {
	last := uint64(d.buckets - 1)
	mask := uint64(1)<<bits.Len64(last) - 1
	number := key[0] & mask
	if number > last {
		number &= mask >> 1
	}
	return d.bucket(number)
}

func (d *MemoryDeduplicator) bucket(number uint64) (first *slot) {
	return &d.slabs[number/(2*slabSize)].buckets[number%(2*slabSize)]
}

// find returns the slot of a key, noSlot if it has none.
func (d *MemoryDeduplicator) find(key fingerprint) slot {
	at := *d.bucketOf(key)
	for at != noSlot && d.mark(at).key != key {
		at = d.mark(at).chain
	}
	return at
}

func (d *MemoryDeduplicator) putIntoBucket(at slot) {
	for d.buckets < 2*int(d.made) {
		d.addBucket()
	}
	m := d.mark(at)
	first := d.bucketOf(m.key)
	m.chain, *first = *first, at
}

func (d *MemoryDeduplicator) takeOutOfBucket(at slot) {
	m := d.mark(at)
	link := d.bucketOf(m.key)
	for *link != at {
		link = &d.mark(*link).chain
	}
	*link = m.chain
}

// addBucket adds a bucket and moves there what now belongs there, which stands in the bucket of the same number but for
// the highest bit.
func (d *MemoryDeduplicator) addBucket() {
	number := uint64(d.buckets)
	d.buckets++
	added := d.bucket(number)
	link := d.bucket(number - 1<<(bits.Len64(number)-1))
	for *link != noSlot {
		at := *link
		m := d.mark(at)
		if d.bucketOf(m.key) != added {
			link = &m.chain
			continue
		}
		*link = m.chain
		m.chain, *added = *added, at
	}
}
