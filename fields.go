package mailtrapwebhook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math/bits"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
)

// The members of JSON objects that the package reads.
const (
	fieldEvent = iota
	fieldMessageID
	fieldSendingStream
	fieldEmail
	fieldSendingDomainName
	fieldCategory
	fieldCustomVariables
	fieldTimestamp
	fieldEventID
	fieldReason
	fieldResponse
	fieldResponseCode
	fieldBounceCategory
	fieldIP
	fieldUserAgent
	fieldURL
	fieldDescription
	fieldActor
	fieldResource
	fieldChanges
	fieldInboxID
	fieldInboundInboxID
	fieldFrom
	fieldID
	fieldType
	fieldName
	fieldEvents
)

// fieldTable has the key of each field and the form of its value. A value may
// also be null, which means that the field is absent.
var fieldTable = [...]struct {
	key  string
	form form
}{
	fieldEvent:             {"event", aString},
	fieldMessageID:         {"message_id", anID},
	fieldSendingStream:     {"sending_stream", aString},
	fieldEmail:             {"email", aString},
	fieldSendingDomainName: {"sending_domain_name", aString},
	fieldCategory:          {"category", aString},
	fieldCustomVariables:   {"custom_variables", aText},
	fieldTimestamp:         {"timestamp", anInteger},
	fieldEventID:           {"event_id", anID},
	fieldReason:            {"reason", aString},
	fieldResponse:          {"response", aString},
	fieldResponseCode:      {"response_code", anInteger},
	fieldBounceCategory:    {"bounce_category", aString},
	fieldIP:                {"ip", aString},
	fieldUserAgent:         {"user_agent", aString},
	fieldURL:               {"url", aString},
	fieldDescription:       {"description", aString},
	fieldActor:             {"actor", anObject},
	fieldResource:          {"resource", anObject},
	fieldChanges:           {"changes", aText},
	fieldInboxID:           {"inbox_id", anInteger},
	fieldInboundInboxID:    {"inbound_inbox_id", anInteger}, // in Mailtrap's test events
	fieldFrom:              {"from", aString},
	fieldID:                {"id", anID}, // of an actor or a resource
	fieldType:              {"type", aString},
	fieldName:              {"name", aString},
	fieldEvents:            {"events", anObject}, // of an envelope, never of an event
}

// The fields of each kind of event beside its name, and of an actor or a
// resource.
var (
	sendingFields = setOf(fieldMessageID, fieldSendingStream, fieldEmail, fieldSendingDomainName,
		fieldCategory, fieldCustomVariables, fieldTimestamp, fieldEventID, fieldReason, fieldResponse, fieldResponseCode,
		fieldBounceCategory, fieldIP, fieldUserAgent, fieldURL)
	activityLogFields = setOf(fieldDescription, fieldActor, fieldResource, fieldChanges, fieldTimestamp)
	inboundFields     = setOf(fieldEventID, fieldInboxID, fieldInboundInboxID, fieldMessageID, fieldFrom,
		fieldTimestamp)
	partFields = setOf(fieldID, fieldType, fieldName)
)

// A form is what the value of a field must be.
type form int

const (
	aString form = iota
	anID
	anInteger
	anObject // whose members are fields as well
	aText    // an object that stays text
)

func (f form) String() string {
	return [...]string{
		aString:   "a string",
		anID:      "a string or a number",
		anInteger: "an integer in range, as a number or a string of digits",
		anObject:  "an object",
		aText:     "an object",
	}[f]
}

var (
	fieldKeys      = newFieldKeys()
	numberFields   = fieldsOf(anID, anInteger)
	objectFields   = fieldsOf(anObject, aText)
	anObjectFields = fieldsOf(anObject)
)

func newFieldKeys() *jsonscan.Keys {
	var list []string
	for _, f := range fieldTable {
		list = append(list, f.key)
	}
	return jsonscan.NewKeys(list...)
}

func fieldsOf(forms ...form) (set jsonscan.Set) {
	for i, f := range fieldTable {
		for _, form := range forms {
			if f.form == form {
				set |= setOf(i)
			}
		}
	}
	return set
}

func setOf(fields ...int) (set jsonscan.Set) {
	for _, f := range fields {
		set |= 1 << f
	}
	return set
}

// A kind is one of the families of events. Events of a kind have the same
// fields.
type kind int

const (
	kindUnknown kind = iota
	kindSending
	kindActivityLog
	kindInbound
)

