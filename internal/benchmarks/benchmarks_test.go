package benchmarks

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func BenchmarkParse(b *testing.B) { benchmarkParse(b, batchSize) }

func BenchmarkOne(b *testing.B) { benchmarkParse(b, 1) }

func benchmarkParse(b *testing.B, events int) {
	for _, f := range forms {
		for _, c := range contenders() {
			b.Run(fmt.Sprintf("%s/%s", f, c.name), func(b *testing.B) { timeParse(b, c, f, body(f, events), events) })
		}
	}
}

func BenchmarkStream(b *testing.B) {
	for _, f := range forms {
		for _, c := range contenders() {
			if c.stream[f] != nil {
				b.Run(fmt.Sprintf("%s/%s", f, c.name), func(b *testing.B) { timeStream(b, c, f, body(f, streamSize), streamSize) })
			}
		}
	}
}

func timeParse(b *testing.B, c contender, f form, body []byte, events int) {
	if c.unfit != "" {
		b.Skip(c.unfit)
	}
	require.NoError(b, parsesAsOurs(c, f, body))
	againstHMAC(b, c, body, events, func() (int, error) { return c.countParsed(f, body) })
}

func timeStream(b *testing.B, c contender, f form, body []byte, events int) {
	if c.unfit != "" {
		b.Skip(c.unfit)
	}
	require.NoError(b, streamsAsOurs(c, f, body))
	againstHMAC(b, c, body, events, func() (int, error) { return c.countStreamed[f](bytes.NewReader(body)) })
}

// againstHMAC times count and tells how much longer it takes than the HMAC of body, which nobody can do without.
func againstHMAC(b *testing.B, c contender, body []byte, events int, count func() (int, error)) {
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if n, err := count(); n != events || err != nil {
			b.Fatal(n, err)
		}
	}
	start := time.Now()
	for range b.N {
		mw.Sign(body, "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e")
	}
	b.ReportMetric(float64(b.Elapsed())/float64(time.Since(start)), "×HMAC")
	b.ReportMetric(float64(len(c.deviations)), "deviations")
}
