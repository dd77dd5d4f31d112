package benchmarks

import (
	"io"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

var ours = contenderOf("mailtrapwebhook", parseOurs, streamOurs, plainOurs)

func parseOurs(_ Form, body []byte) ([]mw.Event, error) { return mw.Parse(body) }

func streamOurs(_ Form, r io.Reader, show func(*mw.Event)) error {
	for ev, err := range mw.NewDecoder(r).Events() {
		if err != nil {
			return err
		}
		show(&ev)
	}
	return nil
}

func plainOurs(ev *mw.Event) plainEvent {
	e, ok := (*ev).(*mw.SendingWebhookEvent)
	if !ok {
		return plainEvent{Event: "not a sending event"}
	}
	p := plainEvent{
		string(e.Event), e.MessageID, string(e.SendingStream), e.Email, e.SendingDomainName, e.Category,
		[]byte(e.CustomVariables), e.Timestamp.Unix(), e.Timestamp, e.EventID, e.Reason, e.Response, e.ResponseCode,
		string(e.BounceCategory), e.IP, e.UserAgent, e.URL,
	}
	if e.CustomVariables == "" {
		p.CustomVariables = nil // as the others leave it
	}
	return p
}
