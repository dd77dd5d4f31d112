package mailtrapwebhook_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/stretchr/testify/require"
)

// The events that the bodies below are made of.
const (
	opened  = `{"event":"open","message_id":"m1","event_id":"e1"}`
	clicked = `{"event":"click","message_id":"m2","event_id":"e2"}`
	logged  = `{"event":"activity_log.user.login"}`
	inbound = `{"event":"inbound.message_received","inbox_id":1}`
	novel   = `{"event":"telepathy"}`
	indent  = "{\n  \"event\": \"open\",\n  \"message_id\": \"m1\"\n}"
	bom     = "\uFEFF"
)

// A wanted event is told by its text and, if it cannot be read, by where and why.
type wanted struct {
	raw      string
	at       int // offset of the fault
	mentions string
}

func good(raws ...string) (list []wanted) {
	for _, raw := range raws {
		list = append(list, wanted{raw: raw})
	}
	return list
}

func bad(raw string, at int, mentions string) []wanted { return []wanted{{raw, at, mentions}} }

func inOrder(lists ...[]wanted) (all []wanted) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// whole means that nothing is wrong with a body; other faults are offsets.
const whole = -1

// bodies are what a delivery may look like, with what the package makes of it.
var bodies = []struct {
	name   string
	body   string
	format mailtrapwebhook.Format
	events []wanted
	fault  int // offset
}{
	// The JSON format.
	{"envelope", `{"events":[` + opened + `,` + clicked + `]}`, mailtrapwebhook.FormatJSON, good(opened, clicked), whole},
	{"envelope, indented", "{\n  \"events\": [\n    " + indent + ",\n    " + clicked + "\n  ]\n}\n", mailtrapwebhook.FormatJSON, good(indent, clicked), whole},
	{"envelope, white space around everything", " \r\n\t{ \"events\" : [ " + opened + " , " + clicked + " ] } \r\n\r\n ", mailtrapwebhook.FormatJSON, good(opened, clicked), whole},
	{"envelope, empty", `{"events":[]}`, mailtrapwebhook.FormatJSON, nil, whole},
	{"envelope, empty with white space", "{ \"events\" : [ \n ] }", mailtrapwebhook.FormatJSON, nil, whole},
	{"envelope, members around events", `{"id":[1,{"events":[5]}],"v":"events","events":[` + opened + `],"more":{"events":[6]},"z":null}`, mailtrapwebhook.FormatJSON, good(opened), whole},
	{"envelope, several events arrays", `{"events":[` + opened + `],"x":1,"events":[],"events":[` + clicked + `]}`, mailtrapwebhook.FormatJSON, good(opened, clicked), whole},
	{"envelope, one events member no array", `{"events":null,"events":[` + opened + `],"events":{"a":[1]},"events":"x"}`, mailtrapwebhook.FormatJSON, good(opened), whole},
	{"envelope, events with an escape", `{"\u0065vents":[` + opened + `]}`, mailtrapwebhook.FormatJSON, good(opened), whole},
	{"envelope, events all escapes", `{"\u0065\u0076\u0065\u006E\u0074\u0073":[` + opened + `]}`, mailtrapwebhook.FormatJSON, good(opened), whole},
	{"envelope, an event member beside events", `{"event":"open","events":[` + clicked + `]}`, mailtrapwebhook.FormatJSON, good(clicked), whole},
	{"envelope, mixed kinds", `{"events":[` + opened + `,` + logged + `,` + inbound + `,` + novel + `]}`, mailtrapwebhook.FormatJSON, good(opened, logged, inbound, novel), whole},
	{"bare array", `[` + opened + `,` + clicked + `]`, mailtrapwebhook.FormatJSON, good(opened, clicked), whole},
	{"bare array, over lines", "\n[\n" + opened + "\n,\n" + indent + "\n]\n", mailtrapwebhook.FormatJSON, good(opened, indent), whole},
	{"bare array, empty", `[]`, mailtrapwebhook.FormatJSON, nil, whole},
	{"bare array, elements that are no objects", `[5,` + opened + `,"x",null,[` + clicked + `],true,` + clicked + `]`, mailtrapwebhook.FormatJSON, inOrder(
		bad(`5`, 1, "object"), good(opened), bad(`"x"`, 4+len(opened), "object"), bad(`null`, 8+len(opened), "object"),
		bad(`[`+clicked+`]`, 13+len(opened), "object"), bad(`true`, 16+len(opened+clicked), "object"), good(clicked)), whole},
	{"bare array, an element that looks like an envelope", `[{"events":[` + opened + `]}]`, mailtrapwebhook.FormatJSON,
		bad(`{"events":[`+opened+`]}`, 1, "event"), whole},
	{"bare array, one event unreadable", "[\n" + opened + ",\n{\"event\":\"open\",\"email\":5}]", mailtrapwebhook.FormatJSON,
		inOrder(good(opened), bad(`{"event":"open","email":5}`, 2+len(opened)+2+24, "email")), whole},
	{"event alone, over lines", indent, mailtrapwebhook.FormatJSON, good(indent), whole},
	{"event alone, its end on the next line", `{"event":"open"` + "\n}", mailtrapwebhook.FormatJSON, good(`{"event":"open"` + "\n}"), whole},
	{"object alone, empty over lines", "{\n}", mailtrapwebhook.FormatJSON, bad("{\n}", 0, "event"), whole},
	{"object alone, over lines, EVENTS", "{\n\"EVENTS\":[" + opened + "]}", mailtrapwebhook.FormatJSON, bad("{\n\"EVENTS\":["+opened+"]}", 0, "event"), whole},

	// JSON Lines.
	{"line alone", opened, mailtrapwebhook.FormatJSONLines, good(opened), whole},
	{"line alone, final newline", opened + "\n", mailtrapwebhook.FormatJSONLines, good(opened), whole},
	{"line alone, after blank lines", "\n \r\n\t" + opened + " \t", mailtrapwebhook.FormatJSONLines, good(opened), whole},
	{"line alone, empty object", `{}`, mailtrapwebhook.FormatJSONLines, bad(`{}`, 0, "event"), whole},
	{"line alone, events in capitals", `{"Events":[` + opened + `]}`, mailtrapwebhook.FormatJSONLines, bad(`{"Events":[`+opened+`]}`, 0, "event"), whole},
	{"line alone, events no array", `{"events":{"a":[` + opened + `]}}`, mailtrapwebhook.FormatJSONLines, bad(`{"events":{"a":[`+opened+`]}}`, 0, "event"), whole},
	{"line alone, events further down", `{"x":{"events":[` + opened + `]}}`, mailtrapwebhook.FormatJSONLines, bad(`{"x":{"events":[`+opened+`]}}`, 0, "event"), whole},
	{"lines", opened + "\n" + clicked + "\n", mailtrapwebhook.FormatJSONLines, good(opened, clicked), whole},
	{"lines, no final newline", opened + "\n" + clicked, mailtrapwebhook.FormatJSONLines, good(opened, clicked), whole},
	{"lines, CRLF", opened + "\r\n" + clicked + "\r\n", mailtrapwebhook.FormatJSONLines, good(opened, clicked), whole},
	{"lines, CRLF, no final one", opened + "\r\n" + clicked, mailtrapwebhook.FormatJSONLines, good(opened, clicked), whole},
	{"lines, blank ones", "\n\n" + opened + "\n\n \t\r\n" + clicked + "\n\r\n \n", mailtrapwebhook.FormatJSONLines, good(opened, clicked), whole},
	{"lines, indented", "  " + opened + "\n\t" + clicked + "  \n", mailtrapwebhook.FormatJSONLines, good(opened, clicked), whole},
	{"lines, mixed kinds", opened + "\n" + logged + "\n" + inbound + "\n" + novel, mailtrapwebhook.FormatJSONLines, good(opened, logged, inbound, novel), whole},
	{"lines, one event unreadable", opened + "\n{\"event\":\"open\",\"email\":5}\n" + clicked, mailtrapwebhook.FormatJSONLines,
		inOrder(good(opened), bad(`{"event":"open","email":5}`, len(opened)+1+24, "email"), good(clicked)), whole},
	{"lines, one an envelope", opened + "\n{\"events\":[" + clicked + "," + novel + "]}\n" + logged, mailtrapwebhook.FormatJSONLines, good(opened, clicked, novel, logged), whole},
	{"lines, the last an envelope", opened + "\n" + `{"x":1,"events":[` + clicked + `],"events":[` + logged + `]}`, mailtrapwebhook.FormatJSONLines, good(opened, clicked, logged), whole},
	{"lines, the first an envelope", `{"events":[` + opened + "]}\r\n" + clicked, mailtrapwebhook.FormatJSONLines, good(opened, clicked), whole},
	{"lines, all envelopes", `{"events":[` + opened + "]}\n{\"events\":[]}\n{\"\\u0065vents\":[" + clicked + `]}`, mailtrapwebhook.FormatJSONLines, good(opened, clicked), whole},
	{"lines, an envelope with something unreadable", opened + "\n{\"events\":[5," + clicked + "]}", mailtrapwebhook.FormatJSONLines,
		inOrder(good(opened), bad(`5`, len(opened)+1+11, "object"), good(clicked)), whole},
	{"lines, broken: cut off", opened + "\n{\"event\":\"op\n" + clicked, mailtrapwebhook.FormatJSONLines,
		inOrder(good(opened), bad(`{"event":"op`, len(opened)+1+12, "cut off"), good(clicked)), whole},
	{"lines, broken: the last cut off", opened + "\n{\"event\":", mailtrapwebhook.FormatJSONLines,
		inOrder(good(opened), bad(`{"event":`, len(opened)+1+9, "cut off")), whole},
	{"lines, broken: an envelope cut off", opened + "\n{\"events\":[" + clicked + ",\n" + logged, mailtrapwebhook.FormatJSONLines,
		inOrder(good(opened), bad(`{"events":[`+clicked+`,`, len(opened)+1+12+len(clicked), "cut off"), good(logged)), whole},
	{"lines, broken: words", opened + "\r\nInternal Server Error\r\n" + clicked, mailtrapwebhook.FormatJSONLines,
		inOrder(good(opened), bad(`Internal Server Error`, len(opened)+2, ""), good(clicked)), whole},
	{"lines, broken: two objects on one", opened + "\n" + opened + clicked + "\n" + clicked, mailtrapwebhook.FormatJSONLines,
		inOrder(good(opened), bad(opened+clicked, 2*len(opened)+1, ""), good(clicked)), whole},
	{"lines, broken: two objects on the first", opened + clicked + "\n" + clicked, mailtrapwebhook.FormatJSONLines,
		inOrder(bad(opened+clicked, len(opened), ""), good(clicked)), whole},
	{"lines, broken: a comma at the end", opened + ",\n" + clicked, mailtrapwebhook.FormatJSONLines,
		inOrder(bad(opened+",", len(opened), ""), good(clicked)), whole},
	{"lines, broken: a NUL byte at the end", opened + "\n" + clicked + "\x00\n" + opened, mailtrapwebhook.FormatJSONLines,
		inOrder(good(opened), bad(clicked+"\x00", len(opened)+1+len(clicked), ""), good(opened)), whole},
	{"lines, no objects", opened + "\n5\nnull\n[" + clicked + "]\n\"x\"\n" + clicked, mailtrapwebhook.FormatJSONLines, inOrder(good(opened),
		bad(`5`, len(opened)+1, "object"), bad(`null`, len(opened)+3, "object"), bad(`[`+clicked+`]`, len(opened)+8, "object"),
		bad(`"x"`, len(opened)+11+len(clicked), "object"), good(clicked)), whole},
	{"lines, the first broken: words", "garbage\n" + opened, mailtrapwebhook.FormatJSONLines, inOrder(bad("garbage", 0, ""), good(opened)), whole},
	{"lines, the first broken: a scalar", "5\n" + opened, mailtrapwebhook.FormatJSONLines, inOrder(bad("5", 0, "object"), good(opened)), whole},
	{"lines, the first broken: cut off", "{\"event\":\"op\n" + opened + "\n" + clicked, mailtrapwebhook.FormatJSONLines,
		inOrder(bad(`{"event":"op`, 12, "cut off"), good(opened, clicked)), whole},
	{"lines, the first broken: no colon", "{\"event\" \"open\"}\n\n" + opened, mailtrapwebhook.FormatJSONLines,
		inOrder(bad(`{"event" "open"}`, 9, "colon"), good(opened)), whole},
	{"lines, the first two broken", "\n{\"event\":}\r\n{]\r\n" + opened, mailtrapwebhook.FormatJSONLines,
		inOrder(bad(`{"event":}`, 10, ""), bad(`{]`, 14, ""), good(opened)), whole},

	// A byte-order mark.
	{"byte-order mark, envelope", bom + `{"events":[` + opened + `]}`, mailtrapwebhook.FormatJSON, good(opened), whole},
	{"byte-order mark, array", bom + "\n[" + opened + "]", mailtrapwebhook.FormatJSON, good(opened), whole},
	{"byte-order mark, lines", bom + opened + "\n" + clicked, mailtrapwebhook.FormatJSONLines, good(opened, clicked), whole},
	{"byte-order mark, event over lines", bom + indent, mailtrapwebhook.FormatJSON, good(indent), whole},
	{"byte-order mark, the first line broken", bom + "{]\n" + opened, mailtrapwebhook.FormatJSONLines, inOrder(bad("{]", 4, ""), good(opened)), whole},
	{"byte-order mark, on a later line", opened + "\n" + bom + clicked, mailtrapwebhook.FormatJSONLines,
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
	{"the first line broken, and no object later", "{\"event\":}\n5\n[" + opened + "]\n{]\n", 0, nil, 9},
	{"array, no comma", `[` + opened + ` ` + clicked + `]`, mailtrapwebhook.FormatJSON, good(opened), 2 + len(opened)},
	{"array, two commas", `[` + opened + `,,` + clicked + `]`, mailtrapwebhook.FormatJSON, good(opened), 2 + len(opened)},
	{"array, a comma at the end", `[` + opened + ",\n]", mailtrapwebhook.FormatJSON, good(opened), 3 + len(opened)},
	{"array, a comma at the beginning", `[,` + opened + `]`, mailtrapwebhook.FormatJSON, nil, 1},
	{"array, a comma alone", `[,]`, mailtrapwebhook.FormatJSON, nil, 1},
	{"array, closed by a brace", `[` + opened + `}`, mailtrapwebhook.FormatJSON, good(opened), 1 + len(opened)},
	{"array, an event closed by a bracket", `[` + opened + `,{"event":"open"]]`, mailtrapwebhook.FormatJSON, good(opened), 17 + len(opened)},
	{"array, a bad word", `[` + opened + `,nul]`, mailtrapwebhook.FormatJSON, good(opened), 5 + len(opened)},
	{"array, cut off in or behind a number", `[` + opened + `,12`, mailtrapwebhook.FormatJSON, good(opened), 4 + len(opened)},
	{"array, more behind it", `[` + opened + `] ]`, mailtrapwebhook.FormatJSON, good(opened), 3 + len(opened)},
	{"array, lines behind it", `[` + opened + "]\n" + clicked, mailtrapwebhook.FormatJSON, good(opened), 3 + len(opened)},
	{"array, cut off before a line that is an object", "[\n" + opened + ",\n" + clicked + "\n", mailtrapwebhook.FormatJSON, good(opened, clicked), 5 + len(opened+clicked)},
	{"envelope, no colon", `{"events" [` + opened + `]}`, 0, nil, 10},
	{"envelope, no comma after the array", `{"events":[` + opened + `] "x":1}`, mailtrapwebhook.FormatJSON, good(opened), 13 + len(opened)},
	{"envelope, a comma at the end", `{"events":[` + opened + `],}`, mailtrapwebhook.FormatJSON, good(opened), 13 + len(opened)},
	{"envelope, closed by a bracket", `{"events":[` + opened + `]]`, mailtrapwebhook.FormatJSON, good(opened), 12 + len(opened)},
	{"envelope, broken before lines that are objects", `{"events":[` + opened + ",{]\n" + clicked + "\n", mailtrapwebhook.FormatJSON, good(opened), 13 + len(opened)},
	{"envelope, broken behind the array", `{"events":[` + opened + `],"x":tru}`, mailtrapwebhook.FormatJSON, good(opened), 20 + len(opened)},
	{"envelope, more behind it", `{"events":[` + opened + `]} x`, mailtrapwebhook.FormatJSON, good(opened), 14 + len(opened)},
	{"envelope, another on its line", `{"events":[` + opened + `]}` + clicked + "\n" + clicked, mailtrapwebhook.FormatJSON, good(opened), 13 + len(opened)},
	{"envelope, a broken line behind it", `{"events":[` + opened + "]}\n{]\n", mailtrapwebhook.FormatJSON, good(opened), 14 + len(opened)},
	{"envelope over lines, an object behind it", "{\"events\":[\n" + opened + "]}\n" + clicked, mailtrapwebhook.FormatJSON, good(opened), 15 + len(opened)},
	{"event alone, more on its line", opened + " x", 0, nil, 1 + len(opened)},
	{"event alone, more on its line, then no object", " " + opened + "]\n[" + clicked + "]", 0, nil, 1 + len(opened)},
	{"events on one line", opened + clicked, 0, nil, len(opened)},
	{"event over lines, an object behind it", indent + "\n" + clicked, mailtrapwebhook.FormatJSON, good(indent), 1 + len(indent)},
	{"event over lines, cut off", indent[:len(indent)-1], 0, nil, len(indent) - 1},
	{"event over lines, broken", "{\n\"event\":\"open\"\n\"x\":1}", 0, nil, 17},
	{"a control character in a key", "{\"event\x01\":\"open\"}", 0, nil, 7},
}

// requireEvents asserts that the events are the wanted ones.
func requireEvents(t *testing.T, body string, want []wanted, got []mailtrapwebhook.Event) {
	t.Helper()
	var list []wanted
	for i, ev := range got {
		w := wanted{raw: rawOf(ev)}
		if unknown, ok := ev.(*mailtrapwebhook.UnknownEvent); ok && unknown.Err != nil {
			var fault *mailtrapwebhook.DecodeError
			require.ErrorAs(t, unknown.Err, &fault)
			require.Equal(t, 1+strings.Count(body[:fault.Offset], "\n"), fault.Line, "line of %v", fault)
			w.at = int(fault.Offset)
			w.mentions = fault.Err.Error()
			if i < len(want) && want[i].mentions != "" && strings.Contains(w.mentions, want[i].mentions) {
				w.mentions = want[i].mentions
			} else if i < len(want) && want[i].mentions == "" && want[i].at > 0 || want[i].raw != "" && want[i].mentions == "" {
				w.mentions = ""
				require.False(t, json.Valid([]byte(w.raw)), "%q is JSON: %v", w.raw, fault)
			}
		}
		list = append(list, w)
	}
	if diff := cmp.Diff(want, list, cmp.AllowUnexported(wanted{})); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestParse(t *testing.T) {
	for _, test := range bodies {
		t.Run(test.name, func(t *testing.T) {
			body := []byte(test.body)
			events, err := mailtrapwebhook.Parse(body)
			requireEvents(t, test.body, test.events, events)
			require.Equal(t, test.body, string(body), "Parse changed the body")
			if test.fault == whole {
				require.NoError(t, err)
				return
			}
			var fault *mailtrapwebhook.DecodeError
			require.ErrorAs(t, err, &fault)
			require.Equal(t, test.fault, int(fault.Offset), "%v", err)
			require.Equal(t, 1+strings.Count(test.body[:test.fault], "\n"), fault.Line, "%v", err)
			require.ErrorIs(t, err, fault.Err)
		})
	}
}

// drain decodes all there is.
func drain(d *mailtrapwebhook.Decoder) (events []mailtrapwebhook.Event, err error) {
	for {
		ev, err := d.Decode()
		switch {
		case err == io.EOF:
			return events, nil
		case err != nil:
			return events, err
		}
		events = append(events, ev)
	}
}

// chunks reads in pieces of random size up to most.
type chunks struct {
	r    io.Reader
	most int
	rand *rand.Rand
}

func (c chunks) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), 1+c.rand.IntN(c.most))]) }

