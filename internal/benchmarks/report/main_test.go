package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTableHasMediansAndRanges(t *testing.T) {
	var b strings.Builder
	require.NoError(t, writeTable(&b, []string{"old", "new"}, map[string][][]value{
		"old": {{{"a / b", 1}, {"bytes", 196_608}}, {{"a / b", 3}, {"bytes", 196_608}}},
		"new": {
			{{"a / b", 0.5}, {"new / b", 2.125}, {"bytes", 353.4}},
			{{"a / b", 1.5}, {"new / b", 2.25}, {"bytes", 353.4}},
			{{"a / b", 0.75}, {"new / b", 2.5}, {"bytes", 353.4}},
		},
	}))
	require.Equal(t, `| | old | new |
| --- | ---: | ---: |
| a / b | 2.00 (1.00–3.00) | 0.75 (0.50–1.50) |
| new / b | – | 2.25 (2.12–2.50) |
| bytes | 196608 (196608–196608) | 353 (353–353) |
`, b.String())
}

func TestValuesOfABuildAreRead(t *testing.T) {
	values, err := parseValues("a / b\t1.5\nbytes\t353\n")
	require.NoError(t, err)
	require.Equal(t, []value{{"a / b", 1.5}, {"bytes", 353}}, values)
	for _, out := range []string{"", "a / b", "a / b\tmuch\n"} {
		_, err := parseValues(out)
		require.Error(t, err, "%q", out)
	}
}

func TestRatiosAreMediansOfRounds(t *testing.T) {
	times := map[string][]time.Duration{"slow": {20, 90, 40}, "quick": {10, 30, 10}}
	takes := func(name string) task {
		n := 0
		return task{name: name, times: 1, run: func() (time.Duration, error) {
			n++
			return times[name][n-1], nil
		}}
	}
	g := group{
		tasks:  []task{takes("slow"), takes("quick")},
		ratios: []ratio{{"slow / quick", "slow", "quick"}, {"absent / quick", "absent", "quick"}},
	}
	values, err := g.measure(size{}, 3)
	require.NoError(t, err)
	require.Equal(t, []value{{"slow / quick", 3}}, values)
}

// Everything is measured once, in small.
func TestEveryRowIsMeasured(t *testing.T) {
	values, err := measure(size{events: 20, streamed: 100, least: time.Microsecond, delivered: 2}, 1)
	require.NoError(t, err)
	rows := 0
	for _, v := range values {
		require.Positive(t, v.value, v.row)
		rows++
	}
	require.GreaterOrEqual(t, rows, 13)
}
