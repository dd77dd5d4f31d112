package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// payloads are the samples of Mailtrap's documentation, byte for byte.
//
//go:embed payloads/json/*.json payloads/jsonl/*.jsonl
var payloads embed.FS

const (
	formatJSON  = mailtrapwebhook.FormatJSON
	formatLines = mailtrapwebhook.FormatJSONLines
)

// A step is one delivery of the demo and what should become of it.
type step struct {
	title   string
	webhook string // the path of its URL; each webhook has a store of its own
	format  mailtrapwebhook.Format
	body    []byte
	forged  bool   // signed by somebody who does not know the secret
	failFor string // the kind of event that the callback fails for
	want    outcome
}

// An outcome is what became of a delivery.
type outcome struct {
	answered                                     int // as Mailtrap sees it
	status                                       int // this and the rest as the Handler reports it
	format                                       mailtrapwebhook.Format
	events, handled, duplicates, dropped, failed int
	held, unstarted, unknown                     int
	called                                       string // the events that OnEvent was called for
}

// # The script

// script returns the deliveries of the demo.
//
// The samples of the documentation share their ids. Within a format their kinds tell them apart, but the bounce of one
// format has the key of the other's, so that each group of samples goes to a webhook, and thereby a store, of its own.
func script() []step {
	var steps []step
	for _, s := range samples() {
		for _, format := range []mailtrapwebhook.Format{formatJSON, formatLines} {
			as, body := "as printed", s.printed
			if format != s.format {
				as, body = "converted", pack(format, s.events...)
			}
			steps = append(steps, step{
				title:   s.name + " " + as,
				webhook: fmt.Sprintf("%s samples as %s", s.format, format),
				format:  format,
				body:    body,
				want:    allHandled(format, kindsOf(s.events)...),
			})
		}
	}
	for _, format := range []mailtrapwebhook.Format{formatJSON, formatLines} {
		steps = append(steps, incidents(format)...)
	}
	return steps
}

// incidents returns the deliveries in which something is not as usual.
func incidents(format mailtrapwebhook.Format) []step {
	event := func(kind, message string) string {
		return fmt.Sprintf(`{"event":%q,"timestamp":1728669700,"message_id":%q,"event_id":"%s-%s"}`,
			kind, message, message, kind)
	}
	batch := pack(format, event("delivery", "first"), event("open", "first"), event("click", "first"))
	second := pack(format, event("delivery", "second"), event("open", "second"), event("click", "second"))
	broken := pack(format, event("delivery", "third"), `"not an event"`, event("click", "third"))
	if format == formatLines { // in which even what is not JSON does no harm to the other lines
		broken = pack(format, event("delivery", "third"), `{"event":"open","mess`, event("click", "third"))
	}

	refused := outcome{answered: http.StatusBadRequest, status: http.StatusBadRequest}
	handled := allHandled(format, "delivery", "open", "click")
	again := outcome{answered: http.StatusOK, status: http.StatusOK, format: format, events: 3, duplicates: 3}
	survived := allHandled(format, "delivery", "unknown", "click")
	survived.unknown = 1
	failed := outcome{
		answered: http.StatusInternalServerError, status: http.StatusInternalServerError, format: format,
		events: 3, handled: 2, failed: 1, called: "delivery, open, click",
	}
	mended := allHandled(format, "open")
	mended.events, mended.duplicates = 3, 2

	steps := []step{
		{title: "forged", body: batch, forged: true, want: refused},
		{title: "the same, signed", body: batch, want: handled},
		{title: "its retry", body: batch, want: again},
		{title: "a broken element", body: broken, want: survived},
		{title: "a callback fails", body: second, failFor: "open", want: failed},
		{title: "its retry", body: second, want: mended},
	}
	for i := range steps {
		steps[i].webhook, steps[i].format = fmt.Sprintf("incidents as %s", format), format
	}
	return steps
}

func allHandled(format mailtrapwebhook.Format, kinds ...string) outcome {
	return outcome{
		answered: http.StatusOK, status: http.StatusOK, format: format,
		events: len(kinds), handled: len(kinds), called: strings.Join(kinds, ", "),
	}
}

