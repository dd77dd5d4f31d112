package webhooktest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// What a receiver does wrong, where several subtests may find it.
const (
	losesEvents   = "handle every event, or store it for later, before you answer 200"
	repeatsEvents = "an event had its effect more than once: remember the Key of each event that you have handled," +
		" for longer than Mailtrap retries"
)

func (t *subtest) readsJSON() {
	t.reads(mailtrapwebhook.FormatJSON, `read the events from the "events" array of the body`)
}

func (t *subtest) readsJSONLines() {
	t.reads(mailtrapwebhook.FormatJSONLines, "read an event from each line of the body")
}

// reads checks that the receiver reads a format. The later subtests send only
// what it reads, so that they do not fail for the other format.
func (t *subtest) reads(f mailtrapwebhook.Format, advice string) {
	if len(t.formats) == 0 {
		t.format = f
	}
	events := t.fresh(3)
	result := t.post(t.mailtrap(), Body(f, events...))
	if !result.Acknowledged {
		switch status := result.failed().Status; status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
			t.hopeless = true // the request did not get as far as the body
		default:
			t.hopeless = status/100 == 3
		}
	}
	t.mustAcknowledge("a delivery in "+f.String(), result)
	if missing := t.awaitFirst(f, events); len(missing) > 0 {
		t.Fatalf("%d of %d events had no effect: %s."+
			" If the receiver reads them, let Count find them under their keys, such as %s."+
			" If it ignores their kind, let Count return a negative number",
			len(missing), len(events), advice, missing[0].Key())
	}
	t.wantAtMost(1, repeatsEvents, events)
	t.formats = append(t.formats, f)
}

// awaitFirst is await for the first events that a receiver gets. It ends the
// whole test if the receiver handles other kinds and not that of the events.
func (t *subtest) awaitFirst(f mailtrapwebhook.Format, events []mailtrapwebhook.Event) []mailtrapwebhook.Event {
	t.Helper()
	early := t.effect / 10
	missing := t.awaitFor(early, events)
	if len(missing) < len(events) {
		return t.await(missing)
	}
	others := t.sendOtherKinds(f)
	// A receiver may write some kinds at once, and others every few seconds.
	missing = t.awaitFor(t.effect-early, missing)
	ignored := t.awaitFor(0, others)
	if len(missing) < len(events) || len(ignored) == len(others) {
		return missing
	}
	t.hopeless = true
	ignored = append([]mailtrapwebhook.Event{missing[0]}, ignored...)
	t.Fatalf("events of the kinds %s had no effect, and those of other kinds had:"+
		" let Count return a negative number for the kinds that the receiver ignores,"+
		" and find the others under their keys, such as %s", names(ignored), missing[0].Key())
	return missing
}

// sendOtherKinds sends an event of each kind but that of fresh.
func (t *subtest) sendOtherKinds(f mailtrapwebhook.Format) []mailtrapwebhook.Event {
	t.Helper()
	var others []mailtrapwebhook.Event
	for _, kind := range t.kinds[1:] {
		ev, m := t.sample(kind), t.mailtrap()
		m.Retries = -1 // a receiver may refuse what it ignores
		t.post(m, Body(f, ev))
		others = append(others, ev)
	}
	return others
}

// names lists the names of events.
func names(events []mailtrapwebhook.Event) string {
	quoted := make([]string, len(events))
	for i, ev := range events {
		quoted[i] = strconv.Quote(ev.Name())
	}
	return strings.Join(quoted, ", ")
}

// inEachFormat calls f with each format that the receiver reads as the format of
// the deliveries.
func (t *subtest) inEachFormat(f func()) {
	t.Helper()
	defer func(usual mailtrapwebhook.Format) { t.format = usual }(t.format)
	if len(t.formats) == 0 { // the subtests of the formats were skipped
		f()
	}
	for _, t.format = range t.formats {
		f()
	}
}

