package mailtrapwebhook

import (
	"bytes"
	"encoding/json"
	"math/bits"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
)

// A reason is what an error says. Unlike the errors of errors.New, equal
// reasons are equal errors.
type reason string

func (r reason) Error() string { return string(r) }

const errNoName reason = "event is missing"

// A fieldReader makes an event of the members of its JSON object.
//
// Most fields stand in the text as they are. A field is odd if its value is
// spelled differently, such as a string with escapes, or if it may not be of
// its form. The values of odd fields are written behind the text, so that the
// values of all fields are parts of one string.
type fieldReader struct {
	members jsonscan.Members
	text    []byte          // the object
	odd     strings.Builder // text and the values of odd fields
	values  string          // of which the strings of the event are parts

	parent  int    // field whose value the object is, or fieldEvent
	offset  int    // of the object in the event
	fault   reason // why the first unreadable field cannot be read, or ""
	faultAt int    // the index of that field in the event
}

// read returns the event that text is, whose members have been found. The
// caller must set Err of the event if r.fault is not "".
func (r *fieldReader) read(text []byte) Event {
	r.text, r.fault = text, ""
	r.odd.Reset()
	at := r.members.At[fieldEvent]
	name := text[at.From:at.To]
	if r.oddFields()&(1<<fieldEvent) != 0 {
		r.makeValues(setOf(fieldEvent))
		name = []byte(r.str(fieldEvent))
	}
	// Only now is it known which fields count: an odd email does not matter
	// to an inbound event.
	switch kind, canonical := kindOf(name); kind {
	case kindSending:
		return r.sending(EventType(canonical))
	case kindActivityLog:
		return r.activityLog()
	case kindInbound:
		return r.inbound()
	}
	return r.unknown()
}

// inner returns a reader of an object within the event, nil if there is none.
func (r *fieldReader) inner(field int) *fieldReader {
	at := r.members.At[field]
	if at.To == 0 {
		return nil
	}
	in := &fieldReader{text: r.text[at.From:at.To], parent: field, offset: int(at.From)}
	// Scanning it again is cheap: only audit-log events have such objects.
	var s jsonscan.Scanner
	s.Reset(in.text)
	s.Find(fieldKeys, 0, jsonscan.None, &in.members)
	if in.resolve(innerFields); in.odd.Len() > 0 {
		in.values = in.odd.String()
	} else {
		in.values = r.values[at.From:at.To]
	}
	return in
}

// adoptFault takes over the fault in an inner object if it comes first.
func (r *fieldReader) adoptFault(in *fieldReader) {
	if in.fault != "" && (r.fault == "" || in.faultAt < r.faultAt) {
		r.fault, r.faultAt = in.fault, in.faultAt
	}
}

// makeValues makes the values of these fields.
func (r *fieldReader) makeValues(fields jsonscan.Set) {
	if r.resolve(fields); r.odd.Len() > 0 {
		r.values = r.odd.String()
	} else {
		// A program that keeps a field of the event keeps this copy,
		// not the body.
		r.values = string(r.text)
	}
}

// resolve writes the values of the odd ones among these fields behind the text,
// and notes those that are not of their form. Then the place of each of the
// fields is that of its value.
func (r *fieldReader) resolve(fields jsonscan.Set) {
	left := r.oddFields() & fields
	if left == 0 {
		return
	}
	if r.odd.Len() == 0 {
		// The size must suffice: growing takes memory for both the old
		// and the new.
		r.odd.Grow(len(r.text) + r.oddSize(left))
		r.odd.Write(r.text)
	}
	for ; left != 0; left &= left - 1 {
		field := bits.TrailingZeros32(uint32(left))
		var place jsonscan.Span
		if from := r.odd.Len(); r.writeValue(field) {
			place = jsonscan.Span{From: int32(from), To: int32(r.odd.Len())}
		}
		r.members.At[field] = place
	}
}

// oddSize returns the most that the values of odd fields take.
func (r *fieldReader) oddSize(fields jsonscan.Set) (size int) {
	for ; fields != 0; fields &= fields - 1 {
		at := r.members.At[bits.TrailingZeros32(uint32(fields))]
		text := r.text[at.From:at.To]
		if size += len(text); !utf8.Valid(text) {
			// An invalid byte becomes U+FFFD, which has three.
			size += 2 * len(text)
		}
	}
	return size
}

// oddFields returns the fields that are odd.
func (r *fieldReader) oddFields() jsonscan.Set {
	m := &r.members
	return m.NotPlain&^innerObjects | m.Others | m.Strings&objectFields | m.Numbers&^numberFields | m.Objects&^objectFields
}

