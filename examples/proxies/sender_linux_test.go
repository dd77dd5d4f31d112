package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const (
	secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

	// Linux sends from any address of 127.0.0.0/8.
	mailtrap = "127.0.0.5" // stands for Mailtrap's
	stranger = "127.0.0.6"

	maxBody = 8 << 20 // what the Handler and nginx take
)

// testServer has a certificate for webhooks.example.com, and a client that
// trusts it.
var testServer = httptest.NewTLSServer(nil)

// A sender sends deliveries to a proxy.
type sender struct {
	to    *proxy
	from  string              // the address that it sends from
	edit  func(*http.Request) // changes the request, if not nil
	http1 bool                // HTTP/1.1 in place of 2
}

// dial connects to the proxy.
func (s sender) dial(ctx context.Context) (net.Conn, error) {
	from, host := net.ParseIP(s.from), "127.0.0.1"
	if from.To4() == nil {
		host = "::1"
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	return dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, s.to.port))
}

// trusting returns settings that trust the proxies' certificate.
func trusting() *tls.Config {
	config := testServer.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "webhooks.example.com"
	return config
}

// transport connects to the proxy, whatever the host.
func (s sender) transport(t *testing.T) http.RoundTripper {
	inner := &http.Transport{
		TLSClientConfig:   trusting(),
		ForceAttemptHTTP2: !s.http1,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) },
	}
	t.Cleanup(inner.CloseIdleConnections)
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if s.edit != nil {
			r = r.Clone(r.Context())
			s.edit(r)
		}
		answer, err := inner.RoundTrip(r)
		if err == nil && !s.http1 && !s.to.plain && answer.ProtoMajor != 2 {
			return nil, errors.Join(errors.New("the proxy does not speak HTTP/2"), answer.Body.Close())
		}
		return answer, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

var deliveries atomic.Int64

// newURI returns a URI of its own that proxies may not change.
func newURI() string {
	return "/webhooks/mailtrap?token=a%2Bb%20c&empty=&n=" + strconv.FormatInt(deliveries.Add(1), 10)
}

// player returns a Mailtrap that delivers to the URI.
func (s sender) player(t *testing.T, uri string) *webhooktest.Mailtrap {
	scheme := "https"
	if s.to.plain {
		scheme = "http"
	}
	return &webhooktest.Mailtrap{
		URL:    scheme + "://user:password@webhooks.example.com" + uri,
		Secret: secret,
		Client: &http.Client{Transport: s.transport(t)},
	}
}

// deliver delivers the body once and returns the answer's status, or 0.
func (s sender) deliver(t *testing.T, uri string, body []byte) (status int) {
	t.Helper()
	player := s.player(t, uri)
	player.Retries = -1
	result, err := player.Deliver(t.Context(), body)
	require.NoError(t, err)
	if err := result.Attempts[0].Err; err != nil {
		t.Log(err)
	}
	return result.Attempts[0].Status
}

// stall sends the first part of a request. The proxy must refuse it or hang up
// within the time.
func (s sender) stall(t *testing.T, part string, within time.Duration) {
	t.Helper()
	conn, err := s.dial(t.Context())
	require.NoError(t, err)
	secured := tls.Client(conn, trusting())
	defer secured.Close()
	require.NoError(t, secured.SetDeadline(time.Now().Add(within)))
	_, err = io.WriteString(secured, part)
	require.NoError(t, err)
	answer, err := http.ReadResponse(bufio.NewReader(secured), nil)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.True(t, err != nil || answer.StatusCode != http.StatusOK)
}

// A slowBody is read in parts.
type slowBody struct {
	io.ReadCloser
	part  int64         // the size of a part
	pause time.Duration // before each part but the first, and before the end
	begun bool
}

func (b *slowBody) Read(into []byte) (int, error) {
	if b.begun {
		time.Sleep(b.pause)
	}
	b.begun = true
	return b.ReadCloser.Read(into[:min(int64(len(into)), b.part)])
}

var formats = []mailtrapwebhook.Format{mailtrapwebhook.FormatJSON, mailtrapwebhook.FormatJSONLines}

// fullDelivery returns as many events as Mailtrap sends at once, with as many
// variables as it takes and with long links. All tests share them.
var fullDelivery = sync.OnceValue(func() []mailtrapwebhook.Event {
	events := make([]mailtrapwebhook.Event, 500)
	for i := range events {
		ev := webhooktest.Sample("click").(*mailtrapwebhook.SendingWebhookEvent)
		ev.URL = "https://example.com/" + strings.Repeat("a", 950)
		ev.CustomVariables = mailtrapwebhook.Variables(`{"v":"` + strings.Repeat("b", 1000-len(`{"v":""}`)) + `"}`)
		events[i] = ev
	}
	decoded, err := mailtrapwebhook.Parse(webhooktest.Body(mailtrapwebhook.FormatJSON, events...))
	if err != nil {
		panic(err)
	}
	return decoded
})

// fullBody returns the body of fullDelivery.
func fullBody(f mailtrapwebhook.Format) []byte { return fullBodies()[f] }

var fullBodies = sync.OnceValue(func() map[mailtrapwebhook.Format][]byte {
	bodies := make(map[mailtrapwebhook.Format][]byte)
	for _, f := range formats {
		bodies[f] = webhooktest.Body(f, fullDelivery()...)
	}
	return bodies
})

func withoutLength(r *http.Request) { r.ContentLength = -1 }
