package webhooktest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const testSecret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

func newVerifier(t *testing.T, secrets ...string) *mailtrapwebhook.Verifier {
	v, err := mailtrapwebhook.NewVerifier(secrets...)
	require.NoError(t, err)
	return v
}

// A tally counts the effects of events.
type tally struct {
	mu     sync.Mutex
	counts map[string]int // by key
}

func (c *tally) add(ev mailtrapwebhook.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = make(map[string]int)
	}
	c.counts[ev.Key()]++
}

func (c *tally) count(ev mailtrapwebhook.Event) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[ev.Key()]
}

// rightReceivers pass TestReceiver.
var rightReceivers = map[string]func(t *testing.T) Receiver{
	"Handler": func(t *testing.T) Receiver {
		return handlerReceiver(t, func(*mailtrapwebhook.Handler) {})
	},
	"concurrent Handler": func(t *testing.T) Receiver {
		return handlerReceiver(t, func(h *mailtrapwebhook.Handler) { h.Concurrency = 8 })
	},
	"Handler that admits Mailtrap's addresses only": func(t *testing.T) Receiver {
		return handlerReceiver(t, func(h *mailtrapwebhook.Handler) {
			list := new(mailtrapwebhook.IPAllowlist)
			require.NoError(t, list.Set(mailtrapwebhook.IPRanges()))
			h.Guards = []mailtrapwebhook.Guard{list.Guard()}
		})
	},
	"plain":               func(t *testing.T) Receiver { return newPlainReceiver(t).receiver() },
	"without the package": func(*testing.T) Receiver { return newStandardReceiver() },
	"answers 200 to strangers": func(t *testing.T) Receiver {
		r := newPlainReceiver(t).receiver()
		serve := r.Handler.ServeHTTP
		r.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			serve(httptest.NewRecorder(), r)
			w.WriteHeader(http.StatusOK)
		})
		return r
	},
	"queue":          func(t *testing.T) Receiver { return queueReceiver(t, new(mailtrapwebhook.MemoryDeduplicator)) },
	"no opens":       func(t *testing.T) Receiver { return refusing(t, "open") },
	"inbound only":   func(t *testing.T) Receiver { return refusing(t, allBut("inbound.message_received")...) },
	"audit log only": func(t *testing.T) Receiver { return refusing(t, allBut("activity_log.user.login")...) },
}

func handlerReceiver(t *testing.T, set func(*mailtrapwebhook.Handler)) Receiver {
	c := new(tally)
	h := &mailtrapwebhook.Handler{
		Verifier: newVerifier(t, testSecret),
		OnEvent: func(_ context.Context, ev mailtrapwebhook.Event) error {
			c.add(ev)
			return nil
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	set(h)
	return Receiver{h, testSecret, c.count}
}

// refusing returns a receiver that refuses the kinds that it ignores.
func refusing(t *testing.T, kinds ...string) Receiver {
	p := newPlainReceiver(t)
	ignores := func(ev mailtrapwebhook.Event) bool { return slices.Contains(kinds, ev.Name()) }
	p.handle = func(events []mailtrapwebhook.Event) error {
		if slices.ContainsFunc(events, ignores) {
			return errors.New("not this kind")
		}
		return p.handleOnce(events)
	}
	return Receiver{p, testSecret, func(ev mailtrapwebhook.Event) int {
		if ignores(ev) {
			return -1
		}
		return p.count(ev)
	}}
}

// allBut returns the documented kinds without one of them.
func allBut(kind string) (kinds []string) {
	for _, ev := range Samples() {
		if ev.Name() != kind {
			kinds = append(kinds, ev.Name())
		}
	}
	return kinds
}

// queueReceiver answers first and handles the events later.
func queueReceiver(t *testing.T, dedup mailtrapwebhook.Deduplicator) Receiver {
	c := new(tally)
	queue := make(chan mailtrapwebhook.Event, 1000)
	r := handlerReceiver(t, func(h *mailtrapwebhook.Handler) {
		h.Dedup = dedup
		h.OnEvent = func(_ context.Context, ev mailtrapwebhook.Event) error {
			queue <- ev
			return nil
		}
	})
	r.Count = c.count
	var worker sync.WaitGroup
	worker.Go(func() {
		for ev := range queue {
			c.add(ev)
		}
	})
	t.Cleanup(func() {
		close(queue)
		worker.Wait()
	})
	return r
}

// A plainReceiver is what people write on net/http. newPlainReceiver makes a
// right one. A wrong one is right but for one of its functions.
type plainReceiver struct {
	tally
	read   func(body io.Reader) ([]byte, error)
	verify func(body []byte, header http.Header) bool
	parse  func(body []byte) ([]mailtrapwebhook.Event, error)
	handle func(events []mailtrapwebhook.Event) error
	act    func(ev mailtrapwebhook.Event)
	status int

	mu      sync.Mutex
	handled map[string]bool // by key
}

func newPlainReceiver(t *testing.T) *plainReceiver {
	p := &plainReceiver{
		read:    io.ReadAll,
		parse:   mailtrapwebhook.Parse,
		status:  http.StatusOK,
		handled: make(map[string]bool),
	}
	verifier := newVerifier(t, testSecret)
	p.verify = func(body []byte, header http.Header) bool {
		return verifier.Verify(body, header.Get(mailtrapwebhook.SignatureHeader)) == nil
	}
	p.act = p.add
	p.handle = p.handleOnce
	return p
}

func (p *plainReceiver) receiver() Receiver { return Receiver{p, testSecret, p.count} }

func (p *plainReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := p.read(r.Body)
	if err != nil || !p.verify(body, r.Header) {
		http.Error(w, "not from Mailtrap", http.StatusBadRequest)
		return
	}
	events, err := p.parse(body)
	if err == nil {
		err = p.handle(events)
	}
	if err != nil {
		http.Error(w, "not as expected", http.StatusUnprocessableEntity)
		return
	}
	w.WriteHeader(p.status)
}

func (p *plainReceiver) handleOnce(events []mailtrapwebhook.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ev := range events {
		if !p.handled[ev.Key()] {
			p.handled[ev.Key()] = true
			p.act(ev)
		}
	}
	return nil
}

// A standardReceiver uses nothing but the standard library. It handles sending
// events and keeps each once.
type standardReceiver struct {
	mu     sync.Mutex
	events map[standardEvent]bool
}

func newStandardReceiver() Receiver {
	s := &standardReceiver{events: make(map[standardEvent]bool)}
	return Receiver{s, testSecret, func(ev mailtrapwebhook.Event) int {
		sending, ok := ev.(*mailtrapwebhook.SendingWebhookEvent)
		if !ok {
			return -1
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.events[standardEvent{sending.Name(), sending.MessageID, sending.EventID}] {
			return 0
		}
		return 1
	}}
}

type standardEvent struct {
	Event     string `json:"event"`
	MessageID string `json:"message_id"`
	EventID   string `json:"event_id"`
}

func (s *standardReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	mac := hmac.New(sha256.New, []byte(testSecret))
	mac.Write(body)
	signature, _ := hex.DecodeString(r.Header.Get("Mailtrap-Signature"))
	if err != nil || !hmac.Equal(signature, mac.Sum(nil)) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := json.NewDecoder(bytes.NewReader(body)); d.More(); {
		var lineOrAll struct {
			standardEvent
			Events []standardEvent
		}
		if err := d.Decode(&lineOrAll); err != nil {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		for _, ev := range append(lineOrAll.Events, lineOrAll.standardEvent) {
			s.events[ev] = true
		}
	}
}
