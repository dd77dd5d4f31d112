package mailtrapwebhook

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
)

// An Event is one thing that Mailtrap reports: a [*SendingWebhookEvent], an [*ActivityLogWebhookEvent], an
// [*InboundWebhookEvent] or, for everything else, an [*UnknownEvent]. No other type implements it, so that a type switch
// over these four is complete.
type Event interface {
	// Name returns the canonical name of the kind of event, such as "soft bounce", "activity_log.user.updated" or
	// "inbound.message_received", whichever way it was spelled. It is "" where the event has none that can be read.
	Name() string

	// Time returns when the event happened, in UTC, or the zero time if the event does not say.
	Time() time.Time

	// Key identifies the event: delivered again it has the same key, and different events have different keys. It holds
	// a digest and nothing of the event that can be read. It is "" where nothing is there to tell the event by.
	//
	// It is made of the kind and the ids as they stand in Raw or, where an id is missing and for audit-log and unknown
	// events, of all of Raw. Two audit-log entries may be equal to the byte and yet be two, which a key cannot tell:
	// [Delivery] has keys that can.
	Key() string

	event()
}

func (*SendingWebhookEvent) event()     {}
func (*ActivityLogWebhookEvent) event() {}
func (*InboundWebhookEvent) event()     {}
func (*UnknownEvent) event()            {}

// EventType is the kind of a [SendingWebhookEvent], spelled as on the wire.
type EventType string

// The kinds of sending events. Mailtrap's management API calls two of them soft_bounce and spam_complaint; these
// spellings decode to the same constants.
const (
	EventDelivery    EventType = "delivery"    // the recipient's server took the mail
	EventOpen        EventType = "open"        // the mail was opened
	EventClick       EventType = "click"       // a link in it was clicked
	EventUnsubscribe EventType = "unsubscribe" // the recipient unsubscribed
	EventSpam        EventType = "spam"        // the recipient reported it as spam
	EventSoftBounce  EventType = "soft bounce" // a delivery failed; Mailtrap will try again
	EventBounce      EventType = "bounce"      // it failed for good
	EventSuspension  EventType = "suspension"  // Mailtrap suspended the mail
	EventReject      EventType = "reject"      // Mailtrap refused to send it
)

// SendingStream is the stream that a mail was sent on.
type SendingStream string

// Mailtrap's two sending streams.
const (
	StreamTransactional SendingStream = "transactional"
	StreamBulk          SendingStream = "bulk"
)

// BounceCategory is why a mail bounced, in Mailtrap's words. Values other than the constants occur.
type BounceCategory string

// The bounce categories that Mailtrap documents.
const (
	BounceTransientFail BounceCategory = "transientfail"
	BounceGreylisting   BounceCategory = "greylisting"
	BounceBadSender     BounceCategory = "badsender"
	BounceBlock         BounceCategory = "block"
	BounceContent       BounceCategory = "content"
	BounceDNSFail       BounceCategory = "dnsFail"
	BounceGeneralFail   BounceCategory = "generalfail"
	BounceOther         BounceCategory = "other"
	BounceRelayFail     BounceCategory = "relayfail"
	BounceServerFail    BounceCategory = "serverfail"
	BounceSpam          BounceCategory = "spam"
	BounceVerifyFail    BounceCategory = "verifyfail"
	BounceTimeout       BounceCategory = "timeout"
	BounceBadRecipient  BounceCategory = "badrecipient"
	BounceOverQuota     BounceCategory = "overquota"
	BounceServerPolicy  BounceCategory = "serverpolicy"
	BounceSpamGmail     BounceCategory = "spam_gmail"
)

// Suppresses reports whether Mailtrap puts an address that bounces for this reason on the suppression list, so that no
// further mail goes to it.
func (c BounceCategory) Suppresses() bool {
	return c == BounceTimeout || c == BounceBadRecipient || c == BounceOverQuota
}

// A SendingWebhookEvent reports what became of a mail that was sent. A field that the event does not have is zero.
type SendingWebhookEvent struct {
	Event             EventType      `json:"event,omitempty"`
	MessageID         string         `json:"message_id,omitempty"` // the id that the API or SMTP reply gave when the mail was sent
	SendingStream     SendingStream  `json:"sending_stream,omitempty"`
	Email             string         `json:"email,omitempty"` // the recipient
	SendingDomainName string         `json:"sending_domain_name,omitempty"`
	Category          string         `json:"category,omitempty"`         // as set when the mail was sent
	CustomVariables   Variables      `json:"custom_variables,omitempty"` // as set when the mail was sent
	Timestamp         time.Time      `json:"timestamp,omitzero"`         // UTC, whole seconds: Unix time on the wire
	EventID           string         `json:"event_id,omitempty"`         // not unique on its own: see Key
	Reason            string         `json:"reason,omitempty"`           // suspension and reject
	Response          string         `json:"response,omitempty"`         // bounces: what the recipient's server said
	ResponseCode      int            `json:"response_code,omitempty"`    // bounces: its SMTP code
	BounceCategory    BounceCategory `json:"bounce_category,omitempty"`  // bounces
	IP                string         `json:"ip,omitempty"`               // open, click, unsubscribe: the user's address
	UserAgent         string         `json:"user_agent,omitempty"`       // open, click, unsubscribe
	URL               string         `json:"url,omitempty"`              // click

	Raw string `json:"-"` // the event's JSON text, byte for byte as received
}

