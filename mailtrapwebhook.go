// Package mailtrapwebhook receives the webhooks of Mailtrap, the email delivery service: mail delivered, bounced, opened
// or clicked, audit-log entries, and inbound mail. It is a community package, not Mailtrap's own.
//
// Most programs mount a [Handler], which verifies each delivery, decodes it and calls back for each event:
//
//	verifier, err := mailtrapwebhook.NewVerifier(os.Getenv("MAILTRAP_SIGNING_SECRET"))
//	if err != nil {
//		log.Fatal(err)
//	}
//	http.Handle("/webhooks/mailtrap", &mailtrapwebhook.Handler{
//		Verifier: verifier,
//		Dedup:    mailtrapwebhook.NewMemoryDeduplicator(0, 0),
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
// The signature covers the raw body, so nothing may read or change the body first, and nothing of it reaches a callback
// before all of it is verified. Where there is no net/http server, pass the body and the header to [Verify] or
// [Verifier.Parse]; before a handler of one's own, use [Verifier.Middleware] or [Verifier.VerifyRequest]. [Diagnose]
// tells why a signature does not match. No time is signed: an old request stays valid until the secret is reset, and
// only de-duplication keeps it from being handled again.
//
// # Delivery and retries
//
// Mailtrap delivers at least once. Whatever is not answered 200 within 30 seconds it sends again, whole, every five
// minutes up to 40 times (inbound events 10 times over 24 hours), and then pauses the webhook. A Handler acknowledges an
// event only when its callback has returned nil or a [Permanent] error, or when it fails at an age over GiveUpAfter if
// that is set, and one failure holds up no other event of the batch. With [Handler].Dedup,
// each event is handled once, as long as the store remembers it. What no store can promise is that a callback's effect
// and the mark that it was handled come about together, unless they share a transaction: after a crash between the two
// the event comes again. Nothing is promised about the order of events.
//
// # Source addresses
//
// [IPRanges] has the addresses that Mailtrap sends from, [FetchIPRanges] the current ones, and an [IPAllowlist] is a
// [Guard] that admits nobody else, also behind proxies. It is an addition to the signature, never a substitute.
//
// # Compatibility
//
// Both payload formats are told apart by their content. Kinds of events and fields that Mailtrap adds do no harm: an
// unknown kind, or an event that cannot be read, is an [*UnknownEvent] among the others.
package mailtrapwebhook

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Handler receives deliveries over HTTP. Its fields must not be changed once it serves. It needs a Verifier or
// VerifierFor, and OnEvent or OnDelivery; if it is set up wrongly, it answers every request 500 and logs what to mend.
//
// It answers
//
//	200  every event is handled, a duplicate, or permanently failed
//	400  no signature or a wrong one, or the body broke off
//	401  ErrUnauthorized of a Guard or VerifierFor, with a Basic challenge
//	403  any other error of a Guard; ErrForbidden or no verifier from VerifierFor
//	405  not POST
//	413  more than MaxBodyBytes or MaxEvents
//	415  an encoded body, or a type that is plainly not JSON or text
//	422  verified, but the structure of the body is broken, and no OnMalformed took it
//	500  a callback failed, panicked or overran, or the handler is set up wrongly
//	503  overload, another delivery holds an event, no time left, or the store or VerifierFor failed; with Retry-After
//
// and to everything but 200 Mailtrap reacts by sending the delivery again. The client learns no more than the status; the
// reason is logged, without anything secret or personal, except what the errors of the functions and the store that it
// was given say.
type Handler struct {
	// Verifier checks the signatures. If it is nil and VerifierFor is too, every request is refused.
	Verifier *Verifier

	// VerifierFor, if set, is used instead of Verifier: it chooses the verifier of the request's tenant, from its path
	// or host. It must not read the body. A nil Verifier is answered 403 (there is no such tenant); so is an error that
	// wraps [ErrForbidden], 401 one that wraps [ErrUnauthorized], and 503 any other.
	VerifierFor func(*http.Request) (*Verifier, error)

	// OnEvent is called for each event, an [*UnknownEvent] too, that has not been handled as far as Dedup knows, whatever
	// becomes of the others. A nil error acknowledges the event for good; so does a [Permanent] one. Any other makes Mailtrap send the delivery again. Either OnEvent or
	// OnDelivery is set.
	//
	// It should store or enqueue the event, which Mailtrap calls processing it asynchronously, and heed ctx, which ends
	// with EventTimeout or Timeout but not when the client hangs up. A call that goes on after that is abandoned: the
	// event has failed for this delivery, and with Dedup is a duplicate in the next if the call succeeds after all.
	//
	// It must be safe for concurrent use: deliveries come at the same time, and an abandoned call goes on beside others,
	// even after the server's Shutdown has returned.
	OnEvent func(ctx context.Context, ev Event) error

	// OnDelivery is called once with the events of a delivery that are new, and not at all if there are none. A nil or
	// [Permanent] error acknowledges all of them, any other error none (but for those older than GiveUpAfter). It has all
	// of Timeout, and must be safe for concurrent use as OnEvent must.
	OnDelivery func(ctx context.Context, d *Delivery) error

	// OnMalformed, if set, is called for a delivery that was verified but whose structure is broken, with all events
	// before the fault and a [*DecodeError]. Nothing else is done with them. By returning nil or a Permanent error it takes
	// responsibility for the body, which is then answered 200 and not sent again. If it returns err itself, or wraps it,
	// the answer is 422, as without it; any other error is answered 500.
	OnMalformed func(ctx context.Context, d *Delivery, err error) error

	// Guards run in order before the body is read. The first error refuses the request.
	Guards []Guard

	// Dedup remembers which events were handled. Nil means no de-duplication: an event delivered again is handled again.
	Dedup Deduplicator

	// Scope returns a prefix, such as the name of the request's tenant, that is put with a colon before the keys of its
	// events, those for Dedup and those in Delivery.Keys alike. It must be set where both Dedup and VerifierFor are, and
	// should be where OnDelivery stores the keys of several tenants, so that no tenant's events are taken for another's.
	// "" is no prefix, and an error where it must be set.
	Scope func(*http.Request) string

	// Concurrency is how many OnEvent calls of one delivery run at a time. 0 means 1: in the order of the body.
	Concurrency int

	// Timeout bounds the reading of a request and all of its callbacks, which see it in their context. 0 means 25
	// seconds. It is at most 28, because Mailtrap gives up after 30. A callback has a tenth of a second more to return,
	// and the store up to 5 seconds for each call that tells it the outcome, within 29.5 seconds in all. The reading is cut off through [http.ResponseController], so that middleware
	// should leave it a way to the server's ResponseWriter; without one, the log says so once.
	Timeout time.Duration

	// EventTimeout is each OnEvent call's own share of Timeout, so that a slow one does not starve the rest. 0 means 5
	// seconds.
	EventTimeout time.Duration

	// GiveUpAfter, if not 0, is the age beyond which an event that fails is given up, as if its error were Permanent.
	// Mailtrap pauses a webhook, and drops what comes in the meantime, when one of its deliveries has failed for 3 hours
	// and 20 minutes: a value below that, such as 3 hours, keeps one event from doing so. In an outage of your own that
	// lasts longer, it gives up all that fails; each is logged. An event without a time is never given up.
	GiveUpAfter time.Duration

	// MaxBodyBytes is the most bytes a body may have; a larger one is answered 413. 0 means 8 MiB, many times what Mailtrap
	// sends.
	MaxBodyBytes int64

	// MaxEvents is the most events a delivery may have; more are answered 413. 0 means 10,000. Mailtrap sends 500.
	MaxEvents int

	// MaxInFlightBytes bounds the memory taken by the bodies of all requests at once, in pieces of 64 KiB, until their last
	// callback has returned. A request beyond it is answered 503. 0 means 64 MiB. What is made of a body once it is
	// verified comes on top: a copy of it for the strings of its events, and the events.
	MaxInFlightBytes int64

	// Logger takes a line for each request (at the level Debug if it is answered 200, else Warn or Error), for each event
	// that is dropped and for each panic, with the request's context. Where several callbacks of a delivery fail, the line
	// has the first error. Nil means [slog.Default].
	Logger *slog.Logger

	// Observe, if set, is called with the outcome of every request, just before the answer is complete, which it must not
	// delay. ctx is the request's.
	Observe func(ctx context.Context, r Report)

	inFlight     atomic.Int64 // bytes
	toldDeadline atomic.Bool  // that a ResponseWriter has no read deadline
}

