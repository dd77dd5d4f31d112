package webhooktest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A wrongReceiver is a receiver that fails TestReceiver.
type wrongReceiver struct {
	fails []string // the subtests
	says  string   // what TestReceiver prints
	new   func(t *testing.T) Receiver
}

// wrong returns a plainReceiver with a fault.
func wrong(fault func(p *plainReceiver)) func(*testing.T) Receiver {
	return func(t *testing.T) Receiver {
		p := newPlainReceiver(t)
		fault(p)
		return p.receiver()
	}
}

// wrapped returns a plainReceiver inside another handler.
func wrapped(wrap func(p *plainReceiver) http.HandlerFunc) func(*testing.T) Receiver {
	return func(t *testing.T) Receiver {
		p := newPlainReceiver(t)
		return Receiver{wrap(p), testSecret, p.count}
	}
}

var wrongReceivers = map[string]wrongReceiver{
	"reads lines only": {
		[]string{"JSON"},
		`3 of 3 events had no effect: read the events from the "events" array of the body. If the receiver reads them`,
		wrong(func(p *plainReceiver) { p.parse = parseLines }),
	},
	"reads an envelope only": {
		[]string{"JSON Lines"},
		"for a delivery in JSON Lines, the receiver answers 422:",
		wrong(func(p *plainReceiver) { p.parse = parseEnvelope }),
	},
	"verifies with an empty secret too": {
		[]string{"forged"},
		"a request that is signed with an empty secret had an effect: let your program fail at start",
		wrong(verifiesOr(hasEmptySecret)),
	},
	"verifies lines with an empty secret too": {
		[]string{"forged"},
		"a request that is signed with an empty secret had an effect: let your program fail at start",
		wrong(verifiesOr(inLines(hasEmptySecret))),
	},
	"compares as much as was sent": {
		[]string{"forged"},
		"a request with the first 2 digits of its signature had an effect: compare the whole signature, with hmac.Equal",
		wrong(verifiesOr(func(body []byte, signature string) bool {
			return signature != "" && strings.HasPrefix(mailtrapwebhook.Sign(body, testSecret), signature)
		})),
	},
	"compares all but the last byte": {
		[]string{"forged"},
		"a request with the first 62 digits of its signature had an effect: compare the whole signature",
		wrong(verifiesOr(func(body []byte, signature string) bool {
			return strings.HasPrefix(signature, mailtrapwebhook.Sign(body, testSecret)[:62])
		})),
	},
	"compares all but the last digit of 64": {
		[]string{"forged"},
		"a request with another last digit in its signature had an effect: compare the whole signature",
		wrong(verifiesOr(func(body []byte, signature string) bool {
			return len(signature) == 64 && signature[:63] == mailtrapwebhook.Sign(body, testSecret)[:63]
		})),
	},
	"verifies signatures of the right length": {
		[]string{"forged"},
		"a request with the first 2 digits of its signature had an effect: compare the whole signature",
		wrong(verifiesOr(func(_ []byte, signature string) bool { return signature != "" && len(signature) != 64 })),
	},
	"verifies hexadecimal signatures": {
		[]string{"forged"},
		`a request with the word "none" for a signature had an effect: compare the whole signature`,
		wrong(verifiesOr(func(_ []byte, signature string) bool {
			_, err := hex.DecodeString(signature)
			return err != nil
		})),
	},
	"verifies no inbound events": {
		[]string{"forged"},
		`a forged event of the kind "inbound.message_received" in JSON had an effect: ` +
			"verify Mailtrap-Signature before you act on the body, for every kind and format",
		wrong(verifiesOr(func(body []byte, _ string) bool {
			return bytes.Contains(body, []byte(`"event":"inbound.message_received"`))
		})),
	},
	"verifies only what is signed": {
		[]string{"unsigned"},
		"a request without a signature had an effect: refuse a request whose Mailtrap-Signature is missing or empty",
		wrong(verifiesOr(isUnsigned)),
	},
	"verifies only what is signed, of lines": {
		[]string{"unsigned"},
		"a request without a signature had an effect: refuse a request whose Mailtrap-Signature is missing or empty",
		wrong(verifiesOr(inLines(isUnsigned))),
	},
	"remembers which signatures are good": {
		[]string{"altered"},
		"a request whose body was changed had an effect: verify the signature over the whole raw body",
		wrong(rememberSignatures(func([]byte, string) bool { return true })),
	},
	"remembers which signatures are good, of lines": {
		[]string{"altered"},
		"a request whose body was changed had an effect: verify the signature over the whole raw body",
		wrong(rememberSignatures(inLines(func([]byte, string) bool { return true }))),
	},
	"remembers the last delivery only": {
		[]string{"repeated after 200"},
		"an event had its effect more than once: remember the Key of each event that you have handled, for longer",
		wrong(func(p *plainReceiver) {
			p.handle = func(events []mailtrapwebhook.Event) error {
				p.mu.Lock()
				defer p.mu.Unlock()
				last := p.handled
				p.handled = make(map[string]bool)
				for _, ev := range events {
					p.handled[ev.Key()] = true
					if !last[ev.Key()] {
						p.act(ev)
					}
				}
				return nil
			}
		}),
	},
	"marks a delivery before it is handled": {
		[]string{"repeated after a failure"},
		"events had no effect within 300ms: mark an event as handled only when it is",
		wrapped(skipSeen),
	},
	"marks a delivery before it is handled, on a busy machine": {
		[]string{"repeated after a failure"},
		"events had no effect within 300ms: mark an event as handled only when it is",
		wrapped(skipSeenLate),
	},
	"gives up when Mailtrap hangs up": {
		[]string{"repeated after a failure"},
		"The context of a request ends when Mailtrap hangs up: let no event be lost by that",
		wrapped(giveUp(40 * time.Millisecond)), // a busy machine notices a hang-up late
	},
	"handles one event of each kind of a message": {
		[]string{"shared ids"},
		"1 of 4 events had no effect within 300ms: tell events apart by Key, or by name, message id and event id",
		wrong(known(func(ev *mailtrapwebhook.SendingWebhookEvent) string { return ev.Name() + ev.MessageID })),
	},
	"handles one event of each message": {
		[]string{"shared ids"},
		"2 of 4 events had no effect within 300ms: tell events apart by Key, or by name, message id and event id",
		wrong(known(func(ev *mailtrapwebhook.SendingWebhookEvent) string { return ev.MessageID })),
	},
	"knows an inbound event by its event id": {
		[]string{"shared ids"},
		"an inbound event that came again with another event_id had its effect again: know it by Key, or by inbox_id",
		wrong(func(p *plainReceiver) {
			p.handle = p.handleOnceBy(func(ev mailtrapwebhook.Event) string {
				if inbound, ok := ev.(*mailtrapwebhook.InboundWebhookEvent); ok {
					return inbound.EventID
				}
				return ev.Key()
			})
		}),
	},
	"handles one event of each event id": {
		[]string{"shared ids"},
		"1 of 4 events had no effect within 300ms: tell events apart by Key, or by name, message id and event id",
		wrong(known(func(ev *mailtrapwebhook.SendingWebhookEvent) string { return ev.EventID })),
	},
	"remembers the first event of each delivery": {
		[]string{"repeated among new events"},
		"1 of 4 events had no effect within 300ms: handle the new events of a delivery that also has a handled one",
		wrong(func(p *plainReceiver) {
			p.handle = func(events []mailtrapwebhook.Event) error { return p.handleUnless(events[0], events) }
		}),
	},
	"remembers the last event of each delivery": {
		[]string{"repeated among new events"},
		"an event had its effect more than once: remember the Key of each event that you have handled",
		wrong(func(p *plainReceiver) {
			p.handle = func(events []mailtrapwebhook.Event) error {
				return p.handleUnless(events[len(events)-1], events)
			}
		}),
	},
	"looks and acts and then marks": {
		[]string{"twice at once"},
		"a delivery that came twice at once had its effect twice: claim each event in one atomic step",
		wrong(func(p *plainReceiver) {
			p.handle = func(events []mailtrapwebhook.Event) error {
				for _, ev := range events {
					if p.isHandled(ev) {
						continue
					}
					time.Sleep(time.Millisecond) // as a database takes
					p.act(ev)
					p.markHandled(ev)
				}
				return nil
			}
		}),
	},
	"drops a delivery beside another": {
		[]string{"side by side"},
		"100 of 200 events had no effect within 300ms: handle a delivery while you handle another, or answer 503",
		wrapped(dropSecond),
	},
	"reads 64 KiB": {
		[]string{"500 events"},
		"bytes was answered 400: read the whole body, and handle all its events within 30s",
		wrong(func(p *plainReceiver) {
			p.read = func(body io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(body, 64<<10)) }
		}),
	},
	"handles 100 events": {
		[]string{"500 events"},
		"400 of 500 events had no effect within 300ms: handle all events of a delivery",
		wrong(func(p *plainReceiver) {
			p.handle = func(events []mailtrapwebhook.Event) error { return p.handleOnce(events[:min(100, len(events))]) }
		}),
	},
	"remembers 60 events": {
		[]string{"500 events"},
		"a delivery of 500 events that was repeated after 200 had its effect again: remember the Key of each event",
		wrong(rememberFew(60)),
	},
	"handles the kind of the first event": {
		[]string{"every kind"},
		"10 of 13 events had no effect within 300ms: handle each event by its own kind",
		wrong(func(p *plainReceiver) {
			p.handle = func(events []mailtrapwebhook.Event) error {
				return p.handleOnce(slices.DeleteFunc(slices.Clone(events), func(ev mailtrapwebhook.Event) bool {
					return ev.Name() != events[0].Name()
				}))
			}
		}),
	},
	"skips what is older than five minutes": {
		[]string{"hours old"},
		"2 of 2 events had no effect within 300ms: handle an event however old it is, and after newer ones",
		wrong(func(p *plainReceiver) {
			p.act = func(ev mailtrapwebhook.Event) {
				if time.Since(ev.Time()) < 5*time.Minute {
					p.add(ev)
				}
			}
		}),
	},
	"skips what is older than the newest event": {
		[]string{"hours old"},
		"2 of 2 events had no effect within 300ms: handle an event however old it is, and after newer ones",
		wrong(skipOlder),
	},
	"spells a kind otherwise": {
		[]string{"every kind"},
		`events of the kinds "soft bounce" had no effect within 300ms: handle them`,
		wrong(func(p *plainReceiver) {
			p.act = func(ev mailtrapwebhook.Event) {
				if ev.Name() != "soft bounce" { // it waits for "soft_bounce"
					p.add(ev)
				}
			}
		}),
	},
	"refuses unknown kinds": {
		[]string{"unknown kinds"},
		"a delivery with an event of an unknown kind was answered 422: acknowledge an event that you do not know",
		wrong(func(p *plainReceiver) {
			p.handle = func(events []mailtrapwebhook.Event) error {
				for _, ev := range events {
					if _, ok := ev.(*mailtrapwebhook.UnknownEvent); ok {
						return errors.New("unknown event")
					}
				}
				return p.handleOnce(events)
			}
		}),
	},
	"wants a name": {
		[]string{"unknown kinds"},
		`a delivery with an event without the field "event" was answered 422`,
		wrong(func(p *plainReceiver) {
			p.handle = func(events []mailtrapwebhook.Event) error {
				for _, ev := range events {
					if ev.Name() == "" {
						return errors.New("no name")
					}
				}
				return p.handleOnce(events)
			}
		}),
	},
	"skips what is beside an unknown kind": {
		[]string{"unknown kinds"},
		"an event beside one of an unknown kind had no effect: acknowledge",
		wrong(func(p *plainReceiver) {
			p.handle = func(events []mailtrapwebhook.Event) error {
				for i, ev := range events {
					if _, ok := ev.(*mailtrapwebhook.UnknownEvent); ok {
						events = events[:i]
						break
					}
				}
				return p.handleOnce(events)
			}
		}),
	},
	"decodes strictly": {
		[]string{"odd fields"},
		"a delivery with an event whose custom_variables is [] was answered 422: acknowledge an event with an odd field",
		wrong(func(p *plainReceiver) { p.parse = parseStrictly }),
	},
	"answers 202": {
		[]string{"only 200 acknowledges"},
		"a delivery was answered 202: answer 200, because Mailtrap takes any other status for a failure",
		wrong(func(p *plainReceiver) { p.status = http.StatusAccepted }),
	},
	"answers 208 to a repeated delivery": {
		[]string{"only 200 acknowledges"},
		"a delivery was answered 208: answer 200",
		wrapped(reportRepeated),
	},

	// One cause, told once.
	"stores bounces only": {
		[]string{"JSON"},
		`events of the kinds "delivery", "open", "click", "unsubscribe", "spam", "soft bounce", "suspension", "reject", ` +
			`"activity_log.user.updated", "activity_log.user.login", "activity_log.sandbox.updated", ` +
			`"inbound.message_received" had no effect, and those of other kinds had: ` +
			"let Count return a negative number for the kinds that the receiver ignores, " +
			"and find the others under their keys, such as delivery/",
		wrong(func(p *plainReceiver) {
			p.act = func(ev mailtrapwebhook.Event) {
				if ev.Name() == "bounce" {
					p.add(ev)
				}
			}
		}),
	},
	"has a Count that finds nothing": {
		[]string{"JSON", "JSON Lines"},
		"let Count find them under their keys, such as delivery/",
		withField(func(r *Receiver) { r.Count = func(mailtrapwebhook.Event) int { return 0 } }),
	},
	"has a path": {
		[]string{"JSON"},
		`the receiver answers 404: wrap the Handler in one that sets r.URL.Path to your webhook's path, ` +
			`because TestReceiver requests "/"`,
		withField(func(r *Receiver) {
			mux := http.NewServeMux()
			mux.Handle("/webhooks/mailtrap", r.Handler)
			r.Handler = mux
		}),
	},
	"has a password": {
		[]string{"JSON"},
		"the receiver answers 401: wrap the Handler in one that adds the password with r.SetBasicAuth",
		func(t *testing.T) Receiver {
			return handlerReceiver(t, func(h *mailtrapwebhook.Handler) {
				h.Guards = []mailtrapwebhook.Guard{mailtrapwebhook.BasicAuth("mailtrap", "a password")}
			})
		},
	},

	// More than one fault, or none that a subtest is about.
	"verifies nothing": {
		[]string{"forged", "unsigned", "altered"},
		`a forged event of the kind "delivery" in JSON had an effect: verify Mailtrap-Signature before you act`,
		wrong(func(p *plainReceiver) { p.verify = func([]byte, http.Header) bool { return true } }),
	},
	"verifies no lines": {
		[]string{"forged", "unsigned", "altered"},
		`a forged event of the kind "delivery" in JSON Lines had an effect: verify Mailtrap-Signature before you act`,
		wrong(verifiesOr(inLines(func([]byte, string) bool { return true }))),
	},
	"repeats what is repeated": {
		repeatsEverything,
		"an event had its effect more than once: remember the Key",
		wrong(func(p *plainReceiver) {
			p.handle = func(events []mailtrapwebhook.Event) error {
				for _, ev := range events {
					p.act(ev)
				}
				return nil
			}
		}),
	},
	"queues what is repeated": {
		repeatsEverything,
		"an event had its effect more than once: remember the Key",
		func(t *testing.T) Receiver { return queueReceiver(t, mailtrapwebhook.NoDedup) },
	},
	"reads neither format": {
		[]string{"JSON", "JSON Lines"},
		"the other subtests were not run: no event has an effect in either format",
		wrong(func(p *plainReceiver) {
			p.parse = func([]byte) ([]mailtrapwebhook.Event, error) { return nil, errors.New("unreadable") }
		}),
	},
	"acts on half a body": {
		[]string{"repeated after a failure"},
		"a delivery that broke off had an effect: read and verify the whole body before you act on it",
		wrapped(actOnHalf),
	},
	"acts on unverified requests later": {
		nil,
		"after the subtest TestFailing/forged had passed, a forged event of the kind ",
		wrong(actLater),
	},
	"drops what follows a bad request": {
		[]string{"forged", "unsigned", "altered"},
		"the next delivery had no effect within 300ms: handle every delivery, whatever came before it",
		wrong(dropNext),
	},
	"panics": {
		[]string{"JSON Lines"},
		"the Handler panicked, so that Mailtrap gets no answer: see the stack: boom",
		wrapped(func(p *plainReceiver) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Content-Type") == "application/jsonl" {
					panic("boom")
				}
				p.ServeHTTP(w, r)
			}
		}),
	},
	"hangs": {
		[]string{"JSON"},
		"the Handler gave no answer within 300ms: store or enqueue the events, answer 200, and do the work afterwards",
		wrapped(func(*plainReceiver) http.HandlerFunc {
			return func(http.ResponseWriter, *http.Request) { select {} }
		}),
	},

	"no Handler": {nil, "Receiver.Handler is nil: set it", func(*testing.T) Receiver { return Receiver{} }},
	"no Secret":  {nil, "Receiver.Secret is blank: set it", withField(func(r *Receiver) { r.Secret = " \n" })},
	"no Count":   {nil, "Receiver.Count is nil: set it", withField(func(r *Receiver) { r.Count = nil })},
	"counts too much": {
		nil, "Receiver.Count returns 1 for a delivery event that was never sent",
		withField(func(r *Receiver) { r.Count = func(mailtrapwebhook.Event) int { return 1 } }),
	},
	"ignores everything": {
		nil, "Receiver.Count returns a negative number for every kind of event",
		withField(func(r *Receiver) { r.Count = func(mailtrapwebhook.Event) int { return -1 } }),
	},
}