// An ActivityLogWebhookEvent is an entry of the account's audit log.
type ActivityLogWebhookEvent struct {
	Event       string            `json:"event,omitempty"`       // begins with "activity_log."
	Description string            `json:"description,omitempty"` // for people
	Actor       Actor             `json:"actor,omitzero"`
	Resource    *Resource         `json:"resource,omitempty"` // nil: nothing in particular
	Changes     map[string]Change `json:"changes,omitempty"`  // by attribute
	Timestamp   time.Time         `json:"timestamp,omitzero"` // UTC, whole seconds

	Raw string `json:"-"` // the event's JSON text, byte for byte as received
}

// An Actor is who did something. Mailtrap itself has a name only.
type Actor struct {
	ID   int64     `json:"id,omitempty"` // 0 where there is none
	Type ActorType `json:"type,omitempty"`
	Name string    `json:"name,omitempty"`
}

// ActorType is the kind of an [Actor].
type ActorType string

// The documented kinds of actors.
const (
	ActorUser     ActorType = "user"
	ActorAPIToken ActorType = "api_token"
)

// A Resource is what something was done to.
type Resource struct {
	ID   string       `json:"id,omitempty"` // a string even where Mailtrap sends a number
	Type ResourceType `json:"type,omitempty"`
	Name string       `json:"name,omitempty"`
}

// ResourceType is the kind of a [Resource]. Values other than the constants occur.
type ResourceType string

// The documented kinds of resources.
const (
	ResourceUser           ResourceType = "user"
	ResourceAPIToken       ResourceType = "api_token"
	ResourceBilling        ResourceType = "billing"
	ResourceAccount        ResourceType = "account"
	ResourceSSOConfig      ResourceType = "sso_config"
	ResourceSendingDomain  ResourceType = "sending_domain"
	ResourceProject        ResourceType = "project"
	ResourceInbox          ResourceType = "inbox"
	ResourceContactList    ResourceType = "contact_list"
	ResourceContactField   ResourceType = "contact_field"
	ResourceContactSegment ResourceType = "contact_segment"
)

// A Change is the value of an attribute before and after. The values are what encoding/json gives for an any, but
// numbers are [json.Number]; what is private is the string "[FILTERED]".
//
// Changes that take far more memory as Go values than as text, by the million, make their event an [*UnknownEvent]: those
// of a body may take 16 MiB or three times the body's size, whichever is more.
type Change struct {
	From any `json:"from"`
	To   any `json:"to"`
}

// inboundMessageReceived is the one kind of [InboundWebhookEvent] there is.
const inboundMessageReceived = "inbound.message_received"

// An InboundWebhookEvent reports a mail that an inbox received.
type InboundWebhookEvent struct {
	Event     string    `json:"event,omitempty"`      // "inbound.message_received"
	EventID   string    `json:"event_id,omitempty"`   // may differ when the event is delivered again
	InboxID   int64     `json:"inbox_id,omitempty"`   // of the inbox that received the mail
	MessageID string    `json:"message_id,omitempty"` // of the mail received
	From      string    `json:"from,omitempty"`       // the sender, as in the mail's header
	Timestamp time.Time `json:"timestamp,omitzero"`   // UTC, whole milliseconds, of which it is the Unix time on the wire

	Raw string `json:"-"` // the event's JSON text, byte for byte as received
}

// An UnknownEvent is an element of a delivery that is none of the other events: of a kind that this version of the
// package does not know, or one that cannot be read. The events around it are not affected.
type UnknownEvent struct {
	Event string // the name of its kind, where it has one
	Raw   string // its text as received; "" if it was over [Decoder.MaxEventBytes]
	Err   error  // a [*DecodeError] that says why it cannot be read; nil if only its kind is unknown
}

// Name implements [Event].
func (e *SendingWebhookEvent) Name() string { return canonicalName(string(e.Event)) }

// Name implements [Event].
func (e *ActivityLogWebhookEvent) Name() string { return e.Event }

// Name implements [Event].
func (e *InboundWebhookEvent) Name() string { return canonicalName(e.Event) }

// Name implements [Event].
func (e *UnknownEvent) Name() string { return canonicalName(e.Event) }

// Time implements [Event].
func (e *SendingWebhookEvent) Time() time.Time { return e.Timestamp.UTC() }

// Time implements [Event].
func (e *ActivityLogWebhookEvent) Time() time.Time { return e.Timestamp.UTC() }

// Time implements [Event].
func (e *InboundWebhookEvent) Time() time.Time { return e.Timestamp.UTC() }

