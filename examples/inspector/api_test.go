package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestADeliveryOpens(t *testing.T) {
	l := startListen(t, testSecret)
	body := sampleBody("bounce", "activity_log.user.login")
	require.Equal(t, 200, l.deliver(t, testSecret, body))
	d := l.detail(t, "1")
	require.Equal(t, l.list(t, "").Deliveries[0], d.summary)
	require.Equal(t, "POST", d.Method)
	require.Equal(t, webhookPath, d.Target)
	require.Regexp(t, `^127\.0\.0\.1:\d+$`, d.Remote)
	require.Contains(t, d.Header, [2]string{"Content-Type", "application/json"})
	require.Contains(t, d.Header, [2]string{"Mailtrap-Signature", mailtrapwebhook.Sign(body, testSecret)})
	require.Len(t, d.Items, 2)
	require.Nil(t, d.Fault)
	require.Equal(t, 200, d.Answer.Status)
	require.Equal(t, len(body), d.Bytes)
	require.Equal(t, "JSON", d.Format)
}

func TestTheAPITellsMillisecondsAlways(t *testing.T) {
	at := time.Date(2026, 11, 26, 8, 0, 0, 880e6, time.UTC)
	require.Equal(t, "2026-11-26T08:00:00.880Z", summaryOf(&delivery{capture: &capture{receivedAt: at}}).ReceivedAt)
	items, _ := itemsOf([]byte(`{"event":"open","timestamp":1795680000}`))
	require.Equal(t, "2026-11-26T08:00:00.000Z", items[0].Time)
	require.Contains(t, string((&capture{receivedAt: at}).bytes()), "Inspector-Received: 2026-11-26T08:00:00.880Z\r\n")
}

func TestABrokenBodyHasItsFault(t *testing.T) {
	l := startListen(t, testSecret)
	require.Equal(t, 422, l.deliver(t, testSecret, []byte("{\"events\":[{\"event\":\"open\"},\n}")))
	d := l.detail(t, "1")
	require.Len(t, d.Items, 1)
	require.Equal(t, 2, d.Fault.Line)
	require.Equal(t, int64(29), d.Fault.Offset)
	require.NotEmpty(t, d.Fault.Text)
}

func TestBodyAndCaptureAreForDownload(t *testing.T) {
	l := startListen(t, testSecret)
	body := []byte(`{"event":"open","x":"<script>alert(1)</script>"}`)
	require.Equal(t, 200, l.deliver(t, testSecret, body))
	for path, name := range map[string]string{"body": `delivery-1\.jsonl`, "capture": `\d{8}T\d{6}\.\d{3}Z-1\.http`} {
		resp, err := http.Get(l.url + "/api/deliveries/1/" + path)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, "application/octet-stream", resp.Header.Get("Content-Type"))
		require.Regexp(t, `^attachment; filename="`+name+`"$`, resp.Header.Get("Content-Disposition"))
		require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
	}
	r, err := http.NewRequest("GET", l.url+"/api/deliveries/1/body", nil)
	require.NoError(t, err)
	_, text := do(t, r)
	require.Equal(t, string(body), text)
}

func TestADownloadedCaptureIsTheFileOnDisk(t *testing.T) {
	dir := t.TempDir()
	l := startListen(t, testSecret, "-dir", dir)
	require.Equal(t, 200, l.deliver(t, testSecret, sampleBody("open")))
	r, err := http.NewRequest("GET", l.url+"/api/deliveries/1/capture", nil)
	require.NoError(t, err)
	_, text := do(t, r)
	file, err := os.ReadFile(captureFiles(t, dir)[0])
	require.NoError(t, err)
	require.Equal(t, string(file), text)
}

func TestInfo(t *testing.T) {
	l := startListen(t, testSecret, "-forward", "http://user:hunter2@127.0.0.1:1/hook?token=hunter2")
	var got info
	l.get(t, "/api/info", &got)
	require.Equal(t, l.url+webhookPath, got.Webhook)
	require.Equal(t, "http://127.0.0.1:1/hook", got.Forward)
	require.Equal(t, 1, got.Secrets)
	require.Contains(t, got.Kinds, "inbound.message_received")
	require.Equal(t, []string{"forged", "repeated", "twice", "late", "broken", "reordered"}, got.Faults)
	require.NotEmpty(t, got.Version)
	require.NotContains(t, l.stdout.String()+l.stderr.String(), "hunter2")
}

func TestErrorsOfTheAPISayWhatToDo(t *testing.T) {
	t.Parallel()
	l := startListen(t, testSecret)
	for _, test := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/api/deliveries/1", "", 404},
		{"GET", "/api/deliveries/x", "", 404},
		{"GET", "/api/deliveries/0/body", "", 404},
		{"POST", "/api/deliveries/1/replay", "{}", 404},
		{"GET", "/api/nothing", "", 404},
		{"DELETE", "/api/deliveries/1", "", 404},
		{"GET", "/api/deliveries?limit=0", "", 400},
		{"GET", "/api/deliveries?limit=1001", "", 400},
		{"GET", "/api/deliveries?limit=x", "", 400},
		{"GET", "/api/deliveries?before=-1", "", 400},
		{"GET", "/api/deliveries?status=ok", "", 400},
		{"GET", "/api/deliveries?verified=maybe", "", 400},
		{"GET", "/api/deliveries?since=yesterday", "", 400},
		{"GET", "/api/deliveries?until=1", "", 400},
		{"POST", "/api/send", "[", 400},
		{"POST", "/api/send", `{"novel":1}`, 400},
		{"POST", "/api/send", `{"kinds":["novel"]}`, 400},
		{"POST", "/api/send", `{"n":10001}`, 400},
		{"POST", "/api/send", `{"n":-1}`, 400},
		{"POST", "/api/send", `{"format":"xml"}`, 400},
		{"POST", "/api/send", `{"fault":"lost"}`, 400},
		{"POST", "/api/send", `{"speed":-1}`, 400},
		{"POST", "/api/send", `{"kinds":["` + string(fill(nil, 64<<10)) + `"]}`, 413},
	} {
		r, err := http.NewRequest(test.method, l.url+test.path, strings.NewReader(test.body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		status, text := do(t, r)
		require.Equal(t, test.want, status, "%s %s: %s", test.method, test.path, text)
		require.Regexp(t, `^\{"error":"[^"]{15,}.*"\}\n$`, text)
	}
	require.Zero(t, l.list(t, "").Total)
}
