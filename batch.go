package mailtrapwebhook

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A batch is the events of a delivery on their way through the store and the
// callbacks.
type batch struct {
	h       *Handler
	log     requestLog
	id      uint64    // the delivery's, the same for each attempt
	started time.Time // when the request arrived
	items   []item
	charge  *charge
	store   storeCalls

	mu      sync.Mutex
	failure failure     // the first that makes the answer 500
	final   *Report     // the counts of the answer, or nil while callbacks may start
	marking func() bool // stops the mark that is due; nil if none is
	marked  time.Time   // when the store was last told
}

func (x *exchange) newBatch(items []item) *batch {
	for i := range items {
		items[i].old = x.tooOld(items[i].event)
	}
	b := &batch{
		h:       x.h,
		log:     x.log,
		id:      turnID(x.signature),
		started: x.started,
		items:   items,
		charge:  &x.body.charge,
	}
	b.store = storeCalls{
		dedup: x.h.dedup(), log: x.log,
		busy: make(chan struct{}, 1), answerBy: x.started.Add(answerTime),
	}
	return b
}

// tooOld reports whether the event is older than GiveUpAfter. A time before
// 2021 is a zero or a fault, and so is one in the future: neither is an age.
func (x *exchange) tooOld(ev Event) bool {
	return x.h.GiveUpAfter > 0 && ev.Time().Year() > 2020 && x.started.Sub(ev.Time()) > x.h.GiveUpAfter
}

// reserve asks the store which of the events are new.
func (b *batch) reserve(ctx context.Context) error {
	if ctx.Err() != nil {
		return &refusalError{http.StatusServiceUnavailable, errNoTimeToStart}
	}
	if b.store.dedup == nil {
		return nil
	}
	asked := make([]*item, 0, len(b.items))
	for i := range b.items {
		if it := &b.items[i]; it.key != "" {
			asked = append(asked, it)
		}
	}
	answers, err := b.store.reserve(ctx, keysOf(asked), b.h.timeout()+leaseSlack)
	if err != nil {
		b.log.panicked(err)
		return &refusalError{http.StatusServiceUnavailable,
			&explainedError{"Dedup.Reserve failed: " + unprefixed(err), err}}
	}
	valid := true
	for i, answer := range answers {
		switch answer {
		case Reserved:
		case Handled:
			asked[i].result = duplicate
		case Held:
			asked[i].result = held
		default:
			valid = false
			asked[i].told = unstarted // so that it is not released: nobody knows whose it is
		}
	}
	if !valid {
		b.finish() // releases what was reserved
		return refuse(http.StatusServiceUnavailable, "Dedup returned a Reservation that is none of the constants:"+
			" let Reserve return one of them for each key, or an error")
	}
	return nil
}

// with returns the items that have a result.
func (b *batch) with(r result) []*item {
	b.mu.Lock()
	defer b.mu.Unlock()
	items := make([]*item, 0, len(b.items)) // most often all of them
	for i := range b.items {
		if b.items[i].result == r {
			items = append(items, &b.items[i])
		}
	}
	return items
}

// present shows the callbacks only the events that are theirs, with their keys.
func (b *batch) present(d *Delivery) {
	events := d.Events[:0]
	d.Keys = make([]string, 0, len(b.items))
	for i := range b.items {
		switch it := &b.items[i]; it.result {
		case unstarted:
			events, d.Keys = append(events, it.event), append(d.Keys, strings.Clone(it.key))
		case duplicate:
			d.Duplicates++
		}
	}
	clear(d.Events[len(events):])
	d.Events = events
}

// callBack hands the events to OnEvent one by one, or to OnDelivery all at
// once, and then drops those that are to be dropped.
func (b *batch) callBack(ctx context.Context, d *Delivery) {
	waiting := b.h.turns.order(b.id, b.with(unstarted))
	if len(waiting) == 0 {
		return
	}
	b.marked = time.Now() // the first mark is due a second from now
	if b.h.OnEvent != nil {
		b.onEvents(ctx, waiting)
	} else {
		b.onDelivery(ctx, waiting, d)
	}
	b.drop()
}

func (b *batch) onEvents(ctx context.Context, waiting []*item) {
	c := &calls{
		ctx: ctx, n: len(waiting), share: b.h.eventTimeout(),
		do: func(ctx *callContext, i int) error {
			ctx.key = waiting[i].key
			return markPermanent(b.h.OnEvent(ctx, waiting[i].event))
		},
		done: func(i int, err error, returnedLate bool) { b.done(waiting[i:i+1], err, returnedLate) },
	}
	b.runInTurn(c, "OnEvent", b.id, waiting)
}

// runInTurn makes the calls for items that turns has put in order.
func (b *batch) runInTurn(c *calls, callback string, id uint64, waiting []*item) {
	began := time.Now()
	c.run(b.h.concurrency())
	b.h.turns.note(id, c, waiting)
	if c.next > 0 && (c.next < c.n || c.cut < c.n) {
		mean := time.Since(began) / time.Duration(c.next)
		b.log.line(slog.LevelWarn, callback+" is too slow to handle the whole delivery within Timeout: raise"+
			" Concurrency, or let it store or enqueue the event and return",
			"calls", c.next, "of", c.n, "mean", mean.Round(time.Millisecond), "time", c.total.Round(time.Millisecond))
	}
}

