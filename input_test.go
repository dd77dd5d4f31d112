package mailtrapwebhook_test

import (
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestReaderErrorsComeBackAsTheyAre(t *testing.T) {
	for _, test := range []struct {
		name, body string
		before     []wanted
	}{
		{"at once", "", nil},
		{"in a byte-order mark", bom[:1], nil},
		{"in an array", `[` + opened + `,`, good(opened)},
		{"in an element", `[` + opened + `,{"event":"op`, good(opened)},
		{"in a number", `[1`, nil},
		{"in an envelope", `{"eve`, nil},
		{"behind an envelope's array", `{"events":[` + opened + `],`, good(opened)},
		{"behind the last byte of an array", `[` + opened + `]`, good(opened)},
		{"behind the last byte of an envelope", `{"events":[` + opened + "]}\n", good(opened)},
		{"in a line", opened + "\n" + `{"event`, good(opened)},
		{"behind a line", opened + "\n", good(opened)},
		{"in the first line", opened[:5], nil},
		{"in an object over lines", "{\n\"event\":", nil},
	} {
		for _, boom := range []error{errors.New("boom"), io.ErrUnexpectedEOF, io.ErrClosedPipe} {
			for name, reader := range readers {
				t.Run(test.name+"/"+boom.Error()+"/"+name, func(t *testing.T) {
					if name == "end with data" || name == "bytes, end with" {
						t.Skip("it swallows errors")
					}
					d := mw.NewDecoder(io.MultiReader(reader(strings.NewReader(test.body)), iotest.ErrReader(boom)))
					events, err := drain(d)
					require.True(t, err == boom, "%v", err)
					requireEvents(t, test.body, test.before, events)
					ev, err := d.Decode()
					require.Nil(t, ev)
					require.True(t, err == boom, "it sticks")
				})
			}
		}
	}
	t.Run("a reader that gives nothing", func(t *testing.T) {
		_, err := drain(mw.NewDecoder(readerFunc(func([]byte) (int, error) { return 0, nil })))
		require.ErrorIs(t, err, io.ErrNoProgress)
	})
	t.Run("an error with the last bytes", func(t *testing.T) {
		boom := errors.New("boom")
		events, err := drain(mw.NewDecoder(readerFunc(func(p []byte) (int, error) { return copy(p, "["+opened+","), boom })))
		require.True(t, err == boom)
		require.Len(t, events, 1)
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestEventsAreOutBeforeTheBodyEnds(t *testing.T) {
	for name, pieces := range map[string][]string{
		"lines":               {opened + "\n", clicked + "\n", logged + "\r\n"},
		"array":               {"[" + opened, "," + clicked, ",\n" + logged},
		"envelope":            {`{"id":1,"events":[` + opened, "," + clicked, "]\n,\"events\":[" + logged},
		"object over lines":   {indent},
		"lines after a fault": {opened + "\n", "{]\n", clicked + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r, w := io.Pipe()
			defer r.Close()
			d := mw.NewDecoder(r)
			for i, piece := range pieces {
				go io.WriteString(w, piece)
				decoded := make(chan mw.Event, 1)
				go func() {
					ev, _ := d.Decode()
					decoded <- ev
				}()
				select {
				case ev := <-decoded:
					require.NotNil(t, ev)
					require.Contains(t, piece, ev.RawJSON())
				case <-time.After(10 * time.Second):
					t.Fatalf("event %d waits for what follows", i)
				}
			}
		})
	}
}

// repeated is a stream of before, then unit over and over up to size bytes, then after.
func repeated(before, unit, after string, size int) io.Reader {
	block := []byte(strings.Repeat(unit, 1+(64<<10)/len(unit)))
	left, at := size/len(block)*len(block), 0
	middle := readerFunc(func(p []byte) (int, error) {
		if left == 0 {
			return 0, io.EOF
		}
		n := copy(p[:min(len(p), left)], block[at:])
		at = (at + n) % len(block)
		left -= n
		return n, nil
	})
	return io.MultiReader(strings.NewReader(before), middle, strings.NewReader(after))
}

func TestMemoryDoesNotGrowWithTheStream(t *testing.T) {
	if testing.Short() {
		t.Skip("reads hundreds of megabytes")
	}
	share := sized(1, 8) // of the full size, and of the memory
	stream, giant, huge, bound := 64<<20/share, 48<<20/share, 200<<20/share, 24<<20/share
	for _, test := range []struct {
		name                string
		before, unit, after string
		size, atLeast       int
		fails               bool
	}{
		{"lines", "", opened + "\n", "", stream, stream / 60, false},
		{"array", "[" + opened, "," + opened, "]", stream, stream / 60, false},
		{"envelope", `{"events":[` + opened, ",\n" + clicked, "]}", stream, stream / 60, false},
		{"broken lines", opened + "\n", "{\"event\":\n", "", stream, stream / 12, false},
		{"no objects", "[0", ",0", "]", stream / 4, stream / 10, false},
		{"events arrays", `{"events":[` + opened + "]", `,"events":[` + opened + "]", "}", stream, stream / 70, false},
		{"a giant string in an element", `[` + opened + `,{"event":"open","category":"`, "x", `"},` + clicked + `]`, huge, 3, false},
		{"a giant element of small members", `[` + opened + `,{"event":"open"`, `,"a":1`, `},` + clicked + `]`, giant, 3, false},
		{"a giant element of blanks", `[` + opened + `,{`, " ", `"event":"open"},` + clicked + `]`, giant, 3, false},
		{"a giant number", `[1`, "1", `,` + clicked + `]`, giant, 2, false},
		{"a giant line", opened + "\n" + `{"event":"open","category":"`, "x", "\"}\n" + clicked, huge, 3, false},
		{"a giant line of blanks", opened + "\n" + `{`, " ", "\"event\":\"open\"}\n" + clicked, giant, 3, false},
		{"a giant line of garbage", opened + "\n", "x", "\n" + clicked, giant, 3, false},
		{"a giant first line", `{"event":"open","category":"`, "x", "\"}\n" + clicked, giant, 2, false},
		{"a giant first line of small members", `{"event":"open"`, `,"a":1`, "}\n" + clicked, giant, 2, false},
		{"a giant first line of blanks", `{`, " ", "\"event\":\"open\"}\n" + clicked, giant, 2, false},
		{"a giant tail of the first line", opened, " ", "\n" + clicked, giant, 2, false},
		{"a giant object over lines", "{\n\"event\":\"open\",\"category\":\"", "x", "\"}", giant, 1, false},
		{"a giant object of blank lines", "{", "\n", "\"event\":\"open\"}", giant, 1, false},
		{"a giant member before events", `{"x":[0`, ",0", `],"events":[` + opened + `]}`, giant, 1, false},
		{"a giant key before events", `{"`, "x", `":0,"events":[` + opened + `]}`, giant, 1, false},
		{"giant blanks before events", `{"x":0,`, " ", `"events":[` + opened + `]}`, giant, 1, false},
		{"giant blanks before the body", "", " \n", opened, giant, 1, false},
		{"giant blanks among lines", opened, "\n", clicked, giant, 2, false},
		{"giant blanks behind an envelope", `{"events":[` + opened + `]}`, "\n", "", giant, 1, false},
		{"giant garbage", "garbage", "garbage ", "", giant, 0, true},
		{"giant garbage of many lines", "garbage", "garbage\n", "", giant, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			d := mw.NewDecoder(repeated(test.before, test.unit, test.after, test.size))
			d.MaxEventBytes = 1 << 20 / share
			events, most, read := 0, uint64(0), 0
			sample := func() {
				runtime.GC()
				runtime.ReadMemStats(&after)
				if after.HeapAlloc > before.HeapAlloc {
					most = max(most, after.HeapAlloc-before.HeapAlloc)
				}
			}
			err := error(nil)
			for {
				var ev mw.Event
				if ev, err = d.Decode(); err != nil {
					break
				}
				read += len(ev.RawJSON())
				if events++; events%50_000 == 1 {
					sample()
				}
			}
			sample()
			require.Equal(t, test.fails, err != io.EOF, "%v", err)
			require.GreaterOrEqual(t, events, test.atLeast)
			require.Less(t, most, uint64(bound), "bytes in use")
			runtime.KeepAlive(d)
		})
	}
}
