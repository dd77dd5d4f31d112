package main

import (
	"net/http"
	"sync/atomic"
)

const (
	livePath  = "/healthz"
	readyPath = "/readyz"
)

// health answers the probes of an orchestrator or a load balancer.
type health struct{ leaving atomic.Bool }

// live answers 200: the process runs.
func (h *health) live(http.ResponseWriter, *http.Request) {}

// ready answers 200 if a delivery would be taken, and 503 if not. If you set
// Dedup, ask the store here, as the program in observability does.
func (h *health) ready(w http.ResponseWriter, _ *http.Request) {
	if h.leaving.Load() {
		http.Error(w, "the program ends", http.StatusServiceUnavailable)
	}
}
