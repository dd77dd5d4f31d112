package diagnose_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/diagnose"
)

const (
	header      = "Mailtrap-Signature"
	secret      = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"
	otherSecret = "00112233445566778899aabbccddeeff"

	compactBody = `{"event":"delivery","email":"recipient@example.com","subject":"Grüße € “a”","code":250}`
	linesBody   = `{"event":"open","url":"https://example.com/<1>"}` + "\n" + `{"event":"click","a":[1,2]}` + "\n"
)

func sign(body, key string) string {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(body))
	return hex.EncodeToString(h.Sum(nil))
}

// A mismatch is one call of Mismatch and words that its answer has.
type mismatch struct {
	name       string
	signed     string // what was signed; empty: compactBody
	body       string // what arrived; empty: what was signed
	key        string // what it was signed with; empty: secret
	secrets    []string
	header     func(signature string) string
	cause, fix string
	not        string // words that the answer must not have
}

func (m mismatch) arguments() (body []byte, signature string, secrets []string) {
	signed, key := m.signed, m.key
	if signed == "" {
		signed = compactBody
	}
	if key == "" {
		key = secret
	}
	if m.body == "" {
		m.body = signed
	}
	if m.secrets == nil {
		m.secrets = []string{secret}
	}
	if signature = sign(signed, key); m.header != nil {
		signature = m.header(signature)
	}
	return []byte(m.body), signature, m.secrets
}

// allMismatches has the cases of all files.
var allMismatches = func() (all []mismatch) {
	for _, group := range [][]mismatch{changedBodies, changedEncodings, changedJSON, secretMismatches(), headerMismatches(), unproven} {
		all = append(all, group...)
	}
	return all
}()

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func unhex(s string) string { return string(must(hex.DecodeString(s))) }

func TestMismatchNamesCauseAndFix(t *testing.T) {
	for _, test := range allMismatches {
		t.Run(test.name, func(t *testing.T) {
			body, signature, secrets := test.arguments()
			before := bytes.Clone(body)
			text := diagnose.Mismatch(header, body, signature, secrets)
			require.True(t, bytes.Equal(before, body), "the body is left as it was")

			cause, fix, found := strings.Cut(text, ": ")
			require.True(t, found, text)
			require.Contains(t, cause, test.cause)
			require.Contains(t, fix, test.fix)
			if test.not != "" {
				require.NotContains(t, text, test.not)
			}
			require.NotContains(t, text, "\n")
			require.NotContains(t, text, ". ", "one sentence")
			require.LessOrEqual(t, strings.Count(fix, "64 hexadecimal digits"), 1, "a fix is there once")
			for _, private := range privateParts(body, signature, secrets) {
				require.NotContains(t, text, private)
			}
		})
	}
}

// privateParts returns the secrets, the signatures given and expected, and those
// words of the body that are too long to be found by chance.
func privateParts(body []byte, signature string, secrets []string) []string {
	parts := []string{string(body)}
	for _, p := range strings.FieldsFunc(string(body), func(r rune) bool { return strings.ContainsRune("\",:{}[] \n", r) }) {
		if len(p) >= 12 {
			parts = append(parts, p)
		}
	}
	if signature = strings.TrimSpace(signature); len(signature) >= 20 {
		parts = append(parts, signature)
	}
	for _, secret := range secrets {
		right := sign(string(body), strings.TrimSpace(secret))
		parts = append(parts, secret, strings.Trim(secret, " \"'\t\n"), right, base64.StdEncoding.EncodeToString([]byte(unhex(right))))
	}
	return parts
}

