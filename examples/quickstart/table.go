package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A result is a step and its outcome.
type result struct {
	step step
	got  outcome
}

func (r result) ok() bool { return r.got == r.step.want }

// writeTable writes a line for each delivery, with the answers in both formats.
// Below the table it lists the unexpected outcomes and returns an error if
// there are any.
func writeTable(w io.Writer, results []result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DELIVERY\tJSON\tJSON LINES\tONEVENT CALLED FOR\tBESIDES")
	var titles []string // in the order of the steps, which a map does not keep
	rows := make(map[string][]result)
	for _, r := range results {
		if rows[r.step.title] == nil {
			titles = append(titles, r.step.title)
		}
		rows[r.step.title] = append(rows[r.step.title], r)
	}
	for _, title := range titles {
		fmt.Fprintln(table, strings.Join(cells(title, rows[title]), "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return writeSummary(w, results)
}

// cells returns the cells of a row: one delivery in each format.
func cells(title string, row []result) []string {
	answers := make(map[mailtrapwebhook.Format]string)
	for _, r := range row {
		answers[r.step.format] = fmt.Sprint(r.got.answered)
		if !r.ok() {
			answers[r.step.format] = "FAIL"
		}
	}
	got := row[0].got // a format with another outcome has FAIL
	return []string{
		title, answers[formatJSON], answers[formatLines], cmp.Or(got.called, "-"), got.besides(),
	}
}

// besides says what became of the events that were not simply handled.
func (o outcome) besides() string {
	var parts []string
	for _, count := range []struct {
		n    int
		what string
	}{{o.duplicates, "duplicates"}, {o.failed, "failed"}, {o.unknown, "unknown"}} {
		if count.n > 0 {
			parts = append(parts, fmt.Sprint(count.n, " ", count.what))
		}
	}
	return strings.Join(parts, ", ")
}

func writeSummary(w io.Writer, results []result) error {
	wrong := 0
	for _, r := range results {
		if !r.ok() {
			wrong++
			// %+v names the fields, so that the difference shows.
			fmt.Fprintf(w, "FAIL %s (%s)\n  got  %+v\n  want %+v\n", r.step.title, r.step.format, r.got, r.step.want)
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d deliveries had an unexpected outcome: see FAIL above", wrong, len(results))
	}
	_, err := fmt.Fprintf(w, "\nAll %d deliveries had the expected outcome.\n", len(results))
	return err
}