func (t *subtest) refusesForged() {
	const whole = ": compare the whole signature, with hmac.Equal"
	t.inEachFormat(func() {
		for _, kind := range t.kinds {
			m, ev := t.mailtrap(), t.sample(kind)
			m.Fault = FaultForged
			t.deliver(m, ev)
			t.expectNone(fmt.Sprintf("a forged event of the kind %q in %v had an effect: verify "+
				mailtrapwebhook.SignatureHeader+" before you act on the body, for every kind and format", kind, t.format), ev)
		}
		for _, forged := range []struct {
			what  string
			spoil func(signature string) string
		}{
			{"the first 2 digits of its signature", func(s string) string { return s[:2] }},
			{"the first 62 digits of its signature", func(s string) string { return s[:62] }},
			{"another last digit in its signature", otherLastDigit},
			{`the word "none" for a signature`, func(string) string { return "none" }},
		} {
			events := t.fresh(1)
			t.forge(forged.spoil(t.sign(events...)), events...)
			t.expectNone("a request with "+forged.what+" had an effect"+whole, events...)
		}

		// Anyone can compute this signature, and a receiver that lacks its
		// secret does, too.
		events := t.fresh(1)
		mac := hmac.New(sha256.New, nil)
		mac.Write(Body(t.format, events...))
		t.forge(hex.EncodeToString(mac.Sum(nil)), events...)
		t.expectNone("a request that is signed with an empty secret had an effect:"+
			" let your program fail at start if a secret is missing", events...)
	})
	t.check()
}

func otherLastDigit(signature string) string {
	start, last := signature[:len(signature)-1], signature[len(signature)-1:]
	if last == "0" {
		return start + "1"
	}
	return start + "0"
}

func (t *subtest) refusesUnsigned() {
	t.inEachFormat(func() {
		for _, change := range []func(http.Header){
			func(h http.Header) { h.Del(mailtrapwebhook.SignatureHeader) },
			func(h http.Header) { h.Set(mailtrapwebhook.SignatureHeader, "") },
		} {
			events := t.fresh(1)
			t.sendChanged(change, events...)
			t.expectNone("a request without a signature had an effect: refuse a request whose "+
				mailtrapwebhook.SignatureHeader+" is missing or empty", events...)
		}
	})
	t.check()
}

func (t *subtest) refusesAltered() {
	const advice = "a request whose body was changed had an effect: verify the signature over the whole raw body," +
		" for each request anew"
	t.inEachFormat(func() {
		// The signature is that of a delivery which the receiver has accepted.
		genuine, others := t.fresh(1), t.fresh(1)
		t.mustDeliver(t.mailtrap(), "a delivery", genuine...)
		t.forge(t.sign(genuine...), others...)
		t.expectNone(advice, others...)

		// The signature is that of the delivery before an event was added.
		others = t.fresh(2)
		t.forge(t.sign(others[:1]...), others...)
		t.expectNone(advice, others...)
	})
	t.check()
}

func (t *subtest) sign(events ...mailtrapwebhook.Event) string {
	return mailtrapwebhook.Sign(Body(t.format, events...), t.Secret)
}

// forge sends the events once, with a signature that is not theirs.
func (t *subtest) forge(signature string, events ...mailtrapwebhook.Event) {
	t.Helper()
	t.sendChanged(func(h http.Header) { h.Set(mailtrapwebhook.SignatureHeader, signature) }, events...)
}

// sendChanged sends the events once, with a header that is not Mailtrap's.
func (t *subtest) sendChanged(change func(http.Header), events ...mailtrapwebhook.Event) {
	t.Helper()
	m := t.mailtrap()
	m.Client = t.client(change, lenient)
	m.Retries = -1
	t.deliver(m, events...)
}

func (t *subtest) handlesRepeated() {
	events := t.fresh(3)
	t.mustDeliver(t.mailtrap(), "a delivery", events...)
	// wantOnce sends another delivery in between: a receiver must remember
	// more than the last one.
	t.wantOnce(losesEvents, repeatsEvents, events...)
	t.mustDeliver(t.mailtrap(), "a delivery that was repeated after 200", events...)
	t.wantOnce(losesEvents, repeatsEvents, events...)
}