// hostile returns bodies of a size that are meant to take time or memory.
func hostile(size int) map[string]string {
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	ramp := make([]byte, size)
	for i := range ramp {
		ramp[i] = byte(i * 167 >> 3)
	}
	return map[string]string{
		"zeros":                fill("\x00"),
		"0xff":                 fill("\xff"),
		"all bytes":            string(ramp),
		"open arrays":          fill("["),
		"open objects":         fill(`{"a":`),
		"deep arrays":          "[" + fill(strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+",") + "1]",
		"arrays at the limit":  "[" + fill(strings.Repeat("[", 7)+"1,1,1,1,1,1,1,1,1,1"+strings.Repeat("]", 7)+",") + "1]",
		"numbers":              "[" + fill("1,") + "1]",
		"numbers at depth":     strings.Repeat("[", 8) + fill("1,") + "1" + strings.Repeat("]", 8),
		"lines":                fill("1\n"),
		"objects in lines":     fill("{}\n"),
		"objects without ends": fill("{}"),
		"strings":              "[" + fill(`"a",`) + "1]",
		"escapes":              `["` + fill(`\u0041`) + `"]`,
		"pairs of surrogates":  `["` + fill(`\ud83d\ude00`) + `"]`,
		"lone surrogates":      `["` + fill(`\ud83d`) + `"]`,
		"backslashes":          `["` + fill(`\\`) + `"]`,
		"less than":            `["` + fill(`<`) + `"]`,
		"letters":              `["` + fill(`é`) + `"]`,
		"emoji":                `["` + fill(`😀`) + `"]`,
		"slashes":              `["` + fill(`/`) + `"]`,
		"quotes":               fill(`"`),
		"a JSON string":        `"` + fill(`\u003c`) + `"`,
		"questions":            fill("? "),
		"words with questions": fill("?a?"),
		"percent signs":        fill("%"),
		"percent-encoded":      fill("%7B"),
		"equals signs":         fill("="),
		"blanks":               fill(" "),
		"newlines":             fill("\n"),
		"CRLF":                 fill("\r\n"),
		"base64":               fill("QUJD"),
		"UTF-16":               fill("{\x00"),
		"a bomb of gzip":       gzipped(strings.Repeat("\x00", 64<<20)),
		"a bomb of 8 MiB":      gzipped(strings.Repeat("[1]\n", 2<<20-1)),
		"gzip, cut off":        gzipped(string(ramp))[:200],
		"many files of gzip":   fill(gzipped("a")),
		"random of gzip":       "\x1f\x8b\x08\x00" + string(ramp),
		"random of zlib":       "\x78\x9c" + string(ramp),
		"sorted keys":          "{" + fill(`"a":{"a":1,"b":2,"c":3,"d":4,"e":5},`) + `"z":1}`,
		"equal keys":           "{" + fill(`"a":1,`) + `"z":1}`,
		"indented on one line": "{  " + fill(`"a": [1],  `) + `"a": 1}`,
	}
}

// The Handler calls Mismatch for what strangers send, so nothing may make it slow.
func TestMismatchBoundsItsWork(t *testing.T) {
	size, most := 1<<17, 10*time.Second // of which a busy machine may need some
	if os.Getenv("MAILTRAPWEBHOOK_FULL") != "" {
		size = 8 << 20
	}
	secrets := []string{secret, otherSecret, strings.ToUpper(otherSecret)}
	for name, body := range hostile(size) {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			text := diagnose.Mismatch(header, []byte(body), sign("x", "x"), secrets)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			require.NotEmpty(t, text)
			t.Logf("%8v %5d MiB  %s", took.Round(time.Millisecond), (after.TotalAlloc-before.TotalAlloc)>>20, text)
			require.Less(t, took, most)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(96<<20+64*size))
		})
	}
}

// Hashing 8 MiB for each of 96 tries would take a second without SHA instructions.
func TestMismatchTriesLessForLargeBodies(t *testing.T) {
	body := []byte("[" + strings.Repeat(" ", 8<<20-10) + "1]")
	text := diagnose.Mismatch(header, body, sign("x", "x"), []string{secret, otherSecret, strings.Repeat("a", 32), strings.Repeat("b", 32)})
	require.Contains(t, text, "the changes that were tried do not explain")
}

func FuzzMismatch(f *testing.F) {
	var vocabulary strings.Builder // the fixed words, which a fuzzed secret may happen to be
	for _, test := range allMismatches {
		body, signature, secrets := test.arguments()
		if len(body) < 1<<10 {
			vocabulary.WriteString(diagnose.Mismatch(header, body, signature, secrets) + "\n")
			f.Add(body, signature, secrets[0], secrets[len(secrets)-1])
		}
	}
	f.Add([]byte(`{"a":"\`), strings.Repeat("ab", 32), otherSecret, secret)
	f.Add([]byte(`{"a":"\ud83d"}`), strings.Repeat("ab", 32), otherSecret, "'")
	f.Fuzz(func(t *testing.T, body []byte, signature, first, second string) {
		before := bytes.Clone(body)
		text := diagnose.Mismatch(header, body, signature, []string{first, second})
		require.Equal(t, before, body)
		require.True(t, utf8.ValidString(text))
		for _, private := range []string{first, second, signature, string(body)} {
			if len(private) >= 8 && !strings.Contains(vocabulary.String(), private) {
				require.NotContains(t, text, private)
			}
		}
		// What is signed under the first secret and then changed must be explained.
		if len(bytes.TrimSpace(body)) == 0 || strings.TrimSpace(first) == "" || bytes.HasSuffix(body, []byte("\r")) {
			return // the newline would make it CRLF
		}
		right := sign(string(body), strings.TrimSpace(first))
		text = diagnose.Mismatch(header, append(before, '\n'), header+": "+right, []string{first, second})
		require.Contains(t, text, "header line", "%q %q", body, first)
		require.Regexp(t, "newline was added|white space was added", text)
	})
}
