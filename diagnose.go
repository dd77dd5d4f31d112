package mailtrapwebhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// maxMACs bounds the work of [Diagnose]. One secret of the usual shape has three variants and a body of the usual
// shape about ten, so that every combination is tried for one secret and every single change for three or four.
const maxMACs = 96

// Diagnose says in words why signature is not that of body under any of the secrets. It returns nil when [Verify]
// does, and otherwise an error that wraps the same one of [ErrNoSecret], [ErrEmptyBody], [ErrMissingSignature] and
// [ErrInvalidSignature].
//
// It undoes what commonly happens to a body, a secret or a header on the way here, signs again, and names the change
// under which the signature matches, together with the fix. Where it can prove no change it names what can be seen,
// such as a header of another provider, and otherwise what to check. Its text holds no secret, no signature and
// nothing of the body.
//
// It is for a person at a terminal or a test, never for the request path: it computes dozens of HMACs and copies of
// the body, which is work that anybody could order with a forged request. And never accept a request because of what
// it says.
func Diagnose(body []byte, signature string, secrets ...string) error {
	err := Verify(body, signature, secrets...)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoSecret):
		return diagnosed(err, explainNoSecret(secrets))
	case errors.Is(err, ErrEmptyBody):
		return diagnosed(err, finding{
			"the body is empty",
			"something such as a body parser, ParseForm or a logging middleware has read it before," +
				" so verify first and pass on what was read",
		})
	case errors.Is(err, ErrMissingSignature):
		return diagnosed(err, finding{
			"the signature is missing",
			"pass the value of the " + SignatureHeader + " header, and if the request has none, see whether a proxy" +
				" removes it or the request is not from Mailtrap",
		})
	}
	findings, complete := prove(body, signature, secrets)
	if len(findings) == 0 {
		findings = []finding{suspect(signature, secrets, complete)}
	}
	return diagnosed(err, findings...)
}

// A finding is one cause of a mismatch and what to do about it.
type finding struct{ cause, fix string }

// A diagnosis has a text of its own, because the sentinel's would say the general thing before the particular one.
type diagnosis struct {
	text     string
	sentinel error
}

func (d *diagnosis) Error() string { return d.text }
func (d *diagnosis) Unwrap() error { return d.sentinel }

func diagnosed(sentinel error, findings ...finding) error {
	var causes, fixes []string
	for _, r := range findings {
		causes = append(causes, r.cause)
		if !slices.Contains(fixes, r.fix) {
			fixes = append(fixes, r.fix)
		}
	}
	text := "mailtrapwebhook: " + strings.Join(causes, ", and ") + ": " + strings.Join(fixes, ", and ")
	return &diagnosis{text, sentinel}
}

// prove looks for the changes under which the signature matches. It reports whether it tried all it knows.
//
// The combinations with one of body and secret changed come first: they are the likely ones, and there are few enough
// of them that the bound rarely cuts them off.
func prove(body []byte, signature string, secrets []string) (findings []finding, complete bool) {
	digests := digestVariants(signature)
	if len(digests) == 0 {
		return nil, true
	}
	bodies, keys := bodyVariants(body), keyVariants(secrets)
	left := maxMACs
	for _, bothChanged := range []bool{false, true} {
		for _, b := range bodies {
			for _, k := range keys {
				if bothChanged != (len(b.findings) > 0 && len(k.findings) > 0) {
					continue
				}
				if left--; left < 0 {
					return nil, false
				}
				sum := mac(string(k.value), b.value)
				for _, d := range digests {
					if hmac.Equal(sum, d.value) {
						return slices.Concat(b.findings, k.findings, d.findings), true
					}
				}
			}
		}
	}
	return nil, true
}

// A change is something that happens to a value between Mailtrap and here.
type change struct {
	finding
	undo func(received []byte) []byte // the value before the change; nil where the change cannot have happened
}

// A variant is what a value may have been before the changes that the findings name; without any, it is as received.
type variant struct {
	value    []byte
	findings []finding
}

// variants returns the value as received and as it was before at most one change of each stage. Equal values appear
// once, with the fewest changes.
func variants(received []byte, stages ...[]change) []variant {
	all := []variant{{value: received}}
	for _, stage := range stages {
		for _, v := range all { // those of the stages before
			for _, c := range stage {
				before := c.undo(v.value)
				known := func(v variant) bool { return bytes.Equal(v.value, before) }
				if len(before) > 0 && !slices.ContainsFunc(all, known) {
					all = append(all, variant{before, append(slices.Clone(v.findings), c.finding)})
				}
			}
		}
	}
	return all
}

