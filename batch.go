package mailtrapwebhook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An item is an event of a delivery with what it is known by. That is kept
// apart from the event, because callbacks may do with the event as they like.
type item struct {
	event  Event
	key    string // with the scope; "" if nothing tells the event
	time   time.Time
	place  int // in the delivery
	result result
	err    error  // of its callback
	why    string // it is to be dropped
	late   bool   // its callback was abandoned, which counts as a failure
	told   bool   // the store knows the result
}

// A result is what has become of an event. Once a callback has had the event,
// batch.mu guards it.
type result int

const (
	unstarted result = iota
	duplicate        // handled before
	held             // another delivery's
	handled
	failed
	overran  // failed so far: its callback was abandoned and still runs
	dropping // to be dropped if OnDrop agrees
	dropped
)

// A batch is the events of a delivery on their way through the store and the
// callbacks.
type batch struct {
	h       *Handler
	log     requestLog
	id      string    // the delivery's, the same for each attempt
	started time.Time // when the request arrived
	items   []item
	charge  *charge
	store   storeCalls

	mu      sync.Mutex
	failure error       // the first that makes the answer 500
	final   *Report     // the counts that are answered, set when no callback is to start any more
	marking *time.Timer // nil: nothing waits to be told to the store
	marked  time.Time   // when the store was last told
}

// newItems returns the items of a delivery's events.
//
// Where an event's own key does not tell it from others, its item's key also
// has the digest of the body and the event's place in it: a retry repeats the
// whole body, and another occurrence comes in another body. That is so for
// audit-log and unknown events, two of which may be equal, and for events with
// equal keys, as Mailtrap's samples have.
func newItems(events []Event, scope string, body []byte) []item {
	items := make([]item, len(events))
	count := make(map[string]int, len(events))
	for i, ev := range events {
		items[i] = item{event: ev, key: ev.Key(), time: ev.Time(), place: i}
		count[items[i].key]++
	}
	digest := sync.OnceValue(func() string {
		sum := sha256.Sum256(body)
		return hex.EncodeToString(sum[:16]) // half is ample against accidental twins
	})
	for i := range items {
		it := &items[i]
		if it.key == "" {
			continue
		}
		if count[it.key] > 1 || !hasIDs(it.event) {
			it.key += "/" + digest() + "/" + strconv.Itoa(i)
		}
		if scope != "" {
			it.key = scope + ":" + it.key
		}
	}
	return items
}

// hasIDs reports whether events of this kind have ids that tell them apart.
func hasIDs(ev Event) bool {
	switch ev.(type) {
	case *SendingWebhookEvent, *InboundWebhookEvent:
		return true
	}
	return false
}

