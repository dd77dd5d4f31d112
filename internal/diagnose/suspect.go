package diagnose

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"
)

// suspect names what looks wrong if no change explains the mismatch. The header
// comes first: if it is another provider's, the rest does not matter.
func suspect(header string, body []byte, signature string, secrets []string, complete bool) finding {
	if cause := suspectSignature(header, signature); cause != "" {
		return finding{cause, passPlain(header)}
	}
	for i, secret := range secrets {
		if strings.Contains(secret, ",") {
			return finding{
				secretName(i, len(secrets)) + " holds a comma, as a list of secrets does",
				"pass each secret as an argument of its own, as strings.Split returns them",
			}
		}
		if secret = strings.TrimSpace(secret); len(secret) != 32 || !isHex(secret) {
			return finding{
				secretName(i, len(secrets)) + " is not 32 hexadecimal digits, as Mailtrap's signing secrets are",
				"copy the signing secret from the webhook's settings, not an API token or a password",
			}
		}
	}
	if found := suspectBody(body); found.cause != "" {
		return found
	}
	cause := "no known change to the body, the secret or the header explains the mismatch"
	if !complete {
		cause = "the changes that were tried do not explain the mismatch (fewer secrets or a smaller body allow more tries)"
	}
	return finding{cause, "check that the secret is that of this webhook and was not reset since," +
		" that the body is the raw one, neither parsed and encoded again nor decompressed," +
		" and that the webhook was saved before its test was run"}
}

// suspectSignature names whose signature it is if it is not Mailtrap's, or
// returns "".
func suspectSignature(header, signature string) string {
	plain := string(trimQuotes([]byte(signature)))
	if _, ok := headerValue(header, []byte(plain)); ok {
		return "the signature is a whole header line, not only its value"
	}
	for _, s := range otherSignatures {
		if s.is(plain) {
			return s.cause
		}
	}
	return ""
}

// otherSignatures are signatures that are not Mailtrap's. The first that fits
// counts. Each provider documents its format.
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
	{"the signature has a comma, as if a proxy joined several headers", func(s string) bool {
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

// maxSeen is the size of the largest body that is searched for signs of a change.
const maxSeen = 1 << 20

func suspectBody(body []byte) finding {
	if len(body) > maxSeen {
		return finding{}
	}
	for _, s := range bodySigns {
		if s.seen(body) {
			// Signs prove nothing, so the fix also names the most frequent cause.
			return finding{s.cause, s.fix + "; if that is not it, check that the secret is that of this webhook"}
		}
	}
	return finding{}
}

// bodySigns are traces of changes that cannot be undone. The first counts.
var bodySigns = []struct {
	finding
	seen func(body []byte) bool
}{
	{finding{"the body is not UTF-8 text, so something compressed it or converted it", keepRaw},
		func(b []byte) bool { return !utf8.Valid(b) }},
	{finding{"the body has U+FFFD, which stands for bytes that a conversion could not read", keepCharset},
		func(b []byte) bool {
			return bytes.ContainsRune(b, utf8.RuneError) || bytes.Contains(b, []byte(`\ufffd`))
		}},
	{finding{"the body is indented but has no line breaks, so something removed them", keepBreaks}, indentedOnOneLine},
	{finding{"the body is not JSON, so something cut it off or changed it", "pass all of the raw body"},
		func(b []byte) bool { return compact(b) == nil }},
	{finding{
		"the keys of the body's JSON are sorted, so perhaps a program parsed it and encoded it again",
		"verify the raw bytes, before a JSON middleware or a framework's binding reads them",
	}, keysAreSorted},
	{finding{"the body has ? inside words, where a conversion may have lost letters", keepCharset}, hasLostLetters},
}

// maxSorted is how much of a body is searched for keys out of order. Reading
// token by token is slower than all else here.
const maxSorted = 64 << 10

// keysAreSorted reports whether the keys of all objects are in order, as far as
// it looks. One object must have enough of them that it is no accident. body is
// valid JSON or JSON Lines.
func keysAreSorted(body []byte) bool {
	const enough = 4 // in order by chance once in 24 times
	d := json.NewDecoder(bytes.NewReader(trimBOM(body)))
	d.UseNumber()
	most := 0
	for d.More() && d.InputOffset() < maxSorted {
		keys, ok := sortedKeys(d)
		if !ok {
			return false
		}
		most = max(most, keys)
	}
	return most >= enough
}

// sortedKeys reads a value and returns the number of keys of its largest object.
// It is not ok if the keys of any object are out of order.
func sortedKeys(d *json.Decoder) (most int, ok bool) {
	t, err := d.Token()
	open, nested := t.(json.Delim) // valid JSON is at most 10,000 deep
	if err != nil || !nested {
		return 0, err == nil
	}
	last := ""
	keys := 0
	for d.More() && d.InputOffset() < maxSorted {
		if open == '{' {
			key, _ := d.Token()
			name, isString := key.(string)
			if !isString || name < last {
				return 0, false
			}
			last = name
			keys++
		}
		inner, ok := sortedKeys(d)
		if !ok {
			return 0, false
		}
		most = max(most, inner)
	}
	_, err = d.Token() // the closing bracket
	return max(most, keys), err == nil
}

// hasLostLetters looks for words such as M?ller in a body without any letter
// beyond ASCII. Words of a URL are left out, since ? has a meaning there.
func hasLostLetters(body []byte) bool {
	if bytes.ContainsFunc(body, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return false
	}
	isBreak := func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("\"'()[]{}<>,;", r) }
	for word := range bytes.FieldsFuncSeq(body, isBreak) {
		before, after, _ := bytes.Cut(word, []byte("?"))
		after = bytes.TrimLeft(after, "?")
		if len(before) > 0 && len(after) > 0 && isLetter(before[len(before)-1]) && isLetter(after[0]) &&
			!bytes.ContainsAny(word, "/=&") {
			return true
		}
	}
	return false
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