// The body.

var bom = []byte("\ufeff")

const keepRaw = "verify the raw bytes as they came, before anything changes them"

func bodyVariants(body []byte) []variant {
	changes := cutChanges
	if len(body) <= maxBodyBytes { // the others copy the whole body
		changes = slices.Concat(cutChanges, copyChanges, jsonChanges())
	}
	return variants(body, changes)
}

var cutChanges = []change{
	{finding{"a newline was added to the end of the body", keepRaw}, func(b []byte) []byte {
		return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	}},
	{finding{"white space was added around the body", keepRaw}, bytes.TrimSpace},
	{finding{"a byte-order mark was added to the front of the body", keepRaw}, func(b []byte) []byte {
		return bytes.TrimPrefix(b, bom)
	}},
}

var copyChanges = []change{
	{finding{"the newline at the end of the body was trimmed", keepRaw}, func(b []byte) []byte {
		return slices.Concat(b, []byte("\n"))
	}},
	{finding{"the line ends of the body were changed from LF to CRLF", keepRaw}, toLF},
	{finding{"the line ends of the body were changed from CRLF to LF", keepRaw}, func(b []byte) []byte {
		return bytes.ReplaceAll(toLF(b), []byte("\n"), []byte("\r\n"))
	}},
	{finding{"the byte-order mark at the front of the body was removed", keepRaw}, func(b []byte) []byte {
		return slices.Concat(bom, b)
	}},
	{finding{
		"the body is still base64, as an API gateway hands it on",
		"decode the base64 first and verify what comes out",
	}, fromBase64},
	{finding{
		"the body was made into a JSON string",
		"verify the text that the string holds, or better the raw body before it becomes a string",
	}, fromJSONString},
}

func toLF(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }

// fromBase64 reads both alphabets, with padding and without.
func fromBase64(b []byte) []byte {
	b = bytes.TrimRight(bytes.TrimSpace(b), "=")
	std := strings.NewReplacer("-", "+", "_", "/").Replace(string(b))
	decoded, err := base64.RawStdEncoding.DecodeString(std)
	if err != nil {
		return nil
	}
	return decoded
}

func fromJSONString(b []byte) []byte {
	var s string
	if !bytes.HasPrefix(b, []byte(`"`)) || json.Unmarshal(b, &s) != nil {
		return nil
	}
	return []byte(s)
}

// The body as JSON.

// A jsonForm is a way of writing JSON. Encoders differ in white space and in what they escape beyond what they must;
// they also differ in the order of keys and in numbers, which cannot be undone.
type jsonForm uint8

const (
	escapeHTML     jsonForm = 1 << iota // <, >, & and the two line separators, as Ruby on Rails and Go do
	escapeNonASCII                      // as Python does
	escapeSlash                         // as PHP does
	keepEscapes                         // whatever the body has
	indented                            // by two spaces
)

// jsonChanges has a change for each form that Mailtrap may have sent and somebody encoded anew. JSON Lines may end in
// a newline or not.
func jsonChanges() []change {
	forms := []jsonForm{keepEscapes, keepEscapes | indented}
	for escapes := range escapeSlash << 1 {
		forms = append(forms, escapes)
	}
	var changes []change
	for _, end := range []string{"", "\n"} {
		for _, form := range forms {
			changes = append(changes, change{finding{
				"the body was parsed and encoded again after it was signed (" + form.describe() + ")",
				"verify the raw bytes before a JSON middleware or a framework's binding reads them",
			}, func(b []byte) []byte { return reencode(b, form, end) }})
		}
	}
	return changes
}

// describe says how the body was written when it was signed.
func (f jsonForm) describe() string {
	text := "what was signed is compact"
	if f&indented != 0 {
		text = "what was signed is indented"
	}
	if f&keepEscapes != 0 {
		return text
	}
	var escaped []string
	for _, e := range []struct {
		form jsonForm
		name string
	}{{escapeHTML, "<, > and &"}, {escapeNonASCII, "non-ASCII characters"}, {escapeSlash, "slashes"}} {
		if f&e.form != 0 {
			escaped = append(escaped, e.name)
		}
	}
	if len(escaped) == 0 {
		return text + " and escapes nothing it need not"
	}
	return text + " with " + strings.Join(escaped, ", ") + " escaped"
}

