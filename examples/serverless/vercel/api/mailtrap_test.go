package handler

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/webhooktest"
)

var errSecret = webhooktest.SetSecret()

// serve serves Handler as Vercel's main function does.
func serve(t *testing.T) webhooktest.Send {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(Handler))
	t.Cleanup(server.Close)
	return webhooktest.SendTo(server.URL + "/api/mailtrap")
}

func TestFunction(t *testing.T) {
	require.NoError(t, errSecret)
	webhooktest.TestLive(t, serve(t))

	program := receiver
	defer func() { receiver = program }()
	webhooktest.Test(t, func(t *testing.T, handler *mailtrapwebhook.Handler) webhooktest.Send {
		receiver = handler
		return serve(t)
	})
}

func TestFunctionNeedsSecret(t *testing.T) {
	webhooktest.RequireNeedsSecret(t, webhooktest.Self(t))
}
