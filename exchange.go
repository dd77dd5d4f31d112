package mailtrapwebhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An exchange is one request on its way through a [Handler].
type exchange struct {
	h         *Handler
	w         http.ResponseWriter
	r         *http.Request // its context ends with Timeout, not with the client
	log       requestLog
	started   time.Time
	verifier  *Verifier
	signature string
	body      bodyReader
	delivery  *Delivery
	batch     *batch
	oddity    error // the first Err of an event
	report    Report
}

// serve takes the request through its steps. Its error says why the answer is
// not 200; a [*refusalError] says which status it is instead of 500.
func (x *exchange) serve() error {
	if err := x.admit(); err != nil {
		return err
	}
	if err := x.readBody(); err != nil {
		return err
	}
	if err := x.verify(); err != nil {
		return err
	}
	fault, err := x.decode()
	if err != nil {
		return err
	}
	if fault != nil {
		return x.handleMalformed(fault)
	}
	if err := x.batch.reserve(x.r.Context()); err != nil {
		return err
	}
	x.batch.callBack(x.r.Context(), x.delivery)
	x.batch.finish()
	return x.batch.outcome()
}

// admit makes the checks that need no byte of the body.
func (x *exchange) admit() error {
	if err := x.h.checkSetup(); err != nil {
		return err // before anything is called that may not be set
	}
	if x.r.Method != http.MethodPost {
		return refuse(http.StatusMethodNotAllowed, "the request is not a POST: Mailtrap posts")
	}
	if err := checkType(x.r.Header); err != nil {
		return err
	}
	for _, guard := range x.h.Guards {
		if err := guard(x.r); err != nil {
			return &refusalError{guardStatus(err), err}
		}
	}
	if err := x.chooseVerifier(); err != nil {
		return err
	}
	// Ask for the header before the body: a stranger without one costs nothing.
	var err error
	if x.signature, err = signatureOf(x.r); err != nil {
		return &refusalError{http.StatusBadRequest, err}
	}
	return nil
}

// checkType refuses what is plainly no delivery. The type decides nothing
// else, because proxies and function platforms change it: the first bytes of
// the body tell the format.
func checkType(header http.Header) error {
	for _, line := range header.Values("Content-Encoding") {
		for coding := range strings.SplitSeq(line, ",") {
			coding = strings.TrimSpace(coding)
			if coding != "" && !strings.EqualFold(coding, "identity") {
				return refuse(http.StatusUnsupportedMediaType,
					"the body has a Content-Encoding: keep proxies from encoding it")
			}
		}
	}
	major, _, _ := strings.Cut(header.Get("Content-Type"), "/")
	switch strings.ToLower(strings.TrimSpace(major)) {
	case "multipart", "image", "audio", "video", "font":
		return refuse(http.StatusUnsupportedMediaType,
			"the Content-Type is not that of JSON or text: Mailtrap did not send this")
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
		return &refusalError{guardStatus(err), err}
	case err != nil:
		return &refusalError{http.StatusServiceUnavailable,
			&explainedError{"VerifierFor failed: " + unprefixed(err), err}}
	case verifier == nil:
		return refuse(http.StatusForbidden, "VerifierFor returned no verifier: the tenant is unknown")
	}
	x.verifier = verifier
	return nil
}

// verify checks the signature. Everything before it treats the request as a
// stranger's, and everything behind it as Mailtrap's.
func (x *exchange) verify() error {
	secret, err := match(x.signature, x.verifier.current(), x.body.parts()...)
	if err != nil {
		return &refusalError{refusal(err), x.explain(err)}
	}
	x.delivery = &Delivery{
		SecretIndex: secret,
		ReceivedAt:  x.started,
		Request:     x.r.WithContext(x.r.Context()), // a copy
	}
	x.delivery.Request.Body = http.NoBody
	return nil
}

const (
	// maxDiagnosed and diagnoseEvery bound what forged requests can cost:
	// Diagnose signs and copies the body dozens of times.
	maxDiagnosed  = 1 << 20
	diagnoseEvery = time.Minute
)

// explain returns what is known of why the signature does not match.
func (x *exchange) explain(err error) error {
	switch {
	case errors.Is(err, ErrNoSecret):
		return err // the verifier of a VerifierFor: the request is not to blame
	case int64(x.body.size) < x.r.ContentLength:
		return bodyReadBefore(err)
	case !errors.Is(err, ErrInvalidSignature), x.body.size > maxDiagnosed:
		return err
	case !x.h.mayDiagnose(x.started):
		return &explainedError{"the signature does not match the body: the Handler explains one mismatch a minute," +
			" so look for that line, or wait a minute and send it again", err}
	}
	body, done := x.body.join(false)
	defer done()
	if found := Diagnose(body, x.signature, x.verifier.current()...); found != nil {
		return found
	}
	return err // the secrets were replaced in between
}

