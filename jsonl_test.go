package mailtrapwebhook_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// whole means that nothing is wrong with a body; other faults are offsets.
const whole = -1

// bodies are what a delivery may look like, with what the package makes of it.
var bodies = []struct {
	name   string
	body   string
	format mw.Format
	events []wanted
	fault  int // offset
}{
	// The JSON format.
	{"envelope", `{"events":[` + opened + `,` + clicked + `]}`, mw.FormatJSON, good(opened, clicked), whole},
	{"envelope, indented", "{\n  \"events\": [\n    " + indent + ",\n    " + clicked + "\n  ]\n}\n", mw.FormatJSON, good(indent, clicked), whole},
	{"envelope, white space around everything", " \r\n\t{ \"events\" : [ " + opened + " , " + clicked + " ] } \r\n\r\n ", mw.FormatJSON, good(opened, clicked), whole},
	{"envelope, empty", `{"events":[]}`, mw.FormatJSON, nil, whole},
	{"envelope, empty with white space", "{ \"events\" : [ \n ] }", mw.FormatJSON, nil, whole},
	{"envelope, members around events", `{"id":[1,{"events":[5]}],"v":"events","events":[` + opened + `],"more":{"events":[6]},"z":null}`, mw.FormatJSON, good(opened), whole},
	{"envelope, several events arrays", `{"events":[` + opened + `],"x":1,"events":[],"events":[` + clicked + `]}`, mw.FormatJSON, good(opened, clicked), whole},
	{"envelope, one events member no array", `{"events":null,"events":[` + opened + `],"events":{"a":[1]},"events":"x"}`, mw.FormatJSON, good(opened), whole},
	{"envelope, events with an escape", `{"\u0065vents":[` + opened + `]}`, mw.FormatJSON, good(opened), whole},
	{"envelope, events all escapes", `{"\u0065\u0076\u0065\u006E\u0074\u0073":[` + opened + `]}`, mw.FormatJSON, good(opened), whole},
	{"envelope, an event member beside events", `{"event":"open","events":[` + clicked + `]}`, mw.FormatJSON, good(clicked), whole},
	{"envelope, mixed kinds", `{"events":[` + opened + `,` + logged + `,` + inbound + `,` + novel + `]}`, mw.FormatJSON, good(opened, logged, inbound, novel), whole},
	{"bare array", `[` + opened + `,` + clicked + `]`, mw.FormatJSON, good(opened, clicked), whole},
	{"bare array, over lines", "\n[\n" + opened + "\n,\n" + indent + "\n]\n", mw.FormatJSON, good(opened, indent), whole},
	{"bare array, empty", `[]`, mw.FormatJSON, nil, whole},
	{"bare array, elements that are no objects", `[5,` + opened + `,"x",null,[` + clicked + `],true,` + clicked + `]`, mw.FormatJSON, inOrder(
		bad(`5`, 1, "object"), good(opened), bad(`"x"`, 4+len(opened), "object"), bad(`null`, 8+len(opened), "object"),
		bad(`[`+clicked+`]`, 13+len(opened), "object"), bad(`true`, 16+len(opened+clicked), "object"), good(clicked)), whole},
	{"bare array, an element that looks like an envelope", `[{"events":[` + opened + `]}]`, mw.FormatJSON,
		bad(`{"events":[`+opened+`]}`, 1, "event"), whole},
	{"bare array, one event unreadable", "[\n" + opened + ",\n{\"event\":\"open\",\"email\":5}]", mw.FormatJSON,
		inOrder(good(opened), bad(`{"event":"open","email":5}`, 2+len(opened)+2+24, "email")), whole},
	{"bare array, one without a name", "[\n" + opened + ",\n{\"event\":5}]", mw.FormatJSON,
		inOrder(good(opened), bad(`{"event":5}`, 2+len(opened)+2+9, "event")), whole},
	{"event alone, over lines", indent, mw.FormatJSON, good(indent), whole},
	{"event alone, its end on the next line", `{"event":"open"` + "\n}", mw.FormatJSON, good(`{"event":"open"` + "\n}"), whole},
	{"object alone, empty over lines", "{\n}", mw.FormatJSON, bad("{\n}", 0, "event"), whole},
	{"object alone, over lines, EVENTS", "{\n\"EVENTS\":[" + opened + "]}", mw.FormatJSON, bad("{\n\"EVENTS\":["+opened+"]}", 0, "event"), whole},

	// JSON Lines.
	{"line alone", opened, mw.FormatJSONLines, good(opened), whole},
	{"line alone, final newline", opened + "\n", mw.FormatJSONLines, good(opened), whole},
	{"line alone, after blank lines", "\n \r\n\t" + opened + " \t", mw.FormatJSONLines, good(opened), whole},
	{"line alone, empty object", `{}`, mw.FormatJSONLines, bad(`{}`, 0, "event"), whole},
	{"line alone, events in capitals", `{"Events":[` + opened + `]}`, mw.FormatJSONLines, bad(`{"Events":[`+opened+`]}`, 0, "event"), whole},
	{"line alone, events no array", `{"events":{"a":[` + opened + `]}}`, mw.FormatJSONLines, bad(`{"events":{"a":[`+opened+`]}}`, 0, "event"), whole},
	{"line alone, events further down", `{"x":{"events":[` + opened + `]}}`, mw.FormatJSONLines, bad(`{"x":{"events":[`+opened+`]}}`, 0, "event"), whole},
	{"lines", opened + "\n" + clicked + "\n", mw.FormatJSONLines, good(opened, clicked), whole},
	{"lines, no final newline", opened + "\n" + clicked, mw.FormatJSONLines, good(opened, clicked), whole},
	{"lines, CRLF", opened + "\r\n" + clicked + "\r\n", mw.FormatJSONLines, good(opened, clicked), whole},
	{"lines, CRLF, no final one", opened + "\r\n" + clicked, mw.FormatJSONLines, good(opened, clicked), whole},
	{"lines, blank ones", "\n\n" + opened + "\n\n \t\r\n" + clicked + "\n\r\n \n", mw.FormatJSONLines, good(opened, clicked), whole},
	{"lines, indented", "  " + opened + "\n\t" + clicked + "  \n", mw.FormatJSONLines, good(opened, clicked), whole},
	{"lines, mixed kinds", opened + "\n" + logged + "\n" + inbound + "\n" + novel, mw.FormatJSONLines, good(opened, logged, inbound, novel), whole},
	{"lines, one event unreadable", opened + "\n{\"event\":\"open\",\"email\":5}\n" + clicked, mw.FormatJSONLines,
		inOrder(good(opened), bad(`{"event":"open","email":5}`, len(opened)+1+24, "email"), good(clicked)), whole},
	{"lines, one an envelope", opened + "\n{\"events\":[" + clicked + "," + novel + "]}\n" + logged, mw.FormatJSONLines,
		inOrder(good(opened), bad(`{"events":[`+clicked+","+novel+`]}`, len(opened)+1, "event is missing"), good(logged)), whole},
	{"lines, broken: cut off", opened + "\n{\"event\":\"op\n" + clicked, mw.FormatJSONLines,
		inOrder(good(opened), bad(`{"event":"op`, len(opened)+1+12, "cut off"), good(clicked)), whole},
	{"lines, broken: the last cut off", opened + "\n{\"event\":", mw.FormatJSONLines,
		inOrder(good(opened), bad(`{"event":`, len(opened)+1+9, "cut off")), whole},
	{"lines, broken: an envelope cut off", opened + "\n{\"events\":[" + clicked + ",\n" + logged, mw.FormatJSONLines,
		inOrder(good(opened), bad(`{"events":[`+clicked+`,`, len(opened)+1+12+len(clicked), "cut off"), good(logged)), whole},
	{"lines, broken: words", opened + "\r\nInternal Server Error\r\n" + clicked, mw.FormatJSONLines,
		inOrder(good(opened), bad(`Internal Server Error`, len(opened)+2, ""), good(clicked)), whole},
	{"lines, broken: two objects on one", opened + "\n" + opened + clicked + "\n" + clicked, mw.FormatJSONLines,
		inOrder(good(opened), bad(opened+clicked, 2*len(opened)+1, ""), good(clicked)), whole},
	{"lines, broken: a comma at the end", opened + "\n" + opened + ",\n" + clicked, mw.FormatJSONLines,
		inOrder(good(opened), bad(opened+",", 2*len(opened)+1, ""), good(clicked)), whole},
	{"lines, broken: a comma at the end, behind blanks", opened + "\n" + opened + " \t,\n" + clicked, mw.FormatJSONLines,
		inOrder(good(opened), bad(opened+" \t,", 2*len(opened)+3, ""), good(clicked)), whole},
	{"lines, broken: a NUL byte at the end", opened + "\n" + clicked + "\x00\n" + opened, mw.FormatJSONLines,
		inOrder(good(opened), bad(clicked+"\x00", len(opened)+1+len(clicked), ""), good(opened)), whole},
	{"lines, no objects", opened + "\n5\nnull\n[" + clicked + "]\n\"x\"\n" + clicked, mw.FormatJSONLines, inOrder(good(opened),
		bad(`5`, len(opened)+1, "object"), bad(`null`, len(opened)+3, "object"), bad(`[`+clicked+`]`, len(opened)+8, "object"),
		bad(`"x"`, len(opened)+11+len(clicked), "object"), good(clicked)), whole},

	// A byte-order mark.
	{"byte-order mark, envelope", bom + `{"events":[` + opened + `]}`, mw.FormatJSON, good(opened), whole},
	{"byte-order mark, array", bom + "\n[" + opened + "]", mw.FormatJSON, good(opened), whole},
	{"byte-order mark, lines", bom + opened + "\n" + clicked, mw.FormatJSONLines, good(opened, clicked), whole},
	{"byte-order mark, event over lines", bom + indent, mw.FormatJSON, good(indent), whole},
	{"byte-order mark, the first line broken", bom + "{]\n" + opened, 0, nil, 4},
	{"byte-order mark, on a later line", opened + "\n" + bom + clicked, mw.FormatJSONLines,
		inOrder(good(opened), bad(bom+clicked, len(opened)+1, "")), whole},
	{"byte-order mark, nothing else", bom, 0, nil, 3},
	{"byte-order mark, twice", bom + bom + opened, 0, nil, 3},
	{"byte-order mark, cut off", bom[:2], 0, nil, 0},

	// Bodies that are broken.
	{"empty", "", 0, nil, 0},
	{"blank", " \t\r\n\n ", 0, nil, 6},
	{"a number", "5", 0, nil, 0},
	{"a string", `"` + "x" + `"`, 0, nil, 0},
	{"null", "\n\nnull\n", 0, nil, 2},
	{"words", "Bad Gateway\n", 0, nil, 0},
	{"a form", "payload=%7B%7D", 0, nil, 0},
	{"the first line broken: words", "garbage\n" + opened, 0, nil, 0},
	{"the first line broken: a scalar", "5\n" + opened, 0, nil, 0},
	{"the first line broken: cut off", "{\"event\":\"op\n" + opened + "\n" + clicked, 0, nil, 12},
	{"the first line broken: no colon", "{\"event\" \"open\"}\n\n" + opened, 0, nil, 9},
	{"the first line broken: two objects on it", opened + clicked + "\n" + clicked, 0, nil, len(opened)},
	{"the first line broken: a comma at the end", opened + ",\n" + clicked, 0, nil, len(opened)},
	{"the first line broken, and no object later", "{\"event\":}\n5\n[" + opened + "]\n{]\n", 0, nil, 9},
	{"array, no comma", `[` + opened + ` ` + clicked + `]`, mw.FormatJSON, good(opened), 2 + len(opened)},
	{"array, two commas", `[` + opened + `,,` + clicked + `]`, mw.FormatJSON, good(opened), 2 + len(opened)},
	{"array, a comma at the end", `[` + opened + ",\n]", mw.FormatJSON, good(opened), 3 + len(opened)},
	{"array, a comma at the beginning", `[,` + opened + `]`, mw.FormatJSON, nil, 1},
	{"array, a comma alone", `[,]`, mw.FormatJSON, nil, 1},
	{"array, closed by a brace", `[` + opened + `}`, mw.FormatJSON, good(opened), 1 + len(opened)},
	{"array, an event closed by a bracket", `[` + opened + `,{"event":"open"]]`, mw.FormatJSON, good(opened), 17 + len(opened)},
	{"array, a bad word", `[` + opened + `,nul]`, mw.FormatJSON, good(opened), 5 + len(opened)},
	{"array, cut off in or behind a number", `[` + opened + `,12`, mw.FormatJSON, good(opened), 4 + len(opened)},
	{"array, more behind it", `[` + opened + `] ]`, mw.FormatJSON, good(opened), 3 + len(opened)},
	{"array, lines behind it", `[` + opened + "]\n" + clicked, mw.FormatJSON, good(opened), 3 + len(opened)},
	{"array, cut off before a line that is an object", "[\n" + opened + ",\n" + clicked + "\n", mw.FormatJSON, good(opened, clicked), 5 + len(opened+clicked)},
	{"envelope, no colon", `{"events" [` + opened + `]}`, 0, nil, 10},
	{"envelope, no comma after the array", `{"events":[` + opened + `] "x":1}`, mw.FormatJSON, good(opened), 13 + len(opened)},
	{"envelope, a comma at the end", `{"events":[` + opened + `],}`, mw.FormatJSON, good(opened), 13 + len(opened)},
	{"envelope, closed by a bracket", `{"events":[` + opened + `]]`, mw.FormatJSON, good(opened), 12 + len(opened)},
	{"envelope, broken before lines that are objects", `{"events":[` + opened + ",{]\n" + clicked + "\n", mw.FormatJSON, good(opened), 13 + len(opened)},
	{"envelope, broken behind the array", `{"events":[` + opened + `],"x":tru}`, mw.FormatJSON, good(opened), 20 + len(opened)},
	{"envelope, more behind it", `{"events":[` + opened + `]} x`, mw.FormatJSON, good(opened), 14 + len(opened)},
	{"envelope, another on its line", `{"events":[` + opened + `]}` + clicked + "\n" + clicked, mw.FormatJSON, good(opened), 13 + len(opened)},
	{"envelope, a line behind it", `{"events":[` + opened + "]}\n" + clicked, mw.FormatJSON, good(opened), 14 + len(opened)},
	{"envelope, another behind it", `{"events":[` + opened + "]}\n{\"events\":[" + clicked + "]}", mw.FormatJSON, good(opened), 14 + len(opened)},
	{"envelope, a broken line behind it", `{"events":[` + opened + "]}\n{]\n", mw.FormatJSON, good(opened), 14 + len(opened)},
	{"envelope over lines, an object behind it", "{\"events\":[\n" + opened + "]}\n" + clicked, mw.FormatJSON, good(opened), 15 + len(opened)},
	{"event alone, more on its line", opened + " x", 0, nil, 1 + len(opened)},
	{"event alone, more on its line, then no object", " " + opened + "]\n[" + clicked + "]", 0, nil, 1 + len(opened)},
	{"events on one line", opened + clicked, 0, nil, len(opened)},
	{"event over lines, an object behind it", indent + "\n" + clicked, mw.FormatJSON, good(indent), 1 + len(indent)},
	{"event over lines, cut off", indent[:len(indent)-1], 0, nil, len(indent) - 1},
	{"event over lines, broken", "{\n\"event\":\"open\"\n\"x\":1}", 0, nil, 17},
	{"a control character in a key", "{\"event\x01\":\"open\"}", 0, nil, 7},
}

