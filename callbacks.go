package mailtrapwebhook

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// The outcomes of a call that its function did not return.
var (
	errOverran = errors.New("the callback did not return in time and was abandoned:" +
		" let it return when its context ends")
	errGoexit = errors.New("the function ended its goroutine with runtime.Goexit:" +
		" let it return instead")
)

const (
	// grace is how long a call may go on after its context has ended.
	grace = 100 * time.Millisecond

	// leastShare is the shortest time that is worth starting a call for. A
	// shorter one would fail calls that only needed their turn.
	leastShare = 50 * time.Millisecond

	// lookEvery is how often overrunning calls are looked for. It is no longer
	// than grace, so it delays an answer by no more than that.
	lookEvery = 100 * time.Millisecond
)

// calls makes n calls of a function in order, a few at a time.
//
// No call holds up the others for good. Each has at most its share of the
// time, and at most half of the time that is left while others wait. A call
// that overruns is abandoned: its goroutine goes on, and another worker makes
// the next call.
type calls struct {
	ctx   context.Context // must have a deadline, by which all calls end
	n     int
	share time.Duration // the most that one call may take
	do    func(ctx *callContext, i int) error
	// done receives the outcome of call i when it returns, or errOverran when
	// it is abandoned. What an abandoned call returns comes later, as
	// returnedLate.
	done func(i int, err error, returnedLate bool)

	began time.Time     // of run, from which durations count
	total time.Duration // after which no call may go on

	mu      sync.Mutex
	next    int // the first call that has not started
	cut     int // the first call that failed with less than its share, or n
	workers map[*worker]struct{}
	idle    chan struct{} // closed when workers is empty
}

// A worker makes one call after the other on a goroutine of its own.
type worker struct {
	call      int
	ends      time.Duration // when the context of its call ends
	abandonAt time.Duration
	calling   bool
	cut       bool          // its call has too short a share to judge it by
	abandoned chan struct{} // nil, or closed when errOverran has been handed on
}

// run returns when every call has returned, has been abandoned, or can no
// longer start. The calls from next on have not started.
func (c *calls) run(concurrency int) {
	deadline, _ := c.ctx.Deadline()
	c.began = time.Now()
	c.total = deadline.Sub(c.began)
	c.cut = c.n
	c.workers = make(map[*worker]struct{})
	c.idle = make(chan struct{})
	c.mu.Lock()
	for range min(concurrency, c.n) {
		c.startWorker()
	}
	c.mu.Unlock()
	look := time.NewTimer(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-c.idle:
			return
		case <-look.C:
			look.Reset(c.abandonOverrunning())
		}
	}
}

// startWorker starts a worker. The caller holds mu.
func (c *calls) startWorker() {
	w := new(worker)
	c.workers[w] = struct{}{}
	go c.work(w)
}

// removeWorker forgets a worker that makes no more calls. The caller holds mu.
func (c *calls) removeWorker(w *worker) {
	delete(c.workers, w)
	if len(c.workers) == 0 {
		close(c.idle)
	}
}

func (c *calls) work(w *worker) {
	defer func() {
		// Only runtime.Goexit in the callback ends this goroutine in a call.
		if w.calling && c.end(w, errGoexit) {
			c.replace(w)
		}
	}()
	// A few contexts at a time save 3 % of a delivery. A callback that
	// keeps one of them keeps these few, and the text of all keys.
	var contexts []callContext
	for c.begin(w) {
		if len(contexts) == 0 {
			contexts = make([]callContext, min(5, c.n-w.call))
		}
		ctx := &contexts[0]
		contexts = contexts[1:]
		ctx.parent, ctx.ends = c.ctx, c.began.Add(w.ends)
		err := protect(func() error { return c.do(ctx, w.call) })
		ctx.end()
		if !c.end(w, err) {
			return
		}
	}
}

// begin takes the next call. It reports whether there is one and time for it.
func (c *calls) begin(w *worker) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Since(c.began) // takes half as long as time.Now
	share, ok := c.nextShare(c.total - now)
	if !ok {
		c.removeWorker(w)
		return false
	}
	w.call, w.calling, w.cut = c.next, true, share < min(c.share, c.total/2)
	c.next++
	w.ends = now + share
	w.abandonAt = w.ends + min(grace, share/2)
	return true
}

// nextShare returns how long the next call may take when so much time is left,
// and whether there is a next call to start. The caller holds mu.
func (c *calls) nextShare(left time.Duration) (share time.Duration, ok bool) {
	switch {
	case c.next == c.n || left <= 0:
		return 0, false
	case c.next == c.n-1:
		return min(c.share, left), true // nobody waits for what this call leaves
	default:
		share = min(c.share, left/2)
		// A quarter of a short time lets at least the first call start.
		return share, share >= min(leastShare, c.share, c.total/4)
	}
}

