package benchmarks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestContendersAgree(t *testing.T) {
	for _, c := range contenders() {
		for _, f := range forms {
			t.Run(fmt.Sprintf("%s/%s", c.name, f), func(t *testing.T) {
				if c.unfit != "" {
					t.Skip(c.unfit)
				}
				require.NoError(t, parsesAsOurs(c, f, body(f, batchSize)))
				require.NoError(t, parsesAsOurs(c, f, body(f, 1)))
				if c.stream[f] != nil {
					require.NoError(t, streamsAsOurs(c, f, body(f, batchSize)))
				}
			})
		}
	}
}

// parsesAsOurs returns an error unless the contender makes the same events of the body.
func parsesAsOurs(c contender, f form, body []byte) error {
	want, err := ours.parse(f, body)
	if err != nil {
		return err
	}
	mutable := bytes.Clone(body)
	got, err := c.parse(f, mutable)
	if err != nil {
		return err
	}
	clear(mutable) // no event may be a part of it
	return difference(want, got)
}

func streamsAsOurs(c contender, f form, body []byte) error {
	want, err := ours.parse(f, body)
	if err != nil {
		return err
	}
	got, err := c.stream[f](bytes.NewReader(body))
	if err != nil {
		return err
	}
	return difference(want, got)
}

func difference(want, got []plainEvent) error {
	if len(want) == 0 || len(got) != len(want) {
		return fmt.Errorf("%d events in place of %d", len(got), len(want))
	}
	for i := range want {
		if !reflect.DeepEqual(want[i], got[i]) { // which is quicker than cmp for 100,000 events
			return fmt.Errorf("event %d differs (-want +got):\n%s", i, cmp.Diff(want[i], got[i]))
		}
	}
	return nil
}

// spoilt returns a contender that reads envelopes as encoding/json does and then does something wrong.
func spoilt(spoil func(body []byte, events []plainEvent) ([]plainEvent, error)) contender {
	parse := func(body []byte) ([]plainEvent, error) {
		events, err := encodingJSON.parse(formJSON, body)
		if err != nil {
			return nil, err
		}
		return spoil(body, events)
	}
	stream := func(r io.Reader, show func(*plainEvent)) error {
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		events, err := parse(body)
		for i := range events {
			show(&events[i])
		}
		return err
	}
	return contenderOf("wrong", parser[plainEvent]{formJSON: parse}, streamer[plainEvent]{formJSON: stream}, plain)
}

func TestWrongContendersAreCaught(t *testing.T) {
	body := body(formJSON, batchSize)
	parsed := func(b *testing.B, c contender) { timeParse(b, c, formJSON, body, batchSize) }
	streamed := func(b *testing.B, c contender) { timeStream(b, c, formJSON, body, batchSize) }

	right := spoilt(func(_ []byte, events []plainEvent) ([]plainEvent, error) { return events, nil })
	require.NoError(t, parsesAsOurs(right, formJSON, body))
	require.NoError(t, streamsAsOurs(right, formJSON, body))
	require.Positive(t, testing.Benchmark(func(b *testing.B) { parsed(b, right) }).N)

	for name, spoil := range map[string]func(*plainEvent){
		"a string":  func(e *plainEvent) { e.Email = strings.ToUpper(e.Email) },
		"an escape": func(e *plainEvent) { e.URL = strings.ReplaceAll(e.URL, "/", `\/`) },
		"a number":  func(e *plainEvent) { e.ResponseCode = 0 },
		"the time":  func(e *plainEvent) { e.Time = e.Time.AddDate(1, 0, 0) },
		"custom variables": func(e *plainEvent) {
			e.CustomVariables = bytes.Replace(e.CustomVariables, []byte("789"), []byte("768"), 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := spoilt(func(_ []byte, events []plainEvent) ([]plainEvent, error) {
				for i := range events {
					spoil(&events[i])
				}
				return events, nil
			})
			require.ErrorContains(t, parsesAsOurs(c, formJSON, body), "differs")
			require.ErrorContains(t, streamsAsOurs(c, formJSON, body), "differs")
			require.Zero(t, testing.Benchmark(func(b *testing.B) { parsed(b, c) }).N, "it was timed")
			require.Zero(t, testing.Benchmark(func(b *testing.B) { streamed(b, c) }).N, "it was timed")
		})
	}
}

func TestMissingEventsAndErrorsAreCaught(t *testing.T) {
	body := body(formJSON, batchSize)

	short := spoilt(func(_ []byte, events []plainEvent) ([]plainEvent, error) { return events[1:], nil })
	require.ErrorContains(t, parsesAsOurs(short, formJSON, body), "499 events in place of 500")
	require.ErrorContains(t, streamsAsOurs(short, formJSON, body), "499 events in place of 500")

	failing := spoilt(func(_ []byte, events []plainEvent) ([]plainEvent, error) { return events, errors.ErrUnsupported })
	require.ErrorIs(t, parsesAsOurs(failing, formJSON, body), errors.ErrUnsupported)
	require.ErrorIs(t, streamsAsOurs(failing, formJSON, body), errors.ErrUnsupported)
}

func TestEventsThatAreOverwrittenAreCaught(t *testing.T) {
	body := body(formJSON, batchSize)

	partsOfBody := spoilt(func(body []byte, events []plainEvent) ([]plainEvent, error) {
		for i := range events {
			if text := events[i].CustomVariables; text != nil {
				events[i].CustomVariables = body[bytes.Index(body, text):][:len(text)]
			}
		}
		return events, nil
	})
	require.ErrorContains(t, parsesAsOurs(partsOfBody, formJSON, body), "differs")

	sameMemory := spoilt(func(_ []byte, events []plainEvent) ([]plainEvent, error) {
		var text []byte
		for i := range events {
			if events[i].CustomVariables != nil {
				text = append(text[:0], events[i].CustomVariables...)
				events[i].CustomVariables = text
			}
		}
		return events, nil
	})
	require.ErrorContains(t, streamsAsOurs(sameMemory, formJSON, body), "differs")
}

// The events of the others have the fields of ours, under the same names.
func TestEventsHaveTheSameFields(t *testing.T) {
	want := memberNames(reflect.TypeFor[mw.SendingWebhookEvent]())
	require.Greater(t, len(want), 10)
	for _, typ := range []reflect.Type{
		reflect.TypeFor[plainEvent](), reflect.TypeFor[EasyEvent](), reflect.TypeFor[TunedEasyEvent](),
	} {
		require.Equal(t, want, memberNames(typ), typ)
	}
}

func memberNames(typ reflect.Type) (names []string) {
	for i := range typ.NumField() {
		if name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); name != "-" {
			names = append(names, name)
		}
	}
	return names
}