// reencode writes a JSON value, or each line of JSON Lines, in another form. It returns nil for what is neither.
func reencode(body []byte, form jsonForm, end string) []byte {
	body = bytes.TrimSpace(bytes.TrimPrefix(body, bom))
	values := [][]byte{body}
	if !json.Valid(body) {
		values = bytes.Split(body, []byte("\n"))
	}
	var lines [][]byte
	for _, value := range values {
		if value = bytes.TrimSpace(value); len(value) == 0 {
			continue
		}
		line, err := form.write(value)
		if err != nil {
			return nil
		}
		lines = append(lines, line)
	}
	if lines == nil {
		return nil
	}
	return append(bytes.Join(lines, []byte("\n")), end...)
}

// write writes a JSON value in the form. What stands between its strings has none of the characters that an encoder
// escapes, so that text may be replaced as if all of it were strings.
func (f jsonForm) write(value []byte) ([]byte, error) {
	var b bytes.Buffer
	err := json.Compact(&b, value)
	if f&indented != 0 && depth(value) <= maxIndent {
		b.Reset()
		err = json.Indent(&b, value, "", "  ")
	}
	if err != nil || f&keepEscapes != 0 {
		return b.Bytes(), err
	}
	return f.escape(escapes.ReplaceAllFunc(b.Bytes(), unescape)), nil
}

// maxIndent is the depth to which a value is indented: more than any payload has, and not so much that white space
// outgrows the value.
const maxIndent = 32

// depth returns how deep brackets stand in one another, those in strings included.
func depth(value []byte) (most int) {
	open := 0
	for _, c := range value {
		switch c {
		case '{', '[':
			open++
		case '}', ']':
			open--
		}
		most = max(most, open)
	}
	return most
}

// escapes matches an escape in a JSON string, or several numeric ones in a row, since two may be one character.
var escapes = regexp.MustCompile(`(\\u[0-9a-fA-F]{4})+|\\.`)

// unescape returns what such an escape means, escaped only as far as JSON calls for it.
func unescape(escape []byte) []byte {
	var text string
	if json.Unmarshal(fmt.Appendf(nil, `"%s"`, escape), &text) != nil || strings.ContainsRune(text, utf8.RuneError) {
		return escape // no character: every encoder has its own idea of that
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // a string can be encoded
	literal := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	literal = bytes.ReplaceAll(literal[1:len(literal)-1], []byte(`\u2028`), []byte("\u2028")) // which e always escapes
	return bytes.ReplaceAll(literal, []byte(`\u2029`), []byte("\u2029"))
}

// escape puts in the escapes that the form has beyond what JSON calls for.
func (f jsonForm) escape(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '/' && f&escapeSlash != 0:
			out = append(out, `\/`...)
		case f&escapeHTML != 0 && strings.ContainsRune("<>&\u2028\u2029", r),
			f&escapeNonASCII != 0 && r >= utf8.RuneSelf && r != utf8.RuneError:
			for _, unit := range utf16.Encode([]rune{r}) {
				out = fmt.Appendf(out, `\u%04x`, unit)
			}
		default:
			out = append(out, text[:n]...)
		}
		text = text[n:]
	}
	return out
}

// The secrets.

// keyVariants has the secrets as they are first, so that a list with one right secret is never explained by a change to
// another.
func keyVariants(secrets []string) []variant {
	var asGiven, changed []variant
	for i, secret := range secrets {
		name := nameOf(i, secrets)
		all := variants([]byte(secret), wrappings(name), spellings(name))
		asGiven = append(asGiven, all[0])
		changed = append(changed, all[1:]...)
	}
	return append(asGiven, changed...)
}

// nameOf is what to call a secret without showing it.
func nameOf(i int, secrets []string) string {
	if len(secrets) == 1 {
		return "the secret"
	}
	return fmt.Sprintf("secret %d of %d", i+1, len(secrets))
}

func wrappings(secret string) []change {
	return []change{
		{finding{
			secret + " has white space around it",
			"trim it, or store it without the newline that an editor or echo adds",
		}, trimSpace},
		{finding{secret + " has quotes around it", "store it without them"}, trimQuotes},
	}
}

func spellings(secret string) []change {
	const copyAgain = "copy it again exactly as Mailtrap shows it"
	return []change{
		{finding{secret + " was put into upper case", copyAgain}, bytes.ToLower},
		{finding{secret + " was put into lower case", copyAgain}, bytes.ToUpper},
		{finding{
			"the signature was made with the bytes that the hexadecimal digits of " + secret + " spell",
			"sign with the secret as text, as Mailtrap does and Sign does, not with its hex-decoded bytes",
		}, fromHex},
	}
}

func trimSpace(b []byte) []byte { return bytes.TrimFunc(b, isBlank) }

func trimQuotes(b []byte) []byte {
	return bytes.TrimFunc(b, func(r rune) bool { return isBlank(r) || strings.ContainsRune("\"'`“”‘’", r) })
}

