package mailtrapwebhook_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// A plainDelivery is what a program has that decodes deliveries by encoding/json.
type plainDelivery struct {
	Events []plainEvent `json:"events"`
}

type plainEvent struct {
	Event             string          `json:"event"`
	MessageID         string          `json:"message_id"`
	SendingStream     string          `json:"sending_stream"`
	Email             string          `json:"email"`
	SendingDomainName string          `json:"sending_domain_name"`
	Category          string          `json:"category"`
	CustomVariables   json.RawMessage `json:"custom_variables"`
	Timestamp         int64           `json:"timestamp"`
	EventID           string          `json:"event_id"`
	Reason            string          `json:"reason"`
	Response          string          `json:"response"`
	ResponseCode      int             `json:"response_code"`
	BounceCategory    string          `json:"bounce_category"`
	IP                string          `json:"ip"`
	UserAgent         string          `json:"user_agent"`
	URL               string          `json:"url"`
}

// benchLines returns n sending events of all kinds, as Mailtrap fills them, each on a line of its own.
func benchLines(n int) []string {
	kinds := []string{
		`"delivery"`, `"open","ip":"127.138.158.185","user_agent":"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)"`,
		`"click","ip":"142.86.27.2","user_agent":"Mozilla/5.0 (Windows NT x.y; Win64; x64)","url":"https:\/\/example.com\/a?b=c"`,
		`"unsubscribe","ip":"142.86.27.2","user_agent":"Mozilla/5.0 (Windows NT x.y; Win64; x64)"`, `"spam"`,
		`"soft bounce","response":"4.7.1 Temporary error, please retry","response_code":451,"bounce_category":"greylisting"`,
		`"bounce","response":"[CS01] Message rejected due to \"local policy\"","response_code":555,"bounce_category":"spam"`,
		`"suspension","reason":"Your account has reached its daily sending limit."`,
		`"reject","reason":"Recipient in suppression list. Reason: unsubscription"`,
	}
	variables := []string{
		"", `"user_id":"123"`, `"user_id":1234567890123456789,"trial":true`, `"name":"Zoë","plan":"pro","seats":12`,
		`"a":"1","b":2,"c":"three","d":false`,
	}
	lines := make([]string, n)
	for i := range lines {
		custom := ""
		if v := variables[i%len(variables)]; v != "" {
			custom = `"custom_variables":{` + v + `},`
		}
		lines[i] = fmt.Sprintf(`{"event":%s,"timestamp":%d,"sending_stream":"transactional","category":"Password reset",%s`+
			`"message_id":"1df37d17-0286-4d8b-8edf-%012x","email":"receiver%d@example.com",`+
			`"event_id":"bede7236-2284-43d6-a953-%012x","sending_domain_name":"examplesender.com"}`,
			kinds[i%len(kinds)], 1728669700+i, custom, i, i, i)
	}
	return lines
}

func benchEnvelope(n int) []byte {
	return []byte(`{"events":[` + strings.Join(benchLines(n), ",") + `]}`)
}

// benchBodies are deliveries of the largest batch that Mailtrap sends, in both formats.
func benchBodies() map[string][]byte {
	return map[string][]byte{
		"JSON":       benchEnvelope(500),
		"JSON Lines": []byte(strings.Join(benchLines(500), "\n") + "\n"),
	}
}

// againstHMAC runs f and reports how much longer it takes than the HMAC of body, which nobody can do without.
func againstHMAC(b *testing.B, body []byte, f func()) {
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		f()
	}
	start := time.Now()
	for range b.N {
		mw.Sign(body, testSecret)
	}
	b.ReportMetric(float64(b.Elapsed())/float64(time.Since(start)), "×HMAC")
}

func BenchmarkParse(b *testing.B) {
	for format, body := range benchBodies() {
		b.Run(format, func(b *testing.B) {
			againstHMAC(b, body, func() {
				events, err := mw.Parse(body)
				if err != nil || len(events) != 500 {
					b.Fatal(len(events), err)
				}
			})
		})
	}
	body := benchEnvelope(500)
	b.Run("json.Unmarshal", func(b *testing.B) {
		againstHMAC(b, body, func() {
			var delivery plainDelivery
			if err := json.Unmarshal(body, &delivery); err != nil || len(delivery.Events) != 500 {
				b.Fatal(err)
			}
		})
	})
	one := []byte(benchLines(1)[0])
	b.Run("one event", func(b *testing.B) {
		againstHMAC(b, one, func() { _, _ = mw.Parse(one) })
	})
}

