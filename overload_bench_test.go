package mailtrapwebhook_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// BenchmarkOverload offers a handler as many deliveries as it has room for, and then ten times as many. The ratio of
// what it accepts then to what it accepted before is to be 0.9 or more, and the refusals are to be quick. Each iteration
// takes a fixed time, so that the time of one says nothing:
//
//	go test -run '^$' -bench Overload -benchtime 1x
func BenchmarkOverload(b *testing.B) {
	for _, size := range []int{1_000, 200_000} { // the latter has some 500 events in practice
		for name, edit := range map[string]requestEdit{"Content-Length": func(*http.Request) {}, "chunked": inChunks} {
			b.Run(fmt.Sprintf("%d bytes, %s", size, name), func(b *testing.B) { benchmarkOverload(b, size, edit) })
		}
	}
}

func benchmarkOverload(b *testing.B, size int, edit requestEdit) {
	const room, work, phase = 16, 50 * time.Millisecond, 1500 * time.Millisecond
	rig := newRig(b, &mw.Handler{MaxBodyBytes: int64(size), MaxInFlightBytes: room * int64(size),
		OnEvent: func(context.Context, mw.Event) error { time.Sleep(work); return nil }}).serve()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10 * room}}
	defer client.CloseIdleConnections()
	body := padded("a", size)
	signature := mw.Sign(body, testSecret)
	post := func() (int, error) {
		r, err := http.NewRequest(http.MethodPost, rig.srv.URL, bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		r.Header.Set(mw.SignatureHeader, signature)
		edit(r)
		resp, err := client.Do(r)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
			return 0, fmt.Errorf("a 503 without Retry-After")
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}

	// offer has clients each send a delivery whenever the time that one takes has passed and the one before is answered.
	// It returns how many were accepted in a second and how long each refusal took.
	offer := func(clients int) (accepted float64, refusals []time.Duration) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		handled, began := 0, time.Now()
		for i := range clients {
			wg.Go(func() {
				time.Sleep(work * time.Duration(i) / time.Duration(clients))
				for time.Since(began) < phase {
					sent := time.Now()
					status, err := post()
					took := time.Since(sent)
					mu.Lock()
					switch {
					case err != nil || status != 200 && status != 503:
						b.Errorf("answered %d, %v", status, err)
					case status == 200:
						handled++
					default:
						refusals = append(refusals, took)
					}
					mu.Unlock()
					time.Sleep(work - took)
				}
			})
		}
		wg.Wait()
		return float64(handled) / time.Since(began).Seconds(), refusals
	}

	var unloaded, loaded float64
	var refusals []time.Duration
	rounds := 0
	for b.Loop() {
		alone, none := offer(room)
		require.Empty(b, none, "there was room for them")
		crowded, refused := offer(10 * room)
		unloaded, loaded = unloaded+alone, loaded+crowded
		refusals = append(refusals, refused...)
		rounds++
	}
	require.NotEmpty(b, refusals, "it was no overload")
	slices.Sort(refusals)
	b.ReportMetric(unloaded/float64(rounds), "accepted/s-unloaded")
	b.ReportMetric(loaded/float64(rounds), "accepted/s-loaded")
	b.ReportMetric(loaded/unloaded, "ratio")
	b.ReportMetric(float64(refusals[len(refusals)*99/100].Microseconds())/1000, "ms-p99-of-503")
	b.ReportMetric(float64(len(refusals))/float64(rounds), "503s/op")
}
