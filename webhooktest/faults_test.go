package webhooktest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func TestFaultForgedIsSentOnce(t *testing.T) {
	calls := 0
	m := webhooktest.Mailtrap{
		Secret: signingSecret, Fault: webhooktest.FaultForged,
		Handler: verifying(t, func([]mw.Event) { calls++ }),
	}
	result, err := m.Deliver(t.Context(), webhooktest.Body(mw.FormatJSON, webhooktest.Samples()...))
	require.NoError(t, err)
	require.NoError(t, result.Err())
	require.Len(t, result.Attempts, 1)
	require.Equal(t, http.StatusBadRequest, result.Attempts[0].Status)
	require.False(t, result.Acknowledged)
	require.False(t, result.Paused)
	require.Zero(t, calls)
}

func TestFaultRepeatedSendsTheSameBytesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bodies []string
		answers := answering(500, 200, 500, 500, 200)
		m := webhooktest.Mailtrap{
			Secret: signingSecret, Fault: webhooktest.FaultRepeated,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				bodies = append(bodies, string(body))
				answers.ServeHTTP(w, r)
			}),
		}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.True(t, result.Acknowledged)
		require.Equal(t, []string{"{}", "{}", "{}", "{}", "{}"}, bodies)
		require.Equal(t, [][2]int{{1, 1}, {1, 2}, {2, 1}, {2, 2}, {2, 3}}, numbers(result))
	})
}

// numbers returns the copy and the number of each attempt.
func numbers(r webhooktest.Result) (all [][2]int) {
	for _, a := range r.Attempts {
		all = append(all, [2]int{a.Copy, a.Number})
	}
	return all
}

func TestFaultRepeatedMustBeAcknowledgedTwice(t *testing.T) {
	m := webhooktest.Mailtrap{
		Secret: signingSecret, Fault: webhooktest.FaultRepeated, Retries: -1, Handler: answering(200, 409),
	}
	result, err := m.Deliver(t.Context(), []byte("{}"))
	require.NoError(t, err)
	require.False(t, result.Acknowledged)
	require.False(t, result.Paused, "Mailtrap would try again")
	require.ErrorContains(t, result.Err(), "409")
}

func TestFaultRepeatedRepeatsNothingThatFailed(t *testing.T) {
	m := webhooktest.Mailtrap{
		Secret: signingSecret, Fault: webhooktest.FaultRepeated, Retries: -1, Handler: answering(500, 200),
	}
	result, err := m.Deliver(t.Context(), []byte("{}"))
	require.NoError(t, err)
	require.False(t, result.Acknowledged)
	require.Len(t, result.Attempts, 1)
}

// Each half of a receiver that looks and then notes runs before the other half
// of the other copy, or the race would not show.
func TestFaultTwiceHasBothCopiesUnderWayAtOnce(t *testing.T) {
	receiver := func() (http.Handler, func() int) {
		var mu sync.Mutex
		running, most := 0, 0
		count := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			running += n
			most = max(most, running)
		}
		handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			count(1)
			defer count(-1)
			_, _ = io.ReadAll(r.Body)
			time.Sleep(50 * time.Millisecond)
		})
		return handler, func() int { mu.Lock(); defer mu.Unlock(); return most }
	}
	body := webhooktest.Body(mw.FormatJSONLines, webhooktest.Samples()...)
	t.Run("over the network", func(t *testing.T) {
		handler, most := receiver()
		srv := httptest.NewServer(handler)
		defer srv.Close()
		m := webhooktest.Mailtrap{URL: srv.URL, Secret: signingSecret, Fault: webhooktest.FaultTwice}
		result, err := m.Deliver(t.Context(), body)
		require.NoError(t, err)
		require.True(t, result.Acknowledged)
		require.Equal(t, 2, most())
	})
	t.Run("without it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			handler, most := receiver()
			m := webhooktest.Mailtrap{Secret: signingSecret, Handler: handler, Fault: webhooktest.FaultTwice}
			result, err := m.Deliver(t.Context(), body)
			require.NoError(t, err)
			require.True(t, result.Acknowledged)
			require.Equal(t, 2, most())
			require.Equal(t, []time.Duration{0, 0}, started(result.Attempts))
		})
	})
}

// The body's last byte comes only when both copies are under way.
func TestFaultTwiceHoldsTheLastByteBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var second atomic.Bool
		m := webhooktest.Mailtrap{
			Secret: signingSecret, Fault: webhooktest.FaultTwice,
			Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				body := make([]byte, r.ContentLength)
				_, err := io.ReadFull(r.Body, body[1:])
				require.NoError(t, err)
				if second.Swap(true) {
					time.Sleep(500 * time.Millisecond) // the first waits meanwhile
				}
				_, err = io.ReadFull(r.Body, body[:1])
				require.NoError(t, err)
			}),
		}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.True(t, result.Acknowledged)
		for _, a := range result.Attempts {
			require.Equal(t, 500*time.Millisecond, a.Duration)
		}
	})
}

