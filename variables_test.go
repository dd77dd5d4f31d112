package mailtrapwebhook_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestVariables(t *testing.T) {
	const text = `{"s":"a\nb","n":9007199254740993,"f":-1.50e+2,"t":true,"z":null,"l":[1, "x"],"o":{"k":{}},"":"empty","s\u0032":"é","é":1,"dup":1,"last":0,"dup":"two"}`
	for name, want := range map[string]struct {
		value any
		text  string
	}{
		"s":    {"a\nb", "a\nb"},
		"n":    {json.Number("9007199254740993"), "9007199254740993"},
		"f":    {json.Number("-1.50e+2"), "-1.50e+2"},
		"t":    {true, "true"},
		"z":    {nil, ""},
		"l":    {[]any{json.Number("1"), "x"}, `[1, "x"]`},
		"o":    {map[string]any{"k": map[string]any{}}, `{"k":{}}`},
		"":     {"empty", "empty"},
		"s2":   {"é", "é"},
		"é":    {json.Number("1"), "1"},
		"dup":  {"two", "two"},
		"last": {json.Number("0"), "0"},
	} {
		value, ok := mw.Variables(text).Get(name)
		require.True(t, ok, name)
		require.Equal(t, want.value, value, name)
		if name != "l" { // Text gives an array as it is spelled, blanks and all
			require.Equal(t, want.text, mw.Variables(text).Text(name), name)
		}
	}
	for _, name := range []string{"S", "k", "no", " s", `"s"`} {
		value, ok := mw.Variables(text).Get(name)
		require.False(t, ok, name)
		require.Nil(t, value)
		require.Empty(t, mw.Variables(text).Text(name))
	}

	var names []string
	all := make(map[string]any)
	for name, value := range mw.Variables(text).All() {
		names = append(names, name)
		all[name] = value
	}
	require.Equal(t, []string{"s", "n", "f", "t", "z", "l", "o", "", "s2", "é", "dup", "last"}, names)
	require.Equal(t, all, mw.Variables(text).Map())
	for range mw.Variables(text).All() {
		break // must not panic
	}
	changed := mw.Variables(text).Map()
	delete(changed, "s")
	require.Contains(t, mw.Variables(text).Map(), "s", "each Map is a new one")
}

func TestVariablesThatAreNoObjectAreEmpty(t *testing.T) {
	for _, text := range []string{"", "null", "5", `"s"`, "[]", `[{"a":1}]`, "{", `{"a"`, `{"a":`, `{"a":1`, `{"a":1,}`, `{"a":1}x`,
		`{"a":1}{"a":1}`, `{"a":01}`, `{a:1}`, `{"a":"\x"}`, `{,"a":1}`, `{"a":1 "b":2}`, `{"a":1}}`, "{\"a\":1}\x00", "{\"a\":1\x00}", `{"a":tru}`} {
		t.Run(text, func(t *testing.T) {
			v := mw.Variables(text)
			value, ok := v.Get("a")
			require.False(t, ok)
			require.Nil(t, value)
			require.Empty(t, v.Text("a"))
			require.Empty(t, v.Map())
			for range v.All() {
				t.Fatal("there is a variable")
			}
		})
	}
	require.Empty(t, mw.Variables(" { } ").Map())
	require.Equal(t, map[string]any{"a": "b"}, mw.Variables(" {\"a\" :\n\"b\"} ").Map())
}

func TestVariablesMarshal(t *testing.T) {
	text, err := json.Marshal(map[string]mw.Variables{"some": `{"b":1,"a":"x"}`, "none": ""})
	require.NoError(t, err)
	require.Equal(t, `{"none":null,"some":{"b":1,"a":"x"}}`, string(text))
	_, err = json.Marshal(mw.Variables(`{"a":`))
	require.Error(t, err)

	var v mw.Variables
	require.NoError(t, json.Unmarshal([]byte(` {"a": 1} `), &v))
	require.Equal(t, "1", v.Text("a"))
	for _, other := range []string{`5`, `"{}"`, `[]`, `true`} {
		require.Error(t, json.Unmarshal([]byte(other), &v), other)
		require.Equal(t, "1", v.Text("a"), "an error changes nothing")
	}
	require.NoError(t, json.Unmarshal([]byte(`null`), &v))
	require.Empty(t, v.Map())
}

