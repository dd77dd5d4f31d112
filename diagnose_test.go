package mailtrapwebhook_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/stretchr/testify/require"
)

// jsonText says one thing in the ways in which encoders write it.
const (
	jsonPlain    = `{"event":"click","reason":"<a> & \"é\" 😀\n\u0001","url":"https://example.com/a","n":[],"o":{},"l":[1,2]}`
	jsonHTML     = `{"event":"click","reason":"\u003ca\u003e \u0026 \"é\" 😀\n\u0001","url":"https://example.com/a","n":[],"o":{},"l":[1,2]}`
	jsonASCII    = `{"event":"click","reason":"<a> & \"\u00e9\" \ud83d\ude00\n\u0001","url":"https://example.com/a","n":[],"o":{},"l":[1,2]}`
	jsonSlash    = `{"event":"click","reason":"<a> & \"é\" 😀\n\u0001","url":"https:\/\/example.com\/a","n":[],"o":{},"l":[1,2]}`
	jsonIndented = "{\n  \"event\": \"click\",\n  \"reason\": \"<a> & \\\"é\\\" 😀\\n\\u0001\",\n" +
		"  \"url\": \"https://example.com/a\",\n  \"n\": [],\n  \"o\": {},\n  \"l\": [\n    1,\n    2\n  ]\n}"
	jsonLines       = `{"event":"open","url":"https://example.com/<1>"}` + "\n" + `{"event":"click","a":[1,2]}` + "\n"
	jsonLinesSpaced = `{"event": "open", "url": "https://example.com/<1>"}` + "\n" + `{"event": "click", "a": [1, 2]}`
)

type diagnosisCase struct {
	name            string
	signed          string // what Mailtrap signed; empty: the fixture
	body            string // what arrived; empty: what was signed
	key             string // what it was signed with; empty: the fixture's secret
	secrets         []string
	header          func(signature string) string
	want            error
	cause, fix, not string // words that the sentence must have, and must not
}

func diagnosisCases() []diagnosisCase {
	return append(append(bodyDiagnoses(), secretDiagnoses()...), headerDiagnoses()...)
}

