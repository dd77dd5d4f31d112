package main

import (
	"bytes"
	"flag"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// TestMain lets all tests wait at the same time. By default only as many do as
// there are processors.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "64"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func TestProxiesPassDeliveries(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		for _, c := range []struct {
			network, address string
			trusted          []string
		}{
			{"tcp", "127.0.0.1:0", []string{"192.0.2.0/24", "2001:db8::/32"}},
			{"unix", "unix", nil},
		} {
			t.Run(k.name+" "+c.network, func(t *testing.T) {
				t.Parallel()
				r := startReceiver(t, c.address, 0, mailtrap+"/32", "::1/128")
				p := startProxy(t, k, setup{upstream: r.upstream, trusted: c.trusted})
				t.Run("all", func(t *testing.T) {
					for name, test := range map[string]func(*testing.T, *proxy, *receiver){
						"samples":   testSamples,
						"faults":    testFaults,
						"sizes":     testSizes,
						"addresses": testAddresses,
						"paths":     testPaths,
					} {
						t.Run(name, func(t *testing.T) {
							t.Parallel()
							test(t, p, r)
						})
					}
				})
				if p.log != "" {
					logged := p.read(t, p.log)
					require.Contains(t, logged, "POST /webhooks/mailtrap ")
					require.NotContains(t, logged, "token=")
				}
			})
		}
	}
}

func testSamples(t *testing.T, p *proxy, r *receiver) {
	for _, from := range []string{mailtrap, "::1"} {
		for _, f := range formats {
			for _, http1 := range []bool{false, true} {
				s := sender{to: p, from: from, http1: http1}
				events, uri := webhooktest.Samples(), newURI()
				body := webhooktest.Body(f, events...)
				require.Equal(t, http.StatusOK, s.deliver(t, uri, body))
				r.requireHandled(t, true, events...)

				require.Len(t, r.requests(uri), 1)
				got, want := r.requests(uri)[0], webhooktest.NewRequest("http://user:password@x"+uri, secret, body)
				require.Equal(t, []string{from}, got.Header["X-Forwarded-For"])
				require.Equal(t, "webhooks.example.com", got.Host)
				for _, name := range []string{mailtrapwebhook.SignatureHeader, "Content-Type", "User-Agent", "Authorization"} {
					require.Equal(t, want.Header[name], got.Header[name])
				}
			}
		}
	}
}

func testFaults(t *testing.T, p *proxy, r *receiver) {
	for _, fault := range []webhooktest.Fault{
		webhooktest.FaultForged, webhooktest.FaultRepeated, webhooktest.FaultTwice,
		webhooktest.FaultLate, webhooktest.FaultBroken, webhooktest.FaultReordered,
	} {
		events := webhooktest.Samples()
		player := sender{to: p, from: mailtrap}.player(t, newURI())
		player.Fault, player.Interval = fault, 100*time.Millisecond
		result, err := player.Deliver(t.Context(), webhooktest.Body(mailtrapwebhook.FormatJSON, events...))
		require.NoError(t, err)
		require.NoError(t, result.Err(), fault)
		if fault == webhooktest.FaultBroken {
			events = events[:1]
		}
		r.requireHandled(t, fault != webhooktest.FaultForged, events...)
	}
}

func testSizes(t *testing.T, p *proxy, r *receiver) {
	events, lines := fullDelivery(), fullBody(mailtrapwebhook.FormatJSONLines)
	require.Greater(t, len(lines), 1_160_000)
	padded := func(size int) []byte { return slices.Concat(lines, bytes.Repeat([]byte(" "), size-len(lines))) }
	plain := sender{to: p, from: mailtrap}
	unknown := sender{to: p, from: mailtrap, edit: withoutLength}
	chunked := sender{to: p, from: mailtrap, edit: withoutLength, http1: true}
	for name, c := range map[string]struct {
		body    []byte
		senders []sender
		want    int
	}{
		"a full delivery":          {fullBody(mailtrapwebhook.FormatJSON), []sender{plain, unknown}, http.StatusOK},
		"a full delivery in lines": {lines, []sender{chunked}, http.StatusOK},
		"the largest body":         {padded(maxBody), []sender{plain, chunked}, http.StatusOK},
		"a byte more":              {padded(maxBody + 1), []sender{plain, unknown, chunked}, http.StatusRequestEntityTooLarge},
	} {
		for i, s := range c.senders {
			require.Equal(t, c.want, s.deliver(t, newURI(), c.body), "%s, sender %d", name, i)
		}
	}
	r.requireHandled(t, true, events...)
}

