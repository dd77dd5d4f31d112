package diagnose_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/diagnose"
)

const (
	header      = "Mailtrap-Signature"
	secret      = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"
	otherSecret = "00112233445566778899aabbccddeeff"

	compactBody = `{"event":"delivery","email":"recipient@example.com","subject":"Grüße € “a”","code":250}`
	linesBody   = `{"event":"open","url":"https://example.com/<1>"}` + "\n" + `{"event":"click","a":[1,2]}` + "\n"
	spacedLines = `{"event": "open", "url": "https://example.com/<1>"}` + "\n" + `{"event": "click", "a": [1, 2]}`

	// These say one thing in the ways in which encoders write it.
	plainJSON  = `{"event":"click","reason":"<a> & \"é\" 😀\n\u0001","url":"https://example.com/a","n":[],"o":{},"l":[1,2]}`
	htmlJSON   = `{"event":"click","reason":"\u003ca\u003e \u0026 \"é\" 😀\n\u0001","url":"https://example.com/a","n":[],"o":{},"l":[1,2]}`
	pythonJSON = `{"event":"click","reason":"<a> & \"\u00e9\" \ud83d\ude00\n\u0001","url":"https://example.com/a","n":[],"o":{},"l":[1,2]}`
	phpJSON    = `{"event":"click","reason":"<a> & \"\u00e9\" \ud83d\ude00\n\u0001","url":"https:\/\/example.com\/a","n":[],"o":{},"l":[1,2]}`
	indented   = "{\n  \"event\": \"click\",\n  \"reason\": \"<a> & \\\"é\\\" 😀\\n\\u0001\",\n" +
		"  \"url\": \"https://example.com/a\",\n  \"n\": [],\n  \"o\": {},\n  \"l\": [\n    1,\n    2\n  ]\n}"
)

func sign(body, key string) string {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(body))
	return hex.EncodeToString(h.Sum(nil))
}

// A mismatch is one call of Mismatch and words that its answer has.
type mismatch struct {
	name       string
	signed     string // what was signed; empty: compactBody
	body       string // what arrived; empty: what was signed
	key        string // what it was signed with; empty: secret
	secrets    []string
	header     func(signature string) string
	cause, fix string
	not        string // words that the answer must not have
}

func (m mismatch) arguments() (body []byte, signature string, secrets []string) {
	signed, key := m.signed, m.key
	if signed == "" {
		signed = compactBody
	}
	if key == "" {
		key = secret
	}
	if m.body == "" {
		m.body = signed
	}
	if m.secrets == nil {
		m.secrets = []string{secret}
	}
	if signature = sign(signed, key); m.header != nil {
		signature = m.header(signature)
	}
	return []byte(m.body), signature, m.secrets
}

var allMismatches = func() (all []mismatch) {
	for _, group := range [][]mismatch{changedBodies, changedEncodings, changedJSON, secretMismatches(), headerMismatches(), unproven} {
		all = append(all, group...)
	}
	return all
}()

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

