package webhooktest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

var formats = []mw.Format{mw.FormatJSON, mw.FormatJSONLines}

// parsed returns what Parse makes of the body of the events.
func parsed(t *testing.T, f mw.Format, events ...mw.Event) []mw.Event {
	t.Helper()
	got, err := mw.Parse(webhooktest.Body(f, events...))
	require.NoError(t, err)
	return got
}

func TestBodyGivesTheEventsBack(t *testing.T) {
	samples := webhooktest.Samples()
	for _, f := range formats {
		require.Empty(t, cmp.Diff(samples, parsed(t, f, samples...)))
		require.Equal(t, f, formatOf(webhooktest.Body(f, samples...)))
	}
}

// formatOf returns the format of a body.
func formatOf(body []byte) mw.Format {
	d := mw.NewDecoder(strings.NewReader(string(body)))
	_, _ = d.Decode()
	return d.Format()
}

func TestBodyOfNoEvents(t *testing.T) {
	require.Equal(t, `{"events":[]}`, string(webhooktest.Body(mw.FormatJSON)))
	require.Empty(t, webhooktest.Body(mw.FormatJSONLines))
}

func TestBodyPanicsForAnotherFormat(t *testing.T) {
	require.PanicsWithValue(t, "webhooktest: 0 is not a format: use FormatJSON or FormatJSONLines",
		func() { webhooktest.Body(0) })
}

func TestBodyWritesFieldsThatWereChanged(t *testing.T) {
	bounce := webhooktest.Sample("bounce").(*mw.SendingWebhookEvent)
	bounce.Email, bounce.Timestamp = "other@example.com", time.Unix(1716070000, 0)
	update := webhooktest.Sample("activity_log.user.updated").(*mw.ActivityLogWebhookEvent)
	update.Resource = nil
	inbound := webhooktest.Sample("inbound.message_received").(*mw.InboundWebhookEvent)
	inbound.InboxID++
	events := []mw.Event{bounce, update, inbound}
	for _, f := range formats {
		require.Empty(t, cmp.Diff(events, parsed(t, f, events...), ignoreRaw))
	}
}

var ignoreRaw = cmp.Options{
	cmpopts.IgnoreFields(mw.SendingWebhookEvent{}, "Raw"),
	cmpopts.IgnoreFields(mw.ActivityLogWebhookEvent{}, "Raw"),
	cmpopts.IgnoreFields(mw.InboundWebhookEvent{}, "Raw"),
	cmpopts.IgnoreFields(mw.UnknownEvent{}, "Raw"),
	cmpopts.EquateApproxTime(0), // whatever the location
}

func TestBodyWritesEventsBuiltByHand(t *testing.T) {
	events := []mw.Event{
		&mw.SendingWebhookEvent{Event: mw.EventSpam, MessageID: "m", CustomVariables: `{"a":"b"}`},
		&mw.ActivityLogWebhookEvent{Event: "activity_log.user.login", Timestamp: time.Unix(1716070000, 0)},
		&mw.InboundWebhookEvent{Event: "inbound.message_received", From: "sender@example.com"},
		&mw.UnknownEvent{Event: "a new kind"},
	}
	for _, f := range formats {
		require.Empty(t, cmp.Diff(events, parsed(t, f, events...), ignoreRaw))
	}
}

func TestBodyNamesInboundEventsBuiltByHand(t *testing.T) {
	for _, f := range formats {
		got := parsed(t, f, &mw.InboundWebhookEvent{InboxID: 1, MessageID: "m"})
		require.Equal(t, "inbound.message_received/1/m", got[0].Key())
	}
}

func TestBodyPanicsForNil(t *testing.T) {
	for _, none := range []mw.Event{nil, (*mw.SendingWebhookEvent)(nil)} {
		require.PanicsWithValue(t, "webhooktest: event 2 of 2 is nil: leave it out",
			func() { webhooktest.Body(mw.FormatJSON, webhooktest.Sample("open"), none) })
	}
}

