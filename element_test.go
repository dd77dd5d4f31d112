package mailtrapwebhook_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestUnmarshalRefusesAnotherKind(t *testing.T) {
	texts := map[string]string{
		"sending": `{"event":"open"}`, "audit log": `{"event":"activity_log.x"}`,
		"inbound": `{"event":"inbound.message_received"}`, "unknown": `{"event":"telepathy"}`,
	}
	into := map[string]func() any{
		"sending":   func() any { return &mw.SendingWebhookEvent{Email: "kept"} },
		"audit log": func() any { return &mw.ActivityLogWebhookEvent{Description: "kept"} },
		"inbound":   func() any { return &mw.InboundWebhookEvent{From: "kept"} },
		"unknown":   func() any { return &mw.UnknownEvent{Event: "kept"} },
	}
	for kind, text := range texts {
		for other, fresh := range into {
			t.Run(kind+" into "+other, func(t *testing.T) {
				dst := fresh()
				err := json.Unmarshal([]byte(text), dst)
				if kind == other {
					require.NoError(t, err)
					require.Equal(t, soleEvent(t, text), dst)
					return
				}
				require.Error(t, err)
				require.Equal(t, fresh(), dst)
			})
		}
	}
	for other, fresh := range into {
		dst := fresh()
		require.NoError(t, json.Unmarshal([]byte(`null`), dst), other)
		require.Equal(t, fresh(), dst, "null changes nothing")
		if other == "unknown" {
			continue
		}
		for _, text := range []string{`5`, `"open"`, `{}`, `{"event":5}`, `{"event":""}`} {
			require.ErrorAs(t, json.Unmarshal([]byte(text), dst), new(*mw.DecodeError), "%s into %s", text, other)
			require.Equal(t, fresh(), dst)
		}
	}
	var inside struct {
		A, B *mw.SendingWebhookEvent
	}
	require.NoError(t, json.Unmarshal([]byte(`{"A": {"event":"open"} ,"B":null}`), &inside))
	require.Equal(t, mw.EventOpen, inside.A.Event)
	require.Nil(t, inside.B)
}

func TestUnmarshalOfAWholeDeliverySaysSo(t *testing.T) {
	for _, text := range []string{
		`[]`, `[{"event":"open"}]`, `{"events":[]}`, `{"events":[{"event":"open"}]}`, ` {"id":1, "\u0065vents" : [] } `,
		`{"events":[{"event":"activity_log.x"}]}`, `{"events":[{"event":"inbound.message_received"}]}`, `{"events":[{"event":"telepathy"}]}`,
	} {
		for _, dst := range []mw.Event{
			&mw.SendingWebhookEvent{Email: "kept"}, &mw.ActivityLogWebhookEvent{Description: "kept"}, &mw.InboundWebhookEvent{From: "kept"}, &mw.UnknownEvent{Event: "kept"},
		} {
			before := copyOf(dst)
			require.ErrorContains(t, json.Unmarshal([]byte(text), dst), "delivery", "%s into %T", text, dst)
			require.ErrorContains(t, json.Unmarshal([]byte(text), dst), "use Parse")
			require.Equal(t, before, dst)
		}
	}
	var ev mw.SendingWebhookEvent
	require.NoError(t, json.Unmarshal([]byte(`{"event":"open","events":[1]}`), &ev), "an event that has such a member too")
	require.ErrorContains(t, json.Unmarshal([]byte(`{"events":5}`), &ev), "event is missing")
}

