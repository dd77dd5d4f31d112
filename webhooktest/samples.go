package webhooktest

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// The members that every sending event has, before and behind those of its
// kind. All members stand in the order of Mailtrap's own samples.
const (
	sendingStart = `"timestamp":$now,"sending_stream":"transactional","category":"Password reset",` +
		`"custom_variables":{"user_id":"48213","order_id":9007199254740993,"trial":false},` +
		`"message_id":"$message","email":"recipient@example.com","event_id":"$event",`
	sendingEnd = `"sending_domain_name":"mail.example.com"`
)

// sampleMembers has the JSON members of each sample. A word that begins with a
// dollar sign stands for the time, or for an id of the event's own.
var sampleMembers = []struct{ name, members string }{
	{"delivery", sendingStart + sendingEnd},
	{"open", sendingStart + `"ip":"192.0.2.17",` +
		`"user_agent":"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)",` + sendingEnd},
	{"click", sendingStart + `"ip":"2001:db8::2a",` +
		`"user_agent":"Mozilla/5.0 (Windows NT 10.0; Win64; x64)",` +
		`"url":"https://example.com/reset?step=1&lang=en",` + sendingEnd},
	{"unsubscribe", sendingStart + `"ip":"198.51.100.4",` +
		`"user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0)",` + sendingEnd},
	{"spam", sendingStart + sendingEnd},
	{"soft bounce", sendingStart + `"response":"4.7.1 Temporary error, please retry",` +
		`"response_code":451,"bounce_category":"greylisting",` + sendingEnd},
	{"bounce", sendingStart + `"response":"5.1.1 The email account that you tried to reach does not exist",` +
		`"response_code":550,"bounce_category":"badrecipient",` + sendingEnd},
	{"suspension", sendingStart + `"reason":"Your account has reached its daily sending limit.",` + sendingEnd},
	{"reject", sendingStart + `"reason":"Recipient in suppression list. Reason: unsubscription",` + sendingEnd},

	{"activity_log.user.updated", `"description":"updated the user profile",` +
		`"actor":{"id":$id,"type":"user","name":"John Doe"},` +
		`"resource":{"id":"$id","type":"user","name":"John Doe"},` +
		`"changes":{"name":{"from":"John","to":"John Doe"},"password":{"from":"[FILTERED]","to":"[FILTERED]"}},` +
		`"timestamp":$now`},
	{"activity_log.user.login", `"description":"logged in with SSO",` +
		`"actor":{"id":$id,"type":"user","name":"John Doe"},"timestamp":$now`},
	// The actor is Mailtrap itself. This resource has a number for its id,
	// as in Mailtrap's description of the fields.
	{"activity_log.sandbox.updated", `"description":"updated the sandbox","actor":{"name":"Mailtrap"},` +
		`"resource":{"id":$id,"type":"sandbox","name":"Main"},` +
		`"changes":{"max_size":{"from":50,"to":100}},"timestamp":$now`},

	{inboundKind, `"event_id":"$event","timestamp":$milliseconds,"inbox_id":$id,` +
		`"message_id":"$message","from":"Sender Name <sender@example.com>"`},
}

// inboundKind is the only name that inbound events have.
const inboundKind = "inbound.message_received"

// Samples returns one event of every documented kind, with every documented
// field of the kind. They have ids of their own at each call, and the current
// time.
func Samples() []mailtrapwebhook.Event {
	events := make([]mailtrapwebhook.Event, len(sampleMembers))
	for i, s := range sampleMembers {
		events[i] = newSample(s.name, s.members, time.Now())
	}
	return events
}

// Sample returns the event of [Samples] that has the name, such as "soft
// bounce", "activity_log.user.login" or "inbound.message_received". It panics
// if no sample has the name.
func Sample(name string) mailtrapwebhook.Event {
	return sampleAt(name, time.Now())
}

// sampleAt returns the event that Sample would have returned at that time.
func sampleAt(name string, at time.Time) mailtrapwebhook.Event {
	names := make([]string, len(sampleMembers))
	for i, s := range sampleMembers {
		if s.name == name {
			return newSample(s.name, s.members, at)
		}
		names[i] = strconv.Quote(s.name)
	}
	panic(fmt.Sprintf("webhooktest: no sample has the name %q: use one of %s", name, strings.Join(names, ", ")))
}

// newSample decodes the event from its text, so that Raw and Key are right.
func newSample(name, members string, at time.Time) mailtrapwebhook.Event {
	text := strings.NewReplacer(
		"$now", strconv.FormatInt(at.Unix(), 10),
		"$milliseconds", strconv.FormatInt(at.UnixMilli(), 10),
		"$message", randomUUID(),
		"$event", randomUUID(),
		"$id", randomID(),
	).Replace(`{"event":` + strconv.Quote(name) + `,` + members + `}`)
	return parseSample(text)
}

func parseSample(text string) mailtrapwebhook.Event {
	events, err := mailtrapwebhook.Parse([]byte(text))
	if err != nil {
		panic(err) // a sample is JSON
	}
	return events[0]
}

// randomUUID returns a UUID of version 4.
func randomUUID() string {
	var u [16]byte
	rand.Read(u[:])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// randomID returns a positive number below 2⁴⁸. Programs that keep numbers as
// float64 keep it exactly.
func randomID() string {
	var b [8]byte
	rand.Read(b[2:])
	return strconv.FormatUint(binary.BigEndian.Uint64(b[:])|1, 10)
}
