package mailtrapwebhook_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestUnreadableFieldIsZeroAndNamedByErr(t *testing.T) {
	var (
		noString   = []string{`5`, `-0.5`, `true`, `{}`, `{"a":"b"}`, `[]`, `["a"]`}
		noID       = []string{`true`, `false`, `{}`, `[]`, `["a"]`}
		noInteger  = []string{`"x"`, `""`, `"-1"`, `"+1"`, `" 1"`, `"1 "`, `"1.0"`, `"1e3"`, `"0x10"`, `"1_0"`, `"１"`, `"\\n"`, `550.0`, `"5.1.1"`, `1.5`, `1.0`, `1e3`, `true`, `{}`, `[]`, `[1]`}
		outOfRange = []string{`9223372036854775808`, `-9223372036854775809`, `"9223372036854775808"`, `1` + strings.Repeat("0", 400)}
		noObject   = []string{`"x"`, `"{}"`, `"\\n"`, `5`, `true`, `[]`, `[{}]`}
	)
	noInteger = append(noInteger, outOfRange...)
	for _, family := range []struct {
		event  string
		others string // fields beside the unreadable one, of the values that rest says
		rest   mw.Event
		fields map[string][]string // a dot stands for an object
	}{
		{"bounce", `"message_id":"m","email":"a@example.com"`, &mw.SendingWebhookEvent{Event: mw.EventBounce, MessageID: "m", Email: "a@example.com"}, map[string][]string{
			"message_id": noID, "sending_stream": noString, "email": noString, "sending_domain_name": noString,
			"category": noString, "custom_variables": noObject, "timestamp": noInteger, "event_id": noID, "reason": noString,
			"response": noString, "response_code": noInteger, "bounce_category": noString, "ip": noString,
			"user_agent": noString, "url": noString,
		}},
		{"activity_log.user.updated", `"description":"d"`, &mw.ActivityLogWebhookEvent{Event: "activity_log.user.updated", Description: "d"}, map[string][]string{
			"description": noString, "actor": noObject, "actor.id": noInteger, "actor.type": noString, "actor.name": noString,
			"resource": noObject, "resource.id": noID, "resource.type": noString, "resource.name": noString,
			"changes": noObject, "timestamp": noInteger,
		}},
		{"inbound.message_received", `"from":"f"`, &mw.InboundWebhookEvent{Event: "inbound.message_received", From: "f"}, map[string][]string{
			"event_id": noID, "inbox_id": noInteger, "inbound_inbox_id": noInteger, "message_id": noID, "from": noString,
			"timestamp": noInteger,
		}},
	} {
		for field, values := range family.fields {
			t.Run(family.event+"/"+field, func(t *testing.T) {
				for _, value := range values {
					requireUnreadable(t, family.event, family.others, family.rest, field, value)
				}
			})
		}
	}
}

