package benchmarks

import (
	"bufio"
	"bytes"
	"cmp"
	stdjson "encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/bytedance/sonic"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	gojson "github.com/goccy/go-json"
	"github.com/mailru/easyjson"
	"github.com/minio/simdjson-go"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// A contender decodes deliveries, to events of a type of its own.
type contender struct {
	name  string
	unfit string // why it cannot run on this machine; "" if it can

	// What is timed: these count the events.
	countParsed   func(f form, body []byte) (int, error)
	countStreamed map[form]func(r io.Reader) (int, error) // the forms that it can stream

	// The same, but the events are made plain, to be compared.
	parse  func(f form, body []byte) ([]plainEvent, error)
	stream map[form]func(r io.Reader) ([]plainEvent, error)

	deviations []string // the faults, of those in faults_test.go, that it treats otherwise than encoding/json
}

type plainEvent = Event[[]byte]

// A parser decodes a body.
type parser[E any] map[form]func(body []byte) ([]E, error)

// A streamer decodes from a reader and shows each event. The next event may take its place, but not that of its strings.
type streamer[E any] map[form]func(r io.Reader, show func(*E)) error

func contenderOf[E any](name string, p parser[E], s streamer[E], plain func(*E) plainEvent, deviations ...string) contender {
	c := contender{
		name:          name,
		deviations:    deviations,
		stream:        make(map[form]func(io.Reader) ([]plainEvent, error)),
		countStreamed: make(map[form]func(io.Reader) (int, error)),
	}
	c.countParsed = func(f form, body []byte) (int, error) {
		events, err := p[f](body)
		return len(events), err
	}
	c.parse = func(f form, body []byte) (all []plainEvent, err error) {
		events, err := p[f](body)
		for i := range events {
			all = append(all, plain(&events[i]))
		}
		return all, err
	}
	for f, stream := range s {
		c.countStreamed[f] = func(r io.Reader) (n int, err error) {
			err = stream(r, func(*E) { n++ })
			return n, err
		}
		c.stream[f] = func(r io.Reader) (all []plainEvent, err error) {
			err = stream(r, func(ev *E) { all = append(all, plain(ev)) })
			return all, err
		}
	}
	return c
}

func contenders() []contender {
	all := []contender{
		ours, encodingJSON, jsonV2, jsonV2AsV1, sonicStd, sonicTuned, goJSON, goJSONTuned, easyJSON, easyJSONTuned, simdJSON,
	}
	for i, c := range all {
		switch {
		case strings.HasPrefix(c.name, "sonic") && sonic.APIKind != sonic.UseSonicJSON:
			all[i].unfit = "sonic has no code for this machine or version of Go and would use encoding/json"
		case strings.HasPrefix(c.name, "simdjson") && !simdjson.SupportedCPU():
			all[i].unfit = "simdjson-go needs a CPU with AVX2 and CLMUL"
		}
	}
	return all
}

// # mailtrapwebhook

var ours = contenderOf("mailtrapwebhook",
	parser[mw.Event]{formJSON: mw.Parse, formLines: mw.Parse},
	streamer[mw.Event]{formJSON: streamOurs, formLines: streamOurs},
	plainOurs)

func streamOurs(r io.Reader, show func(*mw.Event)) error {
	d := mw.NewDecoder(r)
	for {
		ev, err := d.Decode()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		show(&ev)
	}
}

func plainOurs(ev *mw.Event) plainEvent {
	e, ok := (*ev).(*mw.SendingWebhookEvent)
	if !ok {
		return plainEvent{Event: "not a sending event"}
	}
	p := plainEvent{
		string(e.Event), e.MessageID, string(e.SendingStream), e.Email, e.SendingDomainName, e.Category,
		[]byte(e.CustomVariables), e.Timestamp.Unix(), e.Timestamp, e.EventID, e.Reason, e.Response, e.ResponseCode,
		string(e.BounceCategory), e.IP, e.UserAgent, e.URL,
	}
	if e.CustomVariables == "" {
		p.CustomVariables = nil
	}
	return p
}

// # What the others have in common

func plain[Text ~[]byte](e *Event[Text]) plainEvent {
	return plainEvent{
		e.Event, e.MessageID, e.SendingStream, e.Email, e.SendingDomainName, e.Category,
		[]byte(e.CustomVariables), e.Timestamp, e.Time, e.EventID, e.Reason, e.Response, e.ResponseCode,
		e.BounceCategory, e.IP, e.UserAgent, e.URL,
	}
}

func (e *Event[Text]) setTime()    { e.Time = time.Unix(e.Timestamp, 0).UTC() }
func (e *EasyEvent) setTime()      { e.Time = time.Unix(e.Timestamp, 0).UTC() }
func (e *TunedEasyEvent) setTime() { e.Time = time.Unix(e.Timestamp, 0).UTC() }

// timed is a pointer to an event whose time is made after it was decoded.
type timed[E any] interface {
	*E
	setTime()
}

func setTimes[E any, P timed[E]](events []E) {
	for i := range events {
		P(&events[i]).setTime()
	}
}

// capacity is what Parse gives its slice of events: enough for a delivery, so that it need not grow.
func capacity(body []byte) int { return min(len(body)/256+1, 512) }

// unmarshaling returns the parser that uses a function like that of encoding/json.
func unmarshaling[Text ~[]byte](unmarshal func([]byte, any) error) parser[Event[Text]] {
	return parser[Event[Text]]{
		formJSON: func(body []byte) ([]Event[Text], error) {
			delivery := Delivery[Text]{Events: make([]Event[Text], 0, capacity(body))}
			err := unmarshal(body, &delivery)
			setTimes(delivery.Events)
			return delivery.Events, err
		},
		formLines: lines(func(line []byte, ev *Event[Text]) error { return unmarshal(line, ev) }),
	}
}

// lines returns a parser of JSON Lines by a function that decodes one.
func lines[E any, P timed[E]](unmarshal func([]byte, P) error) func([]byte) ([]E, error) {
	return func(body []byte) ([]E, error) {
		events := make([]E, 0, capacity(body))
		var line []byte
		var zero E
		for len(body) > 0 { // bytes.Lines would allocate here
			line, body, _ = bytes.Cut(body, []byte("\n"))
			events = append(events, zero)
			if err := unmarshal(line, &events[len(events)-1]); err != nil {
				return nil, err
			}
		}
		setTimes[E, P](events)
		return events, nil
	}
}

// copying returns a parser that copies the body first, for one whose events' strings are parts of the body.
func copying[E any](p parser[E]) parser[E] {
	copying := make(parser[E])
	for f, parse := range p {
		copying[f] = func(body []byte) ([]E, error) { return parse(bytes.Clone(body)) }
	}
	return copying
}

// each shows the events that decode fills until it returns io.EOF.
func each[E any, P timed[E]](decode func(P) error, show func(*E)) error {
	var ev, zero E
	for {
		ev = zero
		switch err := decode(&ev); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		P(&ev).setTime()
		show(&ev)
	}
}

// scanning returns a streamer of JSON Lines by a function that decodes one, and must not keep it: another one follows
// in the same place.
func scanning[E any, P timed[E]](unmarshal func([]byte, P) error) streamer[E] {
	return streamer[E]{formLines: func(r io.Reader, show func(*E)) error {
		s := bufio.NewScanner(r)
		s.Buffer(make([]byte, 64<<10), 1<<20)
		return each(func(ev P) error {
			if !s.Scan() {
				return cmp.Or(s.Err(), io.EOF)
			}
			return unmarshal(s.Bytes(), ev)
		}, show)
	}}
}

var errNotEnvelope = errors.New("the body is not an envelope")

// # encoding/json

type stdEvent = Event[stdjson.RawMessage]

var encodingJSON = contenderOf("encoding/json",
	unmarshaling[stdjson.RawMessage](stdjson.Unmarshal),
	streamer[stdEvent]{
		formJSON: func(r io.Reader, show func(*stdEvent)) error { return streamEnvelope(stdjson.NewDecoder(r), show) },
		formLines: func(r io.Reader, show func(*stdEvent)) error {
			d := stdjson.NewDecoder(r)
			return each(func(ev *stdEvent) error { return d.Decode(ev) }, show)
		},
	}, plain)

// A tokenDecoder is encoding/json's Decoder or one like it.
type tokenDecoder interface {
	Token() (stdjson.Token, error)
	More() bool
	Decode(any) error
}

func streamEnvelope(d tokenDecoder, show func(*stdEvent)) error {
	expect := func(tokens ...stdjson.Token) error {
		for _, token := range tokens {
			if got, err := d.Token(); got != token {
				return cmp.Or(err, errNotEnvelope)
			}
		}
		return nil
	}
	if err := expect(stdjson.Delim('{'), "events", stdjson.Delim('[')); err != nil {
		return err
	}
	err := each(func(ev *stdEvent) error {
		if !d.More() {
			return io.EOF
		}
		return d.Decode(ev)
	}, show)
	return cmp.Or(err, expect(stdjson.Delim(']'), stdjson.Delim('}')))
}

// # github.com/go-json-experiment/json

type v2Event = Event[jsontext.Value]

var (
	jsonV2 = v2("json-v2", nil, "not UTF-8", "lone surrogate", "a member twice")

	// jsonV2AsV1 takes what encoding/json takes.
	jsonV2AsV1 = v2("json-v2-as-v1", []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)})
)