func (b *batch) onDelivery(ctx context.Context, waiting []*item, d *Delivery) {
	b.present(d)
	c := &calls{
		ctx: ctx, n: 1, share: b.h.timeout(),
		do:   func(ctx *callContext, _ int) error { return markPermanent(b.h.OnDelivery(ctx, d)) },
		done: func(_ int, err error, returnedLate bool) { b.done(waiting, err, returnedLate) },
	}
	c.run(1)
}

// markPermanent returns err as a [*permanentError] if it is permanent, and else
// as it is. It runs within the call, because the error's methods may panic.
func markPermanent(err error) error {
	if _, ok := err.(*permanentError); !ok && isPermanent(err) {
		return &permanentError{err}
	}
	return err
}

// done takes the outcome of a callback for the items that it was about.
// returnedLate means that the callback had been abandoned before.
func (b *batch) done(items []*item, err error, returnedLate bool) {
	switch {
	case err == nil:
	case b.h.OnDelivery != nil:
		b.log.panicked(err, "events", len(items))
	default:
		b.log.panicked(err, "key", items[0].key)
	}
	for _, it := range items {
		if b.judge(it, err, returnedLate) {
			b.logDrop(drop{it, err})
		}
	}
	b.account(err, returnedLate)
	b.markSoon()
}

// account keeps the body charged while a callback that was abandoned still
// runs: it may hold the body and its events.
func (b *batch) account(err error, returnedLate bool) {
	switch {
	case returnedLate:
		b.charge.release()
	case err == errOverran:
		b.charge.hold()
	}
}

// judge gives an item the result that follows from its callback's error. It
// reports whether the item has become a dropped one.
func (b *batch) judge(it *item, err error, returnedLate bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	it.noteRunning(err, returnedLate)
	_, permanent := err.(*permanentError)
	switch {
	case it.result == handled || it.result == dropped:
		// Dropped while its abandoned callback still ran: the first outcome counts.
	case err == nil:
		it.result = handled
	case !permanent && !it.old:
		it.result = failed
		b.fail(b.failureOf(it, err))
	case b.h.OnDrop == nil:
		it.result = dropped
		return true
	case returnedLate && it.result != dropping:
		it.result = failed // OnDrop has had its time: the retry may ask it
	default:
		it.result, it.err = dropping, err
	}
	return false
}

// noteRunning counts the abandoned callbacks that still have the event.
func (it *item) noteRunning(err error, returnedLate bool) {
	switch {
	case returnedLate:
		it.running--
	case err == errOverran:
		it.running++
		it.overran = true
	}
}

// A failure is why an event failed.
type failure struct {
	callback string
	key      string // "" if there is none, or if the callback had all events
	err      error
	dropping error // why OnDrop was asked, or nil
}

// error returns the failure for the answer. It must not be called under a lock:
// the methods of an error may be the caller's.
func (f failure) error() error {
	text := f.callback + " failed"
	if f.key != "" {
		text += ", first for the event with key " + f.key
	}
	text += ": " + unprefixed(f.err)
	if f.dropping != nil {
		text += "; the event was to be dropped because of: " + unprefixed(f.dropping)
	}
	return &explainedError{text, f.err}
}

// fail remembers the first failure. The caller holds mu.
func (b *batch) fail(f failure) {
	if b.failure.err == nil {
		b.failure = f
	}
}

// failureOf returns the failure of the callback that had the item.
func (b *batch) failureOf(it *item, err error) failure {
	if b.h.OnDelivery != nil {
		return failure{callback: "OnDelivery", err: err}
	}
	return failure{callback: "OnEvent", key: it.key, err: err}
}

// finish ends the work on the delivery: it tells the store the rest. markSoon
// tells it what abandoned callbacks return later.
func (b *batch) finish() {
	b.mu.Lock()
	// The counts are taken once, so that a late return cannot make the report
	// and the answer disagree.
	b.final = b.count()
	if b.marking != nil {
		b.marking()
	}
	b.mu.Unlock()
	b.tellStore() // waits for a mark that is under way
	b.store.answered()
	b.mu.Lock()
	b.marked = time.Time{} // the first late return is told at once
	b.mu.Unlock()
}

// count returns how many events have each result. The caller holds mu.
func (b *batch) count() *Report {
	r := new(Report)
	for i := range b.items {
		switch it := &b.items[i]; it.result {
		case duplicate:
			r.Duplicates++
		case held:
			r.Held++
		case handled:
			if it.overran {
				r.Failed++ // the answer is 500, and the retry skips the event
				b.fail(b.failureOf(it, errOverran))
			} else {
				r.Handled++
			}
		case dropped:
			r.Dropped++
		case failed, dropping:
			r.Failed++
		case unstarted:
			r.Unstarted++
		}
	}
	return r
}

var (
	errNoTime = errors.New("mailtrapwebhook: there was no time left to call the callback for every event:" +
		" raise Concurrency, or let the callback store or enqueue the event and return")
	errNoTimeToStart = errors.New("mailtrapwebhook: Timeout was over before the first callback:" +
		" find out why the body, VerifierFor, Scope or Dedup.Reserve took so long")
)

// outcome returns the error that the answer is to give.
func (b *batch) outcome() error {
	switch {
	case b.final.Failed > 0:
		b.mu.Lock()
		f := b.failure
		b.mu.Unlock()
		return f.error()
	case b.final.Held > 0:
		return refuse(http.StatusServiceUnavailable, "another delivery holds events of this one:"+
			" the retry will find them handled or free")
	case b.final.Unstarted > 0:
		return &refusalError{http.StatusServiceUnavailable, errNoTime}
	}
	return nil
}
