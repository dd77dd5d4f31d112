package jsonscan

import (
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A Scanner reads JSON from a string. The strings it returns are parts of that string wherever the JSON spells them as
// they are, so that reading costs no copies.
//
// Once something is not JSON the scanner has failed: every method then returns a zero value, and the loops over
// [Scanner.Member] end. What is wrong a [Machine] tells.
type Scanner struct {
	text    string
	pos     int
	depth   int  // containers open at pos
	first   bool // the object just entered has shown no member yet
	key     int  // where the key passed over last begins
	blanks  int  // white space passed over between tokens
	failed  bool
	machine Machine
}

// Reset makes s read text from pos on, which stands in outer containers.
func (s *Scanner) Reset(text string, pos, outer int) {
	s.text, s.pos, s.depth, s.first, s.failed = text, pos, outer, false, false
}

// Pos returns the index of the next byte to be read.
func (s *Scanner) Pos() int { return s.pos }

// Failed reports whether something was not JSON or was cut off.
func (s *Scanner) Failed() bool { return s.failed }

func (s *Scanner) fail() {
	s.failed, s.pos = true, len(s.text)
}

// Peek passes over white space and returns the byte that follows, 0 where there is none.
func (s *Scanner) Peek() byte {
	if s.pos < len(s.text) && s.text[s.pos] > ' ' {
		return s.text[s.pos]
	}
	return s.peekBlank()
}

func (s *Scanner) peekBlank() byte {
	for ; s.pos < len(s.text); s.pos++ {
		if c := s.text[s.pos]; !isBlank(c) {
			return c
		}
		s.blanks++
	}
	return 0
}

// AtEnd passes over white space and reports whether nothing follows.
func (s *Scanner) AtEnd() bool {
	s.Peek()
	return s.pos == len(s.text)
}

// Enter passes over the brace that opens an object.
func (s *Scanner) Enter() {
	if s.Peek() != '{' || s.depth >= MaxDepth {
		s.fail()
		return
	}
	s.pos++
	s.depth++
	s.first = true
}

// Member passes over the key of the next member of the object entered last, and the colon. The caller must then read the
// value or [Scanner.Skip] it. Member reports false at the end of the object and after a failure.
func (s *Scanner) Member() (key string, ok bool) {
	c := s.Peek()
	switch {
	case c == '}':
		s.pos++
		s.depth--
		s.first = false
		return "", false
	case s.first:
		s.first = false
	case c == ',':
		s.pos++
		c = s.Peek()
	default:
		c = 0
	}
	if c != '"' {
		s.fail()
		return "", false
	}
	s.key = s.pos
	key = s.String()
	if s.Peek() != ':' {
		s.fail()
		return "", false
	}
	s.pos++
	return key, true
}

// Key returns the key that was passed over last, by [Scanner.Member] or within a value by [Scanner.Skip].
func (s *Scanner) Key() string {
	key := Scanner{text: s.text, pos: s.key}
	return key.String()
}

// String reads a string and returns what it means. Invalid UTF-8 and lone surrogates read as U+FFFD, as in
// encoding/json.
func (s *Scanner) String() (value string) {
	value, s.pos = s.quoted(s.pos)
	return value
}

// quoted returns what the string at index i means, and the index of its end. (If it stored that, the next step would have
// to wait for it to be loaded again.)
func (s *Scanner) quoted(i int) (value string, end int) {
	text, start := s.text, i+1
	for i = start; i+8 <= len(text); i += 8 { // plainEnd written out, which spares most strings a call
		if stop := special(load(text[i : i+8])); stop != 0 {
			if i += bits.TrailingZeros64(stop) / 8; text[i] == '"' {
				return text[start:i], i + 1
			}
			break
		}
	}
	return s.unplain(start, i)
}

// unplain is quoted for a string that begins at start and is plain up to index i.
func (s *Scanner) unplain(start, i int) (value string, end int) {
	text := s.text
	ascii, simple := true, true
	for i = plainEnd(text, i); i < len(text); i = plainEnd(text, i) {
		switch c := text[i]; {
		case c == '"':
			literal := text[start:i]
			if !simple || !ascii && !utf8.ValidString(literal) {
				literal = unquote(literal)
			}
			return literal, i + 1
		case c == '\\':
			simple = false
			size := escape(text[i:])
			if size == 0 {
				s.fail()
				return "", len(text)
			}
			i += size
		case c < ' ':
			s.fail()
			return "", len(text)
		default:
			ascii = false
			i++
		}
	}
	s.fail()
	return "", len(text)
}

// plainEnd returns the index of the next byte from i on that does not stand for itself or is not ASCII.
func plainEnd(text string, i int) int {
	for ; i+8 <= len(text); i += 8 {
		if stop := special(load(text[i : i+8])); stop != 0 {
			return i + bits.TrailingZeros64(stop)/8
		}
	}
	for i < len(text) && plain[text[i]] && text[i] < utf8.RuneSelf {
		i++
	}
	return i
}

// load returns the first eight bytes, the first of them lowest.
func load(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// special finds, in eight bytes at once, those that may not stand for themselves or are not ASCII: the lowest bit set
// in the result is the top bit of the first such byte.
func special(x uint64) uint64 {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	// A subtraction borrows into a byte's top bit if the byte is below the subtrahend. It may borrow from the next byte
	// too and mark that wrongly, but only above a byte that is rightly marked. With their second bit flipped, the control
	// characters and the quote are all that is below 0x21.
	return (x | (x ^ 0x02*ones - 0x21*ones) | (x ^ '\\'*ones - ones)) & tops
}

// escape returns the size of the escape that text begins with, 0 if it is none.
func escape(text string) int {
	if len(text) < 2 {
		return 0
	}
	switch text[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(text) >= 6 && isHex(text[2]) && isHex(text[3]) && isHex(text[4]) && isHex(text[5]) {
			return 6
		}
	}
	return 0
}

// Skip passes over a value of any kind and returns its text, and whether there is white space between its tokens.
func (s *Scanner) Skip() (text string, blanks bool) {
	c := s.Peek()
	start, before := s.pos, s.blanks
	if c != '{' {
		s.pass(c)
	} else {
		s.Enter()
		for _, ok := s.Member(); ok; _, ok = s.Member() {
			s.pass(s.Peek())
		}
	}
	if s.failed {
		return "", false
	}
	return s.text[start:s.pos], s.blanks > before
}

// pass passes over a value that begins with c. Those that are nested are left to the machine.
func (s *Scanner) pass(c byte) {
	switch {
	case c == '"':
		_, s.pos = s.quoted(s.pos)
	case isDigit(c):
		s.Number()
	case c == 't' && s.word("true"), c == 'f' && s.word("false"):
	default:
		s.run()
	}
}

// run has the machine pass over the value at pos.
func (s *Scanner) run() string {
	start := s.pos
	s.machine.Reset(s.depth)
	s.pos += Feed(&s.machine, s.text[start:])
	s.blanks += s.machine.Blanks
	if s.machine.End() != "" {
		s.fail()
		return ""
	}
	return s.text[start:s.pos]
}

// Null passes over null if that is what follows.
func (s *Scanner) Null() bool { return s.word("null") }

func (s *Scanner) word(word string) bool {
	ok := strings.HasPrefix(s.text[s.pos:], word)
	if ok {
		s.pos += len(word)
	}
	return ok
}

// Number reads a number and returns its text.
func (s *Scanner) Number() string {
	i := s.pos
	for i < len(s.text) && isDigit(s.text[i]) {
		i++
	}
	if i < len(s.text) && i > s.pos && s.text[s.pos] != '0' && (s.text[i] == ',' || s.text[i] == '}') {
		literal := s.text[s.pos:i]
		s.pos = i
		return literal
	}
	return s.run()
}

// unquote returns what a string literal, given without its quotes and known to be well formed, means.
func unquote(literal string) string {
	size := len(literal)
	if !utf8.ValidString(literal) {
		for _, r := range literal {
			if r == utf8.RuneError { // a byte that may become three
				size += utf8.UTFMax - 2
			}
		}
	}
	var out strings.Builder
	out.Grow(size)
	for i := 0; i < len(literal); {
		plain := i
		for i < len(literal) && literal[i] != '\\' && literal[i] < utf8.RuneSelf {
			i++
		}
		out.WriteString(literal[plain:i])
		if i == len(literal) {
			break
		}
		r, size := rune(0), 0
		if literal[i] == '\\' {
			r, size = unescape(literal[i:])
		} else {
			r, size = utf8.DecodeRuneInString(literal[i:])
		}
		out.WriteRune(r)
		i += size
	}
	return out.String()
}

// unescape returns what the escape that text begins with means, and its size.
func unescape(text string) (r rune, size int) {
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
		r := hex4(text[2:])
		if utf16.IsSurrogate(r) {
			second := rune(-1)
			if strings.HasPrefix(text[6:], `\u`) {
				second = hex4(text[8:])
			}
			if r = utf16.DecodeRune(r, second); r != utf8.RuneError {
				return r, 12
			}
		}
		return r, 6
	default: // a quote, a backslash or a slash
		return rune(c), 2
	}
}

func hex4(digits string) rune {
	n, _ := strconv.ParseUint(digits[:4], 16, 16)
	return rune(n)
}
