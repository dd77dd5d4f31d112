package main

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	readyTimeout = time.Second // the store may take no longer
	askEvery     = time.Second // strangers may probe too, and must not load the store
)

// health answers the probes of an orchestrator or a load balancer.
type health struct {
	store   mailtrapwebhook.Deduplicator
	leaving atomic.Bool

	mu    sync.Mutex
	asked time.Time // when the store was asked last
	err   error     // its answer then
}

// live answers 200: the process runs.
func (h *health) live(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }

// ready answers 200 if a delivery would be taken, and 503 if not.
func (h *health) ready(w http.ResponseWriter, _ *http.Request) {
	if h.leaving.Load() {
		http.Error(w, "the program ends", http.StatusServiceUnavailable)
		return
	}
	if h.storeErr() != nil { // its text may name the store's address
		http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// storeErr returns the last answer of the store, which is no older than askEvery.
func (h *health) storeErr() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.asked) >= askEvery {
		h.err = h.askStore()
		h.asked = time.Now()
	}
	return h.err
}

// askStore makes the calls that a delivery makes. A ping may succeed where
// those fail, such as on a replica that is read-only.
func (h *health) askStore() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	key := []string{"readyz"} // no event's key, because it has no slash
	if _, err := h.store.Reserve(ctx, key, time.Minute); err != nil {
		return err
	}
	return h.store.Release(ctx, key)
}
