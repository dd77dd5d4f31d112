package browser

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

func TestLook(t *testing.T) {
	dir := os.Getenv("LOOK")
	if dir == "" {
		t.Skip()
	}
	in := start(t)
	for range 3 {
		for _, ev := range webhooktest.Samples() {
			in.post(secret, webhooktest.Body(mailtrapwebhook.FormatJSON, ev))
		}
	}
	in.post(secret, webhooktest.Body(mailtrapwebhook.FormatJSONLines, webhooktest.Samples()...))
	in.post("another-secret", webhooktest.Body(mailtrapwebhook.FormatJSONLines, webhooktest.Samples()[:5]...))
	in.post(secret, []byte(`{"events":[{"event":"bounce","email":42,"custom_variables":[],"new":{"a":1},"category":"x‮y"},5]}`))
	in.post(secret, []byte(`{"events":[{"event":"bounce","email":`))
	in.post(secret, webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Sample("bounce")))
	empty := start(t)
	p := empty.open(wide, "")
	p.wait(`!document.getElementById("nothing").hidden`)
	p.shot(filepath.Join(dir, "empty.png"))
	for id, v := range map[string]view{"41": wide, "42": wide, "43": wide, "44": {400, 800, true}, "40": {1600, 900, true}} {
		p := in.open(v, "#id="+id)
		p.wait(`document.querySelectorAll("#rows .row").length > 5`)
		p.waitText("#detail", "Events")
		p.shot(filepath.Join(dir, id+"-open.png"))
		p.button("#detail", "Body")
		p.wait(`document.querySelectorAll(".code .line").length > 0`)
		p.shot(filepath.Join(dir, id+"-body.png"))
		p.button("#detail", "Bytes")
		p.button("#detail", "Replay")
		p.wait(`document.querySelector(".outcome:not(.waiting)")`)
		p.shot(filepath.Join(dir, id+"-bytes.png"))
		p.button("#detail", "Answer")
		p.key("?")
		p.shot(filepath.Join(dir, id+"-answer.png"))
	}
}
