package mailtrapwebhook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
)

// Format is one of the two payload formats that a webhook can be set to. The
// zero Format is neither.
type Format int

const (
	FormatJSON      Format = iota + 1 // an object with an events array
	FormatJSONLines                   // one event object a line
)

// String returns "JSON", "JSON Lines" or "unknown".
func (f Format) String() string {
	switch f {
	case FormatJSON:
		return "JSON"
	case FormatJSONLines:
		return "JSON Lines"
	}
	return "unknown"
}

// A DecodeError says what is wrong with a body or an event, and where. Its text
// quotes nothing of the body.
type DecodeError struct {
	Offset int64 // of the byte at fault in the body, from 0
	Line   int   // of that byte, from 1
	Err    error // what is wrong; [io.ErrUnexpectedEOF] if JSON is cut off
}

// Error says what is wrong and where.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("mailtrapwebhook: line %d, offset %d: %v", e.Line, e.Offset, e.Err)
}

// Unwrap returns Err.
func (e *DecodeError) Unwrap() error { return e.Err }

const (
	errEmpty    reason = "the body is empty"
	errNoBody   reason = "the body is neither a JSON object nor an array"
	errNoObject reason = "the element is not an object"
	errTooLarge reason = "the event is larger than MaxEventBytes"
)

var errTooManyEvents = errors.New("mailtrapwebhook: the delivery has more events than MaxEvents:" +
	" raise it if Mailtrap sent them")

// Parse decodes a body of either format. The content decides which format it is.
// Parse does not verify the signature: use [Handler] or [Verifier.Parse].
//
// A body that begins with [ is an array of events. An object with an events
// array is an envelope. Any other object that closes on its first line makes the
// body JSON Lines, and one that spans lines is a single event.
//
// An element that is no event, or of an unknown kind, is an [*UnknownEvent]
// among the others, as is a broken line of JSON Lines. A field that cannot be
// read is zero, and the event's Err names it. Parse returns an error, a
// [*DecodeError], only if the body as a whole is broken: empty, cut off, with a
// syntax error outside of JSON Lines, or with a broken first line. It then also
// returns the events before the fault.
func Parse(body []byte) ([]Event, error) {
	events, _, err := decode(body, len(body))
	return events, err
}

// decode decodes a body of at most max events. It neither keeps nor changes the
// body.
func decode(body []byte, max int) ([]Event, Format, error) {
	const size = 256 // of the smallest usual event
	d := Decoder{in: input{buf: body, limit: maxEvent}}
	events := make([]Event, 0, min(len(body)/size+1, 512, max))
	for {
		ev, err := d.Decode()
		switch {
		case err == io.EOF:
			return events, d.format, nil
		case err != nil:
			return events, d.format, err
		case len(events) == max:
			return nil, d.format, errTooManyEvents
		}
		events = append(events, ev)
	}
}

// decodeOne decodes a text that is one event.
func decodeOne(text []byte) (Event, error) {
	d := Decoder{in: input{buf: text, limit: maxEvent}}
	if _, ok := d.in.peek(); !ok {
		return nil, d.in.errorAt(0, errEmpty)
	}
	ev, size := d.event(d.in.rest(), 0)
	if ev == nil {
		return nil, d.syntaxError()
	}
	d.in.pass(size)
	if _, ok := d.in.peek(); ok {
		return nil, d.in.errorAt(0, jsonscan.TrailingBytes)
	}
	return ev, nil
}

// A Decoder decodes a body of either format from a stream. Each event is
// returned as soon as it has been read. Memory is bounded by MaxEventBytes and
// does not grow with the stream. Events are those of [Parse].
//
// Use a Decoder for files and other trusted input. Never decode a request before
// the last byte of its body has been verified: see [Verifier.VerifyRequest].
type Decoder struct {
	// MaxEventBytes limits the text of an event, or of a line of JSON Lines. For
	// a larger one the Decoder returns an [*UnknownEvent] without its text. What
	// is beyond MaxEventBytes is skipped and not checked. 0 means 1 MiB; 512 MiB is
	// the most. Do not change it after the first Decode.
	MaxEventBytes int

	in      input
	scanner jsonscan.Scanner
	fields  fieldReader

	state  state
	err    error // that ended the decoding
	format Format
	depth  int  // of the elements of the array: 1 in an array, 2 in an envelope
	inside bool // an element of the array has been passed
}

// A state says where in a body a Decoder is.
type state int

const (
	atStart    state = iota
	inArray          // of events
	inEnvelope       // behind an array of events
	inLines
	atEnd // behind the last event
)

