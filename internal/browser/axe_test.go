package browser

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const axePackage = "axe-core@4.14.1"

// axeSource returns the source of axe-core: from the file that the variable AXE
// names, or from npm.
func axeSource(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("AXE"); path != "" {
		source, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(source)
	}
	dir := t.TempDir()
	pack := exec.Command("npm", "pack", "--silent", axePackage)
	pack.Dir = dir
	out, err := pack.CombinedOutput()
	require.NoError(t, err, "npm cannot get %s: set AXE to the path of an axe.min.js: %s", axePackage, out)
	archives, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	require.NoError(t, err)
	require.Len(t, archives, 1)
	file, err := os.Open(archives[0])
	require.NoError(t, err)
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	require.NoError(t, err)
	for entries := tar.NewReader(unzipped); ; {
		entry, err := entries.Next()
		require.NoError(t, err, "%s has no axe.min.js", axePackage)
		if strings.HasSuffix(entry.Name, "/axe.min.js") {
			source, err := io.ReadAll(entries)
			require.NoError(t, err)
			return string(source)
		}
	}
}

// A violation is what axe finds.
type violation struct {
	ID, Help string
	Nodes    []struct{ HTML, FailureSummary string }
}

func TestAxeFindsNoViolations(t *testing.T) {
	axe := axeSource(t)
	in := start(t)
	in.post(secret, webhooktest.Body(asJSON, webhooktest.Samples()...))
	in.post("another-secret", samples(asJSON, "bounce", "open"))
	in.post(secret, []byte(`{"events":[{"event":"bounce","email":42,"new":"a\u202eb"},{"event":"later"},7]}`))
	in.post(secret, []byte(`{"events":[`))
	empty := start(t)
	for name, v := range map[string]view{
		"light":       wide,
		"dark":        {wide.width, wide.height, true},
		"narrow":      {400, 800, false},
		"narrow dark": {400, 800, true},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(p *tab, what string) {
				t.Helper()
				rules := `resultTypes: ["violations"]`
				if v.dark { // only the colours differ
					rules += `, runOnly: ["color-contrast"]`
				}
				found := eval[[]violation](p, `axe.run(document, { `+rules+` }).then((result) => result.violations)`)
				require.Empty(t, found, what)
			}
			load := func(in *inspector) *tab {
				p := (&inspector{t: t, url: in.url}).open(v, "")
				eval[chromedp.Void](p, axe)
				return p
			}
			p := load(empty)
			check(p, "empty")
			p.close()
			p = load(in)
			p.key("j")
			check(p, "list")
			p.choose("#kind", "bounce")
			check(p, "filtered")
			for _, id := range []int{2, 4, 3} {
				p.show(id)
				check(p, fmt.Sprint("delivery ", id))
			}
			p.button("#detail", "Replay")
			p.waitText("#detail .outcome.good", "acknowledged")
			check(p, "replayed")
			for _, part := range []string{"Headers", "Answer", "Body"} {
				p.click("#tab-" + part)
				p.wait(`document.querySelectorAll("#panel *").length > 2`)
				check(p, part)
			}
			p.button("#detail", "Bytes")
			check(p, "bytes")
			p.key("s")
			p.button("#send", "Send")
			p.waitText("#send .outcome.good", "acknowledged")
			check(p, "form")
			p.key("\x1b")
			p.key("?")
			check(p, "help")
		})
	}
}
