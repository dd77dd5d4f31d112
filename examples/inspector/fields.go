package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// An item is an event of a delivery as a person wants to see it.
type item struct {
	Kind   string  `json:"kind"`
	Key    string  `json:"key"`
	Type   string  `json:"type"`
	Time   string  `json:"time"`
	Offset int     `json:"offset"`
	Length int     `json:"length"`
	Error  *fault  `json:"error,omitempty"`
	Fields []field `json:"fields"`
}

// A fault is what is wrong in a body, and where.
type fault struct {
	Offset int64  `json:"offset"`
	Line   int    `json:"line"`
	Text   string `json:"text"`
}

func newFault(err *mailtrapwebhook.DecodeError) *fault {
	if err == nil {
		return nil
	}
	return &fault{err.Offset, err.Line, err.Err.Error()}
}

// A field is a member of an event. Those of inner objects stand beside the
// others, with a dot in their names.
type field struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	Offset  int    `json:"offset"` // of the value in the body
	Odd     string `json:"odd,omitempty"`
	Unknown bool   `json:"unknown,omitempty"`
	Cut     bool   `json:"cut,omitempty"`
}

// Bounds of what is shown of a delivery. A body of 8 MiB may be one value.
const (
	maxItems     = 1000
	maxItemsText = 1 << 20
	maxFields    = 1000 // of an event
	maxFieldName = 256  // fields of an inner object repeat the name of the outer one
	maxValue     = 64 << 10
)

// itemsOf returns the events of a body with their fields, and whether there
// are more.
func itemsOf(body []byte) (items []item, truncated bool) {
	at := place{body: body, next: firstElement(body)}
	text := 0
	eachEvent(body, func(ev mailtrapwebhook.Event, _ mailtrapwebhook.Format) bool {
		if len(items) == maxItems || text > maxItemsText {
			truncated = true
			return false
		}
		offset := at.of(ev.RawJSON())
		it := item{
			Kind:   kindName(ev),
			Key:    ev.Key(),
			Type:   typeOf(ev),
			Time:   timeText(ev.Time()),
			Offset: offset,
			Length: len(ev.RawJSON()),
			Error:  newFault(errOf(ev)),
			Fields: fieldsOf(ev, offset),
		}
		for _, f := range it.Fields {
			text += len(f.Name) + len(f.Value)
		}
		items = append(items, it)
		return true
	})
	return items, truncated
}

// A place finds the events in their body. An event does not know where it
// stands, but events come in the order of the body.
type place struct {
	body []byte
	next int // where the next event may begin
}

// of returns the offset of the next event, which has that text.
func (p *place) of(text string) int {
	at := bytes.Index(p.body[p.next:], []byte(text))
	if at < 0 {
		return p.next
	}
	offset := p.next + at
	p.next = offset + len(text)
	return offset
}

// firstElement returns the offset at which the events of an envelope begin, or
// 0. What stands before them may look like an event.
func firstElement(body []byte) int {
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return 0
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return 0
		}
		var value json.RawMessage
		start := int(d.InputOffset())
		if key == "events" {
			if t, err := d.Token(); err != nil || t == json.Delim('[') {
				return start
			}
			return 0
		}
		if d.Decode(&value) != nil {
			return 0
		}
	}
	return 0
}

func kindName(ev mailtrapwebhook.Event) string {
	name := strings.ToValidUTF8(ev.Name(), "\uFFFD")
	if name == "" {
		return kindUnknown
	}
	return name[:min(len(name), maxValue)]
}

func typeOf(ev mailtrapwebhook.Event) string {
	switch ev.(type) {
	case *mailtrapwebhook.SendingWebhookEvent:
		return "sending"
	case *mailtrapwebhook.ActivityLogWebhookEvent:
		return "audit log"
	case *mailtrapwebhook.InboundWebhookEvent:
		return "inbound"
	}
	return kindUnknown
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(timeFormat)
}

// knownFields has the names of the fields of each type of event: those of its
// struct.
var knownFields = map[string]map[string]bool{
	"sending":   jsonNames(reflect.TypeFor[mailtrapwebhook.SendingWebhookEvent](), ""),
	"audit log": jsonNames(reflect.TypeFor[mailtrapwebhook.ActivityLogWebhookEvent](), ""),
	"inbound":   jsonNames(reflect.TypeFor[mailtrapwebhook.InboundWebhookEvent](), ""),
	kindUnknown: {"event": true},
}

