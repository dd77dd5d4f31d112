package browser

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func TestVerdictNamesCauseAndFix(t *testing.T) {
	in := start(t)
	body := samples(asJSON, "bounce")

	require.Equal(t, http.StatusBadRequest, in.post("another-secret", body))
	p := in.open(wide, "#id=1")
	p.waitText("#detail .verdict-line.no", "mismatch")
	p.waitText("#detail .fix", "secret")

	// curl -d @file takes the line breaks out.
	body = webhooktest.Body(asLines, webhooktest.Samples()[:3]...)
	signed := webhooktest.NewRequest("/", secret, body)
	require.Equal(t, http.StatusBadRequest, in.send(signed, bytes.ReplaceAll(body, []byte("\n"), nil)))
	p = in.open(wide, "#id=2")
	p.waitText("#detail .verdict-line.no", "line breaks")
	p.waitText("#detail .fix", "--data-binary")
}

func TestPlaceOfAFaultIsMarked(t *testing.T) {
	in := start(t)
	require.Equal(t, http.StatusUnprocessableEntity, in.post(secret, []byte("{\"events\":[\n{\"event\":\"open\",}]}")))
	require.Equal(t, http.StatusUnprocessableEntity, in.post(secret, []byte(`{"events":[{"event":"open"`)))

	p := in.open(wide, "#id=1")
	p.click("#panel .reason button")
	p.wait(`document.querySelector("#panel .here mark")?.textContent === "}"`)
	require.Contains(t, p.text("#panel .faults"), "line 2, byte 28")
	p.button("#detail", "Bytes")
	p.wait(`document.querySelector("#panel .hex mark")?.textContent === "7d"`)

	p = in.open(wide, "#id=2")
	p.click("#panel .reason button")
	p.waitText("#panel .here mark", "end of body")
}

func TestWithoutSecretItSaysSo(t *testing.T) {
	in := startAt(t, "127.0.0.1:0", "")
	require.Equal(t, http.StatusOK, in.post("unknown-to-it", samples(asJSON, "open")))
	p := in.open(wide, "#id=1")
	p.waitText("#detail .verdict-line.unknown", "no secret")
	p.waitText("#detail .fix", "MAILTRAP_SIGNING_SECRET")
}
