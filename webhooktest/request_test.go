package webhooktest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const signingSecret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

func TestNewRequestIsAsMailtrapSendsIt(t *testing.T) {
	for format, contentType := range map[mw.Format]string{
		mw.FormatJSON: "application/json", mw.FormatJSONLines: "application/jsonl",
	} {
		body := webhooktest.Body(format, webhooktest.Samples()...)
		r := webhooktest.NewRequest("https://hooks.example.com/a%2Fb/c?token=t", signingSecret, body)
		require.Equal(t, http.Header{
			"Content-Type":       {contentType},
			"User-Agent":         {"Mailtrap/1.0 (Webhook; +https://help.mailtrap.io/article/102-webhooks)"},
			"Accept-Encoding":    {"gzip"},
			"Mailtrap-Signature": {mw.Sign(body, signingSecret)},
		}, r.Header)
		require.Equal(t, "POST hooks.example.com /a%2Fb/c?token=t HTTP/1.1", r.Method+" "+r.Host+" "+r.RequestURI+" "+r.Proto)
		require.Equal(t, "/a%2Fb/c?token=t", r.URL.String())
		require.NotNil(t, r.TLS)
		require.EqualValues(t, len(body), r.ContentLength)
		got, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.Equal(t, body, got)
		require.NoError(t, mw.NewIPAllowlist(mw.IPRanges()).Guard()(r), "the address is one of Mailtrap's")
	}
}

func TestNewRequestOfAPath(t *testing.T) {
	r := webhooktest.NewRequest("/hook", signingSecret, []byte(`{"events":[]}`))
	require.Equal(t, "example.com /hook", r.Host+" "+r.RequestURI)
	require.Nil(t, r.TLS)
	require.Equal(t, "/", webhooktest.NewRequest("http://example.com", signingSecret, nil).URL.Path)
}

func TestNewRequestOfAnEmptyBody(t *testing.T) {
	r := webhooktest.NewRequest("/", signingSecret, nil)
	got, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Empty(t, got)
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
}

func TestNewRequestIsUnsignedWithoutASecret(t *testing.T) {
	require.NotContains(t, webhooktest.NewRequest("/", " ", []byte("{}")).Header, mw.SignatureHeader)
}

func TestNewRequestHasBasicAuthFromTheTarget(t *testing.T) {
	r := webhooktest.NewRequest("https://user:p%40ss@example.com/", signingSecret, nil)
	name, password, ok := r.BasicAuth()
	require.True(t, ok)
	require.Equal(t, "user p@ss", name+" "+password)
	_, _, ok = webhooktest.NewRequest("https://example.com/", signingSecret, nil).BasicAuth()
	require.False(t, ok)
}

func TestNewRequestPanicsWithoutTheTargetsPassword(t *testing.T) {
	require.PanicsWithValue(t, "webhooktest: the target cannot be parsed: use a path or a URL",
		func() { webhooktest.NewRequest("https://user:pass word@example.com:x/", signingSecret, nil) })
}

// A request is the same whether a server or NewRequest makes it.
func TestNewRequestEqualsThatOfAServer(t *testing.T) {
	var got *http.Request
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
	defer srv.Close()
	body := webhooktest.Body(mw.FormatJSON, webhooktest.Sample("open"))
	m := webhooktest.Mailtrap{URL: srv.URL + "/hook?a=b", Secret: signingSecret}
	_, err := m.Deliver(t.Context(), body)
	require.NoError(t, err)
	want := webhooktest.NewRequest(m.URL, signingSecret, body)
	got.Header.Del("Content-Length") // which Go's server leaves in the header
	require.Equal(t, want.Header, got.Header)
	require.Equal(t, want.URL, got.URL)
	require.Equal(t, want.Host+want.RequestURI+want.Method+want.Proto, got.Host+got.RequestURI+got.Method+got.Proto)
	require.Equal(t, want.ContentLength, got.ContentLength)
}
