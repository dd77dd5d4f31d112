package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/benchmarks"
	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
)

const secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

// parsing decodes deliveries that are in memory.
func parsing(s size) (group, error) {
	g := group{ratios: []ratio{
		{"Parse / goccy, envelope", "envelope mailtrapwebhook", "envelope goccy"},
		{"Parse / goccy, lines", "lines mailtrapwebhook", "lines goccy"},
		{"Parse / goccy tuned, envelope", "envelope mailtrapwebhook", "envelope goccy tuned"},
		{"Parse / goccy tuned, lines", "lines mailtrapwebhook", "lines goccy tuned"},
		{"sonic / Parse, envelope", "envelope sonic", "envelope mailtrapwebhook"},
		{"encoding/json/v2 / Parse, envelope", "envelope encoding/json/v2", "envelope mailtrapwebhook"},
		{"encoding/json / Parse, envelope", "envelope encoding/json", "envelope mailtrapwebhook"},
	}}
	for _, f := range benchmarks.Forms {
		body := benchmarks.Body(f, s.events)
		tasks, err := decoding(f, body, s.events, func(c benchmarks.Contender) func() (int, error) {
			return func() (int, error) { return c.Parse(f, body) }
		})
		if err != nil {
			return g, err
		}
		g.tasks = append(g.tasks, tasks...)
	}
	return g, nil
}

// streaming decodes many events from a reader.
func streaming(s size) (group, error) {
	g := group{ratios: []ratio{
		{"Decoder / goccy's, 100,000 events, envelope", "envelope mailtrapwebhook", "envelope goccy"},
		{"Decoder / goccy's, 100,000 events, lines", "lines mailtrapwebhook", "lines goccy"},
	}}
	for _, f := range benchmarks.Forms {
		body := benchmarks.Body(f, s.streamed)
		tasks, err := decoding(f, body, s.streamed, func(c benchmarks.Contender) func() (int, error) {
			if c.Stream == nil {
				return nil
			}
			return func() (int, error) { return c.Stream(f, bytes.NewReader(body)) }
		})
		if err != nil {
			return g, err
		}
		g.tasks = append(g.tasks, tasks...)
	}
	return g, nil
}

// decoding returns a task for each contender that can do what decode returns,
// after it has made sure that all of them make the same events.
func decoding(
	f benchmarks.Form, body []byte, events int, decode func(benchmarks.Contender) func() (int, error),
) (tasks []task, err error) {
	for _, c := range benchmarks.Contenders() {
		run := decode(c)
		if c.Unfit != "" || run == nil {
			continue
		}
		name := string(f) + " " + c.Name
		if err := benchmarks.Agree(c, f, body); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		tasks = append(tasks, timed(name, func() error {
			n, err := run()
			if err == nil && n != events {
				err = fmt.Errorf("%d events", n)
			}
			return err
		}))
	}
	return tasks, nil
}

// validating passes over a body without keeping anything.
func validating(s size) (group, error) {
	body := benchmarks.Body(benchmarks.Envelope, s.events)
	return group{
		tasks: []task{
			timed("validate", validator(body)),
			timed("HMAC", func() error { return mac(body) }),
		},
		ratios: []ratio{{"validating pass / HMAC of the same bytes", "validate", "HMAC"}},
	}, nil
}

func mac(body []byte) error {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write(body)
	if len(h.Sum(nil)) != sha256.Size { // uses the result, so that the work is not optimised away
		return errors.New("the HMAC has another size")
	}
	return nil
}

// validator returns a function that passes over body with the package's scanner.
// This is the only place that knows it.
func validator(body []byte) func() error {
	var s jsonscan.Scanner // as a Decoder keeps one
	return func() error {
		s.Reset(body)
		end := s.Value(0, 0)
		if fault, _ := s.Fault(); fault != "" || end != len(body) {
			return errors.New("the body is not valid")
		}
		return nil
	}
}
