package main

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// readyTimeout is how long the store may take to answer a probe.
const readyTimeout = time.Second

// health answers the probes of an orchestrator or a load balancer.
type health struct {
	store   mailtrapwebhook.Deduplicator
	leaving atomic.Bool
}

// live answers 200: the process runs.
func (h *health) live(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }

// ready answers 200 if a delivery would be taken, and 503 if not.
func (h *health) ready(w http.ResponseWriter, r *http.Request) {
	if h.leaving.Load() {
		http.Error(w, "the program ends", http.StatusServiceUnavailable)
		return
	}
	if err := h.askStore(r.Context()); err != nil {
		// The error may name the store's address, and strangers may ask.
		http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// askStore makes the calls that a delivery makes. A ping may succeed where
// those fail, such as on a replica that is read-only.
func (h *health) askStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	key := []string{"readyz"} // no event's key, because it has no slash
	if _, err := h.store.Reserve(ctx, key, time.Minute); err != nil {
		return err
	}
	return h.store.Release(ctx, key)
}
