package webhooktest_test

import (
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func TestDeliverNamesTheFieldThatIsSetUpWrongly(t *testing.T) {
	const (
		badURL    = "webhooktest: URL cannot be used: set it to the http or https address of the receiver"
		noSecret  = "webhooktest: Secret is blank: set it to the signing secret that the receiver has"
		negative  = "webhooktest: Speed, Interval or TimeLimit is negative: set it to 0 or more"
		fewTries  = "webhooktest: FaultLate hangs up on two attempts: set Retries to 0, or to 2 or more"
		wrongName = `webhooktest: Fault "odd" is unknown: set it to one of the Fault constants`
	)
	for _, test := range []struct {
		m    webhooktest.Mailtrap
		want string
	}{
		{webhooktest.Mailtrap{Secret: "s"}, badURL},
		{webhooktest.Mailtrap{URL: "/hook", Secret: "s"}, badURL},
		{webhooktest.Mailtrap{URL: "ftp://example.com", Secret: "s"}, badURL},
		{webhooktest.Mailtrap{URL: "http:///hook", Secret: "s"}, badURL},
		{webhooktest.Mailtrap{URL: "http://user:pass/word@example.com", Secret: "s"}, badURL},
		{webhooktest.Mailtrap{URL: "http://example.com"}, noSecret},
		{webhooktest.Mailtrap{URL: "http://example.com", Secret: " \n"}, noSecret},
		{webhooktest.Mailtrap{URL: "http://example.com", Secret: "s", Speed: -1}, negative},
		{webhooktest.Mailtrap{URL: "http://example.com", Secret: "s", Speed: math.NaN()}, negative},
		{webhooktest.Mailtrap{URL: "http://example.com", Secret: "s", Interval: -1}, negative},
		{webhooktest.Mailtrap{URL: "http://example.com", Secret: "s", TimeLimit: -1}, negative},
		{webhooktest.Mailtrap{URL: "http://example.com", Secret: "s", Fault: "late", Retries: -1}, fewTries},
		{webhooktest.Mailtrap{URL: "http://example.com", Secret: "s", Fault: "late", Retries: 1}, fewTries},
		{webhooktest.Mailtrap{URL: "http://example.com", Secret: "s", Fault: "odd"}, wrongName},
	} {
		result, err := test.m.Deliver(t.Context(), []byte("{}"))
		require.EqualError(t, err, test.want)
		require.Empty(t, result)
		require.EqualError(t, result.Err(), "webhooktest: nothing was sent: call Deliver")
	}
}

func TestDeliverFollowsNoRedirect(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hook" {
			http.Redirect(w, r, "/final", http.StatusTemporaryRedirect)
		}
	}))
	defer srv.Close()
	for _, client := range []*http.Client{nil, srv.Client()} {
		m := webhooktest.Mailtrap{URL: srv.URL + "/hook", Secret: signingSecret, Client: client, Retries: -1}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.Equal(t, http.StatusTemporaryRedirect, result.Attempts[0].Status)
	}
	require.Nil(t, srv.Client().CheckRedirect, "the caller's client stays as it is")
}

func TestDeliverMayRunSeveralTimesAtOnce(t *testing.T) {
	var mu sync.Mutex
	attempts := 0
	m := webhooktest.Mailtrap{
		Secret:  signingSecret,
		Handler: answering(500, 200),
		Speed:   1e9,
		OnAttempt: func(webhooktest.Attempt) {
			mu.Lock()
			defer mu.Unlock()
			attempts++
		},
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			result, err := m.Deliver(t.Context(), webhooktest.Body(mw.FormatJSON, webhooktest.Samples()...))
			require.NoError(t, err)
			require.True(t, result.Acknowledged)
		})
	}
	all.Wait()
	require.Equal(t, 9, attempts)
}

// answering is a receiver that answers with each status in turn, and the last
// one for good.
func answering(statuses ...int) http.Handler {
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		status := statuses[0]
		if len(statuses) > 1 {
			statuses = statuses[1:]
		}
		mu.Unlock()
		w.WriteHeader(status)
	})
}

// hanging is a receiver that never answers.
var hanging http.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.ReadAll(r.Body) // only then a server sees that the client hangs up
	<-r.Context().Done()
})

// verifying is a receiver that calls handle with the events of deliveries that
// Mailtrap signed.
func verifying(t *testing.T, handle func(events []mw.Event)) http.Handler {
	verifier, err := mw.NewVerifier(signingSecret)
	require.NoError(t, err)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := verifier.VerifyRequest(r)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		events, err := mw.Parse(body)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		handle(events)
	})
}

// started returns when each attempt began, counted from the first.
func started(attempts []webhooktest.Attempt) (times []time.Duration) {
	for _, a := range attempts {
		times = append(times, a.Began.Sub(attempts[0].Began))
	}
	return times
}
