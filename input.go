package mailtrapwebhook

import (
	"bytes"
	"io"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
)

// An input is a body that is read piece by piece. Its buffer has what is from
// pos on and, between hold and rewind, also what is from mark on.
//
//	offset: base     mark        pos
//	        | dropped soon | held | rest | not read yet
type input struct {
	src    io.Reader // nil if buf is the whole body
	srcErr error     // why src gives no more
	buf    []byte
	limit  int // of the bytes that must be in buf at once

	pos  int // index of the next byte in buf
	held bool
	mark int // index of the first byte held

	base    int64 // offset of buf[0] in the body
	lines   int   // line breaks before buf[counted]
	counted int
}

// rest returns what has been read and not been passed.
func (in *input) rest() []byte { return in.buf[in.pos:] }

// pass moves past n bytes of rest.
func (in *input) pass(n int) { in.pos += n }

// peek passes over white space and returns the next byte. It reports false at
// the end of the input.
func (in *input) peek() (c byte, ok bool) {
	for {
		for ; in.pos < len(in.buf); in.pos++ {
			if c := in.buf[in.pos]; !jsonscan.IsBlank(c) {
				return c, true
			}
		}
		if !in.more() {
			return 0, false
		}
	}
}

// hold keeps the input from pos on, so that rewind can return there.
func (in *input) hold() { in.held, in.mark = true, in.pos }

// release ends hold.
func (in *input) release() { in.held = false }

// rewind ends hold and returns to where hold was called. It reports false, and
// stays where it is, if what was held has become too large.
func (in *input) rewind() bool {
	ok := in.held && in.pos-in.mark <= in.limit
	if in.release(); ok {
		in.pos = in.mark
	}
	return ok
}

// line returns the line at pos without its line break. It passes over a line
// that is too long, and then reports false.
func (in *input) line() (line []byte, ok bool) {
	ok = true
	for seen := 0; ; {
		if n := bytes.IndexByte(in.rest()[seen:], '\n'); n >= 0 {
			line = in.rest()[:seen+n]
			break
		}
		// The limit is for the line without its line break, of which
		// "\r" may be part.
		if seen = len(in.rest()); seen > in.limit+len("\r") {
			in.pass(seen)
			seen, ok = 0, false
		}
		if !in.more() {
			line = in.rest()
			break
		}
	}
	if ok && len(bytes.TrimSuffix(line, []byte("\r"))) <= in.limit {
		return line, true
	}
	in.pass(len(line))
	return nil, false
}

// awaitValue reads until the JSON value at pos is whole, as far as its brackets
// and quotes tell, or is larger than limit, or the input ends.
func (in *input) awaitValue(limit int) {
	var end valueEnd
	for seen := 0; ; {
		seen += end.find(in.rest()[seen:])
		if end.found || seen > limit || !in.more() {
			return
		}
	}
}

// skipValue passes over the JSON value at pos, as far as its brackets and
// quotes tell where it ends.
func (in *input) skipValue() {
	var end valueEnd
	for {
		in.pass(end.find(in.rest()))
		if end.found || !in.more() {
			return
		}
	}
}

// A valueEnd finds the end of a JSON value in text that comes in pieces.
type valueEnd struct {
	found   bool
	depth   int  // of brackets
	quoted  bool // in a string
	escaped bool // behind a backslash in a string
}

// find returns how much of the text belongs to the value.
func (e *valueEnd) find(text []byte) (size int) {
	for i, c := range text {
		switch {
		case e.escaped:
			e.escaped = false
			continue
		case e.quoted:
			e.escaped = c == '\\'
			e.quoted = c != '"'
			e.found = !e.quoted && e.depth == 0
		case c == '"':
			e.quoted = true
		case c == '{' || c == '[':
			e.depth++
		case c == '}' || c == ']':
			e.depth--
			e.found = e.depth <= 0
		}
		// A scalar ends before the byte that follows, and has no end of
		// its own.
		if e.depth < 0 || e.depth == 0 && !e.quoted && (c == ',' || jsonscan.IsBlank(c)) {
			e.found = true
			return i
		}
		if e.found {
			return i + 1
		}
	}
	return len(text)
}

// more reads more into the buffer and reports whether there was any. It
// discards what has been passed and is not held, and so changes all indexes of
// buf. Indexes of rest stay as they are.
func (in *input) more() bool {
	if in.src == nil || in.srcErr != nil {
		return false
	}
	in.discard()
	// Reading into the rest of a nearly full buffer would take many small
	// reads.
	if len(in.buf) >= cap(in.buf)/2 {
		const least = 64 << 10
		in.buf = append(make([]byte, 0, max(least, 2*cap(in.buf))), in.buf...)
	}
	const most = 100 // reads without result, as in bufio
	for range most {
		n, err := in.src.Read(in.buf[len(in.buf):cap(in.buf)])
		in.buf, in.srcErr = in.buf[:len(in.buf)+n], err
		if n > 0 || err != nil {
			return n > 0
		}
	}
	in.srcErr = io.ErrNoProgress
	return false
}

// discard removes from buf what is not needed any more.
func (in *input) discard() {
	// What is too much to be one event need not be held.
	in.held = in.held && in.pos-in.mark <= in.limit
	n := in.pos
	if in.held {
		n = in.mark
	}
	if n == 0 {
		return
	}
	in.countLines(n)
	in.buf = in.buf[:copy(in.buf, in.buf[n:])]
	in.base += int64(n)
	in.pos -= n
	in.mark -= n
	in.counted -= n
}

// offset returns the offset in the body of the next byte.
func (in *input) offset() int64 { return in.base + int64(in.pos) }

// lineAt returns the line, from 1, of the byte at index i of rest.
func (in *input) lineAt(i int) int {
	in.countLines(in.pos + i)
	return in.lines + 1
}

// countLines moves counted to index i of buf. It goes on from where it was, so
// that the time for all errors of a body grows no faster than the body.
func (in *input) countLines(i int) {
	if i >= in.counted {
		in.lines += bytes.Count(in.buf[in.counted:i], []byte("\n"))
	} else {
		in.lines -= bytes.Count(in.buf[i:in.counted], []byte("\n"))
	}
	in.counted = i
}

// errorAt returns the error for what is wrong at index i of rest.
func (in *input) errorAt(i int, why error) *DecodeError {
	return &DecodeError{Offset: in.offset() + int64(i), Line: in.lineAt(i), Err: why}
}

// readError returns the error of the reader, or nil if it has failed with
// [io.EOF] or not at all.
func (in *input) readError() error {
	if in.srcErr == io.EOF {
		return nil
	}
	return in.srcErr
}

// endError returns the error for an input that ends too early: that of the
// reader, and else why.
func (in *input) endError(why error) error {
	if err := in.readError(); err != nil {
		return err
	}
	return in.errorAt(len(in.rest()), why)
}
