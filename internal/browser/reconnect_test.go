package browser

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// idsShown is an expression: the ids of the deliveries in the list.
const idsShown = `[...document.querySelectorAll("#rows [role=option]")].map((row) => Number(row.dataset.id))`

func TestAfterARestartNothingIsMissingOrDoubled(t *testing.T) {
	dir := t.TempDir()
	in := start(t, "-dir", dir)
	for range 3 {
		in.post(secret, samples(asJSON, "bounce"))
	}
	p := in.open(wide, "#id=2")
	p.waitText("#total", "3 deliveries")
	in.stop()
	p.waitText("#live", "connecting")

	in = startAt(t, in.addr(), secret, "-dir", dir)
	in.post(secret, samples(asJSON, "open")) // before the page is there again
	p.waitText("#live", "live")
	p.waitText("#total", "4 deliveries")
	in.post(secret, samples(asJSON, "click"))
	p.waitText("#total", "5 deliveries")
	p.wait(`document.querySelectorAll("#rows [role=option]").length === 5`)
	ids := eval[[]int](p, idsShown)
	require.Len(t, ids, 5)
	slices.Sort(ids)
	require.Len(t, slices.Compact(ids), 5)
	p.waitText("#detail h2", "Delivery 2")
	require.Equal(t, "3", eval[string](p, `[...document.querySelectorAll("#legend button")].find((b) => b.textContent.startsWith("bounce")).lastChild.textContent`))
}

func TestAfterARestartWithoutFilesTheListIsNew(t *testing.T) {
	in := start(t)
	for range 3 {
		in.post(secret, samples(asJSON, "bounce"))
	}
	p := in.open(wide, "#id=1")
	p.waitText("#detail .events", "bounce")
	p.click("#tab-Body")
	p.waitText("#panel", `"bounce"`)
	p.button("#detail", "Replay")
	p.waitText("#detail .outcome.good", "acknowledged")
	in.stop()
	p.waitText("#live", "connecting")
	in = startAt(t, in.addr(), secret)
	in.post(secret, samples(asJSON, "open"))
	p.waitText("#total", "1 delivery")
	// Delivery 1 is another one now.
	p.waitText("#panel", `"open"`)
	// So is run 1.
	require.Zero(t, p.count("#detail .run"))
	p.button("#detail", "Replay")
	p.waitText("#detail .outcome.good", "acknowledged")
	require.Equal(t, 1, p.count("#detail .attempts tbody tr"))
}

func TestDeliveryThatIsGone(t *testing.T) {
	in := start(t)
	p := in.open(wide, "#id=77")
	p.waitText("#detail", "Delivery 77 is not kept any more, or never was.")
}
