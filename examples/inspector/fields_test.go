package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// byName returns the fields of an item.
func byName(it item) map[string]field {
	fields := make(map[string]field)
	for _, f := range it.Fields {
		fields[f.Name] = f
	}
	return fields
}

func TestEverySampleIsShownWithPlacesAndWithoutMarks(t *testing.T) {
	for _, format := range []mailtrapwebhook.Format{mailtrapwebhook.FormatJSON, mailtrapwebhook.FormatJSONLines} {
		events := webhooktest.Samples()
		body := webhooktest.Body(format, events...)
		items, truncated := itemsOf(body)
		require.False(t, truncated)
		require.Len(t, items, len(events))
		for i, it := range items {
			require.Equal(t, events[i].RawJSON(), string(body[it.Offset:it.Offset+it.Length]))
			require.Equal(t, events[i].Name(), it.Kind)
			require.Equal(t, events[i].Key(), it.Key)
			require.NotEqual(t, kindUnknown, it.Type)
			require.NotEmpty(t, it.Time)
			require.Nil(t, it.Error)
			for _, f := range it.Fields {
				require.Empty(t, f.Odd, f.Name)
				require.False(t, f.Unknown, f.Name)
				require.True(t, bytes.HasPrefix(body[f.Offset:], []byte(f.Value)) ||
					bytes.HasPrefix(body[f.Offset:], []byte(`"`+f.Value)), f.Name)
			}
		}
	}
}

func TestOddAndUnknownFieldsAreMarked(t *testing.T) {
	body := []byte(`{"events":[{"event":"bounce","response_code":"5.1.1","email":7,"novel":{"a":1},` +
		`"custom_variables":{"plan":"pro","n":12345678901234567890},"timestamp":null},` +
		`{"event":"activity_log.x","actor":{"id":"x","name":"N","novel":1},"changes":{"name":{"from":"a","to":[1]},"flag":2}}]}`)
	items, _ := itemsOf(body)
	require.Len(t, items, 2)
	fields := byName(items[0])
	require.Contains(t, fields["response_code"].Odd, "response_code is not an integer")
	require.Equal(t, "5.1.1", fields["response_code"].Value)
	require.Equal(t, `"5.1.1"`, string(body[fields["response_code"].Offset:][:7]))
	require.Equal(t, "email is not a string", fields["email"].Odd)
	require.Equal(t, field{Name: "novel", Value: `{"a":1}`, Offset: fields["novel"].Offset, Unknown: true}, fields["novel"])
	require.Equal(t, "12345678901234567890", fields["custom_variables.n"].Value)
	require.Empty(t, fields["timestamp"].Odd)
	require.Equal(t, int64(fields["response_code"].Offset), items[0].Error.Offset)

	fields = byName(items[1])
	require.Contains(t, fields["actor.id"].Odd, "actor.id is not an integer")
	require.True(t, fields["actor.novel"].Unknown)
	require.False(t, fields["actor.name"].Unknown)
	require.Equal(t, "[1]", fields["changes.name.to"].Value)
	require.Equal(t, "2", fields["changes.flag"].Value)
	require.False(t, fields["changes.flag"].Unknown)
}

func TestWhatIsNoEventHasItsReasonAndPlace(t *testing.T) {
	body := []byte("{\"event\":\"open\"}\n  {\"event\":\"op\n7\n{\"event\":\"brand new\",\"email\":\"x\"}\n{\"event\":\"click\"}\n")
	items, _ := itemsOf(body)
	require.Len(t, items, 5)
	require.Equal(t, []string{"open", "unknown", "unknown", "brand new", "click"},
		[]string{items[0].Kind, items[1].Kind, items[2].Kind, items[3].Kind, items[4].Kind})
	require.Equal(t, 2, items[1].Error.Line)
	require.Equal(t, `{"event":"op`, string(body[items[1].Offset:][:items[1].Length]))
	require.Equal(t, "the element is not an object", items[2].Error.Text)
	require.Nil(t, items[3].Error)
	require.True(t, byName(items[3])["email"].Unknown)
	require.Equal(t, bytes.LastIndex(body, []byte("{")), items[4].Offset)
}

func TestEventsAreFoundBehindWhatLooksLikeOne(t *testing.T) {
	body := []byte(`{"copy":{"event":"open"},"events":[{"event":"open"},{"event":"open"}]}`)
	items, _ := itemsOf(body)
	require.Len(t, items, 2)
	require.Equal(t, strings.Index(string(body), `[{`)+1, items[0].Offset)
	require.Equal(t, strings.LastIndex(string(body), `{`), items[1].Offset)
}

func TestWhatIsShownOfALargeDeliveryIsBounded(t *testing.T) {
	items, truncated := itemsOf(bytes.Repeat([]byte(`{"event":"open"}`+"\n"), maxItems+1))
	require.Len(t, items, maxItems)
	require.True(t, truncated)

	line := `{"event":"open","email":"` + strings.Repeat("é", maxValue) + `"}` + "\n"
	items, truncated = itemsOf([]byte(strings.Repeat(line, 30)))
	require.True(t, truncated)
	require.Less(t, len(items), 20)
	email := byName(items[0])["email"]
	require.True(t, email.Cut)
	require.LessOrEqual(t, len(email.Value), maxValue)
}

func TestTheFieldsOfAnEventAreBounded(t *testing.T) {
	t.Parallel()
	for _, event := range []string{
		`{"event":"open"` + strings.Repeat(`,"x":1`, 500_000) + "}",
		`{"event":"open","custom_variables":{"a":1` + strings.Repeat(`,"x":1`, 500_000) + "}}",
		`{"event":"open","email":1` + strings.Repeat(`,"custom_variables":{"a":1,"b":2}`, 100_000) + "}",
		`{"event":"activity_log.x","changes":{"a":{}` + strings.Repeat(`,"x":{"from":1,"to":2}`, 100_000) + "}}",
	} {
		items, _ := itemsOf([]byte(event))
		require.Len(t, items, 1)
		require.Equal(t, maxFields, len(items[0].Fields))
	}
}

func FuzzItemsOf(f *testing.F) {
	f.Add(sampleBody("bounce", "activity_log.user.updated"))
	f.Add([]byte(`{"copy":{"event":"open"},"events":[{"event":"open"}],"events":[{"event":"open"}]}`))
	f.Add([]byte("{\"event\":\"open\",\"actor\":\"\xff\"}\n{\n7"))
	f.Add([]byte(`[{"event":"bounce","email":{"\ud800":[]},"email":1}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		items, _ := itemsOf(body)
		last := 0
		for _, it := range items {
			require.GreaterOrEqual(t, it.Offset, last)
			last = it.Offset + it.Length
			require.LessOrEqual(t, last, len(body))
			for _, f := range it.Fields {
				require.GreaterOrEqual(t, f.Offset, it.Offset)
				require.LessOrEqual(t, f.Offset, last)
			}
		}
	})
}

func TestLongNamesOfFieldsAreCut(t *testing.T) {
	// Each of the 1,000 fields would otherwise have the long name in its own.
	long := strings.Repeat("é", 1<<19)
	body := `{"event":"activity_log.x","changes":{"` + long + `":{` + strings.Repeat(`"a":1,`, 999) + `"a":1}},"` + long + `":1}`
	items, _ := itemsOf([]byte(body))
	require.Len(t, items[0].Fields, maxFields)
	for _, f := range items[0].Fields {
		require.LessOrEqual(t, len(f.Name), 2100)
		require.True(t, utf8.ValidString(f.Name))
	}
}