// A Delivery is one verified request.
//
// Its Keys are what to store events under, with or without a [Deduplicator]: a unique index on them makes each event
// count once. The key is [Event].Key, after the Scope if there is one. Audit-log and unknown events, and events that
// stand in the body more than once, may be equal and yet several: their keys also hold the body's digest and their place
// in it, by which they are recognised when Mailtrap repeats the delivery. It is "" where an event has none.
type Delivery struct {
	Body       []byte        // as received and signed
	Events     []Event       // those that are new
	Keys       []string      // of each event, "" where it has none: see above
	Format     Format        // that the body is in
	Secret     int           // index of the secret that matched
	Duplicates int           // events that were left out because they have been handled before
	ReceivedAt time.Time     // when its request arrived
	Request    *http.Request // its Body is [http.NoBody], and its context ends with Timeout, not with the client
}

// LogValue implements [slog.LogValuer]: a logged delivery shows its size and nothing of what it says.
func (d Delivery) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("format", d.Format.String()),
		slog.Int("bytes", len(d.Body)),
		slog.Int("events", len(d.Events)),
		slog.Int("duplicates", d.Duplicates),
	)
}

// A Report is what became of a request. Of its events, each is counted as one of Handled, Duplicates, Dropped, Failed,
// Held and Unstarted, so that these add up to Events.
type Report struct {
	Status     int           // that was answered
	Format     Format        // 0 if it did not come to that
	BodyBytes  int           // that were read
	Events     int           // in the body
	Handled    int           // their callback succeeded
	Duplicates int           // handled before
	Dropped    int           // failed for good, and acknowledged
	Failed     int           // to come again
	Held       int           // by another delivery that is being handled
	Unstarted  int           // there was no time left for them, or nothing took them
	Unknown    int           // those among Events that are an [*UnknownEvent]
	Duration   time.Duration // since the request arrived
	Err        error         // why Status is not 200
}

// Permanent marks an error of a callback as one that trying again will not cure. The event is logged, acknowledged and
// never seen again. The result wraps err; it is nil if err is. An error that wraps a permanent one is permanent too, and
// one that wraps several errors, as [errors.Join] does, if all of them are.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// isPermanent is not errors.As, by which one permanent error among several would drop what the others are about.
func isPermanent(err error) bool {
	switch e := err.(type) {
	case *permanentError:
		return true
	case interface{ Unwrap() error }:
		return isPermanent(e.Unwrap())
	case interface{ Unwrap() []error }:
		parts := e.Unwrap()
		return len(parts) > 0 && !slices.ContainsFunc(parts, func(part error) bool { return !isPermanent(part) })
	}
	return false
}

// # Guards

// A Guard looks at a request before its body is read, which it must not do itself. Its error refuses the request, with
// 401 if it wraps [ErrUnauthorized] and else with 403.
type Guard func(r *http.Request) error