// NewDecoder returns a [Decoder] that reads from r. It may read beyond the end of
// the last event.
func NewDecoder(r io.Reader) *Decoder { return &Decoder{in: input{src: r}} }

// Decode returns the next event, or [io.EOF] after the last. A body that is
// broken or empty is a [*DecodeError]. An error of the reader is returned as it
// is. After an error, Decode returns the same error again.
func (d *Decoder) Decode() (Event, error) {
	for d.err == nil {
		ev, err := d.next()
		if ev != nil {
			return ev, nil
		}
		d.err = err
	}
	return nil, d.err
}

// Events returns the remaining events, each with a nil error. A last element
// without an event has the error that ended the decoding, unless that is
// [io.EOF]. The sequence can be used once.
func (d *Decoder) Events() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			ev, err := d.Decode()
			if err == io.EOF || !yield(ev, err) || err != nil {
				return
			}
		}
	}
}

// Format returns the format of the body, or 0 before the first event.
func (d *Decoder) Format() Format { return d.format }

// next takes one step. It returns an event, an error, or neither to go on.
func (d *Decoder) next() (Event, error) {
	switch d.state {
	case atStart:
		return d.start()
	case inArray:
		return d.element()
	case inEnvelope:
		return nil, d.envelope()
	case inLines:
		return d.line()
	}
	return nil, d.end()
}

func (d *Decoder) start() (Event, error) {
	if d.in.src != nil {
		d.in.limit = d.maxEventBytes()
	}
	if err := d.passByteOrderMark(); err != nil {
		return nil, err
	}
	switch c, ok := d.in.peek(); {
	case !ok:
		return nil, d.in.endError(errEmpty)
	case c == '[':
		d.in.pass(1)
		d.enterArray(1)
		return nil, nil
	case c == '{':
		return d.firstObject()
	}
	return nil, d.in.errorAt(0, errNoBody)
}

// maxEvent is the most that MaxEventBytes can be, and the limit of Parse. A
// [jsonscan.Span] counts in 32 bits, also behind the text, where the values of
// odd fields stand. These can be three times as long as the text.
const maxEvent = 512 << 20

func (d *Decoder) maxEventBytes() int {
	if d.MaxEventBytes <= 0 {
		return 1 << 20
	}
	return min(d.MaxEventBytes, maxEvent)
}

func (d *Decoder) passByteOrderMark() error {
	mark := []byte("\uFEFF")
	for len(d.in.rest()) < len(mark) && bytes.HasPrefix(mark, d.in.rest()) {
		if !d.in.more() {
			return d.in.readError()
		}
	}
	if bytes.HasPrefix(d.in.rest(), mark) {
		d.in.pass(len(mark))
	}
	return nil
}

func (d *Decoder) enterArray(depth int) {
	d.state, d.format = inArray, FormatJSON
	d.depth, d.inside = depth, false
}

// firstObject reads the object that the body begins with. It returns no event
// for an envelope.
func (d *Decoder) firstObject() (Event, error) {
	line := d.in.lineAt(0)
	ev, err := d.eventOrEnvelope(line)
	if ev == nil {
		return nil, err
	}
	if d.in.lineAt(0) > line {
		d.state, d.format = atEnd, FormatJSON
		return ev, nil
	}
	// A first line that is broken makes the body broken.
	if err := d.passLineEnd(); err != nil {
		return nil, err
	}
	d.state, d.format = inLines, FormatJSONLines
	return ev, nil
}

// eventOrEnvelope returns the event that the object at pos, on that line, is. In
// an envelope it enters the array of events and returns no event.
func (d *Decoder) eventOrEnvelope(line int) (Event, error) {
	ev, size, envelope := d.object(d.in.rest(), 0, fieldEvents)
	switch {
	case envelope:
		d.in.pass(size + len("["))
		d.enterArray(2)
		return nil, nil
	case ev != nil:
		d.in.pass(size)
		return ev, nil
	case !d.cutOff() && !d.beyondLimit():
		return nil, d.syntaxError()
	}
	// The object is not whole yet. An event must be in memory as a whole, and an
	// envelope need not. Which of them it is shows as its members are passed one by
	// one.
	offset := d.in.offset()
	d.in.hold()
	d.in.pass(len("{"))
	array, err := d.passMembers(true)
	if array || err != nil {
		return nil, err
	}
	if !d.in.rewind() {
		return tooLarge(offset, line), nil
	}
	if ev, size, _ = d.object(d.in.rest(), 0, jsonscan.None); ev == nil {
		return nil, d.syntaxError()
	}
	d.in.pass(size)
	return ev, nil
}

