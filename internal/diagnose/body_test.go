package diagnose_test

import (
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/diagnose"
)

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// changedBodies are cases of TestMismatchNamesCauseAndFix.
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

// changedEncodings are cases of TestMismatchNamesCauseAndFix.
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

func TestMismatchDoesNotCopyBodiesOver8MiB(t *testing.T) {
	body := []byte(large + "1]")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	diagnose.Mismatch(header, body, sign("x", "x"), []string{secret})
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}
