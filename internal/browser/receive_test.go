package browser

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const (
	asJSON  = mailtrapwebhook.FormatJSON
	asLines = mailtrapwebhook.FormatJSONLines
)

// samples returns a delivery of the kinds.
func samples(f mailtrapwebhook.Format, kinds ...string) []byte {
	var events []mailtrapwebhook.Event
	for _, kind := range kinds {
		events = append(events, webhooktest.Sample(kind))
	}
	return webhooktest.Body(f, events...)
}

func TestEmptyPageSaysWhatToDo(t *testing.T) {
	in := start(t)
	p := in.open(wide, "")
	p.waitText("#nothing", in.url+"/webhooks/mailtrap")
	p.button("#nothing", "copy")
	p.waitText("#toast", "Copied.")
	require.Equal(t, in.url+"/webhooks/mailtrap", eval[string](p, "navigator.clipboard.readText()"))
	p.button("#nothing", "send samples")
	p.wait(`document.getElementById("send").open`)
}

func TestListGrowsLive(t *testing.T) {
	in := start(t)
	p := in.open(wide, "")
	p.waitText("#total", "0 deliveries")
	require.Equal(t, http.StatusOK, in.post(secret, samples(asJSON, "bounce", "bounce", "open")))
	p.waitText("#total", "1 delivery")
	p.wait(`document.querySelectorAll("#rows [role=option]").length === 1`)
	// These are the words for a screen reader, too.
	words := eval[string](p, `document.querySelector("#rows [role=option]").textContent`)
	require.Regexp(t, `^verified \d\d:\d\d:\d\dopenbounce2JSONanswered 200[\d.]+ ms$`, words)

	require.Equal(t, http.StatusBadRequest, in.post("another-secret", samples(asLines, "delivery")))
	p.waitText("#total", "2 deliveries")
	p.wait(`/^not verified .*deliveryJSON Linesanswered 400/.test(document.querySelector("#rows [role=option]").textContent)`)
	p.wait(`document.querySelector("#rows [role=option]").getAttribute("aria-setsize") === "2"`)
	// Anybody can make up an event, so the chart has the other delivery's alone.
	p.waitText("#top", "max. 3/min, 1 unverified delivery left out")
	require.Equal(t, "open1bounce2", eval[string](p, `document.getElementById("legend").textContent`))
}

func TestOpenShowsTypedEvents(t *testing.T) {
	in := start(t)
	bounce := webhooktest.Sample("bounce").(*mailtrapwebhook.SendingWebhookEvent)
	in.post(secret, webhooktest.Body(asJSON, bounce))
	p := in.open(wide, "")
	p.click("#rows [role=option]")
	p.waitText("#detail h2", "Delivery 1")
	p.waitText("#detail .verdict", "The signature matches.")
	p.waitText("#detail .events", bounce.Key())
	p.waitText("#detail .events", bounce.Email)
	p.waitText("#detail .events", "bounce_category")
	require.Equal(t, "#id=1", eval[string](p, "location.hash"))

	p.click("#tab-Headers")
	p.waitText("#panel", "Mailtrap-Signature")
	p.button("#detail", "Answer")
	p.waitText("#panel", "The inspector answered 200")
	p.button("#detail", "Body")
	p.waitText("#panel", `"email": "`+bounce.Email+`"`)
	p.button("#detail", "Bytes")
	p.waitText("#panel", "7b 22 65 76 65 6e 74 73")

	// A link to the delivery works after a reload, and Back closes it.
	p.do(chromedp.Reload())
	p.waitText("#detail h2", "Delivery 1")
	p.key("\x1b")
	p.waitText("#detail", "Choose a delivery")
	eval[chromedp.Void](p, "history.back()")
	p.waitText("#detail h2", "Delivery 1")
}

func TestUnknownAndOddFieldsAreMarked(t *testing.T) {
	in := start(t)
	in.post(secret, []byte(`{"events":[{"event":"bounce","email":42,"new_field":{"a":1}},{"event":"later"},7]}`))
	p := in.open(wide, "#id=1")
	p.waitText("#detail .event:nth-child(1) .odd", "email is not a string")
	p.waitText("#detail .event:nth-child(1) .new", "unknown field")
	p.waitText("#detail .event:nth-child(2) summary", "unknown")
	p.waitText("#detail .event:nth-child(3)", "is not an object")
	// The place of a fault leads to it in the body.
	p.click("#detail .event:nth-child(1) > .reason button")
	p.wait(`document.querySelector("#panel .here mark")?.textContent === "4"`)
}

