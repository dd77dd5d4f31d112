// Package benchmarks compares what this module's package mailtrapwebhook decodes with what general JSON packages do: see
// the README. What is not generated code is in the tests.
package benchmarks

import (
	"encoding/json"
	"time"

	"github.com/mailru/easyjson"
)

//lint:file-ignore SA5008 the option nocopy is easyjson's

//go:generate go tool easyjson -no_std_marshalers event.go

// An Event is what the other packages decode a sending event to: the fields of mailtrapwebhook.SendingWebhookEvent, with
// the custom variables as the package's own type of JSON text. Time is made of Timestamp afterwards.
type Event[Text ~[]byte] struct {
	Event             string    `json:"event"`
	MessageID         string    `json:"message_id"`
	SendingStream     string    `json:"sending_stream"`
	Email             string    `json:"email"`
	SendingDomainName string    `json:"sending_domain_name"`
	Category          string    `json:"category"`
	CustomVariables   Text      `json:"custom_variables"`
	Timestamp         int64     `json:"timestamp"`
	Time              time.Time `json:"-"`
	EventID           string    `json:"event_id"`
	Reason            string    `json:"reason"`
	Response          string    `json:"response"`
	ResponseCode      int       `json:"response_code"`
	BounceCategory    string    `json:"bounce_category"`
	IP                string    `json:"ip"`
	UserAgent         string    `json:"user_agent"`
	URL               string    `json:"url"`
}

// A Delivery is the JSON envelope.
type Delivery[Text ~[]byte] struct {
	Events []Event[Text] `json:"events"`
}

// EasyEvent is Event for easyjson, which cannot generate code for a generic type.
//
//easyjson:json
type EasyEvent struct {
	Event             string          `json:"event"`
	MessageID         string          `json:"message_id"`
	SendingStream     string          `json:"sending_stream"`
	Email             string          `json:"email"`
	SendingDomainName string          `json:"sending_domain_name"`
	Category          string          `json:"category"`
	CustomVariables   json.RawMessage `json:"custom_variables"`
	Timestamp         int64           `json:"timestamp"`
	Time              time.Time       `json:"-"`
	EventID           string          `json:"event_id"`
	Reason            string          `json:"reason"`
	Response          string          `json:"response"`
	ResponseCode      int             `json:"response_code"`
	BounceCategory    string          `json:"bounce_category"`
	IP                string          `json:"ip"`
	UserAgent         string          `json:"user_agent"`
	URL               string          `json:"url"`
}

// EasyDelivery is Delivery for easyjson.
//
//easyjson:json
type EasyDelivery struct {
	Events []EasyEvent `json:"events"`
}

// TunedEasyEvent is EasyEvent with strings that are parts of the input, and so is the text of the custom variables.
//
//easyjson:json
type TunedEasyEvent struct {
	Event             string              `json:"event,nocopy"`
	MessageID         string              `json:"message_id,nocopy"`
	SendingStream     string              `json:"sending_stream,nocopy"`
	Email             string              `json:"email,nocopy"`
	SendingDomainName string              `json:"sending_domain_name,nocopy"`
	Category          string              `json:"category,nocopy"`
	CustomVariables   easyjson.RawMessage `json:"custom_variables"`
	Timestamp         int64               `json:"timestamp"`
	Time              time.Time           `json:"-"`
	EventID           string              `json:"event_id,nocopy"`
	Reason            string              `json:"reason,nocopy"`
	Response          string              `json:"response,nocopy"`
	ResponseCode      int                 `json:"response_code"`
	BounceCategory    string              `json:"bounce_category,nocopy"`
	IP                string              `json:"ip,nocopy"`
	UserAgent         string              `json:"user_agent,nocopy"`
	URL               string              `json:"url,nocopy"`
}

// TunedEasyDelivery is EasyDelivery of these.
//
//easyjson:json
type TunedEasyDelivery struct {
	Events []TunedEasyEvent `json:"events"`
}
