package webhooktest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// Body returns a delivery of the events in the format f, as Mailtrap writes it.
// [mailtrapwebhook.Parse] gives the events back; JSON Lines need one at least.
//
// An event is written as its RawJSON. If its fields say something else, because
// a test changed them or built the event by hand, the fields are written.
// JSON Lines must begin with an event that is a JSON object. If it has an array
// "events", Parse takes it for an envelope. In JSON Lines, text that spans lines
// is written on one, which gives an audit log event another Key.
//
// Body panics if f is neither format, or if an event is nil.
func Body(f mailtrapwebhook.Format, events ...mailtrapwebhook.Event) []byte {
	texts := make([]string, len(events))
	for i, ev := range events {
		// Each type of event is a pointer, which may be nil, too.
		if ev == nil || reflect.ValueOf(ev).IsNil() {
			panic(fmt.Sprintf("webhooktest: event %d of %d is nil: leave it out", i+1, len(events)))
		}
		texts[i] = eventText(ev)
	}
	return joinTexts(f, texts)
}

func joinTexts(f mailtrapwebhook.Format, texts []string) []byte {
	var b bytes.Buffer
	switch f {
	case mailtrapwebhook.FormatJSON:
		b.WriteString(`{"events":[`)
		for i, text := range texts {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(element(text))
		}
		b.WriteString(`]}`)
	case mailtrapwebhook.FormatJSONLines:
		for _, text := range texts {
			b.WriteString(line(text))
			b.WriteByte('\n')
		}
	default:
		panic(fmt.Sprintf("webhooktest: %d is not a format: use FormatJSON or FormatJSONLines", f))
	}
	return b.Bytes()
}

// eventText returns the RawJSON of an event unless that is not what the fields
// say.
func eventText(ev mailtrapwebhook.Event) string {
	raw := ev.RawJSON()
	if u, ok := ev.(*mailtrapwebhook.UnknownEvent); ok {
		if raw == "" && u.Event != "" {
			return `{"event":` + quote(u.Event) + `}`
		}
		return raw
	}
	if inbound, ok := ev.(*mailtrapwebhook.InboundWebhookEvent); ok && inbound.Event == "" {
		named := *inbound
		named.Event = inboundKind // there is no other
		ev = &named
	}
	// The texts of the fields are equal where Raw and Err, or the location
	// of a time, are not.
	fields := fieldsText(ev)
	// In an array even an event that has an array of events is one event.
	decoded, err := mailtrapwebhook.Parse([]byte("[" + raw + "]"))
	if err == nil && len(decoded) == 1 && fieldsText(decoded[0]) == fields {
		return raw
	}
	return fields
}

func fieldsText(ev mailtrapwebhook.Event) string {
	text, err := json.Marshal(ev)
	if err != nil {
		panic(fmt.Sprintf("webhooktest: cannot write the event: %v", err))
	}
	return string(text)
}

// element returns the text of an event for an array. The text of an
// UnknownEvent need not be JSON.
func element(text string) string {
	if json.Valid([]byte(text)) {
		return text
	}
	return quote(text)
}

// line returns the text of an event for JSON Lines.
func line(text string) string {
	switch {
	case !strings.Contains(text, "\n") && strings.TrimSpace(text) != "":
		return text
	case json.Valid([]byte(text)):
		var b bytes.Buffer
		_ = json.Compact(&b, []byte(text)) // just found to be valid
		return b.String()
	}
	return quote(text)
}

func quote(text string) string {
	quoted, _ := json.Marshal(text) // no string fails
	return string(quoted)
}