// # The samples

type sample struct {
	name    string
	format  mailtrapwebhook.Format
	printed []byte
	events  []string // each on one line
}

// samples returns the payloads. They are part of the program, so that one that cannot be read is a bug in it. They are
// taken apart without the package, whose answers are to be checked against them.
func samples() []sample {
	var all []sample
	must(fs.WalkDir(payloads, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		s := sample{
			name:    strings.TrimSuffix(path.Base(name), path.Ext(name)),
			format:  formatJSON,
			printed: must1(payloads.ReadFile(name)),
		}
		if path.Ext(name) == ".jsonl" {
			s.format = formatLines
			s.events = strings.Split(strings.TrimSpace(string(s.printed)), "\n")
		} else {
			var envelope struct{ Events []json.RawMessage }
			must(json.Unmarshal(s.printed, &envelope))
			for _, event := range envelope.Events {
				var line bytes.Buffer
				must(json.Compact(&line, event))
				s.events = append(s.events, line.String())
			}
		}
		all = append(all, s)
		return nil
	}))
	return all
}

// pack makes a body of events.
func pack(format mailtrapwebhook.Format, events ...string) []byte {
	if format == formatLines {
		return []byte(strings.Join(events, "\n") + "\n")
	}
	return []byte(`{"events":[` + strings.Join(events, ",") + `]}`)
}

func kindsOf(events []string) []string {
	var kinds []string
	for _, event := range events {
		var named struct{ Event string }
		must(json.Unmarshal([]byte(event), &named))
		kinds = append(kinds, named.Event)
	}
	return kinds
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func must1[T any](v T, err error) T {
	must(err)
	return v
}

// # The receiver

// discard is the logger of the demo, in which what goes wrong is in the table.
var discard = slog.New(slog.DiscardHandler)

// A receiver is what a program of one's own is, but that it only remembers what it was called for.
type receiver struct {
	reports chan mailtrapwebhook.Report

	mu      sync.Mutex
	failFor string
	called  []string
}

var errOnPurpose = errors.New("the callback fails on purpose")

func (r *receiver) onEvent(_ context.Context, ev mailtrapwebhook.Event) error {
	kind := ev.Name()
	if _, ok := ev.(*mailtrapwebhook.UnknownEvent); ok {
		kind = "unknown"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.called = append(r.called, kind)
	if kind == r.failFor {
		return errOnPurpose // makes Mailtrap send the delivery again
	}
	return nil
}

// expect makes ready for the next delivery.
func (r *receiver) expect(failFor string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failFor, r.called = failFor, nil
}

func (r *receiver) calledFor() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.called, ", ")
}

// handlers returns a handler for each webhook of the steps, at a path of its own.
func (r *receiver) handlers(steps []step, verifier *mailtrapwebhook.Verifier) http.Handler {
	webhooks := make(map[string]http.Handler)
	for _, s := range steps {
		if webhooks["/"+s.webhook] == nil {
			webhooks["/"+s.webhook] = &mailtrapwebhook.Handler{
				Verifier: verifier,
				Dedup:    new(mailtrapwebhook.MemoryDeduplicator),
				OnEvent:  r.onEvent,
				Logger:   discard,
				Observe:  func(_ context.Context, report mailtrapwebhook.Report) { r.reports <- report },
			}
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if handler := webhooks[req.URL.Path]; handler != nil {
			handler.ServeHTTP(w, req)
			return
		}
		http.NotFound(w, req)
	})
}

// # Mailtrap's part