// Time implements [Event]: the time of an unknown event is not known either.
func (e *UnknownEvent) Time() time.Time { return time.Time{} }

// A kind is one of the families of events, which have their fields in common.
type kind int

const (
	kindUnknown kind = iota
	kindSending
	kindActivityLog
	kindInbound
)

// kindOf returns the kind of the events of that name, and its canonical name.
func kindOf(name string) (kind, string) {
	switch name {
	case "delivery", "open", "click", "unsubscribe", "spam", "soft bounce", "bounce", "suspension", "reject":
		return kindSending, name
	case "soft_bounce":
		return kindSending, string(EventSoftBounce)
	case "spam_complaint":
		return kindSending, string(EventSpam)
	case inboundMessageReceived, "inbound_message_received":
		return kindInbound, inboundMessageReceived
	}
	if strings.HasPrefix(name, "activity_log.") {
		return kindActivityLog, name
	}
	return kindUnknown, name
}

func canonicalName(name string) string {
	_, name = kindOf(name)
	return name
}

// # Reading
//
// What stands in an event's JSON and where it goes, as Mailtrap documents it and as it was seen.

func (e *SendingWebhookEvent) read(r *reader) {
	for key, ok := r.member(); ok; key, ok = r.member() {
		switch key {
		case "event":
			r.eventAgain()
		case "message_id":
			r.messageID = r.id(&e.MessageID)
		case "sending_stream":
			r.str((*string)(&e.SendingStream))
		case "email":
			r.str(&e.Email)
		case "sending_domain_name":
			r.str(&e.SendingDomainName)
		case "category":
			r.str(&e.Category)
		case "custom_variables":
			r.variables(&e.CustomVariables)
		case "timestamp":
			e.Timestamp = r.seconds()
		case "event_id":
			r.eventID = r.id(&e.EventID)
		case "reason":
			r.str(&e.Reason)
		case "response":
			r.str(&e.Response)
		case "response_code":
			e.ResponseCode = int(r.integer(math.MinInt, math.MaxInt))
		case "bounce_category":
			r.str((*string)(&e.BounceCategory))
		case "ip":
			r.str(&e.IP)
		case "user_agent":
			r.str(&e.UserAgent)
		case "url":
			r.str(&e.URL)
		default:
			r.Skip()
		}
	}
}

func (e *ActivityLogWebhookEvent) read(r *reader) {
	for key, ok := r.member(); ok; key, ok = r.member() {
		switch key {
		case "event":
			r.eventAgain()
		case "description":
			r.str(&e.Description)
		case "actor":
			e.Actor = Actor{}
			if r.object() {
				e.Actor.read(r)
			}
		case "resource":
			e.Resource = nil
			if r.object() {
				e.Resource = new(Resource)
				e.Resource.read(r)
			}
		case "changes":
			e.Changes = nil
			if r.object() {
				e.Changes = readChanges(r)
			}
		case "timestamp":
			e.Timestamp = r.seconds()
		default:
			r.Skip()
		}
	}
}

func (a *Actor) read(r *reader) {
	defer r.within("actor")()
	for key, ok := r.member(); ok; key, ok = r.member() {
		switch key {
		case "id":
			a.ID = r.integer(math.MinInt64, math.MaxInt64)
		case "type":
			r.str((*string)(&a.Type))
		case "name":
			r.str(&a.Name)
		default:
			r.Skip()
		}
	}
}

func (res *Resource) read(r *reader) {
	defer r.within("resource")()
	for key, ok := r.member(); ok; key, ok = r.member() {
		switch key {
		case "id":
			r.id(&res.ID)
		case "type":
			r.str((*string)(&res.Type))
		case "name":
			r.str(&res.Name)
		default:
			r.Skip()
		}
	}
}

// readChanges returns nil for no changes, as if there were no such member.
func readChanges(r *reader) map[string]Change {
	defer r.within("changes")()
	var changes map[string]Change
	unread := make(map[string]int) // where the attributes stand whose change is not one
	tooLarge, begin, room := false, r.Pos(), r.room
	for name, more := r.member(); more; name, more = r.member() {
		r.Peek()
		at := r.Pos()
		var change Change
		ok := change.read(r)
		if _, again := changes[name]; !again {
			r.room -= sizeOfEntry
		}
		switch {
		case r.room < 0:
			tooLarge = true
			changes, unread = nil, nil
			continue
		case !ok:
			unread[name] = at
			r.room -= sizeOfEntry
		case len(unread) > 0:
			delete(unread, name)
		}
		if changes == nil {
			changes = make(map[string]Change)
			r.room -= sizeOfMap
		}
		changes[name] = change
	}
	// The attributes' names are the body's and have no place in an error.
	switch {
	case tooLarge:
		r.noteField("(attributes)", begin, "of a size that can be read: as Go values they take many times the memory of the body")
		r.room = room
	case len(unread) > 0:
		r.noteField("(attribute)", slices.Min(slices.Collect(maps.Values(unread))), "an object")
	}
	return changes
}

