// Package benchmarks compares mailtrapwebhook with general JSON packages that do
// the same work. The README says how; the command report prints the results.
package benchmarks

import (
	"io"
	"time"
)

// A Contender decodes deliveries.
type Contender struct {
	Name  string
	Unfit string // why it cannot run on this machine; empty if it can

	// Parse and Stream are what is timed. They return the number of events.
	// Stream is nil if nothing compares it.
	Parse  func(f Form, body []byte) (int, error)
	Stream func(f Form, r io.Reader) (int, error)

	// Deviations names the faults, of those in faults_test.go, that it treats
	// otherwise than encoding/json does.
	Deviations []string

	// The same work, but the events can be compared.
	parsed   func(f Form, body []byte) ([]plainEvent, error)
	streamed func(f Form, r io.Reader) ([]plainEvent, error)
}

// Contenders returns all of them, the package's own first.
func Contenders() []Contender {
	return append([]Contender{ours, encodingJSON, goccy, goccyTuned, sonicStd}, jsonV2...)
}

// An Event has the fields of mailtrapwebhook.SendingWebhookEvent. The custom
// variables have the contender's own type of JSON text. Time is made from
// Timestamp after decoding.
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

// A plainEvent is an event that can be compared with another contender's.
type plainEvent = Event[[]byte]

// A delivery is the JSON envelope.
type delivery[Text ~[]byte] struct {
	Events []Event[Text] `json:"events"`
}

// A parser decodes a body.
type parser[E any] func(f Form, body []byte) ([]E, error)

// A streamer decodes from a reader and shows each event. The next event may take
// the place of the one before, but not that of its strings.
type streamer[E any] func(f Form, r io.Reader, show func(*E)) error

// contenderOf returns a Contender whose events are plain once plain was called.
func contenderOf[E any](name string, p parser[E], s streamer[E], plain func(*E) plainEvent) Contender {
	c := Contender{Name: name}
	c.Parse = func(f Form, body []byte) (int, error) {
		events, err := p(f, body)
		return len(events), err
	}
	c.parsed = func(f Form, body []byte) (all []plainEvent, err error) {
		events, err := p(f, body)
		for i := range events {
			all = append(all, plain(&events[i]))
		}
		return all, err
	}
	if s == nil {
		return c
	}
	c.Stream = func(f Form, r io.Reader) (n int, err error) {
		err = s(f, r, func(*E) { n++ })
		return n, err
	}
	c.streamed = func(f Form, r io.Reader) (all []plainEvent, err error) {
		err = s(f, r, func(ev *E) { all = append(all, plain(ev)) })
		return all, err
	}
	return c
}

func (c Contender) deviating(faults ...string) Contender {
	c.Deviations = faults
	return c
}