// end hands on the outcome of a call. It reports false if the call, and the
// worker with it, had been abandoned.
func (c *calls) end(w *worker, err error) bool {
	c.mu.Lock()
	abandoned := w.abandoned
	w.calling = false
	if abandoned == nil {
		c.noteCut(w, err)
	}
	c.mu.Unlock()
	if abandoned != nil {
		<-abandoned // the late outcome must not come first
	}
	c.done(w.call, err, abandoned != nil)
	return abandoned == nil
}

// noteCut remembers the first call that failed for want of time. The caller
// holds mu.
func (c *calls) noteCut(w *worker, err error) {
	if err != nil && w.cut && time.Since(c.began) >= w.ends {
		c.cut = min(c.cut, w.call)
	}
}

// replace puts another worker in the place of one whose goroutine is gone.
func (c *calls) replace(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startWorker() // first, so that there is no moment without a worker
	c.removeWorker(w)
}

// abandonOverrunning abandons the calls whose time is over. It returns how
// long to wait before looking again.
func (c *calls) abandonOverrunning() time.Duration {
	now := time.Since(c.began)
	wait := lookEvery
	var overran []*worker
	c.mu.Lock()
	for w := range c.workers {
		left := w.abandonAt - now
		switch {
		case !w.calling:
		case left > 0:
			wait = min(wait, left)
		default:
			w.abandoned = make(chan struct{})
			c.noteCut(w, errOverran)
			overran = append(overran, w)
			c.startWorker()
			c.removeWorker(w)
		}
	}
	c.mu.Unlock()
	for _, w := range overran {
		c.done(w.call, errOverran, false)
		close(w.abandoned)
	}
	return wait
}

// A callContext is what [context.WithDeadline] would return for a call. It makes
// that context only when the callback first looks at it, and most return without
// looking. A timer and a place among the parent's children for each call would
// cost a third of a delivery of 500 events.
type callContext struct {
	parent context.Context
	ends   time.Time
	key    string // of the event, for KeyFromContext

	mu     sync.Mutex
	made   context.Context // nil until somebody looks
	cancel context.CancelFunc
	ended  bool // the call has
}

func (c *callContext) context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.made != nil:
	case c.ended:
		// The call returned in time, whatever has become of the parent since.
		c.made, c.cancel = context.WithCancel(context.WithoutCancel(c.parent))
		c.cancel()
	case time.Now().After(c.ends):
		// The parent may have been canceled since, but the deadline was first.
		c.made, c.cancel = context.WithDeadline(context.WithoutCancel(c.parent), c.ends)
	default:
		c.made, c.cancel = context.WithDeadline(c.parent, c.ends)
	}
	return c.made
}

// end cancels the context.
func (c *callContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}

// String keeps package fmt from reading fields that other goroutines write.
func (c *callContext) String() string { return fmt.Sprintf("%v.WithDeadline(%v)", c.parent, c.ends) }

func (c *callContext) Done() <-chan struct{} { return c.context().Done() }
func (c *callContext) Err() error            { return c.context().Err() }

func (c *callContext) Deadline() (deadline time.Time, ok bool) {
	if end, ok := c.parent.Deadline(); ok && end.Before(c.ends) {
		return end, true
	}
	return c.ends, true
}

func (c *callContext) Value(key any) any {
	if key == (eventKey{}) && c.key != "" {
		return c.key
	}
	c.mu.Lock()
	made := c.made
	c.mu.Unlock()
	if made != nil {
		// Package context finds its own context here, so that contexts derived
		// from this one need no goroutine.
		return made.Value(key)
	}
	return c.parent.Value(key)
}

// inTime calls f and returns its error. If ctx ends first, inTime does not wait
// for f and returns an error that wraps that of ctx.
func inTime(ctx context.Context, f func(ctx context.Context) error) error {
	done := make(chan error, 1)
	go func() {
		err := errGoexit // stays if f ends its goroutine
		defer func() { done <- err }()
		err = protect(func() error { return f(ctx) })
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("it did not return in time: %w", context.Cause(ctx))
	}
}

// A panicError is a panic in a function that the package was given. It does
// not unwrap to its value: to panic with a [Permanent] error is not to return
// one.
type panicError struct {
	value any
	stack string
}

// Error shows the value only if it is made to be read. Any other value, such
// as an event, may hold personal data.
func (e *panicError) Error() string {
	switch value := e.value.(type) {
	case error, string, fmt.Stringer:
		return fmt.Sprintf("panic: %v", value)
	}
	return fmt.Sprintf("panic with a %T", e.value)
}

// protect calls f and returns a panic in it as a [*panicError].
func protect(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &panicError{value, string(debug.Stack())}
		}
	}()
	return f()
}
