package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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
		line, err := lineOf(ev.RawJSON())
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		return appendTo(path, append(line, '\n'))
	}
}

// lineOf returns the text of an event as a line of JSON. An element that is no
// event, such as a broken line or an array, becomes a string in an object: as
// the first line it would make the whole file unreadable.
func lineOf(text string) ([]byte, error) {
	var line bytes.Buffer
	if err := json.Compact(&line, []byte(text)); err == nil {
		events, err := mailtrapwebhook.Parse(line.Bytes())
		if err == nil && len(events) == 1 && events[0].RawJSON() == line.String() {
			return line.Bytes(), nil
		}
	}
	return json.Marshal(map[string]string{"unreadable": text})
}

// appendTo appends lines to a file, which only its owner may read: events have
// addresses. After a nil error the lines are on the disk. After another error
// they are cut off again.
func appendTo(path string, lines []byte) (err error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if size == 0 {
		if err := syncDirectory(filepath.Dir(path)); err != nil {
			return err
		}
	} else {
		last := make([]byte, 1)
		if _, err := file.ReadAt(last, size-1); err != nil {
			return err
		}
		if last[0] != '\n' { // a machine that died left a part of a line
			lines = append([]byte("\n"), lines...)
		}
	}
	if _, err = file.Write(lines); err == nil {
		err = file.Sync()
	}
	if err != nil { // a full disk takes a part of a line, and the next event must not follow it
		return errors.Join(err, file.Truncate(size))
	}
	return nil
}

// syncDirectory makes a new file's name survive a crash of the machine. Windows
// cannot sync a directory.
func syncDirectory(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkDropped returns an error if nothing can be appended to the file. Without
// the check, this would show hours into an outage.
func checkDropped(path string) error {
	if err := appendTo(path, nil); err != nil {
		return fmt.Errorf("dropped events cannot be kept: let -dropped name a file that can be written: %w", err)
	}
	return nil
}
