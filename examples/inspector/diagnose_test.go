package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// tempFile returns the name of a file with that content.
func tempFile(t *testing.T, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "body")
	require.NoError(t, os.WriteFile(name, content, 0o600))
	return name
}

func TestSignPrintsTheHeadersValue(t *testing.T) {
	body := sampleBody("bounce")
	want := outcome{exitOK, mailtrapwebhook.Sign(body, testSecret) + "\n", ""}
	require.Equal(t, want, runWith(t, testSecret, "", "sign", tempFile(t, body)))
	require.Equal(t, want, runWith(t, testSecret, string(body), "sign", "-"))
	require.Equal(t, want, runWith(t, "", string(body), "sign", "-secret", testSecret, "-"))
}

func TestSignRefusesWhatNoReceiverAccepts(t *testing.T) {
	got := runWith(t, testSecret, "", "sign", "-")
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stderr, "is empty")
	got = runWith(t, testSecret, "", "sign", "missing")
	require.Equal(t, outcome{exitFailure, "", "inspector: cannot read missing: no such file or directory\n"}, got)
	got = runWith(t, testSecret, string(fill(nil, maxBody+maxHeader+1)), "sign", "-")
	require.Contains(t, got.stderr, "over 8 MiB")
}

func TestDiagnoseACaptureThatVerifies(t *testing.T) {
	got := runWith(t, testSecret, "", "diagnose", writeCapture(t, testSecret, sampleBody("bounce", "open")))
	require.Equal(t, exitOK, got.status, got.stderr)
	require.True(t, strings.HasPrefix(got.stdout, "verified: The signature matches.\n\nContent-Length "), got.stdout)
	require.Contains(t, got.stdout, "\nMailtrap-Signature  ")
	require.Contains(t, got.stdout, " bytes, JSON, 2 events\n")
	require.Contains(t, got.stdout, "\n2  open  sending  20")
	require.Regexp(t, `\n   email +recipient@example\.com\n`, got.stdout)
}

func TestDiagnoseSaysWhyAndWhatToDo(t *testing.T) {
	name := writeCapture(t, testSecret, sampleBody("bounce"))
	got := runWith(t, "'"+testSecret+"'", "", "diagnose", name)
	require.Equal(t, exitFailure, got.status)
	require.Regexp(t, `^NOT VERIFIED: The .*quote.*\.\n[A-Z].*\.\n`, got.stdout)
	require.Equal(t, "inspector: the delivery does not verify: see above\n", got.stderr)
	require.NotContains(t, got.stdout+got.stderr, testSecret)
}

func TestDiagnoseALargeBodyToo(t *testing.T) {
	body := fill(sampleBody("bounce"), maxDiagnosed+1)
	got := runWith(t, "'"+testSecret+"'", "", "diagnose", writeCapture(t, testSecret, body))
	require.Contains(t, got.stdout, "quote")
}

func TestDiagnoseARawBody(t *testing.T) {
	body := []byte("{\"event\":\"bounce\",\"response_code\":\"x\",\"novel\":\"\\u001b[31m\"}\n{\"event\":\"op\n")
	signature := mailtrapwebhook.Sign(body, testSecret)
	got := runWith(t, testSecret, string(body), "diagnose", "-signature", signature, "-")
	require.Equal(t, exitOK, got.status)
	require.Regexp(t, `response_code +x  \(ODD, offset 34: response_code is not an integer`, got.stdout)
	require.Regexp(t, `novel +\x{FFFD}\[31m  \(unknown to this version\)`, got.stdout)
	require.Regexp(t, `\n2  unknown  unknown  \n   line 2, offset \d+: `, got.stdout)

	got = runWith(t, testSecret, string(body), "diagnose", "-")
	require.Equal(t, exitFailure, got.status)
	require.Equal(t, "inspector: -: "+errNotWhole.Error()+"; for a raw body, pass -signature\n", got.stderr)
}

func TestDiagnoseABrokenBody(t *testing.T) {
	body := `{"events":[{"event":"open"}`
	got := runWith(t, testSecret, body, "diagnose", "-signature", mailtrapwebhook.Sign([]byte(body), testSecret), "-")
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stdout, "\nbroken: line 1, offset 27: ")
	require.Contains(t, got.stdout, "\n1  open  ")
}

func TestDiagnoseWithoutASecretShowsWhatIsThere(t *testing.T) {
	got := runWith(t, "", "", "diagnose", writeCapture(t, testSecret, sampleBody("bounce")))
	require.Equal(t, exitOK, got.status)
	require.True(t, strings.HasPrefix(got.stdout, "not checked: There is no secret"), got.stdout)
}
