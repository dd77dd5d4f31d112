package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const diagnoseUsage = `Usage: inspector diagnose [flags] FILE

Says whether a delivery verifies, why it does not, and what is in it. FILE is a
capture, or with -signature a raw body; - is the standard input. The exit status
is 1 if the delivery does not verify or cannot be read.

  -secret text      the webhook's signing secret; may be given several times.
                    Prefer ` + secretVariable + `: other users of the
                    machine see a command line
  -signature text   the value of the Mailtrap-Signature header
`

const signUsage = `Usage: inspector sign [flags] FILE

Prints the value of the Mailtrap-Signature header for the raw body in FILE; - is
the standard input.

  -secret text   the webhook's signing secret. Prefer ` + secretVariable + `:
                 other users of the machine see a command line
`

// fileArgument returns the only argument.
func fileArgument(args []string) (string, error) {
	if len(args) != 1 {
		return "", misused("there must be one file, behind the flags")
	}
	return args[0], nil
}

// readFile reads a whole file, or the standard input.
func readFile(name string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %s", name, fileError(err))
		}
		defer file.Close()
		in = file
	}
	content, err := io.ReadAll(io.LimitReader(in, maxBody+maxHeader+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read %s: %s", name, fileError(err))
	case len(content) > maxBody+maxHeader:
		return nil, fmt.Errorf("%s is over 8 MiB: no delivery is as large", name)
	}
	return content, nil
}

// sign prints the signature of a body.
func sign(_ context.Context, args []string, env environment) error {
	var list secretList
	flags := newFlags("sign")
	list.addTo(flags)
	if err := parseFlags(flags, args); err != nil {
		return err
	}
	name, err := fileArgument(flags.Args())
	if err != nil {
		return err
	}
	secrets, err := list.secrets(env.getenv)
	switch {
	case err != nil:
		return err
	case len(secrets) != 1:
		return misused("sign needs one secret: set %s", secretVariable)
	}
	body, err := readFile(name, env.stdin)
	if err != nil {
		return err
	}
	if len(body) == 0 {
		return fmt.Errorf("%s is empty: no receiver accepts an empty body", name)
	}
	_, err = fmt.Fprintln(env.stdout, mailtrapwebhook.Sign(body, secrets[0]))
	return err
}

// diagnose prints what there is to know of a delivery.
func diagnose(_ context.Context, args []string, env environment) error {
	var list secretList
	flags := newFlags("diagnose")
	list.addTo(flags)
	signature := flags.String("signature", "", "")
	if err := parseFlags(flags, args); err != nil {
		return err
	}
	name, err := fileArgument(flags.Args())
	if err != nil {
		return err
	}
	secrets, err := list.secrets(env.getenv)
	if err != nil {
		return err
	}
	content, err := readFile(name, env.stdin)
	if err != nil {
		return err
	}
	c := &capture{header: http.Header{mailtrapwebhook.SignatureHeader: {*signature}}, body: content}
	if *signature == "" {
		if c, err = readCapture(bytes.NewReader(content)); err != nil {
			return fmt.Errorf("%s: %w; for a raw body, pass -signature", name, err)
		}
	}
	d := inspect(c, secrets)
	if d.verdict.verified == verifiedNo && len(c.body) > maxDiagnosed {
		// Nobody else waits here.
		d.verdict = mismatch(mailtrapwebhook.Diagnose(c.body, c.header.Get(mailtrapwebhook.SignatureHeader), secrets...))
	}
	return report(env.stdout, d)
}

// report prints a delivery. It returns an error if the delivery does not verify
// or cannot be read.
func report(w io.Writer, d *delivery) error {
	out := &printer{w: w}
	out.linef("%s: %s", verifiedWord[d.verdict.verified], d.verdict.text)
	if d.verdict.fix != "" {
		out.linef("%s", d.verdict.fix)
	}
	reportHeader(w, d.header)
	fmt.Fprintln(w)
	out.linef("%s, %s, %s", plural(len(d.body), "byte"), d.content.format, plural(d.content.events, "event"))
	items, truncated := itemsOf(d.body)
	for i, it := range items {
		reportItem(w, i+1, it)
	}
	if truncated {
		fmt.Fprintln(w, "\nThere are more events than are shown.")
	}
	if d.content.fault != nil {
		out.linef("")
		out.linef("broken: %s", errorText(d.content.fault))
	}
	switch {
	case d.verdict.verified == verifiedNo:
		return errors.New("the delivery does not verify: see above")
	case d.content.fault != nil:
		return errors.New("the delivery cannot be read: see above")
	}
	return nil
}

// reportHeader prints the headers that can be the cause of trouble.
func reportHeader(w io.Writer, header http.Header) {
	var lines [][2]string
	for _, line := range headerLines(header) {
		if matters(line[0]) {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(w)
	writeColumns(w, "", slices.Values(lines))
}

// matters reports whether a header has to do with the body, the signature or
// the way of the request.
func matters(name string) bool {
	return strings.HasPrefix(name, "Content-") || strings.HasPrefix(name, "X-Forwarded-") ||
		strings.HasSuffix(name, "-Signature") || slices.Contains(proxyHeaders, name) || name == "User-Agent"
}

func reportItem(w io.Writer, number int, it item) {
	fmt.Fprintln(w)
	fmt.Fprintf(w, "%d  %s  %s  %s\n", number, printable(it.Kind), it.Type, it.Time)
	if it.Error != nil {
		fmt.Fprintf(w, "   line %d, offset %d: %s\n", it.Error.Line, it.Error.Offset, printable(it.Error.Text))
	}
	writeColumns(w, "   ", func(yield func([2]string) bool) {
		for _, f := range it.Fields {
			value := f.Value
			switch {
			case f.Odd != "":
				value += "  (ODD, offset " + fmt.Sprint(f.Offset) + ": " + f.Odd + ")"
			case f.Unknown:
				value += "  (unknown to this version)"
			}
			if !yield([2]string{f.Name, value}) {
				return
			}
		}
	})
}

// writeColumns writes names and values in two columns.
func writeColumns(w io.Writer, indent string, lines func(func([2]string) bool)) {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for line := range lines {
		fmt.Fprintf(columns, "%s%s\t%s\n", indent, printable(line[0]), printable(line[1]))
	}
	_ = columns.Flush() // the last write of a command tells an error
}