// kindOf returns the kind of the events of that name and their canonical name. It
// has every name that Mailtrap uses: the management API and the test events
// spell some differently.
func kindOf(name string) (kind, string) {
	switch name {
	case "delivery":
		return kindSending, string(EventDelivery)
	case "open":
		return kindSending, string(EventOpen)
	case "click":
		return kindSending, string(EventClick)
	case "unsubscribe":
		return kindSending, string(EventUnsubscribe)
	case "spam", "spam_complaint":
		return kindSending, string(EventSpam)
	case "soft bounce", "soft_bounce":
		return kindSending, string(EventSoftBounce)
	case "bounce":
		return kindSending, string(EventBounce)
	case "suspension":
		return kindSending, string(EventSuspension)
	case "reject":
		return kindSending, string(EventReject)
	case inboundMessageReceived, "inbound_message_received":
		return kindInbound, inboundMessageReceived
	}
	// Returning name would have decoding copy it.
	if strings.HasPrefix(name, "activity_log.") {
		return kindActivityLog, ""
	}
	return kindUnknown, ""
}

// canonicalName returns the canonical spelling of the name of a kind.
func canonicalName(name string) string {
	_, canonical := kindOf(name)
	return cmp.Or(canonical, name)
}

// A reason is what an error says. Unlike the errors of errors.New, equal reasons
// are equal errors.
type reason string

func (r reason) Error() string { return string(r) }

const errNoName reason = "event is missing"

// A fieldReader makes an event of the members of its JSON object.
type fieldReader struct {
	members jsonscan.Members
	text    []byte          // the object
	odd     strings.Builder // the object, and behind it the values of odd fields
	values  string          // odd or, without odd fields, text: the event's strings are parts of it

	prefix  string // "actor." in an actor
	offset  int    // of the object in the event
	fault   reason // why the first unreadable field cannot be read, or ""
	faultAt int    // its index in the event
}

// read returns the event that text is, whose members have been found. The
// caller must set Err of the event if r.fault is not "".
func (r *fieldReader) read(text []byte) Event {
	r.text, r.fault = text, ""
	r.odd.Reset()
	at := r.members.At[fieldEvent]
	name := text[at.From:at.To]
	if r.oddFields()&setOf(fieldEvent) != 0 {
		r.makeValues(setOf(fieldEvent))
		name = []byte(r.str(fieldEvent))
	}
	switch kind, canonical := kindOf(string(name)); kind {
	case kindSending:
		return r.sending(EventType(canonical))
	case kindActivityLog:
		return r.activityLog()
	case kindInbound:
		return r.inbound()
	}
	return r.unknown()
}

func (r *fieldReader) sending(name EventType) *SendingWebhookEvent {
	r.makeValues(sendingFields)
	return &SendingWebhookEvent{
		Event:             name,
		MessageID:         r.str(fieldMessageID),
		SendingStream:     SendingStream(r.str(fieldSendingStream)),
		Email:             r.str(fieldEmail),
		SendingDomainName: r.str(fieldSendingDomainName),
		Category:          r.str(fieldCategory),
		CustomVariables:   Variables(r.str(fieldCustomVariables)),
		Timestamp:         r.time(fieldTimestamp),
		EventID:           r.str(fieldEventID),
		Reason:            r.str(fieldReason),
		Response:          r.str(fieldResponse),
		ResponseCode:      r.int(fieldResponseCode),
		BounceCategory:    BounceCategory(r.str(fieldBounceCategory)),
		IP:                r.str(fieldIP),
		UserAgent:         r.str(fieldUserAgent),
		URL:               r.str(fieldURL),
		Raw:               r.values[:len(r.text)],
	}
}

func (r *fieldReader) activityLog() *ActivityLogWebhookEvent {
	r.makeValues(activityLogFields)
	e := &ActivityLogWebhookEvent{
		Event:       r.str(fieldEvent),
		Description: r.str(fieldDescription),
		Changes:     Changes(r.str(fieldChanges)),
		Timestamp:   r.time(fieldTimestamp),
		Raw:         r.values[:len(r.text)],
	}
	if in := r.part(fieldActor); in != nil {
		e.Actor = Actor{ID: in.int64(fieldID), Type: ActorType(in.str(fieldType)), Name: in.str(fieldName)}
		r.adoptFault(in)
	}
	if in := r.part(fieldResource); in != nil {
		e.Resource = &Resource{ID: in.str(fieldID), Type: ResourceType(in.str(fieldType)), Name: in.str(fieldName)}
		r.adoptFault(in)
	}
	return e
}

