package webhooktest

import (
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReceiverPassesRightReceivers(t *testing.T) {
	for name, newReceiver := range rightReceivers {
		t.Run(name, func(t *testing.T) {
			testReceiver(t, newReceiver(t), limits{answer: 30 * time.Second, effect: 10 * time.Second})
		})
	}
}

// Each wrong receiver fails the subtests that it is meant to fail, and no other.
func TestReceiverFailsWrongReceivers(t *testing.T) {
	var mu sync.Mutex
	outputs := make(map[string]string)
	var all sync.WaitGroup
	for name := range wrongReceivers {
		all.Go(func() { // a process of its own, since a failing subtest fails its test
			output := failingTest(t, name)
			mu.Lock()
			defer mu.Unlock()
			outputs[name] = output
		})
	}
	all.Wait()
	for name, wrong := range wrongReceivers {
		t.Run(name, func(t *testing.T) {
			output := outputs[name]
			require.Contains(t, output, "--- FAIL: TestFailing ")
			require.Contains(t, output, wrong.says)
			var failed []string
			for _, found := range regexp.MustCompile(`--- FAIL: TestFailing/(.*) \(`).FindAllStringSubmatch(output, -1) {
				failed = append(failed, strings.ReplaceAll(found[1], "_", " "))
			}
			require.Equal(t, wrong.fails, failed, output)
			if len(failed) > 0 { // one sentence each
				require.NotContains(t, output, "had passed")
				require.Len(t, regexp.MustCompile(`(?m)^        \w+\.go:\d+: `).FindAllString(output, -1), len(failed), output)
			}
			require.NotContains(t, output, testSecret)
		})
	}
}

func TestReceiverOfOneFormatPassesWithoutTheOther(t *testing.T) {
	require.Regexp(t, "^PASS\n", failingTest(t, "reads an envelope only", "-test.skip=TestFailing/JSON_Lines"))
	require.Regexp(t, "^PASS\n", failingTest(t, "reads lines only", "-test.skip=TestFailing/JSON$"))
}

// Every subtest has a wrong receiver that fails it and no other.
func TestReceiverSubtestsCanFail(t *testing.T) {
	for _, s := range subtests {
		require.True(t, slices.ContainsFunc(slices.Collect(maps.Values(wrongReceivers)), func(w wrongReceiver) bool {
			return slices.Equal(w.fails, []string{s.name})
		}), s.name)
	}
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
