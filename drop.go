package mailtrapwebhook

import (
	"context"
	"errors"
	"log/slog"
)

var errNoTimeToDrop = errors.New("there was no time left to call OnDrop: let it return sooner, or raise Concurrency")

// A drop is an item to be dropped, with its callback's error.
type drop struct {
	item   *item
	reason error
}

// drop asks OnDrop for each event that is to be dropped.
func (b *batch) drop() {
	if b.h.OnDrop == nil {
		return // judge has dropped them
	}
	id := b.id + 1 // turns of their own: these calls have another order
	items := b.h.turns.order(id, b.with(dropping))
	if len(items) == 0 {
		return
	}
	waiting := b.drops(items)
	ctx, cancel := context.WithDeadline(context.WithoutCancel(b.log.ctx), b.started.Add(b.h.dropBy()))
	defer cancel()
	c := &calls{
		ctx: ctx, n: len(waiting), share: b.h.eventTimeout(),
		do: func(ctx *callContext, i int) error {
			ctx.key = waiting[i].item.key
			return b.h.OnDrop(ctx, waiting[i].item.event, waiting[i].reason)
		},
		done: func(i int, err error, returnedLate bool) { b.endDrop(waiting[i], err, returnedLate) },
	}
	b.runInTurn(c, "OnDrop", id, items)
	for _, d := range waiting[c.next:] {
		b.endDrop(d, errNoTimeToDrop, false)
	}
}

func (b *batch) drops(items []*item) []drop {
	b.mu.Lock()
	defer b.mu.Unlock()
	waiting := make([]drop, len(items))
	for i, it := range items {
		waiting[i] = drop{it, it.err}
	}
	return waiting
}

// endDrop drops the item if OnDrop returned nil, and fails it if not.
func (b *batch) endDrop(d drop, err error, returnedLate bool) {
	b.log.panicked(err, "key", d.item.key)
	if b.resolveDrop(d, err, returnedLate) {
		b.logDrop(d)
	}
	b.account(err, returnedLate)
	b.markSoon()
}

// resolveDrop reports whether the item has become a dropped one.
func (b *batch) resolveDrop(d drop, err error, returnedLate bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	d.item.noteRunning(err, returnedLate)
	switch {
	case d.item.result == handled || d.item.result == dropped:
		return false // its abandoned callback has succeeded meanwhile
	case err == nil:
		d.item.result = dropped
		return true
	}
	d.item.result = failed
	b.fail(failure{callback: "OnDrop", key: d.item.key, err: err, dropping: d.reason})
	return false
}

func (b *batch) logDrop(d drop) {
	why := "it failed and is older than GiveUpAfter"
	if _, permanent := d.reason.(*permanentError); permanent {
		why = "its callback failed permanently"
	}
	b.log.line(slog.LevelError, "event dropped: "+why, "key", d.item.key, "err", textOf(d.reason))
}
