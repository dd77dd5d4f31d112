package main

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

// A size says how much is measured.
type size struct {
	events    int           // in a delivery
	streamed  int           // from a reader
	least     time.Duration // of a sample
	allocated float64       // bytes in a sample, so that it holds whole collections
	delivered int           // deliveries in a sample over loopback
}

// 240 deliveries allocate about 100 MB, which several collections free.
var fullSize = size{500, 100_000, 20 * time.Millisecond, 32 << 20, 240}

// A group is measured together: each round has a sample of every task.
type group struct {
	tasks  []task
	ratios []ratio
}

// A task is run some times in each sample. Its func returns the time that counts.
type task struct {
	name  string
	times int // 0: as the size of a sample demands
	run   func() (time.Duration, error)
}

// A ratio is a row of the table: the time of one task divided by another's.
type ratio struct{ row, over, under string }

// measure returns the values of all rows that this machine and release have.
func measure(s size, rounds int) (values []value, err error) {
	runtime.GOMAXPROCS(1)
	for _, newGroup := range []func(size) (group, error){parsing, streaming, validating, serving} {
		g, err := newGroup(s)
		if err != nil {
			return nil, err
		}
		measured, err := g.measure(s, rounds)
		if err != nil {
			return nil, err
		}
		values = append(values, measured...)
		debug.FreeOSMemory() // no group pays for the one before
	}
	kept, err := kept(s)
	return append(values, kept...), err
}

func (g group) measure(s size, rounds int) ([]value, error) {
	for i := range g.tasks {
		if err := g.tasks[i].calibrate(s); err != nil {
			return nil, err
		}
	}
	samples := make(map[string][]float64)
	for round := range rounds {
		for i := range g.tasks {
			// Rotate, so that none always runs after the same other one.
			t := g.tasks[(i+round)%len(g.tasks)]
			runtime.GC()
			took, err := t.sample()
			if err != nil {
				return nil, err
			}
			samples[t.name] = append(samples[t.name], took)
		}
	}
	var values []value
	for _, r := range g.ratios {
		over, under := samples[r.over], samples[r.under]
		if over == nil || under == nil {
			continue // the machine or the release has no such task
		}
		// Divide within a round: what slows the machine down slows both.
		ratios := make([]float64, rounds)
		for i := range ratios {
			ratios[i] = over[i] / under[i]
		}
		values = append(values, value{r.row, median(ratios)})
	}
	return values, nil
}

// sample returns the time of a run.
func (t task) sample() (float64, error) {
	var total time.Duration
	for range t.times {
		took, err := t.run()
		if err != nil {
			return 0, fmt.Errorf("%s: %w", t.name, err)
		}
		total += took
	}
	return float64(total) / float64(t.times), nil
}

// calibrate sets how often the task runs in a sample.
func (t *task) calibrate(s size) error {
	if t.times > 0 {
		return nil
	}
	t.times = 1
	if _, err := t.sample(); err != nil { // fills pools and compiles code
		return err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	took, err := t.sample()
	runtime.ReadMemStats(&after)
	if err != nil {
		return err
	}
	if took <= 0 {
		return errors.New(t.name + " takes no time")
	}
	t.times = max(t.times, int(float64(s.least)/took))
	if allocated := float64(after.TotalAlloc - before.TotalAlloc); allocated > 1000 {
		t.times = max(t.times, int(s.allocated/allocated))
	}
	return nil
}

// timed makes a task of a function all of whose time counts.
func timed(name string, run func() error) task {
	return task{name: name, run: func() (time.Duration, error) {
		start := now()
		err := run()
		return now() - start, err
	}}
}