func (x *exchange) newBatch(items []item) *batch {
	b := &batch{
		h:       x.h,
		log:     x.log,
		id:      strings.ToLower(x.signature),
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

func (b *batch) keys() []string {
	keys := make([]string, len(b.items))
	for i := range b.items {
		keys[i] = b.items[i].key
	}
	return keys
}

// reserve asks the store which of the events are new.
func (b *batch) reserve(ctx context.Context) error {
	if ctx.Err() != nil {
		return &refusalError{http.StatusServiceUnavailable, errNoTime}
	}
	var asked []*item
	var keys []string
	for i := range b.items {
		if it := &b.items[i]; it.key != "" {
			asked, keys = append(asked, it), append(keys, it.key)
		}
	}
	answers, err := b.store.reserve(ctx, keys, b.h.timeout()+leaseSlack)
	if err != nil {
		b.log.panicked(err)
		return &refusalError{http.StatusServiceUnavailable,
			fmt.Errorf("mailtrapwebhook: Dedup cannot reserve: %w", err)}
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
			asked[i].told = true // whose it is nobody knows, so do not release it
		}
	}
	if !valid {
		b.finish() // releases what was reserved
		return refuse(http.StatusServiceUnavailable, "Dedup returned a Reservation that is none of the constants:"+
			" let Reserve return one of them for each key, or an error")
	}
	return nil
}

// present shows the callbacks only the events that are theirs.
func (b *batch) present(d *Delivery) {
	events, keys := d.Events[:0], d.Keys[:0]
	for i := range b.items {
		switch it := &b.items[i]; it.result {
		case unstarted:
			events, keys = append(events, it.event), append(keys, it.key)
		case duplicate:
			d.Duplicates++
		}
	}
	clear(d.Events[len(events):])
	clear(d.Keys[len(keys):])
	d.Events, d.Keys = events, keys
}

// callBack hands the events to OnEvent one by one, or to OnDelivery all at
// once, and then drops those that are to be dropped.
func (b *batch) callBack(ctx context.Context, d *Delivery) {
	todo := b.inTurn()
	if len(todo) == 0 {
		return
	}
	b.marked = time.Now() // the first mark is due a second from now
	if b.h.OnEvent != nil {
		b.onEvents(ctx, todo)
	} else {
		b.onDelivery(ctx, todo, d)
	}
	b.drop()
}

// inTurn returns the items to call back for, beginning where the attempt
// before this one had no time left.
func (b *batch) inTurn() []*item {
	from := b.h.turns.of(b.id)
	var first, last []*item
	for i := range b.items {
		switch it := &b.items[i]; {
		case it.result != unstarted:
		case it.place >= from:
			first = append(first, it)
		default:
			last = append(last, it)
		}
	}
	return append(first, last...)
}

func (b *batch) onEvents(ctx context.Context, todo []*item) {
	c := &calls{
		ctx: ctx, n: len(todo), share: b.h.eventTimeout(),
		do: func(ctx *callContext, i int) error {
			ctx.key = todo[i].key
			return settled(b.h.OnEvent(ctx, todo[i].event))
		},
		done: func(i int, err error, late bool) { b.done(todo[i:i+1], err, late) },
	}
	began := time.Now()
	c.run(b.h.concurrency())
	if c.next < len(todo) {
		b.warnTooSlow(time.Since(began), c.next, len(todo))
	}
	switch {
	case c.next < c.n:
		b.h.turns.set(b.id, todo[c.next].place)
	case c.cut < c.n:
		b.h.turns.set(b.id, todo[c.cut].place)
	default:
		b.h.turns.forget(b.id)
	}
}

func (b *batch) onDelivery(ctx context.Context, todo []*item, d *Delivery) {
	c := &calls{
		ctx: ctx, n: 1, share: b.h.timeout(),
		do:   func(ctx *callContext, _ int) error { return settled(b.h.OnDelivery(ctx, d)) },
		done: func(_ int, err error, late bool) { b.done(todo, err, late) },
	}
	c.run(1)
}

// settled returns err, and as a [*permanentError] if it is permanent. It runs
// within the call, because methods of the callback's error may panic or hang.
func settled(err error) error {
	if isPermanent(err) {
		return &permanentError{err}
	}
	return err
}

// warnTooSlow says that no attempt can handle the whole delivery.
func (b *batch) warnTooSlow(took time.Duration, calls, of int) {
	if calls == 0 {
		return
	}
	mean := took / time.Duration(calls)
	if needed := mean * time.Duration(of); needed > b.h.timeout() {
		b.log.line(slog.LevelWarn, "OnEvent is too slow to handle the whole delivery within Timeout: raise"+
			" Concurrency, or let OnEvent store or enqueue the event and return",
			"calls", calls, "of", of, "mean", mean.Round(time.Millisecond), "needed", needed.Round(time.Millisecond))
	}
}

// done takes the outcome of a callback for the items that it was about. late
// means that the callback had been abandoned.
func (b *batch) done(items []*item, err error, late bool) {
	b.log.panicked(err, "key", items[0].key)
	for _, it := range items {
		b.judge(it, err)
	}
	switch {
	case late:
		b.dropLate(items)
		b.charge.release()
	case err == errOverran:
		b.charge.hold()
	}
	b.markSoon()
}

// judge gives an item the result that follows from its callback's error.
func (b *batch) judge(it *item, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if it.result == handled || it.result == dropped {
		return // dropped while its abandoned callback still ran: the first outcome counts
	}
	it.err, it.told = err, false
	it.late = it.late || err == errOverran
	permanent, ok := err.(*permanentError)
	switch {
	case err == nil:
		it.result = handled
	case ok:
		it.result, it.err, it.why = dropping, permanent.err, "its callback failed permanently"
	case b.tooOld(it):
		it.result, it.why = dropping, "it failed and is older than GiveUpAfter"
	case err == errOverran:
		it.result = overran
		b.fail("OnEvent", it, err)
	default:
		it.result = failed
		b.fail("OnEvent", it, err)
	}
}

// tooOld reports whether the event is older than GiveUpAfter. A time before
// 2021 is a zero or a fault, and so is one in the future: neither is an age.
func (b *batch) tooOld(it *item) bool {
	return b.h.GiveUpAfter > 0 && it.time.Year() > 2020 && b.started.Sub(it.time) > b.h.GiveUpAfter
}

// fail remembers the first failure for the answer. The caller holds mu.
func (b *batch) fail(callback string, it *item, err error) {
	switch {
	case b.failure != nil:
	case callback == "OnEvent" && b.h.OnDelivery != nil:
		b.failure = fmt.Errorf("mailtrapwebhook: OnDelivery failed: %w", err)
	default:
		b.failure = fmt.Errorf("mailtrapwebhook: %s failed, first for the event with key %s: %w", callback, it.key, err)
	}
}

// drop asks OnDrop for each event that is to be dropped.
func (b *batch) drop() {
	todo := b.toDrop()
	if len(todo) == 0 {
		return
	}
	if b.h.OnDrop == nil {
		for i := range todo {
			b.endDrop(todo[i].item, nil, false)
		}
		return
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(b.log.ctx), b.started.Add(b.h.dropBy()))
	defer cancel()
	c := &calls{
		ctx: ctx, n: len(todo), share: b.h.eventTimeout(),
		do: func(ctx *callContext, i int) error {
			ctx.key = todo[i].item.key
			return b.h.OnDrop(ctx, todo[i].item.event, todo[i].err)
		},
		done: func(i int, err error, late bool) {
			b.endDrop(todo[i].item, err, late)
		},
	}
	c.run(b.h.concurrency())
	for _, d := range todo[c.next:] {
		b.endDrop(d.item, errNoTimeToDrop, false)
	}
}

// A drop is an item to be dropped, and the error that is the reason.
type drop struct {
	item *item
	err  error
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
func (b *batch) endDrop(it *item, err error, late bool) {
	b.log.panicked(err, "key", it.key)
	if b.resolveDrop(it, err) {
		b.log.line(slog.LevelError, "event dropped: "+it.why, "key", it.key, "err", textOf(it.err))
	}
	switch {
	case late:
		b.charge.release()
	case err == errOverran:
		b.charge.hold()
	}
	b.markSoon()
}

// resolveDrop reports whether the item has become a dropped one.
func (b *batch) resolveDrop(it *item, err error) bool {
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
	b.fail("OnDrop", it, err)
	return false
}

// dropLate drops the events of a callback that had been abandoned. Its
// goroutine has all the time that OnDrop may take.
func (b *batch) dropLate(items []*item) {
	for _, it := range items {
		b.mu.Lock()
		isDropping, reason := it.result == dropping && b.final != nil, it.err
		b.mu.Unlock()
		if !isDropping {
			continue // or drop is still to come for it
		}
		err := error(nil)
		if b.h.OnDrop != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(b.log.ctx), b.h.eventTimeout())
			err = protect(func() error { return b.h.OnDrop(context.WithValue(ctx, eventKey{}, it.key), it.event, reason) })
			cancel()
		}
		b.endDrop(it, err, false)
	}
}

