package webhooktest

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// SendTo returns a [Send] to a URL.
func SendTo(url string) Send {
	return func(t *testing.T, r Request) Answer {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), r.Method, url, strings.NewReader(r.Body))
		require.NoError(t, err)
		for name, values := range r.Header {
			req.Header[name] = values // keeps the case of the name
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
		resp, err := client.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		return Answer{Status: resp.StatusCode, Header: resp.Header}
	}
}

// FreePort returns a port of 127.0.0.1 that was free a moment ago.
func FreePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return "", err
	}
	return port, listener.Close()
}

// Listens waits until something listens at a port of 127.0.0.1. It returns an
// error that comes from ended before.
func Listens(port string, ended <-chan error) error {
	tooLate := time.After(time.Minute)
	for {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", port), time.Minute)
		if err == nil {
			// A connection to a free port in this range can reach itself.
			itself := conn.LocalAddr().String() == conn.RemoteAddr().String()
			if err := conn.Close(); err != nil || !itself {
				return err
			}
		}
		select {
		case err := <-ended:
			return err
		case <-tooLate:
			return errors.New("nothing listens at the port: see what the program printed")
		case <-time.After(10 * time.Millisecond): // try again
		}
	}
}