func bodyDiagnoses() []diagnosisCase {
	spaced := strings.NewReplacer(`":"`, `": "`, `,"`, `, "`).Replace(fixtureBody)
	url := base64.RawURLEncoding.EncodeToString([]byte(jsonPlain + "\xff\xfe?>"))
	return []diagnosisCase{
		{name: "newline added", body: fixtureBody + "\n", cause: "newline was added", fix: "raw bytes"},
		{name: "CRLF added", body: fixtureBody + "\r\n", cause: "newline was added"},
		{name: "newline added to a newline", signed: jsonLines, body: jsonLines + "\n", cause: "newline was added"},
		{name: "white space around", body: " \n" + fixtureBody + "\n ", cause: "white space was added around the body"},
		{name: "newline trimmed", signed: fixtureBody + "\n", body: fixtureBody, cause: "newline at the end of the body was trimmed"},
		{name: "LF to CRLF", signed: jsonLines, body: strings.ReplaceAll(jsonLines, "\n", "\r\n"), cause: "from LF to CRLF"},
		{name: "CRLF to LF", signed: strings.ReplaceAll(jsonLines, "\n", "\r\n"), body: jsonLines, cause: "from CRLF to LF"},
		{name: "BOM added", body: "\ufeff" + fixtureBody, cause: "byte-order mark was added"},
		{name: "BOM removed", signed: "\ufeff" + fixtureBody, body: fixtureBody, cause: "byte-order mark at the front of the body was removed"},
		{name: "base64", body: base64.StdEncoding.EncodeToString([]byte(fixtureBody)), cause: "still base64", fix: "decode"},
		{name: "base64 without padding", body: base64.RawStdEncoding.EncodeToString([]byte(fixtureBody)), cause: "still base64"},
		{name: "base64 in lines", body: fold(base64.StdEncoding.EncodeToString([]byte(fixtureBody))), cause: "still base64"},
		{name: "base64 for URLs", signed: jsonPlain + "\xff\xfe?>", body: url, cause: "still base64"},
		{name: "base64 for URLs, padded", signed: jsonPlain + "\xff\xfe?>",
			body: base64.URLEncoding.EncodeToString([]byte(jsonPlain + "\xff\xfe?>")), cause: "still base64"},
		{name: "JSON string", body: quoted(fixtureBody), cause: "made into a JSON string", fix: "verify the text"},
		{name: "spaces put into JSON", body: spaced, cause: "parsed and encoded again", fix: "JSON middleware"},
		{name: "JSON indented", signed: jsonPlain, body: jsonIndented, cause: "signed is compact"},
		{name: "JSON compacted", signed: jsonIndented, body: jsonPlain, cause: "signed is indented"},
		{name: "JSON indented, newline and BOM", signed: jsonPlain, body: "\ufeff" + jsonIndented + "\n", cause: "signed is compact"},
		{name: "HTML escaped", signed: jsonPlain, body: jsonHTML, cause: "escapes nothing"},
		{name: "HTML unescaped", signed: jsonHTML, body: jsonPlain, cause: "<, > and & escaped"},
		{name: "line separators unescaped", signed: `{"a":"\u2028\u2029"}`, body: "{\"a\":\"\u2028\u2029\"}", cause: "<, > and & escaped"},
		{name: "non-ASCII escaped", signed: jsonPlain, body: jsonASCII, cause: "escapes nothing"},
		{name: "non-ASCII unescaped", signed: jsonASCII, body: jsonPlain, cause: "with non-ASCII characters escaped"},
		{name: "slashes escaped", signed: jsonPlain, body: jsonSlash, cause: "escapes nothing"},
		{name: "slashes unescaped", signed: jsonSlash, body: jsonPlain, cause: "with slashes escaped"},
		{name: "several escapes and indented", signed: strings.ReplaceAll(jsonASCII, "/", `\/`), body: jsonIndented,
			cause: "with non-ASCII characters, slashes escaped"},
		{name: "short escapes respelled", signed: `{"a":"\b\f\r\t\\/é"}`, body: `{"a":"\u0008\u000C\u000d\u0009\u005c\/\u00E9"}`,
			cause: "escapes nothing"},
		{name: "lone surrogate and broken UTF-8 kept", signed: "{\"a\":\"\\ud83d\xff\\udc00x é\"}",
			body: "{\"a\":\"\\ud83d\xff\\udc00x \\u00e9\"}", cause: "escapes nothing"},
		{name: "JSON Lines spaced, newline lost", signed: jsonLines, body: jsonLinesSpaced, cause: "signed is compact"},
		{name: "JSON Lines spaced", signed: strings.TrimSpace(jsonLines), body: jsonLinesSpaced + "\n", cause: "signed is compact"},
		{name: "JSON Lines with a blank line", signed: jsonLines, body: strings.Replace(jsonLines, "\n", "\n\n", 1),
			cause: "signed is compact"},
		{name: "JSON Lines escaped", signed: jsonLines, body: strings.ReplaceAll(jsonLines, "<", `\u003c`), cause: "escapes nothing"},
		{name: "body and secret changed", body: spaced, secrets: []string{fixtureSecret + "\n"},
			cause: "parsed and encoded again", fix: "trim it"},
		{name: "body, secret and header changed", body: fixtureBody + "\n", secrets: []string{`"` + fixtureSecret + `"`},
			header: func(s string) string { return "sha256=" + s }, cause: "newline was added", fix: "store it without them"},
		{name: "key order changed", signed: `{"a":1,"b":2}`, body: `{"b":2,"a":1}`, cause: "no change", fix: "parsed and encoded again"},
		{name: "too large to be encoded again", signed: "[1]", body: "[" + strings.Repeat(" ", bodyLimit) + "1]",
			cause: "no change"},
		{name: "newline on a large body", signed: "[" + strings.Repeat(" ", bodyLimit) + "1]",
			body: "[" + strings.Repeat(" ", bodyLimit) + "1]\n", cause: "newline was added"},
	}
}

