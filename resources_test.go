package mailtrapwebhook_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// A nasty body is made to be slow or to take much memory.
type nasty struct {
	body string
	tiny bool // has very many elements whose events take more memory than their texts
}

// nastyBodies returns bodies of about n bytes.
func nastyBodies(n int) map[string]nasty {
	fill := func(before, unit, after string) nasty {
		return nasty{body: before + strings.Repeat(unit, (n-len(before)-len(after))/len(unit)) + after}
	}
	count := func(before, format, after string) nasty {
		var b strings.Builder
		b.WriteString(before)
		for i := 0; b.Len() < n-len(after); i++ {
			fmt.Fprintf(&b, format, i)
		}
		return nasty{body: b.String() + after}
	}
	tiny := func(before, unit, after string) nasty {
		return nasty{fill(before, unit, after).body, true}
	}
	const (
		sent    = `{"events":[{"event":"open",`
		changed = `{"events":[{"event":"activity_log.x","changes":{"k":{}`
	)
	return map[string]nasty{
		"escapes":                                fill(sent+`"email":"`, `\n`, `"}]}`),
		"numeric escapes":                        fill(sent+`"email":"`, `\u0041`, `"}]}`),
		"escapes in an id":                       fill(sent+`"message_id":"`, `\n`, `"}]}`),
		"escapes in a key":                       fill(sent+`"`, `\u00e9`, `":1}]}`),
		"escapes in variables":                   fill(sent+`"custom_variables":{"a":"`, `\\`, `"}}]}`),
		"surrogates":                             fill(`{"event":"open","email":"`, `\ud800`, `"}`),
		"escaped keys":                           fill(`{"event":"open"`, `,"\u0065\u0076ents":0`, `}`),
		"backslashes":                            fill(`["`, `\\`, ``),
		"backslashes, odd":                       fill(`{"event":"`, `\`, ``),
		"not UTF-8":                              fill(sent+`"email":"`, "\xff", `"}]}`),
		"not ASCII":                              fill(sent+`"email":"`, "é", `"}]}`),
		"hardly ASCII":                           fill(sent+`"email":"`, "é a", `"}]}`),
		"NUL bytes":                              fill("", "\x00", ""),
		"quotes":                                 fill("", `"`, ""),
		"a string":                               fill(sent+`"email":"`, "a", `"}]}`),
		"a string on a line":                     fill(`"`, "a", `"`),
		"a long number":                          fill(`[{"event":"open","timestamp":`, "1", `}]`),
		"a long number in a string":              fill(`[{"event":"open","timestamp":"`, "0", `5"}]`),
		"a long id":                              fill(sent+`"message_id":-0.`, "1", `}]}`),
		"brackets":                               fill("", "[", ""),
		"braces":                                 fill("", "{", ""),
		"brackets in an event":                   fill(`{"event":"open","x":`, "[", `}`),
		"keys in keys":                           fill("", `{"a":`, ""),
		"keys in keys on lines":                  fill("", "{\"a\":\n", ""),
		"brackets on lines":                      fill("", "[\n", ""),
		"braces on lines":                        fill("", "{\n", ""),
		"keys":                                   count(`{"event":"open"`, `,"k%d":0`, `}`),
		"keys of the envelope":                   count(`{"z":0`, `,"%d":0`, `}`),
		"equal keys":                             fill(`{"event":"open"`, `,"event":"open"`, `}`),
		"equal keys that fail":                   fill(sent+`"z":0`, `,"email":1,"url":2`, `}]}`),
		"variables":                              count(`{"event":"open","custom_variables":{"k":0`, `,"k%d":0`, `}}`),
		"arrays in variables":                    fill(sent+`"custom_variables":{"a":[0`, `,[]`, `]}}]}`),
		"blanks in variables":                    fill(sent+`"custom_variables":{"a":[0`, ` ,0`, `]}}]}`),
		"changes":                                count(changed, `,"%d":{"from":1}`, `}}]}`),
		"empty changes":                          count(changed, `,"%x":{}`, `}}]}`),
		"changes that fail":                      count(changed, `,"%x":0`, `}}]}`),
		"equal changes":                          fill(changed, `,"a":{"from":"b"}`, `}}]}`),
		"changes of arrays":                      count(changed, `,"%d":{"from":[[],[],[],[],[],[],[],[],[],[],[],[]]}`, `}}]}`),
		"changes of objects":                     count(changed, `,"%d":{"from":{"a":{"":0}}}`, `}}]}`),
		"a change of a map":                      count(`{"events":[{"event":"activity_log.x","changes":{"k":{"from":{"z":0`, `,"%x":1`, `}}}}]}`),
		"a change of a string that is not UTF-8": fill(`{"events":[{"event":"activity_log.x","changes":{"k":{"from":{"y":"`, "\xff", `"}}}}]}`),
		"a long change":                          fill(`{"event":"activity_log.x","changes":{"k":{"from":[`, "{},", `{}]}}}`),
		"actors that fail":                       fill(`{"events":[{"event":"activity_log.a","z":0`, `,"actor":{"name":1}`, `}]}`),
		"the name last":                          fill(`[{`, `"z":[0,0,0,0],`, `"event":"spam"}]`),
		"blanks":                                 fill("{", " ", "}"),
		"commas":                                 fill("[", ",", ""),
		"events arrays":                          fill(`{"x":1`, `,"events":[]`, `}`),
		"empty lines":                            fill(opened, "\n", opened),
		"empty envelopes on lines":               fill("{\"events\":[]}\n", "{\"events\":[]}\n", ""),
		"a fault behind many events":             fill("[", benchLines(1)[0]+",", "]"),
		"lines cut off":                          fill(opened+"\n", `{"event":"open","user_agent":"`+strings.Repeat("Mozilla", 20)+`","x":`+"\n", ""),
		"many lines cut off, then a long one":    fill(opened+"\n"+strings.Repeat("{\"a\":\n", 9990)+"[", "0,", ""),
		"a line cut off":                         fill(opened+"\n{\"event\":\"open\",\"x\":\"", "x", ""),
		"broken lines":                           tiny(opened+"\n", "{\n", ""),
		"broken lines, first too":                tiny("", "{]\n", opened),
		"empty objects on lines":                 tiny("", "{}\n", ""),
		"empty objects":                          tiny("[{}", ",{}", "]"),
		"numbers":                                tiny("[0", ",0", "]"),
		"events of a name only":                  tiny("[{}", `,{"event":"spam"}`, "]"),
		"audit events of a name only":            tiny("[{}", `,{"event":"activity_log.a"}`, "]"),
		"audit events with one change":           tiny("[{}", `,{"event":"activity_log.a","changes":{"":{}}}`, "]"),
		"envelopes of one event a line":          tiny("", "{\"events\":[{}]}\n", ""),
	}
}

