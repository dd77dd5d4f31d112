package mailtrapwebhook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
)

// Format is one of the two payload formats that a webhook can be set to. The zero Format is neither.
type Format int

const (
	FormatJSON      Format = iota + 1 // an object with an events array
	FormatJSONLines                   // an event object a line
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

// A DecodeError says what is wrong with a body and where. Its text quotes nothing of the body.
type DecodeError struct {
	Offset int64 // of the byte at fault, from 0
	Line   int   // that it is on, from 1
	Err    error // what is wrong; [io.ErrUnexpectedEOF], for [errors.Is], where the JSON is cut off
}

// Error says what is wrong and where.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("mailtrapwebhook: line %d, offset %d: %v", e.Line, e.Offset, e.Err)
}

// Unwrap returns Err.
func (e *DecodeError) Unwrap() error { return e.Err }

// What makes an event unknown or ends a body, besides faults of the JSON and unreadable fields.
const (
	errEmpty     reason = "the body is empty"
	errNoBody    reason = "the body is neither a JSON object nor an array, nor JSON Lines"
	errNoObject  reason = "the element is not an object"
	errTooLarge  reason = "the event is over MaxEventBytes"
	errUnsettled reason = "the JSON cannot be read"
)

// Parse decodes a body of either format, told apart by its content. It does not verify the signature: [Handler] and
// [Verifier.Parse] do.
//
// What is JSON but cannot be read as an event, and a line of JSON Lines that is not JSON, is an [*UnknownEvent] among
// the others. Only if the body as a whole is broken, such as cut off, is there an error, a [*DecodeError]; the events
// before the fault are then returned with it. An empty body is an error, an empty list of events is not. JSON Lines that
// are cut off end in an UnknownEvent, since each line stands for itself.
//
// The strings of the events are parts of one copy of the body: Clone an event to keep it for long.
func Parse(body []byte) ([]Event, error) {
	d := decoderOf(body)
	events, _, err := d.all(math.MaxInt, false)
	return events, err
}

var errTooManyEvents = errors.New("mailtrapwebhook: the delivery has more events than MaxEvents: raise it if Mailtrap sent them")

// all returns all events, with their keys if these are wanted. With more than max it returns errTooManyEvents instead.
func (d *Decoder) all(max int, wantKeys bool) (events []Event, keys []string, err error) {
	events = make([]Event, 0, min(len(d.buf)/256+1, 512))
	if wantKeys {
		keys = make([]string, 0, cap(events))
	}
	for {
		ev, err := d.Decode()
		switch {
		case err == io.EOF:
			return events, keys, nil
		case err != nil:
			return events, keys, err
		case len(events) == max:
			return nil, nil, errTooManyEvents
		}
		events = append(events, ev)
		if wantKeys {
			keys = append(keys, d.key(ev))
		}
	}
}

// key is ev.Key, for the event decoded last. It need not look for the ids of the most frequent ones again.
func (d *Decoder) key(ev Event) string {
	if d.inSub {
		return d.sub.key(ev)
	}
	if e, ok := ev.(*SendingWebhookEvent); ok {
		return e.keyOf(d.spelled.messageID.of(d.text), d.spelled.eventID.of(d.text))
	}
	return ev.Key()
}

// parseOne decodes a text that is one event and nothing else.
func parseOne(text []byte) (Event, error) {
	d := decoderOf(text)
	d.room = math.MaxInt // the text is the caller's own, as with encoding/json
	if _, ok := d.peek(); !ok {
		return nil, d.errorAt(d.pos, errEmpty)
	}
	ev, err := d.value()
	if err != nil {
		return nil, err
	}
	if _, ok := d.peek(); ok {
		return nil, d.errorAt(d.pos, jsonscan.TrailingBytes)
	}
	return ev, nil
}

