package webhooktest

import (
	"context"
	"net/http"
	"time"
)

// A Fault is something that goes wrong between Mailtrap and a receiver.
type Fault string

// The faults that a [Mailtrap] can play.
const (
	// FaultForged signs the delivery with a secret that nobody has. The
	// receiver must refuse it. A forged delivery is not sent again.
	FaultForged Fault = "forged"

	// FaultRepeated sends the delivery once more after it was acknowledged.
	FaultRepeated Fault = "repeated"

	// FaultTwice sends two copies of the delivery at the same time.
	FaultTwice Fault = "twice"

	// FaultLate hangs up on the receiver twice: first in the middle of the
	// body, then when the whole body is sent but not yet answered.
	FaultLate Fault = "late"

	// FaultBroken makes one element of the delivery unreadable, behind the
	// first. The receiver must acknowledge the delivery all the same.
	FaultBroken Fault = "broken"

	// FaultReordered sends the events of the delivery in reverse order.
	FaultReordered Fault = "reordered"
)

// A Mailtrap plays Mailtrap against a receiver. It signs a delivery, posts it
// and sends it again until it is answered 200, as Mailtrap does.
//
// Its fields must not change while Deliver runs. Deliver may be called by
// several goroutines at once.
type Mailtrap struct {
	// URL is the receiver's address. A user name and password in it are
	// sent as basic authentication, as Mailtrap does. Required.
	URL string

	// Secret signs the deliveries. Required.
	Secret string

	// Handler takes the requests instead of the network, if it is not nil.
	// A test then needs no server, and may run in a synctest bubble.
	Handler http.Handler

	// Client sends the requests. It follows no redirect, since Mailtrap
	// takes only 200 for an acknowledgement. Nil is a client of its own.
	Client *http.Client

	// Inbound retries as for inbound mail: 10 times, with waits that double
	// and add up to 24 hours.
	Inbound bool

	// Retries is how often a delivery is sent again. 0 is Mailtrap's
	// number: 40, or 10 with Inbound. A negative number is none.
	Retries int

	// Interval is the time from one attempt to the next. 0 is Mailtrap's:
	// 5 minutes, or the doubling waits with Inbound.
	Interval time.Duration

	// Speed divides the waits between attempts, so that a test need not
	// wait for hours. 0 is 1. It does not shorten TimeLimit.
	Speed float64

	// TimeLimit is how long one attempt waits for its answer. 0 is
	// Mailtrap's: 30 seconds.
	TimeLimit time.Duration

	// Fault is what goes wrong with each delivery. "" is nothing.
	Fault Fault

	// OnAttempt is called when an attempt has ended, if it is not nil. The
	// copies of FaultTwice call it at the same time.
	OnAttempt func(Attempt)
}

// A Result is what became of a delivery.
type Result struct {
	// Attempts holds all attempts, in the order that they began.
	Attempts []Attempt

	// Acknowledged reports whether every copy was answered 200 in the end.
	Acknowledged bool

	// Paused reports whether Mailtrap would now pause the webhook, because
	// a copy was not answered 200 in any attempt.
	Paused bool
}

// An Attempt is one request and its answer.
type Attempt struct {
	Number   int           // counts the attempts of a copy from 1
	Copy     int           // 1, or 2 for the second copy of FaultTwice
	Began    time.Time     // when the request was sent
	Duration time.Duration // until the answer or the error
	Status   int           // the answer's; 0 if there was none
	Err      error         // why there was no answer
}

// Deliver sends a body until it is acknowledged or Mailtrap gives up. It
// returns an error if m is set up wrongly, or with the attempts so far if ctx
// ends.
func (m *Mailtrap) Deliver(ctx context.Context, body []byte) (Result, error) {
	panic("not written")
}

// Err returns nil if the receiver did well: it acknowledged the delivery, or
// refused a forged one. Else it says what the receiver does wrong and what to
// change.
func (r Result) Err() error {
	panic("not written")
}
