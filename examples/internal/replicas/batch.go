package replicas

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A Batch is a delivery that Mailtrap repeats until it is acknowledged.
type Batch struct {
	Body   []byte
	Events []mailtrapwebhook.Event

	contentType, signature string
}

// NewBatches returns batches with different events. Every other batch is in
// JSON Lines.
func NewBatches(t *testing.T, batches, events int) []Batch {
	t.Helper()
	var all []Batch
	for i := range batches {
		name := rand.Text()
		var objects []string
		for j := range events {
			objects = append(objects, fmt.Sprintf(
				`{"event":"delivery","message_id":"%s","event_id":"%s-%d","email":"a@example.com","timestamp":1728669700}`,
				name, name, j))
		}
		b := Batch{Body: []byte(`{"events":[` + strings.Join(objects, ",") + `]}`), contentType: "application/json"}
		if i%2 == 1 {
			b = Batch{Body: []byte(strings.Join(objects, "\n") + "\n"), contentType: "application/jsonl"}
		}
		var err error
		b.Events, err = mailtrapwebhook.Parse(b.Body)
		if err != nil || len(b.Events) != events {
			t.Fatalf("a batch of %d events was read as %d: %v", events, len(b.Events), err)
		}
		b.signature = mailtrapwebhook.Sign(b.Body, Secret)
		all = append(all, b)
	}
	return all
}

// Post makes one attempt. It returns the status, or 0 without an answer.
func (b Batch) Post(ctx context.Context, url string) int {
	return b.post(ctx, url, b.signature)
}

// Forge is like Post, but signs with another secret.
func (b Batch) Forge(ctx context.Context, url string) int {
	return b.post(ctx, url, mailtrapwebhook.Sign(b.Body, "another secret"))
}

func (b Batch) post(ctx context.Context, url, signature string) int {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // Mailtrap waits no longer
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(b.Body))
	if err != nil {
		return 0
	}
	r.GetBody = nil // the client must not retry by itself
	r.Header.Set("Content-Type", b.contentType)
	r.Header.Set(mailtrapwebhook.SignatureHeader, signature)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

// Deliver sends each batch until the answer is 200 and returns the number of
// attempts. A few first attempts run at a time. Retries run on their own.
func Deliver(t *testing.T, url string, batches []Batch) (attempts int) {
	t.Helper()
	const (
		atATime = 6
		pause   = 50 * time.Millisecond // Mailtrap waits five minutes
	)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var made, acknowledged atomic.Int64
	post := func(b Batch) bool {
		made.Add(1)
		ok := b.Post(ctx, url) == http.StatusOK
		if ok {
			acknowledged.Add(1)
		}
		return ok
	}
	retry := func(b Batch) {
		for ctx.Err() == nil {
			time.Sleep(pause)
			if post(b) {
				return
			}
		}
	}
	first := make(chan Batch)
	var senders sync.WaitGroup
	for range atATime {
		senders.Go(func() {
			for b := range first {
				if !post(b) {
					senders.Go(func() { retry(b) })
				}
			}
		})
	}
	for _, b := range batches {
		first <- b
	}
	close(first)
	senders.Wait()
	if n := int(acknowledged.Load()); n < len(batches) {
		t.Fatalf("%d of %d batches were acknowledged", n, len(batches))
	}
	return int(made.Load())
}
