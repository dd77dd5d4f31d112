package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// receive takes a delivery.
func (in *inspector) receive(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	limitTime(w, readTimeout+forwardTimeout+writeTimeout)
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		in.refuse(w, &refusal{http.StatusMethodNotAllowed, "the request is not a POST: Mailtrap posts"})
		return
	}
	if crossOrigin.Check(r) != nil {
		// Any page in the browser could otherwise reach the app.
		in.refuse(w, &refusal{http.StatusForbidden, "a page in a browser sent the request: Mailtrap is none"})
		return
	}
	body, release, err := in.bodies.read(w, r)
	if err != nil {
		in.refuse(w, err)
		return
	}
	defer release()
	c := newCapture(r, body, started)
	c.id = in.store.nextID()
	if o, ok := r.Context().Value(originKey{}).(*origin); ok {
		o.delivery.Store(int64(c.id))
		c.source, c.replayOf = o.source, o.replayOf
	}
	d := inspect(c, in.secrets)
	d.onDisk = in.dir != nil && in.dir.mayKeep(d)
	if in.forward == nil {
		in.answer(w, d, started)
		return
	}
	in.answerOfApp(w, r, d, started)
}

// refuse answers a request that is not captured.
func (in *inspector) refuse(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if refused, ok := errors.AsType[*refusal](err); ok {
		status = refused.status
	}
	in.notes.linef("%s  not kept  %d  %v", time.Now().Format(time.TimeOnly), status, err)
	writeStatus(w, status)
}

// writeStatus answers with a status and nothing that a stranger could use.
func writeStatus(w http.ResponseWriter, status int) {
	switch status {
	case http.StatusOK:
		w.WriteHeader(status)
		return
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "60")
	}
	http.Error(w, http.StatusText(status), status)
}

// answer answers a delivery as a Handler would.
func (in *inspector) answer(w http.ResponseWriter, d *delivery, started time.Time) {
	status, reason := ownStatus(d)
	d = d.answered(answer{status: status, err: reason, duration: time.Since(started)})
	if err := in.save(d); err != nil {
		d = d.answered(notSaved(err, started))
	}
	// Only now that the capture is on disk it may be acknowledged.
	in.keep(d)
	writeStatus(w, d.answer.status)
}

// notSaved is the answer to a delivery that cannot be written.
func notSaved(err error, started time.Time) answer {
	return answer{
		status:   http.StatusServiceUnavailable,
		duration: time.Since(started),
		err:      "the capture cannot be written: " + fileError(err),
	}
}

// answerOfApp forwards a delivery and answers what the app answers.
func (in *inspector) answerOfApp(w http.ResponseWriter, r *http.Request, d *delivery, started time.Time) {
	// The capture comes first: a delivery that the app has handled must not
	// be missing.
	if err := in.save(d); err != nil {
		d = d.answered(notSaved(err, started))
		in.keep(d)
		writeStatus(w, d.answer.status)
		return
	}
	in.store.add(d) // shows that it is on its way
	a := in.forward.send(r, d.body)
	a.duration = time.Since(started)
	d = d.answered(a)
	if err := in.save(d); err != nil {
		in.notes.linef("inspector: the answer to delivery %d cannot be written: %s", d.id, fileError(err))
	}
	in.keep(d)
	writeAnswer(w, a)
}

// answered returns the delivery with an answer.
func (d *delivery) answered(a answer) *delivery {
	c, answered := *d.capture, *d
	c.answer, answered.capture = a, &c
	return &answered
}

// save writes the capture if it is to be on disk.
func (in *inspector) save(d *delivery) error {
	if !d.onDisk {
		return nil
	}
	return in.dir.save(d.capture)
}

// keep keeps an answered delivery and prints its line.
func (in *inspector) keep(d *delivery) {
	in.store.add(d)
	in.lines.linef("%s", lineOf(d))
}

// maxEvents is the default of a Handler.
const maxEvents = 10_000

// ownStatus returns the status that a Handler would answer, and the reason for
// one that is not 200. A delivery without a secret counts as verified.
func ownStatus(d *delivery) (status int, reason string) {
	switch {
	case !isPlain(d.header):
		return http.StatusUnsupportedMediaType, "the body is encoded, or its type is not that of JSON or text"
	case d.verdict.verified == verifiedNo:
		return http.StatusBadRequest, ""
	case d.content.events > maxEvents:
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("the delivery has more than %d events", maxEvents)
	case d.content.fault != nil:
		return http.StatusUnprocessableEntity, ""
	}
	return http.StatusOK, ""
}

// isPlain reports whether a Handler would look at a body with that header.
func isPlain(header http.Header) bool {
	for _, line := range header.Values("Content-Encoding") {
		for coding := range strings.SplitSeq(line, ",") {
			if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
				return false
			}
		}
	}
	major, _, _ := strings.Cut(header.Get("Content-Type"), "/")
	switch strings.ToLower(strings.TrimSpace(major)) {
	case "multipart", "image", "audio", "video", "font":
		return false
	}
	return true
}

// verifiedWord says in the terminal whether a delivery verifies.
var verifiedWord = map[string]string{
	verifiedYes: "verified", verifiedNo: "NOT VERIFIED", verifiedUnknown: "not checked",
}

// lineOf returns a line about a delivery.
func lineOf(d *delivery) string {
	what := formatName(d.content.format)
	switch {
	case d.content.fault != nil:
		what = "broken: " + errorText(d.content.fault)
	case d.content.events > 0:
		what += fmt.Sprintf(", %s: %s", plural(d.content.events, "event"), d.content.kindList())
	}
	line := fmt.Sprintf("%s  #%-4d  %-12s  %3d in %-8s  %s", d.receivedAt.Local().Format(time.TimeOnly), d.id,
		verifiedWord[d.verdict.verified], d.answer.status, roundMillis(d.answer.duration), what)
	if d.verdict.verified == verifiedNo {
		line += "  (" + d.verdict.text + ")"
	}
	if d.answer.err != "" {
		line += "  (" + d.answer.err + ")"
	}
	return line
}

func roundMillis(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// plural returns "1 event" or "3 events".
func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
