package benchmarks

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A form is one of the two that Mailtrap delivers events in.
type form string

const (
	formJSON  form = "JSON"
	formLines form = "JSON_Lines"
)

var forms = []form{formJSON, formLines}

// kinds are the nine kinds of sending events, each with the fields that no other or few others have.
var kinds = []string{
	`"delivery"`,
	`"open","ip":"127.138.158.185","user_agent":"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)"`,
	`"click","ip":"142.86.27.2","user_agent":"Mozilla/5.0 (Windows NT x.y; Win64; x64)","url":"https:\/\/example.com\/a?b=c"`,
	`"unsubscribe","ip":"142.86.27.2","user_agent":"Mozilla/5.0 (Windows NT x.y; Win64; x64)"`,
	`"spam"`,
	`"soft bounce","response":"4.7.1 Temporary error, please retry","response_code":451,"bounce_category":"greylisting"`,
	`"bounce","response":"[CS01] Message rejected due to \"local policy\"","response_code":555,"bounce_category":"spam"`,
	`"suspension","reason":"Your account has reached its daily sending limit."`,
	`"reject","reason":"Recipient in suppression list. Reason: unsubscription"`,
}

// variables are sets of custom variables, from none to four.
var variables = []string{
	``,
	`"user_id":"123"`,
	`"user_id":1234567890123456789,"trial":true`,
	`"name":"Zoë","plan":"pro","seats":12`,
	`"a":"1","b":2,"c":"three","d":false`,
}

// line returns the JSON of the i-th event.
func line(i int) string {
	custom := variables[i%len(variables)]
	if custom != "" {
		custom = `"custom_variables":{` + custom + `},`
	}
	return fmt.Sprintf(`{"event":%s,"timestamp":%d,"sending_stream":"transactional","category":"Password reset",%s`+
		`"message_id":"1df37d17-0286-4d8b-8edf-%012x","email":"receiver%d@example.com",`+
		`"event_id":"bede7236-2284-43d6-a953-%012x","sending_domain_name":"examplesender.com"}`,
		kinds[i%len(kinds)], 1728669700+i, custom, i, i, i)
}

// body returns the delivery of n events.
func body(f form, n int) []byte {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = line(i)
	}
	if f == formLines {
		return []byte(strings.Join(lines, "\n") + "\n")
	}
	return []byte(`{"events":[` + strings.Join(lines, ",") + `]}`)
}

const (
	batchSize  = 500 // the largest that Mailtrap sends
	streamSize = 100_000
)

func TestPayloadHasEveryKindAndFillsEveryField(t *testing.T) {
	events, err := ours.parse(formJSON, body(formJSON, batchSize))
	require.NoError(t, err)
	require.Len(t, events, batchSize)
	seen := make(map[string]bool)
	var filled Event[[]byte]
	for _, ev := range events {
		seen[ev.Event] = true
		for i, all := 0, reflect.ValueOf(&filled).Elem(); i < all.NumField(); i++ {
			if field := reflect.ValueOf(ev).Field(i); !field.IsZero() {
				all.Field(i).Set(field)
			}
		}
	}
	require.Len(t, seen, len(kinds))
	for i, all := 0, reflect.ValueOf(filled); i < all.NumField(); i++ {
		require.False(t, all.Field(i).IsZero(), all.Type().Field(i).Name)
	}
}
