package mailtrapwebhook

import (
	"bytes"
	"errors"
	"strings"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
)

// What is wrong with an element, besides faults of its JSON.
const (
	errNoObject reason = "the element is not an object"
	errTooLarge reason = "the event is larger than MaxEventBytes"
)

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

// unmarshal decodes data into dst. It is for events of a kind that want names.
func unmarshal[T any](data []byte, dst *T, want string) error {
	data = bytes.TrimSpace(data)
	if string(data) == "null" {
		return nil // as json.Unmarshaler asks for
	}
	ev, err := decodeOne(data)
	if err != nil {
		return err
	}
	// An array, or an object without a name that has an array of events.
	events, _ := object(data).find("events")
	if data[0] == '[' || ev.Name() == "" && strings.HasPrefix(events, "[") {
		return errors.New("mailtrapwebhook: the JSON is a whole delivery, not one event: use Parse")
	}
	if got, ok := ev.(any).(*T); ok {
		*dst = *got
		return nil
	}
	if ev.Name() == "" {
		return ev.fault()
	}
	return errors.New("mailtrapwebhook: the JSON is not " + want)
}

// lineEvent returns the event that a line is.
func (d *Decoder) lineEvent(line []byte) Event {
	// Neither Raw nor the place of a fault may depend on the line break.
	// This loop is faster than bytes.TrimRight, which builds a table first.
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

// event decodes the element at the beginning of text, which is a part of rest
// and stands in depth arrays and objects. It returns no event if the element is
// too large, or else has a fault, which the scanner then tells.
func (d *Decoder) event(text []byte, depth int) (ev Event, size int) {
	if text[0] == '{' {
		ev, size, _ = d.object(text, depth, jsonscan.None)
		return ev, size
	}
	size = d.value(text, depth)
	if fault, _ := d.scanner.Fault(); fault != "" || size > d.in.limit {
		return nil, size
	}
	return d.unknown(text[:size], 0, errNoObject), size
}

// object is event for an object. It stops at an array that is the member
// arrayAt, and then reports true and returns the index of the array.
func (d *Decoder) object(text []byte, depth, arrayAt int) (ev Event, size int, stopped bool) {
	d.scanner.Reset(text)
	size, stopped = d.scanner.Find(fieldKeys, depth, arrayAt, &d.fields.members)
	if fault, _ := d.scanner.Fault(); fault != "" || stopped || size > d.in.limit {
		return nil, size, stopped
	}
	// Only now that all of it is known to be JSON, the event is worth
	// memory.
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
	// More digits may follow a number that the text ends in, unless it
	// stands alone.
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

// isTooLarge reports whether what was scanned last, and gave no event, is
// larger than the limit. A fault beyond the limit does not count: the pieces in
// which the input comes decide whether it is seen.
func (d *Decoder) isTooLarge() bool {
	fault, at := d.scanner.Fault()
	return fault == "" || at > d.in.limit
}

// syntaxError returns the error for the fault in what was scanned last, which
// is rest.
func (d *Decoder) syntaxError() error {
	switch fault, at := d.scanner.Fault(); fault {
	case "":
		return d.in.errorAt(0, errTooLarge)
	case jsonscan.CutOff:
		return d.in.endError(fault)
	default:
		return d.in.errorAt(at, fault)
	}
}