func TestParse(t *testing.T) {
	for _, test := range bodies {
		t.Run(test.name, func(t *testing.T) {
			body := []byte(test.body)
			events, err := mw.Parse(body)
			requireEvents(t, test.body, test.events, events)
			require.Equal(t, test.body, string(body), "Parse changed the body")
			if test.fault == whole {
				require.NoError(t, err)
				return
			}
			var fault *mw.DecodeError
			require.ErrorAs(t, err, &fault)
			require.Equal(t, test.fault, int(fault.Offset), "%v", err)
			require.Equal(t, 1+strings.Count(test.body[:test.fault], "\n"), fault.Line, "%v", err)
			require.ErrorIs(t, err, fault.Err)
		})
	}
}

func TestDecoderAgreesWithParse(t *testing.T) {
	for _, test := range bodies {
		for name, reader := range readers {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				want, wantErr := mw.Parse([]byte(test.body))
				d := mw.NewDecoder(reader(strings.NewReader(test.body)))
				require.Zero(t, d.Format())
				got, err := drain(d)
				requireSame(t, want, got, wantErr, err)
				require.Equal(t, test.format, d.Format())
				for range 2 {
					ev, again := d.Decode()
					require.Nil(t, ev)
					if err == nil {
						require.Equal(t, io.EOF, again)
						continue
					}
					require.Same(t, err, again, "the error sticks")
				}
			})
		}
	}
}

