// Package jsonscan reads JSON as RFC 8259 has it and as strictly as encoding/json does. It knows nothing of what the
// JSON means.
//
// There are two readers, because there are two needs. A [Scanner] walks over text that is all there, as fast as it can;
// it tells only whether the text is JSON. A [Machine] takes text in pieces of any size and tells what is wrong and
// where. A Scanner calls upon a Machine for all that is not worth a fast path of its own, so that the grammar stands
// written once.
package jsonscan

import "io"

// MaxDepth is how deep arrays and objects may stand in one another: encoding/json's limit.
const MaxDepth = 10000

// A Fault says what is wrong with a text. It quotes nothing of it.
type Fault string

// The faults that a [Machine] finds. CutOff is for its user to report, who alone knows that nothing follows.
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

// Is makes [CutOff] what readers of cut-off data know it as: [io.ErrUnexpectedEOF].
func (f Fault) Is(target error) bool { return f == CutOff && target == io.ErrUnexpectedEOF }

// A Machine finds the end of one JSON value in text that arrives piece by piece, and checks it on the way. Every byte
// is looked at once, however the pieces are cut. Call Reset before the first piece.
type Machine struct {
	// Blanks counts the white-space bytes between the tokens.
	Blanks int

	state state
	inKey bool   // the string being read is an object key
	outer int    // containers around the value
	stack []byte // containers open inside it: '{' or '['
	word  string // what is still to come of true, false or null
	hex   int    // digits still to come of a numeric escape
	fault Fault
}

type state uint8

const (
	inValue      state = iota // a value is to begin
	inFirstValue              // the same, or the array ends
	inFirstKey                // a key is to begin, or the object ends
	inNextKey
	inColon
	inNext // after a member or an element
	inString
	inEscape
	inHex
	inWord
	inMinus // states of a number, named for what was read last
	inZero
	inInteger
	inPoint
	inFraction
	inExponentMark
	inExponentSign
	inExponent
	atEnd
	atFault
)

// Reset makes m ready for a value that stands in outer containers.
func (m *Machine) Reset(outer int) {
	*m = Machine{outer: outer, stack: m.stack[:0]}
}

// Done reports whether the value has ended.
func (m *Machine) Done() bool { return m.state == atEnd }

// Fault returns what is wrong, or "".
func (m *Machine) Fault() Fault { return m.fault }

// End tells m that nothing follows, which is what ends a number that stands alone. It returns [CutOff] if the value is
// not whole.
func (m *Machine) End() Fault {
	if len(m.stack) == 0 {
		switch m.state {
		case inZero, inInteger, inFraction, inExponent:
			m.state = atEnd
		}
	}
	if m.state == atEnd || m.state == atFault {
		return m.fault
	}
	return CutOff
}

// Feed gives m the next piece of text and returns how much of it belongs to the value. That is all of it unless the
// value ended or a fault was found; the byte at fault is then the one at the index returned.
func Feed[T string | []byte](m *Machine, text T) int {
	i := 0
	for i < len(text) {
		c := text[i]
		switch m.state {
		case inString:
			for i < len(text) && plain[text[i]] {
				i++
			}
			if i == len(text) {
				return i
			}
			switch c = text[i]; {
			case c == '\\':
				m.state = inEscape
			case c == '"':
				m.endString()
			default:
				return m.fail(i, BadString)
			}
		case inEscape:
			switch c {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				m.state = inString
			case 'u':
				m.state, m.hex = inHex, 4
			default:
				return m.fail(i, BadEscape)
			}
		case inHex:
			if !isHex(c) {
				return m.fail(i, BadEscape)
			}
			if m.hex--; m.hex == 0 {
				m.state = inString
			}
		case inWord:
			if c != m.word[0] {
				return m.fail(i, BadLiteral)
			}
			if m.word = m.word[1:]; m.word == "" {
				m.endValue()
			}
		case inMinus, inZero, inInteger, inPoint, inFraction, inExponentMark, inExponentSign, inExponent:
			if next, ok := inNumber(m.state, c); ok {
				m.state = next
				break
			}
			switch m.state {
			case inMinus, inPoint, inExponentMark, inExponentSign:
				return m.fail(i, BadNumber)
			}
			m.endValue()
			if m.state == atEnd {
				return i
			}
			continue // c belongs to what follows the number
		case atEnd, atFault:
			return i
		default:
			if isBlank(c) {
				m.Blanks++
				break
			}
			if fault := m.token(c); fault != "" {
				return m.fail(i, fault)
			}
		}
		i++
		if m.state == atEnd {
			return i
		}
	}
	return i
}

