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

	"github.com/jackc/pgx/v5"
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

// forDiscarded calls do with a discarded job, or with all of them. It returns
// the number of calls.
func (in *inbox) forDiscarded(ctx context.Context, which string, do func(job *rivertype.JobRow) error) (n int, err error) {
	for job, err := range in.discarded(ctx) {
		if err != nil {
			return n, err
		}
		if which != allJobs && which != strconv.FormatInt(job.ID, 10) {
			continue
		}
		if err := do(job); err != nil {
			return n, err
		}
		n++
	}
	if n == 0 && which != allJobs {
		return 0, errors.New("no discarded job has this number: -discarded lists them")
	}
	return n, nil
}

// retry puts a discarded job back, or all of them. Each gets an attempt more.
func (in *inbox) retry(ctx context.Context, which string, stdout io.Writer) error {
	n, err := in.forDiscarded(ctx, which, func(job *rivertype.JobRow) error {
		if _, err := in.river.JobRetry(ctx, job.ID); err != nil {
			return fmt.Errorf("cannot put back job %d: %w", job.ID, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "jobs put back: %d\n", n)
	return nil
}

// delete deletes a discarded job, or all of them.
func (in *inbox) delete(ctx context.Context, which string, stdout io.Writer) error {
	n, err := in.forDiscarded(ctx, which, func(job *rivertype.JobRow) error {
		if err := in.deleteJob(ctx, job); err != nil {
			return fmt.Errorf("cannot delete job %d: %w", job.ID, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "jobs deleted: %d\n", n)
	return nil
}

// deleteJob deletes a discarded job. The row of its event stays until it is
// purged: Mailtrap may send the event again.
func (in *inbox) deleteJob(ctx context.Context, job *rivertype.JobRow) error {
	var args eventArgs
	if err := json.Unmarshal(job.EncodedArgs, &args); err != nil {
		return err
	}
	return pgx.BeginTxFunc(ctx, in.pool, txOptions, func(tx pgx.Tx) error {
		deleted, err := in.river.JobDeleteTx(ctx, tx, job.ID)
		if err != nil {
			return err
		}
		if deleted.FinalizedAt == nil { // the rollback keeps the job
			return errors.New("it was put back in the meantime")
		}
		// -purge deletes no event whose worked is null.
		_, err = tx.Exec(ctx, "UPDATE mailtrap_inbox SET worked = now() WHERE id = $1 AND worked IS NULL", args.Inbox)
		return err
	})
}
