package mailtrapwebhook_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/stretchr/testify/require"
)

// sameFault compares errors by where they are and by what they mention: of two errors one says more than the other.
var sameFault = cmp.Comparer(func(x, y error) bool {
	var a, b *mailtrapwebhook.DecodeError
	if !errors.As(x, &a) || !errors.As(y, &b) {
		return x == y
	}
	return a.Offset == b.Offset && a.Line == b.Line &&
		(strings.Contains(a.Err.Error(), b.Err.Error()) || strings.Contains(b.Err.Error(), a.Err.Error()))
})

// faultAt returns the error that is expected at the first marker in body, "" being its end.
func faultAt(t *testing.T, body, marker, mentions string) error {
	t.Helper()
	i := len(body)
	if marker != "" {
		i = strings.Index(body, marker)
		require.GreaterOrEqual(t, i, 0, "%s is not in %s", marker, body)
	}
	line := 1 + strings.Count(body[:i], "\n")
	return &mailtrapwebhook.DecodeError{Offset: int64(i), Line: line, Err: errors.New(mentions)}
}

// soleEvent decodes a body that is one event.
func soleEvent(t *testing.T, body string) mailtrapwebhook.Event {
	t.Helper()
	events, err := mailtrapwebhook.Parse([]byte(body))
	require.NoError(t, err)
	require.Len(t, events, 1)
	return events[0]
}

// rawOf and setRaw reach the field that all events have.
func rawOf(ev mailtrapwebhook.Event) string {
	return reflect.ValueOf(ev).Elem().FieldByName("Raw").String()
}
func setRaw(ev mailtrapwebhook.Event, raw string) mailtrapwebhook.Event {
	reflect.ValueOf(ev).Elem().FieldByName("Raw").SetString(raw)
	return ev
}

var ignoreRaw = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Raw" }, cmp.Ignore())

// sampleFiles returns the documented payloads by their names under testdata.
func sampleFiles(t testing.TB) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for _, pattern := range []string{"json/*.json", "jsonl/*.jsonl"} {
		paths, err := filepath.Glob(filepath.Join("testdata", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, paths)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			files[filepath.Base(path)] = string(text)
		}
	}
	return files
}

// rawEvents returns the text of each event of a sample, by encoding/json.
func rawEvents(t testing.TB, name, body string) (raws []string) {
	t.Helper()
	if strings.HasSuffix(name, ".jsonl") {
		return strings.Split(strings.TrimSpace(body), "\n")
	}
	var envelope struct{ Events []json.RawMessage }
	require.NoError(t, json.Unmarshal([]byte(body), &envelope))
	for _, raw := range envelope.Events {
		raws = append(raws, string(raw))
	}
	return raws
}

func TestDocumentedSamplesDecodeFieldByField(t *testing.T) {
	const (
		messageID = "1df37d17-0286-4d8b-8edf-bc4ec5be86e6"
		eventID   = "bede7236-2284-43d6-a953-1fdcafd0fdbc"
	)
	at := time.Date(2024, 10, 11, 18, 1, 40, 0, time.UTC)
	later := time.Date(2024, 10, 11, 18, 5, 27, 0, time.UTC)
	audit := time.Date(2025, 1, 2, 15, 2, 18, 0, time.UTC)
	sending := func(typ mailtrapwebhook.EventType, at time.Time, more func(*mailtrapwebhook.SendingWebhookEvent)) mailtrapwebhook.Event {
		e := &mailtrapwebhook.SendingWebhookEvent{Event: typ, Timestamp: at, SendingStream: mailtrapwebhook.StreamTransactional,
			MessageID: messageID, Email: "receiver@example.com", EventID: eventID, SendingDomainName: "examplesender.com"}
		if more != nil {
			more(e)
		}
		return e
	}
	mixed := func(typ mailtrapwebhook.EventType, at time.Time, id string, more func(*mailtrapwebhook.SendingWebhookEvent)) mailtrapwebhook.Event {
		return sending(typ, at, func(e *mailtrapwebhook.SendingWebhookEvent) {
			e.MessageID, e.EventID, e.Email, e.SendingDomainName = "abc-123", id, "user1@example.com", "example.com"
			if more != nil {
				more(e)
			}
		})
	}
	want := map[string][]mailtrapwebhook.Event{
		"delivery.json": {sending(mailtrapwebhook.EventDelivery, at, func(e *mailtrapwebhook.SendingWebhookEvent) {
			e.Category, e.CustomVariables = "Password reset", `{"user_id":"123"}`
		})},
		"bounce.json": {sending(mailtrapwebhook.EventBounce, at, func(e *mailtrapwebhook.SendingWebhookEvent) {
			e.Response, e.ResponseCode = "[CS01] Message rejected due to local policy", 555
			e.BounceCategory = mailtrapwebhook.BounceSpam
		})},
		"soft_bounce.json": {sending(mailtrapwebhook.EventSoftBounce, at, func(e *mailtrapwebhook.SendingWebhookEvent) {
			e.Response, e.ResponseCode = "4.7.1 Temporary error, please retry", 451
			e.BounceCategory = mailtrapwebhook.BounceGreylisting
		})},
		"spam.json": {sending(mailtrapwebhook.EventSpam, at, nil)},
		"suspension.json": {sending(mailtrapwebhook.EventSuspension, at, func(e *mailtrapwebhook.SendingWebhookEvent) {
			e.Reason = "Your account has reached its daily sending limit."
		})},
		"reject.json": {sending(mailtrapwebhook.EventReject, at, func(e *mailtrapwebhook.SendingWebhookEvent) {
			e.Reason = "Recipient in suppression list. Reason: unsubscription"
		})},
		"open.json": {sending(mailtrapwebhook.EventOpen, at, func(e *mailtrapwebhook.SendingWebhookEvent) {
			e.IP, e.UserAgent = "127.138.158.185", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)"
		})},
		"click.json": {sending(mailtrapwebhook.EventClick, at, func(e *mailtrapwebhook.SendingWebhookEvent) {
			e.IP, e.UserAgent = "142.86.27.2", "Mozilla/5.0 (Windows NT x.y; Win64; x64)"
			e.URL = "https://mailtrap.io/email-api"
		})},
		"unsubscribe.json": {sending(mailtrapwebhook.EventUnsubscribe, at, nil)},
		"audit_log_user_login.json": {&mailtrapwebhook.ActivityLogWebhookEvent{
			Event: "activity_log.user.login", Description: "logged in with SSO",
			Actor: mailtrapwebhook.Actor{ID: 1, Type: mailtrapwebhook.ActorUser, Name: "John Doe"}, Timestamp: audit,
		}},
		"audit_log_profile_update.json": {&mailtrapwebhook.ActivityLogWebhookEvent{
			Event: "activity_log.user.updated", Description: "updated the user profile",
			Actor:    mailtrapwebhook.Actor{ID: 1, Type: mailtrapwebhook.ActorUser, Name: "John Doe"},
			Resource: &mailtrapwebhook.Resource{ID: "1", Type: mailtrapwebhook.ResourceUser, Name: "John Doe"},
			Changes:  map[string]mailtrapwebhook.Change{"name": {From: "John", To: "John Doe"}}, Timestamp: audit,
		}},
		"delivery.jsonl": {
			sending(mailtrapwebhook.EventDelivery, later, func(e *mailtrapwebhook.SendingWebhookEvent) { e.Category = "Password reset" }),
			sending(mailtrapwebhook.EventDelivery, later, func(e *mailtrapwebhook.SendingWebhookEvent) {
				e.Category, e.MessageID = "Email confirmation", "ca7974af-7212-42aa-99fb-cc4742d0658b"
				e.Email, e.EventID = "another@example.com", "657b8544-6a95-4c47-997f-6e47922a5052"
			}),
		},
		"bounce.jsonl": {sending(mailtrapwebhook.EventBounce, later, func(e *mailtrapwebhook.SendingWebhookEvent) {
			e.Response, e.ResponseCode, e.BounceCategory = "[CS01] Message rejected", 555, mailtrapwebhook.BounceSpam
		})},
		"mixed.jsonl": {
			mixed(mailtrapwebhook.EventDelivery, later, "evt-1", nil),
			mixed(mailtrapwebhook.EventOpen, later.Add(3*time.Second), "evt-2", func(e *mailtrapwebhook.SendingWebhookEvent) { e.IP = "192.168.1.1" }),
			mixed(mailtrapwebhook.EventClick, later.Add(8*time.Second), "evt-3", func(e *mailtrapwebhook.SendingWebhookEvent) { e.URL = "https://example.com" }),
		},
	}
	files := sampleFiles(t)
	require.ElementsMatch(t, slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(files)))
	for name, body := range files {
		t.Run(name, func(t *testing.T) {
			raws := rawEvents(t, name, body)
			require.Len(t, raws, len(want[name]))
			for i, ev := range want[name] {
				setRaw(ev, raws[i])
			}
			got, err := mailtrapwebhook.Parse([]byte(body))
			require.NoError(t, err)
			if diff := cmp.Diff(want[name], got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			require.Equal(t, want[name], got, "testify compares events as well")
			for _, ev := range got {
				require.Equal(t, time.UTC, ev.Time().Location())
				require.NoError(t, ev.(interface{ Validate() error }).Validate())
			}
		})
	}
}

