package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTablesHoldMediansTheQuickestFirst(t *testing.T) {
	var with, without results
	for _, out := range []string{
		"cpu: A\nBenchmarkParse/JSON_Lines/encoding/json \t 10\t 3000000 ns/op\t 90.5 MB/s\t 20.00 ×HMAC\t 0 deviations\t 2000 B/op\t 7 allocs/op\n",
		"cpu: A\nBenchmarkParse/JSON_Lines/encoding/json \t 10\t 1000000 ns/op\t 70.5 MB/s\t 10.00 ×HMAC\t 0 deviations\t 2000 B/op\t 7 allocs/op\n",
		"BenchmarkParse/JSON_Lines/encoding/json \t 10\t 1234567 ns/op\t 80.5 MB/s\t 12.00 ×HMAC\t 0 deviations\t 2000 B/op\t 7 allocs/op\n" +
			"BenchmarkParse/JSON_Lines/mailtrapwebhook \t 10\t 500 ns/op\t 300 MB/s\t 2.00 ×HMAC\t 0 deviations\t 150 B/op\t 1 allocs/op\n" +
			"BenchmarkParse/JSON_Lines/lax \t 10\t 600 ns/op\t 250 MB/s\t 2.50 ×HMAC\t 2.000 deviations\t 150 B/op\t 1 allocs/op\nPASS\n",
	} {
		with.add(out)
	}
	without.add("BenchmarkParse/JSON_Lines/encoding/json \t 10\t 9 ns/op\t 3.00 ×HMAC\n")
	without.add("BenchmarkParse/JSON_Lines/encoding/json \t 10\t 9 ns/op\t 5.00 ×HMAC\n")

	var b strings.Builder
	require.NoError(t, writeTables(&b, with, without))
	require.Equal(t, "A", with.cpu)
	require.Equal(t, `
**Parse, JSON Lines**

| | time | MB/s | × HMAC | × HMAC without SHA instructions | kB allocated | allocations |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| **mailtrapwebhook** | 500ns | 300 | 2.00 | 0.00 | 0.1 | 1 |
| lax † | 600ns | 250 | 2.50 | 0.00 | 0.1 | 1 |
| encoding/json | 1.23ms | 80 | 12.00 | 4.00 | 2.0 | 7 |
`, b.String())
}

func TestBenchmarksOfOtherNamesAreRefused(t *testing.T) {
	var r results
	r.add("BenchmarkOther \t 10\t 9 ns/op\n")
	require.ErrorContains(t, writeTables(&strings.Builder{}, r, r), "BenchmarkOther")
}
