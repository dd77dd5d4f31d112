package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const (
	secret         = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"
	eventsEach     = 500 // the most that Mailtrap sends
	idDigits       = 12  // that a delivery changes in each id
	requestTimeout = 30 * time.Second
)

// A delivery is a body whose events get new ids each time. Encoding 500 events
// anew would take the sender as long as the receiver takes.
type delivery struct {
	body   []byte
	places []int // where the last digits of each id begin
}

var ids = regexp.MustCompile(`"(?:message_id|event_id)":"[0-9a-f-]{24}([0-9a-f]{12})"`)

func newDelivery() *delivery {
	var events []mailtrapwebhook.Event
	for len(events) < eventsEach {
		for _, ev := range webhooktest.Samples() {
			if _, ok := ev.(*mailtrapwebhook.SendingWebhookEvent); ok && len(events) < eventsEach {
				events = append(events, ev)
			}
		}
	}
	d := &delivery{body: webhooktest.Body(mailtrapwebhook.FormatJSON, events...)}
	for _, place := range ids.FindAllSubmatchIndex(d.body, -1) {
		d.places = append(d.places, place[2])
	}
	return d
}

// renew makes all events new ones. The samples of a delivery differ in the
// digits before, so one number does for all of them.
func (d *delivery) renew(n uint64) {
	digits := strconv.FormatUint(1<<44|n, 16) // always 12 digits
	for _, place := range d.places {
		copy(d.body[place:place+idDigits], digits)
	}
}

// A result is what one number of senders achieved.
type result struct {
	perSecond float64
	p50, p99  time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("%s (%s, %s)", thousands(r.perSecond), milliseconds(r.p50), milliseconds(r.p99))
}

func thousands(n float64) string { return fmt.Sprintf("%.0fk", n/1000) }

func milliseconds(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms < 1:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// A sender delivers one delivery after the other.
type sender struct {
	url    string
	client *http.Client
	number *atomic.Uint64 // of the last delivery of all senders
	*delivery
	times []time.Duration
}

// deliver sends new events, and returns an error unless the answer is 200.
func (s *sender) deliver(ctx context.Context) error {
	s.renew(s.number.Add(1))
	began := time.Now()
	if err := post(ctx, s.client, s.url, s.body); err != nil {
		return err
	}
	s.times = append(s.times, time.Since(began))
	return nil
}

// load delivers to url for the time d with n senders.
func load(ctx context.Context, url string, n int, d time.Duration) (result, error) {
	number := new(atomic.Uint64)
	senders := make([]*sender, n)
	for i := range senders {
		client := &http.Client{Transport: new(http.Transport), Timeout: requestTimeout}
		defer client.CloseIdleConnections()
		senders[i] = &sender{url: url, client: client, number: number, delivery: newDelivery()}
	}
	// The first delivery of each sender opens connections, to the store too.
	if err := all(senders, func(s *sender) error { return s.deliver(ctx) }); err != nil {
		return result{}, err
	}
	began := time.Now()
	err := all(senders, func(s *sender) error {
		for s.times = nil; len(s.times) == 0 || time.Since(began) < d; {
			if err := s.deliver(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return result{}, err
	}
	elapsed := time.Since(began)
	var times []time.Duration
	for _, s := range senders {
		times = append(times, s.times...)
	}
	slices.Sort(times)
	return result{
		perSecond: float64(len(times)*eventsEach) / elapsed.Seconds(),
		p50:       times[len(times)/2],
		p99:       times[len(times)*99/100],
	}, nil
}

// all does something for all senders at the same time.
func all(senders []*sender, do func(*sender) error) error {
	var group errgroup.Group
	for _, s := range senders {
		group.Go(func() error { return do(s) })
	}
	return group.Wait()
}

func post(ctx context.Context, client *http.Client, url string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(mailtrapwebhook.SignatureHeader, mailtrapwebhook.Sign(body, secret))
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("a delivery was answered %s: run the receiver by itself and read its log", answer.Status)
	}
	return nil
}