// What changes take as Go values, roughly and in bytes.
const (
	sizeOfMap   = 400 // with room for its first entries
	sizeOfEntry = 200 // and what a growing map leaves behind
	sizeOfValue = 120 // or an entry of a map within a value
)

// roomFor returns how much the changes in a body of n bytes may take as Go values. Maps of tiny entries, and values such
// as [[],[]], take dozens of times the memory of their text; those of audit logs a few times as much. A body of
// 500 events has room for over 30 kB in each.
func roomFor(n int) int { return max(3*n, 16<<20) }

// read reports false if there is something else than a change, or null.
func (c *Change) read(r *reader) bool {
	if r.Peek() != '{' {
		null := r.Null()
		if !null {
			r.Skip()
		}
		return null
	}
	r.Enter()
	for key, ok := r.member(); ok; key, ok = r.member() {
		switch key {
		case "from":
			c.From = r.any()
		case "to":
			c.To = r.any()
		default:
			r.Skip()
		}
	}
	return true
}

func (e *InboundWebhookEvent) read(r *reader) {
	var testInboxID int64
	for key, ok := r.member(); ok; key, ok = r.member() {
		switch key {
		case "event":
			r.eventAgain()
		case "event_id":
			r.id(&e.EventID)
		case "inbox_id":
			e.InboxID = r.integer(math.MinInt64, math.MaxInt64)
		case "inbound_inbox_id": // in Mailtrap's test sample
			testInboxID = r.integer(math.MinInt64, math.MaxInt64)
		case "message_id":
			r.id(&e.MessageID)
		case "from":
			r.str(&e.From)
		case "timestamp":
			e.Timestamp = r.milliseconds()
		default:
			r.Skip()
		}
	}
	e.InboxID = cmp.Or(e.InboxID, testInboxID)
}

// A reader reads the fields of events. A field of a type that cannot be read is noted and passed over, since the event
// becomes an [UnknownEvent] but the JSON goes on.
type reader struct {
	jsonscan.Scanner

	in    string // the member of the event that is being read; "" in the event itself
	again bool   // there is a second "event" member

	spelledIDs

	room int // that is left for changes

	wantEnvelope bool // whether an events array makes the object an envelope
	envelope     bool // and there is one

	bad []unreadable // the fields for which the event cannot be read, of those that are read, so that they are few
}

// spelledIDs are where the ids of a sending event stand in the text that it is read from.
type spelledIDs struct{ messageID, eventID span }

// A span is a part of a text, from one index up to another. (To write down a string in its place costs more: it is a
// pointer, of which the garbage collector wants to know.)
type span struct{ from, to int }

func (s span) of(text string) string { return text[s.from:s.to] }

type unreadable struct {
	in, key string
	at      int
	why     reason
}

// A reason is an error without a position, and comparable by value.
type reason string

func (r reason) Error() string { return string(r) }

const errNoName reason = "event is missing"

func (r *reader) member() (key string, ok bool) {
	key, ok = r.Member()
	if r.wantEnvelope && ok && r.in == "" && key == "events" && r.Peek() == '[' {
		r.envelope = true
		return "", false
	}
	if ok && len(r.bad) > 0 {
		r.forget(key)
	}
	return key, ok
}

// forget takes back what was noted of the member if it is there a second time: the last of two equal keys wins.
func (r *reader) forget(key string) {
	r.bad = slices.DeleteFunc(r.bad, func(u unreadable) bool {
		within := u.in != "" && r.in == "" && u.in == key
		return within || u.in == r.in && u.key == key
	})
}

// within makes what is read until the function that it returns is called part of a member.
func (r *reader) within(key string) (restore func()) {
	outer := r.in
	r.in = key
	return func() { r.in = outer }
}

// note notes that the field whose key was passed over last is not what it should be.
func (r *reader) note(at int, shouldBe string) {
	if !r.Failed() {
		r.noteField(r.Key(), at, shouldBe)
	}
}

func (r *reader) noteField(key string, at int, shouldBe string) {
	field := key
	if r.in != "" {
		field = r.in + "." + key
	}
	r.bad = append(r.bad, unreadable{r.in, key, at, reason(field + " is not " + shouldBe)})
}

// otherwise passes over a value that is not of the type that it should be. It may be null, which means absent.
func (r *reader) otherwise(shouldBe string) {
	at := r.Pos()
	if r.Null() {
		return
	}
	r.note(at, shouldBe) // now, as Skip may pass over other keys
	r.Skip()
}

func (r *reader) eventAgain() {
	r.again = true
	r.Skip()
}

func (r *reader) str(dst *string) {
	if r.Peek() == '"' {
		*dst = r.String()
		return
	}
	*dst = ""
	r.otherwise("a string")
}

// id reads an id and returns where it stands.
func (r *reader) id(dst *string) (spelled span) {
	c := r.Peek()
	from := r.Pos()
	switch {
	case c == '"':
		if *dst = r.String(); !r.Failed() {
			spelled = span{from + 1, r.Pos() - 1}
		}
	case c == '-' || '0' <= c && c <= '9':
		*dst = r.Number()
		spelled = span{from, r.Pos()}
	default:
		*dst = ""
		r.otherwise("a string or a number")
	}
	return spelled
}

