package browser

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// An app is a receiver that the inspector forwards to. It answers with the
// statuses in turn, and with the last one from then on.
type app struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []int
	bodies   [][]byte
}

func newApp(t *testing.T, statuses ...int) *app {
	a := &app{statuses: statuses}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.bodies = append(a.bodies, body)
		status := a.statuses[0]
		if len(a.statuses) > 1 {
			a.statuses = a.statuses[1:]
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, "the app says %d", status)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *app) received() [][]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bodies
}

func TestReplayOnce(t *testing.T) {
	app := newApp(t, 200)
	in := start(t, "-forward", app.URL)
	body := samples(asJSON, "bounce")
	in.post(secret, body)
	p := in.open(wide, "#id=1")
	p.button("#detail", "Replay")
	p.waitText("#detail .outcome.good", "acknowledged")
	require.Equal(t, [][]byte{body, body}, app.received())

	// The attempt leads to what was received.
	p.click("#detail .attempts button")
	p.waitText("#detail h2", "Delivery 2")
	p.waitText("#detail .facts", "a replay of delivery 1")
	p.click("#tab-Answer")
	p.waitText("#panel", "Your app answered 200")
	p.waitText("#panel pre", "the app says 200")
	// The replays of a delivery are there when it is opened again.
	p.click("#detail .facts button")
	p.waitText("#detail h2", "Delivery 1")
	p.waitText("#detail .outcome.good", "acknowledged")
}

func TestReplayWithRetriesShowsAttemptsAsTheyHappen(t *testing.T) {
	app := newApp(t, 200, 500, 500, 200)
	in := start(t, "-forward", app.URL)
	in.post(secret, samples(asJSON, "bounce"))
	p := in.open(wide, "#id=1")
	p.choose("#detail .joined select", "300")
	p.button("#detail", "Replay with retries")
	p.wait(`document.querySelectorAll("#detail .attempts tbody tr").length === 1`)
	p.waitText("#detail .outcome.waiting", "Waiting for the next attempt")
	p.waitText("#detail .outcome.good", "acknowledged")
	require.Equal(t, []string{"500", "500", "200"}, eval[[]string](p,
		`[...document.querySelectorAll("#detail .attempts tbody tr")].map((row) => row.children[1].textContent)`))
}

func TestReplayOfARefusedDelivery(t *testing.T) {
	in := start(t)
	in.post("another-secret", samples(asJSON, "bounce"))
	p := in.open(wide, "#id=1")
	p.waitText("#detail h2", "Delivery 1")
	p.key("r")
	p.waitText("#detail .outcome.bad", "answers 400")
}

// oddBodies are hard to copy: quotes, what a shell or Go would expand, bytes
// that are not text, and a first character that curl reads as a file's name.
var oddBodies = map[string][]byte{
	"plain":    []byte(`{"events":[{"event":"open","message_id":"1","event_id":"a"}]}`),
	"lines":    []byte("{\"event\":\"open\",\"message_id\":\"1\",\"event_id\":\"a\"}\n{\"event\":\"click\",\"message_id\":\"2\",\"event_id\":\"b\"}\n"),
	"quotes":   []byte("{\"events\":[{\"event\":\"open\",\"message_id\":\"it's `id` $HOME $(id) \\\\ !! \\\"q\\\" '\\\\''\",\"event_id\":\"é漢\"}]}"),
	"controls": []byte("{\"events\":[\r\n{\"event\":\"open\",\"message_id\":\"\\u0000\",\"event_id\":\"\u202e\u200b\x7f\"}]}"),
	"bytes":    []byte("{\"events\":[{\"event\":\"open\",\"message_id\":\"\xff\xfe\",\"event_id\":\"b\"}]}"),
	"zero":     []byte("{\"events\":[{\"event\":\"open\x00\"}]}"),
	"at":       []byte(`@/etc/hostname`),
	"mark":     []byte("\xef\xbb\xbf{\"events\":[{\"event\":\"open\",\"message_id\":\"1\",\"event_id\":\"b\"}]}"),
	"long":     []byte(`{"events":[{"event":"open","category":"` + strings.Repeat("x'", 120_000) + `"}]}`),
}

// copied clicks a button and returns what it copies.
func (p *tab) copied(button string) string {
	p.t.Helper()
	eval[chromedp.Void](p, `document.getElementById("toast").classList.remove("seen")`)
	p.button("#detail", button)
	p.waitText("#toast.seen", "Copied.")
	return eval[string](p, "navigator.clipboard.readText()")
}

func TestCopyAsCurl(t *testing.T) {
	in := start(t)
	p := in.open(wide, "")
	id := 0
	for name, body := range oddBodies {
		t.Run(name, func(t *testing.T) {
			in := &inspector{t: t, url: in.url}
			p := &tab{t, p.ctx, p.close, p.watch}
			status := in.post(secret, body)
			id++
			p.show(id)
			text := p.copied("Copy as curl")
			require.NotRegexp(t, `[^\n\PC]`, text, "a terminal obeys control characters that are pasted")
			script := filepath.Join(t.TempDir(), "script")
			require.NoError(t, os.WriteFile(script, []byte(text), 0o600))
			command := exec.Command("sh", script)
			command.Dir = t.TempDir()
			out, err := command.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), fmt.Sprint("HTTP/1.1 ", status), "the signature must match again")
			id++
			p.show(id)
			require.Equal(t, body, in.body(id))
		})
	}
}

