package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An app is what deliveries are forwarded to. It keeps their requests.
type app struct {
	*httptest.Server
	requests chan *http.Request // whose bodies are read
	bodies   chan []byte
}

func startApp(t *testing.T, answer http.HandlerFunc) *app {
	a := &app{requests: make(chan *http.Request, 100), bodies: make(chan []byte, 100)}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // an error shows in the body
		a.requests <- r
		a.bodies <- body
		answer(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

func TestADeliveryGoesOnUnchanged(t *testing.T) {
	a := startApp(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-App", "yes")
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(201)
		_, _ = io.WriteString(w, "made")
	})
	l := startListen(t, testSecret, "-forward", a.URL+"/hook?env=test")
	r, err := http.NewRequest("POST", l.url+webhookPath+"?token=abc", strings.NewReader(string(awkward)))
	require.NoError(t, err)
	r.Header = signedRequest(awkward).Header
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	r.Header.Set("Authorization", "Basic abc")
	r.Header["X-Several"] = []string{"one", "two"}
	r.Header.Set("Connection", "X-Hop")
	r.Header.Set("X-Hop", "1")
	r.Header["User-Agent"] = []string{""}
	sent := r.Header.Clone()
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)

	got := <-a.requests
	require.Equal(t, awkward, <-a.bodies)
	require.Equal(t, "/hook?env=test&token=abc", got.URL.String())
	require.Equal(t, strings.TrimPrefix(a.URL, "http://"), got.Host)
	for _, name := range []string{"Connection", "X-Hop", "User-Agent"} {
		sent.Del(name)
	}
	sent.Set("Content-Length", got.Header.Get("Content-Length"))
	require.Equal(t, sent, got.Header)

	require.Equal(t, 201, resp.StatusCode)
	require.Equal(t, "yes", resp.Header.Get("X-App"))
	require.Equal(t, "made", string(text))
	d := l.detail(t, "1")
	require.True(t, d.Forwarded)
	require.Equal(t, 201, d.Status)
	require.Equal(t, "made", d.Answer.Body)
	require.Contains(t, d.Answer.Header, [2]string{"X-App", "yes"})
}

func TestTheAppJudgesWhatDoesNotVerify(t *testing.T) {
	a := startApp(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })
	l := startListen(t, testSecret, "-forward", a.URL)
	require.Equal(t, 200, l.deliver(t, strings.Repeat("0", 32), sampleBody("open")))
	require.Equal(t, verifiedNo, l.list(t, "").Deliveries[0].Verified)
}

func TestARedirectIsNotFollowed(t *testing.T) {
	a := startApp(t, func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "/", r.URL.Path)
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusSeeOther)
	})
	l := startListen(t, testSecret, "-forward", a.URL)
	r, err := http.NewRequest("POST", l.url+webhookPath, strings.NewReader("{}"))
	require.NoError(t, err)
	resp, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusSeeOther, resp.StatusCode)
	require.Equal(t, "/elsewhere", resp.Header.Get("Location"))
}

func TestAnAppThatRefusesIs502AndALine(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := closed.Addr().String()
	closed.Close()
	l := startListen(t, testSecret, "-forward", "http://"+address+"/?token=hunter2")
	require.Equal(t, 502, l.deliver(t, testSecret, sampleBody("open")))
	d := l.list(t, "").Deliveries[0]
	require.Equal(t, "nothing listens at "+address+": start the app, or correct -forward", d.Error)
	require.False(t, d.Forwarded)
	require.Contains(t, l.stdout.String(), d.Error)
}

func TestAnAppThatHangsIs504(t *testing.T) {
	require.Equal(t, 30*time.Second, forwardTimeout)
	for name, answer := range map[string]http.HandlerFunc{
		"before the answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"in the answer": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "beginning")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	} {
		a := startApp(t, answer)
		target, err := url.Parse(a.URL)
		require.NoError(t, err)
		in := newTestInspector(t, listenOptions{secrets: []string{testSecret}, forward: target})
		require.Equal(t, forwardTimeout, in.forward.timeout)
		in.forward.timeout = 50 * time.Millisecond
		require.Equal(t, 504, answerOf(http.HandlerFunc(in.receive), sampleBody("open"), nil), name)
		require.Contains(t, in.store.get(1).answer.err, "the app did not answer within 50ms")
	}
}