// passMembers passes over the members of the outermost object, up to its end or
// into the next array of events, in which case it reports true.
func (d *Decoder) passMembers(first bool) (array bool, err error) {
	for ; ; first = false {
		c, ok := d.in.peek()
		switch {
		case !ok:
			return false, d.in.endError(jsonscan.CutOff)
		case c == '}':
			d.in.pass(1)
			return false, nil
		case !first && c != ',':
			return false, d.in.errorAt(0, jsonscan.MissingComma)
		case !first:
			d.in.pass(1)
		}
		isEvents, err := d.passKey()
		if err != nil {
			return false, err
		}
		if c, _ := d.in.peek(); c == '[' && isEvents {
			d.in.release()
			d.in.pass(1)
			d.enterArray(2)
			return true, nil
		}
		if _, err := d.passValue(); err != nil {
			return false, err
		}
	}
}

// passKey passes over an object key and its colon, and reports whether the key
// is events.
func (d *Decoder) passKey() (isEvents bool, err error) {
	if c, ok := d.in.peek(); ok && c != '"' {
		return false, d.in.errorAt(0, jsonscan.BadKey)
	}
	key, err := d.passValue()
	if err != nil {
		return false, err
	}
	isEvents = string(key) == `"events"`
	if bytes.IndexByte(key, '\\') >= 0 {
		isEvents = jsonscan.Unquote(string(key)) == `"events"`
	}
	switch c, ok := d.in.peek(); {
	case !ok:
		return false, d.in.endError(jsonscan.CutOff)
	case c != ':':
		return false, d.in.errorAt(0, jsonscan.MissingColon)
	}
	d.in.pass(1)
	return isEvents, nil
}

// passValue passes over a value in the outermost object. It returns the text of
// the value, which is good until more is read, and none if that is too large.
func (d *Decoder) passValue() (text []byte, err error) {
	d.in.peek()
	size := d.value(d.in.rest(), 1)
	if d.cutOff() {
		d.in.awaitValue()
		size = d.value(d.in.rest(), 1)
	}
	switch fault, _ := d.scanner.Fault(); {
	case fault != "" && d.beyondLimit():
		d.in.skipValue()
		return nil, nil
	case fault != "":
		return nil, d.syntaxError()
	}
	text = d.in.rest()[:size]
	d.in.pass(size)
	return text, nil
}

// envelope goes on behind an array of events.
func (d *Decoder) envelope() error {
	array, err := d.passMembers(false)
	if err == nil && !array {
		d.state = atEnd
	}
	return err
}

// element reads the next element of an array of events.
func (d *Decoder) element() (Event, error) {
	c, ok := d.in.peek()
	switch {
	case !ok:
		return nil, d.in.endError(jsonscan.CutOff)
	case c == ']':
		d.in.pass(1)
		if d.state = atEnd; d.depth == 2 {
			d.state = inEnvelope
		}
		return nil, nil
	case d.inside && c != ',':
		return nil, d.in.errorAt(0, jsonscan.MissingComma)
	case d.inside:
		d.in.pass(1)
		if _, ok = d.in.peek(); !ok {
			return nil, d.in.endError(jsonscan.CutOff)
		}
	}
	d.inside = true
	ev, size := d.event(d.in.rest(), d.depth)
	if ev == nil && d.cutOff() {
		d.in.awaitValue()
		ev, size = d.event(d.in.rest(), d.depth)
	}
	switch {
	case ev == nil && d.beyondLimit():
		offset, line := d.in.offset(), d.in.lineAt(0)
		d.in.skipValue()
		return tooLarge(offset, line), nil
	case ev == nil:
		return nil, d.syntaxError()
	}
	d.in.pass(size)
	return ev, nil
}

// line reads the next line of JSON Lines that is not empty.
func (d *Decoder) line() (Event, error) {
	if _, ok := d.in.peek(); !ok {
		return nil, d.end()
	}
	offset := d.in.offset()
	line, ok := d.in.line()
	if d.in.readError() != nil && len(line) == len(d.in.rest()) {
		return nil, d.in.readError() // the line may be cut off
	}
	if !ok {
		return tooLarge(offset, d.in.lineAt(0)), nil
	}
	ev := d.lineEvent(line)
	d.in.pass(len(line))
	return ev, nil
}

const lineBlanks = " \t\r" // white space within a line

// lineEvent returns the event that a line is.
func (d *Decoder) lineEvent(line []byte) Event {
	for jsonscan.IsBlank(line[len(line)-1]) {
		line = line[:len(line)-1]
	}
	ev, size := d.event(line, 0)
	if ev == nil {
		fault, at := d.scanner.Fault()
		return d.unknown(line, at, fault)
	}
	if tail := bytes.TrimLeft(line[size:], lineBlanks); len(tail) > 0 {
		return d.unknown(line, len(line)-len(tail), jsonscan.TrailingBytes)
	}
	return ev
}