func (r *fieldReader) inbound() *InboundWebhookEvent {
	r.makeValues(inboundFields)
	return &InboundWebhookEvent{
		Event:     inboundMessageReceived,
		EventID:   r.str(fieldEventID),
		InboxID:   cmp.Or(r.int64(fieldInboxID), r.int64(fieldInboundInboxID)),
		MessageID: r.str(fieldMessageID),
		From:      r.str(fieldFrom),
		Timestamp: r.time(fieldTimestamp),
		Raw:       r.values[:len(r.text)],
	}
}

func (r *fieldReader) unknown() *UnknownEvent {
	r.makeValues(0)
	name := r.str(fieldEvent)
	if name == "" && r.fault == "" {
		r.fault, r.faultAt = errNoName, 0
	}
	return &UnknownEvent{Event: name, Raw: r.values[:len(r.text)]}
}

// part returns a reader of an object within the event, nil if there is none.
func (r *fieldReader) part(field int) *fieldReader {
	at := r.members.At[field]
	if at.To == 0 {
		return nil
	}
	in := &fieldReader{text: r.text[at.From:at.To], prefix: fieldTable[field].key + ".", offset: int(at.From)}
	var s jsonscan.Scanner
	s.Reset(in.text)
	s.Find(fieldKeys, 0, jsonscan.None, &in.members)
	if in.resolve(partFields); in.odd.Len() > 0 {
		in.values = in.odd.String()
	} else {
		in.values = r.values[at.From:at.To]
	}
	return in
}

// adoptFault takes over the fault in a part of the event if it comes first.
func (r *fieldReader) adoptFault(in *fieldReader) {
	if in.fault != "" && (r.fault == "" || in.faultAt < r.faultAt) {
		r.fault, r.faultAt = in.fault, in.faultAt
	}
}

// makeValues makes the strings of the fields. All are parts of one string, so
// that a program that keeps one of them keeps this event and no other.
func (r *fieldReader) makeValues(fields jsonscan.Set) {
	if r.resolve(fields); r.odd.Len() > 0 {
		r.values = r.odd.String()
	} else {
		r.values = string(r.text)
	}
}

// resolve writes the values of odd fields behind the text, and notes the fields
// that are not of their form. Afterwards the place of every field is that of its
// value.
func (r *fieldReader) resolve(fields jsonscan.Set) {
	left := r.oddFields() & fields
	if left == 0 {
		return
	}
	if r.odd.Len() == 0 {
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
			size += 2 * len(text) // U+FFFD, for an invalid byte, takes three
		}
	}
	return size
}

// oddFields returns the fields whose text is not their value, or which may not
// be of their form.
func (r *fieldReader) oddFields() jsonscan.Set {
	m := &r.members
	return m.Odd&^anObjectFields | m.Others | m.Strings&objectFields | m.Numbers&^numberFields | m.Objects&^objectFields
}

// writeValue writes the value of an odd field to r.odd. It reports false if the
// field is absent or not of its form.
func (r *fieldReader) writeValue(field int) bool {
	at, form := r.members.At[field], r.form(field)
	text := r.text[at.From:at.To]
	switch {
	case r.isString(field) && form != aText && form != anObject:
		from := r.odd.Len()
		jsonscan.WriteUnquoted(&r.odd, text)
		if form == anInteger && !isInteger(r.odd.String()[from:], true) {
			r.unreadable(field)
			return false
		}
		return true
	case r.members.Objects&setOf(field) != 0 && form == aText:
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
	if field == fieldID && r.prefix == "actor." {
		return anInteger
	}
	return fieldTable[field].form
}

func (r *fieldReader) isString(field int) bool { return r.members.Strings&setOf(field) != 0 }

// unreadable notes that a field is not of its form. The first in the text counts.
func (r *fieldReader) unreadable(field int) {
	at := r.offset + int(r.members.At[field].From)
	if r.isString(field) {
		at-- // the quote
	}
	if r.fault == "" || at < r.faultAt {
		r.fault, r.faultAt = reason(r.prefix+fieldTable[field].key+" is not "+r.form(field).String()), at
	}
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
	// This is how nearly all integers look, and strconv takes twice as long.
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