// integer reads an integer, written as a number or as a string of digits.
func (r *reader) integer(low, high int64) int64 {
	const shouldBe = "an integer in range, as a number or a string of digits"
	c := r.Peek()
	at := r.Pos()
	var text string
	switch {
	case c == '"':
		text = r.String()
		if strings.TrimLeft(text, "0123456789") != "" { // ParseInt takes signs as well
			r.note(at, shouldBe)
			return 0
		}
	case c == '-' || '0' <= c && c <= '9':
		text = r.Number()
	default:
		r.otherwise(shouldBe)
		return 0
	}
	n, err := parseInt(text)
	if err != nil || n < low || n > high {
		r.note(at, shouldBe)
		return 0
	}
	return n
}

// parseInt is [strconv.ParseInt], which takes longer to find out that all is as usual.
func parseInt(text string) (n int64, err error) {
	if text == "" || len(text) > 18 {
		return strconv.ParseInt(text, 10, 64)
	}
	for i := range len(text) {
		digit := text[i] - '0'
		if digit > 9 {
			return strconv.ParseInt(text, 10, 64)
		}
		n = 10*n + int64(digit)
	}
	return n, nil
}

// seconds reads a Unix time in seconds.
func (r *reader) seconds() (t time.Time) {
	if n, ok := r.instant(); ok {
		t = time.Unix(n, 0).UTC()
	}
	return t
}

// milliseconds reads a Unix time in milliseconds.
func (r *reader) milliseconds() (t time.Time) {
	if n, ok := r.instant(); ok {
		t = time.UnixMilli(n).UTC()
	}
	return t
}

// instant reports false where there is null in place of a time.
func (r *reader) instant() (n int64, ok bool) {
	if r.Peek() == 'n' {
		r.otherwise("")
		return 0, false
	}
	return r.integer(math.MinInt64, math.MaxInt64), true
}

func (r *reader) variables(dst *Variables) {
	if r.Peek() != '{' {
		*dst = ""
		r.otherwise("an object")
		return
	}
	text, blanks := r.Skip()
	if blanks {
		// Without them, events are equal however the JSON around them is laid out.
		text = compact(text)
	}
	*dst = Variables(text)
}

func compact(text string) string {
	var b bytes.Buffer
	_ = json.Compact(&b, []byte(text)) // the text has been checked
	return b.String()
}

// object enters an object. It reports false, having passed over what is there, if it is null or no object.
func (r *reader) object() bool {
	if r.Peek() != '{' {
		r.otherwise("an object")
		return false
	}
	r.Enter()
	return true
}

// any reads a value of any type, nil where there is no room for it.
func (r *reader) any() any {
	switch c := r.Peek(); {
	case c == '"':
		return r.String()
	case c == '-' || '0' <= c && c <= '9':
		return json.Number(r.Number())
	}
	text, _ := r.Skip()
	r.room -= 3*len(text) + sizeOfMap*strings.Count(text, "{") + sizeOfValue*(strings.Count(text, "[")+strings.Count(text, ","))
	if r.room < 0 {
		return nil
	}
	return anyOf(text)
}

// anyOf returns what a JSON text that has been checked means.
func anyOf(text string) (value any) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	_ = d.Decode(&value)
	return value
}

// Variables are the custom variables of a mail: the text of a JSON object, checked, read when it is asked for. Mailtrap
// allows at most 1,000 bytes, and values that are strings, numbers or booleans. "" means none.
//
// Names match exactly, and the last of two equal names wins. Text that is not a JSON object, which no decoded event has,
// reads as if it were empty.
type Variables string

// Get returns the value of a variable: a string, a [json.Number], a bool or, which Mailtrap does not document, nil, a
// []any or a map[string]any.
func (v Variables) Get(name string) (value any, ok bool) {
	text, ok := v.find(name)
	if !ok {
		return nil, false
	}
	return anyOf(text), true
}

// Text returns the value of a variable as text: a string as it is, a number with all its digits, "true" or "false". It
// returns "" for null and where there is no such variable, and JSON for an array or an object.
func (v Variables) Text(name string) string {
	text, _ := v.find(name)
	switch {
	case text == "null":
		return ""
	case strings.HasPrefix(text, `"`):
		s, _ := anyOf(text).(string)
		return s
	}
	return text
}

// All returns the variables in the order in which they stand, each name once.
func (v Variables) All() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		names, values := v.members()
		for _, name := range names {
			if !yield(name, anyOf(values[name])) {
				return
			}
		}
	}
}

// Map returns the variables in a new map, nil if there are none.
func (v Variables) Map() map[string]any { return maps.Collect(v.All()) }

func (v Variables) find(name string) (text string, ok bool) {
	_, values := v.members()
	text, ok = values[name]
	return text, ok
}