var repeatsEverything = []string{
	"repeated after 200", "repeated after a failure", "repeated among new events", "shared ids", "twice at once", "500 events",
}

// withField returns a right receiver with a field that is not.
func withField(set func(r *Receiver)) func(*testing.T) Receiver {
	return func(t *testing.T) Receiver {
		r := newPlainReceiver(t).receiver()
		set(&r)
		return r
	}
}

// parseLines reads JSON Lines. A line that is an envelope has no event.
func parseLines(body []byte) (events []mailtrapwebhook.Event, err error) {
	for line := range bytes.Lines(body) {
		var named struct{ Event string }
		if err := json.Unmarshal(line, &named); err != nil {
			return nil, err
		}
		if named.Event == "" {
			continue
		}
		parsed, err := mailtrapwebhook.Parse(line)
		if err != nil {
			return nil, err
		}
		events = append(events, parsed...)
	}
	return events, nil
}

// parseEnvelope reads the JSON format with encoding/json.
func parseEnvelope(body []byte) ([]mailtrapwebhook.Event, error) {
	var delivery struct{ Events []json.RawMessage }
	if err := json.Unmarshal(body, &delivery); err != nil {
		return nil, err
	}
	return mailtrapwebhook.Parse(body)
}

// parseStrictly fails for fields of another type than documented.
func parseStrictly(body []byte) ([]mailtrapwebhook.Event, error) {
	events, err := mailtrapwebhook.Parse(body)
	for _, ev := range events {
		var documented struct {
			CustomVariables map[string]any `json:"custom_variables"`
			ResponseCode    int            `json:"response_code"`
		}
		if err := json.Unmarshal([]byte(ev.RawJSON()), &documented); err != nil {
			return nil, err
		}
	}
	return events, err
}

