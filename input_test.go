package mailtrapwebhook_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
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

func TestMaxEventBytes(t *testing.T) {
	const limit = 100
	// sized returns an event of n bytes.
	sized := func(n int) string {
		return fmt.Sprintf(`{"event":"open","category":"%s"}`, strings.Repeat("x", n-len(`{"event":"open","category":""}`)))
	}
	for _, test := range []struct {
		name string
		body string
		want []string // "" for one too large
		end  bool     // the body is broken
	}{
		{"array", `[` + opened + `,` + sized(101) + `,` + clicked + `]`, []string{opened, "", clicked}, false},
		{"array, far over", `[` + opened + `,` + sized(9999) + `,` + clicked + `]`, []string{opened, "", clicked}, false},
		{"array, at the limit", `[` + sized(100) + `,` + clicked + `]`, []string{sized(100), clicked}, false},
		{"array, first and last", `[` + sized(101) + `,` + sized(102) + `]`, []string{"", ""}, false},
		{"array, a string", `["` + strings.Repeat("x", 200) + `",` + opened + `]`, []string{"", opened}, false},
		{"array, an array", `[[` + strings.Repeat("1,", 200) + `1],` + opened + `]`, []string{"", opened}, false},
		{"array, a number", `[` + strings.Repeat("1", 101) + `,` + opened + `]`, []string{"", opened}, false},
		{"array, white space does not count", `[` + strings.Repeat(" ", 300) + sized(100) + strings.Repeat("\n", 300) + `]`, []string{sized(100)}, false},
		{"array, over lines", "\n[\n" + opened + ",\n" + sized(101) + ",\n" + sized(9999) + "]", []string{opened, "", ""}, false},
		{"array, broken behind it", `[` + sized(101) + `,]`, []string{""}, true},
		{"envelope", `{"id":"` + strings.Repeat("x", 300) + `","events":[` + opened + `,` + sized(200) + `,` + clicked + `]}`, []string{opened, "", clicked}, false},
		{"envelope, a long key", `{"` + strings.Repeat("x", 300) + `":1,"events":[` + opened + `]}`, []string{opened}, false},
		{"lines", opened + "\n" + sized(101) + "\n" + clicked + "\n", []string{opened, "", clicked}, false},
		{"lines, far over", opened + "\n" + sized(9999) + "\n" + clicked, []string{opened, "", clicked}, false},
		{"lines, at the limit", sized(100) + "\n" + sized(100) + "\n" + sized(100), []string{sized(100), sized(100), sized(100)}, false},
		{"lines, at the limit, CRLF", sized(100) + "\r\n" + sized(100) + "\r\n", []string{sized(100), sized(100)}, false},
		{"lines, the first", sized(101) + "\n" + clicked + "\n", []string{"", clicked}, false},
		{"lines, the first far over", sized(9999) + "\n" + clicked + "\n", []string{"", clicked}, false},
		{"lines, the first, white space before it", "\n\n " + sized(101) + "\n" + sized(9999), []string{"", ""}, false},
		{"lines, the first far over, white space before it", "\n " + sized(9999), []string{""}, false},
		{"lines, the first far over, CRLF", sized(9999) + "\r\n" + clicked, []string{"", clicked}, false},
		{"lines, the last", opened + "\n" + sized(101), []string{opened, ""}, false},
		{"lines, broken ones", opened + "\n" + strings.Repeat("x", 300) + "\n" + clicked, []string{opened, "", clicked}, false},
		{"line alone", sized(101), []string{""}, false},
		{"line alone, far over", sized(9999) + "\n", []string{""}, false},
		{"object over lines", "{\n" + sized(200)[1:], []string{""}, false},
		{"object over lines, far over", "{\n" + sized(9999)[1:] + "\n", []string{""}, false},
		{"object over lines, white space before it", "\n \n{\n" + sized(9999)[1:], []string{""}, false},
		{"object over lines, at the limit", "{\n" + sized(99)[1:], []string{"{\n" + sized(99)[1:]}, false},
		{"object over lines, more behind it", "{\n" + sized(200)[1:] + "x", []string{""}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			first := mw.NewDecoder(strings.NewReader(test.body))
			first.MaxEventBytes = limit
			want, wantErr := drain(first)
			for name, reader := range readers {
				d := mw.NewDecoder(reader(strings.NewReader(test.body)))
				d.MaxEventBytes = limit
				events, err := drain(d)
				require.Equal(t, test.end, err != nil, "%s: %v", name, err)
				require.Len(t, events, len(test.want), name)
				for i, ev := range events {
					require.Equal(t, test.want[i], ev.RawJSON(), name)
					unknown, ok := ev.(*mw.UnknownEvent)
					require.Equal(t, test.want[i] == "", ok, name)
					if ok {
						var fault *mw.DecodeError
						require.ErrorAs(t, unknown.Err, &fault, name)
						require.Regexp(t, `^(\{\s*"event":"open","category":"x|"xx|\[1|11|xx)`, test.body[fault.Offset:], name)
						require.Equal(t, 1+strings.Count(test.body[:fault.Offset], "\n"), fault.Line, name)
						require.Empty(t, ev.Key(), name)
					}
				}
				if !t.Failed() {
					requireSame(t, want, events, wantErr, err) // however the body arrives
				}
			}
			events, err := mw.Parse([]byte(test.body))
			require.Equal(t, test.end, err != nil)
			for _, ev := range events {
				require.NotEmpty(t, ev.RawJSON(), "Parse has no limit")
			}
		})
	}
	t.Run("may be as large as an int", func(t *testing.T) {
		for _, most := range []int{math.MaxInt, math.MaxInt - 1, math.MaxInt / 2} {
			for _, r := range []io.Reader{strings.NewReader(logged + "\n" + opened), iotest.OneByteReader(strings.NewReader(logged + "\n" + opened))} {
				d := mw.NewDecoder(r)
				d.MaxEventBytes = most
				events, err := drain(d)
				require.NoError(t, err)
				requireEvents(t, logged+"\n"+opened, good(logged, opened), events)
			}
		}
	})
	t.Run("decides alike however the body arrives", func(t *testing.T) {
		for _, body := range []string{sized(200) + " x\n" + opened + "\n" + clicked, "{ \n" + opened + "\n", sized(99) + "          x\n" + opened, `{"events":[` + opened + `]}`,
			`[` + strings.Repeat("1", 102) + `x]`, `[{"a":` + strings.Repeat(" ", 102) + `x},5]`, `[{"a":x` + strings.Repeat(" ", 102) + `},5]`, `{"a":` + strings.Repeat(" ", 102) + `x}`} {
			for _, most := range []int{1, 5, 100} {
				whole, small := mw.NewDecoder(strings.NewReader(body)), mw.NewDecoder(iotest.OneByteReader(strings.NewReader(body)))
				whole.MaxEventBytes, small.MaxEventBytes = most, most
				want, wantErr := drain(whole)
				got, err := drain(small)
				requireSame(t, want, got, wantErr, err)
			}
		}
	})
	t.Run("a key of which only the end is at hand", func(t *testing.T) {
		for _, read := range []int{5, 12, 100} {
			key := strings.Repeat("x", 10*read-3) + `\"events`
			body := `{"` + key + `":[` + opened + `]}`
			for i := range len(body) { // some reading ends right behind the backslash
				r := io.MultiReader(strings.NewReader(body[:i]), strings.NewReader(body[i:]))
				d := mw.NewDecoder(r)
				d.MaxEventBytes = read
				events, err := drain(d)
				require.NoError(t, err)
				require.Len(t, events, 1)
				require.IsType(t, &mw.UnknownEvent{}, events[0])
			}
		}
	})
	t.Run("is 1 MiB by default", func(t *testing.T) {
		events, err := drain(mw.NewDecoder(strings.NewReader(`[` + sized(1<<20) + `,` + sized(1<<20+1) + `]`)))
		require.NoError(t, err)
		require.Len(t, events, 2)
		require.Len(t, events[0].RawJSON(), 1<<20)
		require.Empty(t, events[1].RawJSON())
	})
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