// members returns the names in order and the text of each value.
func (v Variables) members() (names []string, values map[string]string) {
	var s jsonscan.Scanner
	s.Reset(string(v), 0, 0)
	s.Enter()
	values = make(map[string]string)
	for name, ok := s.Member(); ok; name, ok = s.Member() {
		text, _ := s.Skip()
		if _, again := values[name]; !again {
			names = append(names, name)
		}
		values[name] = text
	}
	if s.Failed() || !s.AtEnd() {
		return nil, nil
	}
	return names, values
}

// MarshalJSON implements [json.Marshaler]: variables are an object, none are null.
func (v Variables) MarshalJSON() ([]byte, error) {
	if v == "" {
		return []byte("null"), nil
	}
	return []byte(v), nil // json.Marshal checks it
}

// UnmarshalJSON implements [json.Unmarshaler] for an object or null.
func (v *Variables) UnmarshalJSON(data []byte) error {
	if data = bytes.TrimSpace(data); !bytes.HasPrefix(data, []byte("{")) && string(data) != "null" {
		return errors.New("mailtrapwebhook: custom variables are not a JSON object")
	}
	*v = Variables(compact(string(data)))
	if *v == "null" {
		*v = ""
	}
	return nil
}

// # Keys

// What a key begins with.
const (
	sendingKey = "sending-"
	inboundKey = "inbound-"
	auditKey   = "audit-"
	unknownKey = "unknown-"
)

// ofKindWithIDs reports whether a key is that of an event of a kind whose events have ids to tell them by.
func ofKindWithIDs(key string) bool {
	return strings.HasPrefix(key, sendingKey) || strings.HasPrefix(key, inboundKey)
}

// Key implements [Event]: it is made of the name, MessageID and EventID.
func (e *SendingWebhookEvent) Key() string {
	if e.Raw == "" {
		return e.keyOf(e.MessageID, e.EventID)
	}
	ids := rawIDs(e.Raw, sendingIDs)
	return e.keyOf(ids[0], ids[1])
}

// keyOf is Key with the ids as they stand in Raw.
func (e *SendingWebhookEvent) keyOf(messageID, eventID string) string {
	return keyOf(sendingKey, e.Name(), []string{messageID, eventID}, e.Raw, e)
}

// Key implements [Event]: it is made of the name, InboxID and MessageID, since EventID may differ from one delivery of
// the event to the next.
func (e *InboundWebhookEvent) Key() string {
	ids := []string{"", e.MessageID}
	if e.InboxID != 0 {
		ids[0] = strconv.FormatInt(e.InboxID, 10)
	}
	if e.Raw != "" {
		raw := rawIDs(e.Raw, inboundIDs)
		ids = []string{cmp.Or(raw[0], raw[2]), raw[1]}
	}
	return keyOf(inboundKey, e.Name(), ids, e.Raw, e)
}

// Key implements [Event]: it is made of all of Raw.
func (e *ActivityLogWebhookEvent) Key() string { return keyOf(auditKey, e.Name(), nil, e.Raw, e) }

// Key implements [Event]: it is made of all of Raw, and "" without.
func (e *UnknownEvent) Key() string {
	if e.Raw == "" {
		return ""
	}
	return keyOf(unknownKey, e.Name(), nil, e.Raw, e)
}

// keyOf makes a key of the ids if there are some and none is missing, else of the JSON, which for an event built by hand
// is that of its fields.
func keyOf(prefix, name string, ids []string, raw string, e Event) string {
	if len(ids) > 0 && !slices.Contains(ids, "") {
		return digest(prefix, "ids", name, ids...)
	}
	if raw == "" {
		text, err := json.Marshal(e)
		if err != nil {
			return ""
		}
		raw = string(text)
	}
	return digest(prefix, "raw", name, raw)
}

// digest returns the prefix and 32 hexadecimal digits that stand for the name and the parts, and for their sort. Each goes
// in with its length, so that no two lists make the same text. Half of a SHA-256 is ample for what an identifier must be:
// nobody's accidental twin.
func digest(prefix, sort, name string, parts ...string) string {
	text := appendPart(make([]byte, 0, 256), sort)
	text = appendPart(text, name)
	for _, part := range parts {
		text = appendPart(text, part)
	}
	sum := sha256.Sum256(text)
	return string(hex.AppendEncode(append(text[:0], prefix...), sum[:16]))
}

func appendPart(text []byte, part string) []byte {
	return append(binary.AppendUvarint(text, uint64(len(part))), part...)
}

// sendingIDs tells which of the identifying ids of a sending event a member is, -1 for none.
func sendingIDs(name string) int {
	switch name {
	case "message_id":
		return 0
	case "event_id":
		return 1
	}
	return -1
}

func inboundIDs(name string) int {
	switch name {
	case "inbox_id":
		return 0
	case "message_id":
		return 1
	case "inbound_inbox_id":
		return 2
	}
	return -1
}

