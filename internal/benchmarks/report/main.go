// Report runs the benchmarks and prints the tables of the README, in Markdown:
//
//	go run ./report
//
// It runs all of them -count times, each time once with the CPU's instructions for SHA-256 and once without, and on one
// processor.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	count := flag.Int("count", 5, "how often to run each benchmark")
	benchtime := flag.String("benchtime", "300ms", "for how long")
	flag.Parse()
	command := strings.Join(append([]string{"go run ./report"}, os.Args[1:]...), " ")
	if err := report(os.Stdout, command, *count, *benchtime); err != nil {
		log.Fatal("report: ", err)
	}
}

// withoutSHA switches off the SHA instructions and nothing else.
const withoutSHA = "cpu.sha=off"

func report(w io.Writer, command string, count int, benchtime string) error {
	dir, err := os.MkdirTemp("", "benchmarks")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "benchmarks.test")
	if _, err := output(nil, "go", "test", "-c", "-o", binary, "."); err != nil {
		return err
	}
	var with, without results
	for range count {
		for _, pass := range []struct {
			into  *results
			debug string
		}{{&with, ""}, {&without, withoutSHA}} {
			for bench, decoder := range map[string]string{".": "", "//^sonic-tuned-optdec$": "1"} {
				env := []string{"GOMAXPROCS=1", "GODEBUG=" + pass.debug, "SONIC_USE_OPTDEC=" + decoder}
				out, err := output(env, binary, "-test.run", "^$", "-test.bench", bench, "-test.benchtime", benchtime)
				if err != nil {
					return err
				}
				pass.into.add(out)
			}
		}
	}
	fmt.Fprintf(w, "Medians of %d runs by `%s`, with %s on %s/%s (%s).\n", count, command, runtime.Version(), runtime.GOOS,
		runtime.GOARCH, with.cpu)
	return writeTables(w, with, without)
}

func output(env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, out)
	}
	return string(out), nil
}

// results are what benchmarks printed, by benchmark and unit.
type results struct {
	cpu    string
	names  []string // of the benchmarks, in order
	values map[string]map[string][]float64
}

func (r *results) add(out string) {
	for line := range strings.Lines(out) {
		if cpu, ok := strings.CutPrefix(line, "cpu: "); ok {
			r.cpu = strings.TrimSpace(cpu)
		}
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(line, "Benchmark") {
			continue
		}
		name := fields[0]
		if r.values[name] == nil {
			if r.values == nil {
				r.values = make(map[string]map[string][]float64)
			}
			r.names = append(r.names, name)
			r.values[name] = make(map[string][]float64)
		}
		for pair := range slices.Chunk(fields[2:], 2) {
			if value, err := strconv.ParseFloat(pair[0], 64); err == nil && len(pair) == 2 {
				r.values[name][pair[1]] = append(r.values[name][pair[1]], value)
			}
		}
	}
}

func (r *results) median(name, unit string) float64 {
	values := slices.Sorted(slices.Values(r.values[name][unit]))
	if len(values) == 0 {
		return 0
	}
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// writeTables writes a table for each group of benchmarks, the quickest first.
func writeTables(w io.Writer, with, without results) error {
	groups := make(map[string][]string)
	var order []string
	for _, name := range with.names {
		parts := strings.SplitN(name, "/", 3) // a contender may have a slash in its name
		if len(parts) != 3 {
			return fmt.Errorf("%s is not named as the benchmarks of this module are", name)
		}
		group := strings.TrimPrefix(parts[0], "Benchmark") + ", " + strings.ReplaceAll(parts[1], "_", " ")
		if groups[group] == nil {
			order = append(order, group)
		}
		groups[group] = append(groups[group], name)
	}
	for _, group := range order {
		fmt.Fprintf(w, "\n**%s**\n\n", group)
		fmt.Fprintln(w, "| | time | MB/s | × HMAC | × HMAC without SHA instructions | kB allocated | allocations |")
		fmt.Fprintln(w, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
		slices.SortStableFunc(groups[group], func(a, b string) int {
			return cmp.Compare(with.median(a, "ns/op"), with.median(b, "ns/op"))
		})
		for _, name := range groups[group] {
			fmt.Fprintln(w, row(name, with, without))
		}
	}
	return nil
}

func row(name string, with, without results) string {
	contender := strings.SplitN(name, "/", 3)[2]
	switch {
	case contender == "mailtrapwebhook":
		contender = "**" + contender + "**"
	case with.median(name, "deviations") > 0:
		contender += " †"
	}
	return fmt.Sprintf("| %s | %s | %.0f | %.2f | %.2f | %.1f | %.0f |", contender,
		threeDigits(time.Duration(with.median(name, "ns/op"))), with.median(name, "MB/s"),
		with.median(name, "×HMAC"), without.median(name, "×HMAC"),
		with.median(name, "B/op")/1e3, with.median(name, "allocs/op"))
}

func threeDigits(d time.Duration) string {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}
