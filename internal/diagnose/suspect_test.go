package diagnose_test

import "strings"

// unproven are cases of TestMismatchNamesCauseAndFix: bodies of which only signs
// of a change are left.
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
	// What comes late costs more to find than it is worth.
	{name: "keys sorted at first", body: "[" + strings.Repeat(`{"a":1,"b":2,"c":3,"d":4},`, 4096) + `{"b":1,"a":2}]`, cause: "JSON are sorted"},
	{name: "one object not sorted", body: `{"a":1,"b":2,"c":3,"d":4,"e":{"b":1,"a":2}}`, cause: "no known change"},
	{name: "one line not sorted", body: `{"a":1,"b":2,"c":3,"d":4,"e":5}` + "\n" + `{"b":1,"a":2}`, cause: "no known change"},
	{name: "key order changed", signed: `{"a":1,"b":2}`, body: `{"b":2,"a":1}`, cause: "no known change", fix: "parsed and encoded again"},
	{name: "cut off", body: compactBody[:40], cause: "not JSON", fix: "all of the raw body"},
	{name: "a JavaScript object", body: "[object Object]", cause: "not JSON"},
	{name: "decompressed, or the secret is wrong", signed: gzipped(compactBody), body: compactBody, cause: "no known change", fix: "decompressed"},
}