var changedBodies = []mismatch{
	{name: "newline added", body: compactBody + "\n", cause: "newline was added", fix: "raw bytes"},
	{name: "CRLF added", body: compactBody + "\r\n", cause: "newline was added"},
	{name: "newline added to a newline", signed: linesBody, body: linesBody + "\n", cause: "newline was added"},
	{name: "white space around", body: " \n" + compactBody + "\n ", cause: "white space was added around the body"},
	{name: "newline trimmed", signed: compactBody + "\n", body: compactBody, cause: "newline at the end of the body was trimmed",
		fix: "--data-binary"},
	{name: "LF to CRLF", signed: linesBody, body: crlf(linesBody), cause: "from LF to CRLF"},
	{name: "BOM and CRLF added, as by PowerShell", body: "\ufeff" + compactBody + "\r\n", cause: "white space around the body"},
	{name: "LF to CRLF and trimmed", signed: linesBody, body: strings.TrimSpace(crlf(linesBody)), cause: "line ends"},
	{name: "blank lines added", signed: linesBody, body: strings.ReplaceAll(linesBody, "\n", "\n\n"), cause: "blank lines"},
	{name: "CRLF to LF", signed: crlf(linesBody), body: linesBody, cause: "from CRLF to LF"},
	{name: "BOM added", body: "\ufeff" + compactBody, cause: "byte-order mark was added"},
	{name: "BOM removed", signed: "\ufeff" + compactBody, body: compactBody, cause: "byte-order mark at the front of the body was removed"},
	{name: "JSON Lines joined", signed: linesBody, body: strings.ReplaceAll(linesBody, "\n", ""),
		cause: "line breaks of the body were removed", fix: "--data-binary", not: "encoded again"},
	{name: "JSON Lines joined, without a final newline", signed: strings.TrimSpace(linesBody),
		body: strings.ReplaceAll(linesBody, "\n", ""), cause: "line breaks of the body were removed"},
	{name: "JSON Lines joined by blanks", signed: linesBody, body: strings.ReplaceAll(linesBody, "\n", " "),
		cause: "line breaks of the body were removed"},
	{name: "JSON Lines joined, with brackets and quotes in strings", signed: `{"a":"}{\"}{"}` + "\n" + `{"b":"\\"}`,
		body: `{"a":"}{\"}{"}{"b":"\\"}`, cause: "line breaks of the body were removed"},
	{name: "indented JSON on one line", signed: indented, body: strings.ReplaceAll(indented, "\n", ""),
		cause: "line breaks of the body were removed", fix: "--data-binary", not: "encoded again"},
	{name: "newline on a body too large to copy", signed: large + "1]", body: large + "1]\n", cause: "newline was added"},
	{name: "too large to encode again", signed: "[1]", body: large + "1]", cause: "changes that were tried"},
}

// large is the beginning of an array of over 8 MiB.
var large = "[" + strings.Repeat(" ", 8<<20)

var changedEncodings = []mismatch{
	{name: "base64", body: base64.StdEncoding.EncodeToString([]byte(compactBody)), cause: "still base64", fix: "decode"},
	{name: "base64 without padding", body: base64.RawStdEncoding.EncodeToString([]byte(compactBody)), cause: "still base64"},
	{name: "base64 in lines", body: fold(base64.StdEncoding.EncodeToString([]byte(compactBody))), cause: "still base64"},
	{name: "base64 for URLs", signed: plainJSON + "\xff\xfe?>", body: base64.RawURLEncoding.EncodeToString([]byte(plainJSON + "\xff\xfe?>")),
		cause: "still base64"},
	{name: "base64 for URLs, padded", signed: plainJSON + "\xff\xfe?>",
		body: base64.URLEncoding.EncodeToString([]byte(plainJSON + "\xff\xfe?>")), cause: "still base64"},
	{name: "JSON string", body: quoted(compactBody), cause: "made into a JSON string", fix: "text inside the string"},
	{name: "gzip", body: gzipped(compactBody), cause: "compressed with gzip", fix: "decompress"},
	{name: "zlib", body: zlibbed(compactBody), cause: "compressed with gzip or deflate"},
	{name: "deflate", body: deflated(compactBody), cause: "compressed with gzip or deflate"},
	{name: "UTF-16, little-endian", body: utf16Of(compactBody, binary.LittleEndian), cause: "from UTF-8 to UTF-16", fix: "raw bytes"},
	{name: "UTF-16, big-endian", body: utf16Of(compactBody, binary.BigEndian), cause: "from UTF-8 to UTF-16"},
	{name: "UTF-16 with BOM, little-endian", body: utf16Of("\ufeff"+compactBody, binary.LittleEndian), cause: "from UTF-8 to UTF-16"},
	{name: "UTF-16 with BOM, big-endian", body: utf16Of("\ufeff"+compactBody, binary.BigEndian), cause: "from UTF-8 to UTF-16"},
	{name: "UTF-16 of PowerShell", body: utf16Of("\ufeff"+compactBody+"\r\n", binary.LittleEndian), cause: "from UTF-8 to UTF-16"},
	{name: "UTF-8 read as Latin-1", body: readAsLatin1(compactBody), cause: "read as Latin-1 or Windows-1252", fix: "raw bytes"},
	{name: "UTF-8 read as Windows-1252", body: "{\"a\":\"GrÃ¼ÃŸe â‚¬\"}", signed: "{\"a\":\"Grüße €\"}", cause: "read as Latin-1 or Windows-1252"},
	{name: "form: a field's name", body: compactBody + "=", cause: "encoded as a form", fix: "Content-Type"},
	{name: "form: a field's name, escaped", body: url.QueryEscape(compactBody) + "=", cause: "encoded as a form"},
	{name: "form: escaped", body: url.QueryEscape(compactBody), cause: "encoded as a form"},
	{name: "form: a field's value", body: "payload=" + url.QueryEscape(compactBody), cause: "encoded as a form"},
	{name: "form: a field's value, not escaped", body: "payload=" + compactBody, cause: "encoded as a form"},
	{name: "form: = within", signed: `{"url":"https://example.com/?a=b"}`, body: "%7B%22url%22%3A%22https%3A%2F%2Fexample.com%2F%3Fa=b%22%7D",
		cause: "encoded as a form"},
}

