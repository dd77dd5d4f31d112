package mailtrapwebhook

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"time"
)

// An Event is one thing that Mailtrap reports: a [*SendingWebhookEvent], an
// [*ActivityLogWebhookEvent], an [*InboundWebhookEvent] or an [*UnknownEvent].
// No other type implements Event, so a type switch over these four is complete.
//
// An event keeps its own text in memory and nothing else of its delivery.
//
// Printed with %v, %+v or Println, or logged with slog, an event shows its kind
// and key and nothing personal. So does a []Event, unless a slog handler writes
// it as JSON: that, [json.Marshal], %#v and RawJSON show everything.
type Event interface {
	// Name returns the canonical name of the kind of event, such as "soft
	// bounce", "activity_log.user.updated" or "inbound.message_received".
	// It returns "" if the event has no readable name.
	Name() string

	// Time returns when the event happened, in UTC. It returns the zero
	// time if the event has no readable time. A timestamp of 0 is January
	// 1, 1970.
	Time() time.Time

	// Key identifies the event. It stays the same when Mailtrap delivers
	// the event again. Only audit-log and unknown events of equal text share
	// one; [Delivery] has keys that differ. It is "" for an UnknownEvent
	// without Raw.
	//
	// A key consists of the name and the ids, joined by slashes, such as
	// "soft bounce/1df37d17-0286-4d8b/bede7236-2284-43d6". A digest of the
	// text replaces the ids if one is missing or unusual, and for audit-log
	// and unknown events. A key has no colon and no line break.
	Key() string

	// RawJSON returns the text of the event, byte for byte as received.
	RawJSON() string

	fault() error                // returns Err
	appendKey(dst []byte) []byte // appends Key
}

// EventType is the kind of a [SendingWebhookEvent]. Compare it with the
// constants, which are spelled as on the wire: ev.Event == "soft_bounce" is
// always false, because that event reads EventSoftBounce.
type EventType string

// The kinds of sending events. Mailtrap's management API writes soft_bounce and
// spam_complaint for two of them. Both spellings decode to the same constant.
const (
	EventDelivery    EventType = "delivery"    // the email arrived
	EventOpen        EventType = "open"        // the email was opened
	EventClick       EventType = "click"       // a link in it was clicked
	EventUnsubscribe EventType = "unsubscribe" // the recipient unsubscribed
	EventSpam        EventType = "spam"        // the recipient complained
	EventSoftBounce  EventType = "soft bounce" // failed; will be retried
	EventBounce      EventType = "bounce"      // failed for good
	EventSuspension  EventType = "suspension"  // Mailtrap held it back
	EventReject      EventType = "reject"      // Mailtrap refused it
)

// SendingStream is the stream that an email was sent on.
type SendingStream string

// Mailtrap's two sending streams.
const (
	StreamTransactional SendingStream = "transactional"
	StreamBulk          SendingStream = "bulk"
)

// BounceCategory is why an email bounced. Mailtrap also sends values that are
// not among the constants.
type BounceCategory string

// The documented bounce categories.
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

// Suppresses reports whether Mailtrap puts an address that bounces for this
// reason on the suppression list, so that no further email goes to it. That
// holds for [BounceTimeout], [BounceBadRecipient] and [BounceOverQuota].
//
// An [EventSpam] and an [EventUnsubscribe] also suppress the address. They have
// no bounce category: check for them by their [EventType].
func (c BounceCategory) Suppresses() bool {
	return c == BounceTimeout || c == BounceBadRecipient || c == BounceOverQuota
}