// keptEach returns how many bytes stay in memory for each of n things that
// keep returns.
func keptEach(n int, keep func() any) float64 {
	kept := make([]any, n)
	before := heapInUse()
	for i := range kept {
		kept[i] = keep()
	}
	after := heapInUse()
	runtime.KeepAlive(kept)
	return float64(after-before) / float64(n)
}

// A program that keeps something of one event in each of many deliveries must
// not keep the deliveries.
func TestKeepingPartOfADeliveryKeepsNoMore(t *testing.T) {
	body := benchEnvelope(500)
	lines := []byte(strings.Join(benchLines(500), "\n"))
	parsed := func(body []byte) func() mw.Event {
		return func() mw.Event {
			events, err := mw.Parse(body)
			require.NoError(t, err)
			return events[252] // with an escape in its text
		}
	}
	streamed := func(body []byte) func() mw.Event {
		return func() (ev mw.Event) {
			d := mw.NewDecoder(bytes.NewReader(body))
			for range 253 {
				var err error
				ev, err = d.Decode()
				require.NoError(t, err)
			}
			return ev
		}
	}
	for name, event := range map[string]func() mw.Event{
		"Parse, envelope": parsed(body), "Parse, lines": parsed(lines), "Decoder, envelope": streamed(body), "Decoder, lines": streamed(lines),
	} {
		t.Run(name, func(t *testing.T) {
			const deliveries = 100
			email := keptEach(deliveries, func() any { return event().(*mw.SendingWebhookEvent).Email })
			whole := keptEach(deliveries, func() any { return event() })
			t.Logf("%.0f bytes for an address, %.0f for an event", email, whole)
			require.Less(t, email, 500.0)
			require.Less(t, whole, 800.0)
		})
	}
}
