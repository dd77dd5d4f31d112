package main

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

var faults = []webhooktest.Fault{
	webhooktest.FaultForged, webhooktest.FaultRepeated, webhooktest.FaultTwice,
	webhooktest.FaultLate, webhooktest.FaultBroken, webhooktest.FaultReordered,
}

func faultNames() []string {
	var names []string
	for _, fault := range faults {
		names = append(names, string(fault))
	}
	return names
}

// sampleKinds returns the names of the kinds that there is a sample of.
func sampleKinds() []string {
	var names []string
	for _, ev := range webhooktest.Samples() {
		names = append(names, ev.Name())
	}
	return names
}

// maxBatch is the most events that Mailtrap puts into a delivery.
const maxBatch = 500

// samples says which events are sent.
type samples struct {
	kinds  []string // or "all"
	n      int      // events in all; 0 is one of each kind
	format string   // "JSON" or "JSON Lines"
	fault  webhooktest.Fault
}

// formats has the names of the formats in flags and in the API.
var formats = map[string]mailtrapwebhook.Format{
	"": mailtrapwebhook.FormatJSON, "json": mailtrapwebhook.FormatJSON,
	"jsonl": mailtrapwebhook.FormatJSONLines, "json lines": mailtrapwebhook.FormatJSONLines,
}

// check completes the samples, or returns an error that says what is wrong.
func (s *samples) check(mostEvents int) error {
	known := sampleKinds()
	if len(s.kinds) == 0 || slices.Contains(s.kinds, "all") {
		s.kinds = known
	}
	for _, kind := range s.kinds {
		if !slices.Contains(known, kind) {
			return badRequest("there is no kind %q: use all, or some of %s", kind, strings.Join(known, ", "))
		}
	}
	if _, ok := formats[strings.ToLower(s.format)]; !ok {
		return badRequest("there is no format %q: use json or jsonl", s.format)
	}
	if s.fault != "" && !slices.Contains(faults, s.fault) {
		return badRequest("there is no fault %q: use one of %s", s.fault, strings.Join(faultNames(), ", "))
	}
	if s.n < 0 || s.n > mostEvents {
		return badRequest("the number of events must be from 1 to %d", mostEvents)
	}
	if s.n == 0 {
		s.n = len(s.kinds)
	}
	return nil
}

// deliveries returns how many deliveries the events make.
func (s *samples) deliveries() int { return (s.n + maxBatch - 1) / maxBatch }

// bodies returns the deliveries. Each is made when it is its turn.
func (s *samples) bodies() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for sent := 0; sent < s.n; sent += maxBatch {
			var events []mailtrapwebhook.Event
			for i := sent; i < min(sent+maxBatch, s.n); i++ {
				events = append(events, webhooktest.Sample(s.kinds[i%len(s.kinds)]))
			}
			if !yield(webhooktest.Body(formats[strings.ToLower(s.format)], events...)) {
				return
			}
		}
	}
}

// A player says how deliveries are sent.
type player struct {
	secret  string // signs, unless header does
	retries bool   // as Mailtrap has them; else one attempt, or what the fault takes
	speed   float64
	fault   webhooktest.Fault
	header  http.Header // of the capture that is sent again, or nil
}

// mailtrap returns what sends the body.
func (p player) mailtrap(body []byte) *webhooktest.Mailtrap {
	m := &webhooktest.Mailtrap{Secret: p.secret, Fault: p.fault, Speed: p.speed, Inbound: isInbound(body)}
	switch {
	case p.retries:
	case p.fault == webhooktest.FaultLate, p.fault == webhooktest.FaultTwice:
		// A receiver does well to answer 503 while it still works on the
		// attempt before, or on the other copy.
		m.Retries, m.Interval = 10, 200*time.Millisecond
	default:
		m.Retries = -1
	}
	return m
}

// isInbound reports whether a body is an inbound webhook's, which Mailtrap
// sends again at other times.
func isInbound(body []byte) (inbound bool) {
	eachEvent(body, func(ev mailtrapwebhook.Event, _ mailtrapwebhook.Format) bool {
		_, inbound = ev.(*mailtrapwebhook.InboundWebhookEvent)
		return false
	})
	return inbound
}

// replace puts the headers of a capture in the place of the kit's. A header
// that signs stays with secret.
func (p player) replace(header http.Header, resign bool) {
	signature := header.Values(mailtrapwebhook.SignatureHeader)
	for _, name := range []string{"Content-Type", "User-Agent", "Accept-Encoding", mailtrapwebhook.SignatureHeader} {
		header.Del(name)
	}
	for name, values := range p.header {
		if name != "Content-Length" && !isHopHeader(name) {
			header[name] = values
		}
	}
	if resign {
		header[mailtrapwebhook.SignatureHeader] = signature
	}
}

// deliver sends a body. Its error is nil if the receiver did well.
func deliver(ctx context.Context, m *webhooktest.Mailtrap, body []byte) (webhooktest.Result, error) {
	result, err := m.Deliver(ctx, body)
	if err != nil {
		return result, err
	}
	err = result.Err()
	if err != nil && result.Paused && m.Retries == 0 { // it had all of Mailtrap's retries
		err = fmt.Errorf("%w; Mailtrap would now pause the webhook", err)
	}
	return result, err
}
