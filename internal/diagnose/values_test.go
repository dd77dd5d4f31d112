package diagnose_test

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// secretMismatches are cases of TestMismatchNamesCauseAndFix.
func secretMismatches() []mismatch {
	upper := strings.ToUpper(secret)
	var many []string
	for i := range 60 {
		many = append(many, fmt.Sprintf("%032x", i))
	}
	return []mismatch{
		{name: "secret with BOM", secrets: []string{"\ufeff" + secret}, cause: "the secret has invisible characters around it", fix: "copy it from Mailtrap again"},
		{name: "secret with a zero-width space", secrets: []string{secret + "\u200b"}, cause: "the secret has invisible characters around it"},
		{name: "secret in double quotes", secrets: []string{`"` + secret + `"`}, cause: "the secret has quotes around it", fix: "store the secret without quotes"},
		{name: "secret in single quotes", secrets: []string{"'" + secret + "'"}, cause: "the secret has quotes around it"},
		{name: "secret in typographic quotes", secrets: []string{"“" + secret + "”\n"}, cause: "the secret has quotes around it"},
		{name: "secret in upper case", secrets: []string{upper}, cause: "the secret was put into upper case", fix: "copy the secret again"},
		{name: "secret in lower case", key: upper, secrets: []string{secret}, cause: "the secret was put into lower case"},
		{name: "secret in upper case and quotes", secrets: []string{"'" + upper + "'"}, cause: "quotes around it, and the secret was put into upper case"},
		{name: "hex-decoded secret", key: unhex(secret), secrets: []string{secret}, cause: "hexadecimal digits of the secret spell", fix: "sign with the secret as text"},
		{name: "second secret with quotes", secrets: []string{otherSecret, `"` + secret + `"`}, cause: "secret 2 of 2 has quotes"},
		{name: "third secret with newline and quotes", secrets: []string{otherSecret, otherSecret, "'" + secret + "'\n"}, cause: "secret 3 of 3 has quotes"},
		{name: "white space around secrets changes nothing", body: compactBody + "\n", secrets: []string{" " + secret + "\n"},
			cause: "newline was added", not: "secret"},
		{name: "right secret beside a quoted one", body: compactBody + "\n", secrets: []string{"'" + secret + "'", secret},
			cause: "newline was added", not: "secret 1"},
		{name: "right secret beside a quoted one, header changed", secrets: []string{"'" + secret + "'", secret},
			header: func(s string) string { return "sha256=" + s }, cause: "begins with sha256=", not: "secret 1"},
		{name: "secret of another shape", secrets: []string{"an-api-token-from-elsewhere"}, cause: "the secret is not 32 hexadecimal digits", fix: "API token"},
		{name: "secret cut off", secrets: []string{otherSecret, secret[:31]}, cause: "secret 2 of 2 is not 32 hexadecimal digits"},
		{name: "a list of secrets in one", secrets: []string{otherSecret + ", " + secret}, cause: "the secret holds a comma",
			fix: "an argument of its own", not: "API token"},
		{name: "a list of secrets beside one", secrets: []string{otherSecret, otherSecret + "," + secret}, cause: "secret 2 of 2 holds a comma"},
		{name: "another webhook's secret", secrets: []string{otherSecret}, cause: "no known change", fix: "saved before its test was run"},
		{name: "another webhook's secret: reset", secrets: []string{otherSecret}, cause: "no known change", fix: "reset"},
		{name: "too many secrets to try all", secrets: many, cause: "changes that were tried", fix: "this webhook"},
	}
}

