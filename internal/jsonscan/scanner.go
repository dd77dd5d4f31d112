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
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		if !isBlank(c) {
			return c
		}
		s.pos++
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
	if s.Peek() != '{' {
		s.fail()
		return
	}
	s.pos++
	s.depth++
	s.first = true
}

// Member passes over the key of the next member of the object entered last, up to its value, which the caller must read
// or [Scanner.Skip]. It reports false at the end of the object and after a failure.
func (s *Scanner) Member() (key string, ok bool) {
	c := s.Peek()
	if c == '}' {
		s.pos++
		s.depth--
		s.first = false
		return "", false
	}
	if !s.first {
		if c != ',' {
			s.fail()
			return "", false
		}
		s.pos++
		c = s.Peek()
	}
	s.first = false
	if c != '"' {
		s.fail()
		return "", false
	}
	key = s.String()
	if s.Peek() != ':' {
		s.fail()
		return "", false
	}
	s.pos++
	s.Peek()
	return key, !s.failed
}

// String reads a string and returns what it means. Invalid UTF-8 and lone surrogates read as U+FFFD, as in
// encoding/json.
func (s *Scanner) String() string {
	literal, simple := s.quoted()
	if simple {
		return literal
	}
	return unquote(literal)
}

// quoted passes over a string literal and returns what stands between its quotes. It is simple if it means just that.
func (s *Scanner) quoted() (literal string, simple bool) {
	text, start := s.text, s.pos+1
	ascii := true
	i := start
	for {
		for i+8 <= len(text) {
			stop := special(text[i : i+8])
			if stop != 0 {
				i += bits.TrailingZeros64(stop) / 8
				break
			}
			i += 8
		}
		for i < len(text) && plain[text[i]] && text[i] < utf8.RuneSelf {
			i++
		}
		if i >= len(text) {
			s.fail()
			return "", true
		}
		switch c := text[i]; {
		case c == '"':
			s.pos = i + 1
			literal = text[start:i]
			return literal, ascii || utf8.ValidString(literal)
		case c >= utf8.RuneSelf:
			ascii = false
			for i < len(text) && text[i] >= utf8.RuneSelf {
				i++
			}
		case c == '\\':
			literal = s.run()
			if s.failed {
				return "", true
			}
			return literal[1 : len(literal)-1], false
		default:
			s.fail()
			return "", true
		}
	}
}

// special finds, in eight bytes at once, those that may not stand for themselves or are not ASCII: the lowest bit set
// in the result is the top bit of the first such byte.
func special(eight string) uint64 {
	_ = eight[7]
	x := uint64(eight[0]) | uint64(eight[1])<<8 | uint64(eight[2])<<16 | uint64(eight[3])<<24 |
		uint64(eight[4])<<32 | uint64(eight[5])<<40 | uint64(eight[6])<<48 | uint64(eight[7])<<56
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	// A subtraction borrows into a byte's top bit if the byte is below the subtrahend. It may borrow from the next byte
	// too and mark that wrongly, but only above a byte that is rightly marked.
	return (x | (x ^ '"'*ones - ones) | (x ^ '\\'*ones - ones) | (x - ' '*ones)) & tops
}

// Skip passes over a value of any kind and returns its text, and whether there is white space between its tokens.
func (s *Scanner) Skip() (text string, blanks bool) {
	if s.Peek() == '"' {
		start := s.pos
		s.quoted()
		if s.failed {
			return "", false
		}
		return s.text[start:s.pos], false
	}
	text = s.run()
	return text, s.machine.Blanks > 0
}

// run has the machine pass over the value at pos.
func (s *Scanner) run() string {
	start := s.pos
	s.machine.Reset(s.depth)
	s.pos += Feed(&s.machine, s.text[start:])
	if s.machine.End() != "" {
		s.fail()
		return ""
	}
	return s.text[start:s.pos]
}

// Null passes over null if that is what follows.
func (s *Scanner) Null() bool {
	if !strings.HasPrefix(s.text[s.pos:], "null") {
		return false
	}
	s.pos += len("null")
	return true
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
	out := make([]byte, 0, len(literal))
	for i := 0; i < len(literal); {
		switch c := literal[i]; {
		case c == '\\' && literal[i+1] == 'u':
			r := hex4(literal[i+2:])
			i += 6
			if utf16.IsSurrogate(r) {
				second := rune(-1)
				if strings.HasPrefix(literal[i:], `\u`) {
					second = hex4(literal[i+2:])
				}
				if r = utf16.DecodeRune(r, second); r != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		case c == '\\':
			out = append(out, unescaped(literal[i+1]))
			i += 2
		default:
			r, size := utf8.DecodeRuneInString(literal[i:])
			out = utf8.AppendRune(out, r)
			i += size
		}
	}
	return string(out)
}

func unescaped(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c // a quote, a backslash or a slash
}

func hex4(digits string) rune {
	n, _ := strconv.ParseUint(digits[:4], 16, 16)
	return rune(n)
}
