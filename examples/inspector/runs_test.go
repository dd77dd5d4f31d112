package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// startRun posts to the API and returns the run's id.
func (l *listening) startRun(t *testing.T, path, body string) string {
	t.Helper()
	status, text := l.call(t, path, body)
	require.Equal(t, http.StatusAccepted, status, text)
	id := strings.TrimSuffix(strings.TrimPrefix(text, `{"run":"`), "\"}\n")
	require.Regexp(t, `^\d+$`, id)
	return id
}

// follow returns the attempts of a run and its end.
func (s *testStream) follow(t *testing.T, run string) (attempts []attemptMessage, end endMessage) {
	t.Helper()
	for {
		select {
		case m := <-s.messages:
			switch m.event {
			case "attempt":
				var a attemptMessage
				s.decode(t, m, &a)
				require.Equal(t, run, a.Run)
				attempts = append(attempts, a)
			case "end":
				s.decode(t, m, &end)
				require.Equal(t, run, end.Run)
				return attempts, end
			}
		case <-t.Context().Done():
			require.FailNow(t, "the run does not end")
		}
	}
}

func TestEachFaultIsSentAndTold(t *testing.T) {
	t.Parallel()
	l := startListen(t, testSecret)
	s := openStream(t, l, "")
	for _, test := range []struct {
		fault    webhooktest.Fault
		statuses []int
	}{
		{"", []int{200}},
		{webhooktest.FaultForged, []int{400}},
		{webhooktest.FaultRepeated, []int{200, 200}},
		{webhooktest.FaultTwice, []int{200, 200}},
		{webhooktest.FaultLate, []int{0, 0, 200}},
		{webhooktest.FaultBroken, []int{200}},
		{webhooktest.FaultReordered, []int{200}},
	} {
		for _, format := range []string{"JSON", "JSON Lines"} {
			run := l.startRun(t, "/api/send", fmt.Sprintf(`{"kinds":["bounce","open"],"n":3,"format":%q,"fault":%q}`, format, test.fault))
			attempts, end := s.follow(t, run)
			var statuses []int
			for _, a := range attempts {
				statuses = append(statuses, a.Status)
			}
			require.Equal(t, test.statuses, statuses, test.fault)
			require.Empty(t, end.Error)
			require.False(t, end.Paused)
			require.Equal(t, test.fault != webhooktest.FaultForged, end.Acknowledged)
			last := l.detail(t, attempts[len(attempts)-1].Delivery)
			require.Equal(t, sourceSent, last.Source)
			require.Equal(t, format, last.Format)
			require.GreaterOrEqual(t, last.Events, 3)
			require.Equal(t, l.url[len("http://"):], last.Header[0][1], "the Host")
		}
	}
}

func TestAReplayIsByteForByte(t *testing.T) {
	var times atomic.Int32
	a := startApp(t, func(w http.ResponseWriter, _ *http.Request) {
		if times.Add(1) == 2 {
			w.WriteHeader(500)
		}
	})
	l := startListen(t, testSecret, "-forward", a.URL)
	require.Equal(t, 200, l.deliver(t, strings.Repeat("0", 32), awkward)) // does not verify, and is shown so again
	first, _ := <-a.requests, <-a.bodies
	s := openStream(t, l, "")
	run := l.startRun(t, "/api/deliveries/1/replay", `{"retries":true,"speed":100000}`)
	attempts, end := s.follow(t, run)
	require.Equal(t, endMessage{Run: run, Acknowledged: true}, end)
	require.Len(t, attempts, 2)
	require.Equal(t, []int{500, 200}, []int{attempts[0].Status, attempts[1].Status})
	require.Equal(t, "3", attempts[1].Delivery)
	for range attempts {
		require.Equal(t, awkward, <-a.bodies)
		require.Equal(t, first.Header, (<-a.requests).Header)
	}

	d := l.detail(t, "3")
	require.Equal(t, sourceReplayed, d.Source)
	require.Equal(t, "1", d.ReplayOf)
	require.Equal(t, verifiedNo, d.Verified)
}

func TestAReplayWithoutRetriesIsOneAttempt(t *testing.T) {
	a := startApp(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
	l := startListen(t, "", "-forward", a.URL)
	l.deliver(t, "", sampleBody("open"))
	s := openStream(t, l, "")
	attempts, end := s.follow(t, l.startRun(t, "/api/deliveries/1/replay", `{}`))
	require.Len(t, attempts, 1)
	require.False(t, end.Paused, "Mailtrap would try again")
	require.Contains(t, end.Error, "404")
}

func TestManyEventsMakeSeveralDeliveries(t *testing.T) {
	l := startListen(t, testSecret)
	s := openStream(t, l, "")
	attempts, end := s.follow(t, l.startRun(t, "/api/send", `{"kinds":["open"],"n":1200}`))
	require.True(t, end.Acknowledged)
	require.Len(t, attempts, 3)
	var events []int
	for _, d := range l.list(t, "").Deliveries {
		events = append(events, d.Events)
	}
	require.Equal(t, []int{200, 500, 500}, events)
}

func TestRunsAreBounded(t *testing.T) {
	a := startApp(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	l := startListen(t, testSecret, "-forward", a.URL)
	for range maxRuns {
		l.startRun(t, "/api/send", `{"kinds":["open"]}`)
	}
	status, text := l.call(t, "/api/send", `{"kinds":["open"]}`)
	require.Equal(t, 503, status)
	require.Contains(t, text, "wait until one ends")
	require.Equal(t, exitOK, l.stop()) // which ends the runs
}

func TestNobodyElseCanMarkADelivery(t *testing.T) {
	l := startListen(t, "")
	r, err := http.NewRequest("POST", l.url+webhookPath, strings.NewReader("{}"))
	require.NoError(t, err)
	r.Header.Set("Inspector-Source", sourceSent)
	r.Header.Set("Inspector-Replay-Of", "9")
	do(t, r)
	d := l.list(t, "").Deliveries[0]
	require.Equal(t, sourceReceived, d.Source)
	require.Empty(t, d.ReplayOf)
}
