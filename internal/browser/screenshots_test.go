package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// TestScreenshots makes the README's screenshots in the folder that the
// variable MAILTRAPWEBHOOK_SCREENSHOTS names. Ports 3000 and 8080 must be free.
func TestScreenshots(t *testing.T) {
	out := os.Getenv("MAILTRAPWEBHOOK_SCREENSHOTS")
	if out == "" {
		t.Skip("MAILTRAPWEBHOOK_SCREENSHOTS names no folder")
	}
	dir := t.TempDir()
	app := startApp(t)
	in := start(t, "-dir", dir, "-forward", app)
	n := in.anHour()
	in.stop()
	spread(t, dir)
	in = startAt(t, "127.0.0.1:8080", secret, "-dir", dir, "-forward", app)
	in.post(secret, samples(asJSON, "delivery", "open"))
	in.post(secret, samples(asLines, "delivery", "open", "click", "bounce", "unsubscribe"))
	in.post("another-secret", samples(asJSON, "bounce"))
	in.post(secret, samples(asJSON, "suspension"))
	in.post(secret, samples(asJSON, "bounce"))
	in.post(secret, samples(asJSON, "delivery"))
	for name, dark := range map[string]bool{"light": false, "dark": true} {
		p := in.open(view{1280, 800, dark}, fmt.Sprintf("#id=%d", n+5))
		p.waitText("#detail .events", "bounce_category")
		p.wait(`document.querySelectorAll("#plot .bar").length > 50`)
		p.do(chromedp.Sleep(300 * time.Millisecond))
		shot, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(out, name+".png"), smaller(t, shot), 0o644))
	}
}

// startApp starts an app that cannot take suspensions, and returns its URL.
func startApp(t *testing.T) string {
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	require.NoError(t, err)
	receiver := &mailtrapwebhook.Handler{
		Verifier: verifier, Logger: slog.New(slog.DiscardHandler),
		OnEvent: func(_ context.Context, ev mailtrapwebhook.Event) error {
			time.Sleep(time.Duration(2+len(ev.RawJSON())%9) * time.Millisecond)
			if ev.Name() == "suspension" {
				return errors.New("no such customer")
			}
			return nil
		},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:3000") // the port of the README
	require.NoError(t, err)
	app := &httptest.Server{Listener: listener, Config: &http.Server{Handler: receiver}}
	app.Start()
	t.Cleanup(app.Close)
	return app.URL + "/webhooks/mailtrap"
}

// anHour delivers what an hour may bring, and returns how many deliveries.
func (in *inspector) anHour() (n int) {
	often := []string{"delivery", "delivery", "delivery", "delivery", "open", "open", "open", "click", "bounce", "soft bounce"}
	random := rand.New(rand.NewPCG(1, 2)) // the same picture each time
	for _, ev := range webhooktest.Samples() {
		in.post(secret, webhooktest.Body(asJSON, ev))
		n++
	}
	for range 100 {
		var events []mailtrapwebhook.Event
		for range 1 + random.IntN(6) {
			events = append(events, webhooktest.Sample(often[random.IntN(len(often))]))
		}
		in.post(secret, webhooktest.Body(asJSON, events...))
		n++
	}
	return n
}

// spread spreads the captures over the last hour.
func spread(t *testing.T, dir string) {
	paths := captures(t, dir)
	slices.Sort(paths)
	for i, path := range paths {
		ago := time.Duration(len(paths)-i) * 58 * time.Minute / time.Duration(len(paths))
		receivedAt(t, path, time.Now().Add(-ago))
	}
}

// smaller encodes a picture with a palette: its most frequent colours, and for
// the others the nearest of these.
func smaller(t *testing.T, picture []byte) []byte {
	t.Helper()
	decoded, err := png.Decode(bytes.NewReader(picture))
	require.NoError(t, err)
	counts := make(map[color.Color]int)
	bounds := decoded.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[decoded.At(x, y)]++
		}
	}
	palette := make(color.Palette, 0, len(counts))
	for c := range counts {
		palette = append(palette, c)
	}
	slices.SortFunc(palette, func(a, b color.Color) int { return counts[b] - counts[a] })
	paletted := image.NewPaletted(bounds, palette[:min(len(palette), 256)])
	draw.Draw(paletted, bounds, decoded, bounds.Min, draw.Src)
	var out bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, paletted))
	return out.Bytes()
}
