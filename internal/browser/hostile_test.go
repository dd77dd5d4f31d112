package browser

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// hostile is text that does harm where it becomes markup, script or a style,
// or that disguises what stands beside it.
var hostile = []string{
	`<script>alert(1)</script>`,
	`"><img src=https://example.com/x onerror=alert(1)>`,
	`'><svg onload=alert(1)>`,
	`</title></textarea></style></script><script>alert(1)</script>`,
	`<iframe src="javascript:alert(1)"></iframe>`,
	`javascript:alert(1)`,
	`{{constructor.constructor('alert(1)')()}}${alert(1)}`,
	`<style>*{background:url(https://example.com/y)}</style>`,
	`url(https://example.com/z)`,
	`__proto__`,
	"a\u202egnp.exe\u202c b\u2066c\u2069",
	"\u0000\u0007\u001b[31mred\u007f\u0085\u200b\ufeff\u00ad\u2028",
}

// unseenOnPage is an expression: the characters on the page that show nothing,
// or that move what stands beside them, in texts and in what is told of them.
const unseenOnPage = `(() => {
	const unseen = /[\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]|(?!\n)\p{Cc}/gu;
	const texts = [];
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
	while (walker.nextNode()) {
		const node = walker.currentNode;
		if (node.nodeType === Node.TEXT_NODE) texts.push(node.data);
		else texts.push(node.title ?? "", node.ariaLabel ?? "");
	}
	return [...texts.join("").matchAll(unseen)].map(([c]) => c.codePointAt(0).toString(16)).join(" ");
})()`

// elements is an expression: how many elements the page has that could load or
// run something.
const elements = `document.querySelectorAll("script, img, iframe, style, link, object, embed, base, form[action]").length`

func TestHostileTextShowsAsTextAndRunsNothing(t *testing.T) {
	in := start(t)
	for _, text := range hostile {
		quoted, err := json.Marshal(text)
		require.NoError(t, err)
		body := bytes.ReplaceAll([]byte(`{"events":[
			{"event":"bounce","email":TEXT,"message_id":TEXT,"custom_variables":{TEXT:TEXT},TEXT:TEXT,"category":[TEXT]},
			{"event":TEXT,"event_id":TEXT,TEXT:{TEXT:TEXT}},
			{"event":"activity_log.x","actor":{"name":TEXT},"changes":{TEXT:{"from":TEXT,"to":TEXT}}}]}`), []byte("TEXT"), quoted)
		r := webhooktest.NewRequest("/", secret, body)
		if !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			r.Header.Set("X-Note", text)
			r.Header.Set("User-Agent", text)
		}
		require.Equal(t, http.StatusOK, in.send(r, body))
		in.post(secret, fmt.Appendf(nil, `{"events":[{"event":"activity_log.%s}]}`, quoted[1:])) // a kind of its own
		in.post("another-secret", []byte(text))                                                  // no JSON
	}
	p := in.open(wide, "")
	before := eval[int](p, elements)
	for i, text := range hostile {
		for id := 3*i + 1; id <= 3*i+3; id++ {
			p.show(id)
			for _, part := range []string{"Headers", "Answer", "Body", "Events"} {
				p.click("#tab-" + part)
				if part == "Body" {
					p.wait(`document.querySelectorAll("#panel .line").length > 0`)
				}
				require.Equal(t, before, eval[int](p, elements))
				require.Empty(t, eval[string](p, unseenOnPage))
			}
		}
		p.show(3*i + 1)
		if !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			p.wait(fmt.Sprintf(`document.querySelector("#detail .fields:last-child").textContent.includes(%q)`, text))
		}
	}
	p.wait(`document.querySelectorAll("#detail .unseen").length > 0`)
	p.wait(`[...document.querySelectorAll("#detail .unseen")].some((mark) => mark.textContent === "\u241b")`)

	// The list and the chart have the names of kinds.
	p.key("\x1b")
	require.Equal(t, before, eval[int](p, elements))
	require.Empty(t, eval[string](p, unseenOnPage))
}

func TestHostileAnswerShowsAsText(t *testing.T) {
	text := strings.Join(hostile, "\n")
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("X-Note", hostile[1])
		_, _ = io.WriteString(w, text)
	}))
	defer app.Close()
	in := start(t, "-forward", app.URL)
	in.post(secret, samples(asJSON, "open"))
	p := in.open(wide, "#id=1")
	before := eval[int](p, elements)
	p.click("#tab-Answer")
	p.waitText("#panel pre", hostile[0]+"\n"+hostile[1])
	p.waitText("#panel .fields", hostile[1])
	require.Equal(t, before, eval[int](p, elements))
	require.Empty(t, eval[string](p, unseenOnPage))
}

// A tunnel lets everybody send 8 MiB. Whatever they are, the page must live.
func TestHugeBodies(t *testing.T) {
	in := start(t)
	p := in.open(wide, "")
	for i, body := range []string{
		strings.Repeat("[", 8<<20),
		strings.Repeat("\n", 8<<20),
		`{"events":[` + strings.Repeat("1,", 4<<20-16) + `1]}`,
		`{"events":[{"event":"open","category":"` + strings.Repeat("漢", 8<<20/3-64) + `"}]}`,
	} {
		in.post(secret, []byte(body))
		p.show(i + 1)
		p.click("#tab-Body")
		p.wait(`document.querySelectorAll("#panel .line").length > 0`)
		require.LessOrEqual(t, eval[int](p, `document.querySelector("#panel .code").scrollHeight`), 200_000*18)
		eval[any](p, `document.querySelector("#panel .code").scrollTop = 1e9, 1`)
		p.button("#detail", "Bytes")
		p.wait(`document.querySelectorAll("#panel .hex").length > 0`)
		require.Less(t, p.count("#panel *"), 20_000)
		p.click("#tab-Events")
	}
}

// The page must not be the only guard: a policy keeps markup that came through
// from running.
func TestContentPolicy(t *testing.T) {
	in := start(t)
	p := in.open(wide, "")
	p.faults = nil
	eval[any](p, `document.body.insertAdjacentHTML("beforeend", '<img src=x onerror="window.ran = 1"><a id=a href="javascript:window.ran = 1">x</a>'), document.getElementById("a").click()`)
	eval[any](p, `document.body.append(Object.assign(document.createElement("script"), { textContent: "window.ran = 1" })), 1`)
	p.do(chromedp.Sleep(200 * time.Millisecond))
	require.False(t, eval[bool](p, "Boolean(window.ran)"))
	p.mu.Lock()
	defer p.mu.Unlock()
	require.NotEmpty(t, p.faults, "the tests must see what the policy refuses")
	p.faults = nil
}
