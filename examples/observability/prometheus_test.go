package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
)

// fromDebian returns the path of a program from the Debian package prometheus.
func fromDebian(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	require.NoError(t, err, "install it: apt-get install -y --no-install-recommends prometheus")
	return path
}

func TestPromtoolAcceptsTheAlertRules(t *testing.T) {
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "prometheus/alerts.yml"},
		{"test", "rules", "prometheus/alerts_test.yml"},
		{"test", "rules", "prometheus/alerts_days_test.yml"},
		{"check", "config", "--lint=all", "--lint-fatal", "prometheus/prometheus.yml"},
	} {
		t.Run(args[0]+" "+filepath.Base(args[len(args)-1]), func(t *testing.T) {
			t.Parallel()
			out, err := exec.CommandContext(t.Context(), fromDebian(t, "promtool"), args...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), "SUCCESS")
		})
	}
}

// A prometheusServer runs with the configuration in prometheus/ and watches a
// program.
type prometheusServer struct{ url string }

func startPrometheus(t *testing.T, p *program) *prometheusServer {
	t.Helper()
	dir, binary := t.TempDir(), fromDebian(t, "prometheus")
	settings, err := os.ReadFile("prometheus/prometheus.yml")
	require.NoError(t, err)
	target := strings.TrimSuffix(strings.TrimPrefix(p.metrics, "http://"), "/metrics")
	require.Contains(t, string(settings), "127.0.0.1:9464")
	text := strings.NewReplacer("127.0.0.1:9464", target, ": 15s", ": 200ms").Replace(string(settings))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(text), 0o600))
	rules, err := os.ReadFile("prometheus/alerts.yml")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "alerts.yml"), rules, 0o600))

	address := freeAddress(t)
	ctx, cancel := context.WithCancel(context.Background())
	var said lockedBuffer
	command := exec.CommandContext(ctx, binary, "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	command.Stderr = &said
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	require.NoError(t, command.Start())
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	t.Cleanup(func() {
		cancel()
		<-ended // or Prometheus would still write to dir
	})
	server := &prometheusServer{"http://" + address}
	require.Eventually(t, func() bool {
		response, err := http.Get(server.url + "/-/ready")
		if err == nil {
			response.Body.Close()
		}
		return err == nil && response.StatusCode == http.StatusOK
	}, aWhile, 10*time.Millisecond, "%s", &said)
	return server
}

// freeAddress returns an address that nobody listens on. Prometheus does not
// say which port it chose for port 0.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := servers.FreePort()
	require.NoError(t, err)
	return "127.0.0.1:" + port
}

// get decodes the data of the API's answer.
func (s *prometheusServer) get(t *testing.T, path string, query url.Values, data any) {
	t.Helper()
	response, err := http.Get(s.url + path + "?" + query.Encode())
	require.NoError(t, err)
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&answer))
	require.Equal(t, "success", answer.Status, "%s: %s", query, answer.Error)
	require.NoError(t, json.Unmarshal(answer.Data, data))
}

// series returns the number of series that an expression has.
func (s *prometheusServer) series(t *testing.T, expr string) int {
	t.Helper()
	var data struct{ Result []json.RawMessage }
	s.get(t, "/api/v1/query", url.Values{"query": {expr}}, &data)
	return len(data.Result)
}

type rule struct {
	Name, Query, Health, LastError string
	Labels, Annotations            map[string]string
}