// upToBrace reads in pieces that end with a closing brace, where an event may be over.
type upToBrace struct{ r *bufio.Reader }

func (u upToBrace) Read(p []byte) (n int, err error) {
	for n < len(p) && err == nil && (n == 0 || p[n-1] != '}') {
		if p[n], err = u.r.ReadByte(); err == nil {
			n++
		}
	}
	return n, err
}

// readers are the ways in which a body may arrive.
var readers = map[string]func(io.Reader) io.Reader{
	"whole":            func(r io.Reader) io.Reader { return r },
	"byte by byte":     iotest.OneByteReader,
	"by halves":        iotest.HalfReader,
	"up to braces":     func(r io.Reader) io.Reader { return upToBrace{bufio.NewReader(r)} },
	"end with data":    iotest.DataErrReader,
	"bytes, end with":  func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) },
	"pieces up to 3":   func(r io.Reader) io.Reader { return chunks{r, 3, rand.New(rand.NewPCG(1, 1))} },
	"pieces up to 40":  func(r io.Reader) io.Reader { return chunks{r, 40, rand.New(rand.NewPCG(2, 2))} },
	"pieces up to 200": func(r io.Reader) io.Reader { return chunks{r, 200, rand.New(rand.NewPCG(3, 3))} },
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// requireSame asserts that two ways of decoding give the same.
func requireSame(t *testing.T, want, got []mailtrapwebhook.Event, wantErr, gotErr error) {
	t.Helper()
	require.Equal(t, len(want), len(got))
	for i := range want {
		require.Equal(t, want[i], got[i]) // with the errors in them
	}
	require.Equal(t, errText(wantErr), errText(gotErr))
}

