package webhooktest

import (
	"net/http"
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A Receiver is a program that receives webhooks, for [TestReceiver].
type Receiver struct {
	// Handler receives the deliveries, over a real connection. The path of
	// each request is "/", and its RemoteAddr is one of Mailtrap's. If yours
	// wants another path, a password or a token, set them in a handler that
	// calls yours. Required.
	Handler http.Handler

	// Secret is the signing secret that Handler expects. Required.
	Secret string

	// Count returns how often the effect of an event has come about, such
	// as the number of rows or emails that it led to. Look the event up by
	// its Key, or by its name and ids together: events may share an id. Leave
	// out the EventID of inbound mail, which may change in a retry.
	//
	// Count returns 0 for an event that Handler has not seen, and a negative
	// number if Handler ignores all events of its kind. It is called while
	// Handler runs. Required.
	Count func(ev mailtrapwebhook.Event) int
}

// TestReceiver tests whether a receiver loses events, handles them twice or lets
// in forged ones, whichever package it is built on. It plays Mailtrap and runs a
// subtest for each thing that a receiver must do. A subtest that fails says what
// the receiver does wrong and what to change.
//
//	func TestWebhooks(t *testing.T) {
//		store := newStore(t)
//		webhooktest.TestReceiver(t, webhooktest.Receiver{
//			Handler: newWebhookHandler(store, secret),
//			Secret:  secret,
//			Count: func(ev mailtrapwebhook.Event) int {
//				if ev.Name() != "bounce" {
//					return -1 // the handler ignores this kind
//				}
//				return store.CountRows(ev.Key())
//			},
//		})
//	}
//
// An effect may come after the answer, as with a queue. TestReceiver waits ten
// seconds for an effect and 30 seconds, like Mailtrap, for an answer. A receiver
// without a queue is tested in less than a second.
//
// Each subtest sends events with new ids. You need not empty your store before.
//
// TestReceiver judges effects. A receiver may answer 200 to a forged request if
// it does nothing else. Only the subtest "only 200 acknowledges" tells one status
// of 2xx from another.
//
// TestReceiver does not send the kinds of events for which Count is negative, and
// fails if those are all kinds. It stops early if every other subtest would fail
// for the same cause. If your receiver reads only the payload format
// that you chose in Mailtrap, skip the other one:
//
//	go test -skip 'TestWebhooks/JSON_Lines'
//	go test -skip 'TestWebhooks/JSON$'
func TestReceiver(t *testing.T, r Receiver) {
	t.Helper()
	testReceiver(t, r, limits{
		answer: 30 * time.Second,
		effect: 10 * time.Second,
		race:   200 * time.Millisecond,
	})
}

// limits are how long TestReceiver waits.
type limits struct {
	answer time.Duration // for the answer to a request
	effect time.Duration // for an effect after the answer
	race   time.Duration // for a race to show
}

// subtests are the things that a receiver must do. A receiver with one fault
// fails one of them.
var subtests = []struct {
	name string
	run  func(t *subtest)
}{
	{"JSON", (*subtest).readsJSON},
	{"JSON Lines", (*subtest).readsJSONLines},
	{"forged", (*subtest).refusesForged},
	{"unsigned", (*subtest).refusesUnsigned},
	{"altered", (*subtest).refusesAltered},
	{"repeated after 200", (*subtest).handlesRepeated},
	{"repeated after a failure", (*subtest).handlesFailed},
	{"repeated among new events", (*subtest).handlesAmongNew},
	{"shared ids", (*subtest).handlesSharedIDs},
	{"twice at once", (*subtest).handlesTwice},
	{"side by side", (*subtest).handlesSideBySide},
	{"500 events", (*subtest).handlesWholeBatch},
	{"every kind", (*subtest).handlesEveryKind},
	{"hours old", (*subtest).handlesOld},
	{"unknown kinds", (*subtest).passesUnknownKinds},
	{"odd fields", (*subtest).passesOddFields},
	{"only 200 acknowledges", (*subtest).answers200},
}

func testReceiver(t *testing.T, r Receiver, lim limits) {
	t.Helper()
	run := newReceiverTest(t, r, lim)
	for _, s := range subtests {
		before := len(run.outcomes)
		if t.Run(s.name, func(t *testing.T) { s.run(run.newSubtest(t)) }) {
			continue
		}
		run.outcomes = run.outcomes[:before] // one failure is enough
		if run.stuck.Load() {
			t.Fatal("the other subtests were not run: each would wait as long for an answer")
		}
		if run.hopeless {
			t.Fatal("the other subtests were not run: each would fail for the same cause")
		}
		if s.name == "JSON Lines" && len(run.formats) == 0 {
			t.Fatal("the other subtests were not run: no event has an effect in either format")
		}
	}
	run.checkAgain(t)
}

// newReceiverTest returns the test of a receiver if r can be tested.
func newReceiverTest(t *testing.T, r Receiver, lim limits) *receiverTest {
	t.Helper()
	switch {
	case r.Handler == nil:
		t.Fatal("Receiver.Handler is nil: set it to the handler that receives your webhooks")
	case mailtrapwebhook.Sign(nil, r.Secret) == "":
		t.Fatal("Receiver.Secret is blank: set it to the signing secret that your handler expects")
	case r.Count == nil:
		t.Fatal("Receiver.Count is nil: set it to a function that counts the effects of an event")
	}
	run := &receiverTest{Receiver: r, limits: lim, format: mailtrapwebhook.FormatJSON}
	for _, ev := range Samples() {
		switch n := r.Count(ev); {
		case n > 0:
			t.Fatalf("Receiver.Count returns %d for a %s event that was never sent:"+
				" let it count the effects of that event alone, by its key or its ids", n, ev.Name())
		case n == 0:
			run.kinds = append(run.kinds, ev.Name())
		}
	}
	if len(run.kinds) == 0 {
		t.Fatal("Receiver.Count returns a negative number for every kind of event:" +
			" let it return 0 or more for the kinds that your receiver handles")
	}
	return run
}