// decode decodes the verified body. A fault means that its structure is broken
// and that OnMalformed takes it.
func (x *exchange) decode() (fault, err error) {
	d, h := x.delivery, x.h
	handedOn := h.OnDelivery != nil || h.OnMalformed != nil
	body, done := x.body.join(handedOn)
	defer done()
	x.body.freeChunks() // early, so that other requests use the chunks meanwhile
	d.Events, d.Format, fault = decode(body, h.maxEvents())
	x.report.Format = d.Format
	x.report.Events = len(d.Events)
	x.countEvents()
	if fault == errTooManyEvents { // OnMalformed must not see it: the JSON is sound
		return nil, refuse(http.StatusRequestEntityTooLarge,
			"the delivery has more than MaxEvents, %d, events: raise it if Mailtrap sent them", h.maxEvents())
	}
	if fault != nil && h.OnMalformed == nil {
		return nil, &refusalError{http.StatusUnprocessableEntity, fault}
	}
	scope, err := x.scope()
	if err != nil {
		return nil, err
	}
	x.batch = x.newBatch(newItems(d.Events, scope, body))
	if handedOn {
		d.Body = body
	}
	return fault, nil
}

// countEvents counts the events that a person should look at.
func (x *exchange) countEvents() {
	for _, ev := range x.delivery.Events {
		if _, ok := ev.(*UnknownEvent); ok {
			x.report.Unknown++
		}
		if err := ev.fault(); err != nil {
			x.report.Unreadable++
			x.oddity = cmp.Or(x.oddity, err)
		}
	}
}

func (x *exchange) scope() (string, error) {
	if x.h.Scope == nil {
		return "", nil
	}
	scope := x.h.Scope(x.r)
	if scope == "" && x.h.needsScope() {
		return "", errors.New(`mailtrapwebhook: Scope returned "" although VerifierFor is set:` +
			" let it return the tenant's name")
	}
	return scope, nil
}

// handleMalformed hands a delivery with a fault to OnMalformed.
func (x *exchange) handleMalformed(fault error) error {
	x.batch.present(x.delivery)
	err, started := error(nil), false
	c := &calls{
		ctx: x.r.Context(), n: 1, share: x.h.timeout(),
		do: func(ctx *callContext, _ int) error { return x.h.OnMalformed(ctx, x.delivery, fault) },
		done: func(_ int, result error, returnedLate bool) {
			if returnedLate {
				x.log.panicked(result)
			} else {
				err, started = result, true
			}
			x.batch.account(result, returnedLate)
		},
	}
	c.run(1)
	if !started {
		return &refusalError{http.StatusServiceUnavailable, errNoTimeToStart}
	}
	switch {
	case isPermanent(err):
		x.log.line(slog.LevelError, "malformed delivery dropped", "err", textOf(err))
		x.report.Dropped = x.report.Events
		return nil
	case errors.Is(err, fault): // OnMalformed looked and did not take it
		x.report.Failed = x.report.Events
		return &refusalError{http.StatusUnprocessableEntity, err}
	case err != nil:
		x.report.Failed = x.report.Events
		x.log.panicked(err)
		return &explainedError{"OnMalformed failed: " + unprefixed(err), err}
	}
	x.log.line(slog.LevelWarn, "OnMalformed took a malformed delivery", "err", textOf(fault))
	x.report.Handled = x.report.Events
	return nil
}