// The second copy is under way only when the first is through.
func TestFaultTwiceDoesNotWaitForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turn := make(chan struct{}, 1)
		m := webhooktest.Mailtrap{
			Secret: signingSecret, Fault: webhooktest.FaultTwice,
			Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				turn <- struct{}{}
				_, _ = io.ReadAll(r.Body)
				<-turn
			}),
		}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.True(t, result.Acknowledged)
		require.Len(t, result.Attempts, 2)
		require.Equal(t, time.Second, result.Attempts[0].Duration)
	})
}

func TestFaultTwiceCopiesRetryByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := webhooktest.Mailtrap{Secret: signingSecret, Fault: webhooktest.FaultTwice, Handler: answering(200, 500, 200)}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.True(t, result.Acknowledged)
		require.Equal(t, []time.Duration{0, 0, 5 * time.Minute}, started(result.Attempts))
		require.Equal(t, 2, result.Attempts[2].Number)
	})
	synctest.Test(t, func(t *testing.T) {
		m := webhooktest.Mailtrap{Secret: signingSecret, Fault: webhooktest.FaultTwice, Retries: 3, Handler: answering(200, 500)}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.False(t, result.Acknowledged)
		require.True(t, result.Paused)
		require.Len(t, result.Attempts, 5)
		require.ErrorContains(t, result.Err(), "500")
	})
}

func TestFaultLateHangsUpTwice(t *testing.T) {
	for name, start := range map[string]func(*httptest.Server){
		"over HTTP/1.1": (*httptest.Server).Start,
		"over TLS":      (*httptest.Server).StartTLS,
		"over HTTP/2":   func(srv *httptest.Server) { srv.EnableHTTP2 = true; srv.StartTLS() },
		"to a Handler":  nil,
	} {
		t.Run(name, func(t *testing.T) {
			type request struct {
				bytes int
				err   error
			}
			var requests []request
			var ended []<-chan struct{}
			done := make(chan struct{}, 3)
			handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				requests = append(requests, request{len(body), err})
				ended = append(ended, r.Context().Done())
				if len(requests) == 2 { // it works for as long as somebody waits
					<-r.Context().Done()
				}
				done <- struct{}{}
			})
			body := webhooktest.Body(mw.FormatJSON, webhooktest.Sample("open"))
			m := webhooktest.Mailtrap{
				Secret: signingSecret, Fault: webhooktest.FaultLate, Handler: handler, Speed: 1e9,
				// The next attempt must not overtake the receiver, which
				// may still be reading.
				OnAttempt: func(webhooktest.Attempt) { <-done },
			}
			if start != nil {
				srv := httptest.NewUnstartedServer(handler)
				start(srv)
				defer srv.Close()
				m.URL, m.Client, m.Handler = srv.URL, srv.Client(), nil
			}
			result, err := m.Deliver(t.Context(), body)
			require.NoError(t, err)
			require.NoError(t, result.Err())
			require.Len(t, requests, 3)
			require.Equal(t, len(body)/2, requests[0].bytes)
			require.Error(t, requests[0].err)
			require.Equal(t, []request{{len(body), nil}, {len(body), nil}}, requests[1:])
			for _, ended := range ended {
				<-ended
			}
			for i, a := range result.Attempts {
				require.Equal(t, i+1, a.Number)
				if i < 2 {
					require.Zero(t, a.Status)
					require.EqualError(t, a.Err, "hung up on purpose by FaultLate")
				}
			}
		})
	}
}

// The second attempt ends while the receiver works, or with its answer.
func TestFaultLateDoesNotWaitForLong(t *testing.T) {
	for work, want := range map[time.Duration]time.Duration{
		0: 0, 49 * time.Millisecond: 49 * time.Millisecond, 2 * time.Second: 50 * time.Millisecond,
	} {
		synctest.Test(t, func(t *testing.T) {
			m := webhooktest.Mailtrap{
				Secret: signingSecret, Fault: webhooktest.FaultLate,
				Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.ReadAll(r.Body)
					select {
					case <-time.After(work):
					case <-r.Context().Done():
					}
				}),
			}
			result, err := m.Deliver(t.Context(), []byte("{}"))
			require.NoError(t, err)
			require.NoError(t, result.Err())
			require.Len(t, result.Attempts, 3)
			require.Equal(t, want, result.Attempts[1].Duration)
			require.EqualError(t, result.Attempts[1].Err, "hung up on purpose by FaultLate")
			require.Equal(t, work, result.Attempts[2].Duration)
		})
	}
}

