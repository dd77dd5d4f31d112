// Package jsonscan checks JSON text as strictly as encoding/json does, and
// finds where the values in it begin and end. It decodes nothing: a program
// takes the parts that it wants.
package jsonscan

import (
	"encoding/binary"
	"io"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects may be nested, as in encoding/json.
const MaxDepth = 10000

// A Fault says what is wrong with a text. It quotes nothing of the text.
type Fault string

// The faults. TrailingBytes is for callers: a [Scanner] stops behind a value
// and does not look at what follows.
const (
	CutOff        Fault = "the JSON is cut off"
	BadValue      Fault = "a value does not begin as JSON does"
	BadKey        Fault = "an object key is not a string"
	MissingColon  Fault = "there is no colon after an object key"
	MissingComma  Fault = "there is neither a comma nor the closing bracket after a value"
	BadString     Fault = "a string has a control character that is not escaped"
	BadEscape     Fault = "a string has an escape that JSON does not know"
	BadNumber     Fault = "a number is not spelled as JSON spells it"
	BadLiteral    Fault = "a word is not true, false or null"
	TooDeep       Fault = "arrays and objects are nested more than 10,000 deep"
	TrailingBytes Fault = "there is more after the end of the JSON"
)

func (f Fault) Error() string { return string(f) }

// Is reports that [CutOff] is an [io.ErrUnexpectedEOF].
func (f Fault) Is(target error) bool { return f == CutOff && target == io.ErrUnexpectedEOF }

// A Scanner passes over JSON values in a text.
//
// Its methods take the index at which a value begins and return the index
// behind it. At a fault they return the length of the text. Scanning on from
// there fails again, and the first fault stays: callers may check once, at the
// end.
type Scanner struct {
	text   []byte
	fault  Fault // "" while all is well
	at     int   // index of the fault
	blanks int   // white space between tokens, in bytes

	follower [MaxKeys + 1]uint8 // the key that came last after each key
}

// Reset makes s scan text.
func (s *Scanner) Reset(text []byte) { s.text, s.fault, s.blanks = text, "", 0 }

// Fault returns the first fault and its index, or "".
func (s *Scanner) Fault() (fault Fault, at int) { return s.fault, s.at }

// CutOff makes the end of the text a fault. It is for callers who know that
// something must follow.
func (s *Scanner) CutOff() { s.fail(len(s.text), CutOff) }

// Value passes over the value at i, which stands in depth arrays and objects.
func (s *Scanner) Value(i, depth int) (end int) {
	switch c := s.byteAt(i); {
	case c == '"':
		end, _ = s.string(i)
		return end
	case isDigit(c) || c == '-':
		return s.number(i)
	case c == '{':
		return s.object(i, depth, nil)
	case c == '[':
		return s.array(i, depth)
	case c == 't':
		return s.word(i, "true")
	case c == 'f':
		return s.word(i, "false")
	case c == 'n':
		return s.word(i, "null")
	}
	return s.fail(i, BadValue)
}

// Inlining fail would make its callers too large to be inlined themselves.
//
//go:noinline
func (s *Scanner) fail(i int, fault Fault) (end int) {
	if i >= len(s.text) {
		i, fault = len(s.text), CutOff
	}
	if s.fault == "" {
		s.fault, s.at = fault, i
	}
	return len(s.text)
}

// byteAt returns the byte at i. Behind the end it returns 0, which begins no
// token of JSON.
func (s *Scanner) byteAt(i int) byte {
	if i < len(s.text) {
		return s.text[i]
	}
	return 0
}

// blank passes over white space.
func (s *Scanner) blank(i int) int {
	// Most JSON has no white space: the usual case must be inlined.
	if i < len(s.text) && s.text[i] > ' ' {
		return i
	}
	return s.moreBlank(i)
}

//go:noinline
func (s *Scanner) moreBlank(i int) int {
	for i < len(s.text) && IsBlank(s.text[i]) {
		i++
		s.blanks++
	}
	return i
}

// object passes over the object at i. It calls visit, unless that is nil, with
// the place of each key, without the quotes, and of its value.
func (s *Scanner) object(i, depth int, visit func(key, value Span)) (end int) {
	if depth >= MaxDepth {
		return s.fail(i, TooDeep)
	}
	i = s.blank(i + 1)
	if s.byteAt(i) == '}' {
		return i + 1
	}
	for {
		if s.byteAt(i) != '"' {
			return s.fail(i, BadKey)
		}
		key := i + 1
		i, _ = s.string(i)
		keyEnd := i - 1
		if i = s.blank(i); s.byteAt(i) != ':' {
			return s.fail(i, MissingColon)
		}
		i = s.blank(i + 1)
		value := i
		i = s.Value(i, depth+1)
		if visit != nil && s.fault == "" {
			visit(Span{int32(key), int32(keyEnd)}, Span{int32(value), int32(i)})
		}
		i = s.blank(i)
		switch s.byteAt(i) {
		case ',':
			i = s.blank(i + 1)
		case '}':
			return i + 1
		default:
			return s.fail(i, MissingComma)
		}
	}
}

func (s *Scanner) array(i, depth int) (end int) {
	if depth >= MaxDepth {
		return s.fail(i, TooDeep)
	}
	i = s.blank(i + 1)
	if s.byteAt(i) == ']' {
		return i + 1
	}
	for {
		i = s.Value(i, depth+1)
		i = s.blank(i)
		switch s.byteAt(i) {
		case ',':
			i = s.blank(i + 1)
		case ']':
			return i + 1
		default:
			return s.fail(i, MissingComma)
		}
	}
}

func (s *Scanner) word(i int, word string) (end int) {
	for k := range len(word) {
		if s.byteAt(i+k) != word[k] {
			return s.fail(i+k, BadLiteral)
		}
	}
	return i + len(word)
}

func (s *Scanner) number(i int) (end int) {
	if s.text[i] == '-' {
		i++
	}
	// JSON allows no digit after a leading zero.
	if s.byteAt(i) == '0' {
		i++
	} else {
		i = s.digits(i)
	}
	if s.byteAt(i) == '.' {
		i = s.digits(i + 1)
	}
	if c := s.byteAt(i); c == 'e' || c == 'E' {
		i++
		if c := s.byteAt(i); c == '+' || c == '-' {
			i++
		}
		i = s.digits(i)
	}
	return i
}

// digits passes over one or more digits.
func (s *Scanner) digits(i int) (end int) {
	text, end := s.text, i // a local text stays in registers
	for end < len(text) && isDigit(text[end]) {
		end++
	}
	if end == i {
		return s.fail(i, BadNumber)
	}
	return end
}

// string passes over the string whose opening quote is at i. It reports whether
// the string is plain: without escapes and valid UTF-8, so that its text is its
// value.
func (s *Scanner) string(i int) (end int, plain bool) {
	text := s.text
	// Most strings are plain ASCII, which shows eight bytes at a time.
	for i++; i+8 <= len(text); i += 8 {
		if found := special(binary.LittleEndian.Uint64(text[i : i+8])); found != 0 {
			if i += bits.TrailingZeros64(found) / 8; text[i] == '"' {
				return i + 1, true
			}
			break
		}
	}
	return s.restOfString(i)
}

// restOfString passes over a string from i on. What comes before i is plain
// ASCII.
func (s *Scanner) restOfString(i int) (end int, plain bool) {
	text, start := s.text, i
	ascii, plain := true, true
	for i < len(text) {
		switch c := text[i]; {
		case c == '"':
			return i + 1, plain && (ascii || utf8.Valid(text[start:i]))
		case c == '\\':
			plain = false
			i = s.escape(i)
		case c < ' ':
			return s.fail(i, BadString), false
		default:
			// Validating once, at the end, is faster than rune by
			// rune.
			ascii = ascii && c < utf8.RuneSelf
			i++
		}
	}
	return s.fail(i, CutOff), false
}

// escape passes over the escape at i.
func (s *Scanner) escape(i int) (end int) {
	i++
	c := s.byteAt(i)
	if strings.IndexByte(`"\/bfnrt`, c) >= 0 {
		return i + 1
	}
	if c != 'u' {
		return s.fail(i, BadEscape)
	}
	for range 4 {
		i++
		if !isHex(s.byteAt(i)) {
			return s.fail(i, BadEscape)
		}
	}
	return i + 1
}

// special finds the bytes among eight that do not stand for themselves in a
// string, or are not ASCII. The lowest bit set in the result is the top bit of
// the first such byte.
func special(x uint64) uint64 {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	// Subtracting borrows into the top bit of each byte that is too small.
	// A borrow may also mark the next byte wrongly, but that one comes
	// later and is never looked at. With bit 1 flipped, the quote and the
	// control characters are exactly the bytes below 0x21.
	return (x | (x ^ 0x02*ones - 0x21*ones) | (x ^ '\\'*ones - ones)) & tops
}

// IsBlank reports whether c is white space in JSON.
func IsBlank(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isHex(c byte) bool   { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }
