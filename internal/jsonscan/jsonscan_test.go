package jsonscan_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
	"github.com/stretchr/testify/require"
)

const blanks = " \t\r\n"

// texts are JSON (y) and what is nearly JSON (n), after the cases that parsers are known to differ in.
var texts = map[byte][]string{
	'y': {
		`null`, `true`, `false`, `0`, `-0`, `1`, `-1`, `10`, `123456789012345678901234567890`, `0.5`, `-0.0`, `1.25`, `0e1`, `0e+1`, `1E5`, `1e-5`,
		`1.5E+05`, `0E0`, `-1e00`, `""`, `"a"`, `" "`, `"\u0000"`, `"\"\\\/\b\f\n\r\t"`, `"\u00e9\uABCD\uabcd"`, `"\ud83d\ude00"`, `"\ud800"`,
		`"\udc00\ud800"`, `"é😀"`, "\"\x7f\"", "\"\u2028\u2029\"", "\"\xff\"", "\"\xed\xa0\x80\"", "\"\xc0\xaf\"", `"//"`, `"[{"`, `[]`, `[ ]`, "[\n]", `[[]]`,
		`[1]`, `[1,2]`, "[ 1 ,\t2\r\n]", `[null,true,false,"",{},[],0]`, `[[[[]],{}]]`, `{}`, `{ }`, `{"a":1}`, `{"a":1,"b":2}`, `{"a":1,"a":2}`, `{"":0}`,
		`{"\u0061":{}}`, "{ \"a\" : 1 , \"b\" : [ ] }", " \t\r\n1 \t\r\n", ` {} `, `{"a":{"b":{"c":[{"d":null}]}}}`, `[-0e-0,0.0]`, `["\\"]`, `["\\\""]`, "{\"\xff\":1}",
		`[true]`, `{"a":true}`, `[1e1]`, `{"a":1.5}`, `"12345678"`, `"1234567\n"`, `"12345678é"`,
	},
	'n': {
		``, ` `, `nul`, `nulll`, `Null`, `NULL`, `tru`, `truee`, `fals`, `falsy`, `nan`, `NaN`, `Infinity`, `-Infinity`, `undefined`, `-`, `--1`, `+1`, `01`, `-01`,
		`00`, `1.`, `.5`, `-.5`, `1.e1`, `1e`, `1e+`, `1E-`, `1e1.5`, `0x10`, `1_000`, `1a`, `1,`, `- 1`, `1 2`, `１`, `"`, `"a`, `'a'`, `a`, `"\"`, `"\x"`, `"\u"`, `"\u12"`, `"\u123"`,
		`"\u123g"`, `"\U1234"`, `"\`, `"\a"`, `"\'"`, `"\0"`, "\"\n\"", "\"\t\"", "\"\x00\"", "\"\x1f\"", `"a"b`, `"a""b"`, `[`, `]`, `[1`, `[1,`, `[1,]`, `[,1]`, `[,]`, `[1,,2]`, `[1 2]`, `[1;2]`,
		`[1}`, `[}`, `[]]`, `[][]`, `[],`, `["a"`, `["a]`, `[a]`, `[tru]`, `[01]`, `[1.]`, `[-]`, `[1e]`, `["\x"]`, `{`, `}`, `{]`, `{"a"`, `{"a"}`, `{"a":`, `{"a":}`, `{"a":1`, `{"a":1,`, `{"a":1,}`,
		`{,"a":1}`, `{"a":1,,"b":2}`, `{"a":1 "b":2}`, `{"a" 1}`, `{"a"::1}`, `{"a",1}`, `{a:1}`, `{'a':1}`, `{1:1}`, `{null:1}`, `{"a":1]`, `{"a":1}}`, `{"a":1}x`, `{}{}`, `{"a":1}/**/`, `/**/{}`, `[1]//`,
		"\uFEFF{}", "\uFEFF", "\xff", "\x00", "[\x00]", "{}\x00", "[1\x00]", "[\v1]", "[\f]", "[\u00a01]", "[\u2028]", `{"a":"b}`, `{"a":["b"}`, `[{"a":1]`, `{[]:1}`, `{{}}`, `[{]}`, `{"a":tru}`, `{"a":nul`, `[*]`, `$`, `<x>`,
		`[` + "\x7f" + `]`,
	},
}

// machineVerdict feeds the pieces and reports whether they are one JSON value, and how many bytes belong to it or come
// before the fault.
func machineVerdict(m *jsonscan.Machine, pieces ...string) (valid bool, end int, fault jsonscan.Fault) {
	m.Reset(0)
	rest := ""
	for i, piece := range pieces {
		n := jsonscan.Feed(m, piece)
		end += n
		if n < len(piece) || m.Done() {
			rest = piece[n:] + strings.Join(pieces[i+1:], "")
			break
		}
	}
	fault = m.End()
	return fault == "" && m.Done() && strings.Trim(rest, blanks) == "", end, fault
}

func split(text string, size int) (pieces []string) {
	for piece := range slices.Chunk([]byte(text), max(1, size)) {
		pieces = append(pieces, string(piece))
	}
	return pieces
}

func TestMachineAgreesWithEncodingJSON(t *testing.T) {
	var m jsonscan.Machine
	for letter, list := range texts {
		for _, text := range list {
			t.Run(fmt.Sprintf("%c %q", letter, text), func(t *testing.T) {
				require.Equal(t, letter == 'y', json.Valid([]byte(text)), "the table is wrong")
				valid, end, fault := machineVerdict(&m, text)
				require.Equal(t, letter == 'y', valid, "%s", fault)
				for size := 1; size <= len(text); size++ {
					v, e, f := machineVerdict(&m, split(text, size)...)
					require.Equal(t, []any{valid, end, fault}, []any{v, e, f}, "in pieces of %d", size)
				}
				n := 0
				m.Reset(0)
				n = jsonscan.Feed(&m, []byte(text))
				require.Equal(t, end, n, "bytes and strings are read alike")
			})
		}
	}
}

func TestMachineTellsFaultsAndWhere(t *testing.T) {
	for _, test := range []struct {
		text  string
		at    int
		fault jsonscan.Fault
	}{
		{`[1,`, 3, jsonscan.CutOff},
		{``, 0, jsonscan.CutOff},
		{`-`, 1, jsonscan.CutOff},
		{`"\u12`, 5, jsonscan.CutOff},
		{`tru`, 3, jsonscan.CutOff},
		{`x`, 0, jsonscan.BadValue},
		{`[,`, 1, jsonscan.BadValue},
		{`[1,]`, 3, jsonscan.BadValue},
		{`{"a":}`, 5, jsonscan.BadValue},
		{`{a`, 1, jsonscan.BadKey},
		{`{"a":1,}`, 7, jsonscan.BadKey},
		{`{"a" 1`, 5, jsonscan.MissingColon},
		{`[1 2`, 3, jsonscan.MissingComma},
		{`[01`, 2, jsonscan.MissingComma},
		{`{"a":1]`, 6, jsonscan.MissingComma},
		{"\"a\n\"", 2, jsonscan.BadString},
		{`"\x"`, 2, jsonscan.BadEscape},
		{`"\u12G4"`, 5, jsonscan.BadEscape},
		{`-a`, 1, jsonscan.BadNumber},
		{`1.e`, 2, jsonscan.BadNumber},
		{`[1e]`, 3, jsonscan.BadNumber},
		{`[truE`, 4, jsonscan.BadLiteral},
		{strings.Repeat("[", 10001), 10000, jsonscan.TooDeep},
	} {
		t.Run(test.text[:min(len(test.text), 20)], func(t *testing.T) {
			var m jsonscan.Machine
			m.Reset(0)
			n := jsonscan.Feed(&m, test.text)
			require.Equal(t, test.fault, m.End())
			require.Equal(t, test.at, n)
			require.Equal(t, test.fault == jsonscan.CutOff, m.Fault() == "")
			require.False(t, m.Done())
			require.Equal(t, test.fault == jsonscan.CutOff, test.fault.Is(io.ErrUnexpectedEOF))
			if m.Fault() != "" {
				require.Zero(t, jsonscan.Feed(&m, "1"), "a fault is the end")
				require.Equal(t, test.fault, m.End())
			}
		})
	}
}

func TestMachineEndsWithTheValue(t *testing.T) {
	for text, want := range map[string]int{`{} `: 2, ` [1]]`: 4, `1,`: 1, `12 3`: 2, `"a"b`: 3, `nullx`: 4, `-0.5e1]`: 6, `{}{}`: 2} {
		for size := 1; size <= len(text); size++ {
			var m jsonscan.Machine
			_, end, _ := machineVerdict(&m, split(text, size)...)
			require.Equal(t, want, end, "%s in pieces of %d", text, size)
			require.True(t, m.Done())
		}
	}
}

func TestDepthIsThatOfEncodingJSON(t *testing.T) {
	for _, outer := range []int{0, 1, 2, 9999, 10000} {
		for _, n := range []int{0, 1, 9998, 9999, 10000, 10001} {
			text := strings.Repeat("[", n) + "1" + strings.Repeat("]", n)
			around := strings.Repeat("[", outer) + text + strings.Repeat("]", outer)
			var m jsonscan.Machine
			m.Reset(outer)
			jsonscan.Feed(&m, text)
			require.Equal(t, json.Valid([]byte(around)), m.End() == "", "%d in %d", n, outer)

			var s jsonscan.Scanner
			s.Reset(text, 0, outer)
			s.Skip()
			require.Equal(t, json.Valid([]byte(around)), !s.Failed(), "%d in %d", n, outer)
		}
	}
}

func TestScannerEntersNoObjectThatIsTooDeep(t *testing.T) {
	for outer, want := range map[int]bool{jsonscan.MaxDepth - 1: true, jsonscan.MaxDepth: false} {
		var s jsonscan.Scanner
		s.Reset(`{"a":1}`, 0, outer)
		s.Skip()
		require.Equal(t, want, !s.Failed(), outer)
	}
}

func TestMachineCountsBlanks(t *testing.T) {
	for text, want := range map[string]int{`{"a b":"c d"}`: 0, `{"a": 1}`: 1, "[\n1 ,\t2\r]": 4, `[]`: 0, `[ ]`: 1} {
		var m jsonscan.Machine
		m.Reset(0)
		jsonscan.Feed(&m, text)
		require.Equal(t, want, m.Blanks, text)
	}
}

func FuzzMachine(f *testing.F) {
	for _, list := range texts {
		for _, text := range list {
			f.Add(text, 1, 3)
		}
	}
	f.Fuzz(func(t *testing.T, text string, first, size int) {
		var m jsonscan.Machine
		valid, end, fault := machineVerdict(&m, text)
		require.Equal(t, json.Valid([]byte(text)), valid, "%s", fault)
		cut := max(0, min(first, len(text)))
		for _, pieces := range [][]string{split(text, 1), split(text, size&0xF), {text[:cut], text[cut:]}, {text[:cut], "", text[cut:], ""}} {
			v, e, f := machineVerdict(&m, pieces...)
			require.Equal(t, []any{valid, end, fault}, []any{v, e, f}, "%q", pieces)
		}
		if fault == "" { // encoding/json ends where the machine does
			dec := json.NewDecoder(strings.NewReader(text))
			require.NoError(t, dec.Decode(new(json.RawMessage)))
			require.Equal(t, int(dec.InputOffset()), end)
		}
	})
}

// requireString asserts that a scanner reads a literal, which stands at the beginning of text, as encoding/json does.
func requireString(t *testing.T, text string) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	var want string
	err := dec.Decode(&want)
	var s jsonscan.Scanner
	s.Reset(text, 0, 0)
	got := s.String()
	require.Equal(t, err != nil, s.Failed(), "%q: %v", text, err)
	require.Equal(t, want, got, "%q", text)
	if err == nil {
		require.Equal(t, int(dec.InputOffset()), s.Pos(), "%q", text)
	}
}

func TestScannerStringsAreThoseOfEncodingJSON(t *testing.T) {
	parts := []string{"", "a", "abcdefg", "abcdefgh", " ", "é", "😀", "\u2028", "\x7f", "\x1f", "\n", "\x00", "\xff", "\xe2\x82", "\xed\xa0\x80", "\xc0\x80", "\x80", "\xa2", "\xdc", "\xf4\x90\x80\x80",
		`\n`, `\\`, `\"`, `\/`, `\b\f\r\t`, `\u0041`, `\u00e9`, `\uD83D\ude00`, `\ud83d`, `\ude00`, `\ud83d\ud83d\ude00`, `\ud83d\u0041`, `\ud83d\n`, `\ud83dx`, `\ude00\ud83d`, `\ufffd`, `\u000`, `\x`, `\U0041`, `\`, `"`, `\u+123`, `\u 123`, `\ud83d\u`, `\ud83d\ude0`}
	for _, a := range parts {
		for _, b := range parts {
			requireString(t, `"`+a+b+`"`)
			requireString(t, `"12345`+a+b+`678901234567"`)
			requireString(t, `"`+a+b)
		}
	}
}

// object reads an object with a scanner: the text of each member's value, the last of equal keys.
func object(text string) (members map[string]string, ok bool) {
	var s jsonscan.Scanner
	s.Reset(text, 0, 0)
	s.Enter()
	members = make(map[string]string)
	for key, ok := s.Member(); ok; key, ok = s.Member() {
		members[key], _ = s.Skip()
	}
	if s.Failed() || strings.Trim(text[s.Pos():], blanks) != "" {
		return nil, false
	}
	return members, true
}

func requireObject(t *testing.T, text string) {
	t.Helper()
	got, ok := object(text)
	want := make(map[string]json.RawMessage)
	valid := strings.HasPrefix(strings.TrimLeft(text, blanks), "{") && json.Unmarshal([]byte(text), &want) == nil
	require.Equal(t, valid, ok, "%q", text)
	if !valid {
		return
	}
	texts := make(map[string]string)
	for key := range maps.Keys(want) {
		texts[key] = string(want[key])
	}
	if diff := cmp.Diff(texts, got); diff != "" {
		t.Errorf("%q (-encoding/json +scanner):\n%s", text, diff)
	}
}

func TestScannerReadsObjectsAsEncodingJSONDoes(t *testing.T) {
	for _, list := range texts {
		for _, text := range list {
			requireObject(t, text)
			requireObject(t, `{"a":`+text+`}`)
			requireObject(t, `{"a": `+text+` ,"b":1}`)
			requireObject(t, `{"a":1,`+text+`:2}`)
		}
	}
}

func TestScannerNumbersAndNull(t *testing.T) {
	for _, after := range []string{",", "}", "]", " ", "", ":", "x", "\x00"} {
		for _, text := range []string{"0", "1", "10", "-1", "-0", "1.5", "1e5", "0.5E-7", "12345678901234567890"} {
			var s jsonscan.Scanner
			s.Reset(text+after, 0, 0)
			require.Equal(t, text, s.Number())
			require.False(t, s.Failed())
			require.Equal(t, len(text), s.Pos())
		}
		for _, text := range []string{"-", "1.", "1e", "-x", "1e+"} {
			var s jsonscan.Scanner
			s.Reset(text+after, 0, 0)
			require.Empty(t, s.Number(), "%q", text+after)
			require.True(t, s.Failed())
		}
	}
	for _, text := range []string{"01,", "00}", "0-1,"} {
		var s jsonscan.Scanner
		s.Reset(text, 0, 0)
		require.Equal(t, "0", s.Number(), "a zero is not followed by digits: %q", text)
	}
	for text, want := range map[string]bool{"null": true, "null,": true, "nul": false, "Null": false, "": false, " null": false} {
		var s jsonscan.Scanner
		s.Reset(text, 0, 0)
		require.Equal(t, want, s.Null(), "%q", text)
	}
}

func TestFailedScannerStaysFailed(t *testing.T) {
	var s jsonscan.Scanner
	s.Reset(`{"a" 1, "b":2}`, 0, 0)
	s.Enter()
	_, ok := s.Member()
	require.False(t, ok)
	for range 3 {
		key, ok := s.Member()
		require.False(t, ok)
		require.Empty(t, key)
		require.Empty(t, s.String())
		text, blanks := s.Skip()
		require.Empty(t, text)
		require.False(t, blanks)
		require.True(t, s.Failed())
	}
	s.Reset(`"x"`, 0, 0)
	require.False(t, s.Failed())
	require.Equal(t, "x", s.String())
}

func FuzzScanner(f *testing.F) {
	for _, list := range texts {
		for _, text := range list {
			f.Add(text)
			f.Add(`{"a":` + text + `}`)
		}
	}
	f.Add(`12345678\ud83d\ude00\ud800é`)
	f.Add("12345678\xff\\n\x80")
	f.Fuzz(func(t *testing.T, text string) {
		requireString(t, `"`+text+`"`)
		requireObject(t, text)
		requireObject(t, `{"`+text+`":"`+text+`"}`)
		requireObject(t, `{"a":`+text+`}`)
	})
}
