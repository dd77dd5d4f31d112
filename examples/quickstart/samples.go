package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"io/fs"
	"path"
	"strings"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// payloads are the samples of Mailtrap's documentation, byte for byte.
//
//go:embed payloads/json/*.json payloads/jsonl/*.jsonl
var payloads embed.FS

type sample struct {
	file    string
	format  mailtrapwebhook.Format
	printed []byte   // as in the documentation
	events  []string // each on one line
}

// samples returns the payloads. It splits them without the package, so that the
// demo can check the package against them. A sample that cannot be read is a
// bug of the program.
func samples() []sample {
	var all []sample
	must(fs.WalkDir(payloads, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := payloads.ReadFile(name)
		must(err)
		s := sample{file: path.Base(name), format: formatJSON, printed: text}
		if path.Ext(name) == ".jsonl" {
			s.format = formatLines
			s.events = strings.Split(strings.TrimSpace(string(text)), "\n")
		} else {
			s.events = eventsOf(text)
		}
		all = append(all, s)
		return nil
	}))
	return all
}

// eventsOf returns the events of an envelope, each on one line.
func eventsOf(text []byte) (events []string) {
	var envelope struct{ Events []json.RawMessage }
	must(json.Unmarshal(text, &envelope))
	for _, event := range envelope.Events {
		var line bytes.Buffer
		must(json.Compact(&line, event)) // a line of JSON Lines has no line break
		events = append(events, line.String())
	}
	return events
}

// pack returns a body of events.
func pack(format mailtrapwebhook.Format, events ...string) []byte {
	if format == formatLines {
		return []byte(strings.Join(events, "\n") + "\n")
	}
	return []byte(`{"events":[` + strings.Join(events, ",") + `]}`)
}

func kindsOf(events []string) []string {
	var kinds []string
	for _, event := range events {
		var named struct{ Event string }
		must(json.Unmarshal([]byte(event), &named))
		kinds = append(kinds, named.Event)
	}
	return kinds
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
