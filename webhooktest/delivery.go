package webhooktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A delivery is what one call of Deliver sends, and how.
type delivery struct {
	Mailtrap // with Mailtrap's numbers in place of zeros

	url       *url.URL
	client    *http.Client
	body      []byte
	format    mailtrapwebhook.Format
	signature string

	// Of FaultTwice: the copies that are not under way yet, and a channel
	// that is closed when there are none.
	missing atomic.Int32
	both    chan struct{}
}

// send sends the copies and returns what became of them.
func (d *delivery) send(ctx context.Context) (result Result) {
	copies := make([][]Attempt, 1, 2)
	switch d.Fault {
	case FaultTwice:
		copies = copies[:2]
		d.missing.Store(2)
		d.both = make(chan struct{})
		var both sync.WaitGroup
		for i := range copies {
			both.Go(func() { copies[i] = d.sendCopy(ctx, i+1) })
		}
		both.Wait()
	case FaultRepeated:
		copies[0] = d.sendCopy(ctx, 1)
		if isAcknowledged(copies[0]) {
			copies = append(copies, d.sendCopy(ctx, 2))
		}
	default:
		copies[0] = d.sendCopy(ctx, 1)
	}

	result.forged, result.Acknowledged = d.Fault == FaultForged, true
	for _, attempts := range copies {
		if !isAcknowledged(attempts) {
			result.Acknowledged = false
			result.Paused = result.Paused || ctx.Err() == nil && !result.forged
		}
	}
	result.Attempts = slices.Concat(copies...)
	slices.SortStableFunc(result.Attempts, func(a, b Attempt) int { return a.Began.Compare(b.Began) })
	return result
}

func isAcknowledged(attempts []Attempt) bool {
	return attempts[len(attempts)-1].Status == http.StatusOK
}

// sendCopy makes attempts until one is acknowledged, none is left or ctx ends.
func (d *delivery) sendCopy(ctx context.Context, number int) (attempts []Attempt) {
	arrive := sync.OnceFunc(d.arrive)
	for {
		a := Attempt{Number: len(attempts) + 1, Copy: number, Began: time.Now()}
		a.Status, a.Err = d.exchange(ctx, a.Number, arrive)
		a.Duration = time.Since(a.Began)
		arrive() // the receiver may have answered without the whole body
		attempts = append(attempts, a)
		if d.OnAttempt != nil {
			d.OnAttempt(a)
		}
		if a.Status == http.StatusOK || len(attempts) > d.Retries ||
			!sleep(ctx, time.Until(a.Began.Add(d.wait(len(attempts))))) {
			return attempts
		}
	}
}

const inboundRetries = 10

// wait returns the time from the start of an attempt to that of the next.
func (d *delivery) wait(number int) time.Duration {
	interval := cmp.Or(d.Interval, 5*time.Minute)
	if d.Inbound && d.Interval == 0 {
		// 1 + 2 + 4 + … are 2ⁿ-1 parts of a day in n waits.
		interval = 24 * time.Hour / (1<<inboundRetries - 1) << min(number-1, inboundRetries-1)
	}
	return time.Duration(float64(interval) / d.Speed)
}

// sleep reports whether ctx did not end before the time was over.
func sleep(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// maxAnswer is how much of an answer's body is read, so that the connection can
// be used again.
const maxAnswer = 64 << 10

// exchange makes one attempt. It returns the status of the answer, or why there
// was none.
func (d *delivery) exchange(ctx context.Context, number int, arrive func()) (status int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.TimeLimit,
		fmt.Errorf("no answer within %v: %w", d.TimeLimit, context.DeadlineExceeded))
	defer cancel()
	ctx, hangUp := context.WithCancelCause(ctx)
	defer hangUp(nil)
	defer func() {
		// Transports have texts of their own for the end of a context.
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()

	resp, err := d.client.Do(d.request(ctx, number, arrive, hangUp))
	if err != nil {
		// The text of the outer error has the URL, which may have a token.
		if outer, ok := errors.AsType[*url.Error](err); ok {
			err = outer.Err
		}
		return 0, err
	}
	defer resp.Body.Close()
	if d.Fault == FaultLate && number <= 2 {
		return 0, errHungUp
	}
	if _, err := io.CopyN(io.Discard, resp.Body, maxAnswer); err != nil && err != io.EOF {
		return 0, err
	}
	return resp.StatusCode, nil
}

// request returns the request of an attempt. Its body plays the fault.
func (d *delivery) request(
	ctx context.Context, number int, arrive func(), hangUp context.CancelCauseFunc,
) *http.Request {
	body := d.newBody(ctx, number, arrive, hangUp)
	r := newRequest(ctx, d.url, d.format, d.signature, body)
	if _, ok := body.(*stagedBody); ok {
		r.ContentLength = int64(len(d.body))
		if d.Fault == FaultLate {
			// Chunks are sent at once. Of a body whose length is known,
			// the client sends nothing while a few kilobytes are missing.
			r.ContentLength = -1
		}
	}
	return r
}