func secretDiagnoses() []diagnosisCase {
	upper := strings.ToUpper(fixtureSecret)
	bytesSpelled := func(s string) string {
		b, err := decodeHex(s)
		if err != nil {
			panic(err)
		}
		return b
	}
	many := []string{}
	for i := range 60 {
		many = append(many, fmt.Sprintf("%032x", i))
	}
	return []diagnosisCase{
		{name: "secret with newline", secrets: []string{fixtureSecret + "\n"}, cause: "the secret has white space around it", fix: "trim"},
		{name: "secret with spaces and tab", secrets: []string{" \t" + fixtureSecret + " "}, cause: "the secret has white space around it"},
		{name: "secret with BOM", secrets: []string{"\ufeff" + fixtureSecret}, cause: "the secret has white space around it"},
		{name: "secret in double quotes", secrets: []string{`"` + fixtureSecret + `"`}, cause: "the secret has quotes around it"},
		{name: "secret in single quotes", secrets: []string{"'" + fixtureSecret + "'"}, cause: "the secret has quotes around it"},
		{name: "secret in typographic quotes", secrets: []string{"“" + fixtureSecret + "”\n"}, cause: "the secret has quotes around it"},
		{name: "secret in upper case", secrets: []string{upper}, cause: "the secret was put into upper case", fix: "copy it again"},
		{name: "secret in lower case", key: upper, secrets: []string{fixtureSecret}, cause: "the secret was put into lower case"},
		{name: "secret in upper case with newline", secrets: []string{upper + "\n"}, cause: "white space around it, and the secret was put into upper case"},
		{name: "hex-decoded secret", key: bytesSpelled(fixtureSecret), secrets: []string{fixtureSecret},
			cause: "hexadecimal digits of the secret spell", fix: "sign with the secret as text"},
		{name: "second secret with newline", secrets: []string{otherSecret, fixtureSecret + "\n"}, cause: "secret 2 of 2 has white space"},
		{name: "third secret with quotes", secrets: []string{otherSecret, otherSecret, "'" + fixtureSecret + "'"}, cause: "secret 3 of 3 has quotes"},
		{name: "right secret beside a spaced one", body: fixtureBody + "\n", secrets: []string{fixtureSecret + " ", fixtureSecret},
			cause: "newline was added", not: "secret 1"},
		{name: "right secret beside a spaced one, header changed", secrets: []string{fixtureSecret + " ", fixtureSecret},
			header: func(s string) string { return "sha256=" + s }, cause: "begins with sha256=", not: "secret 1"},
		{name: "secret of another shape", secrets: []string{"an-api-token-from-elsewhere"}, cause: "the secret is not 32 hexadecimal digits", fix: "API token"},
		{name: "secret cut off", secrets: []string{otherSecret, fixtureSecret[:31]}, cause: "secret 2 of 2 is not 32 hexadecimal digits"},
		{name: "another webhook's secret", secrets: []string{otherSecret}, cause: "no change", fix: "saved before its test was run"},
		{name: "another webhook's secret: reset", secrets: []string{otherSecret}, cause: "no change", fix: "reset"},
		{name: "too many secrets to try all", secrets: many, cause: "changes that were tried", fix: "very webhook"},
		{name: "no secret", secrets: []string{}, want: mailtrapwebhook.ErrNoSecret, cause: "no secret was given", fix: "environment"},
		{name: "empty secret", secrets: []string{""}, want: mailtrapwebhook.ErrNoSecret, cause: "the secret is empty", fix: "environment"},
		{name: "empty secret beside the right one", secrets: []string{fixtureSecret, ""}, want: mailtrapwebhook.ErrNoSecret, cause: "secret 2 of 2 is empty"},
	}
}

