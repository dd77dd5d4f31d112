package jsonscan_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
	"github.com/stretchr/testify/require"
)

// names are the keys that the tests look for. Some have the same length, and
// one is empty.
var names = []string{"a", "b", "c", "", "abc", "abd", "events", "é"}

var keys = jsonscan.NewKeys(names...)

// A value is what is found of a member.
type value struct{ Text, Type string }

// found returns the members of keys that Find finds in an object.
func found(s *jsonscan.Scanner, text string) (members map[string]value, ok bool) {
	var m jsonscan.Members
	s.Reset([]byte(text))
	end, _ := s.Find(keys, 0, jsonscan.None, &m)
	if fault, _ := s.Fault(); fault != "" || strings.Trim(text[end:], blanks) != "" {
		return nil, false
	}
	members = make(map[string]value)
	for i, name := range names {
		at := m.At[i]
		if at.To == 0 {
			continue
		}
		v := value{Text: text[at.From:at.To]}
		for typ, set := range map[string]jsonscan.Set{"string": m.Strings, "number": m.Numbers, "object": m.Objects, "other": m.Others} {
			if set&(1<<i) != 0 {
				v.Type += typ
			}
		}
		if m.NotPlain&(1<<i) != 0 {
			v.Type += ", not plain"
		}
		members[name] = v
	}
	return members, true
}

// wanted returns the members of keys by encoding/json.
func wanted(text string) (members map[string]value, ok bool) {
	var all map[string]json.RawMessage
	if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &all) != nil {
		return nil, false
	}
	members = make(map[string]value)
	for key, raw := range all {
		if !slices.Contains(names, key) {
			continue
		}
		v := value{Text: string(raw), Type: "other"}
		switch c := raw[0]; {
		case c == '"':
			v = value{Text: string(raw[1 : len(raw)-1]), Type: "string"}
			var meant string
			if _ = json.Unmarshal(raw, &meant); meant != v.Text {
				v.Type += ", not plain"
			}
		case c == '{':
			v.Type = "object"
			compact, _ := json.Marshal(json.RawMessage(raw))
			if len(compact) < len(raw) && !strings.ContainsAny(string(raw), "<>&") {
				v.Type += ", not plain"
			}
		case c == '-' || '0' <= c && c <= '9':
			v.Type = "number"
		}
		members[key] = v
	}
	return members, true
}

// requireMembers asserts that Find and Each find what encoding/json finds.
func requireMembers(t *testing.T, text string) {
	t.Helper()
	want, ok := wanted(text)
	if ok && strings.ContainsAny(text, "<>&\u2028\u2029") {
		return // encoding/json escapes these, which hides that an object is not compact
	}
	var s jsonscan.Scanner
	for range 2 { // the second time with guesses
		got, gotOK := Find(&s, text, ok)
		require.Equal(t, ok, gotOK, "%q", text)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-encoding/json +Find):\n%s", text, diff)
		}
	}
	requireEach(t, text)
}

// Find is found for a text that may not begin with a brace, as Find asks for.
func Find(s *jsonscan.Scanner, text string, ok bool) (map[string]value, bool) {
	if !strings.HasPrefix(text, "{") {
		return nil, ok
	}
	return found(s, text)
}

func requireEach(t *testing.T, text string) {
	t.Helper()
	var want map[string]json.RawMessage
	valid := strings.HasPrefix(strings.TrimLeft(text, blanks), "{") && json.Unmarshal([]byte(text), &want) == nil
	got := make(map[string]json.RawMessage)
	require.Equal(t, valid, jsonscan.Each(text, func(key, value string) { got[key] = json.RawMessage(value) }), "%q", text)
	if !valid {
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%q (-encoding/json +Each):\n%s", text, diff)
	}
}

func TestMembersAreThoseOfEncodingJSON(t *testing.T) {
	for _, list := range texts {
		for _, text := range list {
			requireMembers(t, text)
			requireMembers(t, `{"a":`+text+`}`)
			requireMembers(t, `{"abc": `+text+` ,"b":1}`)
			requireMembers(t, `{"a":1,`+text+`:2}`)
			requireMembers(t, `{"\u0061":`+text+`,"abd":`+text+`,"":`+text+`,"\u00e9":[]}`)
		}
	}
	for _, text := range []string{
		`{"a":1,"b":2,"c":3}`, `{"c":1,"a":2}`, `{ "a" : "x" , "b":"y" }`, `{"a":"\n","b":"\u0061"}`, "{\"a\":\"\xff\",\"b\":\"é\"}",
		`{"a":{"b":1},"b":{"a": 1},"c":[{"a":1}]}`, `{"a":"x","a":1}`, `{"a":1,"a":{}}`, `{"a":{ },"a":"y"}`, `{"a":"\n","a":"y"}`, `{"a":null,"a":true,"b":[ ]}`,
		`{"A":1,"abcd":2,"ab":3,"abc":4}`, `{"a":1,"x":2,"b":3,"x":4,"c":5}`,
	} {
		requireMembers(t, text)
	}
}

func TestFindGuessesTheNextKey(t *testing.T) {
	var s jsonscan.Scanner
	for _, text := range []string{
		`{"a":1,"b":2}`, `{"a":1,"b":3}`, `{"a":1,"c":2}`, `{"a":1,"bx":2}`, `{"a":1,"b" :2}`, `{"a":1, "b": 2}`, `{"b":1,"a":2}`, `{"a":1}`, `{"a":1,"b"`,
		`{"a":1,"b":`, `{"a":1,"`, `{"b":1,"b":2}`,
	} {
		want, ok := wanted(text)
		got, gotOK := found(&s, text)
		require.Equal(t, ok, gotOK, text)
		require.Equal(t, want, got, text)
	}
}

func TestFindStopsAtAnArray(t *testing.T) {
	events := slices.Index(names, "events")
	for text, want := range map[string]int{
		`{"events":[1`: 10, `{"a":1,"events": [`: 17, `{"\u0065vents":[]}`: 15, `{"events":5,"events":[`: 21,
		`{"events":{}}`: -1, `{"a":[]}`: -1, `{"a":{"events":[]}}`: -1,
	} {
		var s jsonscan.Scanner
		s.Reset([]byte(text))
		end, stopped := s.Find(keys, 0, events, new(jsonscan.Members))
		fault, _ := s.Fault()
		require.Empty(t, fault, text)
		require.Equal(t, want >= 0, stopped, text)
		if stopped {
			require.Equal(t, want, end, text)
			require.Equal(t, byte('['), text[end])
		}
	}
}
