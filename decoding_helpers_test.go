package mailtrapwebhook_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// sameFault compares errors by where they are and by what they mention: of two errors one says more than the other.
var sameFault = cmp.Comparer(func(x, y error) bool {
	var a, b *mw.DecodeError
	if !errors.As(x, &a) || !errors.As(y, &b) {
		return x == y
	}
	return a.Offset == b.Offset && a.Line == b.Line &&
		(strings.Contains(a.Err.Error(), b.Err.Error()) || strings.Contains(b.Err.Error(), a.Err.Error()))
})

// faultAt returns the error that is expected at the first marker in body, "" being its end.
func faultAt(t *testing.T, body, marker, mentions string) error {
	t.Helper()
	i := len(body)
	if marker != "" {
		i = strings.Index(body, marker)
		require.GreaterOrEqual(t, i, 0, "%s is not in %s", marker, body)
	}
	line := 1 + strings.Count(body[:i], "\n")
	return &mw.DecodeError{Offset: int64(i), Line: line, Err: errors.New(mentions)}
}

// soleEvent decodes a body that is one event.
func soleEvent(t *testing.T, body string) mw.Event {
	t.Helper()
	events, err := mw.Parse([]byte(body))
	require.NoError(t, err)
	require.Len(t, events, 1)
	return events[0]
}

// errOf, setRaw and setErr reach the fields that all events have.
func errOf(ev mw.Event) error {
	err, _ := reflect.ValueOf(ev).Elem().FieldByName("Err").Interface().(error)
	return err
}

func setRaw(ev mw.Event, raw string) mw.Event {
	reflect.ValueOf(ev).Elem().FieldByName("Raw").SetString(raw)
	return ev
}

func setErr(ev mw.Event, err error) mw.Event {
	reflect.ValueOf(ev).Elem().FieldByName("Err").Set(reflect.ValueOf(err))
	return ev
}

func copyOf(ev mw.Event) mw.Event {
	c := reflect.New(reflect.TypeOf(ev).Elem())
	c.Elem().Set(reflect.ValueOf(ev).Elem())
	return c.Interface().(mw.Event)
}

var (
	ignoreRaw = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Raw" }, cmp.Ignore())
	ignoreErr = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Err" }, cmp.Ignore())
)

// sampleFiles returns the documented payloads by their names under testdata.
func sampleFiles(t testing.TB) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for _, pattern := range []string{"json/*.json", "jsonl/*.jsonl"} {
		paths, err := filepath.Glob(filepath.Join("testdata", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, paths)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			files[filepath.Base(path)] = string(text)
		}
	}
	return files
}

// rawEvents returns the text of each event of a sample, by encoding/json.
func rawEvents(t testing.TB, name, body string) (raws []string) {
	t.Helper()
	if strings.HasSuffix(name, ".jsonl") {
		return strings.Split(strings.TrimSpace(body), "\n")
	}
	var envelope struct{ Events []json.RawMessage }
	require.NoError(t, json.Unmarshal([]byte(body), &envelope))
	for _, raw := range envelope.Events {
		raws = append(raws, string(raw))
	}
	return raws
}

// The events that bodies of the tests are made of.
const (
	opened  = `{"event":"open","message_id":"m1","event_id":"e1"}`
	clicked = `{"event":"click","message_id":"m2","event_id":"e2"}`
	logged  = `{"event":"activity_log.user.login"}`
	inbound = `{"event":"inbound.message_received","inbox_id":1}`
	novel   = `{"event":"telepathy"}`
	indent  = "{\n  \"event\": \"open\",\n  \"message_id\": \"m1\"\n}"
	bom     = "\uFEFF"
)

// A wanted event is told by its text and, if it cannot be read, by where and why.
type wanted struct {
	raw      string
	at       int // offset of the fault
	mentions string
}

func good(raws ...string) (list []wanted) {
	for _, raw := range raws {
		list = append(list, wanted{raw: raw})
	}
	return list
}

func bad(raw string, at int, mentions string) []wanted { return []wanted{{raw, at, mentions}} }

func inOrder(lists ...[]wanted) (all []wanted) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// requireEvents asserts that the events are the wanted ones.
func requireEvents(t *testing.T, body string, want []wanted, got []mw.Event) {
	t.Helper()
	var list []wanted
	for i, ev := range got {
		w := wanted{raw: ev.RawJSON()}
		if err := errOf(ev); err != nil {
			var fault *mw.DecodeError
			require.ErrorAs(t, err, &fault)
			require.Equal(t, 1+strings.Count(body[:fault.Offset], "\n"), fault.Line, "line of %v", fault)
			w.at = int(fault.Offset)
			w.mentions = fault.Err.Error()
			if i < len(want) && want[i].mentions != "" && strings.Contains(w.mentions, want[i].mentions) {
				w.mentions = want[i].mentions
			} else if i < len(want) && want[i].mentions == "" && want[i].at > 0 || want[i].raw != "" && want[i].mentions == "" {
				w.mentions = ""
				require.False(t, json.Valid([]byte(w.raw)), "%q is JSON: %v", w.raw, fault)
			}
		}
		list = append(list, w)
	}
	if diff := cmp.Diff(want, list, cmp.AllowUnexported(wanted{})); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// drain decodes all there is.
func drain(d *mw.Decoder) (events []mw.Event, err error) {
	for {
		ev, err := d.Decode()
		switch {
		case err == io.EOF:
			return events, nil
		case err != nil:
			return events, err
		}
		events = append(events, ev)
	}
}

// chunks reads in pieces of random size up to most.
type chunks struct {
	r    io.Reader
	most int
	rand *rand.Rand
}

func (c chunks) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), 1+c.rand.IntN(c.most))]) }

// upToBrace reads in pieces that end with a closing brace, where an event may be over.
type upToBrace struct{ r *bufio.Reader }

func (u upToBrace) Read(p []byte) (n int, err error) {
	for n < len(p) && err == nil && (n == 0 || p[n-1] != '}') {
		if p[n], err = u.r.ReadByte(); err == nil {
			n++
		}
	}
	return n, err
}

// readers are the ways in which a body may arrive.
var readers = map[string]func(io.Reader) io.Reader{
	"whole":            func(r io.Reader) io.Reader { return r },
	"byte by byte":     iotest.OneByteReader,
	"by halves":        iotest.HalfReader,
	"up to braces":     func(r io.Reader) io.Reader { return upToBrace{bufio.NewReader(r)} },
	"end with data":    iotest.DataErrReader,
	"bytes, end with":  func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) },
	"pieces up to 3":   func(r io.Reader) io.Reader { return chunks{r, 3, rand.New(rand.NewPCG(1, 1))} },
	"pieces up to 40":  func(r io.Reader) io.Reader { return chunks{r, 40, rand.New(rand.NewPCG(2, 2))} },
	"pieces up to 200": func(r io.Reader) io.Reader { return chunks{r, 200, rand.New(rand.NewPCG(3, 3))} },
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// requireSame asserts that two ways of decoding give the same.
func requireSame(t *testing.T, want, got []mw.Event, wantErr, gotErr error) {
	t.Helper()
	require.Equal(t, len(want), len(got))
	for i := range want {
		require.Equal(t, want[i], got[i]) // with the errors in them
	}
	require.Equal(t, errText(wantErr), errText(gotErr))
}
