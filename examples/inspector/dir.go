package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// A captureDir is a folder of captures.
type captureDir struct {
	path      string
	strangers atomic.Int64 // bytes of deliveries that do not verify
}

// openDir makes the folder if it is missing.
func openDir(path string) (*captureDir, error) {
	// Captures hold people's addresses: nobody else may read them.
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder of -dir: %s", fileError(err))
	}
	return &captureDir{path: path}, nil
}

// save writes a capture whole or not at all. It replaces an earlier file of the
// same delivery.
func (d *captureDir) save(c *capture) (err error) {
	// The dot keeps listCaptures from looking at it.
	file, err := os.CreateTemp(d.path, ".capture-*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	// A power cut must not leave a name without its content.
	if err := errors.Join(c.writeTo(file), file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), filepath.Join(d.path, c.fileName()))
}

// maxStrangers bounds the files of deliveries that do not verify: a tunnel lets
// everybody in, and must not let them fill the disk.
const maxStrangers = 64 << 20

// mayKeep reports whether a new delivery may be written.
func (d *captureDir) mayKeep(new *delivery) bool {
	return new.verdict.verified != verifiedNo || d.strangers.Add(int64(new.size())) <= maxStrangers
}

// load returns the captures of the folder, oldest first: the newest that take
// at most max bytes. It notes the files that it cannot read and goes on.
func (d *captureDir) load(max int, notes *printer) ([]*capture, error) {
	files, err := listCaptures(d.path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the folder of -dir: %s", fileError(err))
	}
	var captures []*capture
	for _, name := range slices.Backward(files) {
		c, err := readCaptureFile(name)
		if err != nil {
			notes.linef("inspector: %s is left out: %s", filepath.Base(name), fileError(err))
			continue
		}
		if max -= c.size(); max < 0 {
			break
		}
		captures = append(captures, c)
	}
	slices.Reverse(captures)
	number(captures)
	return captures, nil
}

// listCaptures returns the paths of a folder's captures, sorted.
func listCaptures(dir string) (files []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		// A file that is being written begins with a dot.
		if name := entry.Name(); !strings.HasPrefix(name, ".") && filepath.Ext(name) == captureExt {
			files = append(files, filepath.Join(dir, name))
		}
	}
	return files, err
}

// number gives ids to the captures that have none of their own: a person, or a
// second inspector, may have added them to the folder.
func number(captures []*capture) {
	last := 0
	for _, c := range captures {
		last = max(last, c.id)
	}
	seen := make(map[int]bool)
	for _, c := range captures {
		if c.id <= 0 || seen[c.id] {
			last++
			c.id = last
		}
		seen[c.id] = true
	}
}

// readCaptureFile reads one file.
func readCaptureFile(name string) (*capture, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxBody+maxHeader {
		return nil, errNotWhole // a pipe would block for ever
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	c, err := readCapture(file)
	if err == nil && c.receivedAt.IsZero() {
		c.receivedAt = info.ModTime().UTC().Truncate(time.Millisecond) // a person wrote it
	}
	return c, err
}

// maxHeader is more than the server takes of a request's header.
const maxHeader = 1 << 20

// fileError returns what is wrong with a file, without its path.
func fileError(err error) string {
	if wrong, ok := errors.AsType[*fs.PathError](err); ok {
		return wrong.Err.Error()
	}
	return err.Error()
}
