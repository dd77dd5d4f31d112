package mailtrapwebhook_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestNames(t *testing.T) {
	for _, test := range []struct {
		event mw.Event
		want  string
	}{
		{&mw.SendingWebhookEvent{Event: mw.EventDelivery}, "delivery"},
		{&mw.SendingWebhookEvent{Event: "soft_bounce"}, "soft bounce"},
		{&mw.SendingWebhookEvent{Event: "spam_complaint"}, "spam"},
		{&mw.InboundWebhookEvent{Event: "inbound_message_received"}, "inbound.message_received"},
		{&mw.ActivityLogWebhookEvent{Event: "activity_log.user.updated"}, "activity_log.user.updated"},
		{&mw.UnknownEvent{Event: "telepathy"}, "telepathy"},
		{&mw.UnknownEvent{}, ""},
		{soleEvent(t, `{"event":"soft_bounce"}`), "soft bounce"},
		{soleEvent(t, `{"event":"soft_bounce","email":5}`), "soft bounce"},
		{soleEvent(t, `{"event":"inbound_message_received"}`), "inbound.message_received"},
	} {
		require.Equal(t, test.want, test.event.Name())
	}
	require.Equal(t, []mw.EventType{"delivery", "open", "click", "unsubscribe", "spam", "soft bounce", "bounce", "suspension", "reject"},
		[]mw.EventType{mw.EventDelivery, mw.EventOpen, mw.EventClick, mw.EventUnsubscribe, mw.EventSpam, mw.EventSoftBounce,
			mw.EventBounce, mw.EventSuspension, mw.EventReject})
}

func TestTimeIsUTC(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for _, ev := range []mw.Event{
		&mw.SendingWebhookEvent{Timestamp: at}, &mw.ActivityLogWebhookEvent{Timestamp: at}, &mw.InboundWebhookEvent{Timestamp: at},
	} {
		require.Equal(t, at.UTC(), ev.Time())
	}
	for _, body := range []string{`{"event":"open"}`, `{"event":"open","timestamp":"x"}`, `{"event":"inbound.message_received","timestamp":1e9}`, `{"event":"activity_log.x"}`, `{"event":"inbound.message_received"}`, `{"event":"x","timestamp":1}`} {
		require.True(t, soleEvent(t, body).Time().IsZero())
	}
}

func TestSuppresses(t *testing.T) {
	for _, c := range []mw.BounceCategory{
		mw.BounceTransientFail, mw.BounceGreylisting, mw.BounceBadSender, mw.BounceBlock, mw.BounceContent, mw.BounceDNSFail,
		mw.BounceGeneralFail, mw.BounceOther, mw.BounceRelayFail, mw.BounceServerFail, mw.BounceSpam, mw.BounceVerifyFail,
		mw.BounceTimeout, mw.BounceBadRecipient, mw.BounceOverQuota, mw.BounceServerPolicy, mw.BounceSpamGmail, "", "new", "Timeout",
	} {
		want := slices.Contains([]mw.BounceCategory{"timeout", "badrecipient", "overquota"}, c)
		require.Equal(t, want, c.Suppresses(), c)
	}
}

// personal are bodies with Secret wherever something personal may stand, and the
// names that their events show.
var personal = []struct{ body, name string }{
	{`{"event":"click","message_id":"Secret1:","sending_stream":"Secret2","email":"Secret3@example.com","sending_domain_name":"Secret4",
		"category":"Secret5","custom_variables":{"Secret6":"Secret7"},"timestamp":1,"event_id":"Secret8","reason":"Secret9","response":"Secret10",
		"bounce_category":"Secret11","ip":"Secret12","user_agent":"Secret13","url":"Secret14","other":"Secret15"}`, "click"},
	{`{"event":"activity_log.x","description":"Secret1","actor":{"type":"Secret2","name":"Secret3"},"resource":{"id":"Secret4","name":"Secret5",
		"type":"Secret6"},"changes":{"Secret7":{"from":"Secret8"}}}`, "activity_log.x"},
	{`{"event":"inbound.message_received","event_id":"Secret1","message_id":"Secret2","from":"Secret3"}`, "inbound.message_received"},
	{`{"event":"telepathy","email":"Secret"}`, "telepathy"},
	{`{"event":"open","email":["Secret"]}`, "open"},
	{`{"event":"<Secret@example.com>"}`, "unknown"},
	{`{"event":"activity_log.\"Secret\"@example.com"}`, "unknown"},
	{`[{"Secret":1}]`, "unknown"},
	{`["Secret"]`, "unknown"},
	{"{}\n{Secret", "unknown"},
}

