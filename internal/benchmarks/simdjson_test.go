package benchmarks

import (
	"github.com/minio/simdjson-go"
)

// simdJSON parses to a tape and fills the events from that. What it needs for that is used again by every parse, as in a
// program that parses one body after the other.
var simdJSON = func() contender {
	var r tapeReader
	return contenderOf("simdjson-go",
		parser[plainEvent]{formJSON: r.parseEnvelope, formLines: r.parseLines},
		scanning(r.parseLine), // takes less time than ParseNDStream on one processor
		func(e *plainEvent) plainEvent { return *e },
		"not UTF-8", "lone surrogate", "huge number in custom variables")
}()

// A tapeReader fills events from simdjson-go's tape.
type tapeReader struct {
	tape   *simdjson.ParsedJson
	object *simdjson.Object
	value  simdjson.Iter
}

// The strings on the tape need not be copies, since those of the events are.
var noCopies = simdjson.WithCopyStrings(false)

func (r *tapeReader) parseEnvelope(body []byte) (events []plainEvent, err error) {
	if r.tape, err = simdjson.Parse(body, r.tape, noCopies); err != nil {
		return nil, err
	}
	i := r.tape.Iter()
	list, err := i.FindElement(nil, "events")
	if err != nil {
		return nil, err
	}
	array, err := list.Iter.Array(nil)
	if err != nil {
		return nil, err
	}
	events = make([]plainEvent, 0, capacity(body))
	array.ForEach(func(i simdjson.Iter) {
		events = append(events, plainEvent{})
		if err == nil {
			err = r.event(i, &events[len(events)-1])
		}
	})
	setTimes(events)
	return events, err
}

func (r *tapeReader) parseLines(body []byte) (events []plainEvent, err error) {
	if r.tape, err = simdjson.ParseND(body, r.tape, noCopies); err != nil {
		return nil, err
	}
	events = make([]plainEvent, 0, capacity(body))
	err = r.tape.ForEach(func(i simdjson.Iter) error {
		events = append(events, plainEvent{})
		return r.event(i, &events[len(events)-1])
	})
	setTimes(events)
	return events, err
}

func (r *tapeReader) parseLine(line []byte, ev *plainEvent) (err error) {
	if r.tape, err = simdjson.Parse(line, r.tape, noCopies); err != nil {
		return err
	}
	return r.tape.ForEach(func(i simdjson.Iter) error { return r.event(i, ev) })
}

func (r *tapeReader) event(i simdjson.Iter, e *plainEvent) (err error) {
	if r.object, err = i.Object(r.object); err != nil {
		return err
	}
	for {
		name, typ, err := r.object.NextElementBytes(&r.value)
		if err != nil || typ == simdjson.TypeNone {
			return err
		}
		if err := r.member(name, e); err != nil {
			return err
		}
	}
}

func (r *tapeReader) member(name []byte, e *plainEvent) (err error) {
	switch string(name) {
	case "event":
		e.Event, err = r.value.String()
	case "message_id":
		e.MessageID, err = r.value.String()
	case "sending_stream":
		e.SendingStream, err = r.value.String()
	case "email":
		e.Email, err = r.value.String()
	case "sending_domain_name":
		e.SendingDomainName, err = r.value.String()
	case "category":
		e.Category, err = r.value.String()
	case "custom_variables":
		e.CustomVariables, err = r.value.MarshalJSON() // their text is not on the tape
	case "timestamp":
		e.Timestamp, err = r.value.Int()
	case "event_id":
		e.EventID, err = r.value.String()
	case "reason":
		e.Reason, err = r.value.String()
	case "response":
		e.Response, err = r.value.String()
	case "response_code":
		var code int64
		code, err = r.value.Int()
		e.ResponseCode = int(code)
	case "bounce_category":
		e.BounceCategory, err = r.value.String()
	case "ip":
		e.IP, err = r.value.String()
	case "user_agent":
		e.UserAgent, err = r.value.String()
	case "url":
		e.URL, err = r.value.String()
	}
	return err
}
