package main

import (
	"log/slog"
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// One sender delivers new events: 10,000 at a time to a cluster that does not
// sync, and 500 at a time to the server inside the program, which does.
func BenchmarkDelivery(b *testing.B) {
	cluster := func(replicas int) func(*testing.B) options {
		return func(b *testing.B) options {
			return options{nats: servers{urls: startCluster(b).urls()}, replicas: replicas, maxBytes: 4 << 30}
		}
	}
	inside := func(b *testing.B) options { return options{dir: b.TempDir(), replicas: 1, maxBytes: 4 << 30} }
	for _, run := range []struct {
		name   string
		opts   func(*testing.B) options
		events int
	}{
		{"cluster/replicas=1", cluster(1), 10_000},
		{"cluster/replicas=3", cluster(3), 10_000},
		{"inside", inside, 500},
	} {
		b.Run(run.name, func(b *testing.B) {
			q := openTestQueue(b, run.opts(b))
			verifier, err := mailtrapwebhook.NewVerifier(testSecret)
			require.NoError(b, err)
			address := httptestServer(b, newHandler(verifier, q, slog.New(slog.DiscardHandler)))
			texts := make([]string, run.events)
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
