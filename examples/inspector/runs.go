package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

// Runs are the replays and sendings that the page has begun. They go through
// the inspector's own webhook, and so on to the app.
type runs struct {
	in     *inspector
	ctx    context.Context
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu     sync.Mutex
	active int
	last   int
}

const (
	maxRuns      = 16 // at a time
	maxRunEvents = 10_000
	maxSpeed     = 1_000_000
)

func newRuns(in *inspector) *runs {
	r := &runs{in: in}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// stop ends all runs.
func (r *runs) stop() {
	r.cancel()
	r.wait.Wait()
}

// An origin is a run that a request is part of.
type origin struct {
	source   string
	replayOf int
	delivery atomic.Int64 // the id that the request got
}

type originKey struct{}

// A pageRun sends deliveries through the inspector's own webhook.
type pageRun struct {
	player
	id       string
	source   string
	replayOf int
	bodies   iter.Seq[[]byte]

	mu       sync.Mutex
	requests []*origin // that have no attempt yet
}

// attemptMessage is the data of an attempt event.
type attemptMessage struct {
	Run        string  `json:"run"`
	Number     int     `json:"number"`
	Copy       int     `json:"copy"`
	Status     int     `json:"status"`
	DurationMS float64 `json:"durationMs"`
	Error      string  `json:"error"`
	Delivery   string  `json:"delivery"`
}

// endMessage is the data of an end event.
type endMessage struct {
	Run          string `json:"run"`
	Acknowledged bool   `json:"acknowledged"`
	Paused       bool   `json:"paused"`
	Error        string `json:"error"`
}

// start begins a run and answers the request that asks for it.
func (r *runs) start(w http.ResponseWriter, started *pageRun) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active == maxRuns || r.ctx.Err() != nil {
		writeError(w, &refusal{http.StatusServiceUnavailable,
			fmt.Sprintf("%d runs are under way: wait until one ends", r.active)})
		return
	}
	r.active++
	r.last++
	started.id = strconv.Itoa(r.last)
	writeJSON(w, http.StatusAccepted, map[string]string{"run": started.id})
	r.wait.Go(func() {
		r.in.store.hub.publish(newMessage("end", "", r.play(started)))
		r.mu.Lock()
		defer r.mu.Unlock()
		r.active--
	})
}

// play sends the deliveries of a run, one after another.
func (r *runs) play(p *pageRun) endMessage {
	end := endMessage{Run: p.id, Acknowledged: true}
	for body := range p.bodies {
		m := p.mailtrap(body)
		m.URL = webhookPath
		m.Handler = p.handler(r.in)
		m.OnAttempt = func(a webhooktest.Attempt) {
			r.in.store.hub.publish(newMessage("attempt", "", p.attempt(a)))
		}
		result, err := deliver(r.ctx, m, body)
		end.Acknowledged = end.Acknowledged && result.Acknowledged
		end.Paused = end.Paused || result.Paused
		if err != nil && end.Error == "" {
			end.Error = errorText(err)
		}
		if r.ctx.Err() != nil {
			break
		}
	}
	return end
}

// handler returns the webhook, for requests that are the run's own. They need
// no network, and a context cannot be forged from the outside as a header can.
func (p *pageRun) handler(in *inspector) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o := &origin{source: p.source, replayOf: p.replayOf}
		p.mu.Lock()
		p.requests = append(p.requests, o)
		p.mu.Unlock()
		r.RemoteAddr = "the inspector"
		r.Host = strings.TrimPrefix(strings.TrimSuffix(in.info.Webhook, webhookPath), "http://")
		if p.header != nil {
			p.replace(r.Header, false)
		}
		in.receive(w, r.WithContext(context.WithValue(r.Context(), originKey{}, o)))
	})
}

// attempt returns the message about an attempt. Requests end in about the order
// in which they began: the two copies of a delivery may be exchanged.
func (p *pageRun) attempt(a webhooktest.Attempt) attemptMessage {
	m := attemptMessage{Run: p.id, Number: a.Number, Copy: a.Copy, Status: a.Status, DurationMS: millis(a.Duration)}
	if a.Err != nil {
		m.Error = errorText(a.Err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.requests) > 0 {
		if id := p.requests[0].delivery.Load(); id != 0 {
			m.Delivery = strconv.FormatInt(id, 10)
		}
		p.requests = p.requests[1:]
	}
	return m
}

// postReplay sends a delivery again, byte for byte.
func (in *inspector) postReplay(w http.ResponseWriter, r *http.Request, d *delivery) {
	var request struct {
		Retries bool    `json:"retries"`
		Speed   float64 `json:"speed"`
	}
	if err := readJSON(w, r, &request); err != nil {
		writeError(w, err)
		return
	}
	in.start(w, &pageRun{
		player:   player{retries: request.Retries, speed: request.Speed, header: d.header},
		source:   sourceReplayed,
		replayOf: d.id,
		bodies:   slices.Values([][]byte{d.body}),
	})
}

// postSend sends samples.
func (in *inspector) postSend(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Kinds   []string          `json:"kinds"`
		N       int               `json:"n"`
		Format  string            `json:"format"`
		Fault   webhooktest.Fault `json:"fault"`
		Retries bool              `json:"retries"`
		Speed   float64           `json:"speed"`
	}
	if err := readJSON(w, r, &request); err != nil {
		writeError(w, err)
		return
	}
	s := &samples{request.Kinds, request.N, request.Format, request.Fault}
	if err := s.check(maxRunEvents); err != nil {
		writeError(w, err)
		return
	}
	in.start(w, &pageRun{
		player: player{retries: request.Retries, speed: request.Speed, fault: request.Fault},
		source: sourceSent,
		bodies: s.bodies(),
	})
}

func (in *inspector) start(w http.ResponseWriter, p *pageRun) {
	if !(p.speed >= 0 && p.speed <= maxSpeed) {
		writeError(w, badRequest("speed must be from 0 to %d", maxSpeed))
		return
	}
	// Without a secret nobody checks the signature.
	p.secret = rand.Text()
	if len(in.secrets) > 0 {
		p.secret = in.secrets[0]
	}
	in.runs.start(w, p)
}