// The errors by which a [Guard] chooses the status.
var (
	ErrUnauthorized = errors.New("mailtrapwebhook: the request lacks valid credentials")
	ErrForbidden    = errors.New("mailtrapwebhook: the request is not allowed")
)

// BasicAuth returns a [Guard] that wants the user name and password that were put into the webhook's URL. They are
// compared in constant time, so that neither they nor their lengths can be guessed from it. If one of the two is empty,
// every request is refused.
func BasicAuth(username, password string) Guard {
	if username == "" || password == "" {
		return refuseAll(ErrUnauthorized, "BasicAuth has an empty user name or password")
	}
	wantName, wantPassword := sha256.Sum256([]byte(username)), sha256.Sum256([]byte(password))
	return func(r *http.Request) error {
		name, password, ok := r.BasicAuth()
		if !ok {
			return fmt.Errorf("%w: no basic authentication", ErrUnauthorized)
		}
		if sameDigest(wantName, name)&sameDigest(wantPassword, password) != 1 {
			return fmt.Errorf("%w: wrong user name or password", ErrUnauthorized)
		}
		return nil
	}
}

// QueryToken returns a [Guard] that wants the token as the one value of a query parameter of the webhook's URL. It is
// compared in constant time. If the name or the token is empty, every request is refused.
func QueryToken(name, token string) Guard {
	if name == "" || token == "" {
		return refuseAll(ErrForbidden, "QueryToken has an empty name or token")
	}
	want := sha256.Sum256([]byte(token))
	return func(r *http.Request) error {
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil { // err quotes the query
			return fmt.Errorf("%w: the query of its URL is malformed", ErrForbidden)
		}
		if values := query[name]; len(values) != 1 {
			return fmt.Errorf("%w: %d tokens in the query of its URL, want one", ErrForbidden, len(values))
		} else if sameDigest(want, values[0]) != 1 {
			return fmt.Errorf("%w: wrong token in the query of its URL", ErrForbidden)
		}
		return nil
	}
}

// sameDigest returns 1 if want is the digest of given, else 0. Digests are of one length, whatever was given.
func sameDigest(want [sha256.Size]byte, given string) int {
	got := sha256.Sum256([]byte(given))
	return subtle.ConstantTimeCompare(want[:], got[:])
}

func refuseAll(sentinel error, why string) Guard {
	err := fmt.Errorf("%w: %s, so all are refused (is an environment variable unset?)", sentinel, why)
	return func(*http.Request) error { return err }
}

// # Limits

const (
	defaultTimeout      = 25 * time.Second
	maxTimeout          = 28 * time.Second // leaves 2 of Mailtrap's 30 seconds for the way and the store
	defaultEventTimeout = 5 * time.Second
	defaultMaxEvents    = 10_000
	defaultMaxInFlight  = 64 << 20

	// leaseSlack is how much longer than Timeout keys are reserved: time enough to mark them after the last callback,
	// and over before Mailtrap's next attempt five minutes later.
	leaseSlack = 60 * time.Second

	// answerTime is when the answer is given at the latest, and settleTimeout how long it waits at most for either of
	// the two calls that tell the store what became of the events.
	answerTime    = 29500 * time.Millisecond
	settleTimeout = 5 * time.Second

	// dropTimeout is how long a client has to send what is left of a body that is not wanted.
	dropTimeout = time.Second

	// retryAfter is what 503 advises: by then every lease has ended.
	retryAfter = maxTimeout + leaseSlack
)

func (h *Handler) timeout() time.Duration      { return cmp.Or(h.Timeout, defaultTimeout) }
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

// checkSetup returns what is wrong with the fields, in terms of how to mend it.
func (h *Handler) checkSetup() error {
	wrong := func(what string) error { return errors.New("mailtrapwebhook: Handler is set up wrongly: " + what) }
	switch {
	case h.Verifier == nil && h.VerifierFor == nil:
		return wrong("Verifier is nil: set it to what NewVerifier returns, or set VerifierFor")
	case h.OnEvent == nil && h.OnDelivery == nil:
		return wrong("neither OnEvent nor OnDelivery is set: set one of them")
	case h.OnEvent != nil && h.OnDelivery != nil:
		return wrong("both OnEvent and OnDelivery are set: set one of them")
	case h.Timeout < 0 || h.Timeout > maxTimeout:
		return wrong("Timeout is negative or over 28 s: Mailtrap gives up after 30 s, so set at most 28")
	case h.EventTimeout < 0 || h.GiveUpAfter < 0:
		return wrong("EventTimeout or GiveUpAfter is negative: set 0 for the default")
	case h.Concurrency < 0 || h.MaxEvents < 0 || h.MaxBodyBytes < 0 || h.MaxInFlightBytes < 0:
		return wrong("Concurrency, MaxEvents, MaxBodyBytes or MaxInFlightBytes is negative: set 0 for the default")
	case h.MaxBodyBytes == math.MaxInt64:
		return wrong("MaxBodyBytes is without bound: set what a body may take")
	case h.maxInFlightBytes() < h.maxBodyBytes():
		return wrong("MaxInFlightBytes is below MaxBodyBytes, so that no large body could pass: raise it")
	case h.Dedup != nil && h.VerifierFor != nil && h.Scope == nil:
		return wrong("Scope is nil where Dedup and VerifierFor are set: let it return the tenant's name")
	}
	for i, guard := range h.Guards {
		if guard == nil {
			return wrong(fmt.Sprintf("Guards[%d] is nil: set it or leave it out", i))
		}
	}
	return nil
}

// # Serving

