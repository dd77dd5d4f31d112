package webhooktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// alter returns the body with FaultBroken or FaultReordered. The form of the
// body stays as it is, but a second element makes an envelope of a bare object.
func alter(body []byte, fault Fault) ([]byte, error) {
	events, err := mailtrapwebhook.Parse(body)
	if err != nil {
		return nil, fmt.Errorf("webhooktest: Fault %q needs a body that can be parsed: deliver another: %w", fault, err)
	}
	texts := make([]string, len(events))
	for i, ev := range events {
		texts[i] = ev.RawJSON()
	}
	format := formatOf(body)
	switch {
	case fault == FaultReordered:
		slices.Reverse(texts)
	case format == mailtrapwebhook.FormatJSONLines:
		texts = breakSecond(texts, `{"event":"delivery","mess`)
	default:
		texts = breakSecond(texts, `"not an event"`)
	}
	altered := joinTexts(format, texts)
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
		altered = []byte("[" + strings.Join(texts, ",") + "]")
	}
	// The receiver must not be blamed for a body that is broken as a whole.
	if _, err := mailtrapwebhook.Parse(altered); err != nil {
		return nil, fmt.Errorf("webhooktest: with Fault %q the body cannot be parsed any more: deliver another: %w", fault, err)
	}
	return altered, nil
}

func breakSecond(texts []string, broken string) []string {
	if len(texts) < 2 {
		return append(texts, broken)
	}
	texts[1] = broken
	return texts
}

var errHungUp = errors.New("hung up on purpose by FaultLate")

// newBody returns the body of an attempt.
func (d *delivery) newBody(ctx context.Context, number int, hangUp context.CancelCauseFunc) io.Reader {
	switch half, last := len(d.body)/2, len(d.body)-1; {
	case last < 0:
	case d.Fault == FaultLate && number == 1:
		return &stagedBody{head: d.body[:half], between: func() error {
			hangUp(errHungUp)
			return io.ErrUnexpectedEOF
		}}
	case d.Fault == FaultLate && number == 2:
		return &stagedBody{head: d.body[:last], tail: d.body[last:], between: func() error {
			// The last byte leaves at once, and the receiver begins to work.
			time.AfterFunc(d.hangUpAfter, func() { hangUp(errHungUp) })
			return nil
		}}
	case d.Fault == FaultTwice && number == 1:
		return &stagedBody{head: d.body[:last], tail: d.body[last:], between: func() error { return d.awaitBoth(ctx) }}
	}
	return bytes.NewReader(d.body)
}

// awaitBoth blocks until both copies are under way. It does not wait for long:
// a receiver may take one request after the other.
func (d *delivery) awaitBoth(ctx context.Context) error {
	if d.underWay.Add(1) == 2 {
		close(d.both)
	}
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-d.both:
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// A stagedBody reads as head and tail, with a call of between before tail is
// read. An error of between ends the body.
//
// An HTTP client does not know the type. It therefore sends what it has read at
// once, and the receiver has the head before between is called.
type stagedBody struct {
	head, tail []byte
	between    func() error
}

// Read implements [io.Reader].
func (b *stagedBody) Read(p []byte) (int, error) {
	if len(b.head) == 0 && b.between != nil {
		if err := b.between(); err != nil {
			return 0, err
		}
		b.head, b.tail, b.between = b.tail, nil, nil
	}
	if len(b.head) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.head)
	b.head = b.head[n:]
	return n, nil
}