func headerDiagnoses() []diagnosisCase {
	is := func(s string) func(string) string { return func(string) string { return s } }
	in := func(e *base64.Encoding) func(string) string {
		return func(s string) string { b, _ := decodeHex(s); return e.EncodeToString([]byte(b)) }
	}
	cases := []diagnosisCase{
		{name: "no header", header: is(""), want: mailtrapwebhook.ErrMissingSignature, cause: "signature is missing", fix: "proxy"},
		{name: "white space", header: func(s string) string { return " " + s + "\r\n" }, cause: "signature has white space"},
		{name: "quotes", header: func(s string) string { return `"` + s + `"` }, cause: "signature has quotes"},
		{name: "sha256=", header: func(s string) string { return "sha256=" + s }, cause: "begins with sha256=", fix: "64 hexadecimal digits"},
		{name: "SHA256= and white space", header: func(s string) string { return " SHA256=" + s }, cause: "white space around it, and the signature begins with sha256="},
		{name: "sha256= and base64", header: func(s string) string { return "sha256=" + in(base64.StdEncoding)(s) },
			cause: "begins with sha256=, which Mailtrap's does not, and the signature is in base64"},
		{name: "base64", header: in(base64.StdEncoding), cause: "in base64 where"},
		{name: "base64 without padding", header: in(base64.RawStdEncoding), cause: "in base64 where"},
		{name: "base64 for URLs", header: in(base64.URLEncoding), cause: "in base64 where"},
		{name: "base64 for URLs without padding", header: in(base64.RawURLEncoding), cause: "in base64 where"},
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
		{name: "another digest", header: is(strings.Repeat("ab", 32)), cause: "no change"},
	}
	for i := range cases {
		cases[i].secrets = []string{fixtureSecret}
	}
	return cases
}

func decodeHex(s string) (string, error) {
	var b []byte
	_, err := fmt.Sscanf(s, "%x", &b)
	return string(b), err
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// fold breaks text into lines as MIME does.
func fold(s string) string {
	var b strings.Builder
	for ; len(s) > 76; s = s[76:] {
		b.WriteString(s[:76] + "\r\n")
	}
	return b.String() + s + "\r\n"
}

// arguments fills in what the case leaves out.
func (c diagnosisCase) arguments() (body []byte, signature string, secrets []string, want error) {
	signed, key := c.signed, c.key
	if signed == "" {
		signed = fixtureBody
	}
	if key == "" {
		key = fixtureSecret
	}
	if c.body == "" {
		c.body = signed
	}
	if c.secrets == nil {
		c.secrets = []string{fixtureSecret}
	}
	if signature = directSignature([]byte(signed), key); c.header != nil {
		signature = c.header(signature)
	}
	if c.want == nil {
		c.want = mailtrapwebhook.ErrInvalidSignature
	}
	return []byte(c.body), signature, c.secrets, c.want
}

func TestDiagnoseNamesCauseAndFix(t *testing.T) {
	for _, tt := range diagnosisCases() {
		t.Run(tt.name, func(t *testing.T) {
			body, signature, secrets, want := tt.arguments()
			before := bytes.Clone(body)
			err := mailtrapwebhook.Diagnose(body, signature, secrets...)
			require.ErrorIs(t, err, want)
			require.ErrorIs(t, err, mailtrapwebhook.Verify(body, signature, secrets...), "the same sentinel as Verify")
			require.True(t, bytes.Equal(before, body), "the body is left as it was")

			text := err.Error()
			cause, fix, found := strings.Cut(strings.TrimPrefix(text, "mailtrapwebhook: "), ": ")
			require.True(t, found, text)
			require.Contains(t, cause, tt.cause)
			require.Contains(t, fix, tt.fix)
			if tt.not != "" {
				require.NotContains(t, text, tt.not)
			}
			require.True(t, strings.HasPrefix(text, "mailtrapwebhook: "), text)
			require.Equal(t, 1, strings.Count(text, "mailtrapwebhook"), text)
			require.NotContains(t, text, "\n")
			require.NotContains(t, text, ". ", "one sentence")
			requireNoLeak(t, err, privateParts(body, signature, secrets)...)
		})
	}
}

func TestDiagnoseEmptyBody(t *testing.T) {
	for name, body := range map[string][]byte{"nil": nil, "empty": {}} {
		t.Run(name, func(t *testing.T) {
			err := mailtrapwebhook.Diagnose(body, fixtureSignature, fixtureSecret)
			require.ErrorIs(t, err, mailtrapwebhook.ErrEmptyBody)
			require.ErrorContains(t, err, "mailtrapwebhook: the body is empty: something such as a body parser")
			requireNoLeak(t, err, fixtureSignature, fixtureSecret)
		})
	}
}

func TestDiagnoseIsNilWhenVerified(t *testing.T) {
	require.NoError(t, mailtrapwebhook.Diagnose([]byte(fixtureBody), fixtureSignature, fixtureSecret))
	require.NoError(t, mailtrapwebhook.Diagnose([]byte(fixtureBody), strings.ToUpper(fixtureSignature), otherSecret, fixtureSecret))
}

// A hundred kilobytes of deeply nested arrays would, indented, be a gigabyte.
func TestDiagnoseBoundsItsMemory(t *testing.T) {
	nested := strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000)
	body := []byte("[" + strings.Repeat(nested+",", 6) + "1]")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := mailtrapwebhook.Diagnose(body, fixtureSignature, fixtureSecret)
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, mailtrapwebhook.ErrInvalidSignature)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(256<<20))
}