func TestFormatIsToldWithTheFirstEvent(t *testing.T) {
	for body, want := range map[string]mw.Format{opened + "\n" + clicked: mw.FormatJSONLines, "[" + opened + "," + clicked + "]": mw.FormatJSON, indent: mw.FormatJSON} {
		d := mw.NewDecoder(iotest.OneByteReader(strings.NewReader(body)))
		_, err := d.Decode()
		require.NoError(t, err)
		require.Equal(t, want, d.Format())
	}
	require.Equal(t, "JSON", mw.FormatJSON.String())
	require.Equal(t, "JSON Lines", mw.FormatJSONLines.String())
	require.NotContains(t, mw.Format(0).String(), "JSON")
}

func TestJSONCutOffAtEveryByte(t *testing.T) {
	files := sampleFiles(t)
	both := func(file string) string { return strings.Join(rawEvents(t, file, files[file]), ",") }
	for name, body := range map[string]string{
		"indented": "{\n  \"id\": {\"a\": [1]},\n  \"events\": [\n    " + both("delivery.json") + ",\n    " + both("audit_log_profile_update.json") + "\n  ],\n  \"n\": -1.5e3\n}\n",
		"compact":  `{"events":[` + both("mixed.jsonl") + `]}`,
		"array":    `[` + both("mixed.jsonl") + `]`,
		"alone":    both("delivery.json"),
	} {
		t.Run(name, func(t *testing.T) {
			all, err := mw.Parse([]byte(body))
			require.NoError(t, err)
			for n := 1; n < len(strings.TrimSpace(body)); n++ {
				events, err := mw.Parse([]byte(body[:n]))
				var fault *mw.DecodeError
				require.ErrorAs(t, err, &fault, "%s", body[:n])
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
				require.Equal(t, n, int(fault.Offset))
				require.Equal(t, 1+strings.Count(body[:n], "\n"), fault.Line)
				before := 0
				for _, ev := range all {
					if strings.Index(body, ev.RawJSON())+len(ev.RawJSON()) <= n {
						before++
					}
				}
				if name == "alone" {
					before = 0
				}
				require.Len(t, events, before, "%s", body[:n])
				for i, ev := range events {
					require.Equal(t, all[i], ev)
				}
			}
		})
	}
}