// headerMismatches are cases of TestMismatchNamesCauseAndFix.
func headerMismatches() []mismatch {
	is := func(s string) func(string) string { return func(string) string { return s } }
	in := func(e *base64.Encoding) func(string) string {
		return func(s string) string { return e.EncodeToString([]byte(unhex(s))) }
	}
	before := func(s string) func(string) string { return func(signature string) string { return s + signature } }
	return []mismatch{
		{name: "white space", header: func(s string) string { return " " + s + "\r\n" }, cause: "signature has white space"},
		{name: "quotes", header: func(s string) string { return `"` + s + `"` }, cause: "signature has quotes"},
		{name: "sha256=", header: before("sha256="), cause: "begins with sha256=", fix: "64 hexadecimal digits"},
		{name: "SHA256= and white space", header: before(" SHA256="), cause: "white space around it, and the signature begins with sha256="},
		{name: "sha256= and base64", header: func(s string) string { return "sha256=" + in(base64.StdEncoding)(s) },
			cause: "begins with sha256=, which Mailtrap's does not, and the signature is in base64"},
		{name: "base64", header: in(base64.StdEncoding), cause: "in base64 instead"},
		{name: "base64 without padding", header: in(base64.RawStdEncoding), cause: "in base64 instead"},
		{name: "base64 for URLs", header: in(base64.URLEncoding), cause: "in base64 instead"},
		{name: "base64 for URLs without padding", header: in(base64.RawURLEncoding), cause: "in base64 instead"},

		{name: "header line", header: before("Mailtrap-Signature: "), cause: "a whole header line", fix: "without its name", not: "sha256"},
		{name: "header line, lower case", header: before("mailtrap-signature:"), cause: "a whole header line"},
		{name: "header line, =", header: before("mailtrap-signature="), cause: "a whole header line"},
		{name: "header line, white space", header: func(s string) string { return "\tMailtrap-Signature :  " + s + "\r\n" }, cause: "a whole header line"},
		{name: "header line, quotes", header: func(s string) string { return `"mailtrap-signature": "` + s + `"` }, cause: "a whole header line"},
		{name: "header line in quotes", header: func(s string) string { return `'Mailtrap-Signature: ` + s + `'` }, cause: "a whole header line"},
		{name: "header line of CGI", header: before("HTTP_MAILTRAP_SIGNATURE="), cause: "a whole header line"},
		{name: "header line of older pages", header: before("X-Mailtrap-Signature: "), cause: "a whole header line"},
		{name: "header line and body", body: compactBody + "\n", header: before("Mailtrap-Signature: "), cause: "newline was added to the end of the body, and the signature is a whole header line"},
		{name: "header line, and nothing matches", secrets: []string{otherSecret}, header: before("Mailtrap-Signature: "), cause: "a whole header line", fix: "plain value"},
		{name: "header line, and no signature", header: is("Mailtrap-Signature:"), cause: "a whole header line"},

		{name: "Stripe", header: is("t=1492774577,v1=" + strings.Repeat("ab", 32) + ",v0=" + strings.Repeat("cd", 32)), cause: "Stripe"},
		{name: "GitHub SHA-1", header: is("sha1=" + strings.Repeat("ab", 20)), cause: "GitHub"},
		{name: "GitHub SHA-256", header: is("sha256=" + strings.Repeat("ab", 32)), cause: "GitHub"},
		{name: "Svix", header: is("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="), cause: "Svix"},
		{name: "Slack", header: is("v0=" + strings.Repeat("ab", 32)), cause: "Slack"},
		{name: "SendGrid", header: is("MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM="), cause: "SendGrid"},
		{name: "two headers joined", header: func(s string) string { return s + "," + s }, cause: "comma", fix: "64 hexadecimal digits"},
		{name: "cut off", header: func(s string) string { return s[:40] }, cause: "hexadecimal but not 64 digits"},
		{name: "words", header: is("undefined"), cause: "not 64 hexadecimal digits"},
		{name: "blank", header: is("  "), cause: "not 64 hexadecimal digits"},
		{name: "longer than any", header: before(strings.Repeat(" ", 2000)), cause: "white space around it"},
		{name: "much longer than any", header: is(strings.Repeat("ab", 500_000)), cause: "hexadecimal but not 64 digits"},
		{name: "another digest", header: is(strings.Repeat("ab", 32)), cause: "no known change"},
	}
}
