package webhooktest_test

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func TestDeliverToAHandlerNeedsNoURL(t *testing.T) {
	for url, want := range map[string]string{
		"":                              "example.com /",
		"/hook?a=b":                     "example.com /hook?a=b",
		"https://hooks.example.com/a/b": "hooks.example.com /a/b",
	} {
		m := webhooktest.Mailtrap{
			URL: url, Secret: signingSecret, Retries: -1,
			Client: &http.Client{Transport: nil}, // not used
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Host+" "+r.RequestURI != want {
					http.NotFound(w, r)
				}
			}),
		}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.NoError(t, result.Err(), url)
	}
}

// A handler that fails in one of these ways makes a server hang up.
func TestDeliverToAHandlerThatDoesNotReturn(t *testing.T) {
	var said bytes.Buffer
	log.SetOutput(&said)
	defer log.SetOutput(os.Stderr)
	for _, test := range []struct {
		handler   http.HandlerFunc
		want, log string
	}{
		{func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "the handler hung up without an answer", ""},
		{func(http.ResponseWriter, *http.Request) { runtime.Goexit() }, "the handler hung up without an answer", ""},
		{
			func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200); panic(errors.New("boom")) },
			"the handler panicked: boom", "webhooktest: the handler panicked: boom\ngoroutine ",
		},
	} {
		said.Reset()
		m := webhooktest.Mailtrap{Secret: signingSecret, Retries: 1, Speed: 1e9, Handler: test.handler}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.Len(t, result.Attempts, 2)
		require.EqualError(t, result.Attempts[1].Err, test.want)
		require.ErrorContains(t, result.Err(), test.want)
		require.Contains(t, said.String(), test.log)
		require.Equal(t, test.log != "", said.Len() > 0)
	}
}

func TestDeliverEndsTheContextOfAHandlerThatReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := false
		m := webhooktest.Mailtrap{
			Secret: signingSecret,
			Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				go func() {
					<-r.Context().Done()
					ended = true
				}()
				_, _ = io.ReadAll(r.Body)
				time.Sleep(time.Second)
				require.False(t, ended)
			}),
		}
		result, err := m.Deliver(t.Context(), []byte("{}"))
		require.NoError(t, err)
		require.Equal(t, time.Second, result.Attempts[0].Duration)
		synctest.Wait()
		require.True(t, ended)
	})
}

func TestDeliverToAHandlerThatSendsEarlyHints(t *testing.T) {
	m := webhooktest.Mailtrap{
		Secret: signingSecret, Retries: -1,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusAccepted)
		}),
	}
	result, err := m.Deliver(t.Context(), []byte("{}"))
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, result.Attempts[0].Status)
}