func TestPrintedEventsShowNothingPersonal(t *testing.T) {
	for _, test := range personal {
		events, err := mw.Parse([]byte(test.body))
		require.NoError(t, err)
		list := fmt.Sprint(events) + fmt.Sprintf("%v %+v %s", events, events, events)
		require.NotContains(t, list, "Secret")
		var text, written bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("received", "events", events)
		require.NotContains(t, text.String(), "Secret")
		slog.New(slog.NewJSONHandler(&written, nil)).Info("received", "events", events)
		if test.name == "click" {
			require.Contains(t, written.String(), "Secret", "a slice that slog writes as JSON shows all, as documented")
		}
		for _, ev := range events {
			value := reflect.ValueOf(ev).Elem().Interface()
			var logged bytes.Buffer
			for _, printed := range []any{ev, value} {
				for _, out := range []string{fmt.Sprint(printed), fmt.Sprintf("%v", printed), fmt.Sprintf("%+v", printed), fmt.Sprintf("%s", printed), fmt.Sprintln(printed)} {
					require.NotContains(t, out, "Secret", "%T", printed)
					require.Contains(t, out, ev.Key())
					require.Contains(t, out, test.name)
				}
				slog.New(slog.NewJSONHandler(&logged, nil)).Info("received", "delivered", printed)
				slog.New(slog.NewTextHandler(&logged, nil)).Info("received", "delivered", printed)
			}
			out := logged.String()
			require.NotContains(t, out, "Secret", "%T", ev)
			require.Contains(t, out, ev.Key())
			require.Contains(t, out, test.name)
			require.NotContains(t, out, "0001-01-01", "a time that is not known")
			if fault := errOf(ev); fault != nil {
				require.Contains(t, out, fault.Error())
			}
			if strings.Contains(ev.RawJSON(), "Secret") {
				require.Contains(t, fmt.Sprintf("%#v", ev), "Secret", "%%#v shows all")
			}
		}
	}
	for _, ev := range []mw.Event{&mw.UnknownEvent{}, &mw.UnknownEvent{Event: "telepathy"}} {
		require.NotEmpty(t, fmt.Sprint(ev), "an event without a key has a name")
	}
	require.NotContains(t, logOf(&mw.SendingWebhookEvent{Err: errors.New("Secret")}), "Secret", "an error of somebody else's")
}

func logOf(ev mw.Event) string {
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("received", "event", ev)
	return out.String()
}

// asMaps compares variables and changes by what they mean.
var asMaps = cmp.Options{
	cmp.Transformer("Map", func(v mw.Variables) map[string]any { return v.Map() }),
	cmp.Transformer("Map", func(c mw.Changes) map[string]mw.Change { return c.Map() }),
}

// requireRoundTrip asserts that an event that is marshalled decodes to what it
// was, but for Raw, Err and the spelling of Variables and Changes.
func requireRoundTrip(t *testing.T, ev mw.Event) {
	t.Helper()
	text, err := json.Marshal(ev)
	require.NoError(t, err)
	if _, ok := ev.(*mw.UnknownEvent); ok {
		requireRawMarshalled(t, ev.RawJSON(), text)
		return
	}
	again := soleEvent(t, string(text))
	if diff := cmp.Diff(ev, again, ignoreRaw, ignoreErr, asMaps); diff != "" {
		t.Errorf("marshalled and decoded again (-before +after):\n%s\n%s", diff, text)
	}
	require.NoError(t, errOf(again))
	into := reflect.New(reflect.TypeOf(ev).Elem()).Interface()
	require.NoError(t, json.Unmarshal(text, into))
	if diff := cmp.Diff(again, into); diff != "" {
		t.Errorf("json.Unmarshal and Parse differ (-Parse +Unmarshal):\n%s", diff)
	}
}

// requireRawMarshalled asserts that an unknown event was marshalled as its raw
// text or, if that is not JSON, as a string.
func requireRawMarshalled(t *testing.T, raw string, text []byte) {
	t.Helper()
	if json.Valid([]byte(raw)) {
		var want, got bytes.Buffer
		require.NoError(t, json.Compact(&want, []byte(raw)))
		json.HTMLEscape(&got, want.Bytes())
		require.Equal(t, got.String(), string(text))
		return
	}
	var held string
	require.NoError(t, json.Unmarshal(text, &held))
	require.Equal(t, string([]rune(raw)), held) // with U+FFFD for each invalid byte
}