func BenchmarkVerify(b *testing.B) {
	body := benchEnvelope(500)
	signature := mw.Sign(body, testSecret)
	againstHMAC(b, body, func() {
		if err := mw.Verify(body, signature, testSecret); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkVerifyAndParse(b *testing.B) {
	verifier := testVerifier(b, testSecret)
	for format, body := range benchBodies() {
		signature := mw.Sign(body, testSecret)
		b.Run(format, func(b *testing.B) {
			againstHMAC(b, body, func() {
				if _, err := verifier.Parse(body, signature); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// BenchmarkDecoder is the decoding of a file of 100,000 events, of some 40 MB.
func BenchmarkDecoder(b *testing.B) {
	lines := benchLines(100_000)
	for format, body := range map[string][]byte{
		"JSON":       []byte(`{"events":[` + strings.Join(lines, ",") + `]}`),
		"JSON Lines": []byte(strings.Join(lines, "\n")),
	} {
		b.Run(format+"/Decoder", func(b *testing.B) {
			againstHMAC(b, body, func() {
				events := 0
				for _, err := range mw.NewDecoder(bytes.NewReader(body)).Events() {
					if err != nil {
						b.Fatal(err)
					}
					events++
				}
				if events != len(lines) {
					b.Fatal(events)
				}
			})
		})
		b.Run(format+"/json.Decoder", func(b *testing.B) {
			againstHMAC(b, body, func() {
				d := json.NewDecoder(bytes.NewReader(body))
				for range map[string]int{"JSON": 3, "JSON Lines": 0}[format] { // {, "events" and [
					if _, err := d.Token(); err != nil {
						b.Fatal(err)
					}
				}
				events := 0
				for ; d.More(); events++ {
					var ev plainEvent
					if err := d.Decode(&ev); err != nil {
						b.Fatal(err)
					}
				}
				if events != len(lines) {
					b.Fatal(events)
				}
			})
		})
	}
}

// BenchmarkGrowth is the decoding of bodies of different sizes, for the cost of an event in them.
func BenchmarkGrowth(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) { perEvent(b, benchEnvelope(n), n) })
	}
	for _, kib := range []int{1, 20} {
		variables := `"custom_variables":{"a":"` + strings.Repeat("0123456 é\\n", kib<<10/12) + `"},"message_id"`
		for _, n := range []int{1, 100, 1_000} {
			body := bytes.ReplaceAll(benchEnvelope(n), []byte(`"message_id"`), []byte(variables))
			b.Run(fmt.Sprintf("variables=%dKiB/events=%d", kib, n), func(b *testing.B) { perEvent(b, body, n) })
		}
	}
}

func perEvent(b *testing.B, body []byte, n int) {
	againstHMAC(b, body, func() {
		if events, err := mw.Parse(body); err != nil || len(events) != n {
			b.Fatal(len(events), err)
		}
	})
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/event")
}

// BenchmarkNasty is the decoding of bodies that are made to be slow, of MaxBodyBytes by default and of an eighth of it.
func BenchmarkNasty(b *testing.B) {
	for _, size := range []int{1 << 20, 8 << 20} {
		for name, nasty := range nastyBodies(size) {
			body := []byte(nasty.body)
			b.Run(fmt.Sprintf("%s/%dMiB", name, size>>20), func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				for b.Loop() {
					_, _ = mw.Parse(body)
				}
			})
		}
	}
}

func BenchmarkKey(b *testing.B) {
	body := benchEnvelope(500)
	events, err := mw.Parse(body)
	require.NoError(b, err)
	againstHMAC(b, body, func() {
		for _, ev := range events {
			ev.Key()
		}
	})
}

// BenchmarkEndToEnd is a delivery of 500 events over loopback HTTP, the client included. Without the package, programs
// decode either into one struct that has the fields of all kinds, or find out the kind of each event first.
func BenchmarkEndToEnd(b *testing.B) {
	body := benchEnvelope(500)
	verifier := testVerifier(b, testSecret)
	usual := func(decode func(body []byte) (events int, err error)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err == nil {
				err = mw.Verify(body, r.Header.Get(mw.SignatureHeader), testSecret)
			}
			n, decodeErr := decode(body)
			if err != nil || decodeErr != nil || n != 500 {
				w.WriteHeader(http.StatusBadRequest)
			}
		})
	}
	handled := 0
	count := func(context.Context, mw.Event) error {
		handled++
		return nil
	}
	for _, test := range []struct {
		name    string
		handler http.Handler
	}{
		{"Handler without Dedup", &mw.Handler{Verifier: verifier, OnEvent: count, Dedup: noDedup}},
		{"Handler with Dedup", &mw.Handler{Verifier: verifier, OnEvent: count, Dedup: memoryStore(time.Nanosecond, 0)}},
		{"read and verify only", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := verifier.VerifyRequest(r); err != nil {
				w.WriteHeader(http.StatusBadRequest)
			}
		})},
		{"ReadAll, Verify, json.Unmarshal", usual(func(body []byte) (n int, err error) {
			var delivery plainDelivery
			err = json.Unmarshal(body, &delivery)
			return len(delivery.Events), err
		})},
		{"ReadAll, Verify, json.Unmarshal by kind", usual(func(body []byte) (n int, err error) {
			var delivery struct{ Events []json.RawMessage }
			if err := json.Unmarshal(body, &delivery); err != nil {
				return 0, err
			}
			for _, raw := range delivery.Events {
				var kind struct{ Event string }
				var ev plainEvent
				if err := cmp.Or(json.Unmarshal(raw, &kind), json.Unmarshal(raw, &ev)); err != nil {
					return 0, err
				}
			}
			return len(delivery.Events), nil
		})},
	} {
		b.Run(test.name, func(b *testing.B) {
			server := httptest.NewServer(test.handler)
			defer server.Close()
			signature := mw.Sign(body, testSecret)
			againstHMAC(b, body, func() {
				r, _ := http.NewRequest(http.MethodPost, server.URL, bytes.NewReader(body))
				r.Header.Set(mw.SignatureHeader, signature)
				resp, err := server.Client().Do(r)
				if err != nil || resp.StatusCode != http.StatusOK {
					b.Fatal(resp, err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			})
		})
	}
}
