package benchmarks

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// faults are bodies that are not quite JSON, or that JSON packages read in
// different ways. Each has a timestamp, because ours has another zero Time.
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

// A contender that finds less has less to do. The README says who does.
func TestFaultsAreFoundAsByEncodingJSON(t *testing.T) {
	for _, c := range Contenders() {
		t.Run(c.Name, func(t *testing.T) {
			if c.Unfit != "" {
				t.Skip(c.Unfit)
			}
			var deviations []string
			for _, fault := range faults {
				if !asEncodingJSON(c, []byte(fault.body)) {
					deviations = append(deviations, fault.name)
				}
			}
			require.Equal(t, c.Deviations, deviations)
		})
	}
}

// Ours is not compared here: it reads some spellings that encoding/json refuses.
// Its own tests compare the two.
func TestRandomFaultsAreFoundAsByEncodingJSON(t *testing.T) {
	bodies := damagedBodies(10_000)
	for _, c := range []Contender{goccy, goccyTuned} {
		require.Empty(t, c.Deviations)
		for _, body := range bodies {
			require.True(t, asEncodingJSON(c, body), "%s: %q", c.Name, body)
		}
	}
	for _, c := range Contenders() {
		if c.Unfit == "" && c.Deviations != nil {
			require.True(t, slices.ContainsFunc(bodies, func(body []byte) bool { return !asEncodingJSON(c, body) }), c.Name)
		}
	}
}

// asEncodingJSON reports whether the contender makes of a body what
// encoding/json makes of it.
func asEncodingJSON(c Contender, body []byte) bool {
	want, wantErr := encodingJSON.parsed(Envelope, body)
	got, err := c.parsed(Envelope, body)
	return (err == nil) == (wantErr == nil) && (err != nil || reflect.DeepEqual(want, got))
}

// damagedBodies returns bodies with a piece put in, or some bytes taken out, in
// one or two places. No piece has a capital letter, because encoding/json alone
// ignores the case of names.
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
