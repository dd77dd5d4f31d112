package main

import (
	"bufio"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func tcpAddr(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }

// A testStream reads server-sent events.
type testStream struct {
	messages chan message // closed at the end
	close    func()
}

func openStream(t *testing.T, l *listening, lastEventID string) *testStream {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.url+"/api/stream", nil)
	require.NoError(t, err)
	r.Header.Set("Last-Event-ID", lastEventID)
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	s := &testStream{make(chan message, 1000), func() { resp.Body.Close() }}
	t.Cleanup(s.close)
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	require.True(t, lines.Scan())
	require.Equal(t, ": connected", lines.Text())
	go func() {
		defer close(s.messages)
		var m message
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "event":
				m.event = value
			case "id":
				m.id = value
			case "data":
				m.data = []byte(value)
			case "":
				if m.event != "" {
					s.messages <- m
				}
				m = message{}
			}
		}
	}()
	return s
}

// next returns the next message, whose data it decodes into dst.
func (s *testStream) next(t *testing.T, event string, dst any) message {
	t.Helper()
	select {
	case m := <-s.messages:
		require.Equal(t, event, m.event, string(m.data))
		s.decode(t, m, dst)
		return m
	case <-time.After(time.Minute):
		require.FailNow(t, "no message came", event)
	}
	return message{}
}

func (s *testStream) decode(t *testing.T, m message, dst any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(m.data, dst))
}

func (s *testStream) requireEnd(t *testing.T) {
	t.Helper()
	for {
		select {
		case _, ok := <-s.messages:
			if !ok {
				return
			}
		case <-time.After(time.Minute):
			require.FailNow(t, "the stream does not end")
		}
	}
}

func TestTheStreamTellsOfDeliveries(t *testing.T) {
	l := startListen(t, testSecret)
	s := openStream(t, l, "")
	l.deliver(t, testSecret, sampleBody("bounce"))
	var got summary
	s.next(t, "delivery", &got)
	require.Equal(t, l.list(t, "").Deliveries[0], got)
}

func TestAStreamGoesOnAfterTheLastEvent(t *testing.T) {
	l := startListen(t, testSecret)
	s := openStream(t, l, "")
	l.deliver(t, testSecret, sampleBody("bounce"))
	var got summary
	last := s.next(t, "delivery", &got).id
	s.close()
	l.deliver(t, testSecret, sampleBody("open"))
	l.deliver(t, testSecret, sampleBody("click"))

	s = openStream(t, l, last)
	for _, id := range []string{"2", "3"} {
		s.next(t, "delivery", &got)
		require.Equal(t, id, got.ID)
	}
	l.deliver(t, testSecret, sampleBody("click"))
	s.next(t, "delivery", &got)
	require.Equal(t, "4", got.ID)
}

func TestAStreamOfAnEarlierRunIsReset(t *testing.T) {
	l := startListen(t, testSecret)
	l.deliver(t, testSecret, sampleBody("bounce"))
	for _, id := range []string{"earlier-1", "17", instance, instance + "-x"} {
		s := openStream(t, l, id)
		s.next(t, "reset", new(struct{}))
		require.Empty(t, s.messages)
		s.close()
	}
}

func TestASlowSubscriberIsDropped(t *testing.T) {
	var h hub
	slow, quick := h.subscribe(), h.subscribe()
	for range maxWaiting + 1 {
		h.publish(message{event: "delivery"})
		<-quick.messages
	}
	for range maxWaiting {
		<-slow.messages
	}
	_, ok := <-slow.messages
	require.False(t, ok)
	slow.cancel() // as its handler does, and must not panic
	require.Len(t, h.subscriptions, 1)
}