func v2(name string, opts []jsontext.Options, deviations ...string) contender {
	return contenderOf(name,
		unmarshaling[jsontext.Value](func(data []byte, v any) error { return json.Unmarshal(data, v, opts...) }),
		streamer[v2Event]{
			formJSON: func(r io.Reader, show func(*v2Event)) error {
				return streamEnvelopeV2(jsontext.NewDecoder(r, opts...), show)
			},
			formLines: func(r io.Reader, show func(*v2Event)) error {
				d := jsontext.NewDecoder(r, opts...)
				return each(func(ev *v2Event) error { return json.UnmarshalDecode(d, ev) }, show)
			},
		}, plain, deviations...)
}

func streamEnvelopeV2(d *jsontext.Decoder, show func(*v2Event)) error {
	expect := func(tokens ...string) error {
		for _, token := range tokens {
			if got, err := d.ReadToken(); err != nil || got.String() != token {
				return cmp.Or(err, errNotEnvelope)
			}
		}
		return nil
	}
	if err := expect("{", "events", "["); err != nil {
		return err
	}
	err := each(func(ev *v2Event) error {
		if d.PeekKind() == ']' {
			return io.EOF
		}
		return json.UnmarshalDecode(d, ev)
	}, show)
	return cmp.Or(err, expect("]", "}"))
}

