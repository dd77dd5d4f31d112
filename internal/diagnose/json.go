package diagnose

import (
	"bytes"
	"encoding/json"
	"iter"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
)

// jsonForms yields the body, if it is JSON or JSON Lines, as other programs write
// it, with and without a newline at the end. Encoders also change the order of
// keys and the form of numbers, but nobody can undo that.
func jsonForms(body []byte) iter.Seq2[finding, []byte] {
	return func(yield func(finding, []byte) bool) {
		if len(body) > maxCopied {
			return
		}
		compacted := compact(body)
		if compacted == nil {
			return
		}
		plain := unescape(compacted)
		forms := []struct {
			name  string
			write func() []byte
		}{
			{"compact JSON", func() []byte { return compacted }},
			{"indented JSON", func() []byte { return indent(body) }},
			{"compact JSON that escapes only what it must", func() []byte { return plain }},
			{"compact JSON that escapes <, > and &, like that of Rails and Go",
				func() []byte { return escape(plain, isHTML) }},
			{"compact JSON that escapes all but ASCII, like that of Python",
				func() []byte { return escape(plain, isNonASCII) }},
			{"compact JSON that escapes slashes and all but ASCII, like that of PHP",
				func() []byte { return escape(plain, func(r rune) bool { return r == '/' || isNonASCII(r) }) }},
		}
		for _, f := range forms {
			found := finding{
				"the body was parsed and encoded again after it was signed (what was signed is " + f.name + ")",
				"verify the raw bytes, before a JSON middleware or a framework's binding reads them",
			}
			text := f.write()
			if !yield(found, text) || !yield(found, appendNewline(text)) {
				return
			}
		}
	}
}

// compact removes the white space from a JSON value, or from each line of JSON
// Lines. It returns nil if body is neither.
func compact(body []byte) []byte {
	body = bytes.TrimSpace(trimBOM(body))
	var out bytes.Buffer
	// One value may span lines, so try that before the lines.
	if json.Compact(&out, body) == nil {
		return out.Bytes()
	}
	out.Reset()
	for line := range bytes.Lines(body) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if out.Len() > 0 {
			out.WriteByte('\n')
		}
		if json.Compact(&out, line) != nil {
			return nil
		}
	}
	return out.Bytes()
}

// maxIndent is the deepest value that is indented. Payloads are 6 deep. With the
// depth, the white space would outgrow the value without bound.
const maxIndent = 8

// indent returns a JSON value indented by two spaces, or nil.
func indent(value []byte) []byte {
	value = bytes.TrimSpace(trimBOM(value))
	var out bytes.Buffer
	if depth(value) > maxIndent || json.Indent(&out, value, "", "  ") != nil {
		return nil
	}
	return out.Bytes()
}

// depth returns how deep brackets stand in one another. Brackets in strings may
// make it too large, which costs an attempt but no memory.
func depth(value []byte) (deepest int) {
	open := 0
	for _, c := range value {
		switch c {
		case '{', '[':
			open++
		case '}', ']':
			open--
		}
		deepest = max(deepest, open)
	}
	return deepest
}

// unescape writes valid JSON anew, so that it escapes only what it must. Outside
// strings JSON has no backslash, so all of it is treated as one string.
func unescape(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		i := bytes.IndexByte(text, '\\')
		if i < 0 {
			return append(out, text...)
		}
		out, text = append(out, text[:i]...), text[i:]
		r, n := jsonscan.Unescape(text)
		if r == utf8.RuneError {
			// A lone surrogate is no character. Encoders differ in what they write.
			out = append(out, text[:n]...)
		} else {
			out = appendCharacter(out, r)
		}
		text = text[n:]
	}
	return out
}

// appendCharacter appends r to a JSON string, escaped if it must be.
func appendCharacter(out []byte, r rune) []byte {
	i := strings.IndexRune("\"\\\b\f\n\r\t", r)
	switch {
	case i >= 0:
		return append(out, '\\', `"\bfnrt`[i])
	case r < 0x20:
		return appendUnit(out, uint16(r))
	}
	return utf8.AppendRune(out, r)
}

func appendUnit(out []byte, unit uint16) []byte {
	const digits = "0123456789abcdef"
	return append(out, '\\', 'u', digits[unit>>12], digits[unit>>8&15], digits[unit>>4&15], digits[unit&15])
}

// escape escapes the characters for which must holds, beyond those that JSON
// calls for. Only strings hold such characters, so it may look at all of text.
func escape(text []byte, must func(rune) bool) []byte {
	out := make([]byte, 0, len(text)+len(text)/8)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError || !must(r):
			// Invalid UTF-8 is no character either, and stays as it is.
			out = append(out, text[:n]...)
		case r == '/':
			out = append(out, `\/`...)
		default:
			for _, unit := range utf16.AppendRune(nil, r) {
				out = appendUnit(out, unit)
			}
		}
		text = text[n:]
	}
	return out
}

// isHTML holds for the characters that Rails and Go escape lest JSON ends the
// script of a web page.
func isHTML(r rune) bool { return strings.ContainsRune("<>&\u2028\u2029", r) }

func isNonASCII(r rune) bool { return r >= utf8.RuneSelf }
