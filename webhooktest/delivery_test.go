package webhooktest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func TestDeliverRetriesEveryFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := webhooktest.Mailtrap{Secret: signingSecret, Handler: answering(500)}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.False(t, result.Acknowledged)
		require.True(t, result.Paused)
		require.Len(t, result.Attempts, 41)
		for i, began := range started(result.Attempts) {
			require.Equal(t, time.Duration(i)*5*time.Minute, began)
			require.Equal(t, i+1, result.Attempts[i].Number)
			require.Equal(t, 1, result.Attempts[i].Copy)
		}
	})
}

func TestDeliverEndsWithAnAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []webhooktest.Attempt
		m := webhooktest.Mailtrap{
			Secret: signingSecret, Handler: answering(500, 202, 301, 200, 500),
			OnAttempt: func(a webhooktest.Attempt) { seen = append(seen, a) },
		}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.NoError(t, result.Err())
		require.True(t, result.Acknowledged)
		require.False(t, result.Paused)
		require.Equal(t, result.Attempts, seen)
		var statuses []int
		for _, a := range seen {
			statuses = append(statuses, a.Status)
		}
		require.Equal(t, []int{500, 202, 301, 200}, statuses)
	})
}

func TestDeliverInboundRetriesOverADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := webhooktest.Mailtrap{Secret: signingSecret, Handler: answering(500), Inbound: true}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		times := started(result.Attempts)
		require.Len(t, times, 11)
		require.InDelta(t, 24*time.Hour, times[10], float64(time.Microsecond))
		for i := 2; i < len(times); i++ {
			require.Equal(t, 2*(times[i-1]-times[i-2]), times[i]-times[i-1])
		}
		m.Retries = 12
		result, err = m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.InDelta(t, 48*time.Hour, started(result.Attempts)[12], float64(2*time.Minute), "no wait is longer than Mailtrap's")
	})
}

func TestDeliverRetriesAsTheFieldsSay(t *testing.T) {
	for name, test := range map[string]struct {
		m    webhooktest.Mailtrap
		want []time.Duration
	}{
		"no retries":    {webhooktest.Mailtrap{Retries: -1}, []time.Duration{0}},
		"two retries":   {webhooktest.Mailtrap{Retries: 2}, []time.Duration{0, 5 * time.Minute, 10 * time.Minute}},
		"an interval":   {webhooktest.Mailtrap{Retries: 1, Interval: time.Second}, []time.Duration{0, time.Second}},
		"inbound, too":  {webhooktest.Mailtrap{Retries: 2, Interval: time.Second, Inbound: true}, []time.Duration{0, time.Second, 2 * time.Second}},
		"at high speed": {webhooktest.Mailtrap{Retries: 2, Speed: 300}, []time.Duration{0, time.Second, 2 * time.Second}},
		"slowly":        {webhooktest.Mailtrap{Retries: 1, Speed: 0.5}, []time.Duration{0, 10 * time.Minute}},
	} {
		synctest.Test(t, func(t *testing.T) {
			test.m.Secret, test.m.Handler = signingSecret, answering(500)
			result, err := test.m.Deliver(t.Context(), []byte("{}"))
			require.NoError(t, err)
			require.Equal(t, test.want, started(result.Attempts), name)
		})
	}
}

// The interval counts from the start of an attempt. A wait that is over by the
// end of the attempt is none.
func TestDeliverWaitsLessAfterASlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := webhooktest.Mailtrap{
			Secret: signingSecret, Retries: 2, Interval: 10 * time.Second, TimeLimit: 15 * time.Second,
			Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				time.Sleep(4 * time.Second)
				<-r.Context().Done()
			}),
		}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.Equal(t, []time.Duration{0, 15 * time.Second, 30 * time.Second}, started(result.Attempts))
	})
}

func TestDeliverGivesUpOnAnAttemptAfterThirtySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stopped atomic.Int32
		m := webhooktest.Mailtrap{
			Secret: signingSecret, Retries: 1, Speed: 300,
			Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				stopped.Add(1)
				time.Sleep(time.Minute) // runs on
			}),
		}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		synctest.Wait()
		require.EqualValues(t, 2, stopped.Load())
		for _, a := range result.Attempts {
			require.Equal(t, 30*time.Second, a.Duration)
			require.Zero(t, a.Status)
			require.EqualError(t, a.Err, "no answer within 30s: context deadline exceeded")
			require.ErrorIs(t, a.Err, context.DeadlineExceeded)
		}
		time.Sleep(time.Hour)
	})
}

