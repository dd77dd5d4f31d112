package mailtrapwebhook_test

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/stretchr/testify/require"
)

const blanks = " \t\r\n"

// seeds gives f every body of the tests, with as many numbers as its target takes.
func seeds(f *testing.F, numbers ...any) {
	add := func(body string) { f.Add(append([]any{[]byte(body)}, numbers...)...) }
	for _, test := range bodies {
		add(test.body)
	}
	for _, test := range decodable {
		add(test.json)
		add(`{"events":[` + test.json + `]}`)
	}
	for _, body := range sampleFiles(f) {
		add(body)
	}
}

// A verdict is what encoding/json, made to follow the package's documented rules, says of a body.
type verdict struct {
	raws   []string // the text of each event
	broken bool     // the body is
}

// judge holds all the differences from encoding/json that there are between a body and the texts of its events: a
// byte-order mark is skipped, a scalar is no body, several events arrays are one, and lines that are broken are events
// like the others. That keys match exactly and how scalars are read is for [oracle]. Changes that take very much memory
// are left to TestChangesThatTakeTooMuchMemory: fuzzed bodies are too small for them.
func judge(body string) verdict {
	body = strings.TrimLeft(strings.TrimPrefix(body, bom), blanks)
	switch {
	case strings.HasPrefix(body, "["):
		dec := json.NewDecoder(strings.NewReader(body))
		_, _ = dec.Token()
		raws, _ := elements(dec, body)
		return verdict{raws, !json.Valid([]byte(body))}
	case strings.HasPrefix(body, "{"):
		return judgeObject(body)
	case linesAfterFirst(body):
		return verdict{lines(body), false}
	}
	return verdict{nil, true}
}

func judgeObject(body string) verdict {
	raws, end, envelope, ok := members(body)
	behind := ""
	oneLine := false
	if ok {
		behind = strings.TrimLeft(body[end:], " \t\r")
		oneLine = !strings.Contains(body[:end], "\n")
	}
	switch {
	case ok && envelope && oneLine && strings.HasPrefix(behind, "\n") && anyObject(strings.Split(behind, "\n")):
		return verdict{lines(body), false} // of which it is the first
	case envelope:
		return verdict{raws, !ok || strings.Trim(behind, blanks) != ""}
	case ok && oneLine && (behind == "" || behind[0] == '\n'):
		return verdict{lines(body), false}
	case ok && !oneLine:
		return verdict{[]string{body[:end]}, strings.Trim(behind, blanks) != ""}
	case linesAfterFirst(body):
		return verdict{lines(body), false}
	}
	return verdict{nil, true}
}

// lines returns the events of a body in JSON Lines.
func lines(body string) (raws []string) {
	for line := range strings.SplitSeq(body, "\n") {
		line = strings.Trim(line, " \t\r")
		if isObject(line) {
			if events, _, envelope, _ := members(line); envelope {
				raws = append(raws, events...)
				continue
			}
		}
		if line != "" {
			raws = append(raws, line)
		}
	}
	return raws
}

func linesAfterFirst(body string) bool { return anyObject(strings.Split(body, "\n")[1:]) }

func anyObject(lines []string) bool {
	for _, line := range lines {
		if isObject(strings.Trim(line, " \t\r")) {
			return true
		}
	}
	return false
}

func isObject(text string) bool { return strings.HasPrefix(text, "{") && json.Valid([]byte(text)) }

// members walks over the object that text begins with and returns the elements of its events arrays.
func members(text string) (raws []string, end int, envelope, ok bool) {
	dec := json.NewDecoder(strings.NewReader(text))
	_, _ = dec.Token()
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return raws, 0, envelope, false
		}
		value, colon := strings.CutPrefix(strings.TrimLeft(text[dec.InputOffset():], blanks), ":")
		if key == "events" && colon && strings.HasPrefix(strings.TrimLeft(value, blanks), "[") {
			envelope = true
			_, _ = dec.Token()
			list, ok := elements(dec, text)
			if raws = append(raws, list...); !ok {
				return raws, 0, true, false
			}
			continue
		}
		if dec.Decode(new(json.RawMessage)) != nil {
			return raws, 0, envelope, false
		}
	}
	_, err := dec.Token()
	return raws, int(dec.InputOffset()), envelope, err == nil
}