var changedJSON = []mismatch{
	{name: "spaces put into JSON", body: strings.NewReplacer(`":`, `": `, `,"`, `, "`).Replace(compactBody),
		cause: "parsed and encoded again", fix: "JSON middleware"},
	{name: "JSON indented", signed: plainJSON, body: indented, cause: "signed is compact JSON)"},
	{name: "JSON compacted", signed: indented, body: plainJSON, cause: "signed is indented JSON"},
	{name: "JSON indented, newline and BOM", signed: plainJSON, body: "\ufeff" + indented + "\n", cause: "signed is compact"},
	{name: "HTML escaped", signed: plainJSON, body: htmlJSON, cause: "escapes only what it must"},
	{name: "HTML unescaped", signed: htmlJSON, body: plainJSON, cause: "escapes <, > and &, like that of Rails and Go"},
	{name: "line separators unescaped", signed: `{"a":"\u2028\u2029"}`, body: "{\"a\":\"\u2028\u2029\"}", cause: "escapes <, > and &"},
	{name: "non-ASCII escaped", signed: plainJSON, body: pythonJSON, cause: "escapes only what it must"},
	{name: "non-ASCII unescaped", signed: pythonJSON, body: plainJSON, cause: "escapes all but ASCII, like that of Python"},
	{name: "PHP's escapes", signed: plainJSON, body: phpJSON, cause: "escapes only what it must"},
	{name: "PHP's escapes removed", signed: phpJSON, body: indented, cause: "escapes slashes and all but ASCII, like that of PHP"},
	{name: "short escapes respelled", signed: `{"a":"\b\f\r\t\\/é"}`, body: `{"a":"\u0008\u000C\u000d\u0009\u005c\/\u00E9"}`,
		cause: "escapes only what it must"},
	{name: "lone surrogate and broken UTF-8 kept", signed: "{\"a\":\"\\ud83d\xff\\udc00x é\"}",
		body: "{\"a\":\"\\ud83d\xff\\udc00x \\u00e9\"}", cause: "escapes only what it must"},
	{name: "two lone surrogates kept", signed: `{"a":"\udc00\ud83dé"}`, body: `{"a":"\udc00\ud83d\u00e9"}`, cause: "escapes only what it must"},
	{name: "JSON Lines spaced, newline lost", signed: linesBody, body: spacedLines, cause: "signed is compact"},
	{name: "JSON Lines spaced", signed: strings.TrimSpace(linesBody), body: spacedLines + "\n", cause: "signed is compact"},
	{name: "JSON Lines with a blank line", signed: linesBody, body: strings.Replace(linesBody, "\n", "\n\n", 1), cause: "blank lines"},
	{name: "JSON Lines escaped", signed: linesBody, body: strings.ReplaceAll(linesBody, "<", `\u003c`), cause: "escapes only what it must"},
	{name: "body and secret changed", body: strings.ReplaceAll(compactBody, `":`, `": `), secrets: []string{"'" + secret + "'"},
		cause: "parsed and encoded again", fix: "store the secret without quotes"},
	{name: "the last form, with eight secrets", signed: "[\n  1\n]\n", body: "[1]",
		secrets: []string{"1", "2", "3", "4", "5", "6", "7", secret}, cause: "signed is indented JSON"},
	{name: "body, secret and header changed", body: compactBody + "\n", secrets: []string{`"` + secret + `"`},
		header: func(s string) string { return "sha256=" + s }, cause: "newline was added", fix: "store the secret without quotes"},
}

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