func TestJSONLinesCutOffAtEveryByte(t *testing.T) {
	body := strings.TrimSpace(sampleFiles(t)["mixed.jsonl"])
	all, err := mw.Parse([]byte(body))
	require.NoError(t, err)
	for n := 1; n < len(body); n++ {
		events, err := mw.Parse([]byte(body[:n]))
		lines := strings.SplitAfter(body[:n], "\n")
		last := lines[len(lines)-1]
		if len(lines) == 1 && !json.Valid([]byte(last)) {
			require.Empty(t, events)
			var fault *mw.DecodeError
			require.ErrorAs(t, err, &fault)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Equal(t, n, int(fault.Offset))
			continue
		}
		require.NoError(t, err)
		for i, ev := range events {
			if i < len(lines)-1 || json.Valid([]byte(last)) {
				require.Equal(t, all[i], ev)
				continue
			}
			unknown := ev.(*mw.UnknownEvent)
			require.Equal(t, last, unknown.Raw)
			require.ErrorIs(t, unknown.Err, io.ErrUnexpectedEOF)
			var fault *mw.DecodeError
			require.ErrorAs(t, unknown.Err, &fault)
			require.Equal(t, n, int(fault.Offset))
			require.Equal(t, len(lines), fault.Line)
		}
		if last == "" {
			lines = lines[:len(lines)-1]
		}
		require.Len(t, events, len(lines))
	}
}

