// Package mailtrapwebhook receives the webhooks of Mailtrap, the email delivery
// service: mail delivered, bounced, opened or clicked, audit-log entries, and
// inbound mail. It is a community package, not Mailtrap's own.
//
// Most programs mount a [Handler]. It verifies each delivery, decodes it, and
// calls OnEvent for each event:
//
//	verifier, err := mailtrapwebhook.NewVerifier(os.Getenv("MAILTRAP_SIGNING_SECRET"))
//	if err != nil {
//		log.Fatal(err)
//	}
//	http.Handle("/webhooks/mailtrap", &mailtrapwebhook.Handler{
//		Verifier: verifier,
//		OnEvent: func(ctx context.Context, ev mailtrapwebhook.Event) error {
//			switch ev := ev.(type) {
//			case *mailtrapwebhook.SendingWebhookEvent:
//				return enqueue(ctx, ev)
//			}
//			return nil
//		},
//	})
//
// # Verification
//
// The signature covers the raw body. Verify the body before anything reads or
// changes it; a Handler does. No net/http server? Call [Verifier.Parse] with
// the body and the header. A handler of your own? Put [Verifier.Middleware]
// before it, or call [Verifier.VerifyRequest]. [Diagnose] says why a signature
// does not match.
//
// # Delivery and retries
//
// Mailtrap delivers at least once. If the answer is not 200 within 30 seconds,
// it sends the whole delivery again: every five minutes, up to 40 times. Inbound
// events come again 10 times over 24 hours. Then Mailtrap pauses the webhook,
// and a person must resume it.
//
// A Handler answers 200 only when every event of the delivery is handled. One
// event's failure does not affect the others. An event that was handled is not
// handed out again, for as long as the [Deduplicator] remembers it. A program
// that dies between a callback's effect and the mark of it sees the event
// again, unless one transaction covers both. Mailtrap promises no order of
// events, and neither does this package.
//
// Mailtrap signs no time. A captured request stays valid until the secret is
// reset, and only de-duplication keeps it from being handled again.
//
// # Source addresses
//
// [IPRanges] returns the addresses that Mailtrap sends from. An [IPAllowlist]
// admits nobody else, also behind proxies. Use it in addition to the
// signature, never instead.
//
// # Compatibility
//
// Both payload formats are told apart by their content. New kinds of events and
// new fields do no harm: an unknown kind is an [*UnknownEvent] among the
// others.
package mailtrapwebhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// A Handler receives deliveries over HTTP. Set its fields before it serves and
// leave them alone from then on. It must not be copied after first use. Call
// [Handler.Validate] when your program starts.
//
// It answers
//
//	200  every event is handled, a duplicate, or dropped
//	400  no signature or a wrong one, or the body broke off
//	401  a Guard or VerifierFor returned ErrUnauthorized; with a Basic challenge
//	403  a Guard returned another error; VerifierFor returned ErrForbidden or nil
//	405  not a POST
//	413  more than MaxBodyBytes or MaxEvents
//	415  an encoded body, or a type that is plainly not JSON or text
//	422  verified, but the JSON is broken as a whole, and OnMalformed did not take it
//	500  a callback failed, panicked or overran, or the Handler is set up wrongly
//	503  overload, no time left, another delivery holds an event, or the store or
//	     VerifierFor failed; with Retry-After
//
// Mailtrap sends the delivery again after every answer but 200. The client
// learns the status and nothing more. The log has the reason.
//
// The package logs nothing secret or personal. It logs the errors and panics of
// your functions and your store as they are: keep addresses out of them.
type Handler struct {
	// Verifier checks the signatures. It or VerifierFor is required.
	Verifier *Verifier

	// VerifierFor, if not nil, takes the place of Verifier. It returns the
	// verifier for a request, such as that of the tenant in its path. It must
	// not read the body, and must return when the request's context ends. The
	// Handler ends it when Timeout is over. A nil Verifier is answered 403, an
	// error that wraps ErrForbidden 403, one that wraps ErrUnauthorized 401,
	// and any other 503.
	VerifierFor func(*http.Request) (*Verifier, error)

	// OnEvent is called for each event that Dedup has not seen handled. One
	// event's failure does not affect the others. Set either OnEvent or
	// OnDelivery.
	//
	// A nil error acknowledges the event. An error makes Mailtrap send the
	// delivery again; a Permanent error drops the event.
	//
	// Store or enqueue the event and return: Mailtrap waits. ctx ends after
	// EventTimeout, or earlier if other events of the delivery wait. It does
	// not end when the client hangs up. If OnEvent outlives its ctx, the
	// Handler stops waiting and answers 500. If it returns nil later, the retry
	// skips the event.
	//
	// OnEvent must be safe for concurrent use: deliveries overlap. An abandoned
	// call may go on after the server's Shutdown has returned.
	OnEvent func(ctx context.Context, ev Event) error

	// OnDelivery is called once with all events of a delivery that Dedup has
	// not seen handled, and not at all if there are none. Its error counts for
	// all of them. It may take all of Timeout. It must be safe for concurrent
	// use.
	OnDelivery func(ctx context.Context, d *Delivery) error

	// OnMalformed, if not nil, is called for a verified delivery whose JSON is
	// broken as a whole. The delivery has the events before the fault, which
	// err, a DecodeError, names. Nothing else is done with them.
	//
	// Return nil or a Permanent error to take responsibility for the body: the
	// answer is 200. Return err, or an error that wraps it, for 422, and any
	// other error for 500.
	OnMalformed func(ctx context.Context, d *Delivery, err error) error

	// OnDrop, if not nil, is called before an event is dropped: for a Permanent
	// error, or a failure after GiveUpAfter. err is the callback's error. If
	// OnDrop returns an error, the event is not dropped but fails. Store the
	// event, under its key, for a person to look at.
	//
	// OnDrop is called after all the OnEvent calls of a delivery. An OnEvent
	// call that was abandoned and fails later is not dropped: the retry
	// decides.
	//
	// ctx ends a second after Timeout at the latest, so that even an event that
	// took all the time can be dropped. With NoDedup a retry for the sake of
	// another event drops the event once more.
	OnDrop func(ctx context.Context, ev Event, err error) error

	// Guards run in order before the body is read. The first error refuses the
	// request.
	Guards []Guard

	// Dedup remembers which events were handled. Nil means a MemoryDeduplicator
	// of the Handler's own. Set a shared store where several processes receive
	// the same webhook, and NoDedup for no de-duplication.
	Dedup Deduplicator

	// Scope returns a prefix for the keys of a request's events, such as the
	// tenant's name, so that no tenant's events are taken for another's. A
	// colon follows it. It must return when the request's context ends. Scope
	// is required when VerifierFor is set, unless Dedup is NoDedup, and must
	// then not return "".
	Scope func(*http.Request) string

	// Concurrency is how many OnEvent calls of one delivery run at a time. 0
	// means 1.
	Concurrency int

	// Timeout bounds the reading of a request and all its callbacks. 0 means 25
	// seconds, and 28 is the most: Mailtrap gives up after 30. The Handler
	// answers within 29.5 seconds.
	//
	// The reading is cut off through http.ResponseController. Middleware that
	// wraps the ResponseWriter must implement Unwrap.
	Timeout time.Duration

	// EventTimeout is the most that one OnEvent or OnDrop call may take. 0
	// means 5 seconds. While other events wait, a call may also take at most
	// half of what is left of Timeout: 4 seconds when 8 are left. A repeated
	// delivery begins with the events that had no turn.
	EventTimeout time.Duration

	// GiveUpAfter, if not 0, drops an event that fails when it is older than
	// this. Mailtrap pauses a webhook after 3 hours and 20 minutes of failures:
	// 3 hours keeps one event from pausing it. An outage of yours that lasts
	// longer drops every event that fails; OnDrop can store them.
	//
	// The age counts from the event's Time, not from the first attempt. An
	// event has no age if its Time is absent, before 2021, or in the future. An
	// UnknownEvent has no Time: return nil for kinds that you do not know.
	GiveUpAfter time.Duration

	// MaxBodyBytes is the most bytes that a body may have. 0 means 8 MiB, many
	// times what Mailtrap sends.
	MaxBodyBytes int64

	// MaxEvents is the most events that a delivery may have. 0 means 10,000.
	// Mailtrap sends at most 500.
	MaxEvents int

	// MaxInFlightBytes bounds the memory of all bodies at once. A request
	// beyond it is answered 503. 0 means 64 MiB. A body counts, in pieces of 64
	// KiB, until its last callback has returned. The events of a verified body
	// take about as much again.
	MaxInFlightBytes int64

	// Logger logs a line for each request, with the request's context. Nil
	// means slog.Default. A request answered 200 is logged at Debug, at Info
	// with duplicates among its events, and at Warn with events that have an
	// Err. An answer of 4xx is logged at Warn, one of 5xx at Error, and a
	// delivery that another one holds at Info.
	//
	// Further lines tell of dropped events, panics, a store that fails, and
	// what to change, such as a callback that is too slow.
	Logger *slog.Logger

	// Observe, if not nil, is called with the outcome of every request before
	// the answer is complete. It must not block.
	Observe func(ctx context.Context, r Report)

	memory           MemoryDeduplicator // where Dedup is nil
	turns            turns
	inFlight         atomic.Int64 // bytes charged to MaxInFlightBytes
	diagnosed        atomic.Int64 // Unix nanoseconds of the last diagnosis
	warnedNoDeadline atomic.Bool
}

