package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// keepDropped returns an OnDrop that appends each event to a file of JSON Lines,
// which [mailtrapwebhook.Parse] reads. An event that cannot be written is not
// dropped: it fails, and comes again. The file does not depend on the database
// whose outage made the events fail.
func keepDropped(path string) func(context.Context, mailtrapwebhook.Event, error) error {
	var mu sync.Mutex // deliveries overlap
	return func(_ context.Context, ev mailtrapwebhook.Event, _ error) error {
		var line bytes.Buffer
		if err := json.Compact(&line, []byte(ev.RawJSON())); err != nil { // a broken line
			line.Reset()
			line.WriteString(ev.RawJSON())
		}
		line.WriteByte('\n')
		mu.Lock()
		defer mu.Unlock()
		return appendTo(path, line.Bytes())
	}
}

// appendTo appends to a file, which only its owner may read: events have
// addresses. After a nil error the text is on the disk.
func appendTo(path string, text []byte) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Sync(), file.Close())
}
