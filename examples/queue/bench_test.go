package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// One sender delivers 10,000 new events at a time to a cluster that does not
// sync.
func BenchmarkDelivery(b *testing.B) {
	const events = 10_000
	for _, replicas := range []int{1, 3} {
		b.Run(fmt.Sprint("replicas=", replicas), func(b *testing.B) {
			q := openTestQueue(b, options{
				nats: servers{urls: startCluster(b).urls()}, replicas: replicas, maxBytes: 4 << 30,
			})
			verifier, err := mailtrapwebhook.NewVerifier(testSecret)
			require.NoError(b, err)
			address := httptestServer(b, newHandler(verifier, q, slog.New(slog.DiscardHandler)))
			texts := make([]string, events)
			n := 0
			for b.Loop() {
				b.StopTimer()
				for i := range texts {
					n++
					texts[i] = bounce(strconv.Itoa(n))
				}
				body := envelope(texts...)
				b.StartTimer()
				require.Equal(b, http.StatusOK, post(b, address, body, testSecret))
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