func TestNestingIsLimitedAsInEncodingJSON(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	objects := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	for name, body := range map[string]func(n int) string{
		"line":                     func(n int) string { return `{"event":"open","x":` + deep(n-1) + `}` },
		"line, custom variables":   func(n int) string { return `{"event":"open","custom_variables":` + objects(n-1) + `}` },
		"line, changes":            func(n int) string { return `{"event":"activity_log.x","changes":{"a":{"to":` + deep(n-3) + `}}}` },
		"object over lines":        func(n int) string { return "{\n\"event\":\"open\",\"x\":" + deep(n-1) + `}` },
		"array":                    func(n int) string { return `[{"event":"open","x":` + objects(n-2) + `}]` },
		"array of no object":       func(n int) string { return `[` + deep(n-1) + `]` },
		"envelope":                 func(n int) string { return `{"events":[{"event":"open","x":` + deep(n-3) + `}]}` },
		"envelope, actor":          func(n int) string { return `{"events":[{"event":"activity_log.x","actor":{"x":` + deep(n-4) + `}}]}` },
		"envelope, member before":  func(n int) string { return `{"x":` + deep(n-1) + `,"events":[]}` },
		"envelope, member behind":  func(n int) string { return `{"events":[],"x":` + deep(n-1) + `}` },
		"envelope, unreadable one": func(n int) string { return `{"events":[{"event":5,"email":` + deep(n-3) + `}]}` },
	} {
		for _, n := range []int{9998, 9999, 10000, 10001, 10002} {
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				want := json.Valid([]byte(body(n)))
				require.Equal(t, n <= 10000, want)
				events, err := mw.Parse([]byte(body(n)))
				require.Equal(t, want, err == nil, "%v", err)
				got, err2 := drain(mw.NewDecoder(iotest.HalfReader(strings.NewReader(body(n)))))
				requireSame(t, events, got, err, err2)

				if strings.HasPrefix(name, "line") {
					events, err = mw.Parse([]byte(opened + "\n" + body(n) + "\n" + clicked))
					require.NoError(t, err)
					require.Len(t, events, 3)
					unknown, isUnknown := events[1].(*mw.UnknownEvent)
					require.Equal(t, want, !isUnknown)
					require.True(t, !isUnknown || unknown.Err != nil && unknown.Raw == body(n))
				}
			})
		}
	}
}

