package benchmarks

import (
	"fmt"
	"strings"
)

// A Form is one of the two that Mailtrap delivers events in.
type Form string

const (
	Envelope Form = "envelope"
	Lines    Form = "lines"
)

// Forms lists both.
var Forms = []Form{Envelope, Lines}

const (
	BatchSize  = 500     // the most events that Mailtrap sends at once
	StreamSize = 100_000 // the events of a file, 39 MB
)

// kinds are the nine kinds of sending events, with the fields that only some have.
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

// Body returns a delivery of n events.
func Body(f Form, n int) []byte {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = line(i)
	}
	if f == Lines {
		return []byte(strings.Join(lines, "\n") + "\n")
	}
	return []byte(`{"events":[` + strings.Join(lines, ",") + `]}`)
}