// ServeHTTP receives a delivery and answers it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := h.newExchange(w, r)
	defer x.end()
	x.answer(x.steps(
		h.checkSetup,
		x.checkMethod,
		x.checkType,
		x.runGuards,
		x.chooseVerifier,
		x.takeSignature,
		x.readBody,
		x.verify,
		x.decode,
		x.reserve,
		x.callBack,
		x.commit,
		x.outcome,
	))
}

// An exchange is one request on its way through the handler.
type exchange struct {
	h       *Handler
	w       http.ResponseWriter
	r       *http.Request
	started time.Time
	ctx     context.Context // ends with Timeout, not with the client
	cancel  context.CancelFunc

	verifier  *Verifier
	signature string
	chunks    [][]byte     // that the body is read into
	room      []byte       // of the last of them, not used yet
	readWhole bool         // up to the end of the request
	charged   int64        // bytes of the in-flight budget
	users     atomic.Int32 // of the body: this request and the callbacks that have been abandoned

	body     string // of which the events are parts
	delivery *Delivery
	events   []Event  // those of the delivery that are new; the callback may do with delivery what it likes
	raws     []string // of events
	unknown  []bool   // which of events are an UnknownEvent
	keys     []string // of events; where nobody has asked for them yet, nil
	makeKeys sync.Once
	scope    string
	results  []result      // of events
	leased   time.Time     // when the leases end
	ended    chan struct{} // closed when the request is answered
	report   Report

	failure   error  // the first of a callback
	failedKey string // of its event
}

// A result is what became of an event that was handed to a callback.
type result int

const (
	unstarted result = iota
	handled
	dropped
	failed
	overran // failed, and the callback still runs
)

func (h *Handler) newExchange(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{h: h, w: w, r: r, started: time.Now(), ended: make(chan struct{})}
	x.ctx, x.cancel = context.WithDeadline(context.WithoutCancel(r.Context()), x.started.Add(h.timeout()))
	x.users.Store(1)
	return x
}

// end gives up what the exchange has taken.
func (x *exchange) end() {
	x.cancel()
	x.dropChunks()
	close(x.ended)
	x.unuse()
}

// unuse gives the memory of the body back to the budget when nobody uses it any more.
func (x *exchange) unuse() {
	if x.users.Add(-1) == 0 {
		x.h.inFlight.Add(-x.charged)
	}
}

// steps takes one step after the other until one returns an error. A panic in one, which is in code that the handler
// was given, is an error too.
func (x *exchange) steps(steps ...func() error) error {
	for _, step := range steps {
		if err := protect(step); err != nil {
			x.logPanic(err)
			return err
		}
	}
	return nil
}

// A refusalError is an error with the status that answers it.
type refusalError struct {
	status int
	err    error
}

func (e *refusalError) Error() string { return e.err.Error() }
func (e *refusalError) Unwrap() error { return e.err }

func refuse(status int, err error) error { return &refusalError{status, err} }

func refuseBecause(status int, why string) error {
	return refuse(status, errors.New("mailtrapwebhook: "+why))
}

func (x *exchange) checkMethod() error {
	if x.r.Method != http.MethodPost {
		return refuseBecause(http.StatusMethodNotAllowed, "not a POST request")
	}
	return nil
}

// checkType refuses what is plainly no delivery. The type decides nothing else, since proxies and function platforms
// change it; the first bytes of the body tell the format.
func (x *exchange) checkType() error {
	for _, line := range x.r.Header.Values("Content-Encoding") {
		for coding := range strings.SplitSeq(line, ",") {
			if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
				return refuseBecause(http.StatusUnsupportedMediaType, "the body has a Content-Encoding: keep proxies from encoding it")
			}
		}
	}
	major, _, _ := strings.Cut(x.r.Header.Get("Content-Type"), "/")
	switch strings.ToLower(strings.TrimSpace(major)) {
	case "multipart", "image", "audio", "video", "font":
		return refuseBecause(http.StatusUnsupportedMediaType, "the Content-Type is not that of JSON or text")
	}
	return nil
}

func (x *exchange) runGuards() error {
	for _, guard := range x.h.Guards {
		if err := guard(x.r); err != nil {
			return refuse(guardStatus(err), err)
		}
	}
	return nil
}

func guardStatus(err error) int {
	if errors.Is(err, ErrUnauthorized) {
		return http.StatusUnauthorized
	}
	return http.StatusForbidden
}

func (x *exchange) chooseVerifier() error {
	if x.h.VerifierFor == nil {
		x.verifier = x.h.Verifier
		return nil
	}
	verifier, err := x.h.VerifierFor(x.r)
	switch {
	case errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrForbidden):
		return refuse(guardStatus(err), err)
	case err != nil:
		return refuse(http.StatusServiceUnavailable, fmt.Errorf("mailtrapwebhook: VerifierFor failed: %w", err))
	case verifier == nil:
		return refuseBecause(http.StatusForbidden, "VerifierFor has no verifier for this request")
	}
	x.verifier = verifier
	return nil
}

func (x *exchange) takeSignature() (err error) {
	if x.signature, err = signatureOf(x.r); err != nil {
		return refuse(http.StatusBadRequest, err)
	}
	return nil
}

func (x *exchange) verify() error {
	secret, err := match(x.signature, x.verifier.current(), x.bodyParts()...)
	if err != nil {
		return refuse(refusal(err), err)
	}
	x.delivery = &Delivery{
		Secret:     secret,
		ReceivedAt: x.started,
		Request:    x.r.WithContext(x.ctx),
	}
	x.delivery.Request.Body = http.NoBody
	return nil
}

