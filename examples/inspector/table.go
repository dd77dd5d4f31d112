package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// A table delivers to a receiver and prints a line for each attempt at the end.
// Meanwhile it shows on a terminal how far it is.
type table struct {
	stdout, stderr io.Writer
	rows           *tabwriter.Writer
	bar            *bar
	began          time.Time
	column         string // what a delivery is known by: DELIVERY or FILE
	delivery       int
	failed         int
	err            error // the first
}

func newTable(env environment, column string, deliveries int, retries bool) *table {
	t := &table{
		stdout: env.stdout,
		stderr: env.stderr,
		rows:   tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0),
		began:  time.Now(),
		column: column,
	}
	if isTerminal(env.stderr) {
		t.bar = startBar(env.stderr, deliveries, retries)
	}
	return t
}

// deliver sends a body and adds its attempts under a name. It reports whether
// Mailtrap would go on.
func (t *table) deliver(ctx context.Context, m *webhooktest.Mailtrap, name string, body []byte) bool {
	if t.delivery++; t.delivery == 1 {
		fmt.Fprintf(t.rows, "%s\tCOPY\tATTEMPT\tAFTER\tSTATUS\tTOOK\tERROR\n", t.column)
	}
	m.OnAttempt = func(a webhooktest.Attempt) { t.bar.attempt(t.delivery, a) }
	result, err := deliver(ctx, m, body)
	for _, a := range result.Attempts {
		t.row(name, a)
	}
	if err != nil {
		t.failed++
		if t.err == nil {
			t.err = fmt.Errorf("%s %s: %s", strings.ToLower(t.column), name, errorText(err))
		}
	}
	return !result.Paused && ctx.Err() == nil
}

func (t *table) row(name string, a webhooktest.Attempt) {
	status, why := fmt.Sprint(a.Status), ""
	if a.Err != nil {
		status, why = "-", printable(errorText(a.Err))
	}
	fmt.Fprintf(t.rows, "%s\t%d\t%d\t%s\t%s\t%s\t%s\n", printable(name), a.Copy, a.Number,
		a.Began.Sub(t.began).Round(time.Millisecond), status, roundMillis(a.Duration), why)
}

// finish prints the table and what is wrong.
func (t *table) finish() error {
	t.bar.stop()
	if err := t.rows.Flush(); err != nil {
		return err
	}
	if t.failed > 1 {
		return fmt.Errorf("%d of %d deliveries went wrong; %w", t.failed, t.delivery, t.err)
	}
	return t.err
}

// isTerminal reports whether a person watches what is written.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

const (
	barDelay = time.Second // what takes less needs no bar
	barEvery = 200 * time.Millisecond
	barWidth = 24
)

// mailtrapAttempts is how often Mailtrap sends a delivery.
const mailtrapAttempts = 41

// A bar shows how far the deliveries are. A nil bar shows nothing.
type bar struct {
	w          io.Writer
	deliveries int
	retries    bool
	done, over chan struct{}

	mu       sync.Mutex
	delivery int
	attempts int // of the delivery
	last     string
}

func startBar(w io.Writer, deliveries int, retries bool) *bar {
	b := &bar{w: w, deliveries: deliveries, retries: retries, done: make(chan struct{}), over: make(chan struct{})}
	go b.run()
	return b
}

// attempt notes an attempt that has ended.
func (b *bar) attempt(delivery int, a webhooktest.Attempt) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delivery, b.attempts, b.last = delivery, a.Number, fmt.Sprint(a.Status)
	if a.Err != nil {
		b.last = "no answer"
	}
}

// stop removes the bar.
func (b *bar) stop() {
	if b != nil {
		close(b.done)
		<-b.over
	}
}

func (b *bar) run() {
	defer close(b.over)
	timer := time.NewTimer(barDelay)
	defer timer.Stop()
	shown := false
	for {
		select {
		case <-b.done:
			if shown {
				fmt.Fprint(b.w, "\r\x1b[K")
			}
			return
		case <-timer.C:
			fmt.Fprintf(b.w, "\r\x1b[K%s", b.text())
			shown = true
			timer.Reset(barEvery)
		}
	}
}

// text returns the bar as it is now.
func (b *bar) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	part := float64(max(b.delivery-1, 0))
	if b.retries {
		part += float64(b.attempts) / mailtrapAttempts
	}
	filled := min(int(part/float64(b.deliveries)*barWidth), barWidth)
	text := fmt.Sprintf("[%s%s] delivery %d of %d", strings.Repeat("#", filled),
		strings.Repeat(".", barWidth-filled), max(b.delivery, 1), b.deliveries)
	if b.attempts > 0 {
		text += fmt.Sprintf(", attempt %d: %s", b.attempts, b.last)
	}
	return text
}
