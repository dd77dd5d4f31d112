package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"time"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/internal/benchmarks"
)

// serving delivers over loopback HTTP, the client included.
func serving(s size) (group, error) {
	verifier, err := mw.NewVerifier(secret)
	if err != nil {
		return group{}, err
	}
	handler := func(store mw.Deduplicator) http.Handler {
		return &mw.Handler{
			Verifier: verifier, Dedup: store, Logger: slog.New(slog.DiscardHandler),
			OnEvent: func(context.Context, mw.Event) error { return nil },
		}
	}
	full, err := fullStore()
	if err != nil {
		return group{}, err
	}
	const floor = "read and verify"
	g := group{ratios: []ratio{
		{"request with NoDedup / reading and Verify", "NoDedup", floor},
		{"request with a new MemoryDeduplicator / reading and Verify", "new store", floor},
		{"request with a full MemoryDeduplicator / reading and Verify", "full store", floor},
	}}
	d := newDeliverer(s.events)
	for _, h := range []struct {
		name    string
		handler http.Handler
	}{
		{floor, readAndVerify(verifier, 1<<20)},
		{"NoDedup", handler(mw.NoDedup)},
		{"new store", renewing(min(s.delivered, 60), func() http.Handler { return handler(new(mw.MemoryDeduplicator)) })},
		{"full store", handler(full)},
	} {
		// The servers live as long as the process, which ends after the report.
		url := httptest.NewServer(h.handler).URL
		t := task{name: h.name, times: s.delivered, run: func() (time.Duration, error) { return d.deliver(url) }}
		for range s.delivered { // the first requests connect and fill pools
			if _, err := t.run(); err != nil {
				return g, fmt.Errorf("%s: %w", h.name, err)
			}
		}
		g.tasks = append(g.tasks, t)
	}
	return g, nil
}

// readAndVerify does no more than every receiver must.
func readAndVerify(verifier *mw.Verifier, most int) http.Handler {
	buffer := make([]byte, most) // one request comes at a time
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.ReadFull(r.Body, buffer)
		if err != io.ErrUnexpectedEOF || verifier.Verify(buffer[:n], r.Header.Get(mw.SignatureHeader)) != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
}

// renewing returns a handler that passes n requests to each that newHandler makes.
func renewing(n int, newHandler func() http.Handler) http.Handler {
	var current http.Handler
	requests := 0
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests%n == 0 {
			current = newHandler()
		}
		requests++
		current.ServeHTTP(w, r)
	})
}

// fullStore returns a store in which both generations have all keys they can.
func fullStore() (*mw.MemoryDeduplicator, error) {
	store := new(mw.MemoryDeduplicator)
	for i := range 1_000_000 {
		if err := store.Commit(context.Background(), []string{fmt.Sprint(i)}); err != nil {
			return nil, err
		}
	}
	return store, nil
}

// A deliverer sends the same delivery with new ids each time.
type deliverer struct {
	client http.Client
	body   []byte
	ids    []int // where their last 12 digits stand
	next   int
}

func newDeliverer(events int) *deliverer {
	d := &deliverer{body: benchmarks.Body(benchmarks.Envelope, events)}
	for i := range events {
		for _, before := range []string{"4d8b-8edf-", "43d6-a953-"} {
			id := fmt.Appendf(nil, "%s%012x", before, i)
			d.ids = append(d.ids, bytes.Index(d.body, id)+len(before))
		}
	}
	return d
}

// deliver returns the time of one request. Making the ids and signing, which are
// Mailtrap's work, do not count.
func (d *deliverer) deliver(url string) (time.Duration, error) {
	d.next++
	for i, at := range d.ids {
		putHex(d.body[at:at+12], d.next*len(d.ids)+i)
	}
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(d.body))
	if err != nil {
		return 0, err
	}
	r.Header.Set(mw.SignatureHeader, mw.Sign(d.body, secret))
	start := now()
	resp, err := d.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	took := now() - start
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return took, err
}

// putHex fills digits with n. Unlike fmt it allocates nothing that a collection
// during the request would have to look at.
func putHex(digits []byte, n int) {
	for i := range digits {
		digits[len(digits)-1-i] = "0123456789abcdef"[n>>(4*i)&15]
	}
}