func TestDeliverGivesUpOnAServerThatDoesNotAnswer(t *testing.T) {
	for name, handler := range map[string]http.Handler{
		"none at all": hanging,
		"half of one": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "2")
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			hanging.ServeHTTP(w, r)
		}),
	} {
		srv := httptest.NewServer(handler)
		m := webhooktest.Mailtrap{URL: srv.URL, Secret: signingSecret, Retries: -1, TimeLimit: 50 * time.Millisecond}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		srv.Close()
		require.NoError(t, err)
		require.EqualError(t, result.Attempts[0].Err, "no answer within 50ms: context deadline exceeded", name)
		require.Zero(t, result.Attempts[0].Status)
	}
}

func TestDeliverReadsALongAnswerOnlyInPart(t *testing.T) {
	wrote := make(chan int, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := 0
		for range 1 << 10 {
			m, err := w.Write(make([]byte, 1<<20))
			if n += m; err != nil {
				break
			}
		}
		wrote <- n
	}))
	defer srv.Close()
	m := webhooktest.Mailtrap{URL: srv.URL, Secret: signingSecret}
	result, err := m.Deliver(t.Context(), []byte("{}"))
	require.NoError(t, err)
	require.True(t, result.Acknowledged)
	require.Less(t, <-wrote, 1<<30)
}

func TestDeliverReturnsTheAttemptsWhenItsContextEnds(t *testing.T) {
	errStop := errors.New("the test stops")
	for name, test := range map[string]struct {
		after    time.Duration
		handler  http.Handler
		attempts int
	}{
		"during a wait":     {6 * time.Minute, answering(500), 2},
		"during an attempt": {5*time.Minute + time.Second, hanging, 2},
		"before the first":  {0, hanging, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			if test.after == 0 {
				cancel(errStop)
			}
			time.AfterFunc(test.after, func() { cancel(errStop) })
			m := webhooktest.Mailtrap{Secret: signingSecret, Handler: test.handler}
			result, err := m.Deliver(ctx, []byte("{}"))
			require.ErrorIs(t, err, errStop)
			require.EqualError(t, err, "webhooktest: the delivery was interrupted: the test stops", name)
			require.Len(t, result.Attempts, test.attempts, name)
			require.False(t, result.Acknowledged)
			require.False(t, result.Paused, "Mailtrap would go on")
			require.Error(t, result.Err())
		})
	}
}

func TestDeliverErrorsTellNothingSecret(t *testing.T) {
	srv := httptest.NewServer(nil)
	srv.Close()
	m := webhooktest.Mailtrap{
		URL:     strings.Replace(srv.URL, "//", "//user:passw0rd@", 1) + "/?token=t0ken",
		Secret:  signingSecret,
		Retries: -1,
	}
	result, err := m.Deliver(t.Context(), []byte(`{"email":"to@example.com"}`))
	require.NoError(t, err)
	require.ErrorContains(t, result.Attempts[0].Err, "connection refused")
	for _, secret := range []string{"passw0rd", "t0ken", signingSecret, "to@example.com"} {
		require.NotContains(t, result.Attempts[0].Err.Error()+result.Err().Error(), secret)
	}
}

func TestDeliverClosesItsConnections(t *testing.T) {
	var open atomic.Int32
	srv := httptest.NewUnstartedServer(answering(500, 200))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	srv.Start()
	defer srv.Close()
	before := runtime.NumGoroutine()
	for _, fault := range []webhooktest.Fault{"", webhooktest.FaultTwice, webhooktest.FaultLate} {
		m := webhooktest.Mailtrap{URL: srv.URL, Secret: signingSecret, Speed: 1e9, Fault: fault}
		_, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
	}
	for end := time.Now().Add(time.Minute); open.Load() > 0 || runtime.NumGoroutine() > before; {
		require.True(t, time.Now().Before(end), "%d connections, %d goroutines", open.Load(), runtime.NumGoroutine()-before)
		time.Sleep(time.Millisecond)
	}
}

// The body behind a 101 is the connection, which no context ends.
func TestDeliverDoesNotWaitForTheEndOfAnotherProtocol(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn) // until the client hangs up
	}))
	defer srv.Close()
	m := webhooktest.Mailtrap{
		URL: srv.URL, Secret: signingSecret, Retries: -1, TimeLimit: time.Second,
	}
	ended := make(chan webhooktest.Result, 1)
	go func() {
		result, _ := m.Deliver(t.Context(), []byte("{}"))
		ended <- result
	}()
	select {
	case result := <-ended:
		require.Equal(t, http.StatusSwitchingProtocols, result.Attempts[0].Status, "%v", result.Attempts[0].Err)
	case <-time.After(time.Minute):
		t.Fatal("Deliver does not return")
	}
}

func TestDeliverWaitsForeverAtHardlyAnySpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		m := webhooktest.Mailtrap{Secret: signingSecret, Handler: answering(500), Speed: 1e-300}
		result, err := m.Deliver(ctx, []byte("{}"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Len(t, result.Attempts, 1)
	})
}