// A Decoder reads the events of a body of either format from a stream, each as soon as it is whole. Its memory is bounded
// by MaxEventBytes and does not grow with the stream. What cannot be read is an [*UnknownEvent] among the others, as with
// [Parse]: its Err says why, while Decode returns no error.
//
// It is for files and other trusted input. What comes from the network must not be looked at before its last byte has
// been verified: see [Verifier.VerifyRequest].
//
// The strings of events that were read at once are parts of one string: Clone an event to keep it for long.
type Decoder struct {
	// MaxEventBytes is the most that the text of one event, or one of JSON Lines, may have. A larger one is passed over
	// and becomes an [*UnknownEvent] without its text. 0 means 1 MiB. It must not be changed after the first Decode.
	MaxEventBytes int

	// The input. What has been read and is still needed is in buf; text is the same as a string, made when events are
	// to be read from it, of which their strings are parts. An index is good for both.
	src    io.Reader // nil: buf is all there is
	srcErr error     // why src gives no more
	buf    []byte
	text   string
	pos    int   // of the next byte
	keep   int   // of the first byte that must stay in buf, where held
	held   bool  // keep counts; else it is pos
	base   int64 // offset of buf[0] in the body
	lines  int   // newlines before buf[marked]
	marked int

	// Where in the body it is: what to do next. A step returns an event, an error, or neither to go on.
	step    step
	err     error // the one that ended it
	format  Format
	outer   int      // containers around the elements of the array
	inArray bool     // an element of the array has been seen
	first   int      // line on which the body begins
	sub     *Decoder // of lines that are envelopes
	inSub   bool     // the line is one
	isSub   bool     // and looks for no envelope in it again: it could do so for ever

	spelled spelledIDs // of the event decoded last
	room    int        // that is left for changes: in a stream, of one event
	machine jsonscan.Machine
	slab    []SendingWebhookEvent // made in one go, to be handed out
	used    int                   // of slab
}

// NewDecoder returns a [Decoder] that reads from r. It may read beyond the end of the last event.
func NewDecoder(r io.Reader) *Decoder { return &Decoder{src: r} }

// decoderOf returns a Decoder that has the body at hand. It does not write to body or keep it in events.
func decoderOf(body []byte) *Decoder {
	return &Decoder{buf: body, text: string(body), room: roomFor(len(body))}
}

// Decode returns the next event, or [io.EOF] after the last. There is never an event with an error. The error of a body
// that is broken or empty is a [*DecodeError]; one of the reader comes as it is. Either ends the decoding and is returned
// again by every further call.
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

// Events returns the events that are still to come, with a nil error, and at last, unless that is [io.EOF], the error
// that ended the decoding, with a nil event. It can be ranged over once.
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

// Format returns the format of the body as far as it has been read, 0 as long as that cannot be told. It is told when
// the first event is out. A body that goes on in lines after an envelope on its first line changes from [FormatJSON] to
// [FormatJSONLines] there.
func (d *Decoder) Format() Format { return d.format }

// # Steps

// A step is what is to be done next. (As a function it would put every Decoder on the heap.)
type step int

const (
	atStart step = iota
	inFirstObject
	inElements
	inEnvelope
	behindEnvelope
	inLines
	inTail
)

func (d *Decoder) next() (Event, error) {
	switch d.step {
	case atStart:
		return nil, d.start()
	case inFirstObject:
		return d.firstObject()
	case inElements:
		return d.element()
	case inEnvelope:
		return nil, d.envelope()
	case behindEnvelope:
		return nil, d.behindEnvelope()
	case inLines:
		return d.line()
	default: // inTail
		return nil, d.tail()
	}
}

var byteOrderMark = []byte("\uFEFF")

const lineBlanks = " \t\r" // white space within a line

func (d *Decoder) start() error {
	for len(d.buf) < len(byteOrderMark) && bytes.HasPrefix(byteOrderMark, d.buf) && d.read() {
	}
	if bytes.HasPrefix(d.buf, byteOrderMark) {
		d.pos = len(byteOrderMark)
	}
	c, ok := d.peek()
	if !ok {
		return d.endError(d.pos, errEmpty)
	}
	d.first = d.lineAt(d.pos)
	switch c {
	case '[':
		d.pos++
		d.enterArray(1)
	case '{':
		d.step = inFirstObject
	default:
		d.hold(d.pos)
		return d.unlessLines(d.errorAt(d.pos, errNoBody))
	}
	return nil
}