func TestBothFormatsGiveEqualEvents(t *testing.T) {
	for name, body := range sampleFiles(t) {
		t.Run(name, func(t *testing.T) {
			var lines, array bytes.Buffer
			raws := rawEvents(t, name, body)
			for _, raw := range raws {
				require.NoError(t, json.Compact(&lines, []byte(raw)))
				lines.WriteByte('\n')
			}
			require.NoError(t, json.Indent(&array, []byte(`{"events":[`+strings.Join(raws, ",")+`]}`), "", "\t"))
			fromLines, err := mailtrapwebhook.Parse(lines.Bytes())
			require.NoError(t, err)
			fromArray, err := mailtrapwebhook.Parse(array.Bytes())
			require.NoError(t, err)
			if diff := cmp.Diff(fromLines, fromArray, ignoreRaw); diff != "" {
				t.Errorf("JSON Lines and JSON differ (-lines +json):\n%s", diff)
			}
		})
	}
}

// decodable are events with what they mean, Raw apart. The fuzz tests start from them too.
var decodable = []struct {
	name string
	json string
	want mailtrapwebhook.Event
}{
	{
		"a payload of old without sending_domain_name and sending_stream",
		`{"event":"bounce","timestamp":1692115000,"message_id":"m","email":"a@example.com","event_id":"e","response_code":550}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventBounce, Timestamp: time.Unix(1692115000, 0).UTC(), MessageID: "m",
			Email: "a@example.com", EventID: "e", ResponseCode: 550},
	},
	{
		"the management API's soft_bounce",
		`{"event":"soft_bounce","message_id":"m"}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventSoftBounce, MessageID: "m"},
	},
	{
		"the management API's spam_complaint",
		`{"event":"spam_complaint","message_id":"m"}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventSpam, MessageID: "m"},
	},
	{
		"values that are not documented",
		`{"event":"bounce","sending_stream":"campaigns","bounce_category":"new one"}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventBounce, SendingStream: "campaigns", BounceCategory: "new one"},
	},
	{
		"fields that are not documented",
		`{"event":"open","new":{"event":"click","email":[1]},"email":"a@example.com","newer":[null,-1.5e+3,"x"]}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, Email: "a@example.com"},
	},
	{
		"integers as strings of digits",
		`{"event":"bounce","timestamp":"1728669700","response_code":"0550"}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventBounce, Timestamp: time.Unix(1728669700, 0).UTC(), ResponseCode: 550},
	},
	{
		"integers at both ends of their range",
		`{"event":"activity_log.x","actor":{"id":-9223372036854775808},"timestamp":9223372036854775807}`,
		&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.x", Actor: mailtrapwebhook.Actor{ID: -1 << 63}, Timestamp: time.Unix(1<<63-1, 0).UTC()},
	},
	{
		"negative zero",
		`{"event":"bounce","response_code":-0,"timestamp":0}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventBounce, Timestamp: time.Unix(0, 0).UTC()},
	},
	{
		"ids as numbers",
		`{"event":"open","message_id":18446744073709551617,"event_id":-1.50}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, MessageID: "18446744073709551617", EventID: "-1.50"},
	},
	{
		"custom variables of all types with white space between them",
		"{\"event\":\"open\",\"custom_variables\": { \"id\" : 9007199254740993 ,\n\"a b\":\"c d\\u0020\", \"ok\":true}}",
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, CustomVariables: `{"id":9007199254740993,"a b":"c d\u0020","ok":true}`},
	},
	{
		"custom variables that are nested or null",
		`{"event":"open","custom_variables":{"a":null,"b":[1,{"c":2}]}}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, CustomVariables: `{"a":null,"b":[1,{"c":2}]}`},
	},
	{
		"no custom variables",
		`{"event":"open","custom_variables":{}}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, CustomVariables: `{}`},
	},
	{
		"null for every field of a sending event",
		`{"event":"click","message_id":null,"sending_stream":null,"email":null,"sending_domain_name":null,"category":null,` +
			`"custom_variables":null,"timestamp":null,"event_id":null,"reason":null,"response":null,"response_code":null,` +
			`"bounce_category":null,"ip":null,"user_agent":null,"url":null}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventClick},
	},
	{
		"null for every field of an audit-log event",
		`{"event":"activity_log.x","description":null,"actor":null,"resource":null,"changes":null,"timestamp":null}`,
		&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.x"},
	},
	{
		"null for every field inside an audit-log event",
		`{"event":"activity_log.x","actor":{"id":null,"type":null,"name":null},"resource":{"id":null,"type":null,"name":null},"changes":{"a":{"from":null,"to":null}}}`,
		&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.x", Resource: &mailtrapwebhook.Resource{}, Changes: map[string]mailtrapwebhook.Change{"a": {}}},
	},
	{
		"null for every field of an inbound event",
		`{"event":"inbound.message_received","event_id":null,"inbox_id":null,"inbound_inbox_id":null,"message_id":null,"from":null,"timestamp":null}`,
		&mailtrapwebhook.InboundWebhookEvent{Event: "inbound.message_received"},
	},
	{
		"the system as actor",
		`{"event":"activity_log.webhook.paused","actor":{"name":"Mailtrap"},"timestamp":1735830138}`,
		&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.webhook.paused", Actor: mailtrapwebhook.Actor{Name: "Mailtrap"},
			Timestamp: time.Unix(1735830138, 0).UTC()},
	},
	{
		"a resource whose id is an integer and whose type is not documented",
		`{"event":"activity_log.x","resource":{"id":17,"type":"sandbox","name":"Main"}}`,
		&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.x", Resource: &mailtrapwebhook.Resource{ID: "17", Type: "sandbox", Name: "Main"}},
	},
	{
		"an API token as actor, its id a string",
		`{"event":"activity_log.x","actor":{"id":"42","type":"api_token","name":"CI"}}`,
		&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.x", Actor: mailtrapwebhook.Actor{ID: 42, Type: mailtrapwebhook.ActorAPIToken, Name: "CI"}},
	},
	{
		"changes of any JSON type",
		`{"event":"activity_log.x","changes":{"s":{"from":"a","to":"[FILTERED]"},"n":{"from":1,"to":9007199254740993},` +
			`"b":{"from":true,"to":false},"z":{"from":null},"l":{"from":[],"to":[1.50,{"x":[null]}]},"o":{"to":{"y":-0}}}}`,
		&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.x", Changes: map[string]mailtrapwebhook.Change{
			"s": {From: "a", To: "[FILTERED]"},
			"n": {From: json.Number("1"), To: json.Number("9007199254740993")},
			"b": {From: true, To: false},
			"z": {},
			"l": {From: []any{}, To: []any{json.Number("1.50"), map[string]any{"x": []any{nil}}}},
			"o": {To: map[string]any{"y": json.Number("-0")}},
		}},
	},
	{
		"an inbound event",
		`{"event":"inbound.message_received","event_id":"2eac365a-a49d-11f1-8c43-0a58a9feac03","timestamp":1788113042436,` +
			`"inbox_id":1111,"message_id":"0000111122223333444","from":"Sender Name <from@example.com>"}`,
		&mailtrapwebhook.InboundWebhookEvent{Event: "inbound.message_received", EventID: "2eac365a-a49d-11f1-8c43-0a58a9feac03",
			InboxID: 1111, MessageID: "0000111122223333444", From: "Sender Name <from@example.com>",
			Timestamp: time.Date(2026, 8, 30, 18, 4, 2, 436e6, time.UTC)},
	},
	{
		"an inbound event as in Mailtrap's test",
		`{"event":"inbound_message_received","timestamp":"1788113042436","inbound_inbox_id":"1111","message_id":444,"from":"f@example.com"}`,
		&mailtrapwebhook.InboundWebhookEvent{Event: "inbound.message_received", InboxID: 1111, MessageID: "444", From: "f@example.com",
			Timestamp: time.UnixMilli(1788113042436).UTC()},
	},
	{
		"an inbox id beside a null in its other spelling, which is absent",
		`{"event":"inbound.message_received","inbox_id":1111,"inbound_inbox_id":null}`,
		&mailtrapwebhook.InboundWebhookEvent{Event: "inbound.message_received", InboxID: 1111},
	},
	{
		"an unknown kind",
		`{"event":"telepathy","email":5}`,
		&mailtrapwebhook.UnknownEvent{Event: "telepathy"},
	},
	{
		"a kind that differs in case",
		`{"event":"Open"}`,
		&mailtrapwebhook.UnknownEvent{Event: "Open"},
	},
	{
		"a kind that is nearly audit-log",
		`{"event":"activity_log"}`,
		&mailtrapwebhook.UnknownEvent{Event: "activity_log"},
	},
	{
		"keys that differ in case",
		`{"event":"open","EMAIL":"a@example.com","Email":5,"EVENT":"click","Message_ID":[],"email ":7}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen},
	},
	{
		"keys that a case-folding comparison takes for equal",
		"{\"event\":\"open\",\"me\u017f\u017fage_id\":\"m\",\"re\u017fpon\u017fe\":5,\"\\u212Aey\":1}",
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen},
	},
	{
		"escaped keys",
		`{"\u0065vent":"open","ema\u0069l":"a@example.com","message\u005fid":"m"}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, Email: "a@example.com", MessageID: "m"},
	},
	{
		"event at the end",
		`{"email":"a@example.com","timestamp":1,"event":"open"}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, Email: "a@example.com", Timestamp: time.Unix(1, 0).UTC()},
	},
	{
		"event in the middle of an inbound event",
		`{"inbox_id":5,"event":"inbound.message_received","timestamp":1001}`,
		&mailtrapwebhook.InboundWebhookEvent{Event: "inbound.message_received", InboxID: 5, Timestamp: time.UnixMilli(1001).UTC()},
	},
	{
		"equal keys, of which the last wins",
		`{"event":"open","email":"first@example.com","timestamp":1,"custom_variables":{"a":1},"email":"last@example.com","timestamp":2,"custom_variables":{"b":2}}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, Email: "last@example.com", Timestamp: time.Unix(2, 0).UTC(), CustomVariables: `{"b":2}`},
	},
	{
		"equal keys, of which the last is null",
		`{"event":"bounce","email":"a@example.com","response_code":1,"timestamp":1,"custom_variables":{},"message_id":"m","email":null,"response_code":null,"timestamp":null,"custom_variables":null,"message_id":null}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventBounce},
	},
	{
		"equal keys, of which the first cannot be read",
		`{"event":"bounce","email":5,"response_code":"x","email":"a@example.com","response_code":550}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventBounce, Email: "a@example.com", ResponseCode: 550},
	},
	{
		"equal keys in an audit-log event",
		`{"event":"activity_log.x","actor":{"id":1,"name":"a"},"actor":{"id":2,"id":3},"resource":{"id":"1"},"resource":null,` +
			`"changes":{"a":{"from":1}},"changes":{"b":{"from":1,"to":2},"b":{"to":3,"to":[{"x":1,"x":2}]}}}`,
		&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.x", Actor: mailtrapwebhook.Actor{ID: 3}, Changes: map[string]mailtrapwebhook.Change{
			"b": {To: []any{map[string]any{"x": json.Number("2")}}}}},
	},
	{
		"an event that becomes another of its family",
		`{"event":"open","email":"a@example.com","event":"click"}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventClick, Email: "a@example.com"},
	},
	{
		"an event that becomes one of another family",
		`{"event":"open","timestamp":1001,"message_id":"m","email":5,"event":"inbound.message_received"}`,
		&mailtrapwebhook.InboundWebhookEvent{Event: "inbound.message_received", MessageID: "m", Timestamp: time.UnixMilli(1001).UTC()},
	},
	{
		"an event that becomes unknown",
		`{"event":"open","email":5,"event":"telepathy"}`,
		&mailtrapwebhook.UnknownEvent{Event: "telepathy"},
	},
	{
		"an unknown event that becomes known",
		`{"event":"telepathy","email":"a@example.com","event":5,"\u0065vent":"open"}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, Email: "a@example.com"},
	},
	{
		"all escapes",
		`{"event":"open","user_agent":"\"\\\/\b\f\n\r\t\u00e9\u20AC\ud83d\udE00 é€😀\u0000"}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, UserAgent: "\"\\/\b\f\n\r\té€😀 é€😀\x00"},
	},
	{
		"lone surrogates",
		`{"event":"open","category":"\ud800","reason":"\udc00\ud800x","url":"\ud800\ud83d\ude00","ip":"\ud800\u0041\udfff\ud800","response":"\ud800\n\ud800\\u"}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, Category: "\uFFFD", Reason: "\uFFFD\uFFFDx", URL: "\uFFFD😀",
			IP: "\uFFFDA\uFFFD\uFFFD", Response: "\uFFFD\n\uFFFD\\u"},
	},
	{
		"invalid UTF-8",
		"{\"event\":\"open\",\"category\":\"a\xffb\",\"reason\":\"\xe2\x82\",\"url\":\"\xed\xa0\x80\",\"ip\":\"\xc0\x80\\n\xf5\",\"new\xff\":1}",
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, Category: "a\uFFFDb", Reason: "\uFFFD\uFFFD", URL: "\uFFFD\uFFFD\uFFFD", IP: "\uFFFD\uFFFD\n\uFFFD"},
	},
	{
		"a name with an escape",
		`{"event":"soft\u0020bounce"}`,
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventSoftBounce},
	},
	{
		"white space wherever it may be",
		"{ \"event\"\t:\r\"open\" , \"email\" : \"a@example.com\" ,\"timestamp\" : 1 }",
		&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, Email: "a@example.com", Timestamp: time.Unix(1, 0).UTC()},
	},
}

func TestEventsDecode(t *testing.T) {
	for _, test := range decodable {
		for _, form := range []struct{ name, before, after string }{
			{"alone", "", ""},
			{"in an envelope", "{\n\"events\": [ ", " ] }"},
			{"among others", `[{"event":"open","email":"x","event":"click"},`, `,{"event":5},6]`},
			{"as a line", "{\"event\":\"telepathy\"}\n\n", "\r\n{\"event\":\"spam\"}"},
		} {
			t.Run(test.name+"/"+form.name, func(t *testing.T) {
				if form.name == "as a line" && strings.Contains(test.json, "\n") {
					t.Skip("it has more than one line")
				}
				events, err := mailtrapwebhook.Parse([]byte(form.before + test.json + form.after))
				require.NoError(t, err)
				i := slices.IndexFunc(events, func(ev mailtrapwebhook.Event) bool { return rawOf(ev) == test.json })
				require.GreaterOrEqual(t, i, 0, "no event has the JSON as its Raw")
				if diff := cmp.Diff(test.want, events[i], ignoreRaw); diff != "" {
					t.Errorf("event (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestNames(t *testing.T) {
	for _, test := range []struct {
		event mailtrapwebhook.Event
		want  string
	}{
		{&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventDelivery}, "delivery"},
		{&mailtrapwebhook.SendingWebhookEvent{Event: "soft_bounce"}, "soft bounce"},
		{&mailtrapwebhook.SendingWebhookEvent{Event: "spam_complaint"}, "spam"},
		{&mailtrapwebhook.InboundWebhookEvent{Event: "inbound_message_received"}, "inbound.message_received"},
		{&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.user.updated"}, "activity_log.user.updated"},
		{&mailtrapwebhook.UnknownEvent{Event: "telepathy"}, "telepathy"},
		{&mailtrapwebhook.UnknownEvent{}, ""},
		{soleEvent(t, `{"event":"soft_bounce"}`), "soft bounce"},
		{soleEvent(t, `{"event":"soft_bounce","email":5}`), "soft bounce"},
		{soleEvent(t, `{"event":"inbound_message_received"}`), "inbound.message_received"},
	} {
		require.Equal(t, test.want, test.event.Name())
	}
	require.Equal(t, []mailtrapwebhook.EventType{"delivery", "open", "click", "unsubscribe", "spam", "soft bounce", "bounce", "suspension", "reject"},
		[]mailtrapwebhook.EventType{mailtrapwebhook.EventDelivery, mailtrapwebhook.EventOpen, mailtrapwebhook.EventClick, mailtrapwebhook.EventUnsubscribe, mailtrapwebhook.EventSpam, mailtrapwebhook.EventSoftBounce,
			mailtrapwebhook.EventBounce, mailtrapwebhook.EventSuspension, mailtrapwebhook.EventReject})
}

func TestTimeIsUTC(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for _, ev := range []mailtrapwebhook.Event{
		&mailtrapwebhook.SendingWebhookEvent{Timestamp: at}, &mailtrapwebhook.ActivityLogWebhookEvent{Timestamp: at}, &mailtrapwebhook.InboundWebhookEvent{Timestamp: at},
	} {
		require.Equal(t, at.UTC(), ev.Time())
	}
	for _, body := range []string{`{"event":"open"}`, `{"event":"activity_log.x"}`, `{"event":"inbound.message_received"}`, `{"event":"x","timestamp":1}`} {
		require.True(t, soleEvent(t, body).Time().IsZero())
	}
}

func TestUnreadableFieldMakesTheEventUnknown(t *testing.T) {
	var (
		noString   = []string{`5`, `-0.5`, `true`, `{}`, `{"a":"b"}`, `[]`, `["a"]`}
		noID       = []string{`true`, `false`, `{}`, `[]`, `["a"]`}
		noInteger  = []string{`"x"`, `""`, `"-1"`, `"+1"`, `" 1"`, `"1 "`, `"1.0"`, `"1e3"`, `"0x10"`, `"1_0"`, `"１"`, `1.5`, `1.0`, `1e3`, `true`, `{}`, `[]`, `[1]`}
		outOfRange = []string{`9223372036854775808`, `-9223372036854775809`, `"9223372036854775808"`, `1` + strings.Repeat("0", 400)}
		noObject   = []string{`"x"`, `5`, `true`, `[]`, `[{}]`}
	)
	noInteger = append(noInteger, outOfRange...)
	for _, family := range []struct {
		event  string
		fields map[string][]string // a dot stands for an object
	}{
		{"bounce", map[string][]string{
			"message_id": noID, "sending_stream": noString, "email": noString, "sending_domain_name": noString,
			"category": noString, "custom_variables": noObject, "timestamp": noInteger, "event_id": noID, "reason": noString,
			"response": noString, "response_code": noInteger, "bounce_category": noString, "ip": noString,
			"user_agent": noString, "url": noString,
		}},
		{"activity_log.user.updated", map[string][]string{
			"description": noString, "actor": noObject, "actor.id": noInteger, "actor.type": noString, "actor.name": noString,
			"resource": noObject, "resource.id": noID, "resource.type": noString, "resource.name": noString,
			"changes": noObject, "timestamp": noInteger,
		}},
		{"inbound.message_received", map[string][]string{
			"event_id": noID, "inbox_id": noInteger, "inbound_inbox_id": noInteger, "message_id": noID, "from": noString,
			"timestamp": noInteger,
		}},
	} {
		for field, values := range family.fields {
			t.Run(family.event+"/"+field, func(t *testing.T) {
				for _, value := range values {
					const neighbour = `{"event":"open","email":"a@example.com"}`
					bad := fmt.Sprintf(`{"event":%q,%q:%s}`, family.event, field, value)
					if outer, inner, ok := strings.Cut(field, "."); ok {
						bad = fmt.Sprintf(`{"event":%q,%q:{%q: %s}}`, family.event, outer, inner, value)
					}
					offset := strings.LastIndex(bad, value)
					for _, body := range []string{
						neighbour + "\n" + bad + "\n" + neighbour,
						`{"events":[` + neighbour + ",\n" + bad + `,` + neighbour + `]}`,
					} {
						at := strings.Index(body, bad) + offset
						want := []mailtrapwebhook.Event{
							&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, Email: "a@example.com", Raw: neighbour},
							&mailtrapwebhook.UnknownEvent{Event: family.event, Raw: bad, Err: &mailtrapwebhook.DecodeError{Offset: int64(at), Line: 2, Err: errors.New(field)}},
							&mailtrapwebhook.SendingWebhookEvent{Event: mailtrapwebhook.EventOpen, Email: "a@example.com", Raw: neighbour},
						}
						got, err := mailtrapwebhook.Parse([]byte(body))
						require.NoError(t, err)
						if diff := cmp.Diff(want, got, sameFault); diff != "" {
							t.Errorf("%s (-want +got):\n%s", bad, diff)
						}
					}
				}
			})
		}
	}
}

// As Go values, tiny changes take many times the memory of their text.
func TestChangesThatTakeTooMuchMemory(t *testing.T) {
	event := func(changes string) string { return `{"event":"activity_log.x","changes":{` + changes + `}}` }
	small := event(`"a":{"from":["b"],"to":{"c":[1,2]}}`)
	var attributes strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&attributes, `"%d":{},`, i)
	}
	for name, large := range map[string]string{
		"attributes": event(attributes.String() + `"z":{}`),
		"an array":   event(`"a":{"from":[` + strings.Repeat("[],", 200_000) + `[]]}`),
		"objects":    event(`"a":{"to":[` + strings.Repeat(`{"":0},`, 100_000) + `0]}`),
	} {
		t.Run(name, func(t *testing.T) {
			events, err := mailtrapwebhook.Parse([]byte(`[` + small + `,` + large + `,` + small + `,{"event":"activity_log.x"}]`))
			require.NoError(t, err)
			require.Len(t, events, 4)
			require.Equal(t, map[string]mailtrapwebhook.Change{
				"a": {From: []any{"b"}, To: map[string]any{"c": []any{json.Number("1"), json.Number("2")}}},
			}, events[0].(*mailtrapwebhook.ActivityLogWebhookEvent).Changes)
			unknown, ok := events[1].(*mailtrapwebhook.UnknownEvent)
			require.True(t, ok)
			require.ErrorAs(t, unknown.Err, new(*mailtrapwebhook.DecodeError))
			require.ErrorContains(t, unknown.Err, "changes.(attributes) is not of a size that can be read")
			require.Equal(t, events[0], events[2], "its neighbours are as if it were not there")
			require.IsType(t, &mailtrapwebhook.ActivityLogWebhookEvent{}, events[3])

			d := mailtrapwebhook.NewDecoder(strings.NewReader(small + "\n" + large + "\n" + small))
			d.MaxEventBytes = len(large) // of which it has room for every one
			events, err = drain(d)
			require.NoError(t, err)
			require.Len(t, events, 3)
			require.IsType(t, &mailtrapwebhook.UnknownEvent{}, events[1])
			require.IsType(t, &mailtrapwebhook.ActivityLogWebhookEvent{}, events[2])
		})
	}
}

// A batch as large as Mailtrap's, of entries with richer changes than any that it documents.
func TestChangesOfAFullBatchAreRead(t *testing.T) {
	entry := `{"event":"activity_log.x","changes":{"permissions":{"from":[],"to":[` +
		strings.Repeat(`{"id":1,"level":0,"note":"a, b, c"},`, 10) + `{}]},"name":{"from":"a","to":"b"}}}`
	events, err := mailtrapwebhook.Parse([]byte(`{"events":[` + strings.Repeat(entry+",", 499) + entry + `]}`))
	require.NoError(t, err)
	require.Len(t, events, 500)
	for _, ev := range events {
		require.Len(t, ev.(*mailtrapwebhook.ActivityLogWebhookEvent).Changes, 2)
	}
}

// In a stream each event has room for its changes, whatever came before it.
func TestEnvelopesOnLinesOfAStreamHaveRoomForChanges(t *testing.T) {
	line := `{"events":[{"event":"activity_log.x","changes":{"email":{"from":"a","to":"b"}}}]}` + "\n"
	for _, first := range []string{"x\n", opened + "\n", opened + "x\n" + opened + "\n", ""} {
		events, err := drain(mailtrapwebhook.NewDecoder(strings.NewReader(first + strings.Repeat(line, 60_000))))
		require.NoError(t, err)
		for _, ev := range events[strings.Count(first, "\n"):] {
			require.IsType(t, &mailtrapwebhook.ActivityLogWebhookEvent{}, ev)
		}
	}
}

// An event that is looked at twice is charged once, one that turns out to be none not at all, and all others, wherever they
// stand.
func TestChangesAreChargedOnce(t *testing.T) {
	sized := func(attributes int) string { // there is room for 80,000
		var changes strings.Builder
		for i := range attributes {
			fmt.Fprintf(&changes, `"%d":{},`, i)
		}
		return `{"event":"activity_log.x","changes":{` + changes.String() + `"z":{}}}`
	}
	large, event := sized(50_000), sized(30_000)
	for name, test := range map[string]struct {
		body string
		want []bool // whether each event can be read
	}{
		"alone":                 {large, []bool{true}},
		"alone, on two lines":   {"{\n" + large[1:], []bool{true}},
		"a line that is broken": {opened + "\n" + large + "x\n" + large, []bool{true, false, true}},
		"elements":              {"[" + event + "," + event + "," + event + "]", []bool{true, true, false}},
		"lines":                 {strings.Repeat(event+"\n", 3), []bool{true, true, false}},
		"envelopes on lines":    {strings.Repeat(`{"events":[`+event+"]}\n", 3), []bool{true, true, false}},
	} {
		t.Run(name, func(t *testing.T) {
			events, err := mailtrapwebhook.Parse([]byte(test.body))
			require.NoError(t, err)
			got := []bool{}
			for _, ev := range events {
				_, unknown := ev.(*mailtrapwebhook.UnknownEvent)
				got = append(got, !unknown)
			}
			require.Equal(t, test.want, got)
		})
	}
}

// In a large body there is more room, and what was read there can be read again alone.
func TestLargeChangesRoundTrip(t *testing.T) {
	var attributes strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&attributes, `"%d":{},`, i)
	}
	large := `{"event":"activity_log.x","changes":{` + attributes.String() + `"z":{}}}`
	events, err := mailtrapwebhook.Parse([]byte(`[{"event":"open","x":"` + strings.Repeat("x", 8<<20) + `"},` + large + `]`))
	require.NoError(t, err)
	require.Len(t, events, 2)
	text, err := json.Marshal(events[1])
	require.NoError(t, err)
	var again mailtrapwebhook.ActivityLogWebhookEvent
	require.NoError(t, json.Unmarshal(text, &again))
	require.Len(t, again.Changes, 100_001)
}

func TestUnreadableElements(t *testing.T) {
	for _, test := range []struct{ name, event, body, at, mentions string }{
		{"no event", "", `{"email":"a@example.com"}`, `{`, "event"},
		{"an empty event", "", `{"event":""}`, `{`, "event"},
		{"event is null", "", `{"event":null}`, `{`, "event"},
		{"event is a number", "", `{"event":5}`, `5`, "event"},
		{"event is an array", "", `{"a":1,"event":["open"]}`, `[`, "event"},
		{"event is at last null", "", `{"event":"open","event":null}`, `{`, "event"},
		{"event is at last a number", "", `{"event":"open","event":5}`, `5`, "event"},
		{"EVENT is not event", "", `{"EVENT":"open"}`, `{`, "event"},
		{"nor is event anywhere else", "", `{"x":{"event":"open"}}`, `{`, "event"},
		{"a change that is no object", "activity_log.x", `{"event":"activity_log.x","changes":{"a":{"from":1},"b":7}}`, `7`, "changes"},
		{"the first of two faults", "open", `{"event":"open","email":7,"ip":8}`, `7`, "email"},
		{"a fault before event", "open", `{"email":7,"event":"open"}`, `7`, "email"},
		{"a fault and two events", "click", `{"event":"open","email":7,"event":"click"}`, `7`, "email"},
		{"an alias in the fault's event", "soft bounce", `{"event":"soft_bounce","email":7}`, `7`, "email"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ev := soleEvent(t, test.body)
			require.IsType(t, &mailtrapwebhook.UnknownEvent{}, ev)
			require.Equal(t, test.event, ev.Name())
			want := &mailtrapwebhook.UnknownEvent{Event: ev.(*mailtrapwebhook.UnknownEvent).Event, Raw: test.body, Err: faultAt(t, test.body, test.at, test.mentions)}
			if diff := cmp.Diff(mailtrapwebhook.Event(want), ev, sameFault); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
		})
	}
}

func TestKey(t *testing.T) {
	const (
		sending = `{"event":"open","message_id":"m","event_id":"e"}`
		inbound = `{"event":"inbound.message_received","inbox_id":1,"message_id":"m"}`
		audit   = `{"event":"activity_log.x","timestamp":1}`
		unknown = `{"event":"telepathy"}`
	)
	for _, test := range []struct {
		name string
		a, b string
		same bool
	}{
		{"the same again", sending, sending, true},
		{"other fields do not count", sending, `{"event":"open","message_id":"m","event_id":"e","email":"x","timestamp":5}`, true},
		{"nor does their order", sending, `{"event_id":"e", "message_id":"m", "event":"open"}`, true},
		{"nor does the spelling of the kind", `{"event":"soft_bounce","message_id":"m","event_id":"e"}`, `{"event":"soft bounce","message_id":"m","event_id":"e"}`, true},
		{"another event of the same ids", sending, `{"event":"click","message_id":"m","event_id":"e"}`, false},
		{"event_id alone does not decide", sending, `{"event":"open","message_id":"n","event_id":"e"}`, false},
		{"nor does message_id", sending, `{"event":"open","message_id":"m","event_id":"f"}`, false},
		{"where one id ends and the next begins", `{"event":"open","message_id":"ab","event_id":"c"}`, `{"event":"open","message_id":"a","event_id":"bc"}`, false},
		{"which id is which", `{"event":"open","message_id":"a","event_id":"b"}`, `{"event":"open","message_id":"b","event_id":"a"}`, false},
		{"ids that differ in invalid UTF-8", "{\"event\":\"open\",\"message_id\":\"\xff\",\"event_id\":\"e\"}", "{\"event\":\"open\",\"message_id\":\"\xfe\",\"event_id\":\"e\"}", false},
		{"ids that differ in lone surrogates", `{"event":"open","message_id":"\ud800","event_id":"e"}`, `{"event":"open","message_id":"\ud801","event_id":"e"}`, false},
		{"an invalid id and a replacement character", "{\"event\":\"open\",\"message_id\":\"\xff\",\"event_id\":\"e\"}", `{"event":"open","message_id":"�","event_id":"e"}`, false},
		{"the last of equal keys", sending, `{"event":"open","message_id":"x","event_id":"e","message_id":"m"}`, true},
		{"the last of equal keys again", sending, `{"event":"open","message_id":"m","event_id":"e","message_id":"x"}`, false},
		{"ids inside other members", sending, `{"event":"open","custom_variables":{"message_id":"x"},"message_id":"m","event_id":"e","x":{"event_id":"y"}}`, true},
		{"ids in other case", sending, `{"event":"open","message_id":"m","event_id":"e","MESSAGE_ID":"x"}`, true},
		{"an id missing: all of it counts", `{"event":"open","message_id":"m","timestamp":1}`, `{"event":"open","message_id":"m","timestamp":2}`, false},
		{"an id missing: the same again", `{"event":"open","message_id":"m","timestamp":1}`, `{"event":"open","message_id":"m","timestamp":1}`, true},
		{"an id null: all of it counts", `{"event":"open","message_id":"m","event_id":null,"timestamp":1}`, `{"event":"open","message_id":"m","event_id":null,"timestamp":2}`, false},
		{"an id empty: all of it counts", `{"event":"open","message_id":"m","event_id":"","timestamp":1}`, `{"event":"open","message_id":"m","event_id":"","timestamp":2}`, false},

		{"inbound: event_id does not count", inbound, `{"event":"inbound.message_received","inbox_id":1,"message_id":"m","event_id":"other"}`, true},
		{"inbound: both spellings", inbound, `{"event":"inbound_message_received","inbound_inbox_id":1,"message_id":"m","timestamp":1}`, true},
		{"inbound: a null in the other spelling is absent", inbound, `{"event":"inbound.message_received","inbox_id":1,"message_id":"m","inbound_inbox_id":null}`, true},
		{"inbound: another inbox", inbound, `{"event":"inbound.message_received","inbox_id":2,"message_id":"m"}`, false},
		{"inbound: another message", inbound, `{"event":"inbound.message_received","inbox_id":1,"message_id":"n"}`, false},
		{"inbound: where one id ends", `{"event":"inbound.message_received","inbox_id":1,"message_id":"11"}`, `{"event":"inbound.message_received","inbox_id":11,"message_id":"1"}`, false},
		{"inbound: an id missing", `{"event":"inbound.message_received","message_id":"m","from":"a"}`, `{"event":"inbound.message_received","message_id":"m","from":"b"}`, false},

		{"audit log: the same bytes", audit, audit, true},
		{"audit log: other bytes", audit, `{"event":"activity_log.x","timestamp": 1}`, false},
		{"audit log: ids are no ids there", `{"event":"activity_log.x","message_id":"m","event_id":"e","timestamp":1}`, `{"event":"activity_log.x","message_id":"m","event_id":"e","timestamp":2}`, false},
		{"unknown: the same bytes", unknown, unknown, true},
		{"unknown: other bytes", unknown, `{"event":"telepathy" }`, false},
		{"one kind and another", `{"event":"open","email":5}`, `{"event":"open","email":"5"}`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := soleEvent(t, test.a).Key(), soleEvent(t, test.b).Key()
			require.Equal(t, test.same, a == b, "%s and %s", a, b)
		})
	}

	t.Run("has a prefix of its kind and a digest of fixed length", func(t *testing.T) {
		shape := regexp.MustCompile(`^([a-z]+)\W([0-9a-f]{32,})$`)
		prefixes, lengths := make(map[string]bool), make(map[int]bool)
		for _, body := range []string{sending, inbound, audit, unknown} {
			parts := shape.FindStringSubmatch(soleEvent(t, body).Key())
			require.NotNil(t, parts, "%s", soleEvent(t, body).Key())
			prefixes[parts[1]], lengths[len(parts[2])] = true, true
		}
		require.Len(t, prefixes, 4)
		require.Len(t, lengths, 1)
		for _, body := range []string{`{"event":"spam"}`, `{"event":"spam","message_id":"` + strings.Repeat("m", 9999) + `","event_id":"e"}`} {
			require.Len(t, soleEvent(t, body).Key(), len(soleEvent(t, sending).Key()))
		}
	})
	t.Run("does not depend on the form of the body", func(t *testing.T) {
		for name, body := range sampleFiles(t) {
			for i, raw := range rawEvents(t, name, body) {
				events, err := mailtrapwebhook.Parse([]byte(body))
				require.NoError(t, err)
				alone, err := mailtrapwebhook.Parse([]byte("[" + raw + "]"))
				require.NoError(t, err)
				require.Equal(t, alone[0].Key(), events[i].Key())
			}
		}
	})
	t.Run("of an event built by hand is made of its fields", func(t *testing.T) {
		require.Equal(t, soleEvent(t, sending).Key(), (&mailtrapwebhook.SendingWebhookEvent{Event: "open", MessageID: "m", EventID: "e", Email: "x"}).Key())
		require.Equal(t, soleEvent(t, inbound).Key(), (&mailtrapwebhook.InboundWebhookEvent{Event: "inbound.message_received", InboxID: 1, MessageID: "m"}).Key())
		for _, pair := range [][2]mailtrapwebhook.Event{
			{&mailtrapwebhook.SendingWebhookEvent{Event: "open", MessageID: "m"}, &mailtrapwebhook.SendingWebhookEvent{Event: "open", MessageID: "n"}},
			{&mailtrapwebhook.SendingWebhookEvent{Event: "open", EventID: "e"}, &mailtrapwebhook.SendingWebhookEvent{Event: "open", MessageID: "e"}},
			{&mailtrapwebhook.InboundWebhookEvent{MessageID: "m"}, &mailtrapwebhook.InboundWebhookEvent{MessageID: "n"}},
			{&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.x"}, &mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.y"}},
			{&mailtrapwebhook.ActivityLogWebhookEvent{Description: "x"}, &mailtrapwebhook.ActivityLogWebhookEvent{Description: "y"}},
		} {
			require.NotEmpty(t, pair[0].Key())
			require.Equal(t, pair[0].Key(), pair[0].Key())
			require.NotEqual(t, pair[0].Key(), pair[1].Key())
		}
	})
	t.Run("is empty for an unknown event without its text", func(t *testing.T) {
		require.Empty(t, (&mailtrapwebhook.UnknownEvent{Event: "telepathy"}).Key())
		require.NotEmpty(t, (&mailtrapwebhook.UnknownEvent{Raw: "{broken"}).Key())
	})
}

// asMaps compares variables by what they mean.
var asMaps = cmp.Transformer("Map", func(v mailtrapwebhook.Variables) map[string]any { return v.Map() })

// requireRoundTrip asserts that an event that is marshalled decodes to what it was, but for Raw and the spelling of
// CustomVariables.
func requireRoundTrip(t *testing.T, ev mailtrapwebhook.Event) {
	t.Helper()
	if unknown, ok := ev.(*mailtrapwebhook.UnknownEvent); ok {
		text, err := json.Marshal(ev)
		require.NoError(t, err)
		if json.Valid([]byte(unknown.Raw)) {
			var want, got bytes.Buffer
			require.NoError(t, json.Compact(&want, []byte(unknown.Raw)))
			json.HTMLEscape(&got, want.Bytes())
			require.Equal(t, got.String(), string(text))
			return
		}
		var raw string
		require.NoError(t, json.Unmarshal(text, &raw))
		require.Equal(t, strings.ToValidUTF8(raw, "\uFFFD"), raw)
		return
	}
	text, err := json.Marshal(ev)
	require.NoError(t, err)
	again := soleEvent(t, string(text))
	if diff := cmp.Diff(ev, again, ignoreRaw, asMaps); diff != "" {
		t.Errorf("marshalled and decoded again (-before +after):\n%s\n%s", diff, text)
	}
	into := reflect.New(reflect.TypeOf(ev).Elem()).Interface()
	require.NoError(t, json.Unmarshal(text, into))
	if diff := cmp.Diff(again, into); diff != "" {
		t.Errorf("json.Unmarshal and Parse differ (-Parse +Unmarshal):\n%s", diff)
	}
}

func TestMarshalRoundTrip(t *testing.T) {
	for _, test := range decodable {
		t.Run(test.name, func(t *testing.T) { requireRoundTrip(t, soleEvent(t, test.json)) })
	}
	for name, body := range sampleFiles(t) {
		t.Run(name, func(t *testing.T) {
			events, err := mailtrapwebhook.Parse([]byte(body))
			require.NoError(t, err)
			for _, ev := range events {
				requireRoundTrip(t, ev)
			}
		})
	}
}

func TestMarshalWritesTheWireForm(t *testing.T) {
	at := time.Unix(1728669700, 123456789)
	for _, test := range []struct {
		name  string
		event mailtrapwebhook.Event
		want  string
	}{
		{"a sending event in seconds",
			&mailtrapwebhook.SendingWebhookEvent{Event: "bounce", MessageID: "m", SendingStream: "bulk", Email: "a", SendingDomainName: "d", Category: "c",
				CustomVariables: `{"x":1}`, Timestamp: at, EventID: "e", Reason: "r", Response: "s", ResponseCode: 5, BounceCategory: "b", IP: "i",
				UserAgent: "u", URL: "l", Raw: "not this"},
			`{"event":"bounce","message_id":"m","sending_stream":"bulk","email":"a","sending_domain_name":"d","category":"c",
				"custom_variables":{"x":1},"timestamp":1728669700,"event_id":"e","reason":"r","response":"s","response_code":5,"bounce_category":"b","ip":"i",
				"user_agent":"u","url":"l"}`},
		{"an audit-log event in seconds",
			&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.x", Description: "d", Actor: mailtrapwebhook.Actor{ID: 1, Type: "user", Name: "n"},
				Resource: &mailtrapwebhook.Resource{ID: "2", Type: "inbox", Name: "o"}, Changes: map[string]mailtrapwebhook.Change{"a": {From: "x", To: nil}}, Timestamp: at},
			`{"event":"activity_log.x","description":"d","actor":{"id":1,"type":"user","name":"n"},
				"resource":{"id":"2","type":"inbox","name":"o"},"changes":{"a":{"from":"x","to":null}},"timestamp":1728669700}`},
		{"an inbound event in milliseconds",
			&mailtrapwebhook.InboundWebhookEvent{Event: "inbound.message_received", EventID: "e", InboxID: 3, MessageID: "m", From: "f", Timestamp: at},
			`{"event":"inbound.message_received","event_id":"e","inbox_id":3,"message_id":"m","from":"f","timestamp":1728669700123}`},
		{"the epoch, which is not absent", &mailtrapwebhook.SendingWebhookEvent{Event: "open", Timestamp: time.Unix(0, 0)}, `{"event":"open","timestamp":0}`},
		{"absent fields left out: sending", &mailtrapwebhook.SendingWebhookEvent{}, `{}`},
		{"absent fields left out: audit log", &mailtrapwebhook.ActivityLogWebhookEvent{}, `{}`},
		{"absent fields left out: inbound", &mailtrapwebhook.InboundWebhookEvent{}, `{}`},
		{"unknown, JSON", &mailtrapwebhook.UnknownEvent{Event: "x", Raw: `{"event":"x","a":[1]}`}, `{"event":"x","a":[1]}`},
		{"unknown, a scalar", &mailtrapwebhook.UnknownEvent{Raw: `5`}, `5`},
		{"unknown, not JSON", &mailtrapwebhook.UnknownEvent{Raw: `{"a`}, `"{\"a"`},
		{"unknown, no text", &mailtrapwebhook.UnknownEvent{}, `""`},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, err := json.Marshal(test.event)
			require.NoError(t, err)
			require.JSONEq(t, test.want, string(text))
			value, err := json.Marshal(reflect.ValueOf(test.event).Elem().Interface())
			require.NoError(t, err)
			require.Equal(t, string(text), string(value), "a value gives what a pointer gives")
		})
	}
}

func TestUnmarshalRefusesAnotherKind(t *testing.T) {
	texts := map[string]string{
		"sending": `{"event":"open"}`, "audit log": `{"event":"activity_log.x"}`,
		"inbound": `{"event":"inbound.message_received"}`, "unknown": `{"event":"telepathy"}`,
	}
	into := map[string]func() any{
		"sending":   func() any { return &mailtrapwebhook.SendingWebhookEvent{Email: "kept"} },
		"audit log": func() any { return &mailtrapwebhook.ActivityLogWebhookEvent{Description: "kept"} },
		"inbound":   func() any { return &mailtrapwebhook.InboundWebhookEvent{From: "kept"} },
		"unknown":   func() any { return &mailtrapwebhook.UnknownEvent{Event: "kept"} },
	}
	for kind, text := range texts {
		for other, fresh := range into {
			t.Run(kind+" into "+other, func(t *testing.T) {
				dst := fresh()
				err := json.Unmarshal([]byte(text), dst)
				if kind == other {
					require.NoError(t, err)
					require.Equal(t, soleEvent(t, text), dst)
					return
				}
				require.Error(t, err)
				require.Equal(t, fresh(), dst)
			})
		}
	}
	for other, fresh := range into {
		dst := fresh()
		require.NoError(t, json.Unmarshal([]byte(`null`), dst), other)
		require.Equal(t, fresh(), dst, "null changes nothing")
		if other == "unknown" {
			continue
		}
		for _, text := range []string{`5`, `"open"`, `[]`, `[{"event":"open"}]`, `{}`, `{"events":[` + texts[other] + `]}`,
			`{"event":"open","email":5}`, `{"event":"activity_log.x","actor":5}`, `{"event":"inbound.message_received","from":5}`} {
			require.Error(t, json.Unmarshal([]byte(text), dst), "%s into %s", text, other)
			require.Equal(t, fresh(), dst)
		}
	}
	var inside struct {
		A, B *mailtrapwebhook.SendingWebhookEvent
	}
	require.NoError(t, json.Unmarshal([]byte(`{"A": {"event":"open"} ,"B":null}`), &inside))
	require.Equal(t, mailtrapwebhook.EventOpen, inside.A.Event)
	require.Nil(t, inside.B)
}

func TestVariables(t *testing.T) {
	const text = `{"s":"a\nb","n":9007199254740993,"f":-1.50e+2,"t":true,"z":null,"l":[1, "x"],"o":{"k":{}},"":"empty","s\u0032":"é","é":1,"dup":1,"last":0,"dup":"two"}`
	for name, want := range map[string]struct {
		value any
		text  string
	}{
		"s":    {"a\nb", "a\nb"},
		"n":    {json.Number("9007199254740993"), "9007199254740993"},
		"f":    {json.Number("-1.50e+2"), "-1.50e+2"},
		"t":    {true, "true"},
		"z":    {nil, ""},
		"l":    {[]any{json.Number("1"), "x"}, `[1, "x"]`},
		"o":    {map[string]any{"k": map[string]any{}}, `{"k":{}}`},
		"":     {"empty", "empty"},
		"s2":   {"é", "é"},
		"é":    {json.Number("1"), "1"},
		"dup":  {"two", "two"},
		"last": {json.Number("0"), "0"},
	} {
		value, ok := mailtrapwebhook.Variables(text).Get(name)
		require.True(t, ok, name)
		require.Equal(t, want.value, value, name)
		if name != "l" { // Text gives an array as it is spelled, blanks and all
			require.Equal(t, want.text, mailtrapwebhook.Variables(text).Text(name), name)
		}
	}
	for _, name := range []string{"S", "k", "no", " s", `"s"`} {
		value, ok := mailtrapwebhook.Variables(text).Get(name)
		require.False(t, ok, name)
		require.Nil(t, value)
		require.Empty(t, mailtrapwebhook.Variables(text).Text(name))
	}

	var names []string
	all := make(map[string]any)
	for name, value := range mailtrapwebhook.Variables(text).All() {
		names = append(names, name)
		all[name] = value
	}
	require.Equal(t, []string{"s", "n", "f", "t", "z", "l", "o", "", "s2", "é", "dup", "last"}, names)
	require.Equal(t, all, mailtrapwebhook.Variables(text).Map())
	for range mailtrapwebhook.Variables(text).All() {
		break // must not panic
	}
	changed := mailtrapwebhook.Variables(text).Map()
	delete(changed, "s")
	require.Contains(t, mailtrapwebhook.Variables(text).Map(), "s", "each Map is a new one")
}

func TestVariablesThatAreNoObjectAreEmpty(t *testing.T) {
	for _, text := range []string{"", "null", "5", `"s"`, "[]", `[{"a":1}]`, "{", `{"a"`, `{"a":`, `{"a":1`, `{"a":1,}`, `{"a":1}x`,
		`{"a":1}{"a":1}`, `{"a":01}`, `{a:1}`, `{"a":"\x"}`, `{,"a":1}`, `{"a":1 "b":2}`, `{"a":1}}`, "{\"a\":1}\x00", "{\"a\":1\x00}", `{"a":tru}`} {
		t.Run(text, func(t *testing.T) {
			v := mailtrapwebhook.Variables(text)
			value, ok := v.Get("a")
			require.False(t, ok)
			require.Nil(t, value)
			require.Empty(t, v.Text("a"))
			require.Empty(t, v.Map())
			for range v.All() {
				t.Fatal("there is a variable")
			}
		})
	}
	require.Empty(t, mailtrapwebhook.Variables(" { } ").Map())
	require.Equal(t, map[string]any{"a": "b"}, mailtrapwebhook.Variables(" {\"a\" :\n\"b\"} ").Map())
}

func TestVariablesMarshal(t *testing.T) {
	text, err := json.Marshal(map[string]mailtrapwebhook.Variables{"some": `{"b":1,"a":"x"}`, "none": ""})
	require.NoError(t, err)
	require.Equal(t, `{"none":null,"some":{"b":1,"a":"x"}}`, string(text))
	_, err = json.Marshal(mailtrapwebhook.Variables(`{"a":`))
	require.Error(t, err)

	var v mailtrapwebhook.Variables
	require.NoError(t, json.Unmarshal([]byte(` {"a": 1} `), &v))
	require.Equal(t, "1", v.Text("a"))
	for _, other := range []string{`5`, `"{}"`, `[]`, `true`} {
		require.Error(t, json.Unmarshal([]byte(other), &v), other)
		require.Equal(t, "1", v.Text("a"), "an error changes nothing")
	}
	require.NoError(t, json.Unmarshal([]byte(`null`), &v))
	require.Empty(t, v.Map())
}

// stringsIn calls f for every string reachable from v.
func stringsIn(v reflect.Value, f func(string)) {
	switch v.Kind() {
	case reflect.String:
		f(v.String())
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			stringsIn(v.Elem(), f)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			stringsIn(v.Field(i), f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			stringsIn(v.Index(i), f)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			stringsIn(key, f)
			stringsIn(v.MapIndex(key), f)
		}
	}
}

func clone(ev mailtrapwebhook.Event) mailtrapwebhook.Event {
	switch ev := ev.(type) {
	case *mailtrapwebhook.SendingWebhookEvent:
		return ev.Clone()
	case *mailtrapwebhook.ActivityLogWebhookEvent:
		return ev.Clone()
	case *mailtrapwebhook.InboundWebhookEvent:
		return ev.Clone()
	case *mailtrapwebhook.UnknownEvent:
		return ev.Clone()
	}
	panic("no event")
}

func TestCloneIsEqualAndSharesNothing(t *testing.T) {
	bodies := []string{`{"event":"open","email":5}`, `{broken`}
	for _, test := range decodable {
		bodies = append(bodies, test.json)
	}
	for _, body := range sampleFiles(t) {
		bodies = append(bodies, body)
	}
	for _, body := range bodies {
		events, err := mailtrapwebhook.Parse([]byte(body))
		if body == "{broken" {
			events, err = mailtrapwebhook.Parse([]byte(`{"event":"open"}` + "\n" + body))
		}
		require.NoError(t, err)
		for _, ev := range events {
			c := clone(ev)
			require.NotSame(t, ev, c)
			if diff := cmp.Diff(ev, c, sameFault); diff != "" {
				t.Fatalf("clone (-original +clone):\n%s", diff)
			}
			held := make(map[*byte]bool)
			raw := unsafe.StringData(rawOf(ev))
			stringsIn(reflect.ValueOf(ev), func(s string) {
				if s != "" {
					held[unsafe.StringData(s)] = true
				}
			})
			if unknown, ok := c.(*mailtrapwebhook.UnknownEvent); ok {
				unknown.Err = nil // which is shared, and constant
			}
			stringsIn(reflect.ValueOf(c), func(s string) {
				if s == "" {
					return
				}
				p := unsafe.StringData(s)
				inRaw := uintptr(unsafe.Pointer(p)) - uintptr(unsafe.Pointer(raw))
				if held[p] && !constant(s) || inRaw < uintptr(len(rawOf(ev))) {
					t.Errorf("the clone of %s shares %q", rawOf(ev), s)
				}
			})
		}
	}

	ev := soleEvent(t, `{"event":"activity_log.x","resource":{"id":"1"},"changes":{"a":{"from":[{"x":["y"]}]}}}`).(*mailtrapwebhook.ActivityLogWebhookEvent)
	c := ev.Clone()
	c.Resource.ID = "changed"
	c.Changes["a"].From.([]any)[0].(map[string]any)["x"].([]any)[0] = "changed"
	c.Changes["b"] = mailtrapwebhook.Change{}
	want := soleEvent(t, rawOf(ev))
	if diff := cmp.Diff(want, mailtrapwebhook.Event(ev)); diff != "" {
		t.Errorf("a change to the clone changed the original:\n%s", diff)
	}
}

// constant reports whether a string may be one of the program's.
func constant(s string) bool { return len(s) == 1 }

func TestValidateNamesMissingFields(t *testing.T) {
	at := time.Unix(1, 0)
	type validator interface{ Validate() error }
	for _, test := range []struct {
		event   validator
		missing []string
	}{
		{&mailtrapwebhook.SendingWebhookEvent{}, []string{"event", "message_id", "sending_stream", "email", "sending_domain_name", "timestamp", "event_id"}},
		{&mailtrapwebhook.SendingWebhookEvent{Event: "open", MessageID: "m", Email: "x", Timestamp: at, EventID: "e"}, []string{"sending_stream", "sending_domain_name"}},
		{&mailtrapwebhook.SendingWebhookEvent{Event: "open", MessageID: "m", SendingStream: "bulk", Email: "x", SendingDomainName: "d", Timestamp: at, EventID: "e"}, nil},
		{&mailtrapwebhook.ActivityLogWebhookEvent{}, []string{"event", "description", "actor", "timestamp"}},
		{&mailtrapwebhook.ActivityLogWebhookEvent{Event: "activity_log.x", Description: "d", Actor: mailtrapwebhook.Actor{Name: "Mailtrap"}, Timestamp: at}, nil},
		{&mailtrapwebhook.InboundWebhookEvent{}, []string{"event", "inbox_id", "message_id", "from", "timestamp"}},
		{&mailtrapwebhook.InboundWebhookEvent{Event: "inbound.message_received", InboxID: 1, MessageID: "m", From: "f", Timestamp: at}, nil},
	} {
		err := test.event.Validate()
		if test.missing == nil {
			require.NoError(t, err)
			continue
		}
		require.Error(t, err)
		_, list, _ := strings.Cut(err.Error(), ":")
		words := regexp.MustCompile(`\w+`).FindAllString(list, -1)
		for _, field := range []string{"event", "message_id", "sending_stream", "email", "sending_domain_name", "timestamp", "event_id",
			"description", "actor", "inbox_id", "from"} {
			if field == "event" && !slices.Contains(test.missing, field) {
				continue // "the event lacks"
			}
			require.Equal(t, slices.Contains(test.missing, field), slices.Contains(words, field), "%s in %v", field, err)
		}
	}
}

func TestSuppresses(t *testing.T) {
	for _, c := range []mailtrapwebhook.BounceCategory{
		mailtrapwebhook.BounceTransientFail, mailtrapwebhook.BounceGreylisting, mailtrapwebhook.BounceBadSender, mailtrapwebhook.BounceBlock, mailtrapwebhook.BounceContent, mailtrapwebhook.BounceDNSFail,
		mailtrapwebhook.BounceGeneralFail, mailtrapwebhook.BounceOther, mailtrapwebhook.BounceRelayFail, mailtrapwebhook.BounceServerFail, mailtrapwebhook.BounceSpam, mailtrapwebhook.BounceVerifyFail,
		mailtrapwebhook.BounceTimeout, mailtrapwebhook.BounceBadRecipient, mailtrapwebhook.BounceOverQuota, mailtrapwebhook.BounceServerPolicy, mailtrapwebhook.BounceSpamGmail, "", "new", "Timeout",
	} {
		want := slices.Contains([]mailtrapwebhook.BounceCategory{"timeout", "badrecipient", "overquota"}, c)
		require.Equal(t, want, c.Suppresses(), c)
	}
}

func TestLoggedEventShowsNothingPersonal(t *testing.T) {
	const secret = "Secret"
	for _, test := range []struct{ body, name string }{
		{`{"event":"click","message_id":"Secret1","sending_stream":"Secret2","email":"Secret3@example.com","sending_domain_name":"Secret4",
			"category":"Secret5","custom_variables":{"Secret6":"Secret7"},"timestamp":1,"event_id":"Secret8","reason":"Secret9","response":"Secret10",
			"bounce_category":"Secret11","ip":"Secret12","user_agent":"Secret13","url":"Secret14","other":"Secret15"}`, "click"},
		{`{"event":"activity_log.x","description":"Secret1","actor":{"type":"Secret2","name":"Secret3"},"resource":{"id":"Secret4","name":"Secret5",
			"type":"Secret6"},"changes":{"Secret7":{"from":"Secret8"}}}`, "activity_log.x"},
		{`{"event":"inbound.message_received","event_id":"Secret1","message_id":"Secret2","from":"Secret3"}`, "inbound.message_received"},
		{`{"event":"telepathy","email":"Secret"}`, "telepathy"},
		{`{"event":"open","email":["Secret"]}`, "open"},
		{`{"event":"Secret@example.com"}`, ""},
		{`{"event":"activity_log.Secret@example.com"}`, ""},
		{`[{"Secret":1}]`, ""},
		{`["Secret"]`, ""},
		{"{}\n{Secret", ""},
	} {
		events, err := mailtrapwebhook.Parse([]byte(test.body))
		require.NoError(t, err)
		for _, ev := range events {
			value := reflect.ValueOf(ev).Elem().Interface()
			for _, logged := range []any{ev, value} {
				var out bytes.Buffer
				slog.New(slog.NewJSONHandler(&out, nil)).Info("received", "delivered", logged)
				slog.New(slog.NewTextHandler(&out, nil)).Info("received", "delivered", logged)
				require.NotContains(t, out.String(), secret, "%T", logged)
				require.NotContains(t, out.String(), "example.com", "%T", logged)
				if test.name != "" {
					require.Contains(t, out.String(), test.name)
				}
				require.Contains(t, out.String(), ev.Key())
				require.NotContains(t, out.String(), "0001-01-01", "a time that is not known")
				if unknown, ok := ev.(*mailtrapwebhook.UnknownEvent); ok && unknown.Err != nil {
					require.Contains(t, out.String(), unknown.Err.Error())
				}
			}
		}
	}
}

// What makes an event unreadable is told by where it stands, not by how its keys are spelled.
func TestUnreadableFieldsBesideOddKeys(t *testing.T) {
	for _, body := range []string{
		`{"event":"activity_log.x","changes":{"a.b":5,"a":{"from":1}}}`,
		`{"event":"activity_log.x","changes":{"":5}}`,
		`{"event":"bounce","response_code":"","":0}`,
		`{"event":"activity_log.x","actor":{"id":"zz"},"actor.id":1}`,
		`{"event":"activity_log.x","changes":{"a":5,"b":{}}}`,
		`{"event":"activity_log.x","changes":{"a":{},"a":5}}`,
	} {
		events, err := mailtrapwebhook.Parse([]byte(body))
		require.NoError(t, err)
		require.IsType(t, (*mailtrapwebhook.UnknownEvent)(nil), events[0], "%.80s", body)
	}
	for _, body := range []string{
		`{"event":"activity_log.x","changes":{"a":5,"a":{}}}`,
		`{"event":"activity_log.x","changes":{"a":5},"changes":{"b":{}}}`,
		`{"event":"activity_log.x","changes":{"a":null}}`,
		`{"event":"activity_log.x","actor":{"id":"zz","id":1}}`,
		`{"event":"activity_log.x","actor":{"id":"zz"},"actor":{}}`,
		`{"event":"activity_log.x","changes":{"a":{"from":"` + strings.Repeat("x", 80_000) + `"}}}`,
	} {
		events, err := mailtrapwebhook.Parse([]byte(body))
		require.NoError(t, err)
		require.IsType(t, (*mailtrapwebhook.ActivityLogWebhookEvent)(nil), events[0], "%.80s", body)
	}
}
