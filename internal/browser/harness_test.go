// Package browser tests the inspector's page in Chromium.
//
// It builds the inspector, and needs Debian's chromium, curl, and npm for axe-core.
// Run it with -count=1: go test does not see when the page changes.
//
//	cd internal/browser && go test -count=1 .
package browser

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

// chromium is the context of the browser that all tests share.
var chromium context.Context

// program is the path of the built inspector.
var program string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "browser")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "inspector")
	build := exec.Command("go", "build", "-o", program, "github.com/mailtrapwebhook/mailtrapwebhook/examples/inspector")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "the inspector does not build: %v\n%s", err, out)
		return 1
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, // the tests may run as root; all pages are our own
		chromedp.DisableGPU,
		chromedp.UserDataDir(filepath.Join(dir, "profile")),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("force-color-profile", "srgb"),
	)
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	defer stop()
	var closeBrowser context.CancelFunc
	chromium, closeBrowser = chromedp.NewContext(allocator)
	defer closeBrowser()
	if err := chromedp.Do(chromium); err != nil {
		fmt.Fprintln(os.Stderr, "Chromium does not start: install Debian's package chromium:", err)
		return 1
	}
	for _, name := range []string{"clipboard-write", "clipboard-read"} {
		_, err := chromedp.CallBrowser(chromium, cdpbrowser.SetPermission, cdpbrowser.SetPermissionParams{
			Permission: &cdpbrowser.PermissionDescriptor{Name: name, AllowWithoutSanitization: name == "clipboard-read"},
			Setting:    cdpbrowser.PermissionSettingGranted,
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, "Chromium does not permit", name, err)
			return 1
		}
	}
	return m.Run()
}

// An inspector is a running program.
type inspector struct {
	t       *testing.T
	url     string // of the page, without the last slash
	process *exec.Cmd
}

// start starts `inspector listen` with the secret and more arguments.
func start(t *testing.T, args ...string) *inspector {
	t.Helper()
	return startAt(t, "127.0.0.1:0", secret, args...)
}

func startAt(t *testing.T, addr, secret string, args ...string) *inspector {
	t.Helper()
	in := &inspector{t: t}
	in.process = exec.Command(program, append([]string{"listen", "-addr", addr}, args...)...)
	in.process.Env = append(os.Environ(), "MAILTRAP_SIGNING_SECRET="+secret)
	var stderr bytes.Buffer
	in.process.Stderr = &stderr
	stdout, err := in.process.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, in.process.Start())
	t.Cleanup(in.stop)
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if _, page, ok := strings.Cut(lines.Text(), "the page"); ok {
			in.url = strings.TrimSuffix(strings.TrimSpace(page), "/")
			break
		}
	}
	require.NotEmpty(t, in.url, "the inspector says: %s", &stderr)
	go func() {
		for lines.Scan() { // a full pipe would stop the program
		}
	}()
	return in
}

// stop ends the program as a person does.
func (in *inspector) stop() {
	if in.process == nil {
		return
	}
	_ = in.process.Process.Signal(syscall.SIGTERM)
	_ = in.process.Wait()
	in.process = nil
}

// addr returns the host and port.
func (in *inspector) addr() string { return strings.TrimPrefix(in.url, "http://") }

// post delivers a body, signed with a secret, and returns the answer's status.
func (in *inspector) post(secret string, body []byte) int {
	in.t.Helper()
	return in.send(webhooktest.NewRequest(in.url+"/webhooks/mailtrap", secret, body), body)
}

// send sends what is made as a server's request, with another body if need be.
func (in *inspector) send(r *http.Request, body []byte) int {
	in.t.Helper()
	client, err := http.NewRequest(r.Method, in.url+"/webhooks/mailtrap", bytes.NewReader(body))
	require.NoError(in.t, err)
	client.Header = r.Header
	response, err := http.DefaultClient.Do(client)
	require.NoError(in.t, err)
	defer response.Body.Close()
	return response.StatusCode
}

// A tab is an open page.
type tab struct {
	t     *testing.T
	ctx   context.Context
	close context.CancelFunc
	*watch
}

// A view is how a page is looked at.
type view struct {
	width, height int
	dark          bool
}

var wide = view{width: 1280, height: 800}

