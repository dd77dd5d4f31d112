package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// forwardTimeout is how long the app has. Mailtrap waits no longer.
const forwardTimeout = 30 * time.Second

// maxAnswer bounds what is read of the app's answer. Mailtrap looks at the
// status alone.
const maxAnswer = 64 << 10

// A forwarder passes deliveries on to the app.
type forwarder struct {
	target  *url.URL
	client  *http.Client
	timeout time.Duration
}

func newForwarder(target *url.URL) *forwarder {
	return &forwarder{
		target: target,
		client: &http.Client{
			Transport: &http.Transport{
				// The bytes and headers go on as they are, and only to the
				// target: not through a proxy of the environment.
				DisableCompression:  true,
				MaxIdleConnsPerHost: 16,
				IdleConnTimeout:     time.Minute,
			},
			// Mailtrap follows no redirect either.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		timeout: forwardTimeout,
	}
}

// send forwards a delivery, whose body has been read, and returns the answer.
func (f *forwarder) send(r *http.Request, body []byte) answer {
	ctx, cancel := context.WithTimeout(r.Context(), f.timeout)
	defer cancel()
	resp, err := f.client.Do(f.request(ctx, r, body))
	if err != nil {
		return f.noAnswer(r, ctx, err)
	}
	defer resp.Body.Close()
	// The transport also returns statuses below 100, and a 101 that nobody
	// asked for. The body of a 101 is the connection: ctx does not end it.
	if resp.StatusCode < 200 {
		return f.noAnswer(r, ctx, fmt.Errorf("%d is not the status of an answer", resp.StatusCode))
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return f.noAnswer(r, ctx, err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: text, forwarded: true}
	if len(text) > maxAnswer {
		a.body, a.cut = text[:maxAnswer], true
	}
	for name := range a.header {
		if isHopHeader(name) {
			delete(a.header, name)
		}
	}
	return a
}

// request returns the request for the app. As httputil.ReverseProxy does, it
// has the app's Host, and the parameters of both URLs. It gets no
// X-Forwarded-For: what a tunnel has set is Mailtrap's address.
func (f *forwarder) request(ctx context.Context, r *http.Request, body []byte) *http.Request {
	target := *f.target
	switch {
	case target.RawQuery == "" || r.URL.RawQuery == "":
		target.RawQuery += r.URL.RawQuery
	default:
		target.RawQuery += "&" + r.URL.RawQuery
	}
	header := r.Header.Clone()
	for _, line := range header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			header.Del(strings.TrimSpace(name))
		}
	}
	for name := range header {
		if isHopHeader(name) {
			delete(header, name)
		}
	}
	if header["User-Agent"] == nil {
		header["User-Agent"] = []string{""} // or net/http would add its own
	}
	out := &http.Request{
		Method: r.Method, URL: &target, Host: target.Host, Header: header,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
	return out.WithContext(ctx)
}

// isHopHeader reports whether a header is about one connection.
func isHopHeader(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// noAnswer returns the answer to a delivery that the app did not answer.
func (f *forwarder) noAnswer(r *http.Request, ctx context.Context, err error) answer {
	a := answer{status: http.StatusBadGateway}
	switch {
	case r.Context().Err() != nil:
		a.status, a.err = 0, "the sender hung up before the app answered"
	case ctx.Err() != nil:
		a.status = http.StatusGatewayTimeout
		a.err = "the app did not answer within " + f.timeout.String() + ": Mailtrap would send the delivery again"
	case errors.Is(err, syscall.ECONNREFUSED):
		a.err = "nothing listens at " + f.target.Host + ": start the app, or correct -forward"
	default:
		a.err = "the app gave no answer: " + withoutURL(err)
	}
	return a
}

// withoutURL returns the text of an error of the network. The URL may hold a
// token.
func withoutURL(err error) string {
	if wrong, ok := errors.AsType[*url.Error](err); ok {
		err = wrong.Err
	}
	if wrong, ok := errors.AsType[*net.DNSError](err); ok {
		return wrong.Err
	}
	return err.Error()
}

// writeAnswer answers a delivery with the answer of the app.
func writeAnswer(w http.ResponseWriter, a answer) {
	if a.status == 0 {
		panic(http.ErrAbortHandler) // nobody is there
	}
	if !a.forwarded {
		writeStatus(w, a.status)
		return
	}
	header := w.Header()
	for name, values := range a.header {
		header[name] = values
	}
	if a.cut {
		header.Del("Content-Length")
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // an error means that the sender is gone
}