// unproven are bodies of which only signs of a change are left.
var unproven = []mismatch{
	{name: "question marks", body: strings.NewReplacer("ü", "?", "ß", "?", "€", "?", "“", "?", "”", "?").Replace(compactBody),
		cause: "has ? inside words", fix: "raw bytes"},
	{name: "two question marks for a letter", body: `{"event":"open","subject":"Gr??e"}`, cause: "has ? inside words"},
	{name: "question marks of a question", body: `{"event":"open","subject":"Why? Who?","a":"?"}`, cause: "no known change"},
	{name: "question marks of URLs", body: `{"url":"https://example.com/a?b=c","b":"x?y=z","c":"/d?e"}`, cause: "no known change"},
	{name: "question marks beside letters", body: `{"event":"open","subject":"a?b é"}`, cause: "no known change"},
	{name: "U+FFFD", body: strings.ReplaceAll(compactBody, "ü", "\ufffd\ufffd"), cause: "has U+FFFD", fix: "raw bytes"},
	{name: "U+FFFD escaped", body: strings.ReplaceAll(compactBody, "ü", `\ufffd`), cause: "has U+FFFD"},
	{name: "converted to Latin-1", body: "{\"a\":\"Gr\xfc\xdfe\"}", cause: "not UTF-8 text, so something compressed it or converted it", fix: "raw bytes"},
	{name: "binary", body: "\x28\xb5\x2f\xfd\x04\x00", cause: "not UTF-8"},
	{name: "indented by tabs, on one line", signed: "{\n\t\"b\": 1,\n\t\"a\": 2\n}", body: "{\t\"b\": 1,\t\"a\": 2}",
		cause: "indented but has no line breaks", fix: "--data-binary"},
	{name: "keys sorted", signed: `{"event":"open","email":"a","category":"b","timestamp":1,"ip":"c"}`,
		body:  `{"category":"b","email":"a","event":"open","ip":"c","timestamp":1}`,
		cause: "JSON are sorted, so perhaps a program", fix: "JSON middleware"},
	{name: "keys sorted in lines", body: `{"events":[{"a":1,"b":2,"c":[1],"d":{"y":1,"z":2},"e":5}]}` + "\n" + `{"a":1}`, cause: "JSON are sorted"},
	{name: "few keys sorted", body: `{"a":1,"b":2,"c":3}`, cause: "no known change"},
	{name: "one object not sorted", body: `{"a":1,"b":2,"c":3,"d":4,"e":{"b":1,"a":2}}`, cause: "no known change"},
	{name: "one line not sorted", body: `{"a":1,"b":2,"c":3,"d":4,"e":5}` + "\n" + `{"b":1,"a":2}`, cause: "no known change"},
	{name: "key order changed", signed: `{"a":1,"b":2}`, body: `{"b":2,"a":1}`, cause: "no known change", fix: "parsed and encoded again"},
	{name: "cut off", body: compactBody[:40], cause: "not JSON", fix: "all of the raw body"},
	{name: "a JavaScript object", body: "[object Object]", cause: "not JSON"},
	{name: "decompressed, or the secret is wrong", signed: gzipped(compactBody), body: compactBody, cause: "no known change", fix: "decompressed"},
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func unhex(s string) string { return string(must(hex.DecodeString(s))) }

func quoted(s string) string { return string(must(json.Marshal(s))) }

// fold breaks text into lines as MIME does.
func fold(s string) string {
	var b strings.Builder
	for ; len(s) > 76; s = s[76:] {
		b.WriteString(s[:76] + "\r\n")
	}
	return b.String() + s + "\r\n"
}

func compress(s string, open func(io.Writer) io.WriteCloser) string {
	var b strings.Builder
	w := open(&b)
	must(io.WriteString(w, s))
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

func gzipped(s string) string {
	return compress(s, func(w io.Writer) io.WriteCloser { return must(gzip.NewWriterLevel(w, gzip.BestSpeed)) })
}

func zlibbed(s string) string {
	return compress(s, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
}

func deflated(s string) string {
	return compress(s, func(w io.Writer) io.WriteCloser { return must(flate.NewWriter(w, flate.BestCompression)) })
}

func utf16Of(s string, order binary.AppendByteOrder) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		b = order.AppendUint16(b, unit)
	}
	return string(b)
}

func readAsLatin1(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteRune(rune(c))
	}
	return b.String()
}

