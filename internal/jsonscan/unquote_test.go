package jsonscan_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
	"github.com/stretchr/testify/require"
)

// requireUnquoted asserts that a literal, given without its quotes, has the
// value that encoding/json gives.
func requireUnquoted(t *testing.T, literal string) {
	t.Helper()
	quoted := `"` + literal + `"`
	var want string
	if json.Unmarshal([]byte(quoted), &want) != nil {
		return
	}
	var got strings.Builder
	jsonscan.WriteUnquoted(&got, []byte(literal))
	require.Equal(t, want, got.String(), "%q", literal)
	require.True(t, jsonscan.Each(`{`+quoted+`:1}`, func(key, _ string) { require.Equal(t, want, key) }), "%q", literal)
}

func TestUnquotedStringsAreThoseOfEncodingJSON(t *testing.T) {
	parts := []string{"", "a", "abcdefg", "abcdefgh", " ", "é", "😀", "\u2028", "\x7f", "\xff", "\xe2\x82", "\xed\xa0\x80", "\xc0\x80", "\x80", "\xf4\x90\x80\x80",
		`\n`, `\\`, `\"`, `\/`, `\b\f\r\t`, `\u0041`, `\u00e9`, `\uD83D\ude00`, `\ud83d`, `\ude00`, `\ud83d\ud83d\ude00`, `\ud83d\u0041`, `\ud83d\n`, `\ud83dx`,
		`\ude00\ud83d`, `\ufffd`, `\u0000`}
	for _, a := range parts {
		for _, b := range parts {
			requireUnquoted(t, a+b)
			requireUnquoted(t, "12345"+a+b+"678901234567")
		}
	}
}
