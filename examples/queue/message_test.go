package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestToken(t *testing.T) {
	for name, test := range map[string]struct{ name, family, want string }{
		"as it is":           {"bounce", familySending, "bounce"},
		"space":              {"soft bounce", familySending, "soft_bounce"},
		"dots":               {"activity_log.user.updated", familyActivityLog, "user_updated"},
		"prefix alone":       {"activity_log.", familyActivityLog, "_"},
		"empty":              {"", familyUnknown, "_"},
		"wildcards":          {"a.*.>", familyUnknown, "a____"},
		"line ends":          {"a\r\nNats-Msg-Id: b", familyUnknown, "a__Nats-Msg-Id__b"},
		"not ASCII":          {"äöü", familyUnknown, "___"},
		"not UTF-8":          {"\xff\x00", familyUnknown, "__"},
		"longer than needed": {strings.Repeat("x", 1<<20), familyUnknown, strings.Repeat("x", 64)},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, token(test.name, test.family))
		})
	}
}

func TestDecodeReturnsThePublishedEvent(t *testing.T) {
	bodies := []string{
		`{"events":[[{"event":"bounce","message_id":"m"}],{"events":[{"event":"bounce"}]},5,null,"x",{},{"event":"new"}]}`,
		`{"event":"bounce","message_id":"m-1"}` + "\n" + `{"event":"bou` + "\n" + "no JSON \xff\n",
		`{"events":[{"event":"spam_complaint"},{"event":"inbound_message_received","inbound_inbox_id":1}]}`,
	}
	for _, pattern := range []string{"json/*.json", "jsonl/*.jsonl"} {
		files, err := filepath.Glob("../../testdata/" + pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			bodies = append(bodies, string(text))
		}
	}
	for _, body := range bodies {
		events, err := mailtrapwebhook.Parse([]byte(body))
		require.NoError(t, err)
		for _, want := range events {
			msg := message(want, want.Key())
			got, err := decode(msg.Subject, msg.Data)
			require.NoError(t, err)
			if unknown, ok := want.(*mailtrapwebhook.UnknownEvent); ok {
				require.IsType(t, unknown, got)
				require.Equal(t, unknown.Raw, got.RawJSON())
				continue // an Err names another place
			}
			require.Empty(t, cmp.Diff(want, got))
			require.Equal(t, want.Key(), got.Key())
		}
	}
}
