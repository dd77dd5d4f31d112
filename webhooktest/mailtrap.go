package webhooktest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A Fault is something that goes wrong between Mailtrap and a receiver.
type Fault string

// The faults that a [Mailtrap] can play.
const (
	// FaultForged signs the delivery with a secret that nobody has. The
	// receiver must refuse it. A forged delivery is not sent again.
	FaultForged Fault = "forged"

	// FaultRepeated sends the delivery once more after it was acknowledged.
	// The receiver must acknowledge it again.
	FaultRepeated Fault = "repeated"

	// FaultTwice sends two copies of the delivery at the same time. The
	// last byte of each waits, for a second at most, until both are under
	// way.
	FaultTwice Fault = "twice"

	// FaultLate hangs up on the receiver twice: first in the middle of the
	// body, then while the receiver works. The second time it sends the
	// whole body and waits 50 ms, or until the answer if that is sooner. The
	// next attempt may find the receiver still at work: leave it an Interval
	// in which it can end.
	FaultLate Fault = "late"

	// FaultBroken puts an unreadable element in the place of the second
	// event, or behind the only one. The receiver must acknowledge the
	// delivery all the same.
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
	// sent as basic authentication, as Mailtrap does. Required, unless
	// Handler is set: then a path is enough, and "" is "/".
	URL string

	// Secret signs the deliveries. Required.
	Secret string

	// Handler takes the requests instead of the network, if it is not nil.
	// A test then needs no server, and may run in a synctest bubble. A
	// Handler that outlives TimeLimit runs on with its context canceled.
	Handler http.Handler

	// Client sends the requests. It follows no redirect, since Mailtrap
	// takes only 200 for an acknowledgement. If nil, Deliver makes one.
	Client *http.Client

	// Inbound retries as for inbound mail: 10 times, with waits that double
	// and add up to 24 hours.
	Inbound bool

	// Retries is how often a delivery is sent again. 0 is Mailtrap's
	// number: 40, or 10 with Inbound. A negative number is none. FaultLate
	// takes at least 2.
	Retries int

	// Interval is the time from the start of one attempt to the start of
	// the next. 0 is Mailtrap's: 5 minutes, or the doubling waits with
	// Inbound.
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

	// hangUpAfter is how long the receiver works before FaultLate hangs up.
	// 0 is 50 ms.
	hangUpAfter time.Duration
}

// Deliver sends a body until it is acknowledged or Mailtrap gives up. It
// returns an error if m is set up wrongly, or if the fault needs events and the
// body cannot be parsed. If ctx ends, it returns the attempts so far and an
// error.
func (m *Mailtrap) Deliver(ctx context.Context, body []byte) (Result, error) {
	d, err := m.newDelivery(body)
	if err != nil {
		return Result{}, err
	}
	if m.Client == nil {
		defer d.client.CloseIdleConnections()
	}
	result := d.send(ctx)
	if !result.Acknowledged && ctx.Err() != nil {
		return result, fmt.Errorf("webhooktest: the delivery was interrupted: %w", context.Cause(ctx))
	}
	return result, nil
}

// newDelivery checks m and the body, and fills in Mailtrap's numbers.
func (m *Mailtrap) newDelivery(body []byte) (*delivery, error) {
	d := &delivery{Mailtrap: *m, both: make(chan struct{})}
	var err error
	// The errors of url.Parse quote the URL, which may have a password.
	if d.url, err = url.Parse(m.URL); err != nil || m.Handler == nil && !isHTTP(d.url) {
		return nil, errors.New("webhooktest: URL cannot be used: set it to the http or https address of the receiver")
	}
	secret := m.Secret
	if mailtrapwebhook.Sign(nil, secret) == "" {
		return nil, errors.New("webhooktest: Secret is blank: set it to the signing secret that the receiver has")
	}
	if !(m.Speed >= 0) || m.Interval < 0 || m.TimeLimit < 0 { // not a number is no Speed either
		return nil, errors.New("webhooktest: Speed, Interval or TimeLimit is negative: set it to 0 or more")
	}
	d.Speed = cmp.Or(m.Speed, 1)
	d.TimeLimit = cmp.Or(m.TimeLimit, 30*time.Second)
	d.hangUpAfter = cmp.Or(m.hangUpAfter, 50*time.Millisecond)
	if d.Retries == 0 {
		d.Retries = 40
		if m.Inbound {
			d.Retries = inboundRetries
		}
	}
	switch m.Fault {
	case FaultForged:
		secret, d.Retries = rand.Text(), 0
	case FaultLate:
		if d.Retries < 2 {
			return nil, errors.New("webhooktest: FaultLate hangs up on two attempts: set Retries to 0, or to 2 or more")
		}
	case FaultBroken, FaultReordered:
		if body, err = alter(body, m.Fault); err != nil {
			return nil, err
		}
	case "", FaultRepeated, FaultTwice:
	default:
		return nil, fmt.Errorf("webhooktest: Fault %q is unknown: set it to one of the Fault constants", m.Fault)
	}
	d.body, d.format, d.signature = body, formatOf(body), mailtrapwebhook.Sign(body, secret)
	d.client = m.newClient()
	return d, nil
}

func isHTTP(u *url.URL) bool { return (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" }

// newClient returns a client that follows no redirect.
func (m *Mailtrap) newClient() *http.Client {
	var client http.Client
	if m.Client != nil {
		client = *m.Client
	} else {
		client.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
	}
	if m.Handler != nil {
		client.Transport = handlerTransport{m.Handler}
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client
}
