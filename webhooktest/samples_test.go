package webhooktest_test

import (
	"encoding/json"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// sampleFields has the members of each sample, in Mailtrap's order.
var sampleFields = map[string]string{
	"delivery":    common + "sending_domain_name",
	"open":        common + "ip user_agent sending_domain_name",
	"click":       common + "ip user_agent url sending_domain_name",
	"unsubscribe": common + "ip user_agent sending_domain_name",
	"spam":        common + "sending_domain_name",
	"soft bounce": common + "response response_code bounce_category sending_domain_name",
	"bounce":      common + "response response_code bounce_category sending_domain_name",
	"suspension":  common + "reason sending_domain_name",
	"reject":      common + "reason sending_domain_name",

	"activity_log.user.updated":    "event description actor resource changes timestamp",
	"activity_log.user.login":      "event description actor timestamp",
	"activity_log.sandbox.updated": "event description actor resource changes timestamp",
	"inbound.message_received":     "event event_id timestamp inbox_id message_id from",
}

const common = "event timestamp sending_stream category custom_variables message_id email event_id "

func TestSamplesHaveEveryDocumentedField(t *testing.T) {
	samples := webhooktest.Samples()
	require.Len(t, samples, len(sampleFields))
	for _, ev := range samples {
		var got string
		var members map[string]any
		require.NoError(t, json.Unmarshal([]byte(ev.RawJSON()), &members))
		for _, name := range regexp.MustCompile(`"(\w+)":`).FindAllStringSubmatch(ev.RawJSON(), -1) {
			if _, ok := members[name[1]]; ok && name[1] != "name" {
				got += " " + name[1]
			}
		}
		require.Equal(t, " "+sampleFields[ev.Name()], got, ev.Name())
	}
}

func TestSamplesCanBeReadInFull(t *testing.T) {
	kinds := make(map[mw.EventType]bool)
	for _, ev := range webhooktest.Samples() {
		require.WithinDuration(t, time.Now(), ev.Time(), 2*time.Second, ev.Name())
		switch ev := ev.(type) {
		case *mw.SendingWebhookEvent:
			require.NoError(t, ev.Err)
			kinds[ev.Event] = true
			if ev.IP != "" {
				netip.MustParseAddr(ev.IP)
			}
		case *mw.ActivityLogWebhookEvent:
			require.NoError(t, ev.Err)
			require.NotEmpty(t, ev.Actor.Name)
		case *mw.InboundWebhookEvent:
			require.NoError(t, ev.Err)
			require.Regexp(t, `"timestamp":\d{13},`, ev.Raw)
			require.NotZero(t, ev.InboxID)
		default:
			t.Errorf("%s is a %T", ev.Name(), ev)
		}
	}
	require.Len(t, kinds, 9)
}

func TestSamplesDifferAtEachCall(t *testing.T) {
	seen := make(map[string]bool)
	for range 3 {
		for _, ev := range webhooktest.Samples() {
			seen[ev.Key()] = true
		}
		for name := range sampleFields {
			seen[webhooktest.Sample(name).Key()] = true
		}
	}
	require.Len(t, seen, 6*len(sampleFields))
}

func TestSamplesShareNoID(t *testing.T) {
	uuid := regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)
	body := string(webhooktest.Body(mw.FormatJSON, webhooktest.Samples()...))
	ids := make(map[string]bool)
	for _, id := range uuid.FindAllString(body, -1) {
		ids[id] = true
	}
	require.Len(t, ids, 2*10)
}

func TestSampleHasTheName(t *testing.T) {
	for name := range sampleFields {
		require.Equal(t, name, webhooktest.Sample(name).Name())
	}
	require.PanicsWithValue(t, `webhooktest: no sample has the name "soft_bounce": use one of "delivery", "open", `+
		`"click", "unsubscribe", "spam", "soft bounce", "bounce", "suspension", "reject", "activity_log.user.updated", `+
		`"activity_log.user.login", "activity_log.sandbox.updated", "inbound.message_received"`,
		func() { webhooktest.Sample("soft_bounce") })
}