func (t *subtest) handlesFailed() {
	broken := t.fresh(3)
	m := t.mailtrap()
	m.Retries = -1
	t.onBody(func() error { return io.ErrUnexpectedEOF }) // as of a connection that is lost
	t.deliver(m, broken...)
	t.onBody(nil)
	t.wantNone("a delivery that broke off had an effect: read and verify the whole body before you act on it", broken...)

	// The first attempt breaks off, the second is answered to nobody, and a
	// proxy makes a 500 of the third answer. The second attempt ends while the
	// receiver works, each time later, until the receiver is sooner. A slow
	// receiver takes seconds in each round, and gets fewer.
	var all []mailtrapwebhook.Event
	began := time.Now()
	for late := 200 * time.Microsecond; ; late *= 2 {
		events := t.fresh(3)
		took := t.failThrice(late, events)
		all = append(all, events...)
		if took < late || time.Since(began) > 5*time.Second {
			break
		}
	}
	t.wantOnce("mark an event as handled only when it is, because Mailtrap repeats a delivery that broke off."+
		" The context of a request ends when Mailtrap hangs up: let no event be lost by that",
		"a delivery that was repeated after a failure had its effect again:"+
			" remember the Key of each event that you have handled, whatever the answer was", all...)
}

// failThrice delivers events at the fourth attempt. The second hangs up that
// late after the body. failThrice returns how long the second took.
func (t *subtest) failThrice(late time.Duration, events []mailtrapwebhook.Event) (took time.Duration) {
	t.Helper()
	attempt := 1
	m := t.mailtrap()
	m.Fault, m.hangUpAfter = FaultLate, late
	before := t.ended.Load()
	m.OnAttempt = func(a Attempt) {
		attempt = a.Number + 1
		if a.Number == 2 {
			took = a.Duration
		}
		// A busy machine may begin to handle an attempt after the client has
		// hung up. Mailtrap's next one comes minutes later.
		t.awaitEnded(before + int32(a.Number))
	}
	m.Client = t.client(nil, func(status int) int {
		if attempt == 3 {
			return http.StatusInternalServerError
		}
		return lenient(status)
	})
	t.mustDeliver(m, "a delivery that was repeated after a failure", events...)
	return took
}

// handlesAmongNew sends a part of a delivery again, beside new events.
func (t *subtest) handlesAmongNew() {
	events := t.fresh(4)
	for _, batch := range [][]mailtrapwebhook.Event{
		events[:2],
		{events[0], events[2]},
		{events[3], events[0]},
	} {
		t.mustDeliver(t.mailtrap(), "a delivery of a handled event and a new one", batch...)
	}
	t.wantOnce("handle the new events of a delivery that also has a handled one: remember the Key of each event,"+
		" not of each delivery", repeatsEvents, events...)
}

// handlesSharedIDs sends events that share ids, each in its own delivery. A
// receiver of few kinds may never get such events.
func (t *subtest) handlesSharedIDs() {
	var events []mailtrapwebhook.Event
	add := func(kind, message, event string) {
		ev := t.sample(kind).(*mailtrapwebhook.SendingWebhookEvent)
		text := strings.NewReplacer(ev.MessageID, message, ev.EventID, event).Replace(ev.Raw)
		events = append(events, parseSample(text))
	}
	// A message may be opened twice, while it is delivered once.
	for _, kind := range []string{"open", "click", "soft bounce"} {
		if slices.Contains(t.kinds, kind) {
			message := randomUUID()
			add(kind, message, randomUUID())
			add(kind, message, randomUUID())
			break
		}
	}
	// Mailtrap's own samples differ in nothing but their kinds.
	message, event := randomUUID(), randomUUID()
	for _, kind := range t.kinds[:min(2, len(t.kinds))] {
		if _, ok := t.sample(kind).(*mailtrapwebhook.SendingWebhookEvent); ok {
			add(kind, message, event)
		}
	}
	for _, ev := range events {
		t.mustDeliver(t.mailtrap(), "a delivery", ev)
	}
	if slices.Contains(t.kinds, inboundKind) {
		ev := t.sample(inboundKind).(*mailtrapwebhook.InboundWebhookEvent)
		again := parseSample(strings.Replace(ev.Raw, ev.EventID, randomUUID(), 1))
		t.mustDeliver(t.mailtrap(), "a delivery", ev)
		t.mustDeliver(t.mailtrap(), "an inbound event that came again with another event_id", again)
		t.wantOnce(losesEvents, "an inbound event that came again with another event_id had its effect again:"+
			" know it by Key, or by inbox_id and message_id, because event_id may change when Mailtrap repeats it", ev)
	}
	if len(events) == 0 {
		return
	}
	const apart = "tell events apart by Key, or by name, message id and event id together," +
		" because events may share one or two of these"
	t.wantOnce(apart, "events that share ids have effects for each other: "+apart+", also in Count", events...)
}

