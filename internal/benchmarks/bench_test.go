package benchmarks

import (
	"bytes"
	"testing"
)

// BenchmarkParse decodes a delivery of 500 events.
func BenchmarkParse(b *testing.B) {
	each(b, BatchSize, func(c Contender) bool { return true }, func(c Contender, f Form, body []byte) (int, error) {
		return c.Parse(f, body)
	})
}

// BenchmarkStream decodes 100,000 events from a reader.
func BenchmarkStream(b *testing.B) {
	each(b, StreamSize, func(c Contender) bool { return c.Stream != nil }, func(c Contender, f Form, body []byte) (int, error) {
		return c.Stream(f, bytes.NewReader(body))
	})
}

func each(
	b *testing.B, events int, can func(Contender) bool, decode func(c Contender, f Form, body []byte) (int, error),
) {
	for _, f := range Forms {
		body := Body(f, events)
		for _, c := range Contenders() {
			if c.Unfit != "" || !can(c) {
				continue
			}
			b.Run(string(f)+"/"+c.Name, func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					if n, err := decode(c, f, body); n != events || err != nil {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}
