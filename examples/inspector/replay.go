package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
)

const replayUsage = `Usage: inspector replay [flags] FILE... URL

Sends captured deliveries again to the receiver at URL, byte for byte and with
their own signatures, and prints a table of attempts. A folder stands for its
captures. A file that cannot be read is left out, and the exit status is 1.

  -retries        send again what is not acknowledged, as Mailtrap does; without
                  it each delivery has one attempt
  -speed factor   how much faster than Mailtrap's retries are; 300 if it is not
                  given, which makes 5 minutes a second
  -secret text    sign anew with this secret
`

type replayOptions struct {
	files  []string
	url    string
	player player
	resign bool
}

// addPlayerFlags adds the flags that send and replay share.
func addPlayerFlags(flags *flag.FlagSet, p *player) {
	flags.BoolVar(&p.retries, "retries", false, "")
	flags.Float64Var(&p.speed, "speed", defaultSpeed, "")
}

func parseReplay(args []string) (opts replayOptions, err error) {
	var secrets secretList
	flags := newFlags("replay")
	addPlayerFlags(flags, &opts.player)
	secrets.addTo(flags)
	if err := parseFlags(flags, args); err != nil {
		return opts, err
	}
	if opts.url, err = urlArgument(flags.Args()); err != nil {
		return opts, err
	}
	if opts.files = flags.Args()[:flags.NArg()-1]; len(opts.files) == 0 {
		return opts, misused("the files to send are missing: name them before the URL")
	}
	// The variable is for programs that receive. Signing anew changes what
	// was captured, and happens only when it is asked for here.
	known, err := secrets.secrets(func(string) string { return "" })
	if err != nil {
		return opts, err
	}
	opts.player.secret = rand.Text() // replaced by the capture's own signature
	if opts.resign = len(known) > 0; opts.resign {
		opts.player.secret = known[0]
	}
	return opts, opts.player.check()
}

// replay sends captures again.
func replay(ctx context.Context, args []string, env environment) error {
	opts, err := parseReplay(args)
	if err != nil {
		return err
	}
	transport := newTransport()
	defer transport.CloseIdleConnections()
	unreadable := false
	leaveOut := func(name string, err error) {
		fmt.Fprintf(env.stderr, "inspector: %s is left out: %s\n", printable(name), fileError(err))
		unreadable = true
	}
	files := expandFolders(opts.files, leaveOut)
	t := newTable(env, "FILE", len(files), opts.player.retries)
	for _, name := range files {
		c, err := readCaptureFile(name)
		if err != nil {
			leaveOut(name, err)
			continue
		}
		p := opts.player
		p.header = c.header
		m := p.mailtrap(c.body)
		m.URL, m.Client = opts.url, &http.Client{Transport: &replayTransport{transport, p, opts.resign}}
		if !t.deliver(ctx, m, name, c.body) {
			break
		}
	}
	if err := t.finish(); err != nil || !unreadable {
		return err
	}
	return errReported
}

// expandFolders puts the captures of each folder in its place.
func expandFolders(names []string, leaveOut func(name string, err error)) (files []string) {
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil || !info.IsDir() {
			files = append(files, name)
			continue
		}
		captures, err := listCaptures(name)
		if err == nil && len(captures) == 0 {
			err = errors.New("the folder has no captures")
		}
		if err != nil {
			leaveOut(name, err)
		}
		files = append(files, captures...)
	}
	return files
}

// A replayTransport gives requests the headers of a capture.
type replayTransport struct {
	next   http.RoundTripper
	player player
	resign bool
}

func (t *replayTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context()) // a RoundTripper must not change the request
	t.player.replace(r.Header, t.resign)
	if r.Header["User-Agent"] == nil {
		r.Header["User-Agent"] = []string{""} // or net/http would add its own
	}
	return t.next.RoundTrip(r)
}
