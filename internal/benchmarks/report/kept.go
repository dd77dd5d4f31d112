package main

import (
	"runtime"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/internal/benchmarks"
)

// kept measures how much memory a program keeps that keeps something of one
// event of each delivery.
func kept(s size) ([]value, error) {
	email, err := bytesKept(s, func(ev mw.Event) any { return ev.(*mw.SendingWebhookEvent).Email })
	if err != nil {
		return nil, err
	}
	event, err := bytesKept(s, func(ev mw.Event) any { return ev })
	return []value{{"bytes kept for a kept Email", email}, {"bytes kept for a kept event", event}}, err
}

func bytesKept(s size, keep func(mw.Event) any) (float64, error) {
	const deliveries = 200
	all := make([]any, deliveries)
	before := heapInUse()
	for i := range all {
		// A body of its own each time, as a request has.
		events, err := mw.Parse(benchmarks.Body(benchmarks.Envelope, s.events))
		if err != nil {
			return 0, err
		}
		all[i] = keep(events[s.events/2])
	}
	used := heapInUse() - before
	runtime.KeepAlive(all)
	return used / deliveries, nil
}

func heapInUse() float64 {
	runtime.GC()
	runtime.GC() // the second one clears pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