// token takes a byte that stands between values and is not white space.
func (m *Machine) token(c byte) Fault {
	switch m.state {
	case inFirstKey, inNextKey:
		if c == '}' && m.state == inFirstKey {
			m.close()
			return ""
		}
		if c != '"' {
			return BadKey
		}
		m.state, m.inKey = inString, true
		return ""
	case inColon:
		if c != ':' {
			return MissingColon
		}
		m.state = inValue
		return ""
	case inNext:
		return m.next(c)
	default:
		if c == ']' && m.state == inFirstValue {
			m.close()
			return ""
		}
		return m.begin(c)
	}
}

// next takes the byte after a member or an element.
func (m *Machine) next(c byte) Fault {
	object := m.stack[len(m.stack)-1] == '{'
	switch {
	case c == ',' && object:
		m.state = inNextKey
	case c == ',':
		m.state = inValue
	case c == '}' && object, c == ']' && !object:
		m.close()
	default:
		return MissingComma
	}
	return ""
}

// begin takes the first byte of a value.
func (m *Machine) begin(c byte) Fault {
	switch {
	case c == '"':
		m.state, m.inKey = inString, false
	case c == '{' || c == '[':
		if m.outer+len(m.stack) >= MaxDepth {
			return TooDeep
		}
		m.stack = append(m.stack, c)
		m.state = inFirstValue
		if c == '{' {
			m.state = inFirstKey
		}
	case c == '-':
		m.state = inMinus
	case c == '0':
		m.state = inZero
	case isDigit(c):
		m.state = inInteger
	case c == 't':
		m.state, m.word = inWord, "rue"
	case c == 'f':
		m.state, m.word = inWord, "alse"
	case c == 'n':
		m.state, m.word = inWord, "ull"
	default:
		return BadValue
	}
	return ""
}

func (m *Machine) close() {
	m.stack = m.stack[:len(m.stack)-1]
	m.endValue()
}

func (m *Machine) endString() {
	if m.inKey {
		m.state = inColon
		return
	}
	m.endValue()
}

func (m *Machine) endValue() {
	m.state = inNext
	if len(m.stack) == 0 {
		m.state = atEnd
	}
}

func (m *Machine) fail(i int, fault Fault) int {
	m.state, m.fault = atFault, fault
	return i
}

// inNumber returns the state that c leads to from a state of a number. It reports false if c does not go on with the
// number.
func inNumber(s state, c byte) (next state, ok bool) {
	switch {
	case s == inMinus && c == '0':
		return inZero, true
	case isDigit(c):
		return [...]state{inMinus: inInteger, inInteger: inInteger, inPoint: inFraction, inFraction: inFraction,
			inExponentMark: inExponent, inExponentSign: inExponent, inExponent: inExponent}[s], s != inZero
	case c == '.':
		return inPoint, s == inZero || s == inInteger
	case c == 'e' || c == 'E':
		return inExponentMark, s == inZero || s == inInteger || s == inFraction
	case c == '+' || c == '-':
		return inExponentSign, s == inExponentMark
	}
	return 0, false
}

// plain holds the bytes that stand for themselves in a string.
var plain = func() (table [256]bool) {
	for c := range table {
		table[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return table
}()

func isBlank(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isHex(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