// firstObject finds out what the object is that the body begins with: an envelope, the first of JSON Lines, or an event
// that is alone. Until then it is held, as far as an event may be long.
func (d *Decoder) firstObject() (Event, error) {
	if ev := d.firstLine(); ev != nil {
		d.format = FormatJSONLines
		d.step = inLines
		return ev, nil
	}
	d.hold(d.pos)
	offset := d.base + int64(d.pos)
	d.pos++
	envelope, err := d.members(true)
	switch {
	case err != nil:
		return nil, d.unlessLines(err)
	case envelope:
		d.release()
		d.enterArray(2)
		return nil, nil
	}
	line := d.lineAt(d.pos) == d.first
	d.held = d.held && d.pos-d.keep <= d.maxEventBytes()
	if line && d.held && !d.lineTail() {
		return nil, d.unlessLines(d.errorAt(d.pos, jsonscan.TrailingBytes))
	}
	whole := d.release()
	if line {
		d.format = FormatJSONLines
		d.step = inLines
		if whole {
			d.pos = d.keep
			return nil, nil
		}
		d.pos, _, err = d.lineEnd()
		return tooLargeEvent(offset, d.first), err
	}
	d.format = FormatJSON
	d.step = inTail
	if !whole {
		return tooLargeEvent(offset, d.first), nil
	}
	d.pos = d.keep
	return d.value()
}

// firstLine returns the event that the first line is, if that is all there: it is how most JSON Lines begin.
func (d *Decoder) firstLine() Event {
	d.mirror()
	room := d.room
	ev, end := d.object(d.text, d.pos, 0, true)
	if ev == nil {
		return nil
	}
	for end < len(d.text) && strings.IndexByte(lineBlanks, d.text[end]) >= 0 {
		end++
	}
	atEnd := end == len(d.text) && (d.src == nil || d.srcErr == io.EOF)
	if !atEnd && !strings.HasPrefix(d.text[end:], "\n") || d.lineAt(end) != d.first || !d.fits(end) {
		d.room = room // since it is decoded again
		return nil
	}
	d.pos = end
	return ev
}

// members passes over the members of the outermost object, up to and into the next events array or, where there is no
// more of these, to the object's end.
func (d *Decoder) members(first bool) (array bool, err error) {
	for ; ; first = false {
		c, ok := d.peek()
		switch {
		case !ok:
			return false, d.endError(d.pos, jsonscan.CutOff)
		case c == '}':
			d.pos++
			return false, nil
		case !first && c != ',':
			return false, d.errorAt(d.pos, jsonscan.MissingComma)
		case !first:
			d.pos++
			c, ok = d.peek()
		}
		if ok && c != '"' {
			return false, d.errorAt(d.pos, jsonscan.BadKey)
		}
		isEvents, err := d.eventsKey()
		if err != nil {
			return false, err
		}
		switch c, ok = d.peek(); {
		case !ok:
			return false, d.endError(d.pos, jsonscan.CutOff)
		case c != ':':
			return false, d.errorAt(d.pos, jsonscan.MissingColon)
		}
		d.pos++
		if c, _ = d.peek(); isEvents && c == '[' {
			d.pos++
			return true, nil
		}
		if d.pos, _, err = d.frame(1, false); err != nil {
			return false, err
		}
	}
}

// eventsKey passes over an object key and reports whether it is "events".
func (d *Decoder) eventsKey() (bool, error) {
	end, whole, err := d.frame(1, true)
	if err != nil {
		return false, err
	}
	literal := d.buf[d.pos:end]
	d.pos = end
	switch {
	case !whole || len(literal) > len(`"events"`)*len(`\u0065`): // of one that is not whole only the end is there
		return false, nil
	case string(literal) == `"events"`:
		return true, nil
	}
	var s jsonscan.Scanner
	s.Reset(string(literal), 0, 0)
	return s.String() == "events", nil
}

func (d *Decoder) enterArray(outer int) {
	d.format = FormatJSON
	d.outer = outer
	d.inArray = false
	d.step = inElements
}

