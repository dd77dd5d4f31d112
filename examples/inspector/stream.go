package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A message is a server-sent event.
type message struct {
	event string
	id    string // "" for events that are not sent again
	data  []byte
}

func newMessage(event, id string, data any) message {
	text, err := json.Marshal(data)
	if err != nil {
		panic(err) // all types are the program's own
	}
	return message{event, id, text}
}

// A hub passes messages on to subscribers. Its zero value is ready to use.
type hub struct {
	mu            sync.Mutex
	subscriptions map[*subscription]bool
}

// A subscription ends, with its channel closed, when its client is too slow.
type subscription struct {
	hub      *hub
	messages chan message
}

// maxWaiting is how many messages wait for a slow client. It connects again
// and gets what it has missed.
const maxWaiting = 1024

func (h *hub) subscribe() *subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subscriptions == nil {
		h.subscriptions = make(map[*subscription]bool)
	}
	s := &subscription{h, make(chan message, maxWaiting)}
	h.subscriptions[s] = true
	return s
}

func (s *subscription) cancel() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.subscriptions, s)
}

// publish never blocks: a browser that sleeps must not hold up a delivery.
func (h *hub) publish(m message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subscriptions {
		select {
		case s.messages <- m:
		default:
			close(s.messages)
			delete(h.subscriptions, s)
		}
	}
}

const (
	heartbeat    = 15 * time.Second // shows a server and a client that the other is gone
	writeTimeout = 30 * time.Second
)

// instance tells this run of the program from earlier ones, whose change
// numbers mean other changes.
var instance = strconv.FormatInt(time.Now().UnixNano(), 36)

func deliveryMessage(d *delivery) message {
	return newMessage("delivery", fmt.Sprintf("%s-%d", instance, d.change), summaryOf(d))
}

// stream sends what happens until the client hangs up or the server stops.
func (in *inspector) stream(w http.ResponseWriter, r *http.Request) {
	since, fresh := in.streamStart(r.Header.Get("Last-Event-ID"))
	missed, sub := in.store.subscribe(since)
	defer sub.cancel()
	out := &streamWriter{w, http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	if out.write(": connected\nretry: 1000\n\n") != nil {
		return
	}
	if !fresh && out.send(message{event: "reset", data: []byte("{}")}) != nil {
		return
	}
	for _, d := range missed {
		if out.send(deliveryMessage(d)) != nil {
			return
		}
	}
	in.follow(r, sub, out)
}

// streamStart returns the change that a client knows last. fresh is false if
// that is a change of an earlier run of the program: the client must load
// everything again.
func (in *inspector) streamStart(lastEventID string) (since uint64, fresh bool) {
	if lastEventID == "" {
		return in.store.lastChange(), true
	}
	run, number, _ := strings.Cut(lastEventID, "-")
	since, err := strconv.ParseUint(number, 10, 64)
	if err != nil || run != instance {
		return in.store.lastChange(), false
	}
	return since, true
}

func (in *inspector) follow(r *http.Request, sub *subscription, out *streamWriter) {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		var err error
		select {
		case m, ok := <-sub.messages:
			if !ok {
				return
			}
			err = out.send(m)
		case <-ticker.C:
			err = out.write(": alive\n\n")
		case <-r.Context().Done():
			return
		case <-in.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// A streamWriter writes a stream of server-sent events.
type streamWriter struct {
	w          http.ResponseWriter
	controller *http.ResponseController
}

func (s *streamWriter) send(m message) error {
	text := "event: " + m.event + "\n"
	if m.id != "" {
		text += "id: " + m.id + "\n"
	}
	return s.write(text + "data: " + string(m.data) + "\n\n") // JSON has no line breaks
}

func (s *streamWriter) write(text string) error {
	limitTime(s.w, writeTimeout)
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.controller.Flush()
}