// verifiesOr returns a fault: the receiver also takes what has the property.
func verifiesOr(has func(body []byte, signature string) bool) func(p *plainReceiver) {
	return func(p *plainReceiver) {
		verify := p.verify
		p.verify = func(body []byte, header http.Header) bool {
			return verify(body, header) || has(body, header.Get(mailtrapwebhook.SignatureHeader))
		}
	}
}

// inLines narrows a property to JSON Lines.
func inLines(has func(body []byte, signature string) bool) func(body []byte, signature string) bool {
	return func(body []byte, signature string) bool {
		return formatOf(body) == mailtrapwebhook.FormatJSONLines && has(body, signature)
	}
}

func hasEmptySecret(body []byte, signature string) bool {
	mac := hmac.New(sha256.New, nil)
	mac.Write(body)
	return signature == hex.EncodeToString(mac.Sum(nil))
}

func isUnsigned(_ []byte, signature string) bool { return signature == "" }

// rememberSignatures returns a fault: the receiver saves the work of verifying a
// signature again, for bodies of the property.
func rememberSignatures(has func(body []byte, signature string) bool) func(p *plainReceiver) {
	return func(p *plainReceiver) {
		verify := p.verify
		var good sync.Map
		p.verify = func(body []byte, header http.Header) bool {
			signature := header.Get(mailtrapwebhook.SignatureHeader)
			if _, ok := good.Load(signature); ok && has(body, signature) {
				return true
			}
			ok := verify(body, header)
			if ok {
				good.Store(signature, true)
			}
			return ok
		}
	}
}

