package jsonscan

import "math"

// MaxKeys is the largest number of keys that [Keys] can hold.
const MaxKeys = 31

// Other is the index of a member whose key is none of the [Keys].
const Other = MaxKeys

// None is the index of no member.
const None = -1

// Keys are the object keys that a program looks for. Each is known by its
// index in the list that they were made of.
type Keys struct {
	spelled [MaxKeys + 1]string // quoted and with the colon
	bySize  [][]indexedKey      // the keys of each length
}

type indexedKey struct {
	key   string
	index int
}

// NewKeys returns the keys of that list, of which there are at most [MaxKeys].
func NewKeys(list ...string) *Keys {
	k := new(Keys)
	for i, key := range list {
		k.spelled[i] = `"` + key + `":`
		for len(k.bySize) <= len(key) {
			k.bySize = append(k.bySize, nil)
		}
		k.bySize[len(key)] = append(k.bySize[len(key)], indexedKey{key, i})
	}
	return k
}

// index returns the index of a key, or [Other].
func (k *Keys) index(key []byte) int {
	if len(key) < len(k.bySize) {
		// Few keys have the same length: comparing each beats hashing.
		for _, entry := range k.bySize[len(key)] {
			if string(key) == entry.key {
				return entry.index
			}
		}
	}
	return Other
}

// A Span is a part of a text: of a string, what stands between its quotes.
type Span struct{ From, To int32 }

// A Set of members has the bit 1<<i for the member of index i.
type Set uint32

// Members say where the members of an object stand that [Keys] name. Of several
// with the same key, the last counts.
type Members struct {
	At [MaxKeys + 1]Span // zero where there is no such member

	Strings, Numbers, Objects Set // the members with such values
	Others                    Set // with arrays, true, false or null

	// NotPlain are the strings with escapes or invalid UTF-8, and the
	// objects with white space between their tokens.
	NotPlain Set
}

// Find passes over the object that the text begins with, and notes in found
// where its members stand. The object stands in depth arrays and objects.
//
// Find stops early where the member of index arrayAt is an array. It then
// returns the index of the bracket and true.
func (s *Scanner) Find(keys *Keys, depth, arrayAt int, found *Members) (end int, stopped bool) {
	*found = Members{}
	if depth >= MaxDepth {
		return s.fail(0, TooDeep), false
	}
	i := s.blank(1)
	if s.byteAt(i) == '}' {
		return i + 1, false
	}
	for key := Other; ; {
		// Programs write the members of objects in the same order again
		// and again: trying the key that followed last time saves 7 %
		// of Parse.
		guess := s.follower[key]
		if spelled := keys.spelled[guess]; spelled != "" && s.hasAt(i, spelled) {
			i, key = s.blank(i+len(spelled)), int(guess)
		} else {
			i, key = s.key(i, keys, key)
		}
		if found.At[key].To != 0 { // of equal keys, the last counts
			found.forget(1 << key)
		}
		switch s.byteAt(i) {
		case '"':
			from := i + 1
			var plain bool
			if i, plain = s.string(i); !plain {
				found.NotPlain |= 1 << key
			}
			found.Strings |= 1 << key
			found.At[key] = Span{int32(from), int32(i - 1)}
		case '[':
			if key == arrayAt {
				return i, true
			}
			fallthrough
		default:
			i = s.member(i, depth+1, key, found)
		}
		i = s.blank(i)
		switch s.byteAt(i) {
		case ',':
			i = s.blank(i + 1)
		case '}':
			return i + 1, false
		default:
			return s.fail(i, MissingComma), false
		}
	}
}

// key passes over the key at i and its colon. It returns the index of the value
// and that of the key. The key before was previous.
func (s *Scanner) key(i int, keys *Keys, previous int) (value, key int) {
	if s.byteAt(i) != '"' {
		return s.fail(i, BadKey), Other
	}
	end, plain := s.string(i)
	if s.fault != "" {
		return end, Other
	}
	literal := s.text[i+1 : end-1]
	if plain {
		key = keys.index(literal)
	} else {
		key = keys.index([]byte(Unquote(string(literal))))
	}
	s.follower[previous] = uint8(key)
	if i = s.blank(end); s.byteAt(i) != ':' {
		return s.fail(i, MissingColon), Other
	}
	return s.blank(i + 1), key
}

func (s *Scanner) hasAt(i int, text string) bool {
	return i+len(text) <= len(s.text) && string(s.text[i:i+len(text)]) == text
}

// member passes over the value at i, which is no string, and notes it as that
// of the member of index key.
func (s *Scanner) member(i, depth, key int, found *Members) (end int) {
	bit, blanks := Set(1)<<key, s.blanks
	switch c := s.byteAt(i); {
	case isDigit(c) || c == '-':
		end = s.number(i)
		found.Numbers |= bit
	case c == '{':
		end = s.object(i, depth, nil)
		found.Objects |= bit
		if s.blanks > blanks {
			found.NotPlain |= bit
		}
	default:
		end = s.Value(i, depth)
		found.Others |= bit
	}
	found.At[key] = Span{int32(i), int32(end)}
	return end
}

func (m *Members) forget(bit Set) {
	m.Strings &^= bit
	m.Numbers &^= bit
	m.Objects &^= bit
	m.Others &^= bit
	m.NotPlain &^= bit
}

// Each calls f for each member of the object that text is, with the text of its
// value. It reports whether text is a JSON object, with white space around it
// or without. If not, f may have been called for the members before the fault.
func Each(text string, f func(key, value string)) bool {
	var s Scanner
	s.Reset([]byte(text))
	i := s.blank(0)
	// A Span cannot tell places in a longer text.
	if s.byteAt(i) != '{' || len(text) > math.MaxInt32 {
		return false
	}
	end := s.object(i, 0, func(key, value Span) {
		f(Unquote(text[key.From:key.To]), text[value.From:value.To])
	})
	return s.fault == "" && s.blank(end) == len(text)
}
