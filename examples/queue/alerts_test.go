package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPromtoolAcceptsTheAlertRules(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	require.NoError(t, err, "install it: apt-get install -y --no-install-recommends prometheus")
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "prometheus/alerts.yml"},
		{"test", "rules", "prometheus/alerts_test.yml"},
		{"test", "rules", "prometheus/requests_test.yml"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), "SUCCESS")
		})
	}
}

// Each alert fires in a test, and is about metrics that the program has.
func TestAlertsAreAboutMetricsOfTheProgram(t *testing.T) {
	rules, err := os.ReadFile("prometheus/alerts.yml")
	require.NoError(t, err)
	situations, err := os.ReadFile("prometheus/alerts_test.yml")
	require.NoError(t, err)
	requests, err := os.ReadFile("prometheus/requests_test.yml") // for the alerts of examples/observability
	require.NoError(t, err)
	alerts := regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(string(rules), -1)
	require.NotEmpty(t, alerts)
	for _, alert := range alerts {
		require.Contains(t, string(situations), `alertname="`+alert[1]+`"`)
	}

	program := startProgram(t, "-dir", t.TempDir())
	_, served := fetch(t, "http://"+program.metrics+"/metrics")
	for _, name := range regexp.MustCompile(`mailtrap_\w+`).FindAllString(string(rules)+string(requests), -1) {
		require.Contains(t, served, "# TYPE "+strings.TrimSuffix(name, "_count")+" ")
	}
	require.Equal(t, exitOK, program.end(t))
}
