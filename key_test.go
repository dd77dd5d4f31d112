package mailtrapwebhook_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// digestOf returns the 32 digits that stand for a text in a key.
func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])[:32]
}

func TestKeysConsistOfTheNameAndTheIDs(t *testing.T) {
	long := strings.Repeat("m", 100)
	for body, want := range map[string]string{
		`{"event":"soft_bounce","message_id":"1df37d17-0286-4d8b-8edf-bc4ec5be86e6","event_id":"bede7236-2284-43d6-a953-1fdcafd0fdbc","email":"a"}`: "soft bounce/1df37d17-0286-4d8b-8edf-bc4ec5be86e6/bede7236-2284-43d6-a953-1fdcafd0fdbc",
		`{"event_id":"e", "message_id":"m", "event":"open"}`:                                                 "open/m/e",
		`{"event":"spam_complaint","message_id":17,"event_id":-1.5}`:                                         "spam/17/-1.5",
		`{"event":"open","message_id":"x","event_id":"\u0065","message_id":"m"}`:                             "open/m/e",
		`{"event":"open","message_id":"A.z_0-9@b","event_id":"e","email":5}`:                                 "open/A.z_0-9@b/e",
		`{"event":"open","message_id":"` + long + `","event_id":"` + long + `"}`:                             "open/" + long + "/" + long,
		`{"event":"open","MESSAGE_ID":"x","message_id":"m","event_id":"e","x":{"event_id":"y"}}`:             "open/m/e",
		`{"event":"inbound_message_received","inbound_inbox_id":"1111","message_id":"m","event_id":"other"}`: "inbound.message_received/1111/m",
		`{"event":"inbound.message_received","inbox_id":-1,"message_id":444}`:                                "inbound.message_received/-1/444",
		`{"event":"inbound.message_received","inbox_id":1,"inbound_inbox_id":2,"message_id":"m"}`:            "inbound.message_received/1/m",
	} {
		require.Equal(t, want, soleEvent(t, body).Key(), body)
	}
}

func TestKeysOfOtherEventsHaveADigestOfTheText(t *testing.T) {
	long := strings.Repeat("m", 101)
	for body, name := range map[string]string{
		`{"event":"open","message_id":"m"}`:                                      "open",
		`{"event":"open","message_id":"m","event_id":null}`:                      "open",
		`{"event":"open","message_id":"","event_id":"e"}`:                        "open",
		`{"event":"open","message_id":[],"event_id":"e"}`:                        "open",
		`{"event":"open","message_id":"` + long + `","event_id":"e"}`:            "open",
		`{"event":"open","message_id":"m","event_id":"` + long + `"}`:            "open",
		`{"event":"open","message_id":"a b","event_id":"e"}`:                     "open",
		`{"event":"open","message_id":"a:b","event_id":"e"}`:                     "open",
		`{"event":"open","message_id":"a/b","event_id":"e"}`:                     "open",
		`{"event":"open","message_id":"m","event_id":"e\n"}`:                     "open",
		`{"event":"open","message_id":"é","event_id":"e"}`:                       "open",
		`{"event":"open","message_id":"<a@b>","event_id":"e"}`:                   "open",
		"{\"event\":\"open\",\"message_id\":\"\xff\",\"event_id\":\"e\"}":        "open",
		`{"event":"soft_bounce","x":1}`:                                          "soft bounce",
		`{"event":"inbound.message_received","message_id":"m"}`:                  "inbound.message_received",
		`{"event":"inbound.message_received","inbox_id":0,"message_id":"m"}`:     "inbound.message_received",
		`{"event":"inbound.message_received","inbox_id":1,"event_id":"e"}`:       "inbound.message_received",
		`{"event":"inbound.message_received","inbox_id":1,"message_id":"<a@b>"}`: "inbound.message_received",
		`{"event":"activity_log.user.updated","message_id":"m","event_id":"e"}`:  "activity_log.user.updated",
		`{"event":"activity_log.\n"}`:                                            "unknown",
		`{"event":"telepathy","message_id":"m","event_id":"e"}`:                  "telepathy",
		`{"event":"a B-c.d_e@9","x":1}`:                                          "a B-c.d_e@9",
		`{"event":"a:b"}`:                                                        "unknown",
		`{"event":"a/b"}`:                                                        "unknown",
		`{"event":"a\tb"}`:                                                       "unknown",
		`{"event":"é"}`:                                                          "unknown",
		`{"event":"` + long + `"}`:                                               "unknown",
		`{"event":5}`:                                                            "unknown",
		`{}`:                                                                     "unknown",
	} {
		require.Equal(t, name+"/"+digestOf(body), soleEvent(t, body).Key(), body)
	}
}

func TestKeysDoNotDependOnTheFormOfTheBody(t *testing.T) {
	for name, body := range sampleFiles(t) {
		events, err := mw.Parse([]byte(body))
		require.NoError(t, err)
		for i, raw := range rawEvents(t, name, body) {
			alone, err := mw.Parse([]byte("[" + raw + "]"))
			require.NoError(t, err)
			require.Equal(t, alone[0].Key(), events[i].Key())
		}
	}
}

func TestKeysOfEventsBuiltByHand(t *testing.T) {
	for _, test := range []struct {
		event mw.Event
		want  string
	}{
		{&mw.SendingWebhookEvent{Event: "soft_bounce", MessageID: "m", EventID: "e", Email: "x"}, "soft bounce/m/e"},
		{&mw.SendingWebhookEvent{Event: "a:b", MessageID: "m", EventID: "e"}, "unknown/m/e"},
		{&mw.SendingWebhookEvent{MessageID: "m", EventID: "e"}, "unknown/m/e"},
		{&mw.SendingWebhookEvent{Event: "open", MessageID: "m"}, "open/" + digestOf(`{"event":"open","message_id":"m"}`)},
		{&mw.SendingWebhookEvent{}, "unknown/" + digestOf(`{}`)},
		{&mw.InboundWebhookEvent{Event: "inbound.message_received", InboxID: 1, MessageID: "m"}, "inbound.message_received/1/m"},
		{&mw.InboundWebhookEvent{MessageID: "m"}, "unknown/" + digestOf(`{"message_id":"m"}`)},
		{&mw.ActivityLogWebhookEvent{Event: "activity_log.x"}, "activity_log.x/" + digestOf(`{"event":"activity_log.x"}`)},
		{&mw.ActivityLogWebhookEvent{Event: "activity_log.x", Changes: "no JSON"}, ""},
		{&mw.UnknownEvent{Event: "telepathy"}, ""},
		{&mw.UnknownEvent{Raw: "{broken"}, "unknown/" + digestOf("{broken")},
	} {
		require.Equal(t, test.want, test.event.Key())
	}
}
