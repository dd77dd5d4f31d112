package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadBodyReturnsTheBytesAndGivesTheMemoryBack(t *testing.T) {
	for _, size := range []int{0, 1, firstBuffer - 1, firstBuffer, firstBuffer + 1, 3*firstBuffer + 7, maxBody} {
		want := bytes.Repeat([]byte("x"), size)
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(want), "halves": iotest.HalfReader(bytes.NewReader(want)),
			"end with data": iotest.DataErrReader(bytes.NewReader(want)),
		} {
			for _, length := range []int64{int64(size), -1} {
				b := newBodies()
				req := httptest.NewRequest("POST", "/", r)
				req.ContentLength = length
				if s, ok := r.(io.Seeker); ok {
					_, _ = s.Seek(0, io.SeekStart)
				} else if length < 0 {
					continue // the reader is used up
				}
				got, release, err := b.read(httptest.NewRecorder(), req)
				require.NoError(t, err, name)
				require.Equal(t, len(want), len(got), name)
				require.True(t, bytes.Equal(want, got), name)
				require.LessOrEqual(t, cap(got), size+size/4+firstBuffer)
				require.Less(t, b.left, maxInFlight)
				release()
				require.Equal(t, maxInFlight, b.left)
			}
		}
	}
}

func TestABodyThatBreaksOffIsRefusedAndItsMemoryGivenBack(t *testing.T) {
	for _, test := range []struct {
		body io.Reader
		want error
	}{
		{io.MultiReader(strings.NewReader("{"), iotest.ErrReader(io.ErrUnexpectedEOF)), errCutOff},
		{iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("{}"))), errCutOff},
		{bytes.NewReader(make([]byte, maxBody+1)), errTooLarge},
	} {
		b := newBodies()
		req := httptest.NewRequest("POST", "/", test.body)
		req.ContentLength = -1
		_, _, err := b.read(httptest.NewRecorder(), req)
		require.Equal(t, test.want, err)
		require.Equal(t, maxInFlight, b.left)
	}
}

func TestALengthAloneTakesNoMemory(t *testing.T) {
	b := newBodies()
	b.left = firstBuffer
	req := httptest.NewRequest("POST", "/", iotest.ErrReader(io.ErrUnexpectedEOF))
	req.ContentLength = maxBody
	_, _, err := b.read(httptest.NewRecorder(), req)
	require.Equal(t, errCutOff, err)
	req.ContentLength = maxBody + 1
	_, _, err = b.read(httptest.NewRecorder(), req)
	require.Equal(t, errTooLarge, err, "no byte must be read")
}

// Test64SendersAtOnce sends 64 bodies of 8 MiB that all wait before their last
// byte. Eight fit into the memory, or fewer where those that are refused later
// were in the way. The others are answered 503 without waiting.
func Test64SendersAtOnce(t *testing.T) {
	in := newTestInspector(t, listenOptions{secrets: []string{testSecret}})
	server := httptest.NewServer(http.HandlerFunc(in.receive))
	defer server.Close()
	body := fill(sampleBody("bounce"), maxBody)
	signature := signedRequest(body).Header
	const senders = 64
	end := make(chan struct{})
	results := make(chan int, senders)
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			last := &waitingReader{until: end, rest: body[maxBody-1:]}
			r, err := http.NewRequest("POST", server.URL, io.MultiReader(bytes.NewReader(body[:maxBody-1]), last))
			if err != nil {
				results <- -1
				return
			}
			r.ContentLength = maxBody
			r.Header = signature
			resp, err := server.Client().Do(r)
			if err != nil {
				results <- 0 // the answer came before the whole body, and the connection was closed
				return
			}
			resp.Body.Close()
			results <- resp.StatusCode
		})
	}
	most := maxInFlight / maxBody
	counts := make(map[int]int)
	for range senders - most {
		counts[<-results]++
	}
	require.Zero(t, counts[200], "more bodies are read than fit into the memory")
	close(end)
	for range most {
		counts[<-results]++
	}
	all.Wait()
	require.Positive(t, counts[200])
	require.Equal(t, senders, counts[200]+counts[503]+counts[0], counts)
	require.Eventually(t, func() bool { return in.bodies.take(maxInFlight) }, 10*time.Second, time.Millisecond)
}

// A waitingReader returns its rest when until is closed.
type waitingReader struct {
	until chan struct{}
	rest  []byte
}

func (r *waitingReader) Read(p []byte) (int, error) {
	<-r.until
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func TestASlowBodyIsCutOff(t *testing.T) {
	in := newTestInspector(t, listenOptions{})
	in.bodies.timeout = 50 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(in.receive))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "503 Service Unavailable")
}
