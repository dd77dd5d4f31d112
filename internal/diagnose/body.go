package diagnose

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/maphash"
	"io"
	"iter"
	"net/url"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	keepRaw     = "verify the raw bytes as they came, before anything changes them"
	keepCharset = "verify the raw bytes as they came, before anything converts them to a string of another encoding"
	keepBreaks  = "send the body with curl --data-binary instead of -d, or keep its line breaks otherwise"
	keepNewline = keepRaw + ", and send a file with curl --data-binary instead of -d"
)

// bodyVariants yields the body as received, and without one change at a time.
// Only one variant is in memory at a time, since a body may be large.
func bodyVariants(body []byte) iter.Seq[variant] {
	return func(yield func(variant) bool) {
		// Fingerprints tell equal variants. A collision, 1 in 2^64, costs one try.
		seen, seed := make(map[uint64]bool), maphash.MakeSeed()
		try := func(value []byte, findings ...finding) bool {
			key := maphash.Bytes(seed, value)
			if len(value) == 0 || seen[key] {
				return true
			}
			seen[key] = true
			return yield(variant{value, findings})
		}
		if !try(body) {
			return
		}
		changes := cutChanges
		if len(body) <= maxCopied {
			changes = slices.Concat(cutChanges, copyChanges)
		}
		for _, c := range changes {
			if !try(c.undo(body), c.finding) {
				return
			}
		}
		for form, text := range jsonForms(body) {
			if !try(text, form) {
				return
			}
		}
	}
}

// cutChanges are undone without copying the body.
var cutChanges = []change{
	{finding{"a newline was added to the end of the body", keepRaw}, func(b []byte) []byte {
		return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	}},
	{finding{"white space was added around the body", keepRaw}, bytes.TrimSpace},
	{finding{"a byte-order mark was added to the front of the body", keepRaw}, trimBOM},
}

var copyChanges = []change{
	{finding{"the newline at the end of the body was trimmed", keepNewline}, func(b []byte) []byte {
		return slices.Concat(b, []byte("\n"))
	}},
	{finding{"the line ends of the body were changed from LF to CRLF", keepRaw}, toLF},
	{finding{"the line ends of the body were changed from CRLF to LF", keepRaw}, func(b []byte) []byte {
		return bytes.ReplaceAll(toLF(b), []byte("\n"), []byte("\r\n"))
	}},
	{finding{"the line breaks of the body were removed", keepBreaks}, restoreBreaks},
	{finding{"the line breaks of the body were removed", keepBreaks}, func(b []byte) []byte {
		return appendNewline(restoreBreaks(b))
	}},
	{finding{"the byte-order mark at the front of the body was removed", keepRaw}, func(b []byte) []byte {
		return slices.Concat(bom, b)
	}},
	{finding{
		"the body is still base64, as an API gateway passes it on",
		"decode the base64 first and verify the result",
	}, fromBase64},
	{finding{
		"the body was made into a JSON string",
		"verify the text inside the string, or better the raw body before it becomes a string",
	}, fromJSONString},
	{finding{
		"the body was compressed with gzip or deflate on the way",
		"decompress it first and verify the result, or keep the proxy from compressing requests",
	}, decompress},
	{finding{
		"the body was encoded as a form",
		"send it as it is, with its own Content-Type, and verify the raw body before a form parser reads it",
	}, fromForm},
	{finding{"the body was converted from UTF-8 to UTF-16", keepCharset}, fromUTF16},
	{finding{"the body was read as Latin-1 or Windows-1252 and written as UTF-8 again", keepCharset}, toWindows1252},
	// Several of the changes above at once, as text editors and shells make them.
	{finding{"the line ends, blank lines or white space around the body were changed", keepRaw}, plainLines},
	{finding{"the line ends, blank lines or white space around the body were changed", keepRaw}, func(b []byte) []byte {
		return appendNewline(plainLines(b))
	}},
}

// plainLines returns the lines that are not blank, with LF between them.
func plainLines(b []byte) []byte {
	var lines [][]byte
	for line := range bytes.Lines(trimBOM(b)) {
		if line = bytes.TrimRight(line, " \t\r\n"); len(line) > 0 {
			lines = append(lines, line)
		}
	}
	return bytes.Join(lines, []byte("\n"))
}

var bom = []byte("\ufeff")

func trimBOM(b []byte) []byte { return bytes.TrimPrefix(b, bom) }

func toLF(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }

// appendNewline returns nil for nil.
func appendNewline(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append(b, '\n')
}