// # github.com/bytedance/sonic

// sonicDecoder names the decoder that sonic takes for all its work if this variable was set when the program started.
var sonicDecoder = map[string]string{"1": "-optdec"}[os.Getenv("SONIC_USE_OPTDEC")]

var sonicDeviations = map[string][]string{
	"":        {"unknown escape in custom variables"},
	"-optdec": {"control character beside an escape", "huge number in custom variables"},
}[sonicDecoder]

var sonicStd = contenderOf("sonic"+sonicDecoder,
	unmarshaling[stdjson.RawMessage](sonic.ConfigStd.Unmarshal),
	scanning(func(line []byte, ev *stdEvent) error { return sonic.ConfigStd.Unmarshal(line, ev) }),
	plain, sonicDeviations...)

// sonicChecking is ConfigStd but for CopyString: strings are parts of a copy of the input, which Unmarshal makes.
var sonicChecking = sonic.Config{ValidateString: true}.Froze()

var sonicTuned = contenderOf("sonic-tuned"+sonicDecoder,
	parser[Event[sonic.NoCopyRawMessage]]{
		formJSON:  unmarshaling[sonic.NoCopyRawMessage](sonicChecking.Unmarshal)[formJSON],
		formLines: sonicTunedLines,
	},
	scanning(func(line []byte, ev *Event[sonic.NoCopyRawMessage]) error { return sonicChecking.Unmarshal(line, ev) }),
	plain, sonicDeviations...)