func (d *Decoder) element() (Event, error) {
	c, ok := d.peek()
	switch {
	case !ok:
		return nil, d.endError(d.pos, jsonscan.CutOff)
	case c == ']':
		d.pos++
		d.step = inTail
		if d.outer == 2 {
			d.step = inEnvelope
		}
		return nil, nil
	case d.inArray && c != ',':
		return nil, d.errorAt(d.pos, jsonscan.MissingComma)
	case d.inArray:
		d.pos++
		d.peek()
	}
	d.inArray = true
	return d.value()
}

// envelope goes on after an events array.
func (d *Decoder) envelope() error {
	array, err := d.members(false)
	if err != nil {
		return err
	}
	if array {
		d.enterArray(2)
		return nil
	}
	d.step = inTail
	if d.lineAt(d.pos) == d.first {
		d.step = behindEnvelope
	}
	return nil
}

// behindEnvelope goes on behind an envelope that has the first line to itself, which may be the first of JSON Lines.
func (d *Decoder) behindEnvelope() error {
	d.step = inTail
	if _, ok := d.peek(); ok && d.lineAt(d.pos) > d.first {
		d.hold(d.pos)
		return d.unlessLines(d.errorAt(d.pos, jsonscan.TrailingBytes))
	}
	return nil
}

// tail is what follows the JSON: nothing.
func (d *Decoder) tail() error {
	if _, ok := d.peek(); ok {
		return d.errorAt(d.pos, jsonscan.TrailingBytes)
	}
	return d.endError(d.pos, io.EOF)
}

func (d *Decoder) line() (Event, error) {
	if d.inSub {
		if ev, err := d.sub.Decode(); err == nil {
			return ev, nil
		}
		d.inSub = false // at its end: the line was found to be JSON
		d.room = d.sub.room
	}
	if _, ok := d.peek(); !ok {
		return nil, d.endError(d.pos, io.EOF)
	}
	offset := d.base + int64(d.pos)
	end, whole, err := d.lineEnd()
	if err != nil {
		return nil, err
	}
	start := d.pos
	d.pos = end
	if !whole {
		return tooLargeEvent(offset, d.lineAt(end)), nil
	}
	return d.lineEvent(start, end), nil
}

// lineEvent returns the event on a line that is whole, or the first one of an envelope, or none of one that is empty.
func (d *Decoder) lineEvent(start, end int) Event {
	d.mirror()
	room := d.room
	ev, stop := d.object(d.text[:end], start, 0, !d.isSub)
	if ev != nil {
		if strings.Trim(d.text[stop:end], lineBlanks) == "" {
			return ev
		}
		d.room = room // since it is no event, for what is behind it
	}
	line := strings.TrimRight(d.text[start:end], lineBlanks)
	end = start + len(line)
	d.machine.Reset(0)
	at := start + jsonscan.Feed(&d.machine, line)
	switch fault := d.machine.End(); {
	case fault != "":
		return d.unknown(line, fault, at)
	case at < end:
		return d.unknown(line, jsonscan.TrailingBytes, at)
	case line[0] != '{':
		return d.unknown(line, errNoObject, start)
	}
	if d.sub == nil {
		d.sub = new(Decoder)
	}
	*d.sub = Decoder{
		buf: d.buf[start:end], text: line, base: d.base + int64(start), lines: d.lineAt(start) - 1, isSub: true,
		room: d.room,
	}
	d.inSub = true
	return nil
}

// lineTail passes over what white space is left of the line and reports whether that is all.
func (d *Decoder) lineTail() bool {
	for {
		for ; d.pos < len(d.buf); d.pos++ {
			switch d.buf[d.pos] {
			case '\n':
				return true
			case ' ', '\t', '\r':
			default:
				return false
			}
		}
		d.held = d.held && d.pos-d.keep <= d.maxEventBytes()+len("\r")
		if !d.read() {
			return true
		}
	}
}

// lineEnd returns the index of the end of the line that pos is on, and whether all of it is there; if it is too long,
// what has been passed over is dropped.
func (d *Decoder) lineEnd() (end int, whole bool, err error) {
	whole = true
	for i := d.pos; ; {
		if n := bytes.IndexByte(d.buf[i:], '\n'); n >= 0 {
			end = i + n
			return end, whole && d.fits(end), nil
		}
		i = len(d.buf)
		if whole = whole && d.fits(i); !whole {
			d.pos = i
		}
		base := d.base
		if !d.read() {
			return len(d.buf), whole, d.readError()
		}
		i -= int(d.base - base)
	}
}