func TestNoErrorQuotesTheBody(t *testing.T) {
	const secret = "Secr3t"
	for _, body := range []string{
		secret, `"Secr3t"`, `{"Secr3t":Secr3t}`, `{"Secr3t"`, `{"Secr3t":1`, `{"Secr3t" "Secr3t"}`, `[Secr3t]`, `["Secr3t" "Secr3t"]`, `[{"event":"Secr3t"},Secr3t]`,
		`{"events":[Secr3t]}`, `{"events":[]}Secr3t`, `{"events":["Secr3t`, `["\Secr3t"]`, "[\"\x01Secr3t\"]", `[1Secr3t]`, `[tSecr3t]`,
		`["Secr3t",{"Secr3t":1},{"event":{"Secr3t":1}},{"event":"open","email":{"Secr3t":"Secr3t"}},{"event":"open","timestamp":"Secr3t"}]`,
		`{"event":"activity_log.Secr3t","changes":["Secr3t"]}`, `{"event":"activity_log.Secr3t","changes":"Secr3t"}`,
		`{"event":"activity_log.x","actor":{"Secr3t":5,"id":"Secr3t"}}`, `{"event":"activity_log.x","resource":["Secr3t"]}`,
		`{"event":"inbound.message_received","inbox_id":"Secr3t"}`, `{"event":"open","response_code":"Secr3t"}`, `{"event":"open","custom_variables":"Secr3t"}`,
		"{}\nSecr3t\n{\"Secr3t\n\"Secr3t\"\n{}Secr3t\n{\"a\":\"\\Secr3t\"}", "Secr3t\n{}", `{"events":[{"event":"Secr3t","x":Secr3t`,
	} {
		events, err := mw.Parse([]byte(body))
		require.NotContains(t, errText(err), secret)
		faults := 0
		for _, ev := range events {
			if err := errOf(ev); err != nil {
				require.NotContains(t, err.Error(), secret)
				faults++
			}
		}
		require.True(t, err != nil || faults > 0, "%s tests nothing", body)
	}
	for _, into := range []json.Unmarshaler{new(mw.SendingWebhookEvent), new(mw.ActivityLogWebhookEvent), new(mw.InboundWebhookEvent), new(mw.UnknownEvent), new(mw.Variables), new(mw.Changes)} {
		for _, text := range []string{`"Secr3t"`, `{"event":"Secr3t"}`, `{"event":"Secr3t`, `Secr3t`} {
			require.NotContains(t, errText(into.UnmarshalJSON([]byte(text))), secret)
		}
	}
}

