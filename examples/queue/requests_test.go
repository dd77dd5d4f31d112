package main

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// send sends a body with this signature, or without one, and returns the status
// of the answer.
func send(t *testing.T, method, address, body, signature string, header http.Header) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+address, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	maps.Copy(req.Header, header)
	if signature != "" {
		req.Header.Set(mailtrapwebhook.SignatureHeader, signature)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	return resp.StatusCode
}

// Whoever watches the program must see why it refuses deliveries.
func TestMetricsShowRefusedRequests(t *testing.T) {
	program := startProgram(t, "-dir", t.TempDir(), "-max-bytes", "4000")
	value := func(series string) float64 {
		_, text := fetch(t, "http://"+program.metrics+"/metrics")
		value, ok := valueIn(text, "mailtrap_webhook_"+series)
		require.True(t, ok, "no %s in\n%s", series, text)
		return value
	}
	var tooMany []string
	for i := range 100 {
		tooMany = append(tooMany, bounce(strconv.Itoa(i)))
	}
	body, full := envelope(bounce("m-1")), envelope(tooMany...)
	sign := func(body string) string { return mailtrapwebhook.Sign([]byte(body), testSecret) }
	broken, text, large := `{"events":[`, "neither of the formats", envelope(strings.Repeat("1,", 10_000)+"1")
	for _, test := range []struct {
		status, reason          string
		method, body, signature string
		header                  http.Header
		verified                bool
	}{
		{"400", wrongSignature, "POST", body, mailtrapwebhook.Sign([]byte(body), "another secret"), nil, false},
		{"400", noSignature, "POST", body, "", nil, false},
		{"400", badBody, "POST", "", sign(body), nil, false},
		{"405", "", "GET", "", "", nil, false},
		{"415", "", "POST", body, sign(body), http.Header{"Content-Encoding": {"gzip"}}, false},
		{"413", "", "POST", large, sign(large), nil, true},
		{"422", "", "POST", broken, sign(broken), nil, true},
		{"422", "", "POST", text, sign(text), nil, true},
		{"200", "", "POST", body, sign(body), nil, true},
		{"500", "", "POST", full, sign(full), nil, true},
	} {
		series := fmt.Sprintf("requests_total{reason=%q,status=%q}", test.reason, test.status)
		const deliveries, lastDelivery = "delivery_duration_seconds_count", "last_delivery_timestamp_seconds"
		requestsBefore, deliveriesBefore, began := value(series), value(deliveries), time.Now()
		status := send(t, test.method, program.address, test.body, test.signature, test.header)
		require.Equal(t, test.status, strconv.Itoa(status))
		require.Equal(t, requestsBefore+1, value(series), series)
		if test.verified {
			require.Equal(t, deliveriesBefore+1, value(deliveries), series)
			last := time.UnixMilli(int64(value(lastDelivery) * 1000))
			require.WithinRange(t, last, began.Add(-time.Second), time.Now().Add(time.Second))
		} else { // or strangers' requests would hide that Mailtrap's stay away
			require.Equal(t, deliveriesBefore, value(deliveries), series)
			require.Zero(t, value(lastDelivery), series)
		}
	}
	require.EqualValues(t, 0, value(`requests_total{reason="",status="503"}`), "it must begin at 0")
	require.Equal(t, exitOK, program.end(t))
}