// A Delivery is one verified request.
//
// Store events under Keys, and a unique index makes each count once. A key is
// [Event].Key, after Scope and a colon where Scope is set.
//
// Two audit-log or unknown events can have equal text, and a body can hold an
// event twice. Their keys here end in the digest of the body and the event's
// place in it. A retry has the same body, and so the same keys. In another body
// the event has another key.
//
// A printed or logged Delivery shows its size, and no personal data. %#v shows
// everything.
type Delivery struct {
	Body        []byte        // as received and signed
	Events      []Event       // those that are new
	Keys        []string      // of each event
	Format      Format        // of the body
	SecretIndex int           // of the secret that matched
	Duplicates  int           // events left out: handled before
	ReceivedAt  time.Time     // when the request arrived
	Request     *http.Request // without its body
}

// String returns the delivery's format and numbers, and nothing that it says.
func (d Delivery) String() string {
	return fmt.Sprintf("Delivery(%s, %d bytes, %d events, %d duplicates)",
		d.Format, len(d.Body), len(d.Events), d.Duplicates)
}

// LogValue implements [slog.LogValuer] with what String shows.
func (d Delivery) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("format", d.Format.String()),
		slog.Int("bytes", len(d.Body)),
		slog.Int("events", len(d.Events)),
		slog.Int("duplicates", d.Duplicates),
	)
}