func TestFaultLateHangsUpBeforeAShortBody(t *testing.T) {
	for body, want := range map[string]int{"x": 0, "{}": 1} {
		lengths := make(chan int, 3)
		m := webhooktest.Mailtrap{
			Secret: signingSecret, Fault: webhooktest.FaultLate,
			Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				got, _ := io.ReadAll(r.Body)
				lengths <- len(got)
			}),
		}
		synctest.Test(t, func(t *testing.T) {
			_, err := m.Deliver(t.Context(), []byte(body))
			require.NoError(t, err)
			require.Equal(t, []int{want, len(body), len(body)}, []int{<-lengths, <-lengths, <-lengths})
		})
	}
}

// kinds delivers a body with a fault and returns what the receiver got.
func kinds(t *testing.T, fault webhooktest.Fault, body string) (names []string, f mw.Format) {
	m := webhooktest.Mailtrap{
		Secret: signingSecret, Fault: fault,
		Handler: verifying(t, func(events []mw.Event) {
			for _, ev := range events {
				name := ev.Name()
				if u, ok := ev.(*mw.UnknownEvent); ok && u.Err != nil {
					name = "broken"
				}
				names = append(names, name)
			}
		}),
	}
	handler := m.Handler
	m.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.Equal(t, strings.TrimSpace(body)[0], sent[0], "an array stays one")
		r.Body = io.NopCloser(bytes.NewReader(sent))
		if f = mw.FormatJSON; r.Header.Get("Content-Type") == "application/jsonl" {
			f = mw.FormatJSONLines
		}
		handler.ServeHTTP(w, r)
	})
	result, err := m.Deliver(t.Context(), []byte(body))
	require.NoError(t, err)
	require.NoError(t, result.Err())
	return names, f
}

func TestFaultsThatAlterTheBody(t *testing.T) {
	for name, test := range map[string]struct {
		body             string
		format           mw.Format
		broken, reversed []string
	}{
		"an envelope": {
			`{"events":[{"event":"open"},{"event":"click"},{"event":"spam"}]}`, mw.FormatJSON,
			[]string{"open", "broken", "spam"}, []string{"spam", "click", "open"},
		},
		"an envelope of one": {
			`{"events":[{"event":"open"}]}`, mw.FormatJSON, []string{"open", "broken"}, []string{"open"},
		},
		"an array": {
			` [{"event":"open"},{"event":"click"}]`, mw.FormatJSON, []string{"open", "broken"}, []string{"click", "open"},
		},
		"an object": {
			"{\n\"event\":\"open\"}", mw.FormatJSON, []string{"open", "broken"}, []string{"open"},
		},
		"lines": {
			"{\"event\":\"open\"}\n{\"event\":\"click\"}\n{\"event\":\"spam\"}\n", mw.FormatJSONLines,
			[]string{"open", "broken", "spam"}, []string{"spam", "click", "open"},
		},
		"one line": {
			`{"event":"open"}`, mw.FormatJSONLines, []string{"open", "broken"}, []string{"open"},
		},
	} {
		got, format := kinds(t, webhooktest.FaultBroken, test.body)
		require.Equal(t, test.broken, got, name)
		require.Equal(t, test.format, format, name)
		got, _ = kinds(t, webhooktest.FaultReordered, test.body)
		require.Equal(t, test.reversed, got, name)
	}
}

func TestFaultsNeedABodyThatCanBeParsed(t *testing.T) {
	m := webhooktest.Mailtrap{Secret: signingSecret, Handler: answering(200)}
	for _, m.Fault = range []webhooktest.Fault{webhooktest.FaultBroken, webhooktest.FaultReordered} {
		_, err := m.Deliver(t.Context(), []byte(`{"events":[{`))
		require.ErrorContains(t, err, `needs a body that can be parsed: deliver another: mailtrapwebhook: line 1`)
		var fault *mw.DecodeError
		require.True(t, errors.As(err, &fault))
	}
	_, err := m.Deliver(t.Context(), []byte("{\"event\":\"open\"}\n{"))
	require.ErrorContains(t, err, `with Fault "reordered" the body cannot be parsed any more`)
}

func TestFaultsStayTheSameInEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bodies []string
		m := webhooktest.Mailtrap{
			Secret: signingSecret, Fault: webhooktest.FaultReordered, Retries: 2,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				bodies = append(bodies, string(body))
				w.WriteHeader(500)
			}),
		}
		_, err := m.Deliver(context.Background(), []byte(`[{"event":"open"},{"event":"click"}]`))
		require.NoError(t, err)
		require.Len(t, slices.Compact(bodies), 1)
	})
}
