// Package conformance holds the decoder to encoding/json's verdicts on JSONTestSuite, the collection of texts in which
// JSON parsers are known to differ. The collection is fetched by the go command and not kept here.
package conformance

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const suite = "github.com/nst/JSONTestSuite@v0.0.0-20241122125541-1ef36fa01286"

// texts returns the texts of the collection by their names.
func texts(t *testing.T) map[string]string {
	out, err := exec.Command("go", "mod", "download", "-json", suite).Output()
	require.NoError(t, err, "the go command cannot download %s: %s", suite, out)
	var module struct{ Dir string }
	require.NoError(t, json.Unmarshal(out, &module))
	files, err := filepath.Glob(filepath.Join(module.Dir, "test_*", "*.json"))
	require.NoError(t, err)
	texts := make(map[string]string)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		texts[filepath.Base(file)] = string(text)
	}
	require.Greater(t, len(texts), 330)
	return texts
}

const (
	before = `{"event":"open","event_id":"before"}`
	behind = `{"event":"open","event_id":"behind"}`
)

// TestVerdicts asks for the verdict on each text wherever it may stand.
func TestVerdicts(t *testing.T) {
	valid := 0
	for name, text := range texts(t) {
		t.Run(name, func(t *testing.T) {
			if json.Valid([]byte(text)) {
				valid++
			}
			body(t, text)
			field(t, text)
			element(t, text)
			line(t, text)
		})
	}
	require.Greater(t, valid, 90)
}

// decode decodes a body as a whole and as a stream of single bytes, which must agree.
func decode(t *testing.T, body string) (events []mailtrapwebhook.Event, err error) {
	events, err = mailtrapwebhook.Parse([]byte(body))
	var streamed []mailtrapwebhook.Event
	var streamErr error
	for ev, err := range mailtrapwebhook.NewDecoder(iotest.OneByteReader(strings.NewReader(body))).Events() {
		if err != nil {
			streamErr = err
			break
		}
		streamed = append(streamed, ev)
	}
	require.Equal(t, err, streamErr)
	require.ElementsMatch(t, events, streamed)
	return events, err
}

// body: the text is the whole body. A scalar is none, a byte-order mark is skipped, and lines may be broken.
func body(t *testing.T, text string) {
	_, err := decode(t, text)
	text = strings.TrimPrefix(text, "\uFEFF")
	first := bytes.TrimLeft([]byte(text), " \t\r\n")
	container := len(first) > 0 && (first[0] == '{' || first[0] == '[')
	for _, line := range strings.Split(text, "\n")[1:] {
		line = strings.TrimSpace(line)
		require.False(t, strings.HasPrefix(line, "{") && json.Valid([]byte(line)), "the text may be JSON Lines")
	}
	require.Equal(t, container && json.Valid([]byte(text)), err == nil, "%v", err)
}

// field: the text is the value of a member, one that is read or one that is not.
func field(t *testing.T, text string) {
	for _, key := range []string{"email", "message_id", "timestamp", "response_code", "custom_variables", "event", "new"} {
		object := `{"event":"bounce","` + key + `":` + text + `}`
		all := `{"events":[` + before + `,` + object + `,` + behind + `]}`
		events, err := decode(t, all)
		require.Equal(t, json.Valid([]byte(all)), err == nil, "%s: %v", key, err)
		if err == nil {
			require.Len(t, events, 3, key)
		}
	}
	for _, key := range []string{"actor", "resource", "changes", "description"} {
		all := `[{"event":"activity_log.x","` + key + `":` + text + `}]`
		_, err := decode(t, all)
		require.Equal(t, json.Valid([]byte(all)), err == nil, "%s: %v", key, err)
	}
}

// element: the text stands among the events of an envelope or an array.
func element(t *testing.T, text string) {
	for _, all := range []string{
		`{"events":[` + before + `,` + text + `,` + behind + `]}`,
		`[` + text + `]`,
		`[` + text + `,` + behind + `]`,
	} {
		_, err := decode(t, all)
		require.Equal(t, json.Valid([]byte(all)), err == nil, "%v", err)
	}
}

// line: the text is a line of JSON Lines. One that is not JSON is an unknown event that says so, and its neighbours are
// as if it were not there.
func line(t *testing.T, text string) {
	text = strings.TrimRight(strings.NewReplacer("\n", " ").Replace(text), " \t\r")
	events, err := decode(t, before+"\n"+text+"\n"+behind)
	require.NoError(t, err)
	if strings.Trim(text, " \t\r") == "" {
		require.Len(t, events, 2)
		return
	}
	require.Len(t, events, 3)
	unknown, ok := events[1].(*mailtrapwebhook.UnknownEvent)
	require.True(t, ok)
	require.Error(t, unknown.Err)
	readable := strings.Contains(unknown.Err.Error(), "event is missing") || strings.Contains(unknown.Err.Error(), "is not an object")
	require.Equal(t, json.Valid([]byte(text)), readable, "%v", unknown.Err)
}