func TestAnAppThatBreaksOffIs502(t *testing.T) {
	a := startApp(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	l := startListen(t, testSecret, "-forward", a.URL)
	require.Equal(t, 502, l.deliver(t, testSecret, sampleBody("open")))
	require.Contains(t, l.list(t, "").Deliveries[0].Error, "the app gave no answer: ")
}

func TestOnlyTheBeginningOfAnEndlessAnswerIsTaken(t *testing.T) {
	a := startApp(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = w.Write(make([]byte, 64<<10))
		}
	})
	l := startListen(t, testSecret, "-forward", a.URL)
	status, text := post(t, l.url+webhookPath, testSecret, sampleBody("open"))
	require.Equal(t, 200, status)
	require.Len(t, text, maxAnswer)
	require.True(t, l.detail(t, "1").Answer.Cut)
}

func TestADeliveryWhoseSenderHangsUpIsKept(t *testing.T) {
	arrived := make(chan struct{})
	a := startApp(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done() // the app sees it too
	})
	dir := t.TempDir()
	l := startListen(t, testSecret, "-forward", a.URL, "-dir", dir)
	conn, err := net.Dial("tcp", strings.TrimPrefix(l.url, "http://"))
	require.NoError(t, err)
	_, err = io.WriteString(conn, "POST "+webhookPath+" HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
	require.NoError(t, err)
	<-arrived
	require.Equal(t, http.Header{"Content-Length": {"2"}}, (<-a.requests).Header, "no header is added")
	require.Len(t, captureFiles(t, dir), 1, "the capture comes before the app")
	require.Equal(t, 0, l.list(t, "").Deliveries[0].Status)
	conn.Close()
	require.Eventually(t, func() bool {
		return l.list(t, "").Deliveries[0].Error == "the sender hung up before the app answered"
	}, time.Minute, 5*time.Millisecond)
}

func TestWhatCannotBeCapturedIsNotForwarded(t *testing.T) {
	a := startApp(t, func(http.ResponseWriter, *http.Request) {})
	target, err := url.Parse(a.URL)
	require.NoError(t, err)
	in := newTestInspector(t, listenOptions{secrets: []string{testSecret}, forward: target, dir: t.TempDir()})
	in.dir.path += "/gone"
	require.Equal(t, 503, answerOf(http.HandlerFunc(in.receive), sampleBody("open"), nil))
	require.Empty(t, a.requests)
}

func TestTheAnswerIsInTheCapture(t *testing.T) {
	a := startApp(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(418) })
	dir := t.TempDir()
	l := startListen(t, testSecret, "-forward", a.URL, "-dir", dir)
	require.Equal(t, 418, l.deliver(t, testSecret, sampleBody("open")))
	files := captureFiles(t, dir)
	require.Len(t, files, 1)
	c, err := readCaptureFile(files[0])
	require.NoError(t, err)
	require.Equal(t, 418, c.answer.status)
	require.True(t, c.answer.forwarded)
	require.Positive(t, c.answer.duration)
}

func TestAPasswordInForwardIsBasicAuthentication(t *testing.T) {
	a := startApp(t, func(http.ResponseWriter, *http.Request) {})
	l := startListen(t, testSecret, "-forward", strings.Replace(a.URL, "http://", "http://user:pass@", 1))
	require.Equal(t, 200, l.deliver(t, testSecret, sampleBody("open")))
	user, password, ok := (<-a.requests).BasicAuth()
	require.True(t, ok)
	require.Equal(t, "user:pass", user+":"+password)
}

func TestAnAnswerThatIsNoneIs502(t *testing.T) {
	for _, status := range []string{"101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x", "099 Odd", "000 Odd"} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer listener.Close()
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.1 "+status+"\r\n\r\n")
			_, _ = io.Copy(io.Discard, conn)
		}()
		l := startListen(t, testSecret, "-forward", "http://"+listener.Addr().String())
		require.Equal(t, http.StatusBadGateway, l.deliver(t, testSecret, sampleBody("open")), status)
		require.Contains(t, l.list(t, "").Deliveries[0].Error, "the app gave no answer: ")
	}
}
