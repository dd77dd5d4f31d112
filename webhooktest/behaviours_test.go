package webhooktest

import (
	"maps"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each wrong receiver fails the subtests that it is meant to fail, and no other.
func TestReceiverFailsWrongReceivers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	outputs := make(map[string]string)
	var all sync.WaitGroup
	running := make(chan struct{}, 8*runtime.GOMAXPROCS(0)) // of more, each has too little time
	for name := range wrongReceivers {
		running <- struct{}{}
		all.Go(func() { // a process of its own, since a failing subtest fails its test
			defer func() { <-running }()
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

// Every subtest has a wrong receiver that fails it and no other.
func TestReceiverSubtestsCanFail(t *testing.T) {
	for _, s := range subtests {
		require.True(t, slices.ContainsFunc(slices.Collect(maps.Values(wrongReceivers)), func(w wrongReceiver) bool {
			return slices.Equal(w.fails, []string{s.name})
		}), s.name)
	}
}