func TestVariablesDecode(t *testing.T) {
	v := mw.Variables(`{"user_id":9007199254740993,"plan":"pro"}`)
	var into struct {
		UserID int64  `json:"user_id"`
		Plan   string `json:"plan"`
	}
	require.NoError(t, v.Decode(&into))
	require.Equal(t, int64(9007199254740993), into.UserID)
	require.Equal(t, "pro", into.Plan)
	require.NoError(t, mw.Variables("").Decode(&into))
	require.Equal(t, "pro", into.Plan, "no variables change nothing")
	require.Error(t, v.Decode(nil))
	require.Error(t, mw.Variables(`{"a":`).Decode(&into))

	var numbers map[string]int
	err := mw.Variables(`{"user":"Secret","n":1}`).Decode(&numbers)
	require.ErrorContains(t, err, "int")
	var small struct{ N uint8 }
	for _, err := range []error{err, mw.Variables(`{"n":7777}`).Decode(&small), mw.Variables(`{"n":Secret}`).Decode(&small)} {
		require.Error(t, err)
		require.NotContains(t, err.Error(), "Secret")
		require.NotContains(t, err.Error(), "7777")
		require.NotContains(t, err.Error(), "'S'")
	}

	// Types that decode themselves quote what they cannot read.
	text := mw.Variables(`{"n":"alice@example.com"}`)
	for _, into := range []any{
		new(struct{ N json.Number }), new(struct{ N time.Time }), new(struct{ N netip.Addr }),
		new(struct {
			N int `json:",string"`
		}),
	} {
		err := text.Decode(into)
		require.Error(t, err)
		require.NotContains(t, fmt.Sprintf("%+v", err), "alice")
	}
}

func TestChanges(t *testing.T) {
	const text = `{"name":{"from":"a","to":"b"},"n":{"to":9007199254740993,"from":null},"l":{"from":[1.50],"to":{"x":true}},"five":5,"none":{},` +
		`"null":null,"\u0065mail":{"from":"[FILTERED]","FROM":1,"other":2},"dup":{"from":1},"dup":{"to":2},"fromfrom":{"from":1,"from":2}}`
	want := map[string]mw.Change{
		"name":     {From: "a", To: "b"},
		"n":        {To: json.Number("9007199254740993")},
		"l":        {From: []any{json.Number("1.50")}, To: map[string]any{"x": true}},
		"five":     {},
		"none":     {},
		"null":     {},
		"email":    {From: "[FILTERED]"},
		"dup":      {To: json.Number("2")},
		"fromfrom": {From: json.Number("2")},
	}
	if diff := cmp.Diff(want, mw.Changes(text).Map()); diff != "" {
		t.Errorf("Map (-want +got):\n%s", diff)
	}
	var names []string
	for name, change := range mw.Changes(text).All() {
		names = append(names, name)
		require.Equal(t, want[name], change)
		got, ok := mw.Changes(text).Get(name)
		require.True(t, ok)
		require.Equal(t, change, got)
	}
	require.Equal(t, []string{"name", "n", "l", "five", "none", "null", "email", "dup", "fromfrom"}, names)
	for _, name := range []string{"from", "Name", "x", ""} {
		change, ok := mw.Changes(text).Get(name)
		require.False(t, ok, name)
		require.Zero(t, change)
	}
	for range mw.Changes(text).All() {
		break // must not panic
	}
	for _, text := range []string{"", "null", "5", `{"a":{}`, `[{"a":{}}]`} {
		_, ok := mw.Changes(text).Get("a")
		require.False(t, ok, text)
		require.Empty(t, mw.Changes(text).Map(), text)
	}
}

func TestChangesMarshal(t *testing.T) {
	text, err := json.Marshal([]mw.Changes{`{"b":{"to":1},"a":{}}`, ""})
	require.NoError(t, err)
	require.Equal(t, `[{"b":{"to":1},"a":{}},null]`, string(text))
	var c mw.Changes
	require.NoError(t, json.Unmarshal([]byte(` {"a": {"to" :1}} `), &c))
	require.Equal(t, mw.Changes(`{"a":{"to":1}}`), c)
	require.Error(t, json.Unmarshal([]byte(`[]`), &c))
	require.Equal(t, mw.Changes(`{"a":{"to":1}}`), c, "an error changes nothing")
	require.NoError(t, json.Unmarshal([]byte(`null`), &c))
	require.Empty(t, c)
}
