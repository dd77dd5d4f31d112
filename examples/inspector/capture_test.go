package main

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// awkward is a body with what a text format could lose.
var awkward = []byte("\r\n\r\n{\"event\":\"open\"}\x00\xff\r\nPOST / HTTP/1.1\r\n\n")

func TestACaptureIsReadAsItWasWritten(t *testing.T) {
	r := signedRequest(awkward)
	r.Header["X-Several"] = []string{"one", "two"}
	c := newCapture(r, awkward, time.Now())
	c.id, c.source, c.replayOf, c.remote = 17, sourceReplayed, 12, "[2001:db8::1]:443"
	c.answer = answer{status: 502, duration: 1234567, err: "nothing\nlistens", forwarded: true}

	var file bytes.Buffer
	require.NoError(t, c.writeTo(&file))
	require.True(t, bytes.HasSuffix(file.Bytes(), append([]byte("\r\n\r\n"), awkward...)))
	got, err := readCapture(&file)
	require.NoError(t, err)
	c.header.Set("Content-Length", strconv.Itoa(len(awkward)))
	c.answer.err = "nothing\uFFFDlistens"
	require.Equal(t, c, got)
}

func TestNetHTTPReadsACapture(t *testing.T) {
	body := sampleBody("bounce")
	file, err := os.Open(writeCapture(t, testSecret, body))
	require.NoError(t, err)
	defer file.Close()
	r, err := http.ReadRequest(bufio.NewReader(file))
	require.NoError(t, err)
	verifier, err := mailtrapwebhook.NewVerifier(testSecret)
	require.NoError(t, err)
	got, err := verifier.VerifyRequest(r)
	require.NoError(t, err)
	require.Equal(t, body, got)
}

func TestACaptureKeepsNoSecrets(t *testing.T) {
	r := signedRequest([]byte("{}"))
	r.Header.Set("Authorization", "Bearer hunter2")
	r.Header.Set("Proxy-Authorization", "hunter2")
	r.Header.Set("Cookie", "session=hunter2")
	r.URL.RawQuery = "token=hunter2&hunter2&a%0d%0ahunter2=1"
	c := newCapture(r, []byte("{}"), time.Now())
	require.NotContains(t, string(c.bytes()), "hunter2")
	require.Equal(t, webhookPath+"?token=removed&parameter=removed&parameter=removed", c.target)
	require.NotEmpty(t, r.Header.Get("Authorization"), "the request itself must go on unchanged")
}

func TestASenderCannotForgeTheInspectorsOwnHeaders(t *testing.T) {
	r := signedRequest([]byte("{}"))
	r.Header.Set("Inspector-Status", "200")
	r.Header.Set("Inspector-Id", "3")
	c := newCapture(r, []byte("{}"), time.Now())
	got, err := readCapture(bytes.NewReader(c.bytes()))
	require.NoError(t, err)
	require.Zero(t, got.answer.status)
	require.Zero(t, got.id)
}

func TestACaptureThatIsNotWholeIsNotRead(t *testing.T) {
	whole, err := os.ReadFile(writeCapture(t, testSecret, sampleBody("bounce")))
	require.NoError(t, err)
	for n := range whole {
		_, err := readCapture(bytes.NewReader(whole[:n]))
		require.Equal(t, errNotWhole, err, "the first %d bytes", n)
	}
	for name, file := range map[string]string{
		"another line":  string(whole) + "\n",
		"no length":     strings.Replace(string(whole), "Content-Length", "Content-Width", 1),
		"chunks":        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"another kind":  `{"event":"open"}`,
		"a GET":         "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
		"a huge length": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8388609\r\n\r\n",
	} {
		_, err := readCapture(strings.NewReader(file))
		require.Equal(t, errNotWhole, err, name)
	}
	_, err = readCapture(io.LimitReader(strings.NewReader(strings.Repeat("a", 10<<20)), 10<<20))
	require.Equal(t, errNotWhole, err)
}

