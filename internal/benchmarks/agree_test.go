package benchmarks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestContendersAgree(t *testing.T) {
	for _, c := range Contenders() {
		for _, f := range Forms {
			t.Run(fmt.Sprintf("%s/%s", c.Name, f), func(t *testing.T) {
				if c.Unfit != "" {
					t.Skip(c.Unfit)
				}
				require.NoError(t, Agree(c, f, Body(f, BatchSize)))
				require.NoError(t, Agree(c, f, Body(f, 1)))
			})
		}
	}
}

func TestPayloadHasEveryKindAndFillsEveryField(t *testing.T) {
	events, err := ours.parsed(Envelope, Body(Envelope, BatchSize))
	require.NoError(t, err)
	require.Len(t, events, BatchSize)
	seen := make(map[string]bool)
	filled := make(map[string]bool)
	typ := reflect.TypeFor[plainEvent]()
	for _, ev := range events {
		seen[ev.Event] = true
		for i := range typ.NumField() {
			if !reflect.ValueOf(ev).Field(i).IsZero() {
				filled[typ.Field(i).Name] = true
			}
		}
	}
	require.Len(t, seen, len(kinds))
	require.Len(t, filled, typ.NumField())
}

func TestEventHasTheFieldsOfOurs(t *testing.T) {
	want := memberNames(reflect.TypeFor[mw.SendingWebhookEvent]())
	require.Greater(t, len(want), 10)
	require.Equal(t, want, memberNames(reflect.TypeFor[plainEvent]()))
}

func memberNames(typ reflect.Type) (names []string) {
	for i := range typ.NumField() {
		if name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// spoilt returns a contender that does as encoding/json and then something wrong.
func spoilt(spoil func(body []byte, events []plainEvent) ([]plainEvent, error)) Contender {
	parse := func(f Form, body []byte) ([]plainEvent, error) {
		events, err := encodingJSON.parsed(f, body)
		if err != nil {
			return nil, err
		}
		return spoil(body, events)
	}
	return contenderOf("wrong", parse, nil, plain)
}

// streamedOnly returns a contender whose Parse is right.
func streamedOnly(c Contender) Contender {
	c.Stream = func(Form, io.Reader) (int, error) { return 0, nil }
	c.streamed = func(f Form, r io.Reader) ([]plainEvent, error) {
		body, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		return c.parsed(f, body)
	}
	right := ours
	right.Stream, right.streamed = c.Stream, c.streamed
	return right
}

func TestWrongContendersAreCaught(t *testing.T) {
	right := spoilt(func(_ []byte, events []plainEvent) ([]plainEvent, error) { return events, nil })
	tests := map[string]struct {
		spoil func(body []byte, events []plainEvent) ([]plainEvent, error)
		want  string
	}{
		"a string":         {spoiling(func(e *plainEvent) { e.Email = strings.ToUpper(e.Email) }), "differs"},
		"an escape":        {spoiling(func(e *plainEvent) { e.URL = strings.ReplaceAll(e.URL, "/", `\/`) }), "differs"},
		"a number":         {spoiling(func(e *plainEvent) { e.ResponseCode = 0 }), "differs"},
		"the time":         {spoiling(func(e *plainEvent) { e.Time = e.Time.AddDate(1, 0, 0) }), "differs"},
		"custom variables": {spoiling(func(e *plainEvent) { e.CustomVariables = e.CustomVariables[:len(e.CustomVariables)/2] }), "differs"},
		"too few events": {func(_ []byte, events []plainEvent) ([]plainEvent, error) { return events[1:], nil },
			"499 events in place of 500"},
		"an error": {func(_ []byte, events []plainEvent) ([]plainEvent, error) { return events, errors.ErrUnsupported },
			"unsupported"},
	}
	for _, f := range Forms {
		body := Body(f, BatchSize)
		require.NoError(t, Agree(right, f, body))
		require.NoError(t, Agree(streamedOnly(right), f, body))
		for name, tt := range tests {
			t.Run(fmt.Sprintf("%s/%s", f, name), func(t *testing.T) {
				require.ErrorContains(t, Agree(spoilt(tt.spoil), f, body), tt.want)
				require.ErrorContains(t, Agree(streamedOnly(spoilt(tt.spoil)), f, body), tt.want)
			})
		}
	}
}

func spoiling(spoil func(*plainEvent)) func([]byte, []plainEvent) ([]plainEvent, error) {
	return func(_ []byte, events []plainEvent) ([]plainEvent, error) {
		for i := range events {
			spoil(&events[i])
		}
		return events, nil
	}
}

func TestEventsThatArePartsOfTheBodyAreCaught(t *testing.T) {
	c := spoilt(func(body []byte, events []plainEvent) ([]plainEvent, error) {
		for i := range events {
			if text := events[i].CustomVariables; text != nil {
				events[i].CustomVariables = body[bytes.Index(body, text):][:len(text)]
			}
		}
		return events, nil
	})
	require.ErrorContains(t, Agree(c, Envelope, Body(Envelope, BatchSize)), "differs")
}

func TestEventsThatAreOverwrittenAreCaught(t *testing.T) {
	c := streamedOnly(spoilt(func(_ []byte, events []plainEvent) ([]plainEvent, error) {
		var text []byte
		for i := range events {
			if events[i].CustomVariables != nil {
				text = append(text[:0], events[i].CustomVariables...)
				events[i].CustomVariables = text
			}
		}
		return events, nil
	}))
	require.ErrorContains(t, Agree(c, Envelope, Body(Envelope, BatchSize)), "differs")
}
