package mailtrapwebhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A body is read in chunks. One buffer that grows would take four times the
// memory under a flood: each growth leaves the old buffer behind as garbage.
// Chunks are used again, and nothing that is handed on shares memory with one.
const chunkSize = 64 << 10

// maxEmptyReads is how often a reader may return nothing, as in bufio.
const maxEmptyReads = 100

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// discardTimeout is how long a client may take to send the rest of a body that
// was refused.
const discardTimeout = time.Second

// A bodyReader reads the body of one request into chunks. It charges each
// chunk before it takes it, and takes none before bytes arrive for it: a
// Content-Length costs nothing.
type bodyReader struct {
	limit    int64 // bytes
	charge   charge
	chunks   [][]byte
	free     []byte // the part of the last chunk that is not filled
	size     int
	complete bool // the request's end has been seen
}

// read reads the body to its end. Once ctx has ended it reads no more.
func (b *bodyReader) read(ctx context.Context, r *http.Request) error {
	if r.ContentLength > b.limit {
		return refuseTooLarge(b.limit)
	}
	// Charge the first chunk even for an empty body: a flood of such requests
	// takes memory too.
	if err := b.grow(); err != nil {
		return err
	}
	if r.Body == nil {
		return nil
	}
	for empty := 0; empty < maxEmptyReads; empty++ {
		if len(b.free) == 0 {
			if err := b.grow(); err != nil {
				return err
			}
		}
		n, err := r.Body.Read(b.free)
		b.free = b.free[n:]
		b.size += n
		switch {
		case int64(b.size) > b.limit:
			return refuseTooLarge(b.limit)
		case err == io.EOF:
			b.complete = true
			return nil
		case err != nil:
			return readError(err)
		case ctx.Err() != nil: // a reader without a deadline trickles on
			return readError(os.ErrDeadlineExceeded)
		case n > 0:
			empty = 0
		}
	}
	return readError(io.ErrNoProgress)
}

// grow takes another chunk, if the charge can be paid. A body of the limit's
// size costs the limit and not a whole chunk more, so that one always fits
// into a MaxInFlightBytes that equals MaxBodyBytes.
func (b *bodyReader) grow() error {
	total := min(int64(len(b.chunks)+1)*chunkSize, b.limit)
	if !b.charge.raise(total) {
		return refuse(http.StatusServiceUnavailable, "the bodies in flight take MaxInFlightBytes, %d bytes:"+
			" raise it, or let callbacks return sooner", b.charge.most)
	}
	if b.limit < chunkSize {
		// The byte past the limit tells a larger body from one that just fits.
		b.free = make([]byte, b.limit+1)
	} else {
		b.free = chunks.Get().(*[chunkSize]byte)[:]
	}
	b.chunks = append(b.chunks, b.free)
	return nil
}

// parts returns what was read, in order.
func (b *bodyReader) parts() [][]byte {
	parts := make([][]byte, 0, len(b.chunks))
	left := b.size
	for _, c := range b.chunks {
		n := min(left, len(c))
		parts = append(parts, c[:n])
		left -= n
	}
	return parts
}

// bodies has memory for bodies of which nothing is handed on. With that of a
// usual delivery a quarter of its garbage goes, and 7 % of its time.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// maxReusedBody is many times what Mailtrap sends. The memory of a larger body
// would stay for as long as small ones use it.
const maxReusedBody = 1 << 20

// join returns what was read as one slice. Its memory is used again when done is
// called, unless the slice is to be handed on.
func (b *bodyReader) join(handedOn bool) (joined []byte, done func()) {
	reused := new([]byte)
	if !handedOn {
		reused = bodies.Get().(*[]byte)
	}
	joined = slices.Grow((*reused)[:0], b.size)
	for _, part := range b.parts() {
		joined = append(joined, part...)
	}
	*reused = joined
	return joined, func() {
		if !handedOn && cap(joined) <= maxReusedBody {
			bodies.Put(reused)
		}
	}
}

// freeChunks gives the chunks to other requests. What they held is charged
// still.
func (b *bodyReader) freeChunks() {
	for _, c := range b.chunks {
		if len(c) == chunkSize {
			chunks.Put((*[chunkSize]byte)(c))
		}
	}
	b.chunks, b.free = nil, nil
}