func (s *prometheusServer) rules(t *testing.T) (rules []rule) {
	t.Helper()
	var data struct{ Groups []struct{ Rules []rule } }
	s.get(t, "/api/v1/rules", nil, &data)
	for _, g := range data.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

type dashboard struct {
	SchemaVersion int
	Templating    struct {
		List []struct {
			Name, Type, Query string
			Datasource        source
		}
	}
	Panels []panel
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               source
	FieldConfig              struct {
		Defaults struct {
			Unit       string
			Thresholds struct {
				Steps []struct {
					Color string
					Value float64
				}
			}
		}
	}
	Targets []struct {
		Expr       string
		Datasource source
	}
}

type source struct{ Type, UID string }

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile("grafana/dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &d))
	require.NotEmpty(t, d.Panels)
	return d
}

func TestDashboardNamesNoDataSourceOfItsOwn(t *testing.T) {
	d := readDashboard(t)
	require.Equal(t, 42, d.SchemaVersion, "the last version of this form of dashboards")
	variables := d.Templating.List
	require.Len(t, variables, 2)
	require.Equal(t, []string{"datasource", "datasource", "prometheus"},
		[]string{variables[0].Name, variables[0].Type, variables[0].Query})
	require.Equal(t, "job", variables[1].Name)
	require.Equal(t, "label_values(mailtrap_webhook_requests_total, job)", variables[1].Query)
	chosen := source{"prometheus", "${datasource}"}
	require.Equal(t, chosen, variables[1].Datasource)
	ids := make(map[int]bool)
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], "two panels have the id %d", p.ID)
		ids[p.ID] = true
		require.NotEmpty(t, p.Description, p.Title)
		require.NotEmpty(t, p.FieldConfig.Defaults.Unit, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		require.Equal(t, chosen, p.Datasource, p.Title)
		for _, target := range p.Targets {
			require.Equal(t, chosen, target.Datasource, p.Title)
			require.Contains(t, target.Expr, `job=~"$job"`, p.Title)
		}
	}
}

// Mailtrap pauses a webhook after 3 h 20 min, and a person needs the rest. A
// restart in the meantime must not hide the silence: the new process has no last
// delivery.
func TestSilenceIsRedWithinTheHour(t *testing.T) {
	for _, p := range readDashboard(t).Panels {
		if p.Title == "Since the last delivery" {
			steps := p.FieldConfig.Defaults.Thresholds.Steps
			last := steps[len(steps)-1]
			require.Equal(t, "red", last.Color)
			expr := strings.ReplaceAll(p.Targets[0].Expr, "$job", "r")
			requireSilenceShown(t, expr, last.Value)
			return
		}
	}
	t.Fatal("the panel is missing")
}

// requireSilenceShown lets promtool compute an expression for two webhooks. Both
// have had a delivery by the end of the first hour, and one has another.
func requireSilenceShown(t *testing.T, expr string, red float64) {
	t.Helper()
	const test = `
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series: # pods have new names after a restart, and other processes the old one
      - {series: 'mailtrap_webhook_last_delivery_timestamp_seconds{job="r",instance="a",webhook="0"}', values: 0x59 3600x9 0x60}
      - {series: 'mailtrap_webhook_last_delivery_timestamp_seconds{job="r",instance="a",webhook="1"}', values: 0x59 3600x4 stale}
      - {series: 'mailtrap_webhook_last_delivery_timestamp_seconds{job="r",instance="b",webhook="1"}', values: _x69 0x39 6600x20}
      - {series: 'mailtrap_webhook_last_delivery_timestamp_seconds{job="r",instance="b",webhook="2"}', values: 0x130}
    promql_expr_test:
      - expr: %[1]q
        eval_time: 2h
        exp_samples: [{labels: '{webhook="0"}', value: 3600}, {labels: '{webhook="1"}', value: 600}]
      - expr: %[2]q
        eval_time: 2h
        exp_samples: [{labels: '{webhook="0"}', value: 3600}]
`
	path := filepath.Join(t.TempDir(), "panel_test.yml")
	text := fmt.Sprintf(test, expr, fmt.Sprintf("(%s) >= %g", expr, red))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	out, err := exec.CommandContext(t.Context(), fromDebian(t, "promtool"), "test", "rules", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// Each panel shows data, so its names and labels are right. Prometheus can
// evaluate each alert.
func TestPrometheusServesTheDashboardAndTheAlerts(t *testing.T) {
	s := newScript()
	p := start(t, s.onEvent)
	server := startPrometheus(t, p)
	// Prometheus must see the series at 0 before they increase.
	require.Eventually(t, func() bool { return server.series(t, "mailtrap_webhook_requests_total") > 0 },
		aWhile, 50*time.Millisecond)
	play(t, p, s)
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$__range", "1m", "$job", "mailtrap-webhook").
				Replace(target.Expr)
			require.NotContains(t, expr, "$")
			require.Eventually(t, func() bool { return server.series(t, expr) > 0 }, aWhile, 50*time.Millisecond,
				"%s: %s", panel.Title, expr)
		}
	}

	var rules []rule
	require.Eventually(t, func() bool {
		rules = server.rules(t)
		return !slices.ContainsFunc(rules, func(r rule) bool { return r.Health == "unknown" })
	}, aWhile, 50*time.Millisecond, "Prometheus does not evaluate all rules")
	var tests []byte
	for _, file := range []string{"prometheus/alerts_test.yml", "prometheus/alerts_days_test.yml"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		tests = append(tests, text...)
	}
	require.NotEmpty(t, rules)
	known := p.seriesNames(t)
	for _, r := range rules {
		require.Equal(t, "ok", r.Health, "%s: %s", r.Name, r.LastError)
		require.Contains(t, []string{"critical", "warning", "info"}, r.Labels["severity"], r.Name)
		require.NotEmpty(t, r.Annotations["summary"], r.Name)
		require.NotEmpty(t, r.Annotations["description"], r.Name)
		fires := fmt.Sprintf("{alertname=%q, severity=%q}", r.Name, r.Labels["severity"])
		require.True(t, strings.Contains(string(tests), fires), "no test makes it fire: %s", fires)
		names := metricNames(r.Query)
		require.NotEmpty(t, names, r.Name)
		require.Subset(t, known, names, r.Name)
	}
	p.end(t)
}

