package mailtrapwebhook_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestDocumentedSamplesDecodeFieldByField(t *testing.T) {
	const (
		messageID = "1df37d17-0286-4d8b-8edf-bc4ec5be86e6"
		eventID   = "bede7236-2284-43d6-a953-1fdcafd0fdbc"
	)
	at := time.Date(2024, 10, 11, 18, 1, 40, 0, time.UTC)
	later := time.Date(2024, 10, 11, 18, 5, 27, 0, time.UTC)
	audit := time.Date(2025, 1, 2, 15, 2, 18, 0, time.UTC)
	sending := func(typ mw.EventType, at time.Time, more func(*mw.SendingWebhookEvent)) mw.Event {
		e := &mw.SendingWebhookEvent{Event: typ, Timestamp: at, SendingStream: mw.StreamTransactional,
			MessageID: messageID, Email: "receiver@example.com", EventID: eventID, SendingDomainName: "examplesender.com"}
		if more != nil {
			more(e)
		}
		return e
	}
	mixed := func(typ mw.EventType, at time.Time, id string, more func(*mw.SendingWebhookEvent)) mw.Event {
		return sending(typ, at, func(e *mw.SendingWebhookEvent) {
			e.MessageID, e.EventID, e.Email, e.SendingDomainName = "abc-123", id, "user1@example.com", "example.com"
			if more != nil {
				more(e)
			}
		})
	}
	want := map[string][]mw.Event{
		"delivery.json": {sending(mw.EventDelivery, at, func(e *mw.SendingWebhookEvent) {
			e.Category, e.CustomVariables = "Password reset", `{"user_id":"123"}`
		})},
		"bounce.json": {sending(mw.EventBounce, at, func(e *mw.SendingWebhookEvent) {
			e.Response, e.ResponseCode = "[CS01] Message rejected due to local policy", 555
			e.BounceCategory = mw.BounceSpam
		})},
		"soft_bounce.json": {sending(mw.EventSoftBounce, at, func(e *mw.SendingWebhookEvent) {
			e.Response, e.ResponseCode = "4.7.1 Temporary error, please retry", 451
			e.BounceCategory = mw.BounceGreylisting
		})},
		"spam.json": {sending(mw.EventSpam, at, nil)},
		"suspension.json": {sending(mw.EventSuspension, at, func(e *mw.SendingWebhookEvent) {
			e.Reason = "Your account has reached its daily sending limit."
		})},
		"reject.json": {sending(mw.EventReject, at, func(e *mw.SendingWebhookEvent) {
			e.Reason = "Recipient in suppression list. Reason: unsubscription"
		})},
		"open.json": {sending(mw.EventOpen, at, func(e *mw.SendingWebhookEvent) {
			e.IP, e.UserAgent = "127.138.158.185", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)"
		})},
		"click.json": {sending(mw.EventClick, at, func(e *mw.SendingWebhookEvent) {
			e.IP, e.UserAgent = "142.86.27.2", "Mozilla/5.0 (Windows NT x.y; Win64; x64)"
			e.URL = "https://mailtrap.io/email-api"
		})},
		"unsubscribe.json": {sending(mw.EventUnsubscribe, at, nil)},
		"audit_log_user_login.json": {&mw.ActivityLogWebhookEvent{
			Event: "activity_log.user.login", Description: "logged in with SSO",
			Actor: mw.Actor{ID: 1, Type: mw.ActorUser, Name: "John Doe"}, Timestamp: audit,
		}},
		"audit_log_profile_update.json": {&mw.ActivityLogWebhookEvent{
			Event: "activity_log.user.updated", Description: "updated the user profile",
			Actor:    mw.Actor{ID: 1, Type: mw.ActorUser, Name: "John Doe"},
			Resource: &mw.Resource{ID: "1", Type: mw.ResourceUser, Name: "John Doe"},
			Changes:  `{"name":{"from":"John","to":"John Doe"}}`, Timestamp: audit,
		}},
		"delivery.jsonl": {
			sending(mw.EventDelivery, later, func(e *mw.SendingWebhookEvent) { e.Category = "Password reset" }),
			sending(mw.EventDelivery, later, func(e *mw.SendingWebhookEvent) {
				e.Category, e.MessageID = "Email confirmation", "ca7974af-7212-42aa-99fb-cc4742d0658b"
				e.Email, e.EventID = "another@example.com", "657b8544-6a95-4c47-997f-6e47922a5052"
			}),
		},
		"bounce.jsonl": {sending(mw.EventBounce, later, func(e *mw.SendingWebhookEvent) {
			e.Response, e.ResponseCode, e.BounceCategory = "[CS01] Message rejected", 555, mw.BounceSpam
		})},
		"mixed.jsonl": {
			mixed(mw.EventDelivery, later, "evt-1", nil),
			mixed(mw.EventOpen, later.Add(3*time.Second), "evt-2", func(e *mw.SendingWebhookEvent) { e.IP = "192.168.1.1" }),
			mixed(mw.EventClick, later.Add(8*time.Second), "evt-3", func(e *mw.SendingWebhookEvent) { e.URL = "https://example.com" }),
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
			got, err := mw.Parse([]byte(body))
			require.NoError(t, err)
			if diff := cmp.Diff(want[name], got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			require.Equal(t, want[name], got, "testify compares events as well")
			for _, ev := range got {
				require.Equal(t, time.UTC, ev.Time().Location())
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
			fromLines, err := mw.Parse(lines.Bytes())
			require.NoError(t, err)
			fromArray, err := mw.Parse(array.Bytes())
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
	want mw.Event
}{
	{
		"a payload of old without sending_domain_name and sending_stream",
		`{"event":"bounce","timestamp":1692115000,"message_id":"m","email":"a@example.com","event_id":"e","response_code":550}`,
		&mw.SendingWebhookEvent{Event: mw.EventBounce, Timestamp: time.Unix(1692115000, 0).UTC(), MessageID: "m",
			Email: "a@example.com", EventID: "e", ResponseCode: 550},
	},
	{
		"the management API's soft_bounce",
		`{"event":"soft_bounce","message_id":"m"}`,
		&mw.SendingWebhookEvent{Event: mw.EventSoftBounce, MessageID: "m"},
	},
	{
		"the management API's spam_complaint",
		`{"event":"spam_complaint","message_id":"m"}`,
		&mw.SendingWebhookEvent{Event: mw.EventSpam, MessageID: "m"},
	},
	{
		"values that are not documented",
		`{"event":"bounce","sending_stream":"campaigns","bounce_category":"new one"}`,
		&mw.SendingWebhookEvent{Event: mw.EventBounce, SendingStream: "campaigns", BounceCategory: "new one"},
	},
	{
		"fields that are not documented",
		`{"event":"open","new":{"event":"click","email":[1]},"email":"a@example.com","newer":[null,-1.5e+3,"x"]}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Email: "a@example.com"},
	},
	{
		"integers as strings of digits",
		`{"event":"bounce","timestamp":"1728669700","response_code":"0550"}`,
		&mw.SendingWebhookEvent{Event: mw.EventBounce, Timestamp: time.Unix(1728669700, 0).UTC(), ResponseCode: 550},
	},
	{
		"integers at both ends of their range",
		`{"event":"activity_log.x","actor":{"id":-9223372036854775808},"timestamp":9223372036854775807}`,
		&mw.ActivityLogWebhookEvent{Event: "activity_log.x", Actor: mw.Actor{ID: -1 << 63}, Timestamp: time.UnixMilli(1<<63 - 1).UTC()},
	},
	{
		"negative zero",
		`{"event":"bounce","response_code":-0,"timestamp":0}`,
		&mw.SendingWebhookEvent{Event: mw.EventBounce, Timestamp: time.Unix(0, 0).UTC()},
	},
	{
		"ids as numbers",
		`{"event":"open","message_id":18446744073709551617,"event_id":-1.50}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, MessageID: "18446744073709551617", EventID: "-1.50"},
	},
	{
		"custom variables of all types with white space between them",
		"{\"event\":\"open\",\"custom_variables\": { \"id\" : 9007199254740993 ,\n\"a b\":\"c d\\u0020\", \"ok\":true}}",
		&mw.SendingWebhookEvent{Event: mw.EventOpen, CustomVariables: `{"id":9007199254740993,"a b":"c d\u0020","ok":true}`},
	},
	{
		"custom variables that are nested or null",
		`{"event":"open","custom_variables":{"a":null,"b":[1,{"c":2}]}}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, CustomVariables: `{"a":null,"b":[1,{"c":2}]}`},
	},
	{
		"no custom variables",
		`{"event":"open","custom_variables":{}}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, CustomVariables: `{}`},
	},
	{
		"null for every field of a sending event",
		`{"event":"click","message_id":null,"sending_stream":null,"email":null,"sending_domain_name":null,"category":null,` +
			`"custom_variables":null,"timestamp":null,"event_id":null,"reason":null,"response":null,"response_code":null,` +
			`"bounce_category":null,"ip":null,"user_agent":null,"url":null}`,
		&mw.SendingWebhookEvent{Event: mw.EventClick},
	},
	{
		"null for every field of an audit-log event",
		`{"event":"activity_log.x","description":null,"actor":null,"resource":null,"changes":null,"timestamp":null}`,
		&mw.ActivityLogWebhookEvent{Event: "activity_log.x"},
	},
	{
		"null for every field inside an audit-log event",
		`{"event":"activity_log.x","actor":{"id":null,"type":null,"name":null},"resource":{"id":null,"type":null,"name":null},"changes":{"a":{"from":null,"to":null}}}`,
		&mw.ActivityLogWebhookEvent{Event: "activity_log.x", Resource: &mw.Resource{}, Changes: `{"a":{"from":null,"to":null}}`},
	},
	{
		"null for every field of an inbound event",
		`{"event":"inbound.message_received","event_id":null,"inbox_id":null,"inbound_inbox_id":null,"message_id":null,"from":null,"timestamp":null}`,
		&mw.InboundWebhookEvent{Event: "inbound.message_received"},
	},
	{
		"the system as actor",
		`{"event":"activity_log.webhook.paused","actor":{"name":"Mailtrap"},"timestamp":1735830138}`,
		&mw.ActivityLogWebhookEvent{Event: "activity_log.webhook.paused", Actor: mw.Actor{Name: "Mailtrap"},
			Timestamp: time.Unix(1735830138, 0).UTC()},
	},
	{
		"a resource whose id is an integer and whose type is not documented",
		`{"event":"activity_log.x","resource":{"id":17,"type":"sandbox","name":"Main"}}`,
		&mw.ActivityLogWebhookEvent{Event: "activity_log.x", Resource: &mw.Resource{ID: "17", Type: "sandbox", Name: "Main"}},
	},
	{
		"an API token as actor, its id a string",
		`{"event":"activity_log.x","actor":{"id":"42","type":"api_token","name":"CI"}}`,
		&mw.ActivityLogWebhookEvent{Event: "activity_log.x", Actor: mw.Actor{ID: 42, Type: mw.ActorAPIToken, Name: "CI"}},
	},
	{
		"changes of any JSON type",
		`{"event":"activity_log.x","changes":{"s":{"from":"a","to":"[FILTERED]"},"n":{"from":1,"to":9007199254740993},` +
			`"b":{"from":true,"to":false},"z":{"from":null},"l":{"from":[],"to":[1.50,{"x":[null]}]},"o":{"to":{"y":-0}}}}`,
		&mw.ActivityLogWebhookEvent{Event: "activity_log.x", Changes: `{"s":{"from":"a","to":"[FILTERED]"},"n":{"from":1,"to":9007199254740993},` +
			`"b":{"from":true,"to":false},"z":{"from":null},"l":{"from":[],"to":[1.50,{"x":[null]}]},"o":{"to":{"y":-0}}}`},
	},
	{
		"no changes",
		`{"event":"activity_log.x","changes":{}}`,
		&mw.ActivityLogWebhookEvent{Event: "activity_log.x", Changes: `{}`},
	},
	{
		"changes with white space between them",
		"{\"event\":\"activity_log.x\",\"changes\": { \"a b\" : { \"from\" : \"c d\" ,\n\"to\":\t[ 1 , 2 ] } }}",
		&mw.ActivityLogWebhookEvent{Event: "activity_log.x", Changes: `{"a b":{"from":"c d","to":[1,2]}}`},
	},
	{
		"an inbound event",
		`{"event":"inbound.message_received","event_id":"2eac365a-a49d-11f1-8c43-0a58a9feac03","timestamp":1788113042436,` +
			`"inbox_id":1111,"message_id":"0000111122223333444","from":"Sender Name <from@example.com>"}`,
		&mw.InboundWebhookEvent{Event: "inbound.message_received", EventID: "2eac365a-a49d-11f1-8c43-0a58a9feac03",
			InboxID: 1111, MessageID: "0000111122223333444", From: "Sender Name <from@example.com>",
			Timestamp: time.Date(2026, 8, 30, 18, 4, 2, 436e6, time.UTC)},
	},
	{
		"an inbound event as in Mailtrap's test",
		`{"event":"inbound_message_received","timestamp":"1788113042436","inbound_inbox_id":"1111","message_id":444,"from":"f@example.com"}`,
		&mw.InboundWebhookEvent{Event: "inbound.message_received", InboxID: 1111, MessageID: "444", From: "f@example.com",
			Timestamp: time.UnixMilli(1788113042436).UTC()},
	},
	{
		"an inbound event as in Mailtrap's test, in full",
		`{"event":"inbound_message_received","message_id":"8d2a0000-0000-0000-0000-000000000000","inbound_inbox_id":1,` +
			`"inbound_inbox_address":"hello@inbound.example.com","from":"sender@example.com","to":"hello@inbound.example.com","subject":"Hello","timestamp":1733497282}`,
		&mw.InboundWebhookEvent{Event: "inbound.message_received", InboxID: 1, MessageID: "8d2a0000-0000-0000-0000-000000000000",
			From: "sender@example.com", Timestamp: time.Date(2024, 12, 6, 15, 1, 22, 0, time.UTC)},
	},
	{
		"a sending event in milliseconds",
		`{"event":"open","timestamp":1728669700123}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Timestamp: time.UnixMilli(1728669700123).UTC()},
	},
	{
		"an audit-log event in milliseconds",
		`{"event":"activity_log.x","timestamp":1728669700000}`,
		&mw.ActivityLogWebhookEvent{Event: "activity_log.x", Timestamp: time.Unix(1728669700, 0).UTC()},
	},
	{
		"the last timestamp in seconds",
		`{"event":"open","timestamp":99999999999}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Timestamp: time.Unix(99999999999, 0).UTC()},
	},
	{
		"the first timestamp in milliseconds",
		`{"event":"open","timestamp":100000000000}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Timestamp: time.Date(1973, 3, 3, 9, 46, 40, 0, time.UTC)},
	},
	{
		"a timestamp before 1970 in seconds",
		`{"event":"open","timestamp":-99999999999}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Timestamp: time.Unix(-99999999999, 0).UTC()},
	},
	{
		"a timestamp before 1970 in milliseconds",
		`{"event":"inbound.message_received","timestamp":-100000000001}`,
		&mw.InboundWebhookEvent{Event: "inbound.message_received", Timestamp: time.UnixMilli(-100000000001).UTC()},
	},
	{
		"an inbox id beside a null in its other spelling, which is absent",
		`{"event":"inbound.message_received","inbox_id":1111,"inbound_inbox_id":null}`,
		&mw.InboundWebhookEvent{Event: "inbound.message_received", InboxID: 1111},
	},
	{
		"an unknown kind",
		`{"event":"telepathy","email":5}`,
		&mw.UnknownEvent{Event: "telepathy"},
	},
	{
		"a kind that differs in case",
		`{"event":"Open"}`,
		&mw.UnknownEvent{Event: "Open"},
	},
	{
		"a kind that is nearly audit-log",
		`{"event":"activity_log"}`,
		&mw.UnknownEvent{Event: "activity_log"},
	},
	{
		"keys that differ in case",
		`{"event":"open","EMAIL":"a@example.com","Email":5,"EVENT":"click","Message_ID":[],"email ":7}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen},
	},
	{
		"keys that a case-folding comparison takes for equal",
		"{\"event\":\"open\",\"me\u017f\u017fage_id\":\"m\",\"re\u017fpon\u017fe\":5,\"\\u212Aey\":1}",
		&mw.SendingWebhookEvent{Event: mw.EventOpen},
	},
	{
		"escaped keys",
		`{"\u0065vent":"open","ema\u0069l":"a@example.com","message\u005fid":"m"}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Email: "a@example.com", MessageID: "m"},
	},
	{
		"event at the end",
		`{"email":"a@example.com","timestamp":1,"event":"open"}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Email: "a@example.com", Timestamp: time.Unix(1, 0).UTC()},
	},
	{
		"event in the middle of an inbound event",
		`{"inbox_id":5,"event":"inbound.message_received","timestamp":1001}`,
		&mw.InboundWebhookEvent{Event: "inbound.message_received", InboxID: 5, Timestamp: time.Unix(1001, 0).UTC()},
	},
	{
		"equal keys, of which the last wins",
		`{"event":"open","email":"first@example.com","timestamp":1,"custom_variables":{"a":1},"email":"last@example.com","timestamp":2,"custom_variables":{"b":2}}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Email: "last@example.com", Timestamp: time.Unix(2, 0).UTC(), CustomVariables: `{"b":2}`},
	},
	{
		"equal keys, of which the last is null",
		`{"event":"bounce","email":"a@example.com","response_code":1,"timestamp":1,"custom_variables":{},"message_id":"m","email":null,"response_code":null,"timestamp":null,"custom_variables":null,"message_id":null}`,
		&mw.SendingWebhookEvent{Event: mw.EventBounce},
	},
	{
		"equal keys, of which the first cannot be read",
		`{"event":"bounce","email":5,"response_code":"x","email":"a@example.com","response_code":550}`,
		&mw.SendingWebhookEvent{Event: mw.EventBounce, Email: "a@example.com", ResponseCode: 550},
	},
	{
		"equal keys in an audit-log event",
		`{"event":"activity_log.x","actor":{"id":1,"name":"a"},"actor":{"id":2,"id":3},"resource":{"id":"1"},"resource":null,` +
			`"changes":{"a":{"from":1}},"changes":{"b":{"from":1,"to":2},"b":{"to":3,"to":[{"x":1,"x":2}]}}}`,
		&mw.ActivityLogWebhookEvent{Event: "activity_log.x", Actor: mw.Actor{ID: 3}, Changes: `{"b":{"from":1,"to":2},"b":{"to":3,"to":[{"x":1,"x":2}]}}`},
	},
	{
		"an event that becomes another of its family",
		`{"event":"open","email":"a@example.com","event":"click"}`,
		&mw.SendingWebhookEvent{Event: mw.EventClick, Email: "a@example.com"},
	},
	{
		"an event that becomes one of another family",
		`{"event":"open","timestamp":1001,"message_id":"m","email":5,"event":"inbound.message_received"}`,
		&mw.InboundWebhookEvent{Event: "inbound.message_received", MessageID: "m", Timestamp: time.Unix(1001, 0).UTC()},
	},
	{
		"an event that becomes unknown",
		`{"event":"open","email":5,"event":"telepathy"}`,
		&mw.UnknownEvent{Event: "telepathy"},
	},
	{
		"an unknown event that becomes known",
		`{"event":"telepathy","email":"a@example.com","event":5,"\u0065vent":"open"}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Email: "a@example.com"},
	},
	{
		"all escapes",
		`{"event":"open","user_agent":"\"\\\/\b\f\n\r\t\u00e9\u20AC\ud83d\udE00 é€😀\u0000"}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, UserAgent: "\"\\/\b\f\n\r\té€😀 é€😀\x00"},
	},
	{
		"lone surrogates",
		`{"event":"open","category":"\ud800","reason":"\udc00\ud800x","url":"\ud800\ud83d\ude00","ip":"\ud800\u0041\udfff\ud800","response":"\ud800\n\ud800\\u"}`,
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Category: "\uFFFD", Reason: "\uFFFD\uFFFDx", URL: "\uFFFD😀",
			IP: "\uFFFDA\uFFFD\uFFFD", Response: "\uFFFD\n\uFFFD\\u"},
	},
	{
		"invalid UTF-8",
		"{\"event\":\"open\",\"category\":\"a\xffb\",\"reason\":\"\xe2\x82\",\"url\":\"\xed\xa0\x80\",\"ip\":\"\xc0\x80\\n\xf5\",\"new\xff\":1}",
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Category: "a\uFFFDb", Reason: "\uFFFD\uFFFD", URL: "\uFFFD\uFFFD\uFFFD", IP: "\uFFFD\uFFFD\n\uFFFD"},
	},
	{
		"a name with an escape",
		`{"event":"soft\u0020bounce"}`,
		&mw.SendingWebhookEvent{Event: mw.EventSoftBounce},
	},
	{
		"white space wherever it may be",
		"{ \"event\"\t:\r\"open\" , \"email\" : \"a@example.com\" ,\"timestamp\" : 1 }",
		&mw.SendingWebhookEvent{Event: mw.EventOpen, Email: "a@example.com", Timestamp: time.Unix(1, 0).UTC()},
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
				events, err := mw.Parse([]byte(form.before + test.json + form.after))
				require.NoError(t, err)
				i := slices.IndexFunc(events, func(ev mw.Event) bool { return ev.RawJSON() == test.json })
				require.GreaterOrEqual(t, i, 0, "no event has the JSON as its Raw")
				if diff := cmp.Diff(test.want, events[i], ignoreRaw); diff != "" {
					t.Errorf("event (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestElementsWithoutANameAreUnknown(t *testing.T) {
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
	} {
		t.Run(test.name, func(t *testing.T) {
			ev := soleEvent(t, test.body)
			require.IsType(t, &mw.UnknownEvent{}, ev)
			require.Equal(t, test.event, ev.Name())
			want := &mw.UnknownEvent{Event: ev.(*mw.UnknownEvent).Event, Raw: test.body, Err: faultAt(t, test.body, test.at, test.mentions)}
			if diff := cmp.Diff(mw.Event(want), ev, sameFault); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
		})
	}
}
