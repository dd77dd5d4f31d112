package mailtrapwebhook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"

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
	errEmpty  reason = "the body is empty"
	errNoBody reason = "the body is neither a JSON object nor an array"
)

var errTooManyEvents = errors.New("mailtrapwebhook: the delivery has more events than MaxEvents")

// Parse decodes a body of either format. The content decides which format it
// is. Parse does not verify the signature: use [Handler] or [Verifier.Parse].
//
// A body that begins with [ is an array of events. An object with an events
// array is an envelope. Any other object that closes on its first line makes
// the body JSON Lines, and one that spans lines is a single event.
//
// An element that is no event, or of an unknown kind, is an [*UnknownEvent]
// among the others, as is a broken line of JSON Lines. A field that cannot be
// read is zero, and the event's Err names it.
//
// Parse returns a [*DecodeError] if the body as a whole is broken: if it is
// empty or cut off, or its first line is broken. Outside of JSON Lines, any
// syntax error breaks the body. Parse then also returns the events before the
// fault.
func Parse(body []byte) ([]Event, error) {
	events, _, err := decode(body, math.MaxInt)
	return events, err
}

// decode decodes a body. More events than most are errTooManyEvents. It neither
// keeps nor changes the body.
func decode(body []byte, most int) ([]Event, Format, error) {
	d := Decoder{in: input{buf: body, limit: maxEvent}}
	// Usual events take 256 bytes or more, and usual batches have 500 of
	// them. A hostile body must not claim memory that it has no events for.
	events := make([]Event, 0, min(len(body)/256+1, 512))
	for {
		ev, err := d.Decode()
		switch {
		case err == io.EOF:
			return events, d.format, nil
		case err != nil:
			return events, d.format, err
		case len(events) == most:
			return nil, d.format, errTooManyEvents
		}
		events = append(events, ev)
	}
}

// A Decoder decodes a body of either format from a stream. Each event is
// returned as soon as it has been read. Memory is bounded by MaxEventBytes and
// does not grow with the stream. Events are those of [Parse]: a broken line of
// JSON Lines is an [*UnknownEvent], but a broken first line ends the decoding. A
// Decoder reads one body.
//
// Use a Decoder for files and other trusted input. Never decode a request
// before the last byte of its body has been verified: see
// [Verifier.VerifyRequest].
type Decoder struct {
	// MaxEventBytes limits the text of an event, or of a line of JSON
	// Lines. For a larger one the Decoder returns an [*UnknownEvent]
	// without its text. What is beyond MaxEventBytes is skipped and not
	// checked. 0 means 1 MiB; 512 MiB is the most. Do not change it after
	// the first Decode.
	MaxEventBytes int

	in      input
	scanner jsonscan.Scanner
	fields  fieldReader

	state  state
	err    error // that ended the decoding
	format Format
	depth  int  // of the elements: 1 in an array, 2 in an envelope
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

// NewDecoder returns a [Decoder] that reads from r. It may read beyond the end
// of the last event.
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
	// A scalar is JSON, but no event. Senders of other things end here.
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
	// The reader may return fewer bytes than the mark has.
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
	// An event on one line may be a whole body in JSON, or in JSON Lines
	// the first of many. Taking it for JSON Lines is right for both.
	if d.in.lineAt(0) > line {
		d.state, d.format = atEnd, FormatJSON
		return ev, nil
	}
	// Nothing says that a body with a broken first line is JSON Lines: it
	// is broken as a whole.
	if err := d.passLineEnd(); err != nil {
		return nil, err
	}
	d.state, d.format = inLines, FormatJSONLines
	return ev, nil
}

// eventOrEnvelope returns the event that the object at pos, on that line, is.
// In an envelope it enters the array of events and returns no event.
func (d *Decoder) eventOrEnvelope(line int) (Event, error) {
	offset := d.in.offset()
	ev, size, envelope := d.object(d.in.rest(), 0, fieldEvents)
	switch {
	case envelope:
		d.in.pass(size + len("["))
		d.enterArray(2)
		return nil, nil
	case ev != nil:
		d.in.pass(size)
		return ev, nil
	case !d.cutOff() && !d.isTooLarge():
		return nil, d.syntaxError()
	}
	// The object is not whole, or large. An event must be in memory as a
	// whole, but an envelope need not. Passing the members one by one shows
	// which it is.
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
		// Other values of an events member are no events: only an array
		// counts.
		if c, _ := d.in.peek(); c == '[' && isEvents {
			d.in.release()
			d.in.pass(1)
			d.enterArray(2)
			return true, nil
		}
		if _, err := d.passValue(d.in.limit); err != nil {
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
	// An event may be limited to fewer bytes than the key that tells an
	// envelope.
	const longest = len(`"events"`) * len(`\u0065`)
	key, err := d.passValue(max(d.in.limit, longest))
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
// the value, which is good until more is read, and none if that is larger than
// limit.
func (d *Decoder) passValue(limit int) (text []byte, err error) {
	d.in.peek()
	size := d.value(d.in.rest(), 1)
	// Nearly all values are in the buffer as a whole: look for the end of
	// others only.
	if d.cutOff() {
		d.in.awaitValue(limit)
		size = d.value(d.in.rest(), 1)
	}
	switch fault, at := d.scanner.Fault(); {
	case fault == "" && size <= limit:
		text = d.in.rest()[:size]
		d.in.pass(size)
		return text, nil
	case fault == "" || at > limit:
		d.in.skipValue()
		return nil, nil
	}
	return nil, d.syntaxError()
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
	// As in passValue, the element is nearly always whole.
	if ev == nil && d.cutOff() {
		d.in.awaitValue(d.in.limit)
		ev, size = d.event(d.in.rest(), d.depth)
	}
	switch {
	case ev != nil:
		d.in.pass(size)
		return ev, nil
	case d.isTooLarge():
		offset, line := d.in.offset(), d.in.lineAt(0)
		d.in.skipValue()
		return tooLarge(offset, line), nil
	}
	return nil, d.syntaxError()
}

// line reads the next line of JSON Lines that is not empty.
func (d *Decoder) line() (Event, error) {
	if _, ok := d.in.peek(); !ok {
		return nil, d.end()
	}
	offset := d.in.offset()
	line, ok := d.in.line()
	// Where the reader failed, the last line may be cut off and still be
	// JSON.
	if d.in.readError() != nil && len(line) == len(d.in.rest()) {
		return nil, d.in.readError()
	}
	if !ok {
		return tooLarge(offset, d.in.lineAt(0)), nil
	}
	ev := d.lineEvent(line)
	d.in.pass(len(line))
	return ev, nil
}

const lineBlanks = " \t\r" // white space within a line

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