// restoreBreaks puts the line breaks back that curl -d removes: between the
// values of JSON Lines, and into JSON that was indented.
func restoreBreaks(b []byte) []byte {
	switch {
	case bytes.ContainsAny(b, "\r\n"):
		return nil
	case indentedOnOneLine(b):
		return indent(b)
	}
	b = bytes.TrimSpace(b) // a shell may have put blanks in their place
	out := make([]byte, 0, len(b)+len(b)/64)
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case quoted && c == '\\' && i+1 < len(b):
			// Copy the next byte unseen, since it may be a quote that ends nothing.
			out = append(out, c)
			i++
			c = b[i]
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth == 0 && i > 0 {
				out = append(bytes.TrimRight(out, " \t"), '\n')
			}
			depth++
		case c == '}' || c == ']':
			depth--
		}
		out = append(out, c)
	}
	return out
}

// indentedOnOneLine reports whether b is indented JSON without its line breaks,
// as in {  "a": 1}.
func indentedOnOneLine(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) > 3 && (b[0] == '{' || b[0] == '[') && (b[1] == '\t' || string(b[1:3]) == "  ") &&
		!bytes.ContainsAny(b, "\r\n")
}

// fromBase64 reads both alphabets, with padding and without.
func fromBase64(b []byte) []byte {
	b = bytes.TrimRight(bytes.TrimSpace(b), "=")
	// Go's decoders ignore line breaks, so base64 in lines needs no more.
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

// decompress reads gzip, zlib and, if b is not text, raw deflate.
func decompress(b []byte) []byte {
	r, err := io.ReadCloser(nil), error(nil)
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		r, err = gzip.NewReader(bytes.NewReader(b))
	case len(b) > 1 && b[0]&0x0f == 8 && binary.BigEndian.Uint16(b)%31 == 0:
		r, err = zlib.NewReader(bytes.NewReader(b))
	case !utf8.Valid(b):
		// Raw deflate has no header, and text may happen to be valid deflate.
		r = flate.NewReader(bytes.NewReader(b))
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	// A few kilobytes can decompress to gigabytes. What the limit cuts off cannot
	// match, and no body that is signed is as long.
	out, err := io.ReadAll(io.LimitReader(r, maxCopied))
	if err != nil {
		return nil
	}
	return out
}

// fromForm undoes what form libraries do to a body that they take for the name
// or the value of a field: {…}=, %7B…%7D, %7B…%7D= or payload=%7B…%7D.
func fromForm(b []byte) []byte {
	name, value, ok := bytes.Cut(b, []byte("="))
	// JSON may hold = as well, so the name of a field must look like one.
	if ok && len(value) > 0 && !bytes.ContainsAny(name, `{["%`) {
		b = value
	}
	b = bytes.TrimSuffix(b, []byte("="))
	if !bytes.HasPrefix(b, []byte("%")) {
		return b
	}
	text, err := url.QueryUnescape(string(b))
	if err != nil {
		return nil
	}
	return []byte(text)
}

// fromUTF16 reads both byte orders. Without a byte-order mark, the zero byte
// beside the first bracket tells which it is.
func fromUTF16(b []byte) []byte {
	if len(b) < 2 || len(b)%2 != 0 {
		return nil
	}
	order := binary.ByteOrder(binary.LittleEndian)
	switch first := binary.BigEndian.Uint16(b); {
	case first == 0xfeff, first < 0x80:
		order = binary.BigEndian
	case first != 0xfffe && b[1] != 0:
		return nil
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = order.Uint16(b[2*i:])
	}
	// PowerShell, which writes most UTF-16, also adds a line break at the end.
	text := trimBOM([]byte(string(utf16.Decode(units))))
	return bytes.TrimSuffix(text, []byte("\r\n"))
}

// windows1252 has the characters of the bytes 0x80 to 0x9f. The other bytes are
// those of Latin-1, as are the five that Windows-1252 leaves undefined.
var windows1252 = []rune("€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ")

// toWindows1252 writes each character as one byte. It accepts the characters of
// Latin-1 as well, so that one function serves both encodings.
func toWindows1252(b []byte) []byte {
	if !utf8.Valid(b) {
		return nil
	}
	out := make([]byte, 0, len(b))
	for _, r := range string(b) {
		// Windows-1252 has other characters where Latin-1 has control characters.
		if i := slices.Index(windows1252, r); i >= 0 {
			r = rune(0x80 + i)
		}
		if r > 0xff {
			return nil
		}
		out = append(out, byte(r))
	}
	return out
}