// skipSeen acknowledges a delivery whose signature it has seen.
func skipSeen(p *plainReceiver) http.HandlerFunc {
	var seen sync.Map
	return func(w http.ResponseWriter, r *http.Request) {
		if _, ok := seen.LoadOrStore(r.Header.Get(mailtrapwebhook.SignatureHeader), true); !ok {
			p.ServeHTTP(w, r)
		}
	}
}

// skipSeenLate begins to handle a first attempt when the second has come.
func skipSeenLate(p *plainReceiver) http.HandlerFunc {
	var came sync.Map
	skip := skipSeen(p)
	return func(w http.ResponseWriter, r *http.Request) {
		if _, ok := came.LoadOrStore(r.Header.Get(mailtrapwebhook.SignatureHeader), true); !ok {
			time.Sleep(30 * time.Millisecond)
		}
		skip(w, r)
	}
}

// known returns a fault: the receiver knows a sending event by an id that is not
// its own.
func known(id func(*mailtrapwebhook.SendingWebhookEvent) string) func(p *plainReceiver) {
	return func(p *plainReceiver) {
		p.handle = p.handleOnceBy(func(ev mailtrapwebhook.Event) string {
			if sending, ok := ev.(*mailtrapwebhook.SendingWebhookEvent); ok {
				return id(sending)
			}
			return ev.Key()
		})
	}
}

