package benchmarks

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/bytedance/sonic"
	gojson "github.com/goccy/go-json"
)

type stdEvent = Event[json.RawMessage]

var (
	encodingJSON = contenderOf("encoding/json", unmarshaling[json.RawMessage](json.Unmarshal), nil, plain)

	goccy = contenderOf("goccy", unmarshaling[json.RawMessage](goccyUnmarshal), streamGoccy, plain)

	// goccyTuned makes strings that are parts of one copy of the body.
	goccyTuned = contenderOf("goccy tuned", copying(unmarshaling[json.RawMessage](goccyNoCopy)), nil, plain)

	// sonicStd compiles for its CPU. Where it cannot, it would use encoding/json.
	sonicStd = fitting(contenderOf("sonic", unmarshaling[json.RawMessage](sonic.ConfigStd.Unmarshal), nil, plain).
			deviating("unknown escape in custom variables"),
		sonic.APIKind == sonic.UseSonicJSON, "sonic does not support this machine or this version of Go")
)

func fitting(c Contender, fits bool, otherwise string) Contender {
	if !fits {
		c.Unfit = otherwise
	}
	return c
}

func goccyUnmarshal(data []byte, v any) error { return gojson.Unmarshal(data, v) }

func goccyNoCopy(data []byte, v any) error {
	return gojson.UnmarshalWithOption(data, v, gojson.DecodeNoCopyString())
}

func plain[Text ~[]byte](e *Event[Text]) plainEvent {
	return plainEvent{
		e.Event, e.MessageID, e.SendingStream, e.Email, e.SendingDomainName, e.Category,
		[]byte(e.CustomVariables), e.Timestamp, e.Time, e.EventID, e.Reason, e.Response, e.ResponseCode,
		e.BounceCategory, e.IP, e.UserAgent, e.URL,
	}
}

func setTimes[Text ~[]byte](events []Event[Text]) {
	for i := range events {
		events[i].Time = time.Unix(events[i].Timestamp, 0).UTC()
	}
}

// unmarshaling returns the parser that uses a function like json.Unmarshal.
func unmarshaling[Text ~[]byte](unmarshal func([]byte, any) error) parser[Event[Text]] {
	return func(f Form, body []byte) ([]Event[Text], error) {
		// Room for a whole delivery, as Parse makes it: no contender must grow it.
		events := make([]Event[Text], 0, min(len(body)/256+1, BatchSize+12))
		if f == Envelope {
			d := delivery[Text]{events}
			err := unmarshal(body, &d)
			setTimes(d.Events)
			return d.Events, err
		}
		var line []byte
		for len(body) > 0 {
			// bytes.Lines would allocate here.
			line, body, _ = bytes.Cut(body, []byte("\n"))
			events = append(events, Event[Text]{})
			if err := unmarshal(line, &events[len(events)-1]); err != nil {
				return nil, err
			}
		}
		setTimes(events)
		return events, nil
	}
}

// copying returns a parser that copies the body first, because the strings it
// makes must not be parts of the caller's.
func copying[E any](p parser[E]) parser[E] {
	return func(f Form, body []byte) ([]E, error) { return p(f, bytes.Clone(body)) }
}

func streamGoccy(f Form, r io.Reader, show func(*stdEvent)) error {
	if f == Envelope {
		return streamEnvelope(gojson.NewDecoder(r), show)
	}
	// This takes less time than goccy's Decoder.
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 1<<20)
	for s.Scan() {
		var ev stdEvent
		if err := gojson.Unmarshal(s.Bytes(), &ev); err != nil {
			return err
		}
		ev.Time = time.Unix(ev.Timestamp, 0).UTC()
		show(&ev)
	}
	return s.Err()
}

func streamEnvelope(d *gojson.Decoder, show func(*stdEvent)) error {
	for _, want := range []json.Token{json.Delim('{'), "events", json.Delim('[')} {
		if got, err := d.Token(); got != want {
			return cmp.Or(err, errors.New("the body is not an envelope"))
		}
	}
	for d.More() {
		var ev stdEvent
		if err := d.Decode(&ev); err != nil {
			return err
		}
		ev.Time = time.Unix(ev.Timestamp, 0).UTC()
		show(&ev)
	}
	for _, want := range []json.Token{json.Delim(']'), json.Delim('}')} {
		if got, err := d.Token(); got != want {
			return cmp.Or(err, errors.New("the body does not end after its events"))
		}
	}
	return nil
}