// markSoon has the store told of what is handled, at most markEvery after the
// time before. A process that is killed repeats no more than that.
func (b *batch) markSoon() {
	if b.store.dedup == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.marking == nil {
		b.marking = time.AfterFunc(time.Until(b.marked.Add(markEvery)), b.settle)
	}
}

// finish ends the work on the delivery: it tells the store the rest. What
// abandoned callbacks return later is told by markSoon.
func (b *batch) finish() {
	b.mu.Lock()
	b.final = b.count()
	if b.marking != nil {
		b.marking.Stop()
	}
	b.mu.Unlock()
	b.settle()
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
			if it.late {
				r.Failed++ // the answer is 500, and the retry skips the event
			} else {
				r.Handled++
			}
		case dropped:
			r.Dropped++
		case failed, overran, dropping:
			r.Failed++
		case unstarted:
			r.Unstarted++
		}
	}
	return r
}

// settle tells the store what has become of the events since the last time.
func (b *batch) settle() {
	b.store.lock() // held over the calls, so that no two overlap
	defer b.store.unlock()
	done, undone := b.untold()
	if len(done) > 0 && b.store.commit(keysOf(done)) {
		b.tell(done)
	}
	if len(undone) > 0 {
		b.store.release(keysOf(undone)) // if that fails, the leases end by themselves
		b.tell(undone)
	}
}

// untold returns the items that the store is to be told of. Those that are not
// done wait for the end, when their leases can go all at once.
func (b *batch) untold() (done, undone []*item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marking, b.marked = nil, time.Now()
	for i := range b.items {
		it := &b.items[i]
		if it.key == "" || it.told {
			continue
		}
		switch it.result {
		case handled, dropped:
			done = append(done, it)
		case failed, unstarted:
			if b.final != nil {
				undone = append(undone, it)
			}
		}
	}
	return done, undone
}

func (b *batch) tell(items []*item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, it := range items {
		it.told = true
	}
}

func keysOf(items []*item) []string {
	keys := make([]string, len(items))
	for i, it := range items {
		keys[i] = it.key
	}
	return keys
}

var (
	errNoTime = errors.New("mailtrapwebhook: there was no time left to call the callback for every event:" +
		" raise Concurrency, or let the callback store or enqueue the event and return")
	errNoTimeToDrop = errors.New("there was no time left to call OnDrop: let it return sooner")
)

// outcome returns the error that the answer is to give.
func (b *batch) outcome() error {
	switch {
	case b.final.Failed > 0:
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.failure
	case b.final.Held > 0:
		return refuse(http.StatusServiceUnavailable, "another delivery holds events of this one:"+
			" the retry will find them handled or free")
	case b.final.Unstarted > 0:
		return &refusalError{http.StatusServiceUnavailable, errNoTime}
	}
	return nil
}

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
	t.places[id] = place
}

func (t *turns) forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.places, id)
}
