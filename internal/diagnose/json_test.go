package diagnose_test

import "strings"

const (
	spacedLines = `{"event": "open", "url": "https://example.com/<1>"}` + "\n" + `{"event": "click", "a": [1, 2]}`

	// These say one thing in the ways in which encoders write it.
	plainJSON  = `{"event":"click","reason":"<a> & \"é\" 😀\n\u0001","url":"https://example.com/a","n":[],"o":{},"l":[1,2]}`
	htmlJSON   = `{"event":"click","reason":"\u003ca\u003e \u0026 \"é\" 😀\n\u0001","url":"https://example.com/a","n":[],"o":{},"l":[1,2]}`
	pythonJSON = `{"event":"click","reason":"<a> & \"\u00e9\" \ud83d\ude00\n\u0001","url":"https://example.com/a","n":[],"o":{},"l":[1,2]}`
	phpJSON    = `{"event":"click","reason":"<a> & \"\u00e9\" \ud83d\ude00\n\u0001","url":"https:\/\/example.com\/a","n":[],"o":{},"l":[1,2]}`
	indented   = "{\n  \"event\": \"click\",\n  \"reason\": \"<a> & \\\"é\\\" 😀\\n\\u0001\",\n" +
		"  \"url\": \"https://example.com/a\",\n  \"n\": [],\n  \"o\": {},\n  \"l\": [\n    1,\n    2\n  ]\n}"
)

// changedJSON are cases of TestMismatchNamesCauseAndFix.
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