// A Report says what became of a request. Each of its Events is one of Handled,
// Duplicates, Dropped, Failed, Held and Unstarted, which add up to Events.
type Report struct {
	Status     int           // the answer
	Format     Format        // zero if the body was not decoded
	BodyBytes  int           // read
	Events     int           // decoded
	Handled    int           // a callback returned nil
	Duplicates int           // handled before
	Dropped    int           // acknowledged though they failed
	Failed     int           // to be sent again
	Held       int           // another delivery is handling them
	Unstarted  int           // no callback was called for them
	Unknown    int           // Events that are an [*UnknownEvent]
	Unreadable int           // Events that have an Err
	Duration   time.Duration // since the request arrived
	Err        error         // why Status is not 200
}

// Permanent marks a callback's error as one that no retry cures. The event is
// dropped: acknowledged and logged, and a retry skips it unless Dedup is
// [NoDedup]. Permanent returns nil if err is nil.
//
// An error that wraps a permanent one is permanent. One that wraps several, as
// [errors.Join] does, is permanent if all of them are.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// isPermanent is stricter than errors.As: errors.Join(Permanent(a), b) must
// still be retried, for b.
func isPermanent(err error) bool { return isPermanentTo(100, err) }

// isPermanentTo unwraps at most depth times: an error that wraps itself must
// not end the process with a stack overflow.
func isPermanentTo(depth int, err error) bool {
	if depth == 0 {
		return false
	}
	switch e := err.(type) {
	case *permanentError:
		return true
	case interface{ Unwrap() error }:
		return isPermanentTo(depth-1, e.Unwrap())
	case interface{ Unwrap() []error }:
		parts := e.Unwrap()
		isNot := func(part error) bool { return !isPermanentTo(depth-1, part) }
		return len(parts) > 0 && !slices.ContainsFunc(parts, isNot)
	}
	return false
}

// eventKey is the context key under which KeyFromContext finds an event's key.
type eventKey struct{}

