package jsonscan

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Unquote returns the value of a string that is given without its quotes.
func Unquote(literal string) string {
	if strings.IndexByte(literal, '\\') < 0 && utf8.ValidString(literal) {
		return literal
	}
	var value strings.Builder
	WriteUnquoted(&value, []byte(literal))
	return value.String()
}

// WriteUnquoted writes the value of a string that is given without its quotes
// and known to be well formed. Invalid UTF-8 and lone surrogates become U+FFFD,
// as in encoding/json.
func WriteUnquoted(w *strings.Builder, literal []byte) {
	for i := 0; i < len(literal); {
		plain := i
		for i < len(literal) && literal[i] != '\\' && literal[i] < utf8.RuneSelf {
			i++
		}
		w.Write(literal[plain:i])
		if i == len(literal) {
			break
		}
		r, size := utf8.DecodeRune(literal[i:])
		if r == '\\' {
			r, size = Unescape(literal[i:])
		}
		// Escapes are mostly of ASCII, for which WriteRune is slow.
		if r < utf8.RuneSelf {
			w.WriteByte(byte(r))
		} else {
			w.WriteRune(r)
		}
		i += size
	}
}

// Unescape returns the character and the size of the escape that text begins
// with, which must be well formed. A lone surrogate is U+FFFD.
func Unescape(text []byte) (r rune, size int) {
	switch c := text[1]; c {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		return unescapeHex(text)
	default: // a quote, a backslash or a slash
		return rune(c), 2
	}
}

// unescapeHex is Unescape for an escape such as \u00e9. Two of them may be halves
// of one rune.
func unescapeHex(text []byte) (r rune, size int) {
	r = hex4(text[2:])
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	// Only a pair of halves is a rune; a half that stands alone is none.
	if bytes.HasPrefix(text[6:], []byte(`\u`)) {
		if pair := utf16.DecodeRune(r, hex4(text[8:])); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return utf8.RuneError, 6
}

func hex4(digits []byte) rune {
	n, _ := strconv.ParseUint(string(digits[:4]), 16, 16)
	return rune(n)
}
