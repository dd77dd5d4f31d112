// Throughput measures how many events per second the programs of the other
// examples receive. It plays Mailtrap with 1, 4 and 16 senders over loopback.
// Each delivers 500 new events at a time, and the next when it has the answer.
//
//	go run . -redis redis://localhost:6379/1 -postgres postgres://localhost/throughput
//
// It builds and runs each program and prints a table in Markdown. Without
// -redis or -postgres it leaves these stores out. Name a database that has
// nothing else: what the programs store stays there.
//
// Run it in its own directory, on a machine that does nothing else. The senders
// use the same processors as the receiver and its store.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"regexp"
	"text/tabwriter"
	"time"
)

// senders is how many deliver at the same time, in each measurement.
var senders = []int{1, 4, 16}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "throughput: %v\n", err)
		os.Exit(1)
	}
}

type options struct {
	redis, postgres string
	only            *regexp.Regexp
	duration        time.Duration
}

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	var opts options
	flags := flag.NewFlagSet("throughput", flag.ContinueOnError)
	flags.StringVar(&opts.redis, "redis", "", "measure the Redis with this `URL`")
	flags.StringVar(&opts.postgres, "postgres", "", "measure the PostgreSQL with this `URL`")
	flags.DurationVar(&opts.duration, "for", 5*time.Second, "send for this `time` in each measurement")
	only := flags.String("only", "", "measure the receivers whose names match this `regexp`")
	receiver := flags.String("receive", "", "be the receiver with this `name`, which the program starts itself")
	address := flags.String("listen", "", "the `address` of -receive")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *receiver != "" {
		return receive(*receiver, *address)
	}
	if opts.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "throughput")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return report(ctx, opts, dir, stdout)
}

// report measures each program and prints its line of the table.
func report(ctx context.Context, opts options, dir string, stdout io.Writer) error {
	table := tabwriter.NewWriter(stdout, 0, 0, 1, ' ', tabwriter.Debug)
	defer table.Flush()
	fmt.Fprint(table, "\treceiver\tone round trip\t500 rows")
	for _, n := range senders {
		fmt.Fprintf(table, "\t%d sending", n)
	}
	fmt.Fprintf(table, "\t\n\t---\t---\t---\t---\t---\t---\t\n")
	for _, p := range programs(opts, dir) {
		if !opts.only.MatchString(p.name) {
			continue
		}
		if err := p.measure(ctx, opts.duration, dir, table); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// measure prints the program's line: the floor of its store, and what it
// receives from each number of senders.
func (p program) measure(ctx context.Context, d time.Duration, dir string, out io.Writer) error {
	fmt.Fprintf(out, "\t%s", p.name)
	f, err := p.floor(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\t%s\t%s", f.roundTrip, f.rows)
	address, stop, err := p.start(ctx, dir)
	if err != nil {
		return err
	}
	defer stop()
	for _, n := range senders {
		r, err := load(ctx, "http://"+address+"/webhooks/mailtrap", n, d)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "\t%s", r)
	}
	fmt.Fprintf(out, "\t\n")
	return nil
}

// freeAddress returns an address that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
