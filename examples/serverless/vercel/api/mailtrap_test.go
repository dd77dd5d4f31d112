package handler

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/programtest"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

var errSecret = programtest.SetSecret()

func TestFunction(t *testing.T) {
	require.NoError(t, errSecret)
	body := webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Samples()...)
	for _, fault := range []webhooktest.Fault{webhooktest.FaultRepeated, webhooktest.FaultForged} {
		m := webhooktest.Mailtrap{
			Handler: http.HandlerFunc(Handler), URL: "/api/mailtrap", Secret: programtest.Secret, Retries: -1, Fault: fault,
		}
		result, err := m.Deliver(t.Context(), body)
		require.NoError(t, err)
		require.NoError(t, result.Err())
	}
}

func TestFunctionNeedsSecret(t *testing.T) { programtest.RequireNeedsSecret(t, programtest.Self(t)) }