func (x *exchange) decode() error {
	d, h := x.delivery, x.h
	handedOn := h.OnDelivery != nil || h.OnMalformed != nil
	whole := &d.Body
	if !handedOn { // nobody gets it, and events are parts of a copy
		whole = bodies.Get().(*[]byte)
		defer putBody(whole)
	}
	x.joinChunks(whole)
	x.body = string(*whole)
	var keys []string
	var err error
	d.Events, d.Format, err = decode(*whole, h.maxEvents())
	if h.Dedup != nil || handedOn {
		for _, ev := range d.Events {
			keys = append(keys, ev.Key())
		}
	}
	x.report.Format = d.Format
	x.report.Events = len(d.Events)
	for _, ev := range d.Events {
		if _, ok := ev.(*UnknownEvent); ok {
			x.report.Unknown++
		}
	}
	if err == errTooManyEvents {
		return refuse(http.StatusRequestEntityTooLarge, err)
	}
	if err != nil && h.OnMalformed == nil {
		return refuse(http.StatusUnprocessableEntity, err)
	}
	if h.Scope != nil {
		x.scope = h.Scope(x.r)
	}
	if x.scope == "" && h.Dedup != nil && h.VerifierFor != nil {
		return errNoScope
	}
	if keys != nil {
		d.Keys = x.deliveryKeys(keys)
	}
	if err != nil {
		return x.malformed(err)
	}
	return nil
}

var errNoScope = errors.New(`mailtrapwebhook: Scope returned "" where Dedup and VerifierFor are set:` +
	" let it return the tenant's name")

// malformed handles a delivery whose structure is broken. Its error ends the exchange, and so does the delivery's being
// taken, as errTaken.
func (x *exchange) malformed(fault error) error {
	err := x.call(1, x.h.timeout(), func(ctx context.Context, _ int) error {
		return x.h.OnMalformed(ctx, x.delivery, fault)
	})[0]
	switch {
	case isPermanent(err):
		x.log(slog.LevelError, "mailtrapwebhook: malformed delivery dropped", err)
		x.report.Dropped = x.report.Events
	case err == errUnstarted:
		return refuse(http.StatusServiceUnavailable, errNoTime)
	case errors.Is(err, fault):
		return refuse(http.StatusUnprocessableEntity, err)
	case err != nil:
		x.logPanic(err)
		return fmt.Errorf("mailtrapwebhook: OnMalformed failed: %w", err)
	default:
		x.log(slog.LevelWarn, "mailtrapwebhook: OnMalformed took a malformed delivery", fault)
		x.report.Handled = x.report.Events
	}
	return errTaken
}

var errTaken = errors.New("mailtrapwebhook: OnMalformed took the delivery")

// deliveryKeys makes the keys of the delivery of its events' own. Where an event's own key does not tell it from
// others, it is told by its place in this very body: a retry repeats the whole body, and another occurrence comes in
// another body. That is so for events with equal keys, as samples and tests have, and for audit-log and unknown events,
// two of which may be equal.
func (x *exchange) deliveryKeys(keys []string) []string {
	count := make(map[string]int, len(keys))
	for _, key := range keys {
		count[key]++
	}
	bodyDigest := sync.OnceValue(func() string {
		sum := sha256.Sum256([]byte(x.body))
		return "-" + hex.EncodeToString(sum[:16])
	})
	for i, key := range keys {
		if key == "" {
			continue
		}
		name, _, _ := strings.Cut(key, "/")
		if kind, _ := kindOf(name); count[key] > 1 || kind != kindSending && kind != kindInbound {
			key += bodyDigest() + "-" + strconv.Itoa(i)
		}
		if x.scope != "" {
			key = x.scope + ":" + key // no key has a colon of its own, so that scopes and keys cannot run together
		}
		keys[i] = key
	}
	return keys
}

// # Reading

// The memory for bodies is taken in chunks. They are used again, so that what nobody has verified leaves no garbage
// behind, and nothing of one is ever handed on.
const chunkSize = 64 << 10

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// Bodies that have been verified, each in one piece: those that are not handed on.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// maxReusedBody is far more than the 500 events take that Mailtrap sends at most. The memory of a larger body would stay for
// as long as small ones use it.
const maxReusedBody = 1 << 20

func putBody(body *[]byte) {
	if cap(*body) <= maxReusedBody {
		bodies.Put(body)
	}
}

// readBody reads the body into memory that grows as bytes arrive, never ahead of them on the word of a header, and that
// is charged to the in-flight budget before it is taken.
func (x *exchange) readBody() error {
	limit := x.h.maxBodyBytes()
	if x.r.ContentLength > limit {
		return refuseTooLarge(limit)
	}
	if err := x.charge(limit); err != nil {
		return err
	}
	if x.r.Body == nil {
		return nil
	}
	defer x.limitReading()()
	for empty := 0; empty < 100; empty++ {
		if len(x.room) == 0 {
			if err := x.charge(limit); err != nil {
				return err
			}
		}
		n, err := x.r.Body.Read(x.room)
		x.room = x.room[n:]
		x.report.BodyBytes += n
		switch {
		case int64(x.report.BodyBytes) > limit:
			return refuseTooLarge(limit)
		case err == io.EOF:
			x.readWhole = true
			return nil
		case err != nil:
			return x.readError(err)
		case x.ctx.Err() != nil:
			return x.readError(os.ErrDeadlineExceeded)
		case n > 0:
			empty = 0
		}
	}
	return x.readError(io.ErrNoProgress)
}