func TestEventsIterator(t *testing.T) {
	t.Run("gives all events and no error", func(t *testing.T) {
		var events []mw.Event
		for ev, err := range mw.NewDecoder(strings.NewReader(opened + "\n{]\n" + clicked)).Events() {
			require.NoError(t, err)
			events = append(events, ev)
		}
		requireEvents(t, opened+"\n{]\n"+clicked, inOrder(good(opened), bad("{]", len(opened)+2, ""), good(clicked)), events)
	})
	t.Run("ends after the first error", func(t *testing.T) {
		var raws []string
		var errs []error
		for ev, err := range mw.NewDecoder(strings.NewReader(`[` + opened + `,]`)).Events() {
			if err != nil {
				require.Nil(t, ev)
				errs = append(errs, err)
				continue
			}
			raws = append(raws, ev.RawJSON())
		}
		require.Equal(t, []string{opened}, raws)
		require.Len(t, errs, 1)
		require.ErrorAs(t, errs[0], new(*mw.DecodeError))
	})
	t.Run("may be left", func(t *testing.T) {
		d := mw.NewDecoder(strings.NewReader(opened + "\n" + clicked + "\n" + logged))
		for range d.Events() {
			break
		}
		ev, err := d.Decode()
		require.NoError(t, err)
		require.Equal(t, clicked, ev.RawJSON())
		for range mw.NewDecoder(strings.NewReader(`[,`)).Events() {
			break
		}
	})
	t.Run("gives nothing for nothing", func(t *testing.T) {
		for range mw.NewDecoder(strings.NewReader(`[]`)).Events() {
			t.Fatal("there is an event")
		}
	})
}

func TestParseKeepsNothingOfTheBody(t *testing.T) {
	body := []byte(`{"events":[` + opened + `]}`)
	events, err := mw.Parse(body)
	require.NoError(t, err)
	copy(body, bytes.Repeat([]byte("x"), len(body)))
	require.Equal(t, soleEvent(t, opened), events[0])
}

// A program that stores RawJSON puts brackets around it to read it back: the
// text alone could be taken for a delivery.
func TestRawJSONInBracketsIsTheEvent(t *testing.T) {
	body := strings.Join([]string{
		eventJSON("a"), `3`, `"x"`, `[1]`, `{}`, `{"events":[]}`, `{"event":"new","timestamp":1}`,
		`{"event":"bounce","message_id":"m","event_id":"e","events":[{"event":"open"}]}`,
		`{"event":"activity_log.user.updated","timestamp":1,"changes":{ "a" : 1 }}`,
	}, ",")
	events, err := mw.Parse([]byte("[" + body + "]"))
	require.NoError(t, err)
	require.Len(t, events, 9)
	for _, ev := range events {
		again, err := mw.Parse([]byte("[" + ev.RawJSON() + "]"))
		require.NoError(t, err)
		require.Len(t, again, 1)
		require.Equal(t, ev.Key(), again[0].Key())
		require.Equal(t, ev.RawJSON(), again[0].RawJSON())
	}
}
