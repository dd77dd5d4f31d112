package mailtrapwebhook

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// What becomes of a call besides what its function returns.
var (
	errUnstarted = errors.New("there was no time left to call the callback:" +
		" raise Concurrency, or let callbacks enqueue and return")
	errOverran = errors.New("the callback did not return in time and was abandoned:" +
		" let it heed its context")
	errGoexit = errors.New("the function ended its goroutine by runtime.Goexit: let it return")
)

// grace is how long a callback that heeds its context has to return when that has ended, before it is abandoned.
const grace = 100 * time.Millisecond

// calls is a number of calls of a function, a few at a time, in order. A call that does not return in time is abandoned
// and the next one made, so that one cannot hold up the others.
type calls struct {
	ctx     context.Context // of all of them
	f       func(ctx context.Context, i int) error
	share   time.Duration        // of the time, for each call
	abandon func()               // told of each call that is abandoned
	late    func(i int, e error) // told what it returned when it has returned after all

	mu      sync.Mutex
	errs    []error // of each call
	next    int     // first call not begun
	open    int     // calls that have not ended
	closed  bool    // no more calls are to begin
	done    chan struct{}
	workers map[*worker]struct{} // those that are neither finished nor abandoned
}

// A worker makes one call after the other.
type worker struct {
	call      int
	ends      time.Time // when the call is to be abandoned
	calling   bool
	abandoned bool
}

// run makes the calls and returns their errors: nil, what the function returned, a [*panicError], errGoexit, errOverran
// or errUnstarted.
func (c *calls) run(concurrency int) []error {
	c.open = len(c.errs)
	c.done = make(chan struct{})
	c.workers = make(map[*worker]struct{})
	c.mu.Lock()
	for range min(concurrency, len(c.errs)) {
		c.startWorker()
	}
	c.mu.Unlock()
	deadline, _ := c.ctx.Deadline()
	end := time.NewTimer(time.Until(deadline) + grace)
	defer end.Stop()
	overrun := time.NewTimer(c.share + grace)
	defer overrun.Stop()
	for {
		select {
		case <-c.done:
			return c.errs
		case <-overrun.C:
			overrun.Reset(c.abandonOverrun())
		case <-end.C:
			c.close()
			return c.errs
		}
	}
}

// startWorker starts a worker. The caller holds mu.
func (c *calls) startWorker() {
	w := new(worker)
	c.workers[w] = struct{}{}
	go c.work(w)
}

func (c *calls) work(w *worker) {
	defer func() {
		if w.calling && c.end(w, errGoexit) {
			c.replace(w)
		}
	}()
	for c.begin(w) {
		ctx := &callContext{parent: c.ctx, ends: w.ends.Add(-grace)}
		err := protect(func() error { return c.f(ctx, w.call) })
		ctx.end()
		if !c.end(w, err) {
			return
		}
	}
}

// begin takes the next call, if there is one and time for it.
func (c *calls) begin(w *worker) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.next == len(c.errs) || c.ctx.Err() != nil {
		delete(c.workers, w)
		return false
	}
	w.call = c.next
	c.next++
	w.ends = time.Now().Add(c.share + grace)
	w.calling = true
	return true
}

// end takes the error of a call. It reports false if the call has been abandoned, and so has the worker.
func (c *calls) end(w *worker, err error) bool {
	c.mu.Lock()
	w.calling = false
	if w.abandoned {
		c.mu.Unlock()
		c.late(w.call, err)
		return false
	}
	defer c.mu.Unlock()
	c.settle(w.call, err)
	return true
}

// settle records the error of a call. The caller holds mu.
func (c *calls) settle(i int, err error) {
	c.errs[i] = err
	if c.open--; c.open == 0 {
		close(c.done)
	}
}

// replace puts another worker in the place of one that is gone.
func (c *calls) replace(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.workers, w)
	c.startWorker()
}

// abandonOverrun abandons the calls whose time is over and returns how long it is until the next one's may be.
func (c *calls) abandonOverrun() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	wait := c.share + grace
	for w := range c.workers {
		switch left := w.ends.Sub(now); {
		case !w.calling:
		case left > 0:
			wait = min(wait, left)
		default:
			c.abandonCall(w)
			c.startWorker()
		}
	}
	return wait
}

// abandonCall gives up waiting for the worker's call. The caller holds mu.
func (c *calls) abandonCall(w *worker) {
	w.abandoned = true
	delete(c.workers, w)
	c.abandon()
	c.settle(w.call, errOverran)
}

// close abandons all that has not ended.
func (c *calls) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for w := range c.workers {
		if w.calling {
			c.abandonCall(w)
		}
	}
	for ; c.next < len(c.errs); c.next++ {
		c.settle(c.next, errUnstarted)
	}
}

// A callContext is what [context.WithDeadline] makes of a parent, made only when somebody asks whether it has ended: a
// timer and a place among the parent's children cost more than many a callback, and most return without looking.
type callContext struct {
	parent context.Context
	ends   time.Time

	mu     sync.Mutex
	made   context.Context // nil: not yet
	cancel context.CancelFunc
	ended  bool // the call has
}

func (c *callContext) arm() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.made != nil:
	case c.ended: // before the time was over, whatever has become of the parent since
		c.made, c.cancel = context.WithCancel(context.WithoutCancel(c.parent))
		c.cancel()
	case time.Now().After(c.ends):
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

// String keeps package fmt from looking at what other goroutines may be making.
func (c *callContext) String() string { return fmt.Sprintf("%v.WithDeadline(%v)", c.parent, c.ends) }

func (c *callContext) Done() <-chan struct{} { return c.arm().Done() }
func (c *callContext) Err() error            { return c.arm().Err() }

func (c *callContext) Deadline() (deadline time.Time, ok bool) {
	if end, ok := c.parent.Deadline(); ok && end.Before(c.ends) {
		return end, true
	}
	return c.ends, true
}

// Value knows the context that was made, by which package context finds it to hang others on without a goroutine.
func (c *callContext) Value(key any) any {
	c.mu.Lock()
	made := c.made
	c.mu.Unlock()
	if made != nil {
		return made.Value(key)
	}
	return c.parent.Value(key)
}

// inTime calls f and returns its error or, once ctx has ended, that of ctx, even if f does not heed it.
func inTime(ctx context.Context, f func(ctx context.Context) error) error {
	done := make(chan error, 1)
	go func() {
		err := errGoexit
		defer func() { done <- err }()
		err = protect(func() error { return f(ctx) })
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A panicError is a panic in a function that the package was given. It does not unwrap to a value that is an error: to
// panic with a [Permanent] one is not to return it.
type panicError struct {
	value any
	stack string
}

// Error shows the value only where it is meant to be read. Others, such as an event, may hold what is personal.
func (e *panicError) Error() string {
	switch value := e.value.(type) {
	case error, string, fmt.Stringer:
		return fmt.Sprintf("panic: %v", value)
	}
	return fmt.Sprintf("panic with a %T", e.value)
}

// protect calls f and turns a panic into a [*panicError].
func protect(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &panicError{value, string(debug.Stack())}
		}
	}()
	return f()
}