// charge takes another chunk, if the budget has it. It never waits: an answer of 503 comes again, and a queue of
// requests would only take more memory. A body of MaxBodyBytes costs no more than that, so that one always fits.
func (x *exchange) charge(limit int64) error {
	price := min(int64((len(x.chunks)+1)*chunkSize), limit) - x.charged
	for {
		taken := x.h.inFlight.Load()
		if taken+price > x.h.maxInFlightBytes() {
			return refuseBecause(http.StatusServiceUnavailable, "the bodies in flight take MaxInFlightBytes:"+
				" raise it, or let callbacks return sooner")
		}
		if x.h.inFlight.CompareAndSwap(taken, taken+price) {
			break
		}
	}
	x.charged += price
	if limit < chunkSize {
		x.room = make([]byte, limit+1) // one more, to see that there is no more
	} else {
		x.room = chunks.Get().(*[chunkSize]byte)[:]
	}
	x.chunks = append(x.chunks, x.room)
	return nil
}

// bodyParts returns what has been read of the body, in order.
func (x *exchange) bodyParts() (parts [][]byte) {
	left := x.report.BodyBytes
	for _, c := range x.chunks {
		n := min(left, len(c))
		parts = append(parts, c[:n])
		left -= n
	}
	return parts
}

// joinChunks makes what has been read of the body one piece, in the memory of whole if that is enough, and drops the chunks.
func (x *exchange) joinChunks(whole *[]byte) {
	*whole = slices.Grow((*whole)[:0], x.report.BodyBytes)
	for _, part := range x.bodyParts() {
		*whole = append(*whole, part...)
	}
	x.dropChunks()
}

// dropChunks gives the memory that the body was read into to other requests.
func (x *exchange) dropChunks() {
	for _, c := range x.chunks {
		if len(c) == chunkSize {
			chunks.Put((*[chunkSize]byte)(c))
		}
	}
	x.chunks, x.room = nil, nil
}

func refuseTooLarge(limit int64) error {
	err := &quietError{"the body is over MaxBodyBytes: Mailtrap sends far less", &http.MaxBytesError{Limit: limit}}
	return refuse(http.StatusRequestEntityTooLarge, err)
}

// limitReading makes the reading of the body end with Timeout. Rather than set a deadline, which would be later than the
// server's own might be, it waits until the time has come and then sets one that has passed.
func (x *exchange) limitReading() (stop func()) {
	if !hasReadDeadline(x.w) {
		if !x.h.toldDeadline.Swap(true) {
			x.h.logger().WarnContext(x.ctx, "mailtrapwebhook: a slow request body cannot be cut off at Timeout,"+
				" because the ResponseWriter (a middleware's without an Unwrap method, or a test's) has no read deadline:"+
				" set the server's ReadTimeout")
		}
		return func() {}
	}
	fired := make(chan struct{})
	timer := time.AfterFunc(time.Until(x.started.Add(x.h.timeout())), func() {
		defer close(fired)
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Now())
	})
	return func() {
		if !timer.Stop() {
			<-fired // so that it is not the next request's reading that ends
		}
	}
}

// hasReadDeadline reports whether [http.ResponseController] can set a read deadline.
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

// dropBody bounds the time for which net/http waits for what was not read of a body. It reads on before it sends the
// answer, for the sake of the connection and of clients that listen only when they have sent everything. Where the
// server's ReadTimeout ends that earlier, it stays at that.
func (x *exchange) dropBody() {
	if x.readWhole || x.r.Body == nil || x.r.Body == http.NoBody {
		return
	}
	deadline := time.Now().Add(dropTimeout)
	if end := x.started.Add(x.h.timeout()); end.Before(deadline) {
		deadline = end
	}
	server, _ := x.r.Context().Value(http.ServerContextKey).(*http.Server)
	if server != nil && server.ReadTimeout > 0 && x.started.Add(server.ReadTimeout).Before(deadline) {
		return
	}
	_ = http.NewResponseController(x.w).SetReadDeadline(deadline)
}

func (x *exchange) readError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return refuse(http.StatusRequestEntityTooLarge, &quietError{"the body is over the limit of a middleware", err})
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(http.StatusServiceUnavailable, &quietError{"the body did not arrive in time: a proxy is slow, or a stranger is", err})
	}
	return refuse(http.StatusBadRequest, &quietError{"the body broke off or is malformed", err})
}

// A quietError does not say what caused it, since network errors name the peer's address, which is personal.
type quietError struct {
	text  string
	cause error
}

func (e *quietError) Error() string { return "mailtrapwebhook: " + e.text }
func (e *quietError) Unwrap() error { return e.cause }

// # De-duplication

// reserve takes from the delivery the events that have been handled before or are another delivery's now.
func (x *exchange) reserve() error {
	d, h := x.delivery, x.h
	if x.ctx.Err() != nil {
		return refuse(http.StatusServiceUnavailable, errNoTime)
	}
	if keys := nonEmpty(d.Keys); h.Dedup != nil && len(keys) > 0 {
		lease := h.timeout() + leaseSlack
		x.leased = time.Now().Add(lease)
		var reservations []Reservation
		err := inTime(x.ctx, func(ctx context.Context) (err error) {
			reservations, err = h.Dedup.Reserve(ctx, keys, lease)
			return err
		})
		if err == nil && len(reservations) != len(keys) {
			err = fmt.Errorf("%d reservations for %d keys", len(reservations), len(keys))
		}
		if err != nil {
			x.logPanic(err)
			return refuse(http.StatusServiceUnavailable, fmt.Errorf("mailtrapwebhook: Dedup cannot reserve: %w", err))
		}
		if err := x.keepNew(reservations); err != nil {
			return err
		}
	}
	x.keepOwn()
	return nil
}