// writeValue writes the value of an odd field to r.odd. It reports false if the
// field is absent or not of its form.
func (r *fieldReader) writeValue(field int) bool {
	at, form := r.members.At[field], r.form(field)
	text := r.text[at.From:at.To]
	switch {
	case r.isString(field) && form != aRawObject && form != anInnerObject:
		from := r.odd.Len()
		jsonscan.WriteUnquoted(&r.odd, text)
		if form == anInteger && !isInteger(r.odd.String()[from:], true) {
			r.unreadable(field)
			return false
		}
		return true
	case r.members.Objects&(1<<field) != 0 && form == aRawObject:
		// Events are equal however the JSON around them is laid out.
		var compact bytes.Buffer
		_ = json.Compact(&compact, text) // the scanner has checked it
		r.odd.Write(compact.Bytes())
		return true
	case string(text) != "null" || r.isString(field):
		r.unreadable(field)
	}
	return false
}

func (r *fieldReader) form(field int) form {
	if field == fieldID && r.parent == fieldActor {
		return anInteger
	}
	return fieldTable[field].form
}

func (r *fieldReader) isString(field int) bool { return r.members.Strings&(1<<field) != 0 }

// unreadable notes that a field is not of its form. The first in the text
// counts.
func (r *fieldReader) unreadable(field int) {
	at := r.offset + int(r.members.At[field].From)
	if r.isString(field) {
		at-- // the quote
	}
	if r.fault != "" && r.faultAt < at {
		return
	}
	// The value would say more, and may be personal.
	key := fieldTable[field].key
	if r.parent != fieldEvent {
		key = fieldTable[r.parent].key + "." + key
	}
	r.fault, r.faultAt = reason(key+" is not "+r.form(field).String()), at
}

func (r *fieldReader) str(field int) string {
	at := r.members.At[field]
	return r.values[at.From:at.To]
}

func (r *fieldReader) int64(field int) int64 {
	n, _ := r.integer(field)
	return n
}

func (r *fieldReader) int(field int) int {
	n, _ := r.integer(field)
	if int64(int(n)) != n { // where an int has 32 bits
		r.unreadable(field)
		return 0
	}
	return int(n)
}

// time reads a Unix time in seconds or milliseconds. Mailtrap sends seconds for
// most events, milliseconds for inbound ones, and seconds in inbound tests.
func (r *fieldReader) time(field int) time.Time {
	n, ok := r.integer(field)
	if !ok {
		return time.Time{}
	}
	if isSeconds(n) {
		return time.Unix(n, 0).UTC()
	}
	return time.UnixMilli(n).UTC()
}

// isSeconds reports whether a timestamp is in seconds and not in milliseconds.
// As seconds, 1e11 is in the year 5138. As milliseconds, it is in 1973.
func isSeconds(timestamp int64) bool { return -1e11 < timestamp && timestamp < 1e11 }

// wireTime returns t as Mailtrap writes it: in seconds or milliseconds,
// whichever unit is, as long as fieldReader.time reads that as t.
func wireTime(t time.Time, unit time.Duration) *int64 {
	if t.IsZero() {
		return nil
	}
	seconds, millis := t.Unix(), t.UnixMilli()
	useMillis := unit == time.Millisecond || millis%1000 != 0 || !isSeconds(seconds)
	// A small number of milliseconds would read as seconds.
	if useMillis && !isSeconds(millis) {
		return &millis
	}
	return &seconds
}

// integer reports false for a field that is absent or unreadable.
func (r *fieldReader) integer(field int) (n int64, ok bool) {
	if r.members.At[field].To == 0 {
		return 0, false
	}
	if n, ok = parseInteger(r.str(field), r.isString(field)); !ok {
		r.unreadable(field)
	}
	return n, ok
}

// parseInteger reads the text of a number, or of a string, which has no sign.
func parseInteger(text string, isString bool) (n int64, ok bool) {
	// Nearly all integers are plain digits, for which strconv takes twice
	// as long.
	for i := range len(text) {
		digit := text[i] - '0'
		if digit > 9 || i == 18 {
			return parseOtherInteger(text, isString)
		}
		n = 10*n + int64(digit)
	}
	return n, text != ""
}

// parseOtherInteger is parseInteger for a text with a sign, of many digits, or
// that is no integer.
func parseOtherInteger(text string, isString bool) (n int64, ok bool) {
	if isString && (text[0] == '-' || text[0] == '+') {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, false // n is the nearest integer that fits
	}
	return n, true
}

func isInteger(text string, isString bool) bool {
	_, ok := parseInteger(text, isString)
	return ok
}
