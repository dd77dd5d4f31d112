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

	underWay atomic.Int32  // copies of FaultTwice
	both     chan struct{} // closed when there are two
}

// send sends the copies and returns what became of them.
func (d *delivery) send(ctx context.Context) (result Result) {
	var copies [2][]Attempt
	if d.Fault == FaultTwice {
		var both sync.WaitGroup
		for i := range copies {
			both.Go(func() { copies[i] = d.sendCopy(ctx, i+1) })
		}
		both.Wait()
	} else {
		copies[0] = d.sendCopy(ctx, 1)
		if d.Fault == FaultRepeated && isAcknowledged(copies[0]) {
			copies[1] = d.sendCopy(ctx, 2)
		}
	}
	result.forged = d.Fault == FaultForged
	result.Acknowledged = isAcknowledged(copies[0]) && (copies[1] == nil || isAcknowledged(copies[1]))
	result.Paused = !result.Acknowledged && !result.forged && d.Retries >= 0 && ctx.Err() == nil
	result.Attempts = slices.Concat(copies[:]...)
	slices.SortStableFunc(result.Attempts, func(a, b Attempt) int { return a.Began.Compare(b.Began) })
	return result
}

func isAcknowledged(attempts []Attempt) bool {
	return attempts[len(attempts)-1].Status == http.StatusOK
}

// sendCopy makes attempts until one is acknowledged, none is left or ctx ends.
func (d *delivery) sendCopy(ctx context.Context, number int) (attempts []Attempt) {
	for {
		a := Attempt{Number: len(attempts) + 1, Copy: number, Began: time.Now()}
		a.Status, a.Err = d.exchange(ctx, a.Number)
		a.Duration = time.Since(a.Began)
		attempts = append(attempts, a)
		if d.OnAttempt != nil {
			d.OnAttempt(a)
		}
		if a.Status == http.StatusOK || len(attempts) > d.Retries ||
			!sleep(ctx, time.Until(a.Began.Add(d.wait(a.Number)))) {
			return attempts
		}
	}
}

const inboundRetries = 10

// wait returns the time from the start of an attempt to that of the next.
func (d *delivery) wait(number int) time.Duration {
	interval := cmp.Or(d.Interval, 5*time.Minute)
	if d.Inbound && d.Interval == 0 {
		// n waits that double are 1 + 2 + 4 + … = 2ⁿ-1 times the first.
		interval = 24 * time.Hour / (1<<inboundRetries - 1) << min(number-1, inboundRetries-1)
	}
	return time.Duration(min(float64(interval)/d.Speed, 1<<62)) // a Duration has 63 bits
}

// sleep returns after the time, or when ctx ends, and reports whether ctx goes
// on.
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
func (d *delivery) exchange(ctx context.Context, number int) (status int, err error) {
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

	r := newRequest(ctx, d.url, d.format, d.signature, d.newBody(ctx, number, hangUp))
	r.ContentLength = int64(len(d.body)) // which is not told by a stagedBody
	resp, err := d.client.Do(r)
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
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp.StatusCode, nil // the rest is the connection, whose reads ctx does not end
	}
	if _, err := io.CopyN(io.Discard, resp.Body, maxAnswer); err != nil && err != io.EOF {
		return 0, err
	}
	return resp.StatusCode, nil
}