// keepOwn keeps what has to be known of the events once their callbacks have them: these may do with the delivery and its
// events what they like, and one that is abandoned may still be doing it.
func (x *exchange) keepOwn() {
	x.events, x.keys = slices.Clone(x.delivery.Events), slices.Clone(x.delivery.Keys)
	x.results = make([]result, len(x.events))
	x.raws, x.unknown = make([]string, len(x.events)), make([]bool, len(x.events))
	for i, ev := range x.events {
		x.raws[i] = rawOf(ev)
		_, x.unknown[i] = ev.(*UnknownEvent)
	}
}

func rawOf(ev Event) string {
	switch ev := ev.(type) {
	case *SendingWebhookEvent:
		return ev.Raw
	case *ActivityLogWebhookEvent:
		return ev.Raw
	case *InboundWebhookEvent:
		return ev.Raw
	case *UnknownEvent:
		return ev.Raw
	}
	return ""
}

// again returns event i as it was before its callback had it.
func (x *exchange) again(i int) Event {
	ev, err := decodeOne([]byte(x.raws[i]))
	switch {
	case err != nil:
		return &UnknownEvent{Raw: x.raws[i], Err: err}
	case x.unknown[i]: // also where the event alone can be read, and the body had no room for its changes
		return &UnknownEvent{Event: ev.Name(), Raw: x.raws[i]}
	}
	return ev
}

// key returns the key of event i.
func (x *exchange) key(i int) string {
	x.makeKeys.Do(func() {
		if x.keys != nil {
			return
		}
		keys := make([]string, len(x.raws))
		for i := range keys {
			keys[i] = x.again(i).Key()
		}
		x.keys = x.deliveryKeys(keys)
	})
	return x.keys[i]
}

// keepNew drops the events from the delivery that are not reserved.
func (x *exchange) keepNew(reservations []Reservation) error {
	d := x.delivery
	events, keys := make([]Event, 0, len(d.Events)), make([]string, 0, len(d.Keys))
	unanswered := false
	for i, ev := range d.Events {
		reservation := Reserved
		if d.Keys[i] != "" {
			reservation, reservations = reservations[0], reservations[1:]
		}
		switch reservation {
		case Reserved:
			events, keys = append(events, ev), append(keys, d.Keys[i])
		case Handled:
			d.Duplicates++
		case Held:
			x.report.Held++
		default:
			unanswered = true
		}
	}
	d.Events, d.Keys = events, keys
	x.report.Duplicates = d.Duplicates
	if unanswered {
		x.settle(nil, keys)
		return refuseBecause(http.StatusServiceUnavailable, "Dedup gave a Reservation that is none of the constants:"+
			" let Reserve return one for each key, or an error")
	}
	return nil
}

func nonEmpty(keys []string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return key == "" })
}

// commit tells the store what became of the events, except those whose callbacks still run.
func (x *exchange) commit() error {
	var done, undone []string
	for i, key := range x.keys {
		switch x.results[i] {
		case handled, dropped:
			done = append(done, key)
		case failed, unstarted:
			undone = append(undone, key)
		}
	}
	x.settle(done, undone)
	return nil
}

// settle marks the keys of events that are done and frees those of events that are not. An error changes nothing of the
// answer: the work is done, and what is not freed frees itself when its lease ends. When that has happened a key may
// be another delivery's already, so that it is freed no more.
func (x *exchange) settle(done, undone []string) {
	if x.h.Dedup == nil {
		return
	}
	if keys := nonEmpty(done); len(keys) > 0 {
		x.tellStore("commit", func(ctx context.Context) error { return x.h.Dedup.Commit(ctx, keys) })
	}
	if keys := nonEmpty(undone); len(keys) > 0 && time.Now().Before(x.leased) {
		x.tellStore("release", func(ctx context.Context) error {
			ctx, cancel := context.WithDeadline(ctx, x.leased)
			defer cancel()
			return x.h.Dedup.Release(ctx, keys)
		})
	}
}

func (x *exchange) tellStore(verb string, call func(context.Context) error) {
	timeout := settleTimeout
	select {
	case <-x.ended: // the answer is given, so that nobody waits
	default:
		if left := answerTime - time.Since(x.started); left > 0 {
			timeout = min(timeout, left/2) // the other half is for the other call
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), timeout)
	defer cancel()
	if err := inTime(ctx, call); err != nil {
		x.logPanic(err)
		x.log(slog.LevelError, "mailtrapwebhook: Dedup failed; events may be handled again", err, "call", verb)
	}
}

// # Callbacks

// callBack hands the events to OnEvent, one by one, or to OnDelivery, all at once.
func (x *exchange) callBack() error {
	d, h := x.delivery, x.h
	switch {
	case len(x.events) == 0:
	case h.OnEvent != nil:
		errs := x.call(len(x.events), h.eventTimeout(), func(ctx context.Context, i int) error {
			return h.OnEvent(ctx, x.events[i])
		})
		for i, err := range errs {
			x.results[i] = x.judge(i, err)
		}
	default:
		err := x.call(1, h.timeout(), func(ctx context.Context, _ int) error { return h.OnDelivery(ctx, d) })[0]
		for i := range x.events {
			x.results[i] = x.judge(i, err)
		}
	}
	return nil
}

// call makes a number of calls, each with its share of the time.
func (x *exchange) call(n int, share time.Duration, f func(ctx context.Context, i int) error) []error {
	c := &calls{
		ctx:     x.ctx,
		f:       f,
		share:   min(share, x.h.timeout()),
		abandon: func() { x.users.Add(1) },
		late:    x.late,
		errs:    make([]error, n),
	}
	return c.run(cmp.Or(x.h.Concurrency, 1))
}

