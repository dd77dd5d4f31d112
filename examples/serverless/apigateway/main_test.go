package main

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/lambdatest"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/webhooktest"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/webhook"
)

var door = lambdatest.Door{
	Function: func(handler http.Handler) any { return function(handler) },
	Put:      lambdatest.PutVersion1,
}

func TestMain(m *testing.M) { webhooktest.Main(m, main) }

func TestFunction(t *testing.T) { lambdatest.Test(t, door) }

func TestProgram(t *testing.T) { lambdatest.TestProgram(t) }

func TestRequest(t *testing.T) {
	d := lambdatest.Read(t, lambdatest.JSONFile)
	r, body := lambdatest.Request(t, door, d)
	require.Equal(t, http.MethodPost, r.Method)
	require.Equal(t, "/webhooks/mailtrap?token=a+b&token=c", r.URL.String())
	require.Equal(t, "abcdefghij.execute-api.us-east-1.amazonaws.com", r.Host)
	require.Equal(t, "45.158.83.129:0", r.RemoteAddr)
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	require.Equal(t, d["body"], body)
	require.EqualValues(t, len(body), r.ContentLength)
}

// A header may be in headers, in multiValueHeaders or in both, and its name in
// any case.
func TestSignatureIsFoundInBothHeaderFields(t *testing.T) {
	const name = mailtrapwebhook.SignatureHeader
	signature := lambdatest.Read(t, lambdatest.JSONFile).Object("headers")[name]
	require.NotEmpty(t, signature)

	for title, test := range map[string]struct {
		edit   func(d lambdatest.Document)
		status int
	}{
		"in headers alone":             {func(d lambdatest.Document) { delete(d, "multiValueHeaders") }, 200},
		"in multiValueHeaders alone":   {func(d lambdatest.Document) { delete(d, "headers") }, 200},
		"a forged one before it":       {func(d lambdatest.Document) { setAll(d, name, "forged", signature) }, 400},
		"a forged one in another case": {func(d lambdatest.Document) { setAll(d, "MAILTRAP-signature", "forged") }, 400},
		"twice in headers alone": {func(d lambdatest.Document) {
			delete(d, "multiValueHeaders")
			d.Object("headers")["MAILTRAP-signature"] = signature
		}, 400},
	} {
		t.Run(title, func(t *testing.T) {
			handler, err := webhook.New(webhooktest.Secret)
			require.NoError(t, err)
			d := lambdatest.Read(t, lambdatest.JSONFile)
			test.edit(d)
			require.Equal(t, test.status, lambdatest.Invoke(t, function(handler), d.Bytes(t)).Status)
		})
	}
}

func setAll(d lambdatest.Document, name string, values ...any) {
	d.Object("multiValueHeaders")[name] = values
}
