package main

import (
	"cmp"
	"errors"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// message returns the message for an event: its text as received, under its
// key. The stream drops a message whose id it knows.
func message(ev mailtrapwebhook.Event, key string) *nats.Msg {
	family := familyOf(ev)
	msg := nats.NewMsg(strings.Join([]string{subjectPrefix, family, token(ev.Name(), family)}, "."))
	msg.Header.Set(jetstream.MsgIDHeader, key)
	msg.Data = []byte(ev.RawJSON())
	return msg
}

// The families of events. A subject names one, and the worker decodes the
// message as an event of that family.
const (
	familySending     = "sending"
	familyActivityLog = "activity_log"
	familyInbound     = "inbound"
	familyUnknown     = "unknown"
)

func familyOf(ev mailtrapwebhook.Event) string {
	switch ev.(type) {
	case *mailtrapwebhook.SendingWebhookEvent:
		return familySending
	case *mailtrapwebhook.ActivityLogWebhookEvent:
		return familyActivityLog
	case *mailtrapwebhook.InboundWebhookEvent:
		return familyInbound
	}
	return familyUnknown
}

// token returns the name of a kind as a token of a subject. The name of an
// unknown kind can be anything: dots, spaces, wildcards, megabytes.
func token(name, family string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-':
			return r
		}
		return '_'
	}, strings.TrimPrefix(name, family+"."))
	return cmp.Or(name[:min(len(name), 64)], "_")
}

// decode returns the event of a message. The text of an unknown event may be
// anything, even no JSON.
func decode(subject string, text []byte) (mailtrapwebhook.Event, error) {
	var ev interface {
		mailtrapwebhook.Event
		UnmarshalJSON(text []byte) error
	}
	switch family := strings.Split(subject, ".")[1]; family {
	case familySending:
		ev = new(mailtrapwebhook.SendingWebhookEvent)
	case familyActivityLog:
		ev = new(mailtrapwebhook.ActivityLogWebhookEvent)
	case familyInbound:
		ev = new(mailtrapwebhook.InboundWebhookEvent)
	case familyUnknown:
		ev := new(mailtrapwebhook.UnknownEvent)
		if err := ev.UnmarshalJSON(text); err != nil || ev.Raw == "" {
			return &mailtrapwebhook.UnknownEvent{Raw: string(text)}, nil
		}
		return ev, nil
	default:
		return nil, errors.New("its subject names no family of events")
	}
	if err := ev.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	if ev.Name() == "" { // the text is null
		return nil, errors.New("its text is no event")
	}
	return ev, nil
}