func (t *subtest) handlesTwice() {
	// A receiver with a slow store races in the first round. One that only
	// uses memory needs many events and rounds.
	began := time.Now()
	for round := 0; round < 5 || time.Since(began) < t.race; round++ {
		events := t.fresh(50)
		m := t.mailtrap()
		m.Fault = FaultTwice
		// One copy may be refused for as long as the other takes.
		m.Retries = int(t.effect / m.Interval)
		t.mustDeliver(m, "a delivery that came twice at once", events...)
		t.wantOnce(losesEvents, "a delivery that came twice at once had its effect twice:"+
			" claim each event in one atomic step before you act, as with a unique index", events...)
	}
}

// handlesSideBySide sends two deliveries at the same time, of different events.
func (t *subtest) handlesSideBySide() {
	// A receiver that is busy while it reads a body shows in the first round.
	// One that is only while it handles the events needs many.
	const each = 100
	for began := time.Now(); ; {
		var arrived atomic.Int32
		both := make(chan struct{})
		t.onBody(func() error {
			if arrived.Add(1) == 2 {
				close(both)
			}
			select {
			case <-both:
			case <-time.After(time.Second): // a receiver may take one request after the other
			}
			return nil
		})
		events := t.fresh(2 * each)
		var results [2]Result
		var errs [2]error
		var deliveries sync.WaitGroup
		for i := range results {
			m := t.mailtrap()
			m.Retries = int(t.effect / m.Interval) // one may be refused for as long as the other takes
			deliveries.Go(func() { results[i], errs[i] = t.send(m, Body(t.format, events[each*i:each*(i+1)]...)) })
		}
		deliveries.Wait()
		t.onBody(nil)
		for i := range results {
			t.mustAcknowledge("a delivery that came beside another", t.answered(results[i], errs[i]))
		}
		t.wantOnce("handle a delivery while you handle another, or answer 503 so that Mailtrap repeats it",
			repeatsEvents, events...)
		if time.Since(began) >= t.race {
			return
		}
	}
}

func (t *subtest) handlesWholeBatch() {
	const n = 500
	events := t.fresh(n)
	if result := t.deliver(t.mailtrap(), events...); !result.Acknowledged {
		t.Fatalf("a delivery of %d events and %d bytes %s: read the whole body,"+
			" and handle all its events within %v", n, len(Body(t.format, events...)), answer(result), t.answer)
	}
	t.wantHandled("handle all events of a delivery, because Mailtrap sends up to 500 in one", events)
	// No other delivery comes in between: "repeated after 200" is about that.
	t.mustDeliver(t.mailtrap(), fmt.Sprintf("a delivery of %d events that was repeated after 200", n), events...)
	t.wantAtMost(1, fmt.Sprintf("a delivery of %d events that was repeated after 200 had its effect again:"+
		" remember the Key of each event for longer than Mailtrap retries, however many events come", n), events)
}

func (t *subtest) handlesEveryKind() {
	var sent []mailtrapwebhook.Event
	for _, kind := range t.kinds {
		ev := t.sample(kind)
		t.mustDeliver(t.mailtrap(), fmt.Sprintf("a delivery of the kind %q", kind), ev)
		sent = append(sent, ev)
	}
	if missing := t.await(sent); len(missing) > 0 {
		t.Fatalf("events of the kinds %s had no effect within %v: handle them,"+
			" or let Count return a negative number for what you ignore,"+
			" and find the others under their keys, such as %s", names(missing), t.effect, missing[0].Key())
	}
	t.expect(1, repeatsEvents, sent)

	// A webhook of Mailtrap's has events of one type, and of several kinds.
	mixed := make(map[reflect.Type][]mailtrapwebhook.Event)
	for _, kind := range t.kinds {
		ev := t.sample(kind)
		mixed[reflect.TypeOf(ev)] = append(mixed[reflect.TypeOf(ev)], ev)
	}
	var all []mailtrapwebhook.Event
	for _, events := range mixed {
		t.mustDeliver(t.mailtrap(), "a delivery of several kinds", events...)
		all = append(all, events...)
	}
	t.wantOnce("handle each event by its own kind, because a delivery has events of several kinds", repeatsEvents, all...)
}