func TestMismatchNamesCauseAndFix(t *testing.T) {
	for _, test := range allMismatches {
		t.Run(test.name, func(t *testing.T) {
			body, signature, secrets := test.arguments()
			before := bytes.Clone(body)
			text := diagnose.Mismatch(header, body, signature, secrets)
			require.True(t, bytes.Equal(before, body), "the body is left as it was")

			cause, fix, found := strings.Cut(text, ": ")
			require.True(t, found, text)
			require.Contains(t, cause, test.cause)
			require.Contains(t, fix, test.fix)
			if test.not != "" {
				require.NotContains(t, text, test.not)
			}
			require.NotContains(t, text, "\n")
			require.NotContains(t, text, ". ", "one sentence")
			require.LessOrEqual(t, strings.Count(fix, "64 hexadecimal digits"), 1, "a fix is there once")
			for _, private := range privateParts(body, signature, secrets) {
				require.NotContains(t, text, private)
			}
		})
	}
}

// privateParts returns the secrets, the signatures given and expected, and those
// words of the body that are too long to be found by chance.
func privateParts(body []byte, signature string, secrets []string) []string {
	parts := []string{string(body)}
	for _, p := range strings.FieldsFunc(string(body), func(r rune) bool { return strings.ContainsRune("\",:{}[] \n", r) }) {
		if len(p) >= 12 {
			parts = append(parts, p)
		}
	}
	if signature = strings.TrimSpace(signature); len(signature) >= 20 {
		parts = append(parts, signature)
	}
	for _, secret := range secrets {
		right := sign(string(body), strings.TrimSpace(secret))
		parts = append(parts, secret, strings.Trim(secret, " \"'\t\n"), right, base64.StdEncoding.EncodeToString([]byte(unhex(right))))
	}
	return parts
}

// hostile returns bodies of a size that are meant to take time or memory.
func hostile(size int) map[string]string {
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	ramp := make([]byte, size)
	for i := range ramp {
		ramp[i] = byte(i * 167 >> 3)
	}
	return map[string]string{
		"zeros":                fill("\x00"),
		"0xff":                 fill("\xff"),
		"all bytes":            string(ramp),
		"open arrays":          fill("["),
		"open objects":         fill(`{"a":`),
		"deep arrays":          "[" + fill(strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+",") + "1]",
		"arrays at the limit":  "[" + fill(strings.Repeat("[", 7)+"1,1,1,1,1,1,1,1,1,1"+strings.Repeat("]", 7)+",") + "1]",
		"numbers":              "[" + fill("1,") + "1]",
		"numbers at depth":     strings.Repeat("[", 8) + fill("1,") + "1" + strings.Repeat("]", 8),
		"lines":                fill("1\n"),
		"objects in lines":     fill("{}\n"),
		"objects without ends": fill("{}"),
		"strings":              "[" + fill(`"a",`) + "1]",
		"escapes":              `["` + fill(`\u0041`) + `"]`,
		"pairs of surrogates":  `["` + fill(`\ud83d\ude00`) + `"]`,
		"lone surrogates":      `["` + fill(`\ud83d`) + `"]`,
		"backslashes":          `["` + fill(`\\`) + `"]`,
		"less than":            `["` + fill(`<`) + `"]`,
		"letters":              `["` + fill(`é`) + `"]`,
		"emoji":                `["` + fill(`😀`) + `"]`,
		"slashes":              `["` + fill(`/`) + `"]`,
		"quotes":               fill(`"`),
		"a JSON string":        `"` + fill(`\u003c`) + `"`,
		"questions":            fill("? "),
		"words with questions": fill("?a?"),
		"percent signs":        fill("%"),
		"percent-encoded":      fill("%7B"),
		"equals signs":         fill("="),
		"blanks":               fill(" "),
		"newlines":             fill("\n"),
		"CRLF":                 fill("\r\n"),
		"base64":               fill("QUJD"),
		"UTF-16":               fill("{\x00"),
		"a bomb of gzip":       gzipped(strings.Repeat("\x00", 64<<20)),
		"a bomb of 8 MiB":      gzipped(strings.Repeat("[1]\n", 2<<20-1)),
		"gzip, cut off":        gzipped(string(ramp))[:200],
		"many files of gzip":   fill(gzipped("a")),
		"random of gzip":       "\x1f\x8b\x08\x00" + string(ramp),
		"random of zlib":       "\x78\x9c" + string(ramp),
		"sorted keys":          "{" + fill(`"a":{"a":1,"b":2,"c":3,"d":4,"e":5},`) + `"z":1}`,
		"equal keys":           "{" + fill(`"a":1,`) + `"z":1}`,
		"indented on one line": "{  " + fill(`"a": [1],  `) + `"a": 1}`,
	}
}

