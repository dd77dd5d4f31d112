// gotest.js writes a delivery as a Go test that uses package webhooktest.

import { asText } from "./curl.js";

// goTest returns the text of a test file. The test signs the body with a secret
// of its own, so that the file holds no secret.
export function goTest(delivery, bytes) {
  const keys = [...new Set((delivery.items || []).map((item) => item.key).filter(Boolean))];
  const broken = Boolean(delivery.fault);
  return `package webhook

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// TestDelivery${Number(delivery.id)} receives a delivery that was captured ${stamp(delivery.receivedAt)}.
// Its body holds personal data: replace that before you commit this file.
${signing[delivery.verified] || ""}func TestDelivery${Number(delivery.id)}(t *testing.T) {
	const secret = "a-secret-for-tests"
	verifier, err := mailtrapwebhook.NewVerifier(secret)
	if err != nil {
		t.Fatal(err)
	}
	handled := map[string]bool{}
	handler := &mailtrapwebhook.Handler{ // put your own handler here
		Verifier: verifier,
		OnEvent: func(ctx context.Context, ev mailtrapwebhook.Event) error {
			handled[ev.Key()] = true
			return nil
		},
	}

	body := []byte(${literal(bytes)})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, webhooktest.NewRequest("/webhooks/mailtrap", secret, body))

	if w.Code != ${broken ? "http.StatusUnprocessableEntity" : "http.StatusOK"} {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
${broken ? "" : wanted(keys)}}
`;
}

// What the signature of the captured delivery was, where the test's own hides it.
const signing = {
  no: `//
// The captured signature did not match the body. The test signs the body anew,
// so it does not show why: open the delivery in the inspector for that.
`,
  unknown: `//
// The inspector had no secret and did not check the captured signature. The
// test signs the body anew.
`,
};

function wanted(keys) {
  if (!keys.length) return "";
  return `	for _, key := range []string{
${keys.map((key) => "\t\t" + quoted(new TextEncoder().encode(key)) + ",\n").join("")}	} {
		if !handled[key] {
			t.Errorf("%s was not handled", key)
		}
	}
`;
}

// stamp writes the time as a comment may hold it.
const stamp = (time) => new Date(time).toISOString();

// literal returns Go's spelling of the bytes: as they stand between backquotes
// where Go and an editor leave them alone, else escaped.
function literal(bytes) {
  const text = asText(bytes);
  if (text !== undefined && /^[\n\t\p{L}\p{M}\p{N}\p{P}\p{S} ]*$/u.test(text) && !text.includes("`")) return "`" + text + "`";
  const parts = [];
  for (let start = 0; start < bytes.length; ) {
    let end = bytes.indexOf(0x0a, start) + 1 || bytes.length;
    end = Math.min(end, start + 80);
    parts.push(quoted(bytes.subarray(start, end)));
    start = end;
  }
  return parts.join(" +\n\t\t") || '""';
}

const escapes = { 0x0a: "\\n", 0x22: '\\"', 0x5c: "\\\\" };

function quoted(bytes) {
  let text = "";
  for (const b of bytes) {
    if (escapes[b]) text += escapes[b];
    else if (b >= 0x20 && b < 0x7f) text += String.fromCharCode(b);
    else text += "\\x" + b.toString(16).padStart(2, "0");
  }
  return '"' + text + '"';
}