// handleOnceBy returns a function that handles events and knows them by id.
func (p *plainReceiver) handleOnceBy(id func(mailtrapwebhook.Event) string) func([]mailtrapwebhook.Event) error {
	return func(events []mailtrapwebhook.Event) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, ev := range events {
			if id := id(ev); !p.handled[id] {
				p.handled[id] = true
				p.act(ev)
			}
		}
		return nil
	}
}

// rememberFew returns a fault: the receiver remembers the last n events.
func rememberFew(n int) func(p *plainReceiver) {
	return func(p *plainReceiver) {
		var keys []string
		p.act = func(ev mailtrapwebhook.Event) { // handleOnce holds the lock
			if keys = append(keys, ev.Key()); len(keys) > n {
				delete(p.handled, keys[0])
				keys = keys[1:]
			}
			p.add(ev)
		}
	}
}

// skipOlder handles no event that is older than one that came before it.
func skipOlder(p *plainReceiver) {
	var newest time.Time
	p.act = func(ev mailtrapwebhook.Event) { // handleOnce holds the lock
		if !ev.Time().Before(newest) {
			newest = ev.Time()
			p.add(ev)
		}
	}
}

// dropSecond acknowledges a delivery that comes while another is handled, and
// does nothing else.
func dropSecond(p *plainReceiver) http.HandlerFunc {
	var busy sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) {
		if busy.TryLock() {
			defer busy.Unlock()
			p.ServeHTTP(w, r)
		}
	}
}

