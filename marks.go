package mailtrapwebhook

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// storeCalls makes the calls of a store for one delivery, each within a time
// limit. An error of a store changes nothing of what is answered once the
// callbacks have run: their work is done.
type storeCalls struct {
	dedup Deduplicator // nil: no de-duplication
	log   requestLog

	lease time.Time // when the reservations end

	// busy is held by whoever calls commit or release. It is a channel, since
	// a mutex that is held over a call stops the fake clock of a synctest.
	busy     chan struct{}
	answerBy time.Time // when the answer is due; zero when it has been given
}

func (s *storeCalls) lock()   { s.busy <- struct{}{} }
func (s *storeCalls) unlock() { <-s.busy }

// reserve returns one answer for each key.
func (s *storeCalls) reserve(ctx context.Context, keys []string, lease time.Duration) ([]Reservation, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	s.lease = time.Now().Add(lease)
	var answers []Reservation // read only after the call has returned
	err := inTime(ctx, func(ctx context.Context) (err error) {
		answers, err = s.dedup.Reserve(ctx, keys, lease)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(answers) != len(keys) {
		return nil, fmt.Errorf("Reserve returned %d reservations for %d keys: let it return one for each key",
			len(answers), len(keys))
	}
	return answers, nil
}

// commit reports whether the store has marked the keys.
func (s *storeCalls) commit(keys []string) bool {
	return s.call("Commit failed, so events may be handled again", keys, s.dedup.Commit)
}

// release frees the keys unless their lease has ended. After that another
// delivery may own them.
func (s *storeCalls) release(keys []string) {
	if !time.Now().Before(s.lease) {
		return // a callback came so late that the retry may be at work
	}
	held := "Release failed, so events stay held for " + time.Until(s.lease).Round(time.Second).String()
	s.call(held, keys, func(ctx context.Context, keys []string) error {
		ctx, cancel := context.WithDeadline(ctx, s.lease)
		defer cancel()
		return s.dedup.Release(ctx, keys)
	})
}

func (s *storeCalls) call(failure string, keys []string, f func(context.Context, []string) error) bool {
	timeout := storeTimeout
	if left := time.Until(s.answerBy); left > 0 {
		timeout = min(timeout, left/2) // the other half is for the call after this one
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.log.ctx), timeout)
	defer cancel()
	err := inTime(ctx, func(ctx context.Context) error { return f(ctx, keys) })
	if err != nil {
		s.log.panicked(err)
		s.log.line(slog.LevelError, "Dedup."+failure+": check the store",
			"events", len(keys), "first_key", keys[0], "err", textOf(err))
	}
	return err == nil
}

// answered lifts the limit that the answer sets to the calls.
func (s *storeCalls) answered() {
	s.lock()
	defer s.unlock()
	s.answerBy = time.Time{}
}

// markSoon has the store told of what is handled, at most markEvery after the
// time before. A process that is killed repeats no more than that.
func (b *batch) markSoon() {
	if b.store.dedup == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.marking != nil {
		return
	}
	if wait := time.Until(b.marked.Add(markEvery)); wait > 0 {
		b.marking = time.AfterFunc(wait, b.tellStore).Stop
		return
	}
	b.marking = func() bool { return false }
	go b.tellStore() // not in the caller's way, which may be a worker's
}

// tellStore tells the store what has become of the events since the last time.
func (b *batch) tellStore() {
	if b.store.dedup == nil {
		return
	}
	b.store.lock() // held over the calls, so that no two overlap
	defer b.store.unlock()
	done, undone := b.untold() // under the lock, or two calls could tell the same
	if len(done) > 0 && !b.store.commit(keysOf(done)) {
		b.forget(done)
		b.markAgain()
	}
	if len(undone) > 0 {
		b.store.release(keysOf(undone)) // if that fails, the leases end by themselves
	}
}

// untold returns what the store does not know yet. Failed events wait for the
// end, so that one Release frees them all.
func (b *batch) untold() (done, undone []*item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marking = nil
	for i := range b.items {
		it := &b.items[i]
		if it.key == "" || it.told == it.result {
			continue
		}
		switch it.result {
		case handled, dropped:
			done = append(done, it)
			it.told = it.result
		case failed, unstarted:
			if b.final != nil && it.running == 0 {
				undone = append(undone, it)
				it.told = it.result
			}
		}
	}
	if len(done) > 0 || len(undone) > 0 {
		b.marked = time.Now()
	}
	return done, undone
}

// forget takes back that the store was told of the items.
func (b *batch) forget(items []*item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, it := range items {
		it.told = 0
	}
}

// markAgain tries once more while the callbacks go on.
func (b *batch) markAgain() {
	b.mu.Lock()
	ended := b.final != nil
	b.mu.Unlock()
	if !ended {
		b.markSoon()
	}
}

func keysOf(items []*item) []string {
	keys := make([]string, len(items))
	for i, it := range items {
		keys[i] = it.key
	}
	return keys
}
