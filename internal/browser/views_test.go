package browser

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// overflow is an expression: by how many pixels the page is wider than the
// window.
const overflow = `document.documentElement.scrollWidth - innerWidth`

func TestNarrow(t *testing.T) {
	in := start(t)
	in.post(secret, webhooktest.Body(asLines, webhooktest.Samples()...))
	in.post("another-secret", samples(asJSON, "open"))
	p := in.open(view{width: 400, height: 800}, "")
	p.waitText("#top", "1 unverified delivery left out")
	require.Zero(t, eval[int](p, overflow))
	p.click("#rows [role=option]")
	p.waitText("#detail h2", "Delivery 2")
	p.wait(`document.activeElement.textContent === "Delivery 2"`)
	require.Zero(t, eval[int](p, overflow))
	require.True(t, eval[bool](p, `document.getElementById("left").inert`))
	require.Equal(t, []float64{0, 0, 400, 800}, eval[[]float64](p,
		`(({ x, y, width, height }) => [x, y, width, height])(document.getElementById("detail").getBoundingClientRect())`))
	for _, part := range []string{"Body", "Headers", "Answer"} {
		p.click("#tab-" + part)
		require.Zero(t, eval[int](p, overflow))
		require.LessOrEqual(t, eval[int](p, `document.getElementById("panel").scrollWidth`), 400)
	}
	p.click("#detail .close")
	p.wait(`document.activeElement.id === "rows" && getComputedStyle(document.getElementById("detail")).display === "none"`)
	p.key("s")
	p.wait(`document.getElementById("send").open`)
	require.LessOrEqual(t, eval[float64](p, `document.getElementById("send").getBoundingClientRect().right`), 400.0)
}

func TestWide(t *testing.T) {
	in := start(t)
	in.post(secret, webhooktest.Body(asLines, webhooktest.Samples()...))
	p := in.open(view{width: 1600, height: 900}, "#id=1")
	p.waitText("#detail h2", "Delivery 1")
	require.Zero(t, eval[int](p, overflow))
	// The chart stands above the list, and the delivery on their right.
	require.True(t, eval[bool](p, `(() => {
		const box = (selector) => document.querySelector(selector).getBoundingClientRect();
		return box(".chart").bottom <= box("#rows").top && box("#rows").right <= box("#detail").left;
	})()`))
}

func TestDark(t *testing.T) {
	in := start(t)
	light := in.open(wide, "")
	dark := in.open(view{wide.width, wide.height, true}, "")
	const background = `getComputedStyle(document.body).backgroundColor`
	require.Equal(t, "rgb(245, 246, 248)", eval[string](light, background))
	require.Equal(t, "rgb(18, 21, 25)", eval[string](dark, background))
}