// The members that this version does not know, and the spelling of those it
// does, are in Raw alone.
func TestBodyKeepsTheTextOfEventsThatWereNotChanged(t *testing.T) {
	body := `[{"event":"soft_bounce", "new":[1,2], "response_code":"451", "custom_variables":[]},` +
		`{"event":"activity_log.x","events":[{"event":"open"}]}, {"new":"kind"}, 17]`
	events, err := mw.Parse([]byte(body))
	require.NoError(t, err)
	for _, f := range formats {
		for i, got := range parsed(t, f, events...) {
			require.Equal(t, events[i].RawJSON(), got.RawJSON())
		}
	}
}

func TestBodyPutsEachEventOnOneLine(t *testing.T) {
	events, err := mw.Parse([]byte("[{\n \"event\": \"open\",\n \"email\": \"to@example.com\"\n}]"))
	require.NoError(t, err)
	events = append(events, &mw.UnknownEvent{Raw: "{\"cut\n"}, &mw.UnknownEvent{Raw: " "})
	require.Equal(t, `{"event":"open","email":"to@example.com"}`+"\n"+`"{\"cut\n"`+"\n"+`" "`+"\n",
		string(webhooktest.Body(mw.FormatJSONLines, events...)))
}

func TestBodyKeepsTextThatIsNotJSON(t *testing.T) {
	events := parsed(t, mw.FormatJSONLines, webhooktest.Sample("open"), &mw.UnknownEvent{Raw: `{"event":"cl`})
	require.Equal(t, `{"event":"cl`, events[1].RawJSON())
	events = parsed(t, mw.FormatJSON, events...)
	require.Equal(t, `"{\"event\":\"cl"`, events[1].RawJSON())
}

func TestBodyPanicsForAnEventThatCannotBeWritten(t *testing.T) {
	require.Panics(t, func() {
		webhooktest.Body(mw.FormatJSON, &mw.SendingWebhookEvent{CustomVariables: "no JSON"})
	})
}

func FuzzBodyGivesTheEventsBack(f *testing.F) {
	f.Add(webhooktest.Body(mw.FormatJSON, webhooktest.Samples()...))
	f.Add(webhooktest.Body(mw.FormatJSONLines, webhooktest.Samples()...))
	f.Add([]byte("[{\"event\":\"open\",\n\"x\":1.50},{\"event\":\"bounce\",\"timestamp\":\"a\"},[],{\"events\":[1]}]"))
	f.Add([]byte("{\"event\":\"open\"}\n{\"cut\n\xff{}\r\n17"))
	f.Fuzz(func(t *testing.T, body []byte) {
		events, _ := mw.Parse(body)
		for _, format := range formats {
			written := webhooktest.Body(format, events...)
			got, err := mw.Parse(written)
			if len(events) > 0 && format == mw.FormatJSONLines && !isFirstLine(events[0]) {
				continue
			}
			if len(events) == 0 && format == mw.FormatJSONLines {
				require.Empty(t, written)
				continue
			}
			require.NoError(t, err)
			require.Len(t, got, len(events))
			for i, ev := range events {
				switch raw := ev.RawJSON(); {
				case format == mw.FormatJSONLines && strings.Contains(raw, "\n"):
					require.Equal(t, ev.Name(), got[i].Name())
				case format == mw.FormatJSON && got[i].RawJSON() != raw:
					require.IsType(t, &mw.UnknownEvent{}, ev, "its text is not JSON")
				default:
					require.Equal(t, raw, got[i].RawJSON())
				}
			}
		}
	})
}

// isFirstLine reports whether JSON Lines can begin with the event.
func isFirstLine(ev mw.Event) bool {
	raw := ev.RawJSON()
	if !strings.HasPrefix(raw, "{") {
		return false
	}
	events, err := mw.Parse([]byte(raw))
	return err == nil && len(events) == 1 && events[0].RawJSON() == raw // and no envelope
}
