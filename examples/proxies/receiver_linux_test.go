package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
)

// A receiver is the program, which also notes what comes in.
type receiver struct {
	upstream string
	list     *mailtrapwebhook.IPAllowlist

	mu      sync.Mutex
	noted   map[string][]*http.Request // by their URIs
	handled map[string]string          // the texts of events by their keys
}

// startReceiver starts the program on an address, or on a Unix socket of its
// own if that is "unix".
func startReceiver(t *testing.T, address string, timeout time.Duration, allowed ...string) *receiver {
	t.Helper()
	if address == "unix" {
		address = "unix:" + filepath.Join(shortDir(t), "socket")
	}
	listener, err := listen(address)
	require.NoError(t, err)
	r := &receiver{
		upstream: address,
		list:     mailtrapwebhook.NewIPAllowlist(prefixes(allowed...), prefixes("127.0.0.1/32", "::1/128")...),
		noted:    make(map[string][]*http.Request),
		handled:  make(map[string]string),
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok {
		r.upstream = tcp.String()
	}
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	require.NoError(t, err)
	logger := slog.New(slog.DiscardHandler)
	handler := newHandler(verifier, r.list, logger)
	handler.OnEvent = r.handle
	handler.Timeout = timeout
	server := &serve.Server{Webhook: newMux(r.note(handler)), Logger: logger}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	return r
}

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

func (r *receiver) handle(_ context.Context, ev mailtrapwebhook.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handled[ev.Key()] = ev.RawJSON()
	return nil
}

// note notes requests. Those with the query "late" are answered as late as a
// Handler may.
func (r *receiver) note(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.mu.Lock()
		r.noted[request.RequestURI] = append(r.noted[request.RequestURI], request.Clone(context.Background()))
		r.mu.Unlock()
		if request.URL.Query().Has("late") {
			time.Sleep(29500 * time.Millisecond / hurry)
		}
		next.ServeHTTP(w, request)
	})
}

func (r *receiver) requests(uri string) []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.noted[uri]
}

// requireHandled fails unless all events were handled as they were sent, or
// none if there should be none.
func (r *receiver) requireHandled(t *testing.T, want bool, events ...mailtrapwebhook.Event) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ev := range events {
		text, ok := r.handled[ev.Key()]
		require.Equal(t, want, ok, ev)
		require.True(t, !ok || text == ev.RawJSON(), ev)
	}
}