func init() {
	knownFields["inbound"]["inbound_inbox_id"] = true // in test events
}

// jsonNames returns the names of the fields of a struct, and of the structs
// within it.
func jsonNames(t reflect.Type, prefix string) map[string]bool {
	names := make(map[string]bool)
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		names[prefix+name] = true
		inner := t.Field(i).Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner != reflect.TypeFor[time.Time]() {
			for name := range jsonNames(inner, prefix+name+".") {
				names[name] = true
			}
		}
	}
	return names
}

// innerLevels has the fields whose members are shown one by one, and how deep.
var innerLevels = map[string]int{"custom_variables": 1, "changes": 2, "actor": 1, "resource": 1}

// fieldsOf returns the fields of an event that stands at offset in its body.
func fieldsOf(ev mailtrapwebhook.Event, offset int) []field {
	fields := []field{}
	known := knownFields[typeOf(ev)]
	for _, m := range membersOf(ev.RawJSON(), offset) {
		if len(fields) >= maxFields {
			break
		}
		for _, part := range m.flatten(innerLevels[m.name]) {
			f := field{Name: part.name, Value: part.value(), Offset: part.offset}
			// Variables and changes have names of their own.
			f.Unknown = !known[m.name] || isStruct(m.name) && !known[part.name]
			if !f.Unknown && errOf(ev) != nil {
				f.Odd = oddity(ev, part)
			}
			if len(f.Value) > maxValue {
				f.Value, f.Cut = strings.ToValidUTF8(f.Value[:maxValue], ""), true
			}
			fields = append(fields, f)
		}
	}
	return fields[:min(len(fields), maxFields)]
}

func isStruct(name string) bool { return name == "actor" || name == "resource" }

// oddity returns why a field cannot be read, or "". An event names only the
// first such field, so each is looked at in an event of its own.
func oddity(ev mailtrapwebhook.Event, m member) string {
	outer, inner, isInner := strings.Cut(m.name, ".")
	value := m.text
	if isInner && isStruct(outer) {
		value = fmt.Sprintf("{%q:%s}", inner, m.text)
	} else if isInner {
		return "" // any value will do
	}
	text := fmt.Sprintf(`{"event":%q,%q:%s}`, ev.Name(), outer, value)
	events, err := mailtrapwebhook.Parse([]byte(text))
	if err != nil || len(events) != 1 {
		return ""
	}
	if fault := errOf(events[0]); fault != nil {
		return fault.Err.Error()
	}
	return ""
}

// A member is one of a JSON object.
type member struct {
	name   string
	text   string
	offset int
}

// membersOf returns the members of the object that text is, in their order, and
// at most maxFields. It returns none if text is no object.
func membersOf(text string, offset int) (list []member) {
	d := json.NewDecoder(strings.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	for d.More() && len(list) < maxFields {
		key, err := d.Token()
		if err != nil {
			return list
		}
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return list
		}
		name, _ := key.(string)
		if len(name) > maxFieldName {
			name = strings.ToValidUTF8(name[:maxFieldName], "") + "…"
		}
		at := offset + int(d.InputOffset()) - len(value)
		list = append(list, member{name, string(value), at})
	}
	return list
}

// flatten returns the members of an object, levels deep, or the member itself
// where it is none.
func (m member) flatten(levels int) (list []member) {
	if levels > 0 {
		for _, inner := range membersOf(m.text, m.offset) {
			inner.name = m.name + "." + inner.name
			if list = append(list, inner.flatten(levels-1)...); len(list) >= maxFields {
				return list
			}
		}
	}
	if list == nil {
		return []member{m}
	}
	return list
}

// value returns the value of a string, and the text of anything else.
func (m member) value() string {
	var s string
	if strings.HasPrefix(m.text, `"`) && json.Unmarshal([]byte(m.text), &s) == nil {
		return s
	}
	return strings.ToValidUTF8(m.text, "\uFFFD")
}
