package mailtrapwebhook

import (
	"context"
	"errors"
	"log/slog"
)

var errNoTimeToDrop = errors.New("there was no time left to call OnDrop: let it return sooner")

// drop asks OnDrop for each event that is to be dropped.
func (b *batch) drop() {
	todo := b.toDrop()
	if len(todo) == 0 {
		return
	}
	if b.h.OnDrop == nil {
		for i := range todo {
			b.endDrop(todo[i], nil, false)
		}
		return
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(b.log.ctx), b.started.Add(b.h.dropBy()))
	defer cancel()
	c := &calls{
		ctx: ctx, n: len(todo), share: b.h.eventTimeout(),
		do: func(ctx *callContext, i int) error {
			d := todo[i]
			ctx.key = d.item.key
			return b.h.OnDrop(ctx, d.item.event, d.reason)
		},
		done: func(i int, err error, late bool) { b.endDrop(todo[i], err, late) },
	}
	c.run(b.h.concurrency())
	for _, d := range todo[c.next:] {
		b.endDrop(d, errNoTimeToDrop, false)
	}
}

// A drop is an item to be dropped, with its callback's error.
type drop struct {
	item   *item
	reason error
}

func (b *batch) toDrop() []drop {
	b.mu.Lock()
	defer b.mu.Unlock()
	var todo []drop
	for i := range b.items {
		if it := &b.items[i]; it.result == dropping {
			todo = append(todo, drop{it, it.err})
		}
	}
	return todo
}

// endDrop drops the item if OnDrop returned nil, and fails it if not.
func (b *batch) endDrop(d drop, err error, late bool) {
	b.log.panicked(err, "key", d.item.key)
	if b.resolveDrop(d, err) {
		why := "it failed and is older than GiveUpAfter"
		if _, permanent := d.reason.(*permanentError); permanent {
			why = "its callback failed permanently"
		}
		b.log.line(slog.LevelError, "event dropped: "+why, "key", d.item.key, "err", textOf(d.reason))
	}
	b.account(err, late)
	b.markSoon()
}

// resolveDrop reports whether the item has become a dropped one.
func (b *batch) resolveDrop(d drop, err error) bool {
	it := d.item
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case it.result == handled || it.result == dropped:
		return false // its abandoned callback has succeeded meanwhile
	case err == nil:
		it.result = dropped
		return true
	case err == errOverran, it.err == errOverran:
		it.result = overran // OnDrop or OnEvent still runs, so the lease must stay
	default:
		it.result = failed
	}
	b.fail(failure{callback: "OnDrop", key: it.key, err: err, dropping: d.reason})
	return false
}

// dropLate drops the events of a callback that had been abandoned. Its
// goroutine has all the time that OnDrop may take.
func (b *batch) dropLate(items []*item) {
	for _, it := range items {
		b.mu.Lock()
		isDropping, d := it.result == dropping && b.final != nil, drop{it, it.err}
		b.mu.Unlock()
		if !isDropping {
			continue // or drop is still to come for it
		}
		err := error(nil)
		if b.h.OnDrop != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(b.log.ctx), b.h.eventTimeout())
			err = protect(func() error { return b.h.OnDrop(context.WithValue(ctx, eventKey{}, it.key), it.event, d.reason) })
			cancel()
		}
		b.endDrop(d, err, false)
	}
}