// judge returns what became of event i, given what its callback returned. The methods of that error are the caller's code
// and may panic, which must not keep the other events from being judged.
func (x *exchange) judge(i int, err error) (r result) {
	if panicked := protect(func() error {
		r = x.judgeError(i, err)
		return nil
	}); panicked != nil {
		x.logPanic(panicked, "key", x.key(i))
		if x.failure == nil {
			x.failure, x.failedKey = panicked, x.key(i)
		}
		return failed
	}
	return r
}

func (x *exchange) judgeError(i int, err error) result {
	if err == nil {
		return handled
	}
	x.logPanic(err, "key", x.key(i))
	why := ""
	switch {
	case err == errUnstarted:
		return unstarted
	case isPermanent(err):
		why = "its callback failed permanently"
	case x.tooOld(i):
		why = "it failed and is older than GiveUpAfter"
	case x.failure == nil:
		x.failure, x.failedKey = err, x.key(i)
	}
	switch {
	case why != "":
		x.log(slog.LevelError, "mailtrapwebhook: event dropped: "+why, err,
			"key", x.key(i), "name", keyName(x.again(i).Name()))
		return dropped
	case err == errOverran:
		return overran
	}
	return failed
}

func (x *exchange) tooOld(i int) bool {
	if x.h.GiveUpAfter <= 0 {
		return false
	}
	happened := x.again(i).Time()
	return !happened.IsZero() && x.started.Sub(happened) > x.h.GiveUpAfter
}

// late is told when a callback that was abandoned has returned after all: its events are then no longer in doubt.
func (x *exchange) late(call int, err error) {
	defer x.unuse()
	<-x.ended
	var done, undone []string
	for i := range x.results {
		if x.results[i] != overran || x.h.OnEvent != nil && i != call {
			continue
		}
		switch x.judge(i, err) {
		case handled, dropped:
			done = append(done, x.key(i))
		default:
			undone = append(undone, x.key(i))
		}
	}
	x.settle(done, undone)
}

// outcome counts the results and is the error that the answer is to give.
func (x *exchange) outcome() error {
	report := &x.report
	for _, r := range x.results {
		switch r {
		case handled:
			report.Handled++
		case dropped:
			report.Dropped++
		case failed, overran:
			report.Failed++
		}
	}
	switch {
	case report.Failed > 0:
		if x.h.OnDelivery != nil {
			return fmt.Errorf("mailtrapwebhook: OnDelivery failed: %w", x.failure)
		}
		return fmt.Errorf("mailtrapwebhook: OnEvent failed, first for the event with key %s: %w", x.failedKey, x.failure)
	case report.Held > 0:
		return refuseBecause(http.StatusServiceUnavailable, "another delivery holds events of this one:"+
			" the retry will find them handled or free")
	case slices.Contains(x.results, unstarted):
		return refuse(http.StatusServiceUnavailable, errNoTime)
	}
	return nil
}

var errNoTime = fmt.Errorf("mailtrapwebhook: %w", errUnstarted)

// # Answering

// answer answers the request with the status that goes with err, and says so.
func (x *exchange) answer(err error) {
	if err == errTaken {
		err = nil
	}
	x.conclude(err)
	x.dropBody()
	status := x.report.Status
	switch status {
	case http.StatusOK: // nothing else: "any other status triggers retry"
		x.w.WriteHeader(status)
	case http.StatusUnauthorized:
		x.w.Header().Set("WWW-Authenticate", `Basic realm="webhook", charset="UTF-8"`)
	case http.StatusMethodNotAllowed:
		x.w.Header().Set("Allow", http.MethodPost)
	case http.StatusServiceUnavailable:
		x.w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	if status != http.StatusOK {
		http.Error(x.w, http.StatusText(status), status)
	}
	if x.h.Observe != nil {
		x.logPanic(protect(func() error {
			x.h.Observe(x.r.Context(), x.report)
			return nil
		}))
	}
}

// conclude completes the report and logs it.
func (x *exchange) conclude(err error) {
	report := &x.report
	report.Err = err
	report.Duration = time.Since(x.started)
	report.Unstarted = report.Events - report.Handled - report.Duplicates - report.Dropped - report.Failed - report.Held
	report.Status = http.StatusOK
	level := slog.LevelDebug
	if err != nil {
		report.Status = http.StatusInternalServerError
		var refused *refusalError
		if errors.As(err, &refused) {
			report.Status = refused.status
		}
		level = slog.LevelWarn
		if report.Status >= http.StatusInternalServerError {
			level = slog.LevelError
		}
	}
	args := []any{"status", report.Status}
	if err != nil {
		args = append(args, "err", textOf(err))
	}
	if report.Events > 0 {
		args = append(args, "events", report.Events, "handled", report.Handled, "duplicates", report.Duplicates,
			"dropped", report.Dropped, "failed", report.Failed, "held", report.Held, "unstarted", report.Unstarted)
	}
	x.log(level, "mailtrapwebhook: request answered", nil, args...)
}

func (x *exchange) log(level slog.Level, message string, err error, args ...any) {
	if err != nil {
		args = append(args, "err", textOf(err))
	}
	x.h.logger().Log(x.r.Context(), level, message, args...)
}

// textOf returns the text of an error, which may be the caller's and panic.
func textOf(err error) (text string) {
	if panicked := protect(func() error {
		text = err.Error()
		return nil
	}); panicked != nil {
		return fmt.Sprintf("(the Error method of a %T panicked)", err)
	}
	return text
}

// logPanic logs err if it is a panic, with the stack of the code that panicked.
func (x *exchange) logPanic(err error, args ...any) {
	if panicked, ok := err.(*panicError); ok {
		args = append(args, "stack", panicked.stack)
		x.log(slog.LevelError, "mailtrapwebhook: a function that Handler was given panicked", err, args...)
	}
}