// rawIDs returns ids as they are spelled in an event's JSON, each at the index that which gives for its name, and ""
// where one is missing. The spelling tells ids apart that read the same because they are not valid Unicode.
func rawIDs(raw string, which func(name string) int) (ids [3]string) {
	var s jsonscan.Scanner
	s.Reset(raw, 0, 0)
	s.Enter()
	for name, ok := s.Member(); ok; name, ok = s.Member() {
		text, _ := s.Skip()
		i := which(name)
		switch {
		case i < 0:
		case text == "null":
			ids[i] = ""
		case strings.HasPrefix(text, `"`):
			ids[i] = text[1 : len(text)-1]
		default:
			ids[i] = text
		}
	}
	if s.Failed() {
		return [3]string{}
	}
	return ids
}

// # Encoding

// MarshalJSON gives the event as it is on the wire, without the fields that are zero.
func (e SendingWebhookEvent) MarshalJSON() ([]byte, error) {
	type fields SendingWebhookEvent
	return json.Marshal(struct {
		fields
		Timestamp *int64 `json:"timestamp,omitempty"`
	}{fields(e), unixTime(e.Timestamp, time.Time.Unix)})
}

// MarshalJSON gives the event as it is on the wire, without the fields that are zero.
func (e ActivityLogWebhookEvent) MarshalJSON() ([]byte, error) {
	type fields ActivityLogWebhookEvent
	return json.Marshal(struct {
		fields
		Timestamp *int64 `json:"timestamp,omitempty"`
	}{fields(e), unixTime(e.Timestamp, time.Time.Unix)})
}

// MarshalJSON gives the event as it is on the wire, without the fields that are zero.
func (e InboundWebhookEvent) MarshalJSON() ([]byte, error) {
	type fields InboundWebhookEvent
	return json.Marshal(struct {
		fields
		Timestamp *int64 `json:"timestamp,omitempty"`
	}{fields(e), unixTime(e.Timestamp, time.Time.UnixMilli)})
}

func unixTime(t time.Time, in func(time.Time) int64) *int64 {
	if t.IsZero() {
		return nil
	}
	n := in(t)
	return &n
}

// MarshalJSON gives Raw if that is JSON, else a string that holds it.
func (e UnknownEvent) MarshalJSON() ([]byte, error) {
	if json.Valid([]byte(e.Raw)) {
		return []byte(e.Raw), nil
	}
	return json.Marshal(e.Raw)
}

// UnmarshalJSON decodes a sending event. An object of another kind is an error.
func (e *SendingWebhookEvent) UnmarshalJSON(data []byte) error {
	return unmarshal(data, e, "a sending event")
}

// UnmarshalJSON decodes an audit-log event. An object of another kind is an error.
func (e *ActivityLogWebhookEvent) UnmarshalJSON(data []byte) error {
	return unmarshal(data, e, "an audit-log event")
}

// UnmarshalJSON decodes an inbound event. An object of another kind is an error.
func (e *InboundWebhookEvent) UnmarshalJSON(data []byte) error {
	return unmarshal(data, e, "an inbound event")
}

// UnmarshalJSON decodes what is none of the other events. One of them is an error.
func (e *UnknownEvent) UnmarshalJSON(data []byte) error {
	return unmarshal(data, e, "of an unknown kind")
}

func unmarshal[T any](data []byte, dst *T, want string) error {
	if string(bytes.TrimSpace(data)) == "null" {
		return nil // by convention, as for any other type
	}
	ev, err := parseOne(data)
	if err != nil {
		return err
	}
	if got, ok := ev.(any).(*T); ok {
		*dst = *got
		return nil
	}
	if unknown, ok := ev.(*UnknownEvent); ok && unknown.Err != nil {
		return unknown.Err
	}
	return errors.New("mailtrapwebhook: the JSON is not " + want)
}

// # Copying, checking, logging

// Clone returns a copy that shares no memory with e. The strings of the events of one delivery are parts of one string,
// so that each keeps all of them in memory; a clone does not.
func (e *SendingWebhookEvent) Clone() *SendingWebhookEvent {
	c := *e
	cloneStrings((*string)(&c.Event), &c.MessageID, (*string)(&c.SendingStream), &c.Email, &c.SendingDomainName,
		&c.Category, (*string)(&c.CustomVariables), &c.EventID, &c.Reason, &c.Response, (*string)(&c.BounceCategory),
		&c.IP, &c.UserAgent, &c.URL, &c.Raw)
	return &c
}

// Clone returns a copy that shares no memory with e: see [SendingWebhookEvent.Clone].
func (e *ActivityLogWebhookEvent) Clone() *ActivityLogWebhookEvent {
	c := *e
	cloneStrings(&c.Event, &c.Description, (*string)(&c.Actor.Type), &c.Actor.Name, &c.Raw)
	if e.Resource != nil {
		res := *e.Resource
		cloneStrings(&res.ID, (*string)(&res.Type), &res.Name)
		c.Resource = &res
	}
	if e.Changes != nil {
		c.Changes = make(map[string]Change, len(e.Changes))
		for name, change := range e.Changes {
			c.Changes[strings.Clone(name)] = Change{cloneAny(change.From), cloneAny(change.To)}
		}
	}
	return &c
}

