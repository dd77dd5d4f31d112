package mailtrapwebhook

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// SecretIndex tells which webhook a delivery is of, so equal secrets must not make
// it depend on chance.
func TestMatchReturnsTheFirstSecretThatMatches(t *testing.T) {
	body := []byte("body")
	signature := Sign(body, "right")
	for want, secrets := range [][]string{{"right", "wrong", "right"}, {"wrong", "right\n", "right"}, {"wrong", "other", "right"}} {
		got, err := match(signature, secrets, body[:1], nil, body[1:])
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}