func TestUnmarshalRefusesWhatIsNotJSON(t *testing.T) {
	for _, text := range []string{``, ` `, `{"event":"open"`, `{"event":"open"} x`, `{"event":"open"}{}`, `x`, `[`} {
		for _, dst := range []json.Unmarshaler{new(mw.SendingWebhookEvent), new(mw.ActivityLogWebhookEvent), new(mw.InboundWebhookEvent), new(mw.UnknownEvent)} {
			require.ErrorAs(t, dst.UnmarshalJSON([]byte(text)), new(*mw.DecodeError), "%q", text)
		}
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
			first := mw.NewDecoder(strings.NewReader(test.body))
			first.MaxEventBytes = limit
			want, wantErr := drain(first)
			for name, reader := range readers {
				d := mw.NewDecoder(reader(strings.NewReader(test.body)))
				d.MaxEventBytes = limit
				events, err := drain(d)
				require.Equal(t, test.end, err != nil, "%s: %v", name, err)
				require.Len(t, events, len(test.want), name)
				for i, ev := range events {
					require.Equal(t, test.want[i], ev.RawJSON(), name)
					unknown, ok := ev.(*mw.UnknownEvent)
					require.Equal(t, test.want[i] == "", ok, name)
					if ok {
						var fault *mw.DecodeError
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
			events, err := mw.Parse([]byte(test.body))
			require.Equal(t, test.end, err != nil)
			for _, ev := range events {
				require.NotEmpty(t, ev.RawJSON(), "Parse has no limit")
			}
		})
	}
	t.Run("may be as large as an int", func(t *testing.T) {
		for _, most := range []int{math.MaxInt, math.MaxInt - 1, math.MaxInt / 2} {
			for _, r := range []io.Reader{strings.NewReader(logged + "\n" + opened), iotest.OneByteReader(strings.NewReader(logged + "\n" + opened))} {
				d := mw.NewDecoder(r)
				d.MaxEventBytes = most
				events, err := drain(d)
				require.NoError(t, err)
				requireEvents(t, logged+"\n"+opened, good(logged, opened), events)
			}
		}
	})
	t.Run("decides alike however the body arrives", func(t *testing.T) {
		for _, body := range []string{sized(200) + " x\n" + opened + "\n" + clicked, "{ \n" + opened + "\n", sized(99) + "          x\n" + opened, `{"events":[` + opened + `]}`,
			`[` + strings.Repeat("1", 102) + `x]`, `[{"a":` + strings.Repeat(" ", 102) + `x},5]`, `[{"a":x` + strings.Repeat(" ", 102) + `},5]`, `{"a":` + strings.Repeat(" ", 102) + `x}`} {
			for _, most := range []int{1, 5, 100} {
				whole, small := mw.NewDecoder(strings.NewReader(body)), mw.NewDecoder(iotest.OneByteReader(strings.NewReader(body)))
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
				d := mw.NewDecoder(r)
				d.MaxEventBytes = read
				events, err := drain(d)
				require.NoError(t, err)
				require.Len(t, events, 1)
				require.IsType(t, &mw.UnknownEvent{}, events[0])
			}
		}
	})
	t.Run("is 1 MiB by default", func(t *testing.T) {
		events, err := drain(mw.NewDecoder(strings.NewReader(`[` + sized(1<<20) + `,` + sized(1<<20+1) + `]`)))
		require.NoError(t, err)
		require.Len(t, events, 2)
		require.Len(t, events[0].RawJSON(), 1<<20)
		require.Empty(t, events[1].RawJSON())
	})
}

func TestFieldsAreJSON(t *testing.T) {
	for _, field := range []string{"timestamp", "response_code", "message_id", "email", "custom_variables", "new"} {
		for _, value := range []string{`01`, `00`, `-01`, `1.`, `.5`, `-`, `+1`, `1e`, `0x1`, `nul`, `nulll`, `tru`, `NaN`, `'x'`, `"\x"`, `"\u12G4"`, "\"\t\"",
			`[1,]`, `{"a":1,}`, `{,}`, `{"a":01}`, `{a:1}`, `1 2`, ``, `,`, `"a""b"`} {
			line := `{"event":"bounce","` + field + `":` + value + `}`
			require.False(t, json.Valid([]byte(line)), line)
			events, err := mw.Parse([]byte(opened + "\n" + line + "\n" + clicked))
			require.NoError(t, err, line)
			require.Len(t, events, 3, line)
			unknown, ok := events[1].(*mw.UnknownEvent)
			require.True(t, ok && unknown.Err != nil && unknown.Raw == line, line)

			events, err = mw.Parse([]byte(`{"events":[` + opened + `,` + line + `,` + clicked + `]}`))
			require.ErrorAs(t, err, new(*mw.DecodeError), line)
			require.Len(t, events, 1, line)
		}
	}
}
