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
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
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

// judge holds the differences between encoding/json and the package in what a
// body is: a byte-order mark is skipped, a scalar is no body, several arrays of
// events are one, and a broken line, but for the first, is an event. Keys and
// scalars are for [oracle].
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
	}
	return verdict{nil, true}
}

func judgeObject(body string) verdict {
	raws, end, envelope, ok := members(body)
	switch {
	case envelope:
		return verdict{raws, !ok || strings.Trim(body[end:], blanks) != ""}
	case !ok:
		return verdict{nil, true}
	case strings.Contains(body[:end], "\n"):
		return verdict{[]string{body[:end]}, strings.Trim(body[end:], blanks) != ""}
	}
	tail, rest, _ := strings.Cut(body[end:], "\n")
	if strings.Trim(tail, blanks) != "" {
		return verdict{nil, true}
	}
	return verdict{append([]string{body[:end]}, lines(rest)...), false}
}

// lines returns the lines that are not blank.
func lines(text string) (raws []string) {
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.Trim(line, " \t\r"); line != "" {
			raws = append(raws, line)
		}
	}
	return raws
}

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

// fields are the members of an event as encoding/json has them. Keys in a map
// match exactly.
type fields struct {
	of  map[string]any
	bad bool // a field is not of its form
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

func (f *fields) integer(key string) (n int64, ok bool) {
	text := f.id(key)
	if f.of[key] == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if _, isText := f.of[key].(string); err != nil || isText && strings.ContainsAny(text, "+-") {
		f.bad = true
		return 0, false
	}
	return n, true
}

func (f *fields) number(key string) int64 {
	n, _ := f.integer(key)
	return n
}

func (f *fields) time(key string) time.Time {
	n, ok := f.integer(key)
	switch {
	case !ok:
		return time.Time{}
	case n > -1e11 && n < 1e11:
		return time.Unix(n, 0).UTC()
	}
	return time.UnixMilli(n).UTC()
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

func (f *fields) text(key string) string {
	if f.object(key) == nil {
		return ""
	}
	text, _ := json.Marshal(f.of[key])
	return string(text)
}

// oracle returns the event that a text is, without Raw and Err, and whether it
// has an Err. It returns nil for a text without a readable name.
func oracle(raw string) (ev mw.Event, bad bool) {
	dec := json.NewDecoder(strings.NewReader(raw))
	dec.UseNumber()
	var value any
	if !json.Valid([]byte(raw)) || dec.Decode(&value) != nil {
		return nil, true
	}
	f := &fields{}
	f.of, _ = value.(map[string]any)
	name, _ := f.of["event"].(string)
	switch name {
	case "":
		return nil, true
	case "delivery", "open", "click", "unsubscribe", "spam", "soft bounce", "bounce", "suspension", "reject":
		ev = sendingOracle(f, mw.EventType(name))
	case "soft_bounce":
		ev = sendingOracle(f, mw.EventSoftBounce)
	case "spam_complaint":
		ev = sendingOracle(f, mw.EventSpam)
	case "inbound.message_received", "inbound_message_received":
		ev = inboundOracle(f)
	default:
		if !strings.HasPrefix(name, "activity_log.") {
			return &mw.UnknownEvent{Event: name}, false
		}
		ev = auditOracle(f)
	}
	return ev, f.bad
}

func sendingOracle(f *fields, name mw.EventType) mw.Event {
	return &mw.SendingWebhookEvent{
		Event: name, MessageID: f.id("message_id"), SendingStream: mw.SendingStream(f.str("sending_stream")),
		Email: f.str("email"), SendingDomainName: f.str("sending_domain_name"), Category: f.str("category"),
		CustomVariables: mw.Variables(f.text("custom_variables")), Timestamp: f.time("timestamp"), EventID: f.id("event_id"),
		Reason: f.str("reason"), Response: f.str("response"), ResponseCode: int(f.number("response_code")),
		BounceCategory: mw.BounceCategory(f.str("bounce_category")), IP: f.str("ip"), UserAgent: f.str("user_agent"), URL: f.str("url"),
	}
}

func inboundOracle(f *fields) mw.Event {
	e := &mw.InboundWebhookEvent{
		Event: "inbound.message_received", EventID: f.id("event_id"), InboxID: f.number("inbox_id"),
		MessageID: f.id("message_id"), From: f.str("from"), Timestamp: f.time("timestamp"),
	}
	if other := f.number("inbound_inbox_id"); e.InboxID == 0 {
		e.InboxID = other
	}
	return e
}

func auditOracle(f *fields) mw.Event {
	e := &mw.ActivityLogWebhookEvent{
		Event: f.str("event"), Description: f.str("description"), Changes: mw.Changes(f.text("changes")), Timestamp: f.time("timestamp"),
	}
	if a := f.object("actor"); a != nil {
		e.Actor = mw.Actor{ID: a.number("id"), Type: mw.ActorType(a.str("type")), Name: a.str("name")}
		f.bad = f.bad || a.bad
	}
	if r := f.object("resource"); r != nil {
		e.Resource = &mw.Resource{ID: r.id("id"), Type: mw.ResourceType(r.str("type")), Name: r.str("name")}
		f.bad = f.bad || r.bad
	}
	return e
}

// requireOracle asserts that an event is what its text says.
func requireOracle(t *testing.T, ev mw.Event) {
	t.Helper()
	want, bad := oracle(ev.RawJSON())
	require.Equal(t, bad, errOf(ev) != nil, "%q: %v", ev.RawJSON(), errOf(ev))
	if bad {
		require.ErrorAs(t, errOf(ev), new(*mw.DecodeError))
	}
	if want == nil {
		require.IsType(t, (*mw.UnknownEvent)(nil), ev)
		require.Empty(t, ev.Name())
		return
	}
	if diff := cmp.Diff(want, ev, ignoreRaw, ignoreErr, asMaps); diff != "" {
		t.Errorf("%q (-encoding/json +package):\n%s", ev.RawJSON(), diff)
	}
}

func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		if bytes.Count(body, []byte("["))+bytes.Count(body, []byte("{")) > 9000 {
			return // json.Decoder counts the depth of each element alone
		}
		before := bytes.Clone(body)
		events, err := mw.Parse(body)
		require.Equal(t, before, body)

		want := judge(string(body))
		require.Equal(t, want.broken, err != nil, "%v", err)
		if err != nil {
			var fault *mw.DecodeError
			require.ErrorAs(t, err, &fault)
			require.LessOrEqual(t, int(fault.Offset), len(body))
			require.Equal(t, 1+bytes.Count(body[:fault.Offset], []byte("\n")), fault.Line)
		}
		var raws []string
		for _, ev := range events {
			raws = append(raws, ev.RawJSON())
		}
		require.Equal(t, want.raws, raws)
		for _, ev := range events {
			requireOracle(t, ev)
			requireRoundTrip(t, ev)
			require.NotEmpty(t, ev.Key())
			require.NotContains(t, ev.Key(), ":")
			require.NotContains(t, ev.Key(), "\n")
			if again, err := mw.Parse([]byte("[" + ev.RawJSON() + "]")); err == nil && len(again) == 1 {
				require.Equal(t, ev.Key(), again[0].Key())
			}
		}
	})
}

func FuzzDecoder(f *testing.F) {
	seeds(f, uint64(1), 5, 40)
	f.Add([]byte(`{"events":[{""}]}0`), uint64(1), 99, -18) // once read unlike by Parse
	f.Fuzz(func(t *testing.T, body []byte, seed uint64, most, limit int) {
		want, wantErr := mw.Parse(body)
		limited := mw.NewDecoder(bytes.NewReader(body))
		limited.MaxEventBytes = max(1, limit)
		wantLimited, wantLimitedErr := drain(limited)
		for _, reader := range []func() io.Reader{
			func() io.Reader { return iotest.OneByteReader(bytes.NewReader(body)) },
			func() io.Reader { return iotest.DataErrReader(bytes.NewReader(body)) },
			func() io.Reader {
				return chunks{bytes.NewReader(body), max(1, most&0xFFFF), rand.New(rand.NewPCG(seed, 0))}
			},
		} {
			got, err := drain(mw.NewDecoder(reader()))
			requireSame(t, want, got, wantErr, err)

			d := mw.NewDecoder(reader())
			d.MaxEventBytes = limited.MaxEventBytes
			got, err = drain(d)
			requireSame(t, wantLimited, got, wantLimitedErr, err)
		}
	})
}
