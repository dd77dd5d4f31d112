package browser

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// maxRows bounds the rows of the list that are in the document. The window of
// the tests shows about 15.
const maxRows = 60

func TestTenThousandDeliveries(t *testing.T) {
	in := start(t)
	p := in.open(wide, "")
	needle := webhooktest.Sample("click").(*mailtrapwebhook.SendingWebhookEvent)
	began := time.Now()
	in.flood(9999)
	in.post(secret, webhooktest.Body(asJSON, needle))
	p.waitText("#total", "10,000 deliveries")
	t.Logf("received and shown live in %v", time.Since(began).Round(time.Millisecond))
	require.LessOrEqual(t, p.count("#rows .row"), maxRows)

	began = time.Now()
	p.do(chromedp.Reload())
	p.wait(`document.querySelector("#rows [role=option]")`)
	p.waitText("#total", "10,000 deliveries")
	t.Logf("loaded in %v", time.Since(began).Round(time.Millisecond))
	require.LessOrEqual(t, p.count("#rows .row"), maxRows)

	work := eval[[]float64](p, scrollThrough)
	slices.Sort(work)
	t.Logf("a frame's script while scrolling: median %.1f ms, longest %.1f ms", work[len(work)/2], work[len(work)-1])
	require.LessOrEqual(t, p.count("#rows .row"), maxRows)
	p.wait(`document.querySelector("#rows [role=option]:last-child")?.getAttribute("aria-posinset") === "10000"`)

	began = time.Now()
	p.click("#q")
	p.key(needle.MessageID)
	p.waitText("#total", "1 match")
	p.wait(`document.querySelectorAll("#rows .row").length === 1`)
	t.Logf("filtered in %v", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	p.click("#filters [data-clear]")
	p.choose("#kind", "bounce")
	p.waitText("#total", "matches")
	t.Logf("filtered by kind in %v", time.Since(began).Round(time.Millisecond))

	p.click("#filters [data-clear]")
	p.waitText("#total", "10,000")
	p.key("j")
	began = time.Now()
	p.key("\r")
	p.waitText("#detail h2", "Delivery 10000")
	t.Logf("opened in %v", time.Since(began).Round(time.Millisecond))
}

// flood delivers n events, from several senders at once as Mailtrap may.
func (in *inspector) flood(n int) {
	in.t.Helper()
	kinds := []string{"delivery", "delivery", "open", "bounce"}
	work := make(chan int, n)
	for i := range n {
		work <- i
	}
	close(work)
	var senders sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			for i := range work {
				body := webhooktest.Body(asJSON, webhooktest.Sample(kinds[i%len(kinds)]))
				if status := in.post(secret, body); status != http.StatusOK {
					in.t.Error("answered", status)
				}
			}
		})
	}
	senders.Wait()
}

// scrollThrough is an expression: it scrolls from the top to the end in 100
// steps and returns how long the page's script ran for each, in milliseconds.
// The frames themselves take as long as the machine's other work lets them.
const scrollThrough = `(async () => {
	const rows = document.getElementById("rows");
	const work = [];
	const request = window.requestAnimationFrame;
	window.requestAnimationFrame = (draw) => request(() => {
		const began = performance.now();
		draw();
		work.push(performance.now() - began);
	});
	for (let step = 1; step <= 100; step++) {
		rows.scrollTop = (rows.scrollHeight - rows.clientHeight) * step / 100;
		await new Promise((done) => request(() => request(done)));
	}
	window.requestAnimationFrame = request;
	return work;
})()`

func TestNewDeliveriesDoNotMoveWhatIsRead(t *testing.T) {
	in := start(t)
	in.flood(100)
	p := in.open(wide, "")
	eval[any](p, `document.getElementById("rows").scrollTop = 1020`)
	p.wait(`document.querySelector("#rows [data-id='70']")`)
	before := p.placeOf(70)
	in.flood(3)
	p.waitText("#total", "103 deliveries")
	p.wait(`document.querySelector("#rows [data-id='70']")?.getAttribute("aria-posinset") === "34"`)
	require.InDelta(t, before, p.placeOf(70), 1)
}

// A delivery passes the filter only when it is answered. Then it takes its place
// below a later one.
func TestLateAnswersDoNotMoveWhatIsRead(t *testing.T) {
	arrived, release := make(chan bool), make(chan bool)
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if bytes.Contains(body, []byte("unsubscribe")) {
			arrived <- true
			<-release
		}
	}))
	t.Cleanup(app.Close)
	in := start(t, "-forward", app.URL)
	in.flood(100)
	p := in.open(wide, "#status=200")
	answered := make(chan int)
	go func() { answered <- in.post(secret, samples(asJSON, "unsubscribe")) }()
	<-arrived
	in.flood(3)
	p.waitText("#total", "103 matches")
	eval[any](p, `document.getElementById("rows").scrollTop = 102`) // delivery 100 is the first that is seen
	p.wait(`document.querySelector("#rows [data-id='100']")?.getAttribute("aria-posinset") === "4"`)
	before := p.placeOf(100)
	close(release)
	require.Equal(t, http.StatusOK, <-answered)
	p.wait(`document.querySelector("#rows [data-id='100']")?.getAttribute("aria-posinset") === "5"`)
	require.InDelta(t, before, p.placeOf(100), 1)
}

func TestFirstEventsDoNotMoveTheList(t *testing.T) {
	in := start(t)
	p := in.open(wide, "")
	const top = `document.getElementById("filters").getBoundingClientRect().top`
	before := eval[float64](p, top)
	in.post(secret, samples(asJSON, "bounce"))
	p.wait(`document.querySelector("#legend li")`)
	require.Equal(t, before, eval[float64](p, top))
}

// placeOf returns how far below the window's edge a row of the list is.
func (p *tab) placeOf(id int) float64 {
	p.t.Helper()
	return eval[float64](p, fmt.Sprintf(`document.querySelector("#rows [data-id='%d']").getBoundingClientRect().top`, id))
}