// A SendingWebhookEvent reports what became of an email that was sent. A field
// that the event lacks is zero.
type SendingWebhookEvent struct {
	Event EventType `json:"event,omitempty"`

	// MessageID is the id that Mailtrap returned when the email was sent.
	MessageID string `json:"message_id,omitempty"`

	SendingStream     SendingStream `json:"sending_stream,omitempty"`
	Email             string        `json:"email,omitempty"` // recipient
	SendingDomainName string        `json:"sending_domain_name,omitempty"`
	Category          string        `json:"category,omitempty"`
	CustomVariables   Variables     `json:"custom_variables,omitempty"`
	Timestamp         time.Time     `json:"timestamp,omitzero"` // UTC

	// EventID is not unique on its own: tell events apart by Key.
	EventID string `json:"event_id,omitempty"`

	Reason string `json:"reason,omitempty"` // suspension, reject

	// Response and the next two come with bounces. Response and
	// ResponseCode are the answer of the recipient's mail server.
	Response       string         `json:"response,omitempty"`
	ResponseCode   int            `json:"response_code,omitempty"`
	BounceCategory BounceCategory `json:"bounce_category,omitempty"`

	// IP and UserAgent come with open, click and unsubscribe, and URL with
	// click.
	IP        string `json:"ip,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
	URL       string `json:"url,omitempty"`

	// Raw is the text of the event, byte for byte as received.
	Raw string `json:"-"`

	// Err is a [*DecodeError] that names the first field that cannot be
	// read, or nil. Such a field is zero. The other fields are not
	// affected.
	Err error `json:"-"`
}

// An ActivityLogWebhookEvent is an entry of the account's audit log. A field
// that the event lacks is zero.
type ActivityLogWebhookEvent struct {
	// Event begins with "activity_log.".
	Event       string    `json:"event,omitempty"`
	Description string    `json:"description,omitempty"`
	Actor       Actor     `json:"actor,omitzero"`
	Resource    *Resource `json:"resource,omitempty"` // or nil
	Changes     Changes   `json:"changes,omitempty"`
	Timestamp   time.Time `json:"timestamp,omitzero"` // UTC

	Raw string `json:"-"` // as in [SendingWebhookEvent]
	Err error  `json:"-"` // as in [SendingWebhookEvent]
}

// An Actor is who did something. Mailtrap itself has only a name.
type Actor struct {
	ID   int64     `json:"id,omitempty"`
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
	ID   string       `json:"id,omitempty"` // or a number, as text
	Type ResourceType `json:"type,omitempty"`
	Name string       `json:"name,omitempty"`
}

// ResourceType is the kind of a [Resource]. Mailtrap also sends values that are
// not among the constants.
type ResourceType string

// The documented kinds of resources. In 2026 Mailtrap renamed inbox to sandbox
// and sending_domain to domain: expect both spellings.
const (
	ResourceUser           ResourceType = "user"
	ResourceAPIToken       ResourceType = "api_token"
	ResourceBilling        ResourceType = "billing"
	ResourceAccount        ResourceType = "account"
	ResourceSSOConfig      ResourceType = "sso_config"
	ResourceDomain         ResourceType = "domain"
	ResourceSendingDomain  ResourceType = "sending_domain"
	ResourceProject        ResourceType = "project"
	ResourceSandbox        ResourceType = "sandbox"
	ResourceInbox          ResourceType = "inbox"
	ResourceContactList    ResourceType = "contact_list"
	ResourceContactField   ResourceType = "contact_field"
	ResourceContactSegment ResourceType = "contact_segment"
)

// inboundMessageReceived is the name of every [InboundWebhookEvent].
const inboundMessageReceived = "inbound.message_received"

// An InboundWebhookEvent reports an email that an inbox received. A field that
// the event lacks is zero.
type InboundWebhookEvent struct {
	Event     string    `json:"event,omitempty"`
	EventID   string    `json:"event_id,omitempty"` // may change: use Key
	InboxID   int64     `json:"inbox_id,omitempty"`
	MessageID string    `json:"message_id,omitempty"`
	From      string    `json:"from,omitempty"`     // as in the header
	Timestamp time.Time `json:"timestamp,omitzero"` // UTC

	Raw string `json:"-"` // as in [SendingWebhookEvent]
	Err error  `json:"-"` // as in [SendingWebhookEvent]
}

// An UnknownEvent is an element of a delivery that is none of the other events.
// Its kind is unknown to this version of the package, or it is not an object,
// has no readable name or, on a line of JSON Lines, is not JSON.
type UnknownEvent struct {
	// Event is the name of the kind, or "".
	Event string

	// Raw is the text as received. It is "" for an event that is larger
	// than [Decoder.MaxEventBytes].
	Raw string

	// Err is a [*DecodeError] that says why the event cannot be read. It is
	// nil if only the kind is unknown.
	Err error
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

// Time implements [Event]. It returns the zero time.
func (e *UnknownEvent) Time() time.Time { return time.Time{} }

// RawJSON implements [Event].
func (e *SendingWebhookEvent) RawJSON() string { return e.Raw }

// RawJSON implements [Event].
func (e *ActivityLogWebhookEvent) RawJSON() string { return e.Raw }

// RawJSON implements [Event].
func (e *InboundWebhookEvent) RawJSON() string { return e.Raw }

// RawJSON implements [Event]. The text of a broken line is not JSON.
func (e *UnknownEvent) RawJSON() string { return e.Raw }

func (e *SendingWebhookEvent) fault() error     { return e.Err }
func (e *ActivityLogWebhookEvent) fault() error { return e.Err }
func (e *InboundWebhookEvent) fault() error     { return e.Err }
func (e *UnknownEvent) fault() error            { return e.Err }

// String returns the kind and key of the event, and nothing personal.
func (e SendingWebhookEvent) String() string { return eventString(&e) }

// String returns the kind and key of the event, and nothing personal.
func (e ActivityLogWebhookEvent) String() string { return eventString(&e) }

// String returns the kind and key of the event, and nothing personal.
func (e InboundWebhookEvent) String() string { return eventString(&e) }

// String returns the kind and key of the event, and nothing personal.
func (e UnknownEvent) String() string { return eventString(&e) }

// eventString returns the key, which begins with the kind.
func eventString(e Event) string { return cmp.Or(e.Key(), keyName(e.Name())) }

// LogValue implements [slog.LogValuer]. It shows the kind, time and key of the
// event and why it cannot be read, and nothing personal.
func (e SendingWebhookEvent) LogValue() slog.Value { return logValue(&e) }

// LogValue implements [slog.LogValuer] as [SendingWebhookEvent.LogValue] does.
func (e ActivityLogWebhookEvent) LogValue() slog.Value { return logValue(&e) }

// LogValue implements [slog.LogValuer] as [SendingWebhookEvent.LogValue] does.
func (e InboundWebhookEvent) LogValue() slog.Value { return logValue(&e) }

// LogValue implements [slog.LogValuer] as [SendingWebhookEvent.LogValue] does.
func (e UnknownEvent) LogValue() slog.Value { return logValue(&e) }

func logValue(e Event) slog.Value {
	attrs := []slog.Attr{slog.String("name", keyName(e.Name()))}
	if t := e.Time(); !t.IsZero() {
		attrs = append(attrs, slog.Time("time", t))
	}
	attrs = append(attrs, slog.String("key", e.Key()))
	// A DecodeError never quotes the body. A program may have set another
	// error.
	if fault, ok := e.fault().(*DecodeError); ok {
		attrs = append(attrs, slog.String("err", fault.Error()))
	}
	return slog.GroupValue(attrs...)
}

// MarshalJSON writes the event as Mailtrap does. It omits fields that are zero,
// and fields that this version does not know. To queue an event, store RawJSON.
// [Parse] reads it back, in brackets, with the same Key.
func (e SendingWebhookEvent) MarshalJSON() ([]byte, error) {
	type fields SendingWebhookEvent
	return json.Marshal(struct {
		fields
		Timestamp *int64 `json:"timestamp,omitempty"`
	}{fields(e), wireTime(e.Timestamp, time.Second)})
}

// MarshalJSON writes the event as Mailtrap does. It omits fields that are zero.
func (e ActivityLogWebhookEvent) MarshalJSON() ([]byte, error) {
	type fields ActivityLogWebhookEvent
	return json.Marshal(struct {
		fields
		Timestamp *int64 `json:"timestamp,omitempty"`
	}{fields(e), wireTime(e.Timestamp, time.Second)})
}

// MarshalJSON writes the event as Mailtrap does. It omits fields that are zero.
func (e InboundWebhookEvent) MarshalJSON() ([]byte, error) {
	type fields InboundWebhookEvent
	return json.Marshal(struct {
		fields
		Timestamp *int64 `json:"timestamp,omitempty"`
	}{fields(e), wireTime(e.Timestamp, time.Millisecond)})
}

// MarshalJSON writes Raw if that is JSON, and else a string that holds Raw.
func (e UnknownEvent) MarshalJSON() ([]byte, error) {
	if json.Valid([]byte(e.Raw)) {
		return []byte(e.Raw), nil
	}
	return json.Marshal(e.Raw)
}

// UnmarshalJSON decodes one event. It returns an error for an event of another
// kind and for a whole delivery. A field that cannot be read is no error: it
// sets Err, as [Parse] does.
func (e *SendingWebhookEvent) UnmarshalJSON(data []byte) error {
	return unmarshal(data, e, "a sending event")
}

// UnmarshalJSON is as [SendingWebhookEvent.UnmarshalJSON].
func (e *ActivityLogWebhookEvent) UnmarshalJSON(data []byte) error {
	return unmarshal(data, e, "an audit-log event")
}

// UnmarshalJSON is as [SendingWebhookEvent.UnmarshalJSON].
func (e *InboundWebhookEvent) UnmarshalJSON(data []byte) error {
	return unmarshal(data, e, "an inbound event")
}

// UnmarshalJSON decodes an element that is none of the other events.
func (e *UnknownEvent) UnmarshalJSON(data []byte) error {
	return unmarshal(data, e, "of an unknown kind")
}