// The time to decode a body grows with its size, not with the square of it. The
// slowest here takes a tenth of a second; the square would take an hour.
func TestNastyBodiesTakeLinearTime(t *testing.T) {
	for name, nasty := range nastyBodies(sized(8<<20, 512<<10)) {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				events, _ := mw.Parse([]byte(nasty.body))
				for _, ev := range events {
					if sent, ok := ev.(*mw.SendingWebhookEvent); ok && len(events) < 10 {
						sent.CustomVariables.Text("k7")
						sent.Key()
					}
				}
				_, _ = drain(mw.NewDecoder(strings.NewReader(nasty.body)))
			}()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatal("decoding takes too long")
			}
		})
	}
}

func TestNastyBodiesTakeLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector multiplies memory")
	}
	size := sized(8<<20, 2<<20)
	bound := sized(8, 16)                            // times the body; what changes may take is less of a large one
	defer debug.SetGCPercent(debug.SetGCPercent(20)) // garbage counts until it is collected
	for name, nasty := range nastyBodies(size) {
		if nasty.tiny {
			continue
		}
		t.Run(name, func(t *testing.T) {
			body := []byte(nasty.body)
			peak := peakHeap(func() { _, _ = mw.Parse(body) })
			require.Less(t, peak, int64(bound*size))
			runtime.KeepAlive(body)
		})
	}
}