// requireUnreadable asserts that an event in which a field has that value is as
// rest says, with the field zero and an Err that names it.
func requireUnreadable(t *testing.T, event, others string, rest mw.Event, field, value string) {
	t.Helper()
	const neighbour = `{"event":"open","email":"a@example.com"}`
	member := fmt.Sprintf(`%q:%s`, field, value)
	outer, inner, isPart := strings.Cut(field, ".")
	if isPart {
		member = fmt.Sprintf(`%q:{%q: %s}`, outer, inner, value)
	}
	if strings.Contains(others, `"`+field+`"`) {
		others, rest = `"new":1`, blankEvent(rest)
	}
	odd := fmt.Sprintf(`{"event":%q,%s,%s}`, event, others, member)
	offset := strings.Index(odd, member) + strings.LastIndex(member, value)
	for _, body := range []string{
		neighbour + "\n" + odd + "\n" + neighbour,
		`{"events":[` + neighbour + ",\n" + odd + `,` + neighbour + `]}`,
	} {
		events, err := mw.Parse([]byte(body))
		require.NoError(t, err)
		require.Len(t, events, 3)
		for _, other := range []mw.Event{events[0], events[2]} {
			require.Equal(t, &mw.SendingWebhookEvent{Event: mw.EventOpen, Email: "a@example.com", Raw: neighbour}, other)
		}
		at := strings.Index(body, odd) + offset
		want := setErr(setRaw(copyOf(rest), odd), &mw.DecodeError{Offset: int64(at), Line: 2, Err: errors.New(field)})
		if e, ok := want.(*mw.ActivityLogWebhookEvent); ok && isPart && outer == "resource" {
			e.Resource = new(mw.Resource)
		}
		if diff := cmp.Diff(want, events[1], sameFault); diff != "" {
			t.Errorf("%s (-want +got):\n%s", odd, diff)
		}
		var again = reflect.New(reflect.TypeOf(events[1]).Elem()).Interface().(mw.Event)
		require.NoError(t, json.Unmarshal([]byte(odd), again))
		require.Equal(t, &mw.DecodeError{Offset: int64(offset), Line: 1, Err: errors.Unwrap(errOf(events[1]))}, errOf(again), "json.Unmarshal sets Err too")
	}
}

// blankEvent returns an event of the same kind with no field but its name.
func blankEvent(ev mw.Event) mw.Event {
	switch ev := ev.(type) {
	case *mw.SendingWebhookEvent:
		return &mw.SendingWebhookEvent{Event: ev.Event}
	case *mw.ActivityLogWebhookEvent:
		return &mw.ActivityLogWebhookEvent{Event: ev.Event}
	}
	return &mw.InboundWebhookEvent{Event: ev.Name()}
}

func TestOddFieldsKeepTheirEvents(t *testing.T) {
	for _, test := range []struct {
		body, at, mentions string
		want               mw.Event
	}{
		{`{"events":[{"event":"bounce","message_id":"m1","event_id":"e1","custom_variables":[]}]}`, `[]`, "custom_variables is not an object",
			&mw.SendingWebhookEvent{Event: "bounce", MessageID: "m1", EventID: "e1"}},
		{`{"event":"bounce","response_code":"5.1.1","email":"a"}`, `"5.1.1"`, "response_code is not an integer", &mw.SendingWebhookEvent{Event: "bounce", Email: "a"}},
		{`{"event":"bounce","response_code":550.0,"email":"a"}`, `550.0`, "response_code is not an integer", &mw.SendingWebhookEvent{Event: "bounce", Email: "a"}},
		{`{"event":"bounce","timestamp":1.5,"email":"a"}`, `1.5`, "timestamp is not an integer", &mw.SendingWebhookEvent{Event: "bounce", Email: "a"}},
		{`{"event":"bounce","category":["a"],"email":"a"}`, `["a"]`, "category is not a string", &mw.SendingWebhookEvent{Event: "bounce", Email: "a"}},
	} {
		ev := soleEvent(t, test.body)
		want := setErr(setRaw(test.want, ev.RawJSON()), faultAt(t, test.body, test.at, test.mentions))
		if diff := cmp.Diff(want, ev, sameFault); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.body, diff)
		}
		require.Contains(t, test.body, ev.RawJSON())
	}
}