// KeyFromContext returns the key of the event that OnEvent or OnDrop was called
// for, as [Delivery].Keys has it. It returns "" for any other context, and for
// an event that has no key.
func KeyFromContext(ctx context.Context) string {
	key, _ := ctx.Value(eventKey{}).(string)
	return strings.Clone(key) // it is part of the text of all the delivery's keys
}

// The life of a delivery. The times are those of the default Timeout, and in
// brackets those of the longest.
//
//	 0 s  the request arrives: read, verify, decode, reserve, call back
//	25 s  Timeout: no call starts, and the contexts of callbacks end      [28]
//	+0.1  grace: callbacks that still run are abandoned
//	+1    dropTime: OnDrop has had its time                               [28.9]
//	 ...  Commit and Release: half of what is left each, at most 5 s
//	29.5  the answer is due
//	30    Mailtrap gives up
//	85 s  after Reserve, the leases end                                   [88]
//	5 min the next attempt begins
const (
	defaultTimeout      = 25 * time.Second
	maxTimeout          = 28 * time.Second
	defaultEventTimeout = 5 * time.Second
	dropTime            = time.Second // after Timeout
	maxDropBy           = 28900*time.Millisecond - grace
	answerTime          = 29500 * time.Millisecond

	// storeTimeout is the most that one call of the store may take.
	storeTimeout = 5 * time.Second

	// markEvery is how often the store is told of handled events: what a killed
	// process repeats, against calls that each cost the store a transaction.
	markEvery = time.Second

	// leaseSlack is how much longer than Timeout keys are reserved. The last
	// mark comes before that, and the next attempt after it.
	leaseSlack = 60 * time.Second

	// retryAfter is what 503 advises: by then every lease has ended.
	retryAfter = maxTimeout + leaseSlack

	defaultMaxEvents   = 10_000
	defaultMaxInFlight = 64 << 20
)

func (h *Handler) timeout() time.Duration      { return cmp.Or(h.Timeout, defaultTimeout) }
func (h *Handler) dropBy() time.Duration       { return min(h.timeout()+dropTime, maxDropBy) }
func (h *Handler) concurrency() int            { return cmp.Or(h.Concurrency, 1) }
func (h *Handler) eventTimeout() time.Duration { return cmp.Or(h.EventTimeout, defaultEventTimeout) }
func (h *Handler) maxBodyBytes() int64         { return cmp.Or(h.MaxBodyBytes, maxBodyBytes) }
func (h *Handler) maxEvents() int              { return cmp.Or(h.MaxEvents, defaultMaxEvents) }
func (h *Handler) maxInFlightBytes() int64     { return cmp.Or(h.MaxInFlightBytes, defaultMaxInFlight) }

func (h *Handler) logger() *slog.Logger {
	if h.Logger != nil {
		return h.Logger
	}
	return slog.Default()
}

// dedup returns the store, or nil for none.
func (h *Handler) dedup() Deduplicator {
	switch h.Dedup {
	case nil:
		return &h.memory
	case NoDedup:
		return nil // which saves the calls of a store that does nothing
	}
	return h.Dedup
}

func (h *Handler) needsScope() bool { return h.VerifierFor != nil && h.Dedup != NoDedup }

// mayDiagnose reports whether the last diagnosis was long enough ago.
func (h *Handler) mayDiagnose(now time.Time) bool {
	last := h.diagnosed.Load()
	return now.UnixNano()-last >= int64(diagnoseEvery) && h.diagnosed.CompareAndSwap(last, now.UnixNano())
}

// Validate returns an error that says what is wrong with the Handler's fields
// and what to set instead, or nil. Call it when your program starts: such a
// Handler answers 500 to every request, and a nil one panics.
//
// Validate also reports what would work and cannot be meant: a [Guard] of this
// package without credentials, and a duration without a unit, such as a Timeout
// of 25. It does not report an empty [IPAllowlist], which Set may still fill.
func (h *Handler) Validate() error {
	if err := h.checkSetup(); err != nil {
		return err
	}
	for i, guard := range h.Guards {
		if err := guardFault(guard); err != nil {
			return &explainedError{fmt.Sprintf("Guards[%d] refuses every request: %s", i, unprefixed(err)), err}
		}
	}
	return cmp.Or(
		checkUnit("Timeout", h.Timeout),
		checkUnit("EventTimeout", h.EventTimeout),
		checkUnit("GiveUpAfter", h.GiveUpAfter),
		checkUnit("Dedup.Retention", h.retention()),
	)
}