// Clone returns a copy that shares no memory with e: see [SendingWebhookEvent.Clone].
func (e *InboundWebhookEvent) Clone() *InboundWebhookEvent {
	c := *e
	cloneStrings(&c.Event, &c.EventID, &c.MessageID, &c.From, &c.Raw)
	return &c
}

// Clone returns a copy that shares no memory with e but Err: see [SendingWebhookEvent.Clone].
func (e *UnknownEvent) Clone() *UnknownEvent {
	c := *e
	cloneStrings(&c.Event, &c.Raw)
	return &c
}

// cloneStrings makes the strings parts of one new string.
func cloneStrings(strs ...*string) {
	var b strings.Builder
	size := 0
	for _, s := range strs {
		size += len(*s)
	}
	b.Grow(size)
	for _, s := range strs {
		b.WriteString(*s)
	}
	all := b.String()
	for _, s := range strs {
		*s, all = all[:len(*s)], all[len(*s):]
	}
}

func cloneAny(value any) any {
	switch value := value.(type) {
	case string:
		return strings.Clone(value)
	case json.Number:
		return json.Number(strings.Clone(string(value)))
	case []any:
		c := make([]any, len(value))
		for i := range value {
			c[i] = cloneAny(value[i])
		}
		return c
	case map[string]any:
		c := make(map[string]any, len(value))
		for name := range value {
			c[strings.Clone(name)] = cloneAny(value[name])
		}
		return c
	}
	return value
}

// Validate returns an error that names the fields that are empty though Mailtrap documents them as required, or nil.
// Older webhooks lack some; decoding does not call for them.
func (e *SendingWebhookEvent) Validate() error {
	return missing(
		field{"event", e.Event == ""},
		field{"message_id", e.MessageID == ""},
		field{"sending_stream", e.SendingStream == ""},
		field{"email", e.Email == ""},
		field{"sending_domain_name", e.SendingDomainName == ""},
		field{"timestamp", e.Timestamp.IsZero()},
		field{"event_id", e.EventID == ""},
	)
}

// Validate returns an error that names the fields that are empty though Mailtrap documents them as required, or nil.
func (e *ActivityLogWebhookEvent) Validate() error {
	return missing(
		field{"event", e.Event == ""},
		field{"description", e.Description == ""},
		field{"actor", e.Actor == Actor{}},
		field{"timestamp", e.Timestamp.IsZero()},
	)
}

// Validate returns an error that names the fields that are empty though every inbound event has them, or nil. EventID
// is not among them: Mailtrap's test event has none.
func (e *InboundWebhookEvent) Validate() error {
	return missing(
		field{"event", e.Event == ""},
		field{"inbox_id", e.InboxID == 0},
		field{"message_id", e.MessageID == ""},
		field{"from", e.From == ""},
		field{"timestamp", e.Timestamp.IsZero()},
	)
}

type field struct {
	name  string
	empty bool
}

func missing(fields ...field) error {
	var names []string
	for _, f := range fields {
		if f.empty {
			names = append(names, f.name)
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("mailtrapwebhook: the event lacks %s", strings.Join(names, ", "))
}

// LogValue implements [slog.LogValuer]: a logged event shows its kind, time and key, and nothing personal.
func (e SendingWebhookEvent) LogValue() slog.Value { return logValue(&e) }

// LogValue implements [slog.LogValuer]: a logged event shows its kind, time and key, and nothing personal.
func (e ActivityLogWebhookEvent) LogValue() slog.Value { return logValue(&e) }

// LogValue implements [slog.LogValuer]: a logged event shows its kind, time and key, and nothing personal.
func (e InboundWebhookEvent) LogValue() slog.Value { return logValue(&e) }

// LogValue implements [slog.LogValuer]: a logged event shows its kind, its key and why it cannot be read, and nothing
// personal.
func (e UnknownEvent) LogValue() slog.Value {
	if fault, ok := e.Err.(*DecodeError); ok { // of whose texts none quotes the body
		return logValue(&e, slog.String("err", fault.Error()))
	}
	return logValue(&e)
}

func logValue(e Event, more ...slog.Attr) slog.Value {
	attrs := []slog.Attr{slog.String("name", loggableName(e.Name()))}
	if t := e.Time(); !t.IsZero() {
		attrs = append(attrs, slog.Time("time", t))
	}
	attrs = append(attrs, slog.String("key", e.Key()))
	return slog.GroupValue(append(attrs, more...)...)
}

// loggableName returns the name if it looks like one. An unknown kind's name is whatever the body says.
func loggableName(name string) string {
	ok := func(c rune) bool {
		return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.ContainsRune("_. ", c)
	}
	if len(name) > 64 || strings.ContainsFunc(name, func(c rune) bool { return !ok(c) }) {
		return "(not shown)"
	}
	return name
}
