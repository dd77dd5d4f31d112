package mailtrapwebhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"time"
)

const (
	defaultRetention = 72 * time.Hour // Mailtrap retries for at most 24 hours; the rest covers a paused webhook
	defaultMaxKeys   = 500_000
	fewLeases        = 4096 // so few, at 40 bytes each, are not worth a sweep
)

var errNoLease = errors.New("mailtrapwebhook: the lease is not positive: reserve keys for as long as a delivery takes")

// A MemoryDeduplicator is a [Deduplicator] in the memory of one process. The
// zero value is ready to use. It is safe for concurrent use. It must not be
// copied after first use, and its fields must not change.
//
// It remembers a handled key for at least Retention, unless more than MaxKeys
// other keys were committed after it. It forgets the key after at most twice
// Retention, or twice MaxKeys other keys. A reserved key stays reserved until
// its lease ends, however many there are. When the process ends, every key is
// forgotten.
//
// It takes 70 to 120 bytes for each of MaxKeys, whatever the length of the keys:
// 56 MB by default. That remembers the last 72 hours at up to 1.9 events a
// second. It remembers the 3 hours and 20 minutes of Mailtrap's retries at up to
// 41 events a second.
type MemoryDeduplicator struct {
	Retention time.Duration // zero means 72 hours
	MaxKeys   int           // zero means 500,000

	mu    sync.Mutex
	start time.Time // of the first use; every other time counts from it
	seeds [2]maphash.Seed

	// Commit adds to the young generation. rotate makes it the old one, and
	// forgets the old one whole: no key needs a time or a place in a queue.
	young, old map[uint64]uint64 // fingerprints, by their first half
	began      time.Duration     // when the young generation began

	leases  map[uint64]time.Duration // when each ends, by the first half
	sweepAt int                      // how many leases make reserve look for ended ones
}

// A fingerprint stands for a key. Two of a million keys have the same one with a
// chance below 1 in 10^26. maphash is not collision resistant, but an
// attacker does not know the seeds.
//
// Without pointers in the maps, garbage collection skips them. With a million
// strings it takes 20 times as long. Maps with integers as keys take a seventh
// less time. Where the first halves of two keys are equal, the earlier key is
// forgotten, or the later one is held: neither loses an event.
type fingerprint struct{ first, second uint64 }

// Reserve implements [Deduplicator]. It takes no key if ctx has ended or if
// lease is not positive.
func (d *MemoryDeduplicator) Reserve(ctx context.Context, keys []string, lease time.Duration) ([]Reservation, error) {
	if lease <= 0 {
		return nil, errNoLease
	}
	now, err := d.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	end := now + min(lease, math.MaxInt64-now) // the sum must not overflow
	answers := make([]Reservation, len(keys))
	for i, key := range keys {
		answers[i] = d.reserve(d.fingerprint(key), now, end)
	}
	return answers, nil
}

func (d *MemoryDeduplicator) reserve(key fingerprint, now, end time.Duration) Reservation {
	if d.young[key.first] == key.second || d.old[key.first] == key.second {
		return Handled
	}
	if now < d.leases[key.first] {
		return Held
	}
	if len(d.leases) >= d.sweepAt {
		d.sweep(now)
	}
	d.leases[key.first] = end
	return Reserved
}

// Commit implements [Deduplicator]. It changes nothing if ctx has ended.
func (d *MemoryDeduplicator) Commit(ctx context.Context, keys []string) error {
	now, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer d.mu.Unlock()
	for _, key := range keys {
		d.commit(d.fingerprint(key), now)
	}
	return nil
}

func (d *MemoryDeduplicator) commit(key fingerprint, now time.Duration) {
	// Only a new key may rotate: the keys that are forgotten then have MaxKeys
	// others after them, and this one.
	if len(d.young) >= cmp.Or(d.MaxKeys, defaultMaxKeys) {
		if d.young[key.first] != key.second {
			d.rotate(now)
		}
	}
	d.young[key.first] = key.second
	delete(d.leases, key.first)
}

// Release implements [Deduplicator]. It changes nothing if ctx has ended.
func (d *MemoryDeduplicator) Release(ctx context.Context, keys []string) error {
	if _, err := d.lock(ctx); err != nil {
		return err
	}
	defer d.mu.Unlock()
	for _, key := range keys {
		delete(d.leases, d.fingerprint(key).first)
	}
	return nil
}

// lock locks d, turns its generations as time demands, and returns the time on
// its clock. After an error d is not locked.
func (d *MemoryDeduplicator) lock(ctx context.Context) (now time.Duration, err error) {
	if err := d.validate(); err != nil {
		return 0, err
	}
	d.mu.Lock()
	if err := ctx.Err(); err != nil { // checked under the lock, since waiting for it takes time
		d.mu.Unlock()
		return 0, err
	}
	if d.start.IsZero() {
		d.start = time.Now()
		d.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
		d.rotate(0)
	}
	now = time.Since(d.start)
	retention := cmp.Or(d.Retention, defaultRetention)
	// A generation begins when it was due, not with this call: otherwise the
	// old keys would outlive twice Retention.
	if now-d.began >= retention {
		d.rotate(d.began + retention)
	}
	if now-d.began >= retention { // no call for so long that both generations are over
		d.rotate(now)
	}
	return now, nil
}

// validate reports the settings with which every method fails.
func (d *MemoryDeduplicator) validate() error {
	switch {
	case d == nil:
		return errors.New("mailtrapwebhook: the *MemoryDeduplicator is nil: use new(MemoryDeduplicator)")
	case d.Retention < 0:
		return fmt.Errorf("mailtrapwebhook: MemoryDeduplicator.Retention is %v:"+
			" set a positive duration, or 0 for 72 hours", d.Retention)
	case d.MaxKeys < 0:
		return fmt.Errorf("mailtrapwebhook: MemoryDeduplicator.MaxKeys is %d:"+
			" set a positive number, or 0 for 500,000", d.MaxKeys)
	}
	return nil
}

func (d *MemoryDeduplicator) fingerprint(key string) fingerprint {
	// A second half of 0 would be that of a key which is in no map.
	return fingerprint{maphash.String(d.seeds[0], key), maphash.String(d.seeds[1], key) | 1}
}

// rotate begins a generation. Its time does not depend on the number of keys,
// because the garbage collector frees a map without looking at its keys.
func (d *MemoryDeduplicator) rotate(began time.Duration) {
	d.young, d.old = make(map[uint64]uint64), d.young
	d.began = began
	d.sweepAt = 0 // the next Reserve sweeps, which also returns the memory of a flood
}

// sweep removes the leases that ended without Commit or Release, such as those
// of callbacks that hang.
func (d *MemoryDeduplicator) sweep(now time.Duration) {
	// A map does not shrink, so keep what is left in a new one.
	current := make(map[uint64]time.Duration)
	for key, end := range d.leases {
		if now < end {
			current[key] = end
		}
	}
	d.leases = current
	// Sweeping again when their number has doubled looks at each lease about
	// once.
	d.sweepAt = max(fewLeases, 2*len(current))
}