// retention returns that of a [MemoryDeduplicator], or 0.
func (h *Handler) retention() time.Duration {
	if d, ok := h.Dedup.(*MemoryDeduplicator); ok {
		return d.Retention
	}
	return 0
}

// checkUnit reports a duration that must be a bare number. A nanosecond may be
// meant, for "at once"; a few of them cannot.
func checkUnit(field string, d time.Duration) error {
	if d <= time.Nanosecond || d >= time.Millisecond {
		return nil
	}
	return fmt.Errorf("mailtrapwebhook: the Handler's %s is %v: give it a unit, as in 25 * time.Second", field, d)
}

// checkSetup reports what ServeHTTP cannot work with.
func (h *Handler) checkSetup() error {
	wrong := h.setupFault()
	if wrong == "" {
		return nil
	}
	return errors.New("mailtrapwebhook: the Handler is set up wrongly: " + wrong)
}

// setupFault names the field that is set wrongly and says what to set.
func (h *Handler) setupFault() string {
	switch {
	case h == nil:
		return "it is nil: set up a Handler"
	case h.Verifier == nil && h.VerifierFor == nil:
		return "Verifier is nil: set it to what NewVerifier returns, or set VerifierFor"
	case h.VerifierFor == nil && len(h.Verifier.current()) == 0:
		return "Verifier has no secret: make it with NewVerifier"
	case h.OnEvent == nil && h.OnDelivery == nil:
		return "neither OnEvent nor OnDelivery is set: set one of them"
	case h.OnEvent != nil && h.OnDelivery != nil:
		return "both OnEvent and OnDelivery are set: set one of them"
	case h.needsScope() && h.Scope == nil:
		return "Scope is nil although VerifierFor is set: let it return the tenant's name, or set Dedup to NoDedup"
	case slices.ContainsFunc(h.Guards, func(g Guard) bool { return g == nil }):
		return "a Guard is nil: set it or leave it out"
	}
	return cmp.Or(h.timeFault(), h.limitFault(), h.dedupFault())
}

func (h *Handler) timeFault() string {
	switch {
	case h.Timeout < 0 || h.Timeout > maxTimeout:
		return "Timeout is negative or over 28 s: set 28 s or less, because Mailtrap gives up after 30"
	case h.EventTimeout < 0:
		return "EventTimeout is negative: set 0 for 5 s"
	case h.GiveUpAfter < 0:
		return "GiveUpAfter is negative: set 0 to give nothing up"
	}
	return ""
}

func (h *Handler) limitFault() string {
	switch {
	case h.Concurrency < 0:
		return "Concurrency is negative: set 0 for one call at a time"
	case h.MaxEvents < 0:
		return "MaxEvents is negative: set 0 for 10,000"
	case h.MaxBodyBytes < 0 || h.MaxBodyBytes == math.MaxInt64:
		return "MaxBodyBytes is negative or without bound: set 0 for 8 MiB, or what a body may take"
	case h.MaxInFlightBytes < 0:
		return "MaxInFlightBytes is negative: set 0 for 64 MiB"
	case h.maxInFlightBytes() < h.maxBodyBytes():
		return "MaxInFlightBytes is below MaxBodyBytes, so that no large body could pass: raise it"
	}
	return ""
}

func (h *Handler) dedupFault() string {
	if d, ok := h.Dedup.(*MemoryDeduplicator); ok {
		if err := d.validate(); err != nil {
			return unprefixed(err)
		}
	}
	return ""
}

// ServeHTTP receives a delivery and answers it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	// A client that hangs up must not end the callbacks: what they have begun
	// would fail, and come again.
	ctx, cancel := context.WithDeadline(context.WithoutCancel(r.Context()), started.Add(h.timeout()))
	defer cancel()
	x := &exchange{
		h: h, w: w, r: r.WithContext(ctx), started: started,
		log: requestLog{ctx: r.Context(), logger: h.logger()},
	}
	x.body.limit = h.maxBodyBytes()
	x.body.charge.inFlight, x.body.charge.most = &h.inFlight, h.maxInFlightBytes()
	x.body.charge.hold()
	defer x.body.charge.release() // also if a function ends this goroutine
	defer x.body.freeChunks()
	x.answer(protect(x.serve))
}
