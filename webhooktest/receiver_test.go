package webhooktest

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestReceiverPassesRightReceivers(t *testing.T) {
	t.Parallel()
	for name, newReceiver := range rightReceivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testReceiver(t, newReceiver(t), limits{answer: 30 * time.Second, effect: 10 * time.Second})
		})
	}
}

// A receiver may write some kinds at once, and others every few seconds.
func TestReceiverWaitsForASlowKind(t *testing.T) {
	t.Parallel()
	p := newPlainReceiver(t)
	acted := 0
	p.act = func(ev mailtrapwebhook.Event) { // handleOnce holds the lock
		if acted++; acted <= 3 { // the first delivery
			time.AfterFunc(400*time.Millisecond, func() { p.add(ev) })
			return
		}
		p.add(ev)
	}
	testReceiver(t, p.receiver(), limits{answer: 30 * time.Second, effect: 2 * time.Second})
}

func TestReceiverOfOneFormatPassesWithoutTheOther(t *testing.T) {
	t.Parallel()
	require.Regexp(t, "^PASS\n", failingTest(t, "reads an envelope only", "-test.skip=TestFailing/JSON_Lines"))
	require.Regexp(t, "^PASS\n", failingTest(t, "reads lines only", "-test.skip=TestFailing/JSON$"))
}

const wrongReceiverVariable = "WEBHOOKTEST_WRONG_RECEIVER"

// failingTest returns the output of TestFailing for a wrong receiver.
func failingTest(t *testing.T, name string, flags ...string) string {
	flags = append(flags, "-test.run=^TestFailing$", "-test.timeout=1m")
	cmd := exec.CommandContext(t.Context(), os.Args[0], flags...)
	cmd.Env = append(os.Environ(), wrongReceiverVariable+"="+name)
	output, _ := cmd.CombinedOutput() // it fails, as it should
	return string(output)
}

func TestFailing(t *testing.T) {
	name := os.Getenv(wrongReceiverVariable)
	if name == "" {
		t.Skip("TestReceiverFailsWrongReceivers runs this")
	}
	lim := limits{answer: 30 * time.Second, effect: 300 * time.Millisecond} // no wrong receiver has a queue
	if name == "hangs" {
		lim.answer = 300 * time.Millisecond
	}
	testReceiver(t, wrongReceivers[name].new(t), lim)
}
