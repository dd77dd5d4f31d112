package benchmarks

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// faults are bodies that are not quite JSON, or of which JSON packages make different things. Time is there because an
// event without one has another zero Time in ours.
var faults = []struct{ name, body string }{
	{"control character", `{"events":[{"event":"open","timestamp":1,"email":"a` + "\x01" + `b"}]}`},
	{"control character beside an escape", `{"events":[{"event":"open","timestamp":1,"url":"https:` + "\n" + `\/\/example.com"}]}`},
	{"not UTF-8", `{"events":[{"event":"open","timestamp":1,"email":"a` + "\xff" + `b"}]}`},
	{"lone surrogate", `{"events":[{"event":"open","timestamp":1,"email":"a\ud800b"}]}`},
	{"unknown escape", `{"events":[{"event":"open","timestamp":1,"email":"a\xb"}]}`},
	{"unknown escape in custom variables", `{"events":[{"event":"open","timestamp":1,"custom_variables":{"name":"Z\oë","plan":"pro","seats":12}}]}`},
	{"leading zero", `{"events":[{"event":"open","timestamp":01}]}`},
	{"missing comma", `{"events":[{"event":"open" "timestamp":1}]}`},
	{"trailing comma", `{"events":[{"event":"open","timestamp":1},]}`},
	{"a member twice", `{"events":[{"event":"open","event":"click","timestamp":1}]}`},
	{"broken custom variables", `{"events":[{"event":"open","timestamp":1,"custom_variables":{"a":tru}}]}`},
	{"huge number in custom variables", `{"events":[{"event":"open","timestamp":1,"custom_variables":{"a":1e400}}]}`},
	{"broken value that is not read", `{"events":[{"event":"open","timestamp":1,"other":01}]}`},
	{"cut off", `{"events":[{"event":"open","timestamp":1}`},
	{"trailing bytes", `{"events":[{"event":"open","timestamp":1}]}}`},
}

// A contender that finds less has less to do. This is what the README says about who does.
func TestFaultsAreFoundAsByEncodingJSON(t *testing.T) {
	for _, c := range contenders() {
		t.Run(c.name, func(t *testing.T) {
			if c.unfit != "" {
				t.Skip(c.unfit)
			}
			var deviations []string
			for _, fault := range faults {
				if !asEncodingJSON(c, []byte(fault.body)) {
					deviations = append(deviations, fault.name)
				}
			}
			require.Equal(t, c.deviations, deviations)
		})
	}
}

// Those that deviate in none of these must not in others either. Ours is not here, since it takes some types of values
// and spellings that encoding/json does not; its own tests compare the two.
func TestRandomFaultsAreFoundAsByEncodingJSON(t *testing.T) {
	bodies := damagedBodies(10_000)
	for _, c := range []contender{jsonV2AsV1, goJSON, goJSONTuned} {
		require.Empty(t, c.deviations)
		for _, body := range bodies {
			require.True(t, asEncodingJSON(c, body), "%s: %q", c.name, body)
		}
	}
	for _, c := range contenders() {
		if c.unfit == "" && c.deviations != nil {
			require.True(t, slices.ContainsFunc(bodies, func(body []byte) bool { return !asEncodingJSON(c, body) }), c.name)
		}
	}
}

// asEncodingJSON reports whether the contender makes of a body what encoding/json makes of it.
func asEncodingJSON(c contender, body []byte) bool {
	want, wantErr := encodingJSON.parse(formJSON, body)
	got, err := c.parse(formJSON, body)
	return (err == nil) == (wantErr == nil) && (err != nil || reflect.DeepEqual(want, got))
}

// damagedBodies returns bodies with a piece put in, or some bytes taken out, in one or two places. No piece has a capital
// letter: encoding/json does not tell these from small ones in names, and others do.
func damagedBodies(n int) [][]byte {
	pieces := strings.Split("\x00 \x1f \x7f \xff \xc3 \xed\xa0\x80 \t \n \v \\ \" \\u \\ud800 \\udc00 { } [ ] , : 0 - . e9 1e400 null true", " ")
	rnd := rand.New(rand.NewPCG(1, 2))
	bodies := make([][]byte, n)
	for i := range bodies {
		body := []byte(`{"events":[` + line(i) + `,{"event":"open","timestamp":1}]}`)
		for range 1 + rnd.IntN(2) {
			at := rnd.IntN(len(body) - 4)
			if rnd.IntN(2) == 0 {
				body = slices.Insert(body, at, []byte(pieces[rnd.IntN(len(pieces))])...)
			} else {
				body = slices.Delete(body, at, at+1+rnd.IntN(4))
			}
		}
		bodies[i] = body
	}
	return bodies
}