// handleUnless handles the events unless one of them, which stands for all, was
// handled before.
func (p *plainReceiver) handleUnless(one mailtrapwebhook.Event, events []mailtrapwebhook.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handled[one.Key()] {
		return nil
	}
	p.handled[one.Key()] = true
	for _, ev := range events {
		p.act(ev)
	}
	return nil
}

// giveUp marks the events of a delivery and handles them only if Mailtrap is
// still there when the work is done.
func giveUp(work time.Duration) func(p *plainReceiver) http.HandlerFunc {
	return func(p *plainReceiver) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, err := p.read(r.Body)
			if err != nil || !p.verify(body, r.Header) {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			events, _ := p.parse(body)
			p.mu.Lock()
			events = slices.DeleteFunc(events, func(ev mailtrapwebhook.Event) bool { return p.handled[ev.Key()] })
			for _, ev := range events {
				p.handled[ev.Key()] = true
			}
			p.mu.Unlock()
			select {
			case <-r.Context().Done():
				w.WriteHeader(http.StatusInternalServerError)
				return
			case <-time.After(work):
			}
			for _, ev := range events {
				p.act(ev)
			}
		}
	}
}

// reportRepeated has a status of its own for what was delivered before.
func reportRepeated(p *plainReceiver) http.HandlerFunc {
	var seen sync.Map
	return func(w http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		p.ServeHTTP(recorder, r)
		status := recorder.Code
		if status == http.StatusOK {
			if _, ok := seen.LoadOrStore(r.Header.Get(mailtrapwebhook.SignatureHeader), true); ok {
				status = http.StatusAlreadyReported
			}
		}
		w.WriteHeader(status)
	}
}