// body returns the body of a delivery.
func (in *inspector) body(id int) []byte {
	in.t.Helper()
	response, err := http.Get(fmt.Sprintf("%s/api/deliveries/%d/body", in.url, id))
	require.NoError(in.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(in.t, err)
	return body
}

func TestCopyWhileAnotherDeliveryLoads(t *testing.T) {
	in := start(t)
	bodies := [][]byte{samples(asJSON, "bounce"), samples(asJSON, "open")}
	for _, body := range bodies {
		in.post(secret, body)
	}
	p := in.open(wide, "#id=1")
	p.waitText("#detail h2", "Delivery 1")
	eval[any](p, `window.fetch = ((fetch) => async (path, options) => {
		if (path === "/api/deliveries/2") await new Promise((done) => setTimeout(done, 1000));
		return fetch(path, options);
	})(window.fetch), location.hash = "#id=2"`)
	require.Contains(t, p.copied("Copy as curl"), string(bodies[0]))
	p.waitText("#detail h2", "Delivery 2")
	require.Contains(t, p.copied("Copy as curl"), string(bodies[1]))
}

func TestWhereTheClipboardIsRefusedTheTextIsShown(t *testing.T) {
	in := start(t)
	in.post(secret, samples(asJSON, "bounce"))
	p := in.open(wide, "#id=1")
	eval[any](p, `Object.defineProperty(navigator, "clipboard", { value: undefined }), 1`)
	p.button("#detail", "Copy as curl")
	p.wait(`document.getElementById("copy").open`)
	require.Contains(t, eval[string](p, `getSelection().toString()`), "curl -sS")
}

func TestCopyAsGoTest(t *testing.T) {
	in := start(t)
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("go.mod", "module webhook\n\ngo 1.26\n\nrequire github.com/mailtrapwebhook/mailtrapwebhook v0.0.0\n\n"+
		"replace github.com/mailtrapwebhook/mailtrapwebhook => "+root+"\n")
	oddBodies := map[string][]byte{"all": webhooktest.Body(asLines, webhooktest.Samples()...)}
	for name, body := range oddBodiesForGo() {
		oddBodies[name] = body
	}
	p := in.open(wide, "")
	n := 0
	for name, body := range oddBodies {
		in.post(secret, body)
		n++
		p.show(n)
		text := p.copied("Copy as Go test")
		require.NotContains(t, text, "did not match the body")
		write(name+"_test.go", text)
		formatted, err := exec.Command("gofmt", "-l", filepath.Join(dir, name+"_test.go")).CombinedOutput()
		require.NoError(t, err, "%s", formatted)
		require.Empty(t, string(formatted), "gofmt would change %s", text)
	}
	in.post("another-secret", samples(asJSON, "open"))
	n++
	p.show(n)
	text := p.copied("Copy as Go test")
	require.Contains(t, text, "personal data")
	require.Contains(t, text, "The captured signature did not match the body.")
	write("forged_test.go", text)
	formatted, err := exec.Command("gofmt", "-l", filepath.Join(dir, "forged_test.go")).CombinedOutput()
	require.NoError(t, err, "%s", formatted)
	require.Empty(t, string(formatted), "gofmt would change %s", text)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	test := exec.CommandContext(ctx, "go", "test", "-mod=mod", "-v", ".")
	test.Dir = dir
	out, err := test.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, n, bytes.Count(out, []byte("--- PASS")), "%s", out)

	// A test that fails when an event is lost is worth copying.
	sources, err := filepath.Glob(filepath.Join(dir, "all_test.go"))
	require.NoError(t, err)
	source, err := os.ReadFile(sources[0])
	require.NoError(t, err)
	write("all_test.go", strings.Replace(string(source), "handled[ev.Key()] = true", "", 1))
	test = exec.CommandContext(ctx, "go", "test", "-mod=mod", ".")
	test.Dir = dir
	out, err = test.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "was not handled")
}

// oddBodiesForGo are those that a source file has room for.
func oddBodiesForGo() map[string][]byte {
	bodies := make(map[string][]byte)
	for name, body := range oddBodies {
		if len(body) < 100_000 {
			bodies[name] = body
		}
	}
	return bodies
}

func TestDownload(t *testing.T) {
	in := start(t)
	body := samples(asJSON, "bounce")
	in.post(secret, body)
	p := in.open(wide, "#id=1")
	p.waitText("#detail a", "Download")
	response, err := http.Get(in.url + eval[string](p, `document.querySelector("#detail a").getAttribute("href")`))
	require.NoError(t, err)
	defer response.Body.Close()
	capture, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Contains(t, response.Header.Get("Content-Disposition"), "attachment")
	require.True(t, bytes.HasSuffix(capture, body), "%s", capture)
}
