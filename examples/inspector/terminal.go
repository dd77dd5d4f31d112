package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
)

// printable replaces characters that break the line, control the terminal or
// reorder text. Anybody can write a mail and choose what it says.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// A printer writes whole lines. It is safe for concurrent use.
type printer struct {
	mu sync.Mutex
	w  io.Writer
}

func (p *printer) linef(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.w, printable(fmt.Sprintf(format, args...)))
}
