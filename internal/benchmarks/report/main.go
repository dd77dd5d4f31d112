// Report prints, in Markdown, how long mailtrapwebhook takes beside general JSON
// packages and beside the HMAC that every receiver computes:
//
//	go run ./report -go go1.26.8,go1.27.4
//
// It builds itself with each Go release and with several layouts of the code in
// memory, because a layout alone can make a loop a tenth slower. Each build
// measures on one processor, in one process, in interleaved rounds. A cell has
// the median of the layouts, and the least and the greatest of them.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("report: ")
	releases := flag.String("go", "local", "the Go releases, as in GOTOOLCHAIN, separated by commas")
	layouts := flag.Int("layouts", 3, "with how many layouts to build")
	rounds := flag.Int("rounds", 31, "how many rounds each build measures")
	busy := flag.Bool("busy", false, "count the processor's time and not the wall clock's, for a machine with other work")
	child := flag.Bool("measure", false, "measure with this build and print the values only")
	flag.Parse()
	var err error
	if *child {
		if *busy {
			useProcessorTime()
		}
		err = measureAndPrint(os.Stdout, *rounds)
	} else {
		options := []string{"-rounds=" + strconv.Itoa(*rounds), "-busy=" + strconv.FormatBool(*busy)}
		err = report(os.Stdout, strings.Split(*releases, ","), *layouts, options)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// A build is a release with a layout; it measures the values of all rows.
type build struct {
	release string
	layout  int
}

func report(w io.Writer, releases []string, layouts int, options []string) error {
	dir, err := os.MkdirTemp("", "report")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	values := make(map[string][][]value)
	for layout := 1; layout <= layouts; layout++ {
		for _, release := range releases {
			log.Printf("%s, layout %d", release, layout)
			measured, err := build{release, layout}.measure(filepath.Join(dir, "measure"), options)
			if err != nil {
				return err
			}
			values[release] = append(values[release], measured)
		}
	}
	return writeTable(w, releases, values)
}

func (b build) measure(binary string, options []string) ([]value, error) {
	ldflags := fmt.Sprintf("-ldflags=-randlayout=%d", b.layout)
	if _, err := b.output("go", "build", "-o", binary, ldflags, "./report"); err != nil {
		return nil, err
	}
	out, err := b.output(binary, append([]string{"-measure"}, options...)...)
	if err != nil {
		return nil, err
	}
	return parseValues(out)
}

func (b build) output(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN="+b.release)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return string(out), nil
}

// A value is what one build measured for a row.
type value struct {
	row   string
	value float64
}

// measureAndPrint writes a line for each row, with the value behind a tab.
func measureAndPrint(w io.Writer, rounds int) error {
	values, err := measure(fullSize, rounds)
	for _, v := range values {
		fmt.Fprintf(w, "%s\t%v\n", v.row, v.value)
	}
	return err
}

func parseValues(out string) (values []value, err error) {
	for line := range strings.Lines(out) {
		row, number, _ := strings.Cut(strings.TrimSpace(line), "\t")
		v, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return nil, fmt.Errorf("the build printed %q", line)
		}
		values = append(values, value{row, v})
	}
	if len(values) == 0 {
		return nil, errors.New("the build printed no values")
	}
	return values, nil
}

// writeTable writes a row for each that some release has, in the order of the
// release that has most.
func writeTable(w io.Writer, releases []string, values map[string][][]value) error {
	var rows []string
	for _, release := range releases {
		measured := values[release][0]
		if len(measured) > len(rows) {
			rows = rows[:0]
			for _, v := range measured {
				rows = append(rows, v.row)
			}
		}
	}
	fmt.Fprintf(w, "| | %s |\n| --- |%s\n", strings.Join(releases, " | "), strings.Repeat(" ---: |", len(releases)))
	for _, row := range rows {
		cells := make([]string, len(releases))
		for i, release := range releases {
			cells[i] = cell(row, values[release])
		}
		if _, err := fmt.Fprintf(w, "| %s | %s |\n", row, strings.Join(cells, " | ")); err != nil {
			return err
		}
	}
	return nil
}

// cell returns the median of a row over the layouts, and their range.
func cell(row string, layouts [][]value) string {
	var all []float64
	for _, values := range layouts {
		for _, v := range values {
			if v.row == row {
				all = append(all, v.value)
			}
		}
	}
	if len(all) == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", threeDigits(median(all)), threeDigits(slices.Min(all)), threeDigits(slices.Max(all)))
}

func threeDigits(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}