// demo delivers the steps to a receiver on this machine and writes what became of them as a table. It returns an error
// if one of them did not go as it should.
func demo(ctx context.Context, steps []step, stdout io.Writer) (err error) {
	secret := rand.Text() // Mailtrap's have 32 hexadecimal digits; any text will do
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r := &receiver{reports: make(chan mailtrapwebhook.Report, 1)}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() {
		served <- serve(serving, newServer(r.handlers(steps, verifier), discard), listener)
	}()
	defer func() {
		stop()
		err = cmp.Or(err, <-served)
	}()

	mailtrap := newSender(listener.Addr().String(), secret)
	defer mailtrap.client.CloseIdleConnections()
	var rows []row
	for _, s := range steps {
		got, err := mailtrap.play(ctx, s, r)
		if err != nil {
			return fmt.Errorf("%s (%s): %w", s.title, s.format, err)
		}
		rows = append(rows, row{s, got})
	}
	return writeTable(stdout, rows)
}

// A sender delivers as Mailtrap does.
type sender struct {
	base, secret string
	client       *http.Client
}

func newSender(address, secret string) *sender {
	return &sender{
		base:   "http://" + address,
		secret: secret,
		client: &http.Client{Transport: &http.Transport{}}, // no proxy lies between here and here
	}
}

// play delivers a step and returns what became of it.
func (m *sender) play(ctx context.Context, s step, r *receiver) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // Mailtrap waits no longer
	defer cancel()
	r.expect(s.failFor)
	secret := m.secret
	if s.forged {
		secret = rand.Text()
	}
	status, err := m.send(ctx, s.webhook, s.format, s.body, mailtrapwebhook.Sign(s.body, secret))
	if err != nil {
		return outcome{}, err
	}
	select {
	case report := <-r.reports:
		return outcome{
			answered: status, status: report.Status, format: report.Format,
			events: report.Events, handled: report.Handled, duplicates: report.Duplicates, dropped: report.Dropped,
			failed: report.Failed, held: report.Held, unstarted: report.Unstarted, unknown: report.Unknown,
			called: r.calledFor(),
		}, nil
	case <-ctx.Done():
		return outcome{}, fmt.Errorf("answered %d, but not observed: %w", status, ctx.Err())
	}
}

func (m *sender) send(
	ctx context.Context, webhook string, format mailtrapwebhook.Format, body []byte, signature string,
) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.base, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.URL.Path = "/" + webhook
	req.Header.Set("Content-Type", "application/json")
	if format == formatLines {
		req.Header.Set("Content-Type", "application/jsonl")
	}
	req.Header.Set(mailtrapwebhook.SignatureHeader, signature)
	resp, err := m.client.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// # The table

type row struct {
	step step
	got  outcome
}

// writeTable writes a line for each row and returns an error if one is not as it should be.
func writeTable(w io.Writer, rows []row) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SENT\tFORMAT\tANSWERED\tEVENTS\tHANDLED\tDUPLICATES\tFAILED\tUNKNOWN\tRESULT\tCALLED FOR")
	wrong := 0
	for _, r := range rows {
		got, want := r.got, r.step.want
		result := "ok"
		if got != want {
			result = "FAIL"
			wrong++
		}
		cells := []string{
			r.step.title, r.step.format.String(),
			cell(got.answered, want.answered), cell(got.events, want.events), cell(got.handled, want.handled),
			cell(got.duplicates, want.duplicates), cell(got.failed, want.failed), cell(got.unknown, want.unknown),
			result, cell(cmp.Or(got.called, "-"), cmp.Or(want.called, "-")),
		}
		// What has no column is as it should be in all but a table with a fault.
		cells = slices.DeleteFunc(append(cells,
			fault("reported status", got.status, want.status), fault("read as", got.format, want.format),
			fault("dropped", got.dropped, want.dropped), fault("held", got.held, want.held),
			fault("unstarted", got.unstarted, want.unstarted),
		), func(text string) bool { return text == "" })
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d deliveries did not go as they should: see FAIL in the table", wrong, len(rows))
	}
	_, err := fmt.Fprintf(w, "\nall %d deliveries went as they should\n", len(rows))
	return err
}

// cell shows what there is, and what there should be if that is something else.
func cell[T comparable](got, want T) string {
	if got != want {
		return fmt.Sprintf("%v, want %v", got, want)
	}
	return fmt.Sprint(got)
}

func fault[T comparable](name string, got, want T) string {
	if got == want {
		return ""
	}
	return name + " " + cell(got, want)
}