func TestErrNamesTheFirstFaultInTheText(t *testing.T) {
	for _, test := range []struct{ body, at, mentions string }{
		{`{"event":"open","email":7,"ip":8}`, `7`, "email"},
		{`{"email":7,"event":"open","ip":8}`, `7`, "email"},
		{`{"ip":8,"timestamp":"x","email":7,"event":"open"}`, `8`, "ip"},
		{`{"timestamp":"x","ip":8,"event":"open"}`, `"x"`, "timestamp"},
		{`{"event":"open","email":7,"event":"click"}`, `7`, "email"},
		{`{"event":"open","email":7,"ip":8,"email":"a"}`, `8`, "ip"},
		{`{"event":"activity_log.x","actor":{"name":5,"id":"x"},"resource":6}`, `5`, "actor.name"},
		{`{"event":"activity_log.x","resource":{"type":5},"actor":{"id":"x"},"changes":6}`, `5`, "resource.type"},
		{`{"event":"activity_log.x","changes":6,"resource":{"type":5}}`, `6`, "changes"},
		{`{"event":"inbound.message_received","inbox_id":"x","inbound_inbox_id":5}`, `"x"`, "inbox_id"},
		{`{"event":"open","email":7,"category":"\u0061"}`, `7`, "email"},
		{`{"event":"open","category":"\u0061","timestamp":"\u0061"}`, `"\u0061"}`, "timestamp"},
	} {
		got, ok := errOf(soleEvent(t, test.body)).(*mw.DecodeError)
		require.True(t, ok, test.body)
		if diff := cmp.Diff(faultAt(t, test.body, test.at, test.mentions), error(got), sameFault); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.body, diff)
		}
	}
}

// Only the last of equal keys counts, and nothing but the place of a field.
func TestFieldsThatOnlyLookUnreadable(t *testing.T) {
	for _, body := range []string{
		`{"event":"open","email":5,"email":"a"}`,
		`{"event":"open","email":5,"email":null}`,
		`{"event":"bounce","response_code":"","response_code":1,"":0}`,
		`{"event":"open","custom_variables":[],"custom_variables":{}}`,
		`{"event":"activity_log.x","actor":5,"actor":{}}`,
		`{"event":"activity_log.x","actor":{"id":"zz","id":1}}`,
		`{"event":"activity_log.x","actor":{"id":"zz"},"actor":{}}`,
		`{"event":"activity_log.x","actor.id":"zz","actor":{"email":5,"timestamp":{}}}`,
		`{"event":"activity_log.x","changes":5,"changes":{"b":7}}`,
		`{"event":"activity_log.x","email":5,"custom_variables":6}`,
		`{"event":"open","actor":5,"changes":[],"from":7,"id":[]}`,
		`{"event":"telepathy","email":5,"timestamp":"x"}`,
	} {
		require.NoError(t, errOf(soleEvent(t, body)), body)
	}
}

// keptEach returns how many bytes stay in memory for each of n things that
// keep returns.
func keptEach(n int, keep func() any) float64 {
	kept := make([]any, n)
	before := heapInUse()
	for i := range kept {
		kept[i] = keep()
	}
	after := heapInUse()
	runtime.KeepAlive(kept)
	return float64(after-before) / float64(n)
}

// A program that keeps something of one event in each of many deliveries must
// not keep the deliveries.
func TestKeepingPartOfADeliveryKeepsNoMore(t *testing.T) {
	body := benchEnvelope(500)
	lines := []byte(strings.Join(benchLines(500), "\n"))
	parsed := func(body []byte) func() mw.Event {
		return func() mw.Event {
			events, err := mw.Parse(body)
			require.NoError(t, err)
			return events[252] // with an escape in its text
		}
	}
	streamed := func(body []byte) func() mw.Event {
		return func() (ev mw.Event) {
			d := mw.NewDecoder(bytes.NewReader(body))
			for range 253 {
				var err error
				ev, err = d.Decode()
				require.NoError(t, err)
			}
			return ev
		}
	}
	for name, event := range map[string]func() mw.Event{
		"Parse, envelope": parsed(body), "Parse, lines": parsed(lines), "Decoder, envelope": streamed(body), "Decoder, lines": streamed(lines),
	} {
		t.Run(name, func(t *testing.T) {
			const deliveries = 100
			email := keptEach(deliveries, func() any { return event().(*mw.SendingWebhookEvent).Email })
			whole := keptEach(deliveries, func() any { return event() })
			t.Logf("%.0f bytes for an address, %.0f for an event", email, whole)
			require.Less(t, email, 500.0)
			require.Less(t, whole, 800.0)
		})
	}
}
