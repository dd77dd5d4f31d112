package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// guarded returns the status of a request to what a guard protects.
func guarded(t *testing.T, addr, method, target string, change func(r *http.Request)) int {
	t.Helper()
	in := newTestInspector(t, listenOptions{})
	r := httptest.NewRequest(method, target, strings.NewReader("{}"))
	r.Host = "127.0.0.1:8080"
	change(r)
	w := httptest.NewRecorder()
	in.handler(addr).ServeHTTP(w, r)
	if w.Code == http.StatusForbidden {
		require.Regexp(t, `^\{"error":"[a-z].{30,}"\}\n$`, w.Body.String())
	}
	return w.Code
}

func TestOnlyThisMachinesNamesAreServed(t *testing.T) {
	for host, want := range map[string]int{
		"localhost": 200, "localhost:8080": 200, "LOCALHOST:1": 200,
		"127.0.0.1": 200, "127.0.0.1:8080": 200, "[::1]:8080": 200, "[::1]": 200, "192.0.2.7:8080": 200,
		"bench.example.com:8080": 200, // that of -addr
		"example.com":            403, "example.com:8080": 403, "localhost.example.com": 403, "127.0.0.1.example.com": 403,
		"localhost:80:80": 403, "": 403, "evil.bench.example.com:8080": 403,
	} {
		for _, target := range []string{"/", "/api/info", "/api/deliveries"} {
			got := guarded(t, "bench.example.com:8080", "GET", target, func(r *http.Request) { r.Host = host })
			require.Equal(t, want, got, "%s at %s", target, host)
		}
	}
	// An empty host in -addr is every address, and not an empty Host.
	require.Equal(t, 403, guarded(t, ":8080", "GET", "/", func(r *http.Request) { r.Host = "" }))
	require.Equal(t, 403, guarded(t, ":8080", "GET", "/", func(r *http.Request) { r.Host = ":8080" }))
}

func TestWhatComesThroughATunnelIsRefused(t *testing.T) {
	for _, name := range proxyHeaders {
		for _, target := range []string{"/", "/app.js", "/api/info", "/api/stream", "/api/deliveries/1/body"} {
			got := guarded(t, "127.0.0.1:8080", "GET", target, func(r *http.Request) { r.Header.Set(name, "") })
			require.Equal(t, 403, got, "%s with %s", target, name)
		}
	}
}

func TestOtherPagesCannotUseTheAPI(t *testing.T) {
	for _, header := range [][2]string{
		{"Origin", "https://example.com"},
		{"Origin", "null"},
		{"Origin", "http://127.0.0.1:9090"}, // another program's page on this machine
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
	} {
		for _, request := range [][2]string{
			{"GET", "/api/deliveries"}, {"GET", "/api/stream"}, {"GET", "/api/info"},
			{"POST", "/api/send"}, {"POST", "/api/deliveries/1/replay"},
		} {
			got := guarded(t, "127.0.0.1:8080", request[0], request[1], func(r *http.Request) {
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set(header[0], header[1])
			})
			require.Equal(t, 403, got, "%v %v", request, header)
		}
	}
}

func TestTheOwnPageAndScriptsCanUseTheAPI(t *testing.T) {
	for _, header := range [][2]string{
		{"Origin", "http://127.0.0.1:8080"}, {"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"X-Nothing", ""},
	} {
		got := guarded(t, "127.0.0.1:8080", "GET", "/api/info", func(r *http.Request) { r.Header.Set(header[0], header[1]) })
		require.Equal(t, 200, got, "%v", header)
	}
	// A link from elsewhere opens the page, and shows nothing to the other.
	require.Equal(t, 200, guarded(t, "127.0.0.1:8080", "GET", "/", func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", "cross-site")
	}))
}

func TestAPostMustBeJSON(t *testing.T) {
	for contentType, want := range map[string]int{
		"": 415, "text/plain": 415, "application/x-www-form-urlencoded": 415, "multipart/form-data": 415,
		"text/plain; application/json": 415, "application/json": 202, "Application/JSON; charset=utf-8": 202,
	} {
		got := guarded(t, "127.0.0.1:8080", "POST", "/api/send", func(r *http.Request) {
			r.Header.Set("Content-Type", contentType)
		})
		require.Equal(t, want, got, contentType)
	}
}

func TestAPostToAWrongPathIsNoted(t *testing.T) {
	l := startListen(t, "")
	r, err := http.NewRequest("POST", l.url+"/webhooks/mailtrapp", strings.NewReader("{}"))
	require.NoError(t, err)
	r.Host = "tunnel.example.com"
	status, _ := do(t, r)
	require.Equal(t, 403, status)
	require.Contains(t, l.stderr.String(), "deliveries go to "+webhookPath)
}

func TestADeliveryToThePageIsRefusedAndToldWhereToGo(t *testing.T) {
	l := startListen(t, testSecret)
	for _, path := range []string{"/", "/style.css", "/webhooks/mailtrapp"} {
		status, text := post(t, l.url+path, testSecret, sampleBody("open"))
		require.Equal(t, http.StatusMethodNotAllowed, status, path)
		require.Contains(t, text, webhookPath)
	}
	require.Contains(t, l.stderr.String(), "deliveries go to "+webhookPath)
	require.Zero(t, l.list(t, "").Total)
	got := runWith(t, testSecret, "", "send", "-kind", "open", l.url+"/")
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stderr, "answers 405")

	r, err := http.NewRequestWithContext(t.Context(), http.MethodHead, l.url+"/", nil)
	require.NoError(t, err)
	status, _ := do(t, r)
	require.Equal(t, http.StatusOK, status)
	r.Method = http.MethodPut
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
	require.Equal(t, "GET, HEAD", resp.Header.Get("Allow"))
}

func TestARequestThatIsRefusedCannotHoldItsConnection(t *testing.T) {
	for _, target := range []string{webhookPath, "/", "/api/info"} {
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		in := newTestInspector(t, listenOptions{})
		in.handler("127.0.0.1:8080").ServeHTTP(w, httptest.NewRequest(http.MethodPut, target, nil))
		// net/http reads the body that the handler has left.
		require.WithinDuration(t, time.Now(), w.read, 2*time.Minute, target)
		require.WithinDuration(t, time.Now(), w.write, 2*time.Minute, target)
	}
}

// Deadlines notes the deadlines that a handler sets.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.read = t
	return nil
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.write = t
	return nil
}
