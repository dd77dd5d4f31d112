package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A capture is a delivery as it came, and its answer.
//
// It is written as an HTTP request, which a person can read, which
// [http.ReadRequest] reads, and which has the body byte for byte. Headers that
// begin with Inspector- are the program's own.
type capture struct {
	id         int
	receivedAt time.Time
	source     string // one of the sources
	replayOf   int    // the id of the delivery, or 0
	remote     string
	target     string
	host       string
	header     http.Header
	body       []byte
	answer     answer
}

// The sources of a delivery.
const (
	sourceReceived = "received"
	sourceSent     = "sent"
	sourceReplayed = "replayed"
)

// An answer is what the sender of a delivery was told.
type answer struct {
	status    int // 0 until there is one
	duration  time.Duration
	header    http.Header // the app's
	body      []byte      // the app's, or its beginning
	cut       bool        // body is not all
	err       string      // why the app gave no answer
	forwarded bool        // the answer is the app's
}

// isGiven reports whether the sender was answered, or hung up before.
func (a answer) isGiven() bool { return a.status != 0 || a.err != "" }

// ownPrefix begins the names of the program's own headers in a capture.
const ownPrefix = "Inspector-"

// newCapture returns the capture of a request. It leaves out what is secret:
// the Authorization headers, cookies, and what the query says.
func newCapture(r *http.Request, body []byte, receivedAt time.Time) *capture {
	c := &capture{
		receivedAt: receivedAt.UTC().Truncate(time.Millisecond),
		source:     sourceReceived,
		remote:     r.RemoteAddr,
		target:     withoutQueryValues(r),
		host:       r.Host,
		header:     r.Header.Clone(),
		body:       body,
	}
	for name := range c.header {
		switch {
		case name == "Authorization", name == "Proxy-Authorization", name == "Cookie",
			strings.HasPrefix(name, ownPrefix):
			delete(c.header, name)
		}
	}
	return c
}

// withoutQueryValues returns the target of the request as it may be shown. A
// parameter without a value may itself be a token.
func withoutQueryValues(r *http.Request) string {
	target := r.URL.EscapedPath()
	if r.URL.RawQuery == "" {
		return target
	}
	var names []string
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		name, _, hasValue := strings.Cut(pair, "=")
		if !hasValue || strings.ContainsFunc(name, isNoNameRune) {
			name = "parameter"
		}
		names = append(names, name+"=removed")
	}
	return target + "?" + strings.Join(names, "&")
}

func isNoNameRune(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-' || r == '.')
}

// fileName returns the name of the capture's file. Names sort by time.
func (c *capture) fileName() string {
	return fmt.Sprintf("%s-%d%s", c.receivedAt.Format("20060102T150405.000Z"), c.id, captureExt)
}

const captureExt = ".http"

// maxID bounds the ids of captures that are read: those that follow must be
// exact in JavaScript.
const maxID = 1 << 52

// writeTo writes the capture as an HTTP request.
func (c *capture) writeTo(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "POST %s HTTP/1.1\r\nHost: %s\r\n", c.target, c.host)
	for _, h := range headerLines(c.header) {
		if !isHopHeader(h[0]) && h[0] != "Content-Length" {
			fmt.Fprintf(b, "%s: %s\r\n", h[0], h[1])
		}
	}
	fmt.Fprintf(b, "Content-Length: %d\r\n", len(c.body))
	for _, h := range c.ownHeader() {
		fmt.Fprintf(b, "%s%s: %s\r\n", ownPrefix, h[0], h[1])
	}
	b.WriteString("\r\n")
	b.Write(c.body)
	return b.Flush() // has the first error of all writes
}

// ownHeader returns the lines that tell what no header of the request does.
func (c *capture) ownHeader() [][2]string {
	lines := [][2]string{
		{"Id", strconv.Itoa(c.id)},
		{"Received", c.receivedAt.Format(timeFormat)},
		{"Source", c.source},
		{"Remote", oneLine(c.remote)},
	}
	if c.replayOf != 0 {
		lines = append(lines, [2]string{"Replay-Of", strconv.Itoa(c.replayOf)})
	}
	if c.answer.isGiven() {
		lines = append(lines,
			[2]string{"Status", strconv.Itoa(c.answer.status)},
			[2]string{"Duration", c.answer.duration.String()},
			[2]string{"Forwarded", strconv.FormatBool(c.answer.forwarded)})
	}
	if c.answer.err != "" {
		lines = append(lines, [2]string{"Error", oneLine(c.answer.err)})
	}
	return lines
}

// oneLine keeps a text from becoming several lines of a header.
func oneLine(s string) string { return strings.Join(strings.Fields(printable(s)), " ") }

// headerLines returns the lines of a header, sorted by name.
func headerLines(header http.Header) [][2]string {
	lines := [][2]string{}
	for name, values := range header {
		for _, value := range values {
			lines = append(lines, [2]string{name, value})
		}
	}
	slices.SortStableFunc(lines, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return lines
}

var errNotWhole = errors.New("the file is not a whole capture: it may be half written or of another program")

// readCapture reads what [capture.writeTo] has written.
func readCapture(r io.Reader) (*capture, error) {
	in := bufio.NewReader(r)
	req, err := http.ReadRequest(in)
	// Without a length the body could have lost its end.
	if err != nil || req.Method != http.MethodPost || req.ContentLength < 0 || req.ContentLength > maxBody {
		return nil, errNotWhole
	}
	if _, hasLength := req.Header["Content-Length"]; !hasLength && req.ContentLength == 0 {
		return nil, errNotWhole
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, errNotWhole
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return nil, errNotWhole // an editor has added a line
	}
	c := newCapture(req, body, time.Time{})
	c.target = req.RequestURI
	c.readOwnHeader(req.Header)
	return c, nil
}

// readOwnHeader reads what ownHeader returns. A capture that a person wrote may
// have none of it.
func (c *capture) readOwnHeader(header http.Header) {
	own := func(name string) string { return header.Get(ownPrefix + name) }
	if id, err := strconv.Atoi(own("Id")); err == nil && id <= maxID {
		c.id = id
	}
	received, err := time.Parse(time.RFC3339Nano, own("Received"))
	// RFC 3339 has no other year.
	if received = received.UTC(); err == nil && 1 <= received.Year() && received.Year() <= 9999 {
		c.receivedAt = received
	}
	c.remote = own("Remote")
	if source := own("Source"); source == sourceSent || source == sourceReplayed {
		c.source = source
	}
	c.replayOf, _ = strconv.Atoi(own("Replay-Of"))
	c.answer.status, _ = strconv.Atoi(own("Status"))
	c.answer.duration, _ = time.ParseDuration(own("Duration"))
	c.answer.forwarded = own("Forwarded") == "true"
	c.answer.err = own("Error")
}

// bytes returns the capture as a file.
func (c *capture) bytes() []byte {
	var b bytes.Buffer
	_ = c.writeTo(&b) // a Buffer returns no error
	return b.Bytes()
}