// passLineEnd passes over the white space that the line ends in. Anything else
// is an error.
func (d *Decoder) passLineEnd() error {
	for {
		rest := d.in.rest()
		n := len(rest) - len(bytes.TrimLeft(rest, lineBlanks))
		d.in.pass(n)
		switch {
		case n < len(rest) && rest[n] == '\n':
			return nil
		case n < len(rest):
			return d.in.errorAt(0, jsonscan.TrailingBytes)
		case !d.in.more():
			return d.in.readError()
		}
	}
}

// end returns [io.EOF] if nothing follows.
func (d *Decoder) end() error {
	if _, ok := d.in.peek(); ok {
		return d.in.errorAt(0, jsonscan.TrailingBytes)
	}
	if err := d.in.readError(); err != nil {
		return err
	}
	return io.EOF
}

// event decodes the element that begins the text, which stands in depth arrays
// and objects. It returns no event if the text is not JSON or is cut off, which
// the scanner then says. The text is a part of rest, from its beginning.
func (d *Decoder) event(text []byte, depth int) (ev Event, size int) {
	if text[0] == '{' {
		ev, size, _ = d.object(text, depth, jsonscan.None)
		return ev, size
	}
	size = d.value(text, depth)
	switch fault, _ := d.scanner.Fault(); {
	case fault != "":
		return nil, size
	case size > d.in.limit:
		return tooLarge(d.in.offset(), d.in.lineAt(0)), size
	}
	return d.unknown(text[:size], 0, errNoObject), size
}

// object is event for an object. It stops at an array that is the member
// arrayAt, and then reports true and returns the index of the array.
func (d *Decoder) object(text []byte, depth, arrayAt int) (ev Event, size int, stopped bool) {
	d.scanner.Reset(text)
	size, stopped = d.scanner.Find(fieldKeys, depth, arrayAt, &d.fields.members)
	if fault, _ := d.scanner.Fault(); fault != "" || stopped {
		return nil, size, stopped
	}
	if size > d.in.limit {
		return tooLarge(d.in.offset(), d.in.lineAt(0)), size, false
	}
	ev = d.fields.read(text[:size])
	if d.fields.fault != "" {
		setErr(ev, d.in.errorAt(d.fields.faultAt, d.fields.fault))
	}
	return ev, size, false
}

func setErr(ev Event, err error) {
	switch ev := ev.(type) {
	case *SendingWebhookEvent:
		ev.Err = err
	case *ActivityLogWebhookEvent:
		ev.Err = err
	case *InboundWebhookEvent:
		ev.Err = err
	case *UnknownEvent:
		ev.Err = err
	}
}

// value passes over the value that begins the text.
func (d *Decoder) value(text []byte, depth int) (size int) {
	d.scanner.Reset(text)
	size = d.scanner.Value(0, depth)
	// A number that the text ends in may go on, unless it stands alone.
	if fault, _ := d.scanner.Fault(); fault == "" && depth > 0 && size == len(text) && isNumber(text) {
		d.scanner.CutOff()
	}
	return size
}

func isNumber(text []byte) bool { return text[0] == '-' || '0' <= text[0] && text[0] <= '9' }

func (d *Decoder) unknown(raw []byte, at int, why error) *UnknownEvent {
	return &UnknownEvent{Raw: string(raw), Err: d.in.errorAt(at, why)}
}

// tooLarge returns the event for one that begins there and is too large.
func tooLarge(offset int64, line int) *UnknownEvent {
	return &UnknownEvent{Err: &DecodeError{Offset: offset, Line: line, Err: errTooLarge}}
}

// cutOff reports whether the text that was scanned last is cut off.
func (d *Decoder) cutOff() bool {
	fault, _ := d.scanner.Fault()
	return fault == jsonscan.CutOff
}

// beyondLimit reports whether the fault in what was scanned last is beyond the
// limit of a value. Such a fault must not count: how much of a large value is in
// memory, and so is scanned, is up to the reader.
func (d *Decoder) beyondLimit() bool {
	_, at := d.scanner.Fault()
	return at > d.in.limit
}

// syntaxError returns the error for the fault in what was scanned last, which
// is rest.
func (d *Decoder) syntaxError() error {
	fault, at := d.scanner.Fault()
	if fault == jsonscan.CutOff {
		return d.in.endError(fault)
	}
	return d.in.errorAt(at, fault)
}