func TestFilters(t *testing.T) {
	in := start(t)
	in.post(secret, samples(asJSON, "open"))
	in.post(secret, samples(asJSON, "bounce"))
	in.post("another-secret", samples(asJSON, "bounce"))
	in.post(secret, []byte(`{"events":[`))
	p := in.open(wide, "")
	p.waitText("#total", "4 deliveries")

	p.choose("#kind", "bounce")
	p.waitText("#total", "2 matches")
	p.choose("[name=verified]", "no")
	p.waitText("#total", "1 match")
	require.Equal(t, "#kind=bounce&verified=no", eval[string](p, "location.hash"))
	p.do(chromedp.Reload())
	p.waitText("#total", "1 match")
	p.click("#filters [data-clear]")
	p.waitText("#total", "4 deliveries")

	p.choose("[name=status]", "not200")
	p.waitText("#total", "2 matches")
	in.post("another-secret", samples(asJSON, "click"))
	p.waitText("#total", "3 matches")
	in.post(secret, samples(asJSON, "click"))
	in.post("another-secret", samples(asJSON, "click"))
	p.waitText("#total", "4 matches")
	p.click("#filters [data-clear]")

	for _, part := range []func(*mailtrapwebhook.SendingWebhookEvent) string{
		func(ev *mailtrapwebhook.SendingWebhookEvent) string { return ev.MessageID[:13] },
		func(ev *mailtrapwebhook.SendingWebhookEvent) string { return strings.ToUpper(ev.EventID) },
		func(ev *mailtrapwebhook.SendingWebhookEvent) string { return ev.Key() },
	} {
		open := webhooktest.Sample("open").(*mailtrapwebhook.SendingWebhookEvent)
		in.post(secret, webhooktest.Body(asJSON, open))
		p.click("#q")
		p.key(part(open))
		p.waitText("#total", "1 match")
		// A delivery that comes in while a person searches is looked through.
		in.post(secret, webhooktest.Body(asJSON, open))
		p.waitText("#total", "2 matches")
		p.click("#filters [data-clear]")
		p.waitText("#total", "deliveries")
	}
	p.click("#q")
	p.key("nobody@example.com")
	p.waitText("#none", "No delivery matches.")
}

func TestLegendNarrowsToKinds(t *testing.T) {
	in := start(t)
	in.post(secret, samples(asJSON, "bounce", "soft bounce"))
	in.post(secret, samples(asJSON, "activity_log.user.login"))
	in.post(secret, samples(asJSON, "activity_log.user.updated"))
	p := in.open(wide, "")
	p.wait(`document.querySelectorAll("#plot .bar").length >= 3`)
	p.wait(`document.querySelector("#plot svg").getAttribute("aria-label").includes("1 soft bounce event, 1 bounce event")`)

	legend := func(name string) {
		t.Helper()
		button := fmt.Sprintf(`[...document.querySelectorAll("#legend button")].find((b) => b.textContent.startsWith(%q))`, name)
		p.wait(button)
		eval[chromedp.Void](p, button+".click()")
	}
	legend("audit log")
	p.waitText("#total", "2 matches")
	legend("bounce")
	p.waitText("#total", "3 matches")
	p.wait(`document.querySelectorAll("#legend [aria-pressed=true]").length === 2`)
	legend("audit log")
	p.waitText("#total", "1 match")
	legend("bounce")
	p.waitText("#total", "3 deliveries")
}

func TestColumnNarrowsToItsMinute(t *testing.T) {
	dir := t.TempDir()
	in := start(t, "-dir", dir)
	for range 3 {
		in.post(secret, samples(asJSON, "bounce"))
	}
	in.stop()
	ago := time.Now().Add(-10 * time.Minute)
	for _, path := range captures(t, dir) {
		receivedAt(t, path, ago)
	}
	in = start(t, "-dir", dir)
	in.post(secret, samples(asJSON, "open"))
	in.post(secret, samples(asJSON, "open"))
	p := in.open(wide, "")
	p.waitText("#total", "5 deliveries")
	p.wait(`document.querySelectorAll("#plot [role=button]").length >= 2`)
	// By keyboard: Tab reaches the last column, and the arrows the others.
	eval[any](p, `document.querySelector("#plot [tabindex='0']").focus(), 1`)
	for range p.count("#plot [role=button]") - 1 {
		p.key(kb.ArrowLeft)
	}
	p.key("\r")
	p.waitText("#total", "3 matches")
	minute := eval[string](p, `new URLSearchParams(location.hash.slice(1)).get("minute")`)
	require.Equal(t, ago.UTC().Truncate(time.Minute).Format("2006-01-02T15:04:05.000Z"), minute)
	in.post(secret, samples(asJSON, "bounce"))
	p.do(chromedp.Sleep(200 * time.Millisecond))
	p.waitText("#total", "3 matches")
	p.click("#minute")
	p.waitText("#total", "6 deliveries")
	// With the mouse.
	p.clickAt(`document.querySelector("#plot [role=button]")`)
	p.waitText("#total", "3 matches")
}

// captures returns the paths of the files in a folder.
func captures(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.http"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	return paths
}

// receivedAt changes when a capture was received.
func receivedAt(t *testing.T, path string, at time.Time) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	line := regexp.MustCompile(`(?m)^Inspector-Received: .*\r$`)
	require.True(t, line.Match(text))
	text = line.ReplaceAll(text, []byte("Inspector-Received: "+at.UTC().Format(time.RFC3339Nano)+"\r"))
	require.NoError(t, os.WriteFile(path, text, 0o600))
}

func TestSenderThatHangsUpGetsNoAnswer(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body) // else the server does not see the end of r
		<-r.Context().Done()
	}))
	defer app.Close()
	in := start(t, "-forward", app.URL)
	p := in.open(wide, "")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	send := func() {
		signed := webhooktest.NewRequest("/", secret, samples(asJSON, "bounce"))
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, in.url+"/webhooks/mailtrap", signed.Body)
		require.NoError(t, err)
		request.Header = signed.Header
		go func() {
			_, _ = http.DefaultClient.Do(request)
		}()
	}
	send()
	p.waitText("#rows .status.waiting", "\u2026")
	p.choose("[name=status]", "not200")
	p.waitText("#none", "No delivery matches.") // it may still be answered 200
	send()
	p.waitText("#legend .number", "2") // it is there, and waits too
	require.Equal(t, "0 matches", p.text("#total"))
	cancel()
	p.waitText("#total", "2 matches")
	p.waitText("#rows .status.bad", "none")
	p.click("#rows [role=option]")
	p.click("#tab-Answer")
	p.waitText("#panel", "hung up")
}
