package main

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/lambdatest"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/webhooktest"
)

var door = lambdatest.Door{
	Function: func(handler http.Handler) any { return function(handler) },
	Put:      lambdatest.PutVersion2,
}

func TestMain(m *testing.M) { webhooktest.Main(m, main) }

func TestFunction(t *testing.T) { lambdatest.Test(t, door) }

func TestProgram(t *testing.T) { lambdatest.TestProgram(t) }

func TestRequest(t *testing.T) {
	d := lambdatest.Read(t, lambdatest.JSONFile)
	r, body := lambdatest.Request(t, door, d)
	require.Equal(t, http.MethodPost, r.Method)
	require.Equal(t, "/webhooks/mailtrap?token=a%20b&token=c", r.URL.String())
	require.Equal(t, "abcdefghijklmnopqrstuvwxyz012345.lambda-url.us-east-1.on.aws", r.Host)
	require.Equal(t, "45.158.83.129:0", r.RemoteAddr)
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	require.Equal(t, d["body"], body)
	require.EqualValues(t, len(body), r.ContentLength)
}