// actOnHalf acts on the events of a body that breaks off.
func actOnHalf(p *plainReceiver) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			events, _ := mailtrapwebhook.Parse(body)
			_ = p.handle(events)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		p.ServeHTTP(w, r)
	}
}

// dropNext acknowledges the delivery after a bad request and does nothing else.
func dropNext(p *plainReceiver) {
	var bad atomic.Bool
	verify, handle := p.verify, p.handle
	p.verify = func(body []byte, header http.Header) bool {
		ok := verify(body, header)
		if !ok {
			bad.Store(true)
		}
		return ok
	}
	p.handle = func(events []mailtrapwebhook.Event) error {
		if bad.Swap(false) {
			return nil
		}
		return handle(events)
	}
}

// actLater acts on what it has refused when a large delivery comes.
func actLater(p *plainReceiver) {
	var mu sync.Mutex
	var refused []mailtrapwebhook.Event
	verify, handle := p.verify, p.handle
	p.verify = func(body []byte, header http.Header) bool {
		ok := verify(body, header)
		if !ok {
			events, _ := mailtrapwebhook.Parse(body)
			mu.Lock()
			defer mu.Unlock()
			refused = append(refused, events...)
		}
		return ok
	}
	p.handle = func(events []mailtrapwebhook.Event) error {
		mu.Lock()
		defer mu.Unlock()
		if len(events) > 100 {
			_ = handle(refused)
		}
		return handle(events)
	}
}

func (p *plainReceiver) isHandled(ev mailtrapwebhook.Event) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.handled[ev.Key()]
}

func (p *plainReceiver) markHandled(ev mailtrapwebhook.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handled[ev.Key()] = true
}
