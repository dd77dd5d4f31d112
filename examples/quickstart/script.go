package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	formatJSON  = mailtrapwebhook.FormatJSON
	formatLines = mailtrapwebhook.FormatJSONLines
)

var formats = []mailtrapwebhook.Format{formatJSON, formatLines}

// A step is one delivery of the demo and its expected outcome.
type step struct {
	title   string
	webhook string // the path of its URL; each webhook has a Handler of its own
	format  mailtrapwebhook.Format
	body    []byte
	forged  bool   // signed with another secret
	failFor string // the kind of event that the callback fails for
	want    outcome
}

// An outcome is the answer to a delivery, the Handler's report about it, and
// the events that OnEvent was called for.
type outcome struct {
	answered                                     int
	status                                       int
	format                                       mailtrapwebhook.Format
	events, handled, duplicates, dropped, failed int
	held, unstarted, unknown, unreadable         int
	called                                       string
}

// script returns the deliveries of the demo: each sample in both formats, and
// then what can go wrong.
//
// The bounce in one file has the ids, and so the key, of the bounce in another.
// Each group of samples therefore goes to a webhook, and a store, of its own.
func script() []step {
	var steps []step
	for _, s := range samples() {
		for _, format := range formats {
			body := s.printed // byte for byte, white space included
			if format != s.format {
				body = pack(format, s.events...)
			}
			steps = append(steps, step{
				title:   s.file,
				webhook: fmt.Sprintf("%s samples as %s", s.format, format),
				format:  format,
				body:    body,
				want:    allHandled(format, kindsOf(s.events)...),
			})
		}
	}
	for _, format := range formats {
		steps = append(steps, incidents(format)...)
	}
	return steps
}

// incidents returns the deliveries in which something goes wrong.
func incidents(format mailtrapwebhook.Format) []step {
	first := pack(format, event("delivery", "first"), event("open", "first"), event("click", "first"))
	second := pack(format, event("delivery", "second"), event("open", "second"), event("click", "second"))
	broken := pack(format, event("delivery", "third"), `"not an event"`, event("click", "third"))
	if format == formatLines { // a line that is not JSON harms no other line
		broken = pack(format, event("delivery", "third"), `{"event":"open","mess`, event("click", "third"))
	}

	refused := outcome{answered: http.StatusBadRequest, status: http.StatusBadRequest}
	handled := allHandled(format, "delivery", "open", "click")
	repeated := outcome{answered: http.StatusOK, status: http.StatusOK, format: format, events: 3, duplicates: 3}
	survived := allHandled(format, "delivery", "unknown", "click")
	survived.unknown, survived.unreadable = 1, 1
	failed := outcome{
		answered: http.StatusInternalServerError, status: http.StatusInternalServerError, format: format,
		events: 3, handled: 2, failed: 1, called: "delivery, open, click",
	}
	mended := allHandled(format, "open")
	mended.events, mended.duplicates = 3, 2

	steps := []step{
		{title: "a forged delivery", body: first, forged: true, want: refused},
		{title: "the same, signed by Mailtrap", body: first, want: handled},
		{title: "the same again", body: first, want: repeated},
		{title: "one event is broken", body: broken, want: survived},
		{title: "a callback fails", body: second, failFor: "open", want: failed},
		{title: "the retry of that", body: second, want: mended},
	}
	for i := range steps {
		steps[i].webhook, steps[i].format = fmt.Sprintf("incidents as %s", format), format
	}
	return steps
}

func event(kind, message string) string {
	return fmt.Sprintf(`{"event":%q,"timestamp":1728669700,"message_id":%q,"event_id":"%s-%s"}`,
		kind, message, message, kind)
}

func allHandled(format mailtrapwebhook.Format, kinds ...string) outcome {
	return outcome{
		answered: http.StatusOK, status: http.StatusOK, format: format,
		events: len(kinds), handled: len(kinds), called: strings.Join(kinds, ", "),
	}
}
