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
	"slices"
	"strconv"
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
				sum := mac(b.value, string(k.value))
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
	lines := !json.Valid(body)
	if lines {
		values = bytes.Split(body, []byte("\n"))
	}
	var out []byte
	for _, value := range values {
		if value = bytes.TrimSpace(value); len(value) == 0 {
			continue
		}
		if lines && !json.Valid(value) || len(out) > maxBodyBytes {
			return nil
		}
		if len(out) > 0 {
			out = append(out, '\n')
		}
		out = form.appendJSON(out, value)
	}
	if len(out) == 0 || len(out) > maxBodyBytes {
		return nil
	}
	return append(out, end...)
}

// appendJSON writes valid JSON in the form. It stops early when the result gets longer than a body may be: a deeply
// nested value would otherwise be indented into gigabytes.
func (f jsonForm) appendJSON(dst, src []byte) []byte {
	depth := 0
	for i := 0; i < len(src) && len(dst) <= maxBodyBytes; {
		c := src[i]
		if c == '"' {
			n := stringLen(src[i:])
			dst = f.appendString(dst, src[i:i+n])
			i += n
			continue
		}
		i++
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
		case f&indented == 0:
			dst = append(dst, c)
		case c == '{' || c == '[':
			depth++
			dst = append(dst, c)
			if rest := bytes.TrimLeft(src[i:], " \t\r\n"); rest[0] != '}' && rest[0] != ']' {
				dst = appendIndent(dst, depth)
			}
		case c == '}' || c == ']':
			depth--
			if last := dst[len(dst)-1]; last != '{' && last != '[' {
				dst = appendIndent(dst, depth)
			}
			dst = append(dst, c)
		case c == ',':
			dst = appendIndent(append(dst, c), depth)
		case c == ':':
			dst = append(dst, c, ' ')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

func appendIndent(dst []byte, depth int) []byte {
	return append(append(dst, '\n'), bytes.Repeat([]byte("  "), depth)...)
}

// stringLen is the length of the JSON string at the start of s, quotes included.
func stringLen(s []byte) int {
	i := 1
	for ; s[i] != '"'; i++ {
		if s[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// appendString writes a JSON string, quotes included, with the escapes of the form.
func (f jsonForm) appendString(dst, s []byte) []byte {
	if f&keepEscapes != 0 {
		return append(dst, s...)
	}
	dst = append(dst, '"')
	for rest := s[1 : len(s)-1]; len(rest) > 0; {
		r, n := firstRune(rest)
		if r < 0 { // neither UTF-8 nor an escape of a character: every encoder has its own idea
			dst = append(dst, rest[:n]...)
		} else {
			dst = f.appendRune(dst, r)
		}
		rest = rest[n:]
	}
	return append(dst, '"')
}

// firstRune reads the first character inside a JSON string that is valid. The rune is negative for bytes that are none.
func firstRune(s []byte) (rune, int) {
	if s[0] != '\\' {
		r, n := utf8.DecodeRune(s)
		if r == utf8.RuneError && n == 1 {
			return -1, 1
		}
		return r, n
	}
	if s[1] != 'u' {
		if i := strings.IndexByte("bfnrt", s[1]); i >= 0 {
			return rune("\b\f\n\r\t"[i]), 2
		}
		return rune(s[1]), 2 // a quote, a backslash or a slash
	}
	r := codeUnit(s)
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if pair := utf16.DecodeRune(r, codeUnit(s[6:])); pair != utf8.RuneError {
		return pair, 12
	}
	return -1, 6
}

// codeUnit reads a \uXXXX escape; it is negative where s does not begin with one.
func codeUnit(s []byte) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	u, _ := strconv.ParseUint(string(s[2:6]), 16, 16) // valid JSON has four digits here
	return rune(u)
}

func (f jsonForm) appendRune(dst []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\' || r == '/' && f&escapeSlash != 0:
		return append(dst, '\\', byte(r))
	case r < ' ':
		if i := strings.IndexByte("\b\f\n\r\t", byte(r)); i >= 0 {
			return append(dst, '\\', "bfnrt"[i])
		}
		return fmt.Appendf(dst, `\u%04x`, r)
	case f&escapeHTML != 0 && strings.ContainsRune("<>&\u2028\u2029", r), f&escapeNonASCII != 0 && r >= utf8.RuneSelf:
		for _, unit := range utf16.Encode([]rune{r}) {
			dst = fmt.Appendf(dst, `\u%04x`, unit)
		}
		return dst
	default:
		return utf8.AppendRune(dst, r)
	}
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