// fits reports whether what is on the line from pos to end is no longer than an event may be. A line may end in CRLF.
func (d *Decoder) fits(end int) bool {
	return len(bytes.TrimSuffix(d.buf[d.pos:end], []byte("\r"))) <= d.maxEventBytes()
}

// unlessLines returns err, which says what is wrong with a body's first line, unless the body turns out to be JSON Lines
// with that line broken. That is the case if a later line is an object; an envelope or array that is broken is not
// looked through for one.
func (d *Decoder) unlessLines(err error) error {
	if _, broken := err.(*DecodeError); !broken || !d.held {
		return err
	}
	first := d.format == 0 // the line held is that one; else it is a later one
	d.pos = d.keep
	d.discard() // so that no index moves from here on
	for start := d.pos; start-d.pos <= d.maxEventBytes(); {
		end, ok := d.newline(start)
		if !ok {
			break
		}
		if d.isObject(d.buf[start:end]) && !(first && start == d.pos) {
			d.release()
			d.format = FormatJSONLines
			d.step = inLines
			return nil
		}
		if start = end + 1; start > len(d.buf) {
			break
		}
	}
	if readErr := d.readError(); readErr != nil {
		return readErr
	}
	return err
}

// newline returns the index of the end of the line that begins at start. It reports false if that is too far away.
func (d *Decoder) newline(start int) (end int, ok bool) {
	for i := start; ; {
		if n := bytes.IndexByte(d.buf[i:], '\n'); n >= 0 {
			return i + n, i+n-start <= d.maxEventBytes()
		}
		i = len(d.buf)
		if i-start > d.maxEventBytes() {
			return 0, false
		}
		if !d.read() {
			return i, true
		}
	}
}

// isObject reports whether a line is one JSON object.
func (d *Decoder) isObject(line []byte) bool {
	line = bytes.Trim(line, lineBlanks)
	if !bytes.HasPrefix(line, []byte("{")) {
		return false
	}
	d.machine.Reset(0)
	return jsonscan.Feed(&d.machine, line) == len(line) && d.machine.Done()
}

// # Values

// value returns the event that begins at pos, where something stands that is meant to be a value.
func (d *Decoder) value() (Event, error) {
	if ev := d.valueAtHand(); ev != nil {
		return ev, nil
	}
	// It is not all there, or not JSON, or no object.
	offset, line := d.base+int64(d.pos), d.lineAt(d.pos)
	end, whole, err := d.frame(d.outer, true)
	if err != nil {
		return nil, err
	}
	if !whole {
		d.pos = end
		return tooLargeEvent(offset, line), nil
	}
	if ev := d.valueAtHand(); ev != nil {
		return ev, nil
	}
	d.mirror()
	start := d.pos
	d.pos = end
	if d.text[start] == '{' { // the machine has found it to be JSON, and the scanner not: a bug
		return nil, d.errorAt(start, errUnsettled)
	}
	return d.unknown(d.text[start:end], errNoObject, start), nil
}

// valueAtHand returns the event that begins at pos if it is an object and all there.
func (d *Decoder) valueAtHand() Event {
	if d.pos >= len(d.buf) || d.buf[d.pos] != '{' {
		return nil
	}
	d.mirror()
	start := d.pos
	ev, end := d.object(d.text, start, d.outer, false)
	if ev == nil {
		return nil
	}
	d.pos = end
	if end-start > d.maxEventBytes() {
		return tooLargeEvent(d.base+int64(start), d.lineAt(start))
	}
	return ev
}