func TestMarshalRoundTrip(t *testing.T) {
	for _, test := range decodable {
		t.Run(test.name, func(t *testing.T) { requireRoundTrip(t, soleEvent(t, test.json)) })
	}
	for name, body := range sampleFiles(t) {
		t.Run(name, func(t *testing.T) {
			events, err := mw.Parse([]byte(body))
			require.NoError(t, err)
			for _, ev := range events {
				requireRoundTrip(t, ev)
			}
		})
	}
}

func TestMarshalWritesTheWireForm(t *testing.T) {
	at := time.Unix(1728669700, 123456) // the Unix time is whole milliseconds
	late := time.UnixMilli(1728669700123)
	for _, test := range []struct {
		name  string
		event mw.Event
		want  string
	}{
		{"a sending event in seconds",
			&mw.SendingWebhookEvent{Event: "bounce", MessageID: "m", SendingStream: "bulk", Email: "a", SendingDomainName: "d", Category: "c",
				CustomVariables: `{"x":1}`, Timestamp: at, EventID: "e", Reason: "r", Response: "s", ResponseCode: 5, BounceCategory: "b", IP: "i",
				UserAgent: "u", URL: "l", Raw: "not this"},
			`{"event":"bounce","message_id":"m","sending_stream":"bulk","email":"a","sending_domain_name":"d","category":"c",
				"custom_variables":{"x":1},"timestamp":1728669700,"event_id":"e","reason":"r","response":"s","response_code":5,"bounce_category":"b","ip":"i",
				"user_agent":"u","url":"l"}`},
		{"an audit-log event in seconds",
			&mw.ActivityLogWebhookEvent{Event: "activity_log.x", Description: "d", Actor: mw.Actor{ID: 1, Type: "user", Name: "n"},
				Resource: &mw.Resource{ID: "2", Type: "inbox", Name: "o"}, Changes: `{"a":{"from":"x","to":null}}`, Timestamp: at},
			`{"event":"activity_log.x","description":"d","actor":{"id":1,"type":"user","name":"n"},
				"resource":{"id":"2","type":"inbox","name":"o"},"changes":{"a":{"from":"x","to":null}},"timestamp":1728669700}`},
		{"an inbound event in milliseconds",
			&mw.InboundWebhookEvent{Event: "inbound.message_received", EventID: "e", InboxID: 3, MessageID: "m", From: "f", Timestamp: at},
			`{"event":"inbound.message_received","event_id":"e","inbox_id":3,"message_id":"m","from":"f","timestamp":1728669700000}`},
		{"a sending event that is not at a whole second", &mw.SendingWebhookEvent{Event: "open", Timestamp: late}, `{"event":"open","timestamp":1728669700123}`},
		{"an audit-log event that is not at a whole second", &mw.ActivityLogWebhookEvent{Timestamp: late}, `{"timestamp":1728669700123}`},
		{"an inbound event of 1970, of which milliseconds would read as seconds", &mw.InboundWebhookEvent{Timestamp: time.Unix(1001, 5e8)}, `{"timestamp":1001}`},
		{"a sending event of the year 5138, of which seconds would read as milliseconds", &mw.SendingWebhookEvent{Timestamp: time.Unix(1e11, 0)}, `{"timestamp":100000000000000}`},
		{"the epoch, which is not absent", &mw.SendingWebhookEvent{Event: "open", Timestamp: time.Unix(0, 0)}, `{"event":"open","timestamp":0}`},
		{"absent fields left out: sending", &mw.SendingWebhookEvent{}, `{}`},
		{"absent fields left out: audit log", &mw.ActivityLogWebhookEvent{}, `{}`},
		{"absent fields left out: inbound", &mw.InboundWebhookEvent{}, `{}`},
		{"unknown, JSON", &mw.UnknownEvent{Event: "x", Raw: `{"event":"x","a":[1]}`}, `{"event":"x","a":[1]}`},
		{"unknown, a scalar", &mw.UnknownEvent{Raw: `5`}, `5`},
		{"unknown, not JSON", &mw.UnknownEvent{Raw: `{"a`}, `"{\"a"`},
		{"unknown, no text", &mw.UnknownEvent{}, `""`},
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
