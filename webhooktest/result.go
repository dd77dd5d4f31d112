package webhooktest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// A Result is what became of a delivery.
type Result struct {
	// Attempts holds all attempts, in the order that they began.
	Attempts []Attempt

	// Acknowledged reports whether every copy was answered 200 in the end.
	Acknowledged bool

	// Paused reports whether Mailtrap would now pause the webhook, because
	// a copy was not answered 200 in any attempt.
	Paused bool

	forged bool
}

// An Attempt is one request and its answer.
type Attempt struct {
	Number   int           // counts the attempts of a copy from 1
	Copy     int           // 2 for the second of FaultTwice or FaultRepeated
	Began    time.Time     // when the request was sent
	Duration time.Duration // until the answer or the error
	Status   int           // the answer's; 0 if there was none
	Err      error         // why there was no answer
}

// Err returns nil if the receiver did well: it acknowledged the delivery, or
// refused a forged one. Else it says what the receiver does wrong and what to
// change.
func (r Result) Err() error {
	last, ok := r.unacknowledged()
	if r.forged {
		return forgedErr(last, ok)
	}
	switch {
	case len(r.Attempts) == 0:
		return errors.New("webhooktest: nothing was sent: call Deliver")
	case !ok:
		return nil
	case errors.Is(last.Err, context.DeadlineExceeded):
		return fmt.Errorf("webhooktest: the receiver is too slow: store the events, answer 200, and work on them later (%w)", last.Err)
	case last.Err != nil:
		return fmt.Errorf("webhooktest: the receiver gives no answer: check that it runs, and where URL leads (%w)", last.Err)
	}
	return fmt.Errorf("webhooktest: the receiver answers %d: %s", last.Status, advice(last.Status))
}

// unacknowledged returns the last attempt of a copy that was not acknowledged.
func (r Result) unacknowledged() (last Attempt, ok bool) {
	acknowledged := make(map[int]bool)
	for _, a := range r.Attempts {
		acknowledged[a.Copy] = acknowledged[a.Copy] || a.Status == http.StatusOK
	}
	for _, a := range r.Attempts {
		if !acknowledged[a.Copy] {
			last, ok = a, true
		}
	}
	return last, ok
}

// forgedErr judges the answer to a forged delivery.
func forgedErr(refused Attempt, ok bool) error {
	switch {
	case !ok || 200 <= refused.Status && refused.Status < 300:
		return errors.New("webhooktest: the receiver accepts a forged delivery: verify the signature before you act on the events")
	case refused.Err != nil:
		return fmt.Errorf("webhooktest: the receiver gives no answer to a forged delivery: answer 400 (%w)", refused.Err)
	case 400 <= refused.Status && refused.Status < 500 && refused.Status != http.StatusNotFound:
		return nil
	}
	return fmt.Errorf("webhooktest: the receiver answers %d to a forged delivery: answer 400, and check the path of URL", refused.Status)
}

// advice says what to change in a receiver that answers with the status.
func advice(status int) string {
	switch {
	case 200 <= status && status < 300:
		return "answer 200, since Mailtrap takes no other status for an acknowledgement"
	case 300 <= status && status < 400:
		return "give Mailtrap the final URL, since it follows no redirect"
	case status == http.StatusBadRequest:
		return "check that it has this signing secret and verifies the body's bytes as received"
	case status == http.StatusUnauthorized:
		return "put the user name and password, or the token, into the webhook's URL"
	case status == http.StatusForbidden:
		return "let Mailtrap's addresses through, and exempt the path from login and CSRF checks"
	case status == http.StatusNotFound:
		return "register the receiver at the path of the webhook's URL"
	case status == http.StatusMethodNotAllowed:
		return "accept POST at the path of the webhook's URL"
	case status == http.StatusRequestEntityTooLarge:
		return "accept larger bodies, since Mailtrap sends up to 500 events at once"
	case status == http.StatusUnsupportedMediaType:
		return "accept application/json and application/jsonl"
	case status == http.StatusTooManyRequests:
		return "exempt Mailtrap from the rate limit"
	}
	return "see the receiver's log, and answer 200 once the events are stored"
}
