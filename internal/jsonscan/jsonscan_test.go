package jsonscan_test

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
	"github.com/stretchr/testify/require"
)

const blanks = " \t\r\n"

// texts are JSON (y) and nearly JSON (n): cases in which parsers are known to
// differ.
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

// scan returns the end of the first value in text, and what is wrong with the
// text.
func scan(text string) (end int, fault jsonscan.Fault, at int) {
	start := len(text) - len(strings.TrimLeft(text, blanks))
	var s jsonscan.Scanner
	s.Reset([]byte(text))
	end = s.Value(start, 0)
	if fault, at = s.Fault(); fault == "" && strings.Trim(text[end:], blanks) != "" {
		return end, jsonscan.TrailingBytes, end
	}
	return end, fault, at
}

// requireVerdict asserts that the scanner takes text for JSON if encoding/json
// does.
func requireVerdict(t *testing.T, text string) {
	t.Helper()
	end, fault, at := scan(text)
	require.Equal(t, json.Valid([]byte(text)), fault == "", "%q: %s at %d", text, fault, at)
	if fault == "" {
		dec := json.NewDecoder(strings.NewReader(text))
		require.NoError(t, dec.Decode(new(json.RawMessage)))
		require.Equal(t, int(dec.InputOffset()), end, "%q: the end of the value", text)
	}
	require.LessOrEqual(t, at, len(text))
}

func TestVerdictsAreThoseOfEncodingJSON(t *testing.T) {
	for letter, list := range texts {
		for _, text := range list {
			t.Run(fmt.Sprintf("%c %q", letter, text), func(t *testing.T) {
				require.Equal(t, letter == 'y', json.Valid([]byte(text)), "the table is wrong")
				requireVerdict(t, text)
				requireVerdict(t, `[`+text+`]`)
				requireVerdict(t, `[1, `+text+` ,2]`)
				requireVerdict(t, `{"a":`+text+`}`)
				requireVerdict(t, `{"a": `+text+` ,"b":1}`)
				requireVerdict(t, `{`+text+`:1}`)
			})
		}
	}
}

func TestEveryByteInAString(t *testing.T) {
	for c := range 256 {
		for before := range 18 { // the scanner reads eight bytes at a time
			requireVerdict(t, `"`+strings.Repeat("x", before)+string([]byte{byte(c)})+`"`)
			requireVerdict(t, `"`+strings.Repeat("x", before)+string([]byte{byte(c)})+`xxxxxxxxxx"`)
			requireVerdict(t, `"`+strings.Repeat("\x7f", before)+string([]byte{byte(c), '"'}))
		}
	}
}

func TestFaultsAndWhereTheyAre(t *testing.T) {
	for _, test := range []struct {
		text  string
		at    int
		fault jsonscan.Fault
	}{
		{`[1,`, 3, jsonscan.CutOff},
		{``, 0, jsonscan.CutOff},
		{`-`, 1, jsonscan.CutOff},
		{`"abc`, 4, jsonscan.CutOff},
		{`"\u12`, 5, jsonscan.CutOff},
		{`"\`, 2, jsonscan.CutOff},
		{`tru`, 3, jsonscan.CutOff},
		{`{"a"`, 4, jsonscan.CutOff},
		{`{"a":`, 5, jsonscan.CutOff},
		{`{"a":1`, 6, jsonscan.CutOff},
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
		{`{} {`, 2, jsonscan.TrailingBytes},
		{strings.Repeat("[", 10001), 10000, jsonscan.TooDeep},
		{strings.Repeat(`{"":`, 10001), 40000, jsonscan.TooDeep},
	} {
		t.Run(test.text[:min(len(test.text), 20)], func(t *testing.T) {
			_, fault, at := scan(test.text)
			require.Equal(t, test.fault, fault)
			require.Equal(t, test.at, at)
			require.Equal(t, test.fault == jsonscan.CutOff, fault.Is(io.ErrUnexpectedEOF))
		})
	}
}

func TestTheFirstFaultStays(t *testing.T) {
	var s jsonscan.Scanner
	s.Reset([]byte(`[1,x,y]`))
	require.Equal(t, 7, s.Value(0, 0), "a fault ends the text")
	require.Equal(t, 7, s.Value(7, 0))
	s.CutOff()
	fault, at := s.Fault()
	require.Equal(t, jsonscan.BadValue, fault)
	require.Equal(t, 3, at)

	s.Reset([]byte(`12`))
	s.Value(0, 0)
	fault, _ = s.Fault()
	require.Empty(t, fault)
	s.CutOff()
	fault, at = s.Fault()
	require.Equal(t, jsonscan.CutOff, fault)
	require.Equal(t, 2, at)
}

func TestDepthIsThatOfEncodingJSON(t *testing.T) {
	for _, outer := range []int{0, 1, 2, 9999, 10000} {
		for _, n := range []int{0, 1, 9998, 9999, 10000, 10001} {
			for _, form := range [][3]string{{"[", "1", "]"}, {`{"a":`, "1", "}"}} {
				text := strings.Repeat(form[0], n) + form[1] + strings.Repeat(form[2], n)
				around := strings.Repeat("[", outer) + text + strings.Repeat("]", outer)
				var s jsonscan.Scanner
				s.Reset([]byte(text))
				s.Value(0, outer)
				fault, _ := s.Fault()
				require.Equal(t, json.Valid([]byte(around)), fault == "", "%d in %d", n, outer)
				if n > 0 && form[0] != "[" {
					s.Reset([]byte(text))
					s.Find(jsonscan.NewKeys(), outer, jsonscan.None, new(jsonscan.Members))
					found, _ := s.Fault()
					require.Equal(t, fault, found, "%d in %d", n, outer)
				}
			}
		}
	}
}

func FuzzScanner(f *testing.F) {
	for _, list := range texts {
		for _, text := range list {
			f.Add(text)
			f.Add(`{"a":` + text + `}`)
			f.Add(`{"a":1,"b":[` + text + `],"a":"\u0061"}`)
		}
	}
	f.Add(`12345678\ud83d\ude00\ud800é`)
	f.Add("12345678\xff\\n\x80")
	f.Fuzz(func(t *testing.T, text string) {
		requireVerdict(t, text)
		requireVerdict(t, `"`+text+`"`)
		requireMembers(t, text)
		requireMembers(t, `{"`+text+`":"`+text+`"}`)
		requireMembers(t, `{"a":`+text+`,"b":{"c":`+text+`}}`)
		requireUnquoted(t, text)
	})
}
