package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// A load has senders that play Mailtrap. They wait a hundredth of a second
// where Mailtrap waits five minutes.
type load struct {
	address  atomic.Value // of the program, a string
	stopping atomic.Bool
	senders  sync.WaitGroup

	mu     sync.Mutex
	events map[string]int // acknowledged, each 1

	deliveries atomic.Int64 // acknowledged
	refused    atomic.Int64 // attempts answered with another status
	broken     atomic.Int64 // attempts without an answer
	repeated   atomic.Int64 // deliveries repeated after an acknowledgement
	lost       atomic.Int64 // deliveries never acknowledged, which fails the test
}

func startLoad(t *testing.T, senders int, address string) *load {
	t.Helper()
	l := &load{events: make(map[string]int)}
	l.address.Store(address)
	ctx, cancel := context.WithCancel(context.Background())
	for sender := range senders {
		l.senders.Go(func() { l.send(ctx, sender) })
	}
	t.Cleanup(func() {
		cancel()
		l.senders.Wait()
	})
	return l
}

// send sends one delivery after the other, each until it is acknowledged.
func (l *load) send(ctx context.Context, sender int) {
	// A program that starts again has another address.
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, l.address.Load().(string))
	}}
	defer transport.CloseIdleConnections()
	mailtrap := webhooktest.Mailtrap{
		URL: "http://program.example.com", Secret: testSecret, Client: &http.Client{Transport: transport},
		Retries: int(patience / retryInterval), Interval: retryInterval, OnAttempt: l.attempted,
	}
	format := []func(...string) string{envelope, lines}
	for delivery := 0; !l.stopping.Load() && ctx.Err() == nil; delivery++ {
		ids := make([]string, 1+rand.IntN(20))
		events := make([]string, len(ids))
		for i := range ids {
			ids[i] = fmt.Sprintf("%d-%d-%d", sender, delivery, i)
			events[i] = bounce(ids[i])
		}
		mailtrap.Fault = ""
		if rand.IntN(10) == 0 { // Mailtrap did not get the answer
			l.repeated.Add(1)
			mailtrap.Fault = webhooktest.FaultRepeated
		}
		result, err := mailtrap.Deliver(ctx, []byte(format[delivery%2](events...)))
		if err != nil || !result.Acknowledged {
			l.lost.Add(1)
			return
		}
		l.acknowledged(ids)
	}
}

const retryInterval = 10 * time.Millisecond

// attempted counts an attempt that failed.
func (l *load) attempted(a webhooktest.Attempt) {
	switch {
	case errors.Is(a.Err, syscall.ECONNREFUSED): // no program is running
	case a.Err != nil:
		l.broken.Add(1)
	case a.Status != http.StatusOK:
		l.refused.Add(1)
	}
}

func (l *load) acknowledged(ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.events[id] = 1
	}
	l.deliveries.Add(1)
}

// waitForMore waits until this many more deliveries are acknowledged.
func (l *load) waitForMore(t *testing.T, deliveries int) {
	t.Helper()
	want := l.deliveries.Load() + int64(deliveries)
	require.Eventually(t, func() bool { return l.deliveries.Load() >= want || l.lost.Load() > 0 }, 2*patience, tick)
	require.Zero(t, l.lost.Load(), "a delivery is never acknowledged: %s", l)
}

// stop waits until the senders have ended their deliveries. Every delivery is
// then acknowledged.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.stopping.Store(true)
	l.senders.Wait()
	require.Zero(t, l.lost.Load(), "a delivery is never acknowledged: %s", l)
}

// requireEachOnce fails the test unless the messages are the acknowledged
// events, each once.
func (l *load) requireEachOnce(t *testing.T, msgs []*jetstream.RawStreamMsg) {
	t.Helper()
	t.Logf("%s; the stream has %d events", l, len(msgs))
	require.Empty(t, cmp.Diff(l.events, counted(t, msgs)), "- is lost, + is too many")
}

func (l *load) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d deliveries of %d events acknowledged, %d attempts refused, %d broken, %d deliveries repeated",
		l.deliveries.Load(), len(l.events), l.refused.Load(), l.broken.Load(), l.repeated.Load())
}