// Each stream is decoded in a process of its own, whose heap holds nothing else.
// GOGC is low, so that a busy machine does not add garbage.
func TestStreamsTakeLittleMemory(t *testing.T) {
	const formEnv, sizeEnv = "MAILTRAPWEBHOOK_STREAM_FORM", "MAILTRAPWEBHOOK_STREAM_SIZE"
	forms := map[string][3]string{
		"JSON":       {`{"events":[` + benchLines(1)[0], "," + strings.Join(benchLines(90), ","), "]}"},
		"JSON Lines": {"", strings.Join(benchLines(90), "\n") + "\n", ""},
	}
	if form, ok := forms[os.Getenv(formEnv)]; ok {
		size, err := strconv.Atoi(os.Getenv(sizeEnv))
		require.NoError(t, err)
		rawMalformed = nil // drops two megabytes of other tests
		runtime.GC()
		before := heapBytes()
		peak := peakHeap(func() {
			events := 0
			for _, err := range mw.NewDecoder(repeated(form[0], form[1], form[2], size)).Events() {
				require.NoError(t, err)
				events++
			}
			require.Greater(t, events, size/500)
		})
		fmt.Printf("peak %d\n", before+peak)
		return
	}
	if testing.Short() {
		t.Skip("the race detector multiplies memory")
	}
	size := sized(42_000_000, 4_200_000) // 100,000 events, or 10,000
	for form := range forms {
		t.Run(form, func(t *testing.T) {
			var peaks [2]float64
			for i, size := range []int{size, 10 * size} {
				child := exec.Command(os.Args[0], "-test.run=^TestStreamsTakeLittleMemory$")
				child.Env = append(os.Environ(), formEnv+"="+form, sizeEnv+"="+strconv.Itoa(size), "GOGC=10", "GOMAXPROCS=1")
				out, err := child.CombinedOutput()
				require.NoError(t, err, "%s", out)
				_, err = fmt.Sscanf(string(out), "peak %f", &peaks[i])
				require.NoError(t, err, "%s", out)
				t.Logf("%d bytes: at most %.1f MiB of heap", size, peaks[i]/(1<<20))
				require.Less(t, peaks[i], float64(8<<20))
			}
			require.Less(t, peaks[1], peaks[0]+1<<20, "a stream ten times as long takes more")
		})
	}
}

// Small bodies do not keep the memory of a large one before them.
func TestLargeBodiesAreNotKept(t *testing.T) {
	const size = 8 << 20
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))             // each processor has a pool
	rig := newRig(t, &mw.Handler{OnEvent: eventReturning(nil)}) // the rig keeps no event
	large, small := padded("a", size), bodyOf("b")
	heap := func() int64 {
		runtime.GC() // a second one would empty the pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	post := func(body []byte) { require.Equal(t, 200, rig.direct(body).Status) }
	post(small)
	heap()
	before := heap()
	post(large)
	for range 3 {
		heap()
		post(small)
	}
	require.Less(t, heap()-before, int64(size/2))
	runtime.KeepAlive(large)
}

// peakHeap returns by how many bytes the heap grew at most while f ran, garbage
// included.
func peakHeap(f func()) (peak int64) {
	runtime.GC()
	debug.FreeOSMemory()
	before := heapBytes()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(100 * time.Microsecond)
		defer tick.Stop()
		for {
			peak = max(peak, heapBytes()-before)
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	return peak
}

func heapBytes() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}
