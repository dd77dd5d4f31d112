package benchmarks

import (
	"bytes"
	"fmt"
	"reflect"

	"github.com/google/go-cmp/cmp"
)

// Agree returns an error if a contender makes other events of a body than
// mailtrapwebhook does.
func Agree(c Contender, f Form, body []byte) error {
	want, err := ours.parsed(f, body)
	if err != nil {
		return err
	}
	mutable := bytes.Clone(body)
	got, err := c.parsed(f, mutable)
	if err != nil {
		return err
	}
	clear(mutable) // no event may be a part of the caller's body
	if err := difference(want, got); err != nil || c.Stream == nil {
		return err
	}
	got, err = c.streamed(f, bytes.NewReader(body))
	if err != nil {
		return err
	}
	return difference(want, got)
}

func difference(want, got []plainEvent) error {
	if len(want) == 0 || len(got) != len(want) {
		return fmt.Errorf("%d events in place of %d", len(got), len(want))
	}
	for i := range want {
		if !reflect.DeepEqual(want[i], got[i]) { // cmp.Equal takes seconds for 100,000 events
			return fmt.Errorf("event %d differs (-want +got):\n%s", i, cmp.Diff(want[i], got[i]))
		}
	}
	return nil
}
