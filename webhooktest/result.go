package webhooktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A Result is what became of a delivery.
type Result struct {
	// Attempts holds all attempts, in the order that they began.
	Attempts []Attempt

	// Acknowledged reports whether every copy was answered 200 in the end.
	Acknowledged bool

	// Paused reports whether Mailtrap would now pause the webhook, because
	// all retries of a copy failed. It is false if Retries is negative:
	// then there were none.
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
func (r Result) Err() error { return r.err(advice) }

// err is Err with other advice. The status is 0 if there was no answer.
func (r Result) err(advice func(status int) string) error {
	if r.Acknowledged && !r.forged {
		return nil
	}
	if len(r.Attempts) == 0 {
		return errors.New("webhooktest: nothing was sent: call Deliver")
	}
	failed := r.failed()
	switch {
	case errors.Is(failed.Err, context.DeadlineExceeded):
		return fmt.Errorf("webhooktest: the receiver is too slow:"+
			" store the events, answer 200, and work on them later (%w)", failed.Err)
	case failed.Err != nil:
		return fmt.Errorf("webhooktest: the receiver gives no answer: %s (%w)", advice(0), failed.Err)
	case r.forged:
		return forgedErr(failed.Status)
	}
	return fmt.Errorf("webhooktest: the receiver answers %d: %s", failed.Status, advice(failed.Status))
}

// failed returns the last attempt that was not acknowledged.
func (r Result) failed() Attempt {
	for _, a := range slices.Backward(r.Attempts) {
		if a.Status != http.StatusOK { // another copy may have been acknowledged later
			return a
		}
	}
	return r.Attempts[len(r.Attempts)-1]
}

// forgedErr judges the answer to a forged delivery.
func forgedErr(status int) error {
	switch {
	case 200 <= status && status < 300:
		return fmt.Errorf("webhooktest: the receiver answers %d to a forged delivery:"+
			" verify the signature before you act on the events", status)
	case 400 <= status && status < 500 && status != http.StatusNotFound: // nothing may be there
		return nil
	}
	return fmt.Errorf("webhooktest: the receiver answers %d to a forged delivery: answer 400, and check where URL leads", status)
}

// statusAdvice says what to change in a receiver that answers so.
var statusAdvice = map[int]string{
	0: "check that it runs, and where URL leads",
	http.StatusBadRequest: "check that it has this signing secret and uses it as text, reads the " +
		mailtrapwebhook.SignatureHeader + " header, and verifies the body byte for byte as received",
	http.StatusUnauthorized:          "put the user name and password, or the token, into the webhook's URL",
	http.StatusForbidden:             "let Mailtrap's addresses through, and exempt the path from login and CSRF checks",
	http.StatusNotFound:              "register the receiver at the path of the webhook's URL",
	http.StatusMethodNotAllowed:      "accept POST at the path of the webhook's URL",
	http.StatusRequestEntityTooLarge: "accept larger bodies, since Mailtrap sends up to 500 events at once",
	http.StatusUnsupportedMediaType:  "accept application/json and application/jsonl",
	http.StatusTooManyRequests:       "exempt Mailtrap from the rate limit",
	http.StatusServiceUnavailable: "see the receiver's log; if a process that died still holds the events," +
		" wait 90 seconds or lower Speed",
}

func advice(status int) string {
	switch {
	case 200 <= status && status < 300:
		return "answer 200, since Mailtrap takes no other status for an acknowledgement"
	case 300 <= status && status < 400:
		return "give Mailtrap the final URL, since it takes no redirect for an acknowledgement"
	}
	return cmp.Or(statusAdvice[status], "see the receiver's log, and answer 200 once the events are stored")
}