// claims are headers by which a sender claims an address of Mailtrap's.
var claims = []http.Header{
	{},
	{"X-Forwarded-For": {mailtrap}},
	{"X-Forwarded-For": {mailtrap + ", 127.0.0.1"}},
	{"X-Forwarded-For": {"127.0.0.1", mailtrap}},
	{"X-Forwarded-For": {mailtrap, ""}},
	{"X-Forwarded-For": {mailtrap + ","}},
	{"X-Forwarded-For": {mailtrap + ":443"}},
	{"X-Forwarded-For": {"::ffff:" + mailtrap}},
	{"X-Forwarded-For": {"unknown"}},
	{"X-Forwarded-For": {strings.Repeat(mailtrap+", ", 400) + mailtrap}},
	{"x-forwarded-for": {mailtrap}},
	{"X_Forwarded_For": {mailtrap}},
	{"X-Real-Ip": {mailtrap}, "Forwarded": {"for=" + mailtrap}, "Cf-Connecting-Ip": {mailtrap}},
}

func testAddresses(t *testing.T, p *proxy, r *receiver) {
	for _, request := range requireAddresses(t, p, r) {
		require.Len(t, request.Header["X-Forwarded-For"], 1)
		require.NotContains(t, request.Header["X-Forwarded-For"][0], ",", "the proxy passes claims on")
	}
}

// requireAddresses delivers with each claim and returns what arrives.
func requireAddresses(t *testing.T, p *proxy, r *receiver) (requests []*http.Request) {
	t.Helper()
	for _, claim := range claims {
		for from, want := range map[string]int{mailtrap: http.StatusOK, stranger: http.StatusForbidden} {
			s := sender{to: p, from: from, http1: true, edit: func(r *http.Request) { maps.Copy(r.Header, claim) }}
			ev, uri := webhooktest.Sample("bounce"), newURI()
			body := webhooktest.Body(mailtrapwebhook.FormatJSON, ev)
			require.Equal(t, want, s.deliver(t, uri, body), "%s: %s", from, claim)
			r.requireHandled(t, want == http.StatusOK, ev)
			require.Len(t, r.requests(uri), 1)
			client, err := r.list.ClientAddr(r.requests(uri)[0])
			require.NoError(t, err, "%s: %s", from, claim)
			require.Equal(t, from, client.String(), claim)
			requests = append(requests, r.requests(uri)...)
		}
	}

	// Proxies drop the headers that this one names. That must not hide a stranger.
	s := sender{to: p, from: stranger, http1: true, edit: func(r *http.Request) {
		r.Header.Set("Connection", "X-Forwarded-For")
	}}
	ev := webhooktest.Sample("bounce")
	require.Equal(t, http.StatusForbidden, s.deliver(t, newURI(), webhooktest.Body(mailtrapwebhook.FormatJSON, ev)))
	r.requireHandled(t, false, ev)
	return requests
}

// Proxies and receiver are as patient as in production, but all of it goes
// faster. The test runs alone, because the others take all processors.
func TestSlowDeliveriesPassAndStalledOnesEnd(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			r := startReceiver(t, "127.0.0.1:0", 25*time.Second/hurry, mailtrap+"/32")
			p := startProxy(t, k, setup{upstream: r.upstream, hurried: true, unprobed: true})
			for name, test := range map[string]func(*testing.T, sender, *receiver){
				"late answer":    testLateAnswer,
				"slow body":      testSlowBody,
				"stalled body":   testStalledBody,
				"stalled header": testStalledHeader,
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					test(t, sender{to: p, from: mailtrap}, r)
				})
			}
		})
	}
}

func testLateAnswer(t *testing.T, s sender, r *receiver) {
	ev := webhooktest.Sample("bounce")
	require.Equal(t, http.StatusOK, s.deliver(t, newURI()+"&late", webhooktest.Body(mailtrapwebhook.FormatJSON, ev)))
	r.requireHandled(t, true, ev)
}

// testSlowBody sends a body for 15 seconds, which is in time.
func testSlowBody(t *testing.T, s sender, r *receiver) {
	s.edit = func(r *http.Request) {
		r.Body = &slowBody{ReadCloser: r.Body, part: r.ContentLength/5 + 1, pause: 3 * time.Second / hurry}
	}
	ev := webhooktest.Sample("bounce")
	require.Equal(t, http.StatusOK, s.deliver(t, newURI(), webhooktest.Body(mailtrapwebhook.FormatJSON, ev)))
	r.requireHandled(t, true, ev)
}