// sonicTunedLines copies the body once and not line by line.
func sonicTunedLines(body []byte) ([]Event[sonic.NoCopyRawMessage], error) {
	events := make([]Event[sonic.NoCopyRawMessage], 0, capacity(body))
	for line := range strings.Lines(string(body)) {
		events = append(events, Event[sonic.NoCopyRawMessage]{})
		if err := sonicChecking.UnmarshalFromString(line, &events[len(events)-1]); err != nil {
			return nil, err
		}
	}
	setTimes(events)
	return events, nil
}

// # github.com/goccy/go-json

var (
	goJSON = contenderOf("go-json",
		unmarshaling[stdjson.RawMessage](goUnmarshal),
		goStreamer(goUnmarshal),
		plain)

	goJSONTuned = contenderOf("go-json-tuned",
		copying(unmarshaling[stdjson.RawMessage](goUnmarshalNoCopy)),
		goStreamer(func(line []byte, v any) error { return goUnmarshalNoCopy(bytes.Clone(line), v) }, gojson.DecodeNoCopyString()),
		plain)
)

func goUnmarshal(data []byte, v any) error { return gojson.Unmarshal(data, v) }

func goUnmarshalNoCopy(data []byte, v any) error {
	return gojson.UnmarshalWithOption(data, v, gojson.DecodeNoCopyString())
}

// goStreamer scans JSON Lines, which takes less time than its Decoder.
func goStreamer(unmarshal func([]byte, any) error, opts ...gojson.DecodeOptionFunc) streamer[stdEvent] {
	s := scanning(func(line []byte, ev *stdEvent) error { return unmarshal(line, ev) })
	s[formJSON] = func(r io.Reader, show func(*stdEvent)) error {
		return streamEnvelope(goDecoder{gojson.NewDecoder(r), opts}, show)
	}
	return s
}

type goDecoder struct {
	*gojson.Decoder
	opts []gojson.DecodeOptionFunc
}

func (d goDecoder) Decode(v any) error { return d.DecodeWithOption(v, d.opts...) }

// # github.com/mailru/easyjson

var easyDeviations = []string{
	"control character", "control character beside an escape", "not UTF-8", "leading zero", "broken value that is not read",
}

var easyJSON = contenderOf("easyjson",
	parser[EasyEvent]{
		formJSON: func(body []byte) ([]EasyEvent, error) {
			delivery := EasyDelivery{Events: make([]EasyEvent, 0, capacity(body))}
			err := easyjson.Unmarshal(body, &delivery)
			setTimes(delivery.Events)
			return delivery.Events, err
		},
		formLines: lines(func(line []byte, ev *EasyEvent) error { return easyjson.Unmarshal(line, ev) }),
	},
	scanning(func(line []byte, ev *EasyEvent) error { return easyjson.Unmarshal(line, ev) }),
	func(e *EasyEvent) plainEvent { return plain((*stdEvent)(e)) },
	easyDeviations...)

var easyJSONTuned = contenderOf("easyjson-tuned",
	copying(parser[TunedEasyEvent]{
		formJSON: func(body []byte) ([]TunedEasyEvent, error) {
			delivery := TunedEasyDelivery{Events: make([]TunedEasyEvent, 0, capacity(body))}
			err := easyjson.Unmarshal(body, &delivery)
			setTimes(delivery.Events)
			return delivery.Events, err
		},
		formLines: lines(func(line []byte, ev *TunedEasyEvent) error { return easyjson.Unmarshal(line, ev) }),
	}),
	scanning(func(line []byte, ev *TunedEasyEvent) error { return easyjson.Unmarshal(bytes.Clone(line), ev) }),
	func(e *TunedEasyEvent) plainEvent { return plain((*Event[easyjson.RawMessage])(e)) },
	easyDeviations...)
