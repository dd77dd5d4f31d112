package browser

import (
	"fmt"
	"testing"

	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

func TestKeyboard(t *testing.T) {
	in := start(t)
	for range 3 {
		in.post(secret, samples(asJSON, "bounce"))
	}
	p := in.open(wide, "")
	active := func(id int) {
		t.Helper()
		p.wait(fmt.Sprintf(`document.getElementById("rows").getAttribute("aria-activedescendant") === "row-%d"`, id))
	}
	p.key("j")
	active(3)
	p.key("j")
	active(2)
	p.key("k")
	active(3)
	p.key("k") // there is nothing above
	active(3)
	require.Empty(t, eval[string](p, "location.hash"))
	p.key("\r")
	p.waitText("#detail h2", "Delivery 3")
	p.wait(`document.querySelector("#row-3").getAttribute("aria-selected") === "true"`)
	p.key("j") // what is open follows
	p.waitText("#detail h2", "Delivery 2")
	p.key("r")
	p.waitText("#detail .outcome.good", "acknowledged")
	p.waitText("#total", "4 deliveries")

	p.press("/")
	require.Equal(t, "q", eval[string](p, "document.activeElement.id"))
	p.key("jkrs?") // typed, not obeyed
	require.Equal(t, "jkrs?", eval[string](p, `document.getElementById("q").value`))
	p.waitText("#detail h2", "Delivery 2")
	p.key("\x1b")
	require.NotEqual(t, "q", eval[string](p, "document.activeElement.id"))
	p.waitText("#detail h2", "Delivery 2")
	p.key("\x1b")
	p.waitText("#detail", "Choose a delivery")
	require.Equal(t, "rows", eval[string](p, "document.activeElement.id"))

	p.key("?")
	p.wait(`document.getElementById("help").open`)
	p.key("s") // belongs to the dialog
	require.False(t, eval[bool](p, `document.getElementById("send").open`))
	p.key("\x1b")
	p.wait(`!document.getElementById("help").open`)
}

func TestTabsByKeyboard(t *testing.T) {
	in := start(t)
	in.post(secret, samples(asJSON, "bounce"))
	p := in.open(wide, "#id=1")
	p.waitText("#detail h2", "Delivery 1")
	eval[any](p, `document.getElementById("tab-Events").focus(), 1`)
	for _, name := range []string{"Body", "Headers", "Answer", "Events"} {
		p.key(kb.ArrowRight)
		p.wait(fmt.Sprintf(`document.activeElement.id === "tab-%s" && document.activeElement.ariaSelected === "true"`, name))
	}
}

func TestScreenReaderHearsOfNewDeliveriesOnce(t *testing.T) {
	in := start(t)
	p := in.open(wide, "")
	eval[any](p, `window.said = [], new MutationObserver(() => said.push(document.getElementById("news").textContent)).observe(document.getElementById("news"), { childList: true }), 1`)
	in.flood(50)
	in.post("another-secret", samples(asJSON, "open"))
	p.wait("said.length > 0")
	require.Equal(t, []string{"51 new deliveries, 1 not verified"}, eval[[]string](p, "said"))
	// How many match a filter is said at once.
	p.choose("[name=verified]", "no")
	p.wait(`said.at(-1) === "1 match"`)
}