// elements returns the elements of an array up to its end or the first fault.
func elements(dec *json.Decoder, text string) (raws []string, ok bool) {
	for dec.More() {
		var raw json.RawMessage
		if dec.Decode(&raw) != nil {
			return raws, false
		}
		if c := raw[len(raw)-1]; '0' <= c && c <= '9' && int(dec.InputOffset()) == len(text) {
			return raws, false // a number at the end may not be all of it
		}
		raws = append(raws, string(raw))
	}
	_, err := dec.Token()
	return raws, err == nil
}

// members of an event as encoding/json has them, which knows of no case where keys are a map's.
type fields struct {
	of  map[string]any
	bad bool
}

func (f *fields) str(key string) string {
	s, ok := f.of[key].(string)
	f.bad = f.bad || !ok && f.of[key] != nil
	return s
}

func (f *fields) id(key string) string {
	if n, ok := f.of[key].(json.Number); ok {
		return n.String()
	}
	return f.str(key)
}

func (f *fields) integer(key string) int64 {
	text := f.id(key)
	if f.of[key] == nil {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	_, isText := f.of[key].(string)
	f.bad = f.bad || err != nil || isText && strings.ContainsAny(text, "+-")
	return n
}

func (f *fields) time(key string, of func(int64) time.Time) time.Time {
	if n := f.integer(key); f.of[key] != nil {
		return of(n).UTC()
	}
	return time.Time{}
}

// object returns nil if there is none.
func (f *fields) object(key string) *fields {
	m, ok := f.of[key].(map[string]any)
	f.bad = f.bad || !ok && f.of[key] != nil
	if !ok {
		return nil
	}
	return &fields{of: m}
}

func (f *fields) variables(key string) mailtrapwebhook.Variables {
	if f.object(key) == nil {
		return ""
	}
	text, _ := json.Marshal(f.of[key])
	return mailtrapwebhook.Variables(text)
}

// oracle returns the event that a text is, its Raw apart, and whether there is something wrong with it.
func oracle(raw string) (ev mailtrapwebhook.Event, name string, bad bool) {
	dec := json.NewDecoder(strings.NewReader(raw))
	dec.UseNumber()
	var value any
	if !json.Valid([]byte(raw)) || dec.Decode(&value) != nil {
		return nil, "", true
	}
	f := &fields{}
	var ok bool
	if f.of, ok = value.(map[string]any); !ok {
		return nil, "", true
	}
	name, _ = f.of["event"].(string)
	canonical := map[string]string{"soft_bounce": "soft bounce", "spam_complaint": "spam", "inbound_message_received": "inbound.message_received"}[name]
	if canonical == "" {
		canonical = name
	}
	switch canonical {
	case "":
		return nil, "", true
	case "delivery", "open", "click", "unsubscribe", "spam", "soft bounce", "bounce", "suspension", "reject":
		ev = &mailtrapwebhook.SendingWebhookEvent{
			Event: mailtrapwebhook.EventType(canonical), MessageID: f.id("message_id"), SendingStream: mailtrapwebhook.SendingStream(f.str("sending_stream")),
			Email: f.str("email"), SendingDomainName: f.str("sending_domain_name"), Category: f.str("category"),
			CustomVariables: f.variables("custom_variables"), Timestamp: f.time("timestamp", seconds), EventID: f.id("event_id"),
			Reason: f.str("reason"), Response: f.str("response"), ResponseCode: int(f.integer("response_code")),
			BounceCategory: mailtrapwebhook.BounceCategory(f.str("bounce_category")), IP: f.str("ip"), UserAgent: f.str("user_agent"), URL: f.str("url"),
		}
	case "inbound.message_received":
		e := &mailtrapwebhook.InboundWebhookEvent{
			Event: canonical, EventID: f.id("event_id"), InboxID: f.integer("inbox_id"), MessageID: f.id("message_id"),
			From: f.str("from"), Timestamp: f.time("timestamp", time.UnixMilli),
		}
		if other := f.integer("inbound_inbox_id"); f.of["inbox_id"] == nil {
			e.InboxID = other
		} else if f.of["inbound_inbox_id"] != nil {
			e.InboxID = 0 // both: nobody says which counts
		}
		ev = e
	default:
		if !strings.HasPrefix(name, "activity_log.") {
			return &mailtrapwebhook.UnknownEvent{Event: name}, name, false
		}
		ev = auditOracle(f)
	}
	return ev, canonical, f.bad
}

func seconds(n int64) time.Time { return time.Unix(n, 0) }

func auditOracle(f *fields) mailtrapwebhook.Event {
	e := &mailtrapwebhook.ActivityLogWebhookEvent{Event: f.str("event"), Description: f.str("description"), Timestamp: f.time("timestamp", seconds)}
	if a := f.object("actor"); a != nil {
		e.Actor = mailtrapwebhook.Actor{ID: a.integer("id"), Type: mailtrapwebhook.ActorType(a.str("type")), Name: a.str("name")}
		f.bad = f.bad || a.bad
	}
	if r := f.object("resource"); r != nil {
		e.Resource = &mailtrapwebhook.Resource{ID: r.id("id"), Type: mailtrapwebhook.ResourceType(r.str("type")), Name: r.str("name")}
		f.bad = f.bad || r.bad
	}
	if changes := f.object("changes"); changes != nil {
		for name := range changes.of {
			if e.Changes == nil {
				e.Changes = make(map[string]mailtrapwebhook.Change)
			}
			e.Changes[name] = mailtrapwebhook.Change{}
			if c := changes.object(name); c != nil {
				e.Changes[name] = mailtrapwebhook.Change{From: c.of["from"], To: c.of["to"]}
			}
		}
		f.bad = f.bad || changes.bad
	}
	return e
}

// requireOracle asserts that an event is what its text says.
func requireOracle(t *testing.T, ev mailtrapwebhook.Event) {
	t.Helper()
	want, name, bad := oracle(rawOf(ev))
	unknown, isUnknown := ev.(*mailtrapwebhook.UnknownEvent)
	if bad {
		require.True(t, isUnknown, "%q is read as %T", rawOf(ev), ev)
		require.ErrorAs(t, unknown.Err, new(*mailtrapwebhook.DecodeError))
		require.Equal(t, name, ev.Name())
		return
	}
	require.False(t, isUnknown && unknown.Err != nil, "%q cannot be read", rawOf(ev))
	if in, ok := want.(*mailtrapwebhook.InboundWebhookEvent); ok && in.InboxID == 0 {
		in.InboxID = ev.(*mailtrapwebhook.InboundWebhookEvent).InboxID
	}
	if diff := cmp.Diff(want, ev, ignoreRaw, asMaps); diff != "" {
		t.Errorf("%q (-encoding/json +package):\n%s", rawOf(ev), diff)
	}
}

func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		if bytes.Count(body, []byte("["))+bytes.Count(body, []byte("{")) > 9000 {
			return // json.Decoder counts the depth of each element alone
		}
		before := bytes.Clone(body)
		events, err := mailtrapwebhook.Parse(body)
		require.Equal(t, before, body)

		want := judge(string(body))
		require.Equal(t, want.broken, err != nil, "%v", err)
		if err != nil {
			var fault *mailtrapwebhook.DecodeError
			require.ErrorAs(t, err, &fault)
			require.LessOrEqual(t, int(fault.Offset), len(body))
			require.Equal(t, 1+bytes.Count(body[:fault.Offset], []byte("\n")), fault.Line)
		}
		var raws []string
		for _, ev := range events {
			raws = append(raws, rawOf(ev))
		}
		require.Equal(t, want.raws, raws)
		for _, ev := range events {
			requireOracle(t, ev)
			requireRoundTrip(t, ev)
			require.NotEmpty(t, ev.Key())
			require.Equal(t, ev.Key(), clone(ev).Key())
			if again, err := mailtrapwebhook.Parse([]byte("[" + rawOf(ev) + "]")); err == nil && len(again) == 1 {
				require.Equal(t, ev.Key(), again[0].Key())
			}
		}
	})
}

func FuzzDecoder(f *testing.F) {
	seeds(f, uint64(1), 5)
	f.Fuzz(func(t *testing.T, body []byte, seed uint64, most int) {
		want, wantErr := mailtrapwebhook.Parse(body)
		for _, r := range []io.Reader{
			iotest.OneByteReader(bytes.NewReader(body)),
			iotest.DataErrReader(bytes.NewReader(body)),
			chunks{bytes.NewReader(body), max(1, most&0xFFFF), rand.New(rand.NewPCG(seed, 0))},
		} {
			got, err := drain(mailtrapwebhook.NewDecoder(r))
			requireSame(t, want, got, wantErr, err)
		}
	})
}
