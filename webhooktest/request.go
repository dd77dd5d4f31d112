package webhooktest

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/url"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// NewRequest returns an incoming server request that delivers the body to the
// target as Mailtrap does, to pass to an [http.Handler]. It has Mailtrap's
// headers and the address of one of its servers.
//
// The target is a path or a URL. A user name and password in it become basic
// authentication. The secret signs the body. If it is blank, the request is not
// signed.
//
// NewRequest panics if the target cannot be parsed, as [httptest.NewRequest]
// does.
func NewRequest(target, secret string, body []byte) *http.Request {
	u, err := url.Parse(target)
	if err != nil {
		panic("webhooktest: the target cannot be parsed: use a path or a URL")
	}
	return serverRequest(newRequest(context.Background(), u, formatOf(body), mailtrapwebhook.Sign(body, secret),
		bytes.NewReader(body)))
}

// newRequest returns the request that Mailtrap's client makes.
func newRequest(
	ctx context.Context, u *url.URL, f mailtrapwebhook.Format, signature string, body io.Reader,
) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "", body)
	if err != nil {
		panic(err) // the URL is parsed, and the method is good
	}
	r.URL, r.Host = u, u.Host
	r.Header.Set("Content-Type", "application/json")
	if f == mailtrapwebhook.FormatJSONLines {
		r.Header.Set("Content-Type", "application/jsonl")
	}
	r.Header.Set("User-Agent", "Mailtrap/1.0 (Webhook; +https://help.mailtrap.io/article/102-webhooks)")
	r.Header.Set("Accept-Encoding", "gzip")
	if signature != "" {
		r.Header.Set(mailtrapwebhook.SignatureHeader, signature)
	}
	if u.User != nil {
		password, _ := u.User.Password()
		r.SetBasicAuth(u.User.Username(), password)
	}
	return r
}

// mailtrapAddr is one of the addresses that Mailtrap sends webhooks from.
const mailtrapAddr = "45.158.83.130:43210"

// serverRequest returns the request that a server makes of a client's.
func serverRequest(r *http.Request) *http.Request {
	u := r.URL
	r = r.Clone(r.Context())
	r.RequestURI = u.RequestURI()
	r.URL = &url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	if r.URL.Path == "" {
		r.URL.Path = "/"
	}
	if r.Host == "" {
		r.Host = "example.com"
	}
	if u.Scheme == "https" {
		r.TLS = &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, ServerName: u.Hostname()}
	}
	r.RemoteAddr = mailtrapAddr
	r.GetBody = nil
	return r
}

// formatOf returns the format of a body. It returns 0 if the body is broken or
// empty.
func formatOf(body []byte) mailtrapwebhook.Format {
	d := mailtrapwebhook.NewDecoder(bytes.NewReader(body))
	_, _ = d.Decode() // which tells the format
	return d.Format()
}
