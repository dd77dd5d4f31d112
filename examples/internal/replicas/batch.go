package replicas

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// A Batch is a delivery that Mailtrap repeats until it is acknowledged.
type Batch struct {
	Body   []byte
	Events []mailtrapwebhook.Event
}

// NewBatches returns batches with different events. Every other batch is in
// JSON Lines.
func NewBatches(t *testing.T, batches, events int) []Batch {
	t.Helper()
	all := make([]Batch, batches)
	for i := range all {
		b := &all[i]
		for range events {
			b.Events = append(b.Events, webhooktest.Sample("delivery"))
		}
		format := mailtrapwebhook.FormatJSON
		if i%2 == 1 {
			format = mailtrapwebhook.FormatJSONLines
		}
		b.Body = webhooktest.Body(format, b.Events...)
	}
	return all
}

// Post makes one attempt. It returns the status, or 0 without an answer.
func (b Batch) Post(ctx context.Context, url string) int { return b.post(ctx, url, "") }

// Forge is like Post, but signs with another secret.
func (b Batch) Forge(ctx context.Context, url string) int {
	return b.post(ctx, url, webhooktest.FaultForged)
}

func (b Batch) post(ctx context.Context, url string, fault webhooktest.Fault) int {
	m := webhooktest.Mailtrap{URL: url, Secret: Secret, Retries: -1, Fault: fault}
	result, _ := m.Deliver(ctx, b.Body) // without an answer the status is 0
	if len(result.Attempts) == 0 {
		return 0
	}
	return result.Attempts[0].Status
}

// Deliver sends each batch until the answer is 200 and returns the number of
// attempts. A few first attempts run at a time. Retries run on their own.
func Deliver(t *testing.T, url string, batches []Batch) (attempts int) {
	t.Helper()
	const atATime = 6
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first := make(chan struct{}, atATime)
	var made, acknowledged atomic.Int64
	m := webhooktest.Mailtrap{
		URL:      url,
		Secret:   Secret,
		Interval: 50 * time.Millisecond, // Mailtrap waits five minutes
		Retries:  1 << 30,               // ctx ends them
		OnAttempt: func(a webhooktest.Attempt) {
			made.Add(1)
			if a.Number == 1 {
				<-first
			}
		},
	}
	var senders sync.WaitGroup
	for _, b := range batches {
		first <- struct{}{}
		senders.Go(func() {
			if result, err := m.Deliver(ctx, b.Body); err == nil && result.Acknowledged {
				acknowledged.Add(1)
			}
		})
	}
	senders.Wait()
	if n := int(acknowledged.Load()); n < len(batches) {
		t.Fatalf("%d of %d batches were acknowledged", n, len(batches))
	}
	return int(made.Load())
}