// handlesOld sends events from three hours ago: Mailtrap's last retry comes
// later still.
func (t *subtest) handlesOld() {
	then := t.now.Add(-3 * time.Hour)
	events := []mailtrapwebhook.Event{sampleAt(t.kinds[0], then), sampleAt(t.kinds[0], then)}
	t.mustDeliver(t.mailtrap(), "a delivery of events that are three hours old", events...)
	t.wantOnce("handle an event however old it is, and after newer ones,"+
		" because Mailtrap repeats a delivery for hours and keeps no order", repeatsEvents, events...)
}

func (t *subtest) passesUnknownKinds() {
	const advice = "acknowledge an event that you do not know and handle the others, because Mailtrap adds kinds"
	t.passes("of an unknown kind", `{"event":"unheard_of.happened","event_id":"`+rand.Text()+`"}`, advice)
	t.passes(`without the field "event"`, `{"event_id":"`+rand.Text()+`"}`, advice)
}

func (t *subtest) passesOddFields() {
	for _, odd := range []struct{ what, member, value string }{
		{"whose custom_variables is []", "custom_variables", `[]`}, // PHP's empty object
		{"whose custom_variables has 1,000 bytes", "custom_variables", // Mailtrap's limit
			`{"order":9007199254740993,"note":"` + strings.Repeat("é", 482) + `"}`},
		{"whose response_code is a string", "response_code", `"5.1.1"`},
		{"whose sending_stream is null", "sending_stream", `null`},
		{"whose bounce_category is new", "bounce_category", `"unheard_of"`},
		{"whose resource.id is a number", "resource", `{"id":1,"type":"sandbox"}`},
		{"whose changes is []", "changes", `[]`},
		{"with a new field", "unheard_of", `{"list":[1,null,"x"]}`},
	} {
		t.passes(odd.what, withMember(t.fresh(1)[0], odd.member, odd.value),
			"acknowledge an event with an odd field and handle the others, because fields change")
	}
}

// withMember returns the text of an event with a member of its own.
func withMember(ev mailtrapwebhook.Event, name, value string) string {
	members := make(map[string]json.RawMessage)
	if err := json.Unmarshal([]byte(ev.RawJSON()), &members); err != nil {
		panic(err) // a sample is JSON
	}
	members[name] = json.RawMessage(value)
	text, err := json.Marshal(members)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// passes checks that an odd event does not keep the events beside it from
// having their effect. Whether it has one itself is up to the receiver.
func (t *subtest) passes(what, odd, advice string) {
	t.Helper()
	good := t.fresh(2)
	body := joinTexts(t.format, []string{good[0].RawJSON(), odd, good[1].RawJSON()})
	if result := t.post(t.mailtrap(), body); !result.Acknowledged {
		t.Fatalf("a delivery with an event %s %s: %s", what, answer(result), advice)
	}
	if len(t.await(good)) > 0 {
		t.Fatalf("an event beside one %s had no effect: %s", what, advice)
	}
	t.wantAtMost(1, repeatsEvents, good)
}

func (t *subtest) answers200() {
	m := t.mailtrap()
	m.Client = nil // the lenient one would hide the status
	m.Fault = FaultRepeated
	events := t.fresh(1)
	result := t.deliver(m, events...)
	for _, a := range result.Attempts {
		if a.Status != http.StatusOK && lenient(a.Status) == http.StatusOK {
			t.Fatalf("a delivery was answered %d: answer 200, because Mailtrap takes any other status for a failure",
				a.Status)
		}
	}
	t.mustAcknowledge("a delivery", result)
}