func FuzzReadCapture(f *testing.F) {
	c := newCapture(signedRequest(awkward), awkward, time.Unix(1e9, 0))
	f.Add(c.bytes())
	f.Add([]byte("POST / HTTP/1.1\nContent-Length: 2\nInspector-Id: 4\n\n{}"))
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := readCapture(bytes.NewReader(file))
		if err != nil {
			require.Equal(t, errNotWhole, err)
			return
		}
		// What was read can be written and read again.
		again, err := readCapture(bytes.NewReader(c.bytes()))
		require.NoError(t, err)
		require.Equal(t, c.body, again.body)
		require.Equal(t, c.header.Values("Mailtrap-Signature"), again.header.Values("Mailtrap-Signature"))
	})
}

func TestAFileIsWrittenWholeOrNotAtAll(t *testing.T) {
	dir, err := openDir(filepath.Join(t.TempDir(), "captures"))
	require.NoError(t, err)
	c := newCapture(signedRequest([]byte("{}")), []byte("{}"), time.Now())
	c.id = 1
	require.NoError(t, dir.save(c))
	c.answer.status = 200
	require.NoError(t, dir.save(c)) // takes the place of the first
	entries, err := os.ReadDir(dir.path)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, c.fileName(), entries[0].Name())
	info, err := entries[0].Info()
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	folder, err := os.Stat(dir.path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), folder.Mode().Perm())
	content, err := os.ReadFile(filepath.Join(dir.path, entries[0].Name()))
	require.NoError(t, err)
	require.Equal(t, c.bytes(), content)
}

func TestFileNamesSortByTime(t *testing.T) {
	early := &capture{id: 10, receivedAt: time.Date(2026, 11, 26, 8, 0, 0, 5e6, time.UTC)}
	late := &capture{id: 9, receivedAt: time.Date(2026, 11, 26, 8, 0, 0, 123e6, time.UTC)}
	require.Equal(t, "20261126T080000.005Z-10.http", early.fileName())
	require.Less(t, early.fileName(), late.fileName())
}

func TestLoadTakesTheNewestThatFit(t *testing.T) {
	dir, err := openDir(t.TempDir())
	require.NoError(t, err)
	one := 0
	for id := range 5 {
		c := newCapture(signedRequest([]byte("{}")), []byte("{}"), time.Unix(int64(1e9+id), 0))
		c.id = id + 1
		require.NoError(t, dir.save(c))
		one = c.size() + 100
	}
	captures, err := dir.load(3*one, &printer{w: io.Discard})
	require.NoError(t, err)
	require.Len(t, captures, 3)
	require.Equal(t, 3, captures[0].id)
	require.Equal(t, 5, captures[2].id)
}

func TestCapturesWithoutAnIDOfTheirOwnGetOne(t *testing.T) {
	captures := []*capture{{id: 0}, {id: 2}, {id: 2}, {id: 7}, {id: -1}}
	number(captures)
	var ids []int
	for _, c := range captures {
		ids = append(ids, c.id)
	}
	require.Equal(t, []int{8, 2, 9, 7, 10}, ids)
}

func TestACaptureThatAPersonWroteHasTheTimeOfItsFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mine.http")
	file := "POST /webhooks/mailtrap HTTP/1.1\nHost: example.com\nContent-Length: 16\n\n" + `{"event":"open"}`
	require.NoError(t, os.WriteFile(name, []byte(file), 0o600))
	c, err := readCaptureFile(name)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), c.receivedAt, time.Minute)
	require.Equal(t, `{"event":"open"}`, string(c.body))
}

func TestACaptureCannotHaveATimeOrAnIDThatTheAPICannotShow(t *testing.T) {
	for _, received := range []string{
		"2026-11-26T08:00:00+24:00", "9999-12-31T23:59:59-23:00", "0000-01-01T00:00:00+10:00",
	} {
		file := "POST / HTTP/1.1\nHost: example.com\nContent-Length: 2\nInspector-Received: " + received +
			"\nInspector-Id: 9223372036854775807\n\n{}"
		c, err := readCapture(strings.NewReader(file))
		require.NoError(t, err)
		captures := []*capture{c, {}}
		number(captures)
		require.Equal(t, 1, c.id)
		require.Equal(t, 2, captures[1].id)
		s := newStore()
		require.NotPanics(t, func() { s.add(inspect(c, nil)) }, received)
	}
}