// object reads the event object at start of text and returns it with the index of its end; 0 if the text is not an
// object or cut off. It returns no event for an envelope, where that is wanted.
func (d *Decoder) object(text string, start, outer int, wantEnvelope bool) (ev Event, end int) {
	if d.src != nil {
		d.room = roomFor(d.maxEventBytes())
	}
	r := reader{wantEnvelope: wantEnvelope, room: d.room}
	r.Reset(text, start, outer)
	r.Enter()
	var name string
	if key, ok := r.member(); ok && key == "event" && r.Peek() == '"' { // as Mailtrap has it
		name = r.String()
		ev = d.fields(&r, name)
	}
	if !r.Failed() && !r.envelope && (ev == nil || r.again) {
		name = r.lastEvent(text, start, outer)
		unnamed := slices.Clone(r.bad)
		r.bad = r.bad[:0]
		r.Reset(text, start, outer)
		r.Enter()
		ev = d.fields(&r, name)
		r.bad = append(unnamed, r.bad...)
	}
	if r.Failed() || r.envelope {
		return nil, 0
	}
	end = r.Pos()
	raw := text[start:end]
	d.spelled, d.room = r.spelledIDs, r.room
	if len(r.bad) > 0 {
		return &UnknownEvent{Event: name, Raw: raw, Err: d.errorAt(r.bad[0].at, r.bad[0].why)}, end
	}
	switch e := ev.(type) {
	case *SendingWebhookEvent:
		e.Raw = raw
	case *ActivityLogWebhookEvent:
		e.Raw = raw
	case *InboundWebhookEvent:
		e.Raw = raw
	case *UnknownEvent:
		e.Raw = raw
		if name == "" {
			e.Err = d.errorAt(start, errNoName)
		}
	}
	return ev, end
}

// lastEvent returns the value of the last "event" member of the object at start.
func (r *reader) lastEvent(text string, start, outer int) (name string) {
	r.Reset(text, start, outer)
	r.Enter()
	r.bad = r.bad[:0]
	for key, ok := r.member(); ok; key, ok = r.member() {
		if key == "event" {
			r.str(&name)
		} else {
			r.Skip()
		}
	}
	return name
}

// fields returns an event of the kind of that name, with what the reader still finds in the object.
func (d *Decoder) fields(r *reader, name string) Event {
	switch kind, name := kindOf(name); kind {
	case kindSending:
		e := d.newSendingWebhookEvent()
		e.Event = EventType(name)
		e.read(r)
		return e
	case kindActivityLog:
		e := &ActivityLogWebhookEvent{Event: name}
		e.read(r)
		return e
	case kindInbound:
		e := &InboundWebhookEvent{Event: name}
		e.read(r)
		return e
	}
	for key, ok := r.member(); ok; key, ok = r.member() {
		if key == "event" {
			r.again = true
		}
		r.Skip()
	}
	return &UnknownEvent{Event: name}
}

// newSendingWebhookEvent takes an event from the slab, which has room for the events at hand, at 512 bytes each, but for
// no more than fill the largest of the runtime's size classes.
func (d *Decoder) newSendingWebhookEvent() *SendingWebhookEvent {
	if d.used == len(d.slab) {
		d.slab, d.used = make([]SendingWebhookEvent, min((len(d.text)-d.pos)/512+1, 120)), 0
	}
	d.used++
	return &d.slab[d.used-1]
}

func (d *Decoder) unknown(raw string, why error, at int) *UnknownEvent {
	return &UnknownEvent{Raw: raw, Err: d.errorAt(at, why)}
}

// tooLargeEvent is the event for one whose text is over MaxEventBytes.
func tooLargeEvent(offset int64, line int) *UnknownEvent {
	return &UnknownEvent{Err: &DecodeError{offset, line, errTooLarge}}
}

func (d *Decoder) errorAt(i int, why error) *DecodeError {
	return &DecodeError{Offset: d.base + int64(i), Line: d.lineAt(i), Err: why}
}

// # Input

