package browser

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// A watch notes what a page must never do.
type watch struct {
	origin string

	mu     sync.Mutex
	faults []string
}

func (w *watch) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// listen notes dialogs, errors, violations of the content policy, and requests
// to anywhere but the inspector.
func (w *watch) listen(ctx context.Context) error {
	return chromedp.Listen(ctx, func(event any) {
		switch event := event.(type) {
		case *page.EventJavascriptDialogOpening:
			w.note("a dialog opens: %s", event.Message)
			go chromedp.Call(ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{})
		case *runtime.EventExceptionThrown:
			w.note("an exception: %s", event.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			w.note("the console: %s", event.Type)
		case *log.EventEntryAdded:
			// A browser logs each answer that is no success, and each
			// connection that breaks: tests make both happen.
			if event.Entry.Source != log.EntrySourceNetwork {
				w.note("the browser logs: %s", event.Entry.Text)
			}
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(event.Request.URL, w.origin+"/") {
				w.note("a request to %s", event.Request.URL)
			}
		}
	})
}

// checkQuiet fails the test if the page did what it must not.
func (p *tab) checkQuiet() {
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Empty(p.t, p.faults)
}