// open opens the page of an inspector, and waits until the stream is there.
func (in *inspector) open(v view, hash string) *tab {
	in.t.Helper()
	ctx, closeTab := chromedp.NewContext(chromium)
	in.t.Cleanup(closeTab)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	in.t.Cleanup(cancel)
	p := &tab{in.t, ctx, closeTab, &watch{origin: in.url}}
	require.NoError(in.t, p.listen(ctx))
	scheme := "light"
	if v.dark {
		scheme = "dark"
	}
	p.do(chromedp.EmulateViewport(int64(v.width), int64(v.height)))
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme},
			{Name: "prefers-reduced-motion", Value: "reduce"},
		},
	})
	require.NoError(in.t, err)
	// A page without the focus may not use the clipboard.
	_, err = chromedp.Call(ctx, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	require.NoError(in.t, err)
	p.do(chromedp.Navigate(in.url + "/" + hash))
	p.wait(`document.getElementById("live").textContent === "live"`)
	p.wait(`document.getElementById("rows").hidden || document.querySelector("#rows [role=option]")`)
	p.wait(`!document.getElementById("total").textContent.includes("Loading")`)
	p.wait(`document.getElementById("plot").ariaBusy === "false"`) // its legend moves what is below it
	in.t.Cleanup(p.checkQuiet)
	return p
}

func (p *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	require.NoError(p.t, chromedp.Do(p.ctx, actions...))
}

// eval returns what an expression of JavaScript is, as a T.
func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	value, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(p.t, err, expression)
	return value
}

// patience is for a machine with other work to do.
const patience = 20 * time.Second

// wait waits until a condition of JavaScript holds.
func (p *tab) wait(condition string) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		if eval[bool](p, "Boolean("+condition+")") {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("after %v it does not hold that %s; the delivery says:\n%s", patience, condition, p.text("#detail"))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// show opens a delivery as a link does.
func (p *tab) show(id int) {
	p.t.Helper()
	eval[string](p, fmt.Sprintf(`location.hash = "#id=%d"`, id))
	p.wait(fmt.Sprintf(`document.querySelector("#detail h2")?.innerText === "Delivery %d" && document.querySelector("#detail .tabs")`, id))
}

// text returns the text that a person sees of the first element that matches.
func (p *tab) text(selector string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
}

// waitText waits until an element has text in it.
func (p *tab) waitText(selector, text string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("document.querySelector(%q)?.innerText.includes(%q)", selector, text))
}

// count returns how many elements match.
func (p *tab) count(selector string) int {
	p.t.Helper()
	return eval[int](p, fmt.Sprintf("document.querySelectorAll(%q).length", selector))
}

// click clicks the first element that matches, where a person would.
func (p *tab) click(selector string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible)), selector)
}

// clickAt clicks into the middle of an element that an expression returns.
func (p *tab) clickAt(element string) {
	p.t.Helper()
	at := eval[[2]float64](p, "(({ x, y, width, height }) => [x + width / 2, y + height / 2])("+element+".getBoundingClientRect())")
	p.do(chromedp.MouseClickXY(at[0], at[1]))
}

// button clicks a button by its name.
func (p *tab) button(within, name string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("[...document.querySelectorAll(%q)].some((b) => b.innerText.trim() === %q)", within+" button", name))
	eval[chromedp.Void](p, fmt.Sprintf("[...document.querySelectorAll(%q)].find((b) => b.innerText.trim() === %q).click() ?? null", within+" button", name))
}

// key presses keys.
func (p *tab) key(keys string) {
	p.t.Helper()
	p.do(chromedp.KeyEvent(keys))
}

// press presses one key. Unlike with key, a page can keep it from being typed.
func (p *tab) press(key string) {
	p.t.Helper()
	for _, typ := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeKeyDown, input.DispatchKeyEventTypeKeyUp} {
		_, err := chromedp.Call(p.ctx, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: typ, Key: key, Text: key})
		require.NoError(p.t, err)
	}
}

// choose selects an option or fills a field as a person does, once it is there.
func (p *tab) choose(selector, value string) {
	p.t.Helper()
	p.wait(fmt.Sprintf(`((node) => node && (!node.options || [...node.options].some((option) => option.value === %q)))(document.querySelector(%q))`, value, selector))
	eval[chromedp.Void](p, fmt.Sprintf(`(() => {
		const node = document.querySelector(%q);
		node.value = %q;
		node.dispatchEvent(new Event("change", { bubbles: true }));
	})()`, selector, value))
}
