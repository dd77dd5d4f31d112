package browser

import (
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

func TestSendEachFault(t *testing.T) {
	in := start(t)
	p := in.open(wide, "")
	for _, c := range []struct {
		fault    string
		outcome  string
		attempts int
	}{
		{"", "acknowledged", 1},
		{"forged", "refused it, as it should", 1},
		{"repeated", "acknowledged", 2},
		{"twice", "acknowledged", 2},
		{"late", "acknowledged", 3},
		{"broken", "acknowledged", 1},
		{"reordered", "acknowledged", 1},
	} {
		t.Run("fault "+c.fault, func(t *testing.T) {
			p := &tab{t, p.ctx, p.close, p.watch}
			p.key("s")
			p.wait(`document.getElementById("send").open`)
			p.choose("#send [name=fault]", c.fault)
			p.wait(`document.getElementById("send-fault-text").textContent !== ""`)
			p.choose("#send [name=n]", "3")
			p.choose("#send [aria-label^=Time]", "3000")
			p.click("#send [name=go]")
			p.waitText("#send .run .outcome.good", c.outcome)
			require.Equal(t, c.attempts, p.count("#send .run:first-child tbody tr"))
			p.key("\x1b")
			p.wait(`!document.getElementById("send").open`)
			p.do(chromedp.Reload())
			p.wait(`document.querySelector("#rows [role=option]")`)
		})
	}
	p.wait(`[...document.querySelectorAll("#rows .tag")].some((tag) => tag.textContent === "sent")`)
}

func TestSendKindsAndFormat(t *testing.T) {
	in := start(t)
	p := in.open(wide, "")
	p.key("s")
	p.wait(`document.activeElement.name === "kind"`)
	p.button("#send", "All")
	p.choose("#send [name=format]", "JSON Lines")
	p.click("#send [name=go]")
	p.waitText("#send .outcome.good", "acknowledged")
	// The attempt's delivery opens behind the dialog.
	p.click("#send .attempts button")
	p.key("\x1b")
	p.waitText("#detail .facts", "sent by the inspector")
	p.waitText("#detail .facts", "JSON Lines")
	p.waitText("#tab-Events", "13")
	p.wait(`document.querySelectorAll("#legend button").length === 11`)

	p.key("s")
	p.button("#send", "None")
	p.click("#send [name=go]")
	p.waitText("#send-error", "Choose at least one kind")
	p.button("#send", "All")
	p.choose("#send [name=n]", "20000")
	p.click("#send [name=go]")
	p.waitText("#send-error", "10000")
}

func TestWhenAReceiverFailsTheRunSaysWhatToChange(t *testing.T) {
	app := newApp(t, 202)
	in := start(t, "-forward", app.URL)
	p := in.open(wide, "")
	p.key("s")
	p.click("#send [name=go]")
	p.waitText("#send .outcome.bad", "answer 200")
}
