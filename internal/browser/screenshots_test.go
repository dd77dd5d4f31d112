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
	for name, v := range map[string]view{
		"1280": wide, "1280d": {1280, 800, true}, "1600": {1600, 900, false}, "400": {400, 800, false}, "400d": {400, 800, true},
	} {
		p := in.open(v, "#id=40")
		p.wait(`document.querySelectorAll("#rows .row").length > 5`)
		p.waitText("#detail", "Events")
		p.shot(filepath.Join(dir, name+"-open.png"))
		p.button("#detail", "Body")
		p.wait(`document.querySelectorAll(".code .line").length > 1`)
		p.shot(filepath.Join(dir, name+"-body.png"))
		p.key("\x1b")
		p.shot(filepath.Join(dir, name+"-list.png"))
		p.key("s")
		p.shot(filepath.Join(dir, name+"-send.png"))
	}
}
