package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// discarded returns the jobs that are tried no more: their attempts are used
// up, or the work canceled them.
func (in *inbox) discarded(ctx context.Context) iter.Seq2[*rivertype.JobRow, error] {
	params := river.NewJobListParams().First(1000).Kinds(eventArgs{}.Kind()).
		States(rivertype.JobStateDiscarded, rivertype.JobStateCancelled)
	return func(yield func(*rivertype.JobRow, error) bool) {
		for {
			page, err := in.river.JobList(ctx, params)
			if err != nil {
				yield(nil, fmt.Errorf("cannot list the jobs: %w", err))
				return
			}
			for _, job := range page.Jobs {
				if !yield(job, nil) {
					return
				}
			}
			if len(page.Jobs) == 0 {
				return
			}
			params = params.After(page.LastCursor)
		}
	}
}

// listDiscarded prints the discarded jobs.
func (in *inbox) listDiscarded(ctx context.Context, stdout io.Writer) error {
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "JOB\tENDED\tATTEMPTS\tEVENT\tERROR")
	for job, err := range in.discarded(ctx) {
		if err != nil {
			return err
		}
		var args eventArgs
		if err := json.Unmarshal(job.EncodedArgs, &args); err != nil {
			return err
		}
		var reason string
		if n := len(job.Errors); n > 0 {
			reason = job.Errors[n-1].Error
		}
		fmt.Fprintf(table, "%d\t%s\t%d\t%s\t%q\n",
			job.ID, job.FinalizedAt.Format(time.RFC3339), job.Attempt, args.Key, reason)
	}
	return table.Flush()
}

// retry puts a discarded job back, or all of them. Each gets an attempt more.
func (in *inbox) retry(ctx context.Context, which string, stdout io.Writer) error {
	id, err := strconv.ParseInt(which, 10, 64)
	if err != nil && which != "all" {
		return fmt.Errorf("-retry %q is no job: write its number or all", which)
	}
	var n int
	for job, err := range in.discarded(ctx) {
		if err != nil {
			return err
		}
		if which != "all" && job.ID != id {
			continue
		}
		if _, err := in.river.JobRetry(ctx, job.ID); err != nil {
			return fmt.Errorf("cannot put back job %d: %w", job.ID, err)
		}
		n++
	}
	if n == 0 && which != "all" {
		return errors.New("no discarded job has this number: -discarded lists them")
	}
	fmt.Fprintf(stdout, "jobs put back: %d\n", n)
	return nil
}
