package mailtrapwebhook

import (
	"cmp"
	"slices"
	"strings"

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
	fieldCustomVariables:   {"custom_variables", aRawObject},
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
	fieldActor:             {"actor", anInnerObject},
	fieldResource:          {"resource", anInnerObject},
	fieldChanges:           {"changes", aRawObject},
	fieldInboxID:           {"inbox_id", anInteger},
	fieldInboundInboxID:    {"inbound_inbox_id", anInteger}, // in test events
	fieldFrom:              {"from", aString},
	fieldID:                {"id", anID}, // but see form
	fieldType:              {"type", aString},
	fieldName:              {"name", aString},
	fieldEvents:            {"events", aRawObject}, // in envelopes
}

// The fields of each kind of event. They do not include the name, which tells
// the kind and has been read by then.
var (
	sendingFields = setOf(fieldMessageID, fieldSendingStream, fieldEmail, fieldSendingDomainName, fieldCategory,
		fieldCustomVariables, fieldTimestamp, fieldEventID, fieldReason, fieldResponse, fieldResponseCode,
		fieldBounceCategory, fieldIP, fieldUserAgent, fieldURL)
	activityLogFields = setOf(fieldDescription, fieldActor, fieldResource, fieldChanges, fieldTimestamp)
	inboundFields     = setOf(fieldEventID, fieldInboxID, fieldInboundInboxID, fieldMessageID, fieldFrom,
		fieldTimestamp)

	// Of an actor or a resource.
	innerFields = setOf(fieldID, fieldType, fieldName)
)

// A form is what the value of a field must be.
type form int

const (
	aString form = iota
	anID
	anInteger
	anInnerObject // an object whose members are fields as well
	aRawObject    // an object that stays JSON text
)

// String returns the form as it stands in errors.
func (f form) String() string {
	switch f {
	case aString:
		return "a string"
	case anID:
		return "a string or a number"
	case anInteger:
		return "an integer in range, as a number or a string of digits"
	}
	return "an object"
}

var (
	fieldKeys = newFieldKeys()

	numberFields = fieldsOf(anID, anInteger)
	innerObjects = fieldsOf(anInnerObject)
	objectFields = fieldsOf(anInnerObject, aRawObject)
)

func newFieldKeys() *jsonscan.Keys {
	var list []string
	for _, f := range fieldTable {
		list = append(list, f.key)
	}
	return jsonscan.NewKeys(list...)
}

// fieldsOf returns the fields of these forms.
func fieldsOf(forms ...form) (set jsonscan.Set) {
	for i, f := range fieldTable {
		if slices.Contains(forms, f.form) {
			set |= setOf(i)
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

// kindOf returns the kind of the events of that name and their canonical name,
// or "" where that is the name itself. Mailtrap's management API and its test
// events spell some names differently.
func kindOf[T string | []byte](name T) (kind, string) {
	switch string(name) { // without a copy
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
	// Not returning name spares every event a copy of its name.
	if strings.HasPrefix(string(name), "activity_log.") {
		return kindActivityLog, ""
	}
	return kindUnknown, ""
}

// canonicalName returns the canonical spelling of the name of a kind.
func canonicalName(name string) string {
	_, canonical := kindOf(name)
	return cmp.Or(canonical, name)
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
	if in := r.inner(fieldActor); in != nil {
		e.Actor = Actor{ID: in.int64(fieldID), Type: ActorType(in.str(fieldType)), Name: in.str(fieldName)}
		r.adoptFault(in)
	}
	if in := r.inner(fieldResource); in != nil {
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
