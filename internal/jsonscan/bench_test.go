package jsonscan_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
)

// BenchmarkValidate is a pass over a delivery that notes nothing, beside the
// HMAC of the same bytes.
func BenchmarkValidate(b *testing.B) {
	const plain = `{"event":"delivery","timestamp":1728669700,"sending_stream":"transactional","category":"Password reset",` +
		`"custom_variables":{"user_id":"123"},"message_id":"1df37d17-0286-4d8b-8edf-bc4ec5be86e6","email":"receiver@example.com",` +
		`"event_id":"bede7236-2284-43d6-a953-1fdcafd0fdbc","sending_domain_name":"example.com"},`
	const escaped = `{"event":"click","timestamp":1728669700,"sending_stream":"transactional","category":"Password reset",` +
		`"message_id":"1df37d17-0286-4d8b-8edf-bc4ec5be86e6","email":"receiver@example.com","event_id":"bede7236-2284-43d6-a953-1fdcafd0fdbc",` +
		`"ip":"142.86.27.2","user_agent":"Mozilla/5.0 (Windows NT x.y; Win64; x64)","url":"https:\/\/example.com\/a?b=c"},`
	body := []byte("[" + strings.Repeat(plain+plain+escaped, 166) + "{}]")
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		var s jsonscan.Scanner
		s.Reset(body)
		s.Value(0, 0)
		if fault, _ := s.Fault(); fault != "" {
			b.Fatal(fault)
		}
	}
	start := time.Now()
	for range b.N {
		mac := hmac.New(sha256.New, []byte("8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"))
		mac.Write(body)
		mac.Sum(nil)
	}
	b.ReportMetric(float64(b.Elapsed())/float64(time.Since(start)), "×HMAC")
}
