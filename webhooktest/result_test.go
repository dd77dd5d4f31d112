package webhooktest_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func TestResultSaysWhatToChange(t *testing.T) {
	for status, want := range map[int]string{
		202: "answer 200, since Mailtrap takes no other status for an acknowledgement",
		204: "answer 200, since Mailtrap takes no other status for an acknowledgement",
		302: "give Mailtrap the final URL, since it takes no redirect for an acknowledgement",
		400: "check that it has this signing secret and uses it as text, reads the Mailtrap-Signature header, and verifies the body byte for byte as received",
		401: "put the user name and password, or the token, into the webhook's URL",
		403: "let Mailtrap's addresses through, and exempt the path from login and CSRF checks",
		404: "register the receiver at the path of the webhook's URL",
		405: "accept POST at the path of the webhook's URL",
		413: "accept larger bodies, since Mailtrap sends up to 500 events at once",
		415: "accept application/json and application/jsonl",
		418: "see the receiver's log, and answer 200 once the events are stored",
		429: "exempt Mailtrap from the rate limit",
		500: "see the receiver's log, and answer 200 once the events are stored",
	} {
		m := webhooktest.Mailtrap{Secret: signingSecret, Retries: -1, Handler: answering(status)}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.Regexp(t, "^webhooktest: the receiver answers [0-9]+: ", result.Err())
		require.ErrorContains(t, result.Err(), want)
	}
}

func TestResultOfAForgedDelivery(t *testing.T) {
	for status, want := range map[int]string{
		200: "webhooktest: the receiver answers 200 to a forged delivery: verify the signature before you act on the events",
		202: "webhooktest: the receiver answers 202 to a forged delivery: verify the signature before you act on the events",
		302: "webhooktest: the receiver answers 302 to a forged delivery: answer 400, and check where URL leads",
		400: "",
		401: "",
		403: "",
		404: "webhooktest: the receiver answers 404 to a forged delivery: answer 400, and check where URL leads",
		500: "webhooktest: the receiver answers 500 to a forged delivery: answer 400, and check where URL leads",
	} {
		m := webhooktest.Mailtrap{Secret: signingSecret, Fault: webhooktest.FaultForged, Handler: answering(status)}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.Len(t, result.Attempts, 1)
		if want == "" {
			require.NoError(t, result.Err())
		} else {
			require.EqualError(t, result.Err(), want)
		}
	}
}

func TestResultIsAboutTheCopyThatFailed(t *testing.T) {
	result := webhooktest.Result{Attempts: []webhooktest.Attempt{{Number: 1, Copy: 1, Status: 502}, {Number: 1, Copy: 2, Status: 200}}}
	require.ErrorContains(t, result.Err(), "the receiver answers 502")
}

func TestResultOfNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := webhooktest.Mailtrap{Secret: signingSecret, Retries: -1, Handler: hanging}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.EqualError(t, result.Err(), "webhooktest: the receiver is too slow:"+
			" store the events, answer 200, and work on them later (no answer within 30s: context deadline exceeded)")
	})
	m := webhooktest.Mailtrap{Secret: signingSecret, Retries: -1, URL: "http://127.0.0.1:1/"}
	for _, m.Fault = range []webhooktest.Fault{"", webhooktest.FaultForged} {
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.ErrorContains(t, result.Err(), "webhooktest: the receiver gives no answer: check that it runs, and where URL leads (")
	}
}