// answer answers the request and reports it. Mailtrap: "any other status
// triggers retry", so that nothing but 200 acknowledges a delivery.
func (x *exchange) answer(err error) {
	x.log.panicked(err)
	x.conclude(err)
	x.limitDiscarding() // before WriteHeader, at which net/http reads what is left
	switch status := x.report.Status; status {
	case http.StatusOK:
		x.w.WriteHeader(status)
	case http.StatusUnauthorized:
		x.w.Header().Set("WWW-Authenticate", `Basic realm="webhook", charset="UTF-8"`)
	case http.StatusMethodNotAllowed:
		x.w.Header().Set("Allow", http.MethodPost)
	case http.StatusServiceUnavailable:
		x.w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	if status := x.report.Status; status != http.StatusOK {
		// The status alone: a stranger has no business with the reason.
		http.Error(x.w, http.StatusText(status), status)
	}
	if x.h.Observe != nil {
		x.log.panicked(protect(func() error {
			x.h.Observe(x.log.ctx, x.report)
			return nil
		}))
	}
}

// conclude completes the report and logs it.
func (x *exchange) conclude(err error) {
	r := &x.report
	r.Err = err
	if x.batch != nil && x.batch.final != nil {
		r.add(x.batch.final)
	}
	r.Unstarted = r.Events - r.Handled - r.Duplicates - r.Dropped - r.Failed - r.Held
	r.Status = http.StatusOK
	if err != nil {
		r.Status = http.StatusInternalServerError
		if refused, ok := err.(*refusalError); ok {
			r.Status = refused.status
		}
	}
	r.Duration = time.Since(x.started)
	args := []any{"status", r.Status, "duration", r.Duration.Round(time.Microsecond).String(), "bytes", r.BodyBytes}
	if err != nil {
		args = append(args, "err", textOf(err))
	}
	if x.delivery != nil && x.delivery.SecretIndex > 0 {
		args = append(args, "secret_index", x.delivery.SecretIndex) // an old one that is still in use
	}
	args = append(args, r.counts()...)
	if x.oddity != nil {
		args = append(args, "first_unreadable", textOf(x.oddity))
	}
	x.log.line(r.level(), "request answered", args...)
}

// add takes over the counts of a batch.
func (r *Report) add(counts *Report) {
	r.Handled, r.Duplicates, r.Dropped = counts.Handled, counts.Duplicates, counts.Dropped
	r.Failed, r.Held = counts.Failed, counts.Held
}

// level is how much a person should care about the request.
func (r *Report) level() slog.Level {
	switch {
	case r.Status == http.StatusServiceUnavailable && r.Held > 0 && r.Unstarted == 0:
		return slog.LevelInfo // another delivery is at work, and the retry sorts it out
	case r.Status >= http.StatusInternalServerError:
		return slog.LevelError
	case r.Status != http.StatusOK, r.Unreadable > 0:
		return slog.LevelWarn
	case r.Duplicates > 0:
		return slog.LevelInfo // or a repeated test would look as if nothing came
	}
	return slog.LevelDebug
}

// counts returns the report's numbers for the log: the usual ones always, and
// the others where they are not 0.
func (r *Report) counts() []any {
	if r.Events == 0 {
		return nil
	}
	args := []any{"events", r.Events, "handled", r.Handled}
	for _, c := range []struct {
		name string
		n    int
	}{
		{"duplicates", r.Duplicates}, {"dropped", r.Dropped}, {"failed", r.Failed}, {"held", r.Held},
		{"unstarted", r.Unstarted}, {"unknown", r.Unknown}, {"unreadable", r.Unreadable},
	} {
		if c.n != 0 {
			args = append(args, c.name, c.n)
		}
	}
	return args
}

// A refusalError is an error with the status that answers it.
type refusalError struct {
	status int
	err    error
}

func (e *refusalError) Error() string { return e.err.Error() }
func (e *refusalError) Unwrap() error { return e.err }

func refuse(status int, format string, args ...any) error {
	return &refusalError{status, fmt.Errorf("mailtrapwebhook: "+format, args...)}
}

// A requestLog logs about one request.
type requestLog struct {
	ctx    context.Context
	logger *slog.Logger
}

// line logs one line with the package's prefix. A Logger that panics must not
// end the process from a goroutine that nobody recovers.
func (l *requestLog) line(level slog.Level, message string, args ...any) {
	_ = protect(func() error {
		l.logger.Log(l.ctx, level, "mailtrapwebhook: "+message, args...)
		return nil
	})
}

// panicked logs err if it is a panic, with the stack of the code that panicked.
func (l *requestLog) panicked(err error, args ...any) {
	if panicked, ok := err.(*panicError); ok {
		args = append(args, "err", textOf(err), "stack", panicked.stack)
		l.line(slog.LevelError, "one of your functions panicked", args...)
	}
}

// textOf returns the text of an error. The error may be the caller's own, and
// its Error method may panic.
func textOf(err error) (text string) {
	if protect(func() error {
		text = err.Error()
		return nil
	}) != nil {
		return fmt.Sprintf("(the Error method of a %T panicked)", err)
	}
	return text
}

// unprefixed returns the text of err for an error that has the package's prefix
// itself.
func unprefixed(err error) string { return strings.TrimPrefix(textOf(err), "mailtrapwebhook: ") }