func TestDecoderAgreesWithParse(t *testing.T) {
	for _, test := range bodies {
		for name, reader := range readers {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				want, wantErr := mailtrapwebhook.Parse([]byte(test.body))
				d := mailtrapwebhook.NewDecoder(reader(strings.NewReader(test.body)))
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

// The events of a body are made in few allocations, and must nevertheless be events of their own.
func TestEventsDoNotShareMemory(t *testing.T) {
	var want []string
	for i := range 1000 {
		want = append(want, fmt.Sprintf(`{"event":"open","message_id":"m%d"}`, i))
	}
	var lines []string
	for rest := want; len(rest) > 0; rest = rest[min(5, len(rest)):] {
		lines = append(lines, rest[0], `{"events":[`+strings.Join(rest[1:4], ",")+`]}`, rest[4])
	}
	for _, body := range []string{strings.Join(want, "\n"), `{"events":[` + strings.Join(want, ",") + `]}`, strings.Join(lines, "\n")} {
		events, err := mailtrapwebhook.Parse([]byte(body))
		require.NoError(t, err)
		require.Len(t, events, len(want))
		for i, ev := range events {
			require.Equal(t, &mailtrapwebhook.SendingWebhookEvent{Event: "open", MessageID: fmt.Sprintf("m%d", i), Raw: want[i]}, ev)
		}
	}
}

func TestFormatIsToldWithTheFirstEvent(t *testing.T) {
	for body, want := range map[string]mailtrapwebhook.Format{opened + "\n" + clicked: mailtrapwebhook.FormatJSONLines, "[" + opened + "," + clicked + "]": mailtrapwebhook.FormatJSON, indent: mailtrapwebhook.FormatJSON} {
		d := mailtrapwebhook.NewDecoder(iotest.OneByteReader(strings.NewReader(body)))
		_, err := d.Decode()
		require.NoError(t, err)
		require.Equal(t, want, d.Format())
	}
	require.Equal(t, "JSON", mailtrapwebhook.FormatJSON.String())
	require.Equal(t, "JSON Lines", mailtrapwebhook.FormatJSONLines.String())
	require.NotContains(t, mailtrapwebhook.Format(0).String(), "JSON")
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
			all, err := mailtrapwebhook.Parse([]byte(body))
			require.NoError(t, err)
			for n := 1; n < len(strings.TrimSpace(body)); n++ {
				events, err := mailtrapwebhook.Parse([]byte(body[:n]))
				var fault *mailtrapwebhook.DecodeError
				require.ErrorAs(t, err, &fault, "%s", body[:n])
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
				require.Equal(t, n, int(fault.Offset))
				require.Equal(t, 1+strings.Count(body[:n], "\n"), fault.Line)
				before := 0
				for _, ev := range all {
					if strings.Index(body, rawOf(ev))+len(rawOf(ev)) <= n {
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
	all, err := mailtrapwebhook.Parse([]byte(body))
	require.NoError(t, err)
	for n := 1; n < len(body); n++ {
		events, err := mailtrapwebhook.Parse([]byte(body[:n]))
		lines := strings.SplitAfter(body[:n], "\n")
		last := lines[len(lines)-1]
		if len(lines) == 1 && !json.Valid([]byte(last)) {
			require.Empty(t, events)
			var fault *mailtrapwebhook.DecodeError
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
			unknown := ev.(*mailtrapwebhook.UnknownEvent)
			require.Equal(t, last, unknown.Raw)
			require.ErrorIs(t, unknown.Err, io.ErrUnexpectedEOF)
			var fault *mailtrapwebhook.DecodeError
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

func TestFieldsAreJSON(t *testing.T) {
	for _, field := range []string{"timestamp", "response_code", "message_id", "email", "custom_variables", "new"} {
		for _, value := range []string{`01`, `00`, `-01`, `1.`, `.5`, `-`, `+1`, `1e`, `0x1`, `nul`, `nulll`, `tru`, `NaN`, `'x'`, `"\x"`, `"\u12G4"`, "\"\t\"",
			`[1,]`, `{"a":1,}`, `{,}`, `{"a":01}`, `{a:1}`, `1 2`, ``, `,`, `"a""b"`} {
			line := `{"event":"bounce","` + field + `":` + value + `}`
			require.False(t, json.Valid([]byte(line)), line)
			events, err := mailtrapwebhook.Parse([]byte(opened + "\n" + line + "\n" + clicked))
			require.NoError(t, err, line)
			require.Len(t, events, 3, line)
			unknown, ok := events[1].(*mailtrapwebhook.UnknownEvent)
			require.True(t, ok && unknown.Err != nil && unknown.Raw == line, line)

			events, err = mailtrapwebhook.Parse([]byte(`{"events":[` + opened + `,` + line + `,` + clicked + `]}`))
			require.ErrorAs(t, err, new(*mailtrapwebhook.DecodeError), line)
			require.Len(t, events, 1, line)
		}
	}
}

func TestNestingIsLimitedAsInEncodingJSON(t *testing.T) {
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
				events, err := mailtrapwebhook.Parse([]byte(body(n)))
				require.Equal(t, want, err == nil, "%v", err)
				got, err2 := drain(mailtrapwebhook.NewDecoder(iotest.HalfReader(strings.NewReader(body(n)))))
				requireSame(t, events, got, err, err2)

				if strings.HasPrefix(name, "line") {
					events, err = mailtrapwebhook.Parse([]byte(opened + "\n" + body(n) + "\n" + clicked))
					require.NoError(t, err)
					require.Len(t, events, 3)
					unknown, isUnknown := events[1].(*mailtrapwebhook.UnknownEvent)
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
		`{"event":"activity_log.Secr3t","changes":{"Secr3t":5}}`, `{"event":"activity_log.Secr3t","changes":{"Secr3t":["Secr3t"]}}`,
		`{"event":"activity_log.x","actor":{"Secr3t":5,"id":"Secr3t"}}`, `{"event":"activity_log.x","resource":["Secr3t"]}`,
		`{"event":"inbound.message_received","inbox_id":"Secr3t"}`, `{"event":"open","response_code":"Secr3t"}`, `{"event":"open","custom_variables":"Secr3t"}`,
		"{}\nSecr3t\n{\"Secr3t\n\"Secr3t\"\n{}Secr3t\n{\"a\":\"\\Secr3t\"}", "Secr3t\n{}",
	} {
		events, err := mailtrapwebhook.Parse([]byte(body))
		require.NotContains(t, errText(err), secret)
		faults := 0
		for _, ev := range events {
			if unknown, ok := ev.(*mailtrapwebhook.UnknownEvent); ok && unknown.Err != nil {
				require.NotContains(t, unknown.Err.Error(), secret)
				faults++
			}
		}
		require.True(t, err != nil || faults > 0, "%s tests nothing", body)
	}
	for _, into := range []json.Unmarshaler{new(mailtrapwebhook.SendingWebhookEvent), new(mailtrapwebhook.ActivityLogWebhookEvent), new(mailtrapwebhook.InboundWebhookEvent), new(mailtrapwebhook.UnknownEvent), new(mailtrapwebhook.Variables)} {
		for _, text := range []string{`"Secr3t"`, `{"event":"Secr3t"}`, `{"event":"Secr3t`, `Secr3t`} {
			require.NotContains(t, errText(into.UnmarshalJSON([]byte(text))), secret)
		}
	}
}

func TestReaderErrorsComeBackAsTheyAre(t *testing.T) {
	for _, test := range []struct {
		name, body string
		before     []wanted
	}{
		{"at once", "", nil},
		{"in a byte-order mark", bom[:1], nil},
		{"in an array", `[` + opened + `,`, good(opened)},
		{"in an element", `[` + opened + `,{"event":"op`, good(opened)},
		{"in a number", `[1`, nil},
		{"in an envelope", `{"eve`, nil},
		{"behind an envelope's array", `{"events":[` + opened + `],`, good(opened)},
		{"behind the last byte of an array", `[` + opened + `]`, good(opened)},
		{"behind the last byte of an envelope", `{"events":[` + opened + "]}\n", good(opened)},
		{"in a line", opened + "\n" + `{"event`, good(opened)},
		{"behind a line", opened + "\n", good(opened)},
		{"in the first line", opened[:5], nil},
		{"in an object over lines", "{\n\"event\":", nil},
		{"behind a broken first line", "{]\n", nil},
	} {
		for _, boom := range []error{errors.New("boom"), io.ErrUnexpectedEOF, io.ErrClosedPipe} {
			for name, reader := range readers {
				t.Run(test.name+"/"+boom.Error()+"/"+name, func(t *testing.T) {
					if name == "end with data" || name == "bytes, end with" {
						t.Skip("it swallows errors")
					}
					d := mailtrapwebhook.NewDecoder(io.MultiReader(reader(strings.NewReader(test.body)), iotest.ErrReader(boom)))
					events, err := drain(d)
					require.True(t, err == boom, "%v", err)
					requireEvents(t, test.body, test.before, events)
					ev, err := d.Decode()
					require.Nil(t, ev)
					require.True(t, err == boom, "it sticks")
				})
			}
		}
	}
	t.Run("a reader that gives nothing", func(t *testing.T) {
		_, err := drain(mailtrapwebhook.NewDecoder(readerFunc(func([]byte) (int, error) { return 0, nil })))
		require.ErrorIs(t, err, io.ErrNoProgress)
	})
	t.Run("an error with the last bytes", func(t *testing.T) {
		boom := errors.New("boom")
		events, err := drain(mailtrapwebhook.NewDecoder(readerFunc(func(p []byte) (int, error) { return copy(p, "["+opened+","), boom })))
		require.True(t, err == boom)
		require.Len(t, events, 1)
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestEventsAreOutBeforeTheBodyEnds(t *testing.T) {
	for name, pieces := range map[string][]string{
		"lines":               {opened + "\n", clicked + "\n", logged + "\r\n"},
		"array":               {"[" + opened, "," + clicked, ",\n" + logged},
		"envelope":            {`{"id":1,"events":[` + opened, "," + clicked, "]\n,\"events\":[" + logged},
		"envelopes on lines":  {`{"events":[` + opened, "]}\n" + clicked + "\n", "{\"events\":[" + logged + "]}\n"},
		"object over lines":   {indent},
		"lines after a fault": {"{]\n" + opened + "\n", clicked + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r, w := io.Pipe()
			defer r.Close()
			d := mailtrapwebhook.NewDecoder(r)
			for i, piece := range pieces {
				go io.WriteString(w, piece)
				decoded := make(chan mailtrapwebhook.Event, 1)
				go func() {
					ev, _ := d.Decode()
					decoded <- ev
				}()
				select {
				case ev := <-decoded:
					require.NotNil(t, ev)
					if unknown, ok := ev.(*mailtrapwebhook.UnknownEvent); ok {
						require.Equal(t, "{]", unknown.Raw)
						ev, err := d.Decode()
						require.NoError(t, err)
						require.Contains(t, piece, rawOf(ev))
						continue
					}
					require.Contains(t, piece, rawOf(ev))
				case <-time.After(10 * time.Second):
					t.Fatalf("event %d waits for what follows", i)
				}
			}
		})
	}
}

func TestMaxEventBytes(t *testing.T) {
	const limit = 100
	// sized returns an event of n bytes.
	sized := func(n int) string {
		return fmt.Sprintf(`{"event":"open","category":"%s"}`, strings.Repeat("x", n-len(`{"event":"open","category":""}`)))
	}
	for _, test := range []struct {
		name string
		body string
		want []string // "" for one too large
		end  bool     // the body is broken
	}{
		{"array", `[` + opened + `,` + sized(101) + `,` + clicked + `]`, []string{opened, "", clicked}, false},
		{"array, far over", `[` + opened + `,` + sized(9999) + `,` + clicked + `]`, []string{opened, "", clicked}, false},
		{"array, at the limit", `[` + sized(100) + `,` + clicked + `]`, []string{sized(100), clicked}, false},
		{"array, first and last", `[` + sized(101) + `,` + sized(102) + `]`, []string{"", ""}, false},
		{"array, a string", `["` + strings.Repeat("x", 200) + `",` + opened + `]`, []string{"", opened}, false},
		{"array, an array", `[[` + strings.Repeat("1,", 200) + `1],` + opened + `]`, []string{"", opened}, false},
		{"array, a number", `[` + strings.Repeat("1", 101) + `,` + opened + `]`, []string{"", opened}, false},
		{"array, white space does not count", `[` + strings.Repeat(" ", 300) + sized(100) + strings.Repeat("\n", 300) + `]`, []string{sized(100)}, false},
		{"array, over lines", "\n[\n" + opened + ",\n" + sized(101) + ",\n" + sized(9999) + "]", []string{opened, "", ""}, false},
		{"array, broken behind it", `[` + sized(101) + `,]`, []string{""}, true},
		{"envelope", `{"id":"` + strings.Repeat("x", 300) + `","events":[` + opened + `,` + sized(200) + `,` + clicked + `]}`, []string{opened, "", clicked}, false},
		{"envelope, a long key", `{"` + strings.Repeat("x", 300) + `":1,"events":[` + opened + `]}`, []string{opened}, false},
		{"lines", opened + "\n" + sized(101) + "\n" + clicked + "\n", []string{opened, "", clicked}, false},
		{"lines, far over", opened + "\n" + sized(9999) + "\n" + clicked, []string{opened, "", clicked}, false},
		{"lines, at the limit", sized(100) + "\n" + sized(100) + "\n" + sized(100), []string{sized(100), sized(100), sized(100)}, false},
		{"lines, at the limit, CRLF", sized(100) + "\r\n" + sized(100) + "\r\n", []string{sized(100), sized(100)}, false},
		{"lines, the first", sized(101) + "\n" + clicked + "\n", []string{"", clicked}, false},
		{"lines, the first far over", sized(9999) + "\n" + clicked + "\n", []string{"", clicked}, false},
		{"lines, the first, white space before it", "\n\n " + sized(101) + "\n" + sized(9999), []string{"", ""}, false},
		{"lines, the first far over, white space before it", "\n " + sized(9999), []string{""}, false},
		{"lines, the first far over, CRLF", sized(9999) + "\r\n" + clicked, []string{"", clicked}, false},
		{"lines, the last", opened + "\n" + sized(101), []string{opened, ""}, false},
		{"lines, broken ones", opened + "\n" + strings.Repeat("x", 300) + "\n" + clicked, []string{opened, "", clicked}, false},
		{"line alone", sized(101), []string{""}, false},
		{"line alone, far over", sized(9999) + "\n", []string{""}, false},
		{"object over lines", "{\n" + sized(200)[1:], []string{""}, false},
		{"object over lines, far over", "{\n" + sized(9999)[1:] + "\n", []string{""}, false},
		{"object over lines, white space before it", "\n \n{\n" + sized(9999)[1:], []string{""}, false},
		{"object over lines, at the limit", "{\n" + sized(99)[1:], []string{"{\n" + sized(99)[1:]}, false},
		{"object over lines, more behind it", "{\n" + sized(200)[1:] + "x", []string{""}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			first := mailtrapwebhook.NewDecoder(strings.NewReader(test.body))
			first.MaxEventBytes = limit
			want, wantErr := drain(first)
			for name, reader := range readers {
				d := mailtrapwebhook.NewDecoder(reader(strings.NewReader(test.body)))
				d.MaxEventBytes = limit
				events, err := drain(d)
				require.Equal(t, test.end, err != nil, "%s: %v", name, err)
				require.Len(t, events, len(test.want), name)
				for i, ev := range events {
					require.Equal(t, test.want[i], rawOf(ev), name)
					unknown, ok := ev.(*mailtrapwebhook.UnknownEvent)
					require.Equal(t, test.want[i] == "", ok, name)
					if ok {
						var fault *mailtrapwebhook.DecodeError
						require.ErrorAs(t, unknown.Err, &fault, name)
						require.Regexp(t, `^(\{\s*"event":"open","category":"x|"xx|\[1|11|xx)`, test.body[fault.Offset:], name)
						require.Equal(t, 1+strings.Count(test.body[:fault.Offset], "\n"), fault.Line, name)
						require.Empty(t, ev.Key(), name)
					}
				}
				if !t.Failed() {
					requireSame(t, want, events, wantErr, err) // however the body arrives
				}
			}
			events, err := mailtrapwebhook.Parse([]byte(test.body))
			require.Equal(t, test.end, err != nil)
			for _, ev := range events {
				require.NotEmpty(t, rawOf(ev), "Parse has no limit")
			}
		})
	}
	t.Run("may be as large as an int", func(t *testing.T) {
		for _, most := range []int{math.MaxInt, math.MaxInt - 1, math.MaxInt / 2} {
			for _, r := range []io.Reader{strings.NewReader(logged + "\n" + opened), iotest.OneByteReader(strings.NewReader(logged + "\n" + opened))} {
				d := mailtrapwebhook.NewDecoder(r)
				d.MaxEventBytes = most
				events, err := drain(d)
				require.NoError(t, err)
				requireEvents(t, logged+"\n"+opened, good(logged, opened), events)
			}
		}
	})
	t.Run("decides alike however the body arrives", func(t *testing.T) {
		for _, body := range []string{sized(200) + " x\n" + opened + "\n" + clicked, "{ \n" + opened + "\n", sized(99) + "          x\n" + opened} {
			for _, most := range []int{5, 100} {
				whole, small := mailtrapwebhook.NewDecoder(strings.NewReader(body)), mailtrapwebhook.NewDecoder(iotest.OneByteReader(strings.NewReader(body)))
				whole.MaxEventBytes, small.MaxEventBytes = most, most
				want, wantErr := drain(whole)
				got, err := drain(small)
				requireSame(t, want, got, wantErr, err)
			}
		}
	})
	t.Run("a key of which only the end is at hand", func(t *testing.T) {
		for _, read := range []int{5, 12, 100} {
			key := strings.Repeat("x", 10*read-3) + `\"events`
			body := `{"` + key + `":[` + opened + `]}`
			for i := range len(body) { // some reading ends right behind the backslash
				r := io.MultiReader(strings.NewReader(body[:i]), strings.NewReader(body[i:]))
				d := mailtrapwebhook.NewDecoder(r)
				d.MaxEventBytes = read
				events, err := drain(d)
				require.NoError(t, err)
				require.Len(t, events, 1)
				require.IsType(t, &mailtrapwebhook.UnknownEvent{}, events[0])
			}
		}
	})
	t.Run("is 1 MiB by default", func(t *testing.T) {
		events, err := drain(mailtrapwebhook.NewDecoder(strings.NewReader(`[` + sized(1<<20) + `,` + sized(1<<20+1) + `]`)))
		require.NoError(t, err)
		require.Len(t, events, 2)
		require.Len(t, rawOf(events[0]), 1<<20)
		require.Empty(t, rawOf(events[1]))
	})
}

// repeated is a stream of before, then unit over and over up to size bytes, then after.
func repeated(before, unit, after string, size int) io.Reader {
	block := []byte(strings.Repeat(unit, 1+(64<<10)/len(unit)))
	left, at := size/len(block)*len(block), 0
	middle := readerFunc(func(p []byte) (int, error) {
		if left == 0 {
			return 0, io.EOF
		}
		n := copy(p[:min(len(p), left)], block[at:])
		at = (at + n) % len(block)
		left -= n
		return n, nil
	})
	return io.MultiReader(strings.NewReader(before), middle, strings.NewReader(after))
}

func TestMemoryDoesNotGrowWithTheStream(t *testing.T) {
	if testing.Short() {
		t.Skip("reads hundreds of megabytes")
	}
	share := sized(1, 8) // of the full size, and of the memory
	stream, giant, huge, bound := 64<<20/share, 48<<20/share, 200<<20/share, 24<<20/share
	for _, test := range []struct {
		name                string
		before, unit, after string
		size, atLeast       int
		fails               bool
	}{
		{"lines", "", opened + "\n", "", stream, stream / 60, false},
		{"array", "[" + opened, "," + opened, "]", stream, stream / 60, false},
		{"envelope", `{"events":[` + opened, ",\n" + clicked, "]}", stream, stream / 60, false},
		{"broken lines", opened + "\n", "{\"event\":\n", "", stream, stream / 12, false},
		{"no objects", "[0", ",0", "]", stream / 4, stream / 10, false},
		{"events arrays", `{"events":[` + opened + "]", `,"events":[` + opened + "]", "}", stream, stream / 70, false},
		{"envelopes on lines", "", `{"events":[` + opened + "]}\n", "", stream, stream / 70, false},
		{"a giant string in an element", `[` + opened + `,{"event":"open","category":"`, "x", `"},` + clicked + `]`, huge, 3, false},
		{"a giant element of small members", `[` + opened + `,{"event":"open"`, `,"a":1`, `},` + clicked + `]`, giant, 3, false},
		{"a giant element of blanks", `[` + opened + `,{`, " ", `"event":"open"},` + clicked + `]`, giant, 3, false},
		{"a giant number", `[1`, "1", `,` + clicked + `]`, giant, 2, false},
		{"a giant line", opened + "\n" + `{"event":"open","category":"`, "x", "\"}\n" + clicked, huge, 3, false},
		{"a giant line of blanks", opened + "\n" + `{`, " ", "\"event\":\"open\"}\n" + clicked, giant, 3, false},
		{"a giant line of garbage", opened + "\n", "x", "\n" + clicked, giant, 3, false},
		{"a giant first line", `{"event":"open","category":"`, "x", "\"}\n" + clicked, giant, 2, false},
		{"a giant first line of small members", `{"event":"open"`, `,"a":1`, "}\n" + clicked, giant, 2, false},
		{"a giant first line of blanks", `{`, " ", "\"event\":\"open\"}\n" + clicked, giant, 2, false},
		{"a giant tail of the first line", opened, " ", "\n" + clicked, giant, 2, false},
		{"a giant object over lines", "{\n\"event\":\"open\",\"category\":\"", "x", "\"}", giant, 1, false},
		{"a giant object of blank lines", "{", "\n", "\"event\":\"open\"}", giant, 1, false},
		{"a giant member before events", `{"x":[0`, ",0", `],"events":[` + opened + `]}`, giant, 1, false},
		{"a giant key before events", `{"`, "x", `":0,"events":[` + opened + `]}`, giant, 1, false},
		{"giant blanks before events", `{"x":0,`, " ", `"events":[` + opened + `]}`, giant, 1, false},
		{"giant blanks before the body", "", " \n", opened, giant, 1, false},
		{"giant blanks among lines", opened, "\n", clicked, giant, 2, false},
		{"giant blanks behind an envelope", `{"events":[` + opened + `]}`, "\n", "", giant, 1, false},
		{"giant garbage", "garbage", "garbage ", "", giant, 0, true},
		{"giant garbage of many lines", "garbage", "garbage\n", "", giant, 0, true},
		{"a broken first object, then many lines", "{]\n", "5\n", "", giant, 0, true},
		{"an envelope, then many broken lines", `{"events":[]}` + "\n", "5\n", "", giant, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			d := mailtrapwebhook.NewDecoder(repeated(test.before, test.unit, test.after, test.size))
			d.MaxEventBytes = 8 << 20 / share
			events, most, read := 0, uint64(0), 0
			sample := func() {
				runtime.GC()
				runtime.ReadMemStats(&after)
				if after.HeapAlloc > before.HeapAlloc {
					most = max(most, after.HeapAlloc-before.HeapAlloc)
				}
			}
			err := error(nil)
			for {
				var ev mailtrapwebhook.Event
				if ev, err = d.Decode(); err != nil {
					break
				}
				read += len(rawOf(ev))
				if events++; events%50_000 == 1 {
					sample()
				}
			}
			sample()
			require.Equal(t, test.fails, err != io.EOF, "%v", err)
			require.GreaterOrEqual(t, events, test.atLeast)
			require.Less(t, most, uint64(bound), "bytes in use")
			runtime.KeepAlive(d)
		})
	}
}

func TestEventsIterator(t *testing.T) {
	t.Run("gives all events and no error", func(t *testing.T) {
		var events []mailtrapwebhook.Event
		for ev, err := range mailtrapwebhook.NewDecoder(strings.NewReader(opened + "\n{]\n" + clicked)).Events() {
			require.NoError(t, err)
			events = append(events, ev)
		}
		requireEvents(t, opened+"\n{]\n"+clicked, inOrder(good(opened), bad("{]", len(opened)+2, ""), good(clicked)), events)
	})
	t.Run("ends after the first error", func(t *testing.T) {
		var raws []string
		var errs []error
		for ev, err := range mailtrapwebhook.NewDecoder(strings.NewReader(`[` + opened + `,]`)).Events() {
			if err != nil {
				require.Nil(t, ev)
				errs = append(errs, err)
				continue
			}
			raws = append(raws, rawOf(ev))
		}
		require.Equal(t, []string{opened}, raws)
		require.Len(t, errs, 1)
		require.ErrorAs(t, errs[0], new(*mailtrapwebhook.DecodeError))
	})
	t.Run("may be left", func(t *testing.T) {
		d := mailtrapwebhook.NewDecoder(strings.NewReader(opened + "\n" + clicked + "\n" + logged))
		for range d.Events() {
			break
		}
		ev, err := d.Decode()
		require.NoError(t, err)
		require.Equal(t, clicked, rawOf(ev))
		for range mailtrapwebhook.NewDecoder(strings.NewReader(`[,`)).Events() {
			break
		}
	})
	t.Run("gives nothing for nothing", func(t *testing.T) {
		for range mailtrapwebhook.NewDecoder(strings.NewReader(`[]`)).Events() {
			t.Fatal("there is an event")
		}
	})
}

func TestParseKeepsNothingOfTheBody(t *testing.T) {
	body := []byte(`{"events":[` + opened + `]}`)
	events, err := mailtrapwebhook.Parse(body)
	require.NoError(t, err)
	copy(body, bytes.Repeat([]byte("x"), len(body)))
	require.Equal(t, soleEvent(t, opened), events[0])
}