// The Handler calls Mismatch for what strangers send, so nothing may make it slow.
func TestMismatchBoundsItsWork(t *testing.T) {
	size, most := 1<<18, 10*time.Second // of which a busy machine may need some
	if os.Getenv("MAILTRAPWEBHOOK_FULL") != "" {
		size = 8 << 20
	}
	secrets := []string{secret, otherSecret, strings.ToUpper(otherSecret)}
	for name, body := range hostile(size) {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			text := diagnose.Mismatch(header, []byte(body), sign("x", "x"), secrets)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			require.NotEmpty(t, text)
			t.Logf("%8v %5d MiB  %s", took.Round(time.Millisecond), (after.TotalAlloc-before.TotalAlloc)>>20, text)
			require.Less(t, took, most)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(96<<20+64*size))
		})
	}
}

// Hashing 8 MiB for each of 96 tries would take a second without SHA instructions.
func TestMismatchTriesLessForLargeBodies(t *testing.T) {
	body := []byte("[" + strings.Repeat(" ", 8<<20-10) + "1]")
	text := diagnose.Mismatch(header, body, sign("x", "x"), []string{secret, otherSecret, strings.Repeat("a", 32), strings.Repeat("b", 32)})
	require.Contains(t, text, "the changes that were tried do not explain")
}

func TestMismatchDoesNotCopyBodiesOver8MiB(t *testing.T) {
	body := []byte(large + "1]")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	diagnose.Mismatch(header, body, sign("x", "x"), []string{secret})
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func FuzzMismatch(f *testing.F) {
	var vocabulary strings.Builder // the fixed words, which a fuzzed secret may happen to be
	for _, test := range allMismatches {
		body, signature, secrets := test.arguments()
		if len(body) < 1<<10 {
			vocabulary.WriteString(diagnose.Mismatch(header, body, signature, secrets) + "\n")
			f.Add(body, signature, secrets[0], secrets[len(secrets)-1])
		}
	}
	f.Add([]byte(`{"a":"\`), strings.Repeat("ab", 32), otherSecret, secret)
	f.Add([]byte(`{"a":"\ud83d"}`), strings.Repeat("ab", 32), otherSecret, "'")
	f.Fuzz(func(t *testing.T, body []byte, signature, first, second string) {
		before := bytes.Clone(body)
		text := diagnose.Mismatch(header, body, signature, []string{first, second})
		require.Equal(t, before, body)
		require.True(t, utf8.ValidString(text))
		for _, private := range []string{first, second, signature, string(body)} {
			if len(private) >= 8 && !strings.Contains(vocabulary.String(), private) {
				require.NotContains(t, text, private)
			}
		}
		// What is signed under the first secret and then changed must be explained.
		if len(bytes.TrimSpace(body)) == 0 || strings.TrimSpace(first) == "" || bytes.HasSuffix(body, []byte("\r")) {
			return // the newline would make it CRLF
		}
		right := sign(string(body), strings.TrimSpace(first))
		text = diagnose.Mismatch(header, append(before, '\n'), header+": "+right, []string{first, second})
		require.Contains(t, text, "header line", "%q %q", body, first)
		require.Regexp(t, "newline was added|white space was added", text)
	})
}