// isBlank holds for the invisible characters that come along when text is copied from a page.
func isBlank(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' || r == '\u200b' }

func fromHex(b []byte) []byte {
	decoded, err := hex.DecodeString(string(b))
	if err != nil {
		return nil
	}
	return decoded
}

// The signature.

const passPlain = "pass the plain value of the " + SignatureHeader + " header, 64 hexadecimal digits"

var (
	signatureWrappings = []change{
		{finding{"the signature has white space around it", passPlain}, trimSpace},
		{finding{"the signature has quotes around it", passPlain}, trimQuotes},
	}
	signaturePrefixes = []change{
		{finding{"the signature begins with sha256=, which Mailtrap's does not", passPlain}, func(b []byte) []byte {
			if len(b) < len("sha256=") || !bytes.EqualFold(b[:len("sha256=")], []byte("sha256=")) {
				return nil
			}
			return b[len("sha256="):]
		}},
	}
	signatureInBase64 = finding{"the signature is in base64 where Mailtrap's is in hexadecimal digits", passPlain}
)

// digestVariants has the digests that a signature can stand for. There is none where it can be read in no way.
func digestVariants(signature string) []variant {
	var digests []variant
	for _, v := range variants([]byte(signature), signatureWrappings, signaturePrefixes) {
		if sum := fromHex(v.value); len(sum) == sha256.Size {
			digests = append(digests, variant{sum, v.findings})
		} else if sum := fromBase64(v.value); len(sum) == sha256.Size {
			digests = append(digests, variant{sum, append(v.findings, signatureInBase64)})
		}
	}
	return digests
}

// What cannot be proven.

func explainNoSecret(secrets []string) finding {
	const fix = "pass the one shown in the webhook's settings, and see whether an environment variable is unset"
	if i := slices.Index(secrets, ""); i >= 0 {
		return finding{nameOf(i, secrets) + " is empty", fix}
	}
	return finding{"no secret was given", fix}
}

// suspect names what looks wrong where no change explains the mismatch.
func suspect(signature string, secrets []string, complete bool) finding {
	plain := string(trimQuotes([]byte(signature)))
	for _, s := range otherSignatures {
		if s.is(plain) {
			return finding{s.cause, passPlain}
		}
	}
	for i, secret := range secrets {
		if len(secret) != 32 || !isHex(secret) {
			return finding{
				nameOf(i, secrets) + " is not 32 hexadecimal digits, as Mailtrap's signing secrets are",
				"copy the signing secret from the webhook's settings: it is neither an API token nor a password",
			}
		}
	}
	cause := "no change to the body, the secret or the header that is known explains the mismatch"
	if !complete {
		cause = "the changes that were tried do not explain the mismatch (with fewer secrets more can be tried)"
	}
	return finding{cause, "check that the secret is that of this very webhook, that it was not reset since," +
		" that the body is the raw one and was not parsed and encoded again, and that the webhook was saved" +
		" before its test was run"}
}

// otherSignatures are the shapes that are not Mailtrap's, in words; the first that fits counts. The providers' formats
// are those of their documentation.
var otherSignatures = []struct {
	cause string
	is    func(signature string) bool
}{
	{"the signature looks like Stripe's, not Mailtrap's", func(s string) bool {
		return strings.HasPrefix(s, "t=") && strings.Contains(s, ",v")
	}},
	{"the signature looks like GitHub's, not Mailtrap's", func(s string) bool {
		return strings.HasPrefix(s, "sha1=") || strings.HasPrefix(s, "sha256=")
	}},
	{"the signature looks like Svix's, not Mailtrap's", func(s string) bool {
		return strings.HasPrefix(s, "v1,") || strings.HasPrefix(s, "v1a,")
	}},
	{"the signature looks like Slack's, not Mailtrap's", func(s string) bool {
		return strings.HasPrefix(s, "v0=")
	}},
	{"the signature holds a comma, as several headers that a proxy joined do", func(s string) bool {
		return strings.Contains(s, ",")
	}},
	{"the signature is hexadecimal but not 64 digits long, so it was cut off or is another header's", func(s string) bool {
		return isHex(s) && len(s) != hex.EncodedLen(sha256.Size)
	}},
	{"the signature is base64, as SendGrid's and other providers' are, not Mailtrap's", func(s string) bool {
		return !isHex(s) && len(fromBase64([]byte(s))) >= 16
	}},
	{"the signature is not 64 hexadecimal digits, so it is not Mailtrap's", func(s string) bool {
		return !isHex(s)
	}},
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}