// privateParts are the texts that no error may hold: the secrets, the signatures given and expected, and the body's
// values that are long enough not to be found by chance.
func privateParts(body []byte, signature string, secrets []string) []string {
	parts := []string{string(body)}
	for _, p := range strings.FieldsFunc(string(body), func(r rune) bool { return strings.ContainsRune("\",:{}[] \n", r) }) {
		if len(p) >= 12 {
			parts = append(parts, p)
		}
	}
	if len(signature) >= 12 {
		parts = append(parts, signature, strings.TrimSpace(signature))
	}
	for _, secret := range secrets {
		h := hmac.New(sha256.New, []byte(secret))
		h.Write(body)
		parts = append(parts, secret, strings.Trim(secret, " \"'\t\n"), directSignature(body, secret),
			base64.StdEncoding.EncodeToString(h.Sum(nil)))
	}
	return parts
}

func FuzzDiagnose(f *testing.F) {
	var vocabulary strings.Builder // the fixed words, in which a fuzzed secret may happen to be
	for _, tt := range diagnosisCases() {
		body, signature, secrets, _ := tt.arguments()
		if err := mailtrapwebhook.Diagnose(body, signature, secrets...); err != nil {
			vocabulary.WriteString(err.Error() + "\n")
		}
		if len(body) < 1<<10 && len(secrets) > 0 {
			f.Add(body, signature, secrets[0], secrets[len(secrets)-1])
		}
	}
	f.Add([]byte(fixtureBody), fixtureSignature, fixtureSecret, fixtureSecret)
	f.Add([]byte(`{"a":"\`), fixtureSignature, otherSecret, fixtureSecret)
	f.Add([]byte(`{"a":"\ud83d"}`), fixtureSignature, otherSecret, "'")
	f.Fuzz(func(t *testing.T, body []byte, signature, first, second string) {
		verified := mailtrapwebhook.Verify(body, signature, first, second)
		err := mailtrapwebhook.Diagnose(body, signature, first, second)
		require.Equal(t, verified == nil, err == nil)
		if err == nil {
			return
		}
		require.ErrorIs(t, err, verified)
		require.True(t, utf8.ValidString(err.Error()))
		for _, private := range []string{first, second, signature, string(body)} {
			if len(private) >= 8 && !strings.Contains(vocabulary.String(), private) {
				require.NotContains(t, err.Error(), private)
			}
		}
	})
}