// Each metric of the program is in a panel, and the panels have no others.
func TestDashboardHasEachMetric(t *testing.T) {
	p := start(t, succeed)
	known := p.seriesNames(t)
	_, families := p.fetchMetrics(t)
	p.end(t)
	var shown []string
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			shown = append(shown, metricNames(target.Expr)...)
		}
	}
	require.Subset(t, known, shown)
	for name := range families {
		if strings.HasPrefix(name, "mailtrap_") {
			require.True(t, slices.ContainsFunc(shown, func(s string) bool { return strings.HasPrefix(s, name) }), name)
		}
	}
}

// seriesNames returns the names of the program's series in Prometheus.
func (p *program) seriesNames(t *testing.T) (names []string) {
	t.Helper()
	_, families := p.fetchMetrics(t)
	for name, family := range families {
		if family.Metric[0].Histogram != nil || family.Metric[0].Summary != nil {
			names = append(names, name+"_bucket", name+"_count", name+"_sum")
		} else {
			names = append(names, name)
		}
	}
	return names
}

var (
	notNames = regexp.MustCompile(`"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)`)
	words    = regexp.MustCompile(`[\w:.]+\s*\(?`)
	keywords = []string{"and", "or", "unless", "offset", "bool"}
)

// metricNames returns the names of the metrics in an expression.
func metricNames(expr string) (names []string) {
	for _, word := range words.FindAllString(notNames.ReplaceAllString(expr, " "), -1) {
		word = strings.TrimSpace(word)
		if word[0] >= '0' && word[0] <= '9' || strings.HasSuffix(word, "(") || slices.Contains(keywords, word) {
			continue
		}
		names = append(names, word)
	}
	return names
}

func TestMetricNames(t *testing.T) {
	for expr, want := range map[string][]string{
		`absent(a_total{status="b"})`:                              {"a_total"},
		`sum by (job) (increase(a_total{x=~"}"}[10m])) > 1.2 * b`:  {"a_total", "b"},
		"rate(a[5m] offset 30m) unless\nb > 0":                     {"a", "b"},
		`histogram_quantile(1, sum by (job, le) (a_bucket))`:       {"a_bucket"},
		`time() - max (a > 0)`:                                     {"a"},
		"min_over_time(sum(increase(a[1m]))[5m:1m] offset 1w) > 2": {"a"},
	} {
		require.Equal(t, want, metricNames(expr), expr)
	}
}