// testStalledBody sends half of a body.
func testStalledBody(t *testing.T, s sender, r *receiver) {
	ev, uri := webhooktest.Sample("bounce"), newURI()
	body := webhooktest.Body(mailtrapwebhook.FormatJSON, ev)
	var text bytes.Buffer
	require.NoError(t, webhooktest.NewRequest("https://webhooks.example.com"+uri, secret, body).Write(&text))
	s.stall(t, text.String()[:text.Len()-len(body)/2], 40*time.Second/hurry)
	r.requireHandled(t, false, ev)
	require.Equal(t, s.to.buffers, len(r.requests(uri)) == 0)
}

func testStalledHeader(t *testing.T, s sender, _ *receiver) {
	s.stall(t, "POST /webhooks/mailtrap HTTP/1.1\r\nHost: webhooks.example.com\r\n", 15*time.Second/hurry)
}

// testPaths sends to other paths. An answer of 200 would lose the delivery.
func testPaths(t *testing.T, p *proxy, _ *receiver) {
	body := webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Sample("bounce"))
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		s := sender{to: p, from: mailtrap, edit: func(r *http.Request) { r.Method = method }}
		for _, path := range []string{
			"/", "/webhooks", "/webhooks/mailtrap/", "/webhooks/mailtrap/x", "/webhooks/Mailtrap", "/webhooks//mailtrap",
			"/healthz", "/readyz",
		} {
			require.NotEqual(t, http.StatusOK, s.deliver(t, path, body), "%s %s", method, path)
		}
	}
}

func TestNoReceiverIsNoAcknowledgement(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, k, setup{upstream: "127.0.0.1:" + freePort(t)})
			body := webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Sample("bounce"))
			require.GreaterOrEqual(t, sender{to: p, from: mailtrap}.deliver(t, newURI(), body), 500)
		})
	}
}

// The outer proxy plays Cloudflare: it keeps what senders say about themselves,
// and adds the address that it sees. The inner one plays a load balancer, which
// the outer one reaches from ::1 and the receiver from 127.0.0.1.
func TestTwoProxiesInARow(t *testing.T) {
	t.Parallel()
	for i, k := range kinds {
		inner := kinds[(i+1)%len(kinds)]
		t.Run(k.name+" before "+inner.name, func(t *testing.T) {
			t.Parallel()
			r := startReceiver(t, "127.0.0.1:0", 0, mailtrap+"/32")
			balancer := startProxy(t, inner, setup{upstream: r.upstream, trusted: []string{"::1/128"}, plain: true})
			front := startProxy(t, k, setup{
				upstream: "[::1]:" + balancer.port, trusted: []string{"0.0.0.0/0", "::/0"}, unprobed: true,
			})
			s := sender{to: front, from: mailtrap}
			for _, f := range formats {
				uri := newURI()
				require.Equal(t, http.StatusOK, s.deliver(t, uri, fullBody(f)))
				r.requireHandled(t, true, fullDelivery()...)

				// A list that trusts only one of the two refuses the delivery.
				got := r.requests(uri)[0]
				for _, one := range []string{"127.0.0.1/32", "::1/128"} {
					list := mailtrapwebhook.NewIPAllowlist(prefixes(mailtrap+"/32"), prefixes(one)...)
					require.ErrorIs(t, list.Guard()(got), mailtrapwebhook.ErrForbidden)
				}
			}
			requireAddresses(t, front, r)

			// nginx would write addresses to the disk.
			require.NotContains(t, front.read(t, output)+balancer.read(t, output), "temporary file")

			// A stranger who goes around the front is known to the load balancer.
			for _, claim := range []string{mailtrap, mailtrap + ", ::1"} {
				ev := webhooktest.Sample("bounce")
				around := sender{to: balancer, from: stranger, edit: func(r *http.Request) {
					r.Header.Set("X-Forwarded-For", claim)
				}}
				body := webhooktest.Body(mailtrapwebhook.FormatJSON, ev)
				require.Equal(t, http.StatusForbidden, around.deliver(t, newURI(), body))
				r.requireHandled(t, false, ev)
			}
		})
	}
}