// A charge is what one request has taken of MaxInFlightBytes. It is given back
// when the request and all callbacks that it abandoned have released it.
type charge struct {
	inFlight *atomic.Int64 // bytes, of all requests
	most     int64
	bytes    int64
	users    atomic.Int32
}

// raise makes the charge total bytes, or reports false. It never waits: 503 is
// retried, while a queue of requests would only take more memory.
func (c *charge) raise(total int64) bool {
	more := total - c.bytes
	for {
		taken := c.inFlight.Load()
		if taken+more > c.most {
			return false
		}
		if c.inFlight.CompareAndSwap(taken, taken+more) {
			c.bytes = total
			return true
		}
	}
}

func (c *charge) hold() { c.users.Add(1) }

func (c *charge) release() {
	if c.users.Add(-1) == 0 {
		c.inFlight.Add(-c.bytes)
	}
}

// readBody reads the body within Timeout, and verifies nothing.
func (x *exchange) readBody() error {
	defer x.limitReading()()
	err := x.body.read(x.r.Context(), x.r)
	x.report.BodyBytes = x.body.size
	return err
}

// limitReading ends the reading of the body when Timeout ends. It sets the
// read deadline only then: set ahead, it would replace an earlier one that
// the server's ReadTimeout has set.
func (x *exchange) limitReading() (stop func()) {
	if !hasReadDeadline(x.w) {
		x.warnNoDeadline()
		return func() {}
	}
	deadline, _ := x.r.Context().Deadline()
	fired := make(chan struct{})
	timer := time.AfterFunc(time.Until(deadline), func() {
		defer close(fired)
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Now())
	})
	return func() {
		if !timer.Stop() {
			<-fired // or the deadline could hit the connection's next request
		}
	}
}

// warnNoDeadline logs once that a slow body cannot be cut off. A request
// without a server, such as a test's or a function platform's, has its body
// in memory and gets no warning.
func (x *exchange) warnNoDeadline() {
	if x.r.Context().Value(http.ServerContextKey) == nil || x.h.warnedNoDeadline.Swap(true) {
		return
	}
	x.log.line(slog.LevelWarn, "a slow request body cannot be cut off at Timeout, because a middleware's"+
		" ResponseWriter hides the read deadline: give it an Unwrap method, or set the server's ReadTimeout")
}

// hasReadDeadline reports whether [http.ResponseController] can set a read
// deadline on w.
func hasReadDeadline(w http.ResponseWriter) bool {
	for {
		switch inner := w.(type) {
		case interface{ SetReadDeadline(time.Time) error }:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = inner.Unwrap()
		default:
			return false
		}
	}
}

// limitDiscarding bounds how long net/http reads on after a refusal. It reads
// what is left of a body before it sends the answer, for clients that listen
// only when they have sent everything.
func (x *exchange) limitDiscarding() {
	if x.body.complete || x.r.Body == nil || x.r.Body == http.NoBody {
		return
	}
	deadline := time.Now().Add(discardTimeout)
	if end, _ := x.r.Context().Deadline(); end.Before(deadline) {
		deadline = end
	}
	server, _ := x.r.Context().Value(http.ServerContextKey).(*http.Server)
	if server != nil && server.ReadTimeout > 0 && x.started.Add(server.ReadTimeout).Before(deadline) {
		return // the server's own deadline is the earlier one
	}
	_ = http.NewResponseController(x.w).SetReadDeadline(deadline)
}

func refuseTooLarge(limit int64) error {
	return &refusalError{http.StatusRequestEntityTooLarge, &explainedError{
		fmt.Sprintf("the body is over MaxBodyBytes, %d bytes: Mailtrap sends far less, so find out who sent it", limit),
		&http.MaxBytesError{Limit: limit},
	}}
}

// readError returns the refusal for an error of reading the body. Its text does
// not have that of err: network errors name the peer's address, which is
// personal data.
func readError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &refusalError{http.StatusRequestEntityTooLarge, &explainedError{
			"the body is over the limit of a middleware: raise that to MaxBodyBytes", err}}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refusalError{http.StatusServiceUnavailable, &explainedError{
			"the body did not arrive in time: a proxy is slow, or the client is not Mailtrap", err}}
	case closedBefore(err):
		return &refusalError{http.StatusBadRequest, bodyReadBefore(http.ErrBodyReadAfterClose)}
	}
	return &refusalError{http.StatusBadRequest, &explainedError{
		"the body broke off or is malformed: Mailtrap sends it again", err}}
}
