package mailtrapwebhook_test

import (
	"strings"
	"testing"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/stretchr/testify/require"
)

func TestDiagnoseIsNilWhenVerified(t *testing.T) {
	require.NoError(t, mailtrapwebhook.Diagnose([]byte(fixtureBody), fixtureSignature, fixtureSecret))
	require.NoError(t, mailtrapwebhook.Diagnose([]byte(fixtureBody), fixtureSignature, " "+fixtureSecret+"\n"))
	require.NoError(t, mailtrapwebhook.Diagnose([]byte(fixtureBody), strings.ToUpper(fixtureSignature), otherSecret, fixtureSecret))
}

// internal/diagnose tests what is explained; this is about the errors around it.
func TestDiagnoseWrapsTheErrorOfVerify(t *testing.T) {
	one := []string{fixtureSecret}
	tests := []struct {
		name, body, signature string
		secrets               []string
		want                  error
		text                  string
	}{
		{"no secret", fixtureBody, fixtureSignature, nil, mailtrapwebhook.ErrNoSecret, "missing or blank: pass"},
		{"an empty secret", fixtureBody, fixtureSignature, []string{""}, mailtrapwebhook.ErrNoSecret, "missing or blank: pass"},
		{"a blank secret", fixtureBody, fixtureSignature, []string{"\n"}, mailtrapwebhook.ErrNoSecret, "missing or blank: pass"},
		{"a blank secret beside the right one", fixtureBody, fixtureSignature, []string{fixtureSecret, " "},
			mailtrapwebhook.ErrNoSecret, "signing secret 2 of 2 is blank: pass"},
		{"no body", "", fixtureSignature, one, mailtrapwebhook.ErrEmptyBody, "the body is empty: verify it before"},
		{"no signature", fixtureBody, "", one, mailtrapwebhook.ErrMissingSignature, "header is missing or empty: if Mailtrap sent"},
		{"a changed body", fixtureBody + "\n", fixtureSignature, one, mailtrapwebhook.ErrInvalidSignature,
			"a newline was added to the end of the body: verify the raw bytes"},
		{"a quoted secret", fixtureBody, fixtureSignature, []string{otherSecret, "'" + fixtureSecret + "'\n"},
			mailtrapwebhook.ErrInvalidSignature, "secret 2 of 2 has quotes around it: store"},
		{"a pasted header", fixtureBody, "Mailtrap-Signature: " + fixtureSignature, one, mailtrapwebhook.ErrInvalidSignature,
			"the signature is a whole header line: pass the plain value of the Mailtrap-Signature header"},
		{"another secret", fixtureBody, fixtureSignature, []string{otherSecret}, mailtrapwebhook.ErrInvalidSignature,
			"no known change to the body, the secret or the header explains the mismatch: check that"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := mailtrapwebhook.Diagnose([]byte(test.body), test.signature, test.secrets...)
			require.ErrorIs(t, err, test.want)
			require.ErrorIs(t, err, mailtrapwebhook.Verify([]byte(test.body), test.signature, test.secrets...))
			require.ErrorContains(t, err, test.text)
			requireOnePrefix(t, err)
			requireNoLeak(t, err, append(test.secrets, test.signature, test.body)...)
		})
	}
}