// frame returns the index of the end of the value at pos, which stands in outer containers, having read as much as
// there is of it. What is neither held nor, with retain, part of the value is dropped when it has been looked at, and
// so is all of it when it turns out to be too long: whole tells whether the value is there from pos on.
func (d *Decoder) frame(outer int, retain bool) (end int, whole bool, err error) {
	d.machine.Reset(outer)
	for i := d.pos; ; {
		i += jsonscan.Feed(&d.machine, d.buf[i:])
		if d.machine.Done() {
			return i, retain && i-d.pos <= d.maxEventBytes(), nil
		}
		if fault := d.machine.Fault(); fault != "" {
			return 0, false, d.errorAt(i, fault)
		}
		d.held = d.held && i-d.keep <= d.maxEventBytes()
		retain = retain && i-d.pos <= d.maxEventBytes()
		if !retain {
			d.pos = i
		}
		base := d.base
		if !d.read() {
			// Only a number can end with the input, and not one inside of something that does not.
			if d.machine.End() != "" || outer > 0 {
				return 0, false, d.endError(len(d.buf), jsonscan.CutOff)
			}
			return len(d.buf), retain, d.readError()
		}
		i -= int(d.base - base)
	}
}

func (d *Decoder) maxEventBytes() int {
	const most = math.MaxInt / 8 // so that sums and small multiples do not overflow
	switch {
	case d.src == nil:
		return most
	case d.MaxEventBytes <= 0:
		return 1 << 20
	}
	return min(d.MaxEventBytes, most)
}

// hold makes buf keep what it has from index i on.
func (d *Decoder) hold(i int) { d.keep, d.held = i, true }

// release ends hold and reports whether it held.
func (d *Decoder) release() bool {
	held := d.held
	d.held = false
	return held
}

// peek passes over white space and returns the byte that follows, if there is one.
func (d *Decoder) peek() (c byte, ok bool) {
	for {
		for d.pos < len(d.buf) {
			switch c := d.buf[d.pos]; c {
			case ' ', '\t', '\r', '\n':
				d.pos++
			default:
				return c, true
			}
		}
		d.held = d.held && d.pos-d.keep <= d.maxEventBytes()
		if !d.read() {
			return 0, false
		}
	}
}

const (
	bufferSize    = 64 << 10
	maxEmptyReads = 100 // as in bufio
)

// read adds to buf and reports whether it could. It drops what is no longer needed, which moves all indexes by as much
// as it moves base.
func (d *Decoder) read() bool {
	if d.src == nil || d.srcErr != nil {
		return false
	}
	d.discard()
	if len(d.buf) == cap(d.buf) {
		larger := make([]byte, len(d.buf), max(bufferSize, 2*cap(d.buf)))
		copy(larger, d.buf)
		d.buf = larger
	}
	for range maxEmptyReads {
		n, err := d.src.Read(d.buf[len(d.buf):cap(d.buf)])
		d.buf = d.buf[:len(d.buf)+n]
		d.srcErr = err
		if n > 0 {
			d.text = ""
			return true
		}
		if err != nil {
			return false
		}
	}
	d.srcErr = io.ErrNoProgress
	return false
}

func (d *Decoder) discard() {
	n := d.pos
	if d.held {
		n = d.keep
	}
	if n == 0 || d.src == nil {
		return
	}
	d.lineAt(n)
	d.buf = d.buf[:copy(d.buf, d.buf[n:])]
	d.text = ""
	d.base += int64(n)
	d.pos -= n
	d.keep -= n
	d.marked -= n
}

// mirror makes text the same as buf.
func (d *Decoder) mirror() {
	if len(d.text) != len(d.buf) {
		d.text = string(d.buf)
	}
}

// lineAt returns the line that index i is on. The count goes on from the last index asked for.
func (d *Decoder) lineAt(i int) int {
	if i >= d.marked {
		d.lines += bytes.Count(d.buf[d.marked:i], []byte("\n"))
	} else {
		d.lines -= bytes.Count(d.buf[i:d.marked], []byte("\n"))
	}
	d.marked = i
	return d.lines + 1
}

// readError returns the error that the reader failed with, nil if it did not.
func (d *Decoder) readError() error {
	if d.srcErr == io.EOF {
		return nil
	}
	return d.srcErr
}

// endError returns what the end of the input means at a point where that is atEnd: the reader's error if it failed,
// [io.EOF] as it is, and else a DecodeError.
func (d *Decoder) endError(i int, atEnd error) error {
	if err := d.readError(); err != nil {
		return err
	}
	if atEnd == io.EOF {
		return io.EOF
	}
	return d.errorAt(i, atEnd)
}
