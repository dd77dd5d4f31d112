// Package replicas runs processes of a receiver behind one address and plays Mailtrap's part, while what can go wrong
// does.
package replicas

import (
	"bufio"
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/internal/servers"
)

// Secret is the signing secret.
const Secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

// patience is how long everything may take on a busy machine.
const patience = 90 * time.Second

// # Processes

// A Process is a process of the receiver.
type Process struct {
	Killed bool     // rather than told to end
	Lines  []string // that it has written to stdout, once it is over

	guarded *servers.Guarded
	address string
	said    []string      // what it has written to stderr, once it is over
	over    chan struct{} // closed when both its outputs are at their end
}

// Start starts a process, and returns it and the address that it listens on.
func Start(t *testing.T, cmd *exec.Cmd) (p *Process, address string) {
	t.Helper()
	p, err := start(cmd)
	require.NoError(t, err)
	t.Cleanup(p.remove)
	return p, p.address
}

// start starts a process, and waits until it says on stderr that it is "listening on" an address.
func start(cmd *exec.Cmd) (*Process, error) {
	stdout, outErr := cmd.StdoutPipe()
	stderr, errErr := cmd.StderrPipe()
	guarded, err := servers.Guard(cmd)
	if err := errors.Join(outErr, errErr, err); err != nil {
		return nil, err
	}
	p := &Process{guarded: guarded, over: make(chan struct{})}
	listening := make(chan string, 1)
	var outputs sync.WaitGroup
	outputs.Go(func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			p.Lines = append(p.Lines, lines.Text())
		}
	})
	outputs.Go(func() {
		defer close(listening)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.said = append(p.said, lines.Text())
			if address, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
				listening <- address
			}
		}
	})
	go func() {
		outputs.Wait()
		close(p.over)
	}()
	p.address = <-listening
	if p.address == "" {
		p.remove()
		return nil, fmt.Errorf("the process does not listen: %q", p.said)
	}
	return p, nil
}

// Kill ends the process at once, and leaves no time for anything.
func (p *Process) Kill() {
	p.Killed = true
	p.remove()
}

// remove ends the process if it has not ended.
func (p *Process) remove() {
	p.guarded.Signal("KILL")
	<-p.over
	_ = p.guarded.Wait()
}

// End tells the process to end, and waits until it has.
func (p *Process) End(t *testing.T) {
	t.Helper()
	p.guarded.Signal("TERM")
	<-p.over
	require.NoError(t, p.guarded.Wait(), "%q", p.said)
}

// # Faults

// A Fault is what happens to a request.
type Fault int

const (
	None    Fault = iota
	Busy          // it is answered 503 and reaches no process
	Lost          // its connection is cut when it has been handled, so that nobody gets the answer
	Cut           // its connection is cut, and it is being handled nevertheless
	Kill          // the process that handles it is killed
	Restart       // the store is
)

// A Cluster is processes of one receiver behind one address.
type Cluster struct {
	URL string

	t       *testing.T
	command func() *exec.Cmd
	restart func() error // of the store
	next    atomic.Int64
	behind  sync.WaitGroup // what goes on though its request is over

	restarting sync.Mutex

	mu        sync.Mutex
	faults    []Fault
	processes []*Process // nil: it was killed, and the next one is being started
	killed    []*Process
}

// NewCluster starts a number of processes and a server before them, which hands each request to another one.
func NewCluster(t *testing.T, n int, command func() *exec.Cmd, restart func() error) *Cluster {
	c := &Cluster{t: t, command: command, restart: restart}
	t.Cleanup(c.remove)
	for range n {
		p, err := start(command())
		require.NoError(t, err)
		c.processes = append(c.processes, p)
	}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

// Plan has that many requests of each fault, in an order that nobody knows, from now on.
func (c *Cluster) Plan(count map[Fault]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for fault, n := range count {
		for range n {
			c.faults = append(c.faults, fault)
		}
	}
	rand.Shuffle(len(c.faults), func(i, j int) { c.faults[i], c.faults[j] = c.faults[j], c.faults[i] })
}

func (c *Cluster) takeFault() (f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.faults) > 0 {
		f, c.faults = c.faults[0], c.faults[1:]
	}
	return f
}

// ServeHTTP hands a request to a process, and has happen to it what is planned.
func (c *Cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i := int(c.next.Add(1)) % len(c.processes)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	detached := r.Clone(context.Background())
	detached.Body = io.NopCloser(bytes.NewReader(body))
	switch c.takeFault() {
	case Busy:
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	case Lost:
		c.pass(i, httptest.NewRecorder(), detached)
		panic(http.ErrAbortHandler)
	case Cut:
		c.behind.Go(func() { c.pass(i, httptest.NewRecorder(), detached) })
		panic(http.ErrAbortHandler)
	case Kill:
		c.behind.Go(func() { c.pass(i, httptest.NewRecorder(), detached) })
		time.Sleep(rand.N(30 * time.Millisecond)) // so that it dies at any point
		c.kill(i)
		panic(http.ErrAbortHandler)
	case Restart:
		c.behind.Go(func() {
			c.restarting.Lock()
			defer c.restarting.Unlock()
			if err := c.restart(); err != nil {
				c.t.Error(err)
			}
		})
	}
	c.pass(i, w, detached)
}

// transport leaves no connections behind that are not used yet, for which a server waits at its end.
var transport = &http.Transport{DisableKeepAlives: true}

// pass passes a request on to a process.
func (c *Cluster) pass(i int, w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	p := c.processes[i]
	c.mu.Unlock()
	if p == nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	proxy := &httputil.ReverseProxy{
		Transport:    transport,
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: p.address}) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	proxy.ServeHTTP(w, r)
}

// kill kills a process and starts another one in its place, as often as it takes until that one comes up: it does not
// while the store is gone.
func (c *Cluster) kill(i int) {
	c.mu.Lock()
	p := c.processes[i]
	c.processes[i] = nil
	c.mu.Unlock()
	if p == nil {
		return
	}
	p.Kill()
	next, err := start(c.command())
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); next, err = start(c.command()) {
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		c.t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = append(c.killed, p)
	c.processes[i] = next
}

// remove ends the processes that have not ended.
func (c *Cluster) remove() {
	c.behind.Wait()
	for _, p := range c.processes {
		if p != nil {
			p.remove()
		}
	}
}

// End ends all processes and returns them, those that were killed too.
func (c *Cluster) End() []*Process {
	c.behind.Wait()
	for _, p := range c.processes {
		require.NotNil(c.t, p)
		p.End(c.t)
	}
	require.Empty(c.t, c.faults, "planned faults that did not happen")
	return append(c.killed, c.processes...)
}

// # Mailtrap's part

// A Batch is a delivery that Mailtrap makes until it is acknowledged.
type Batch struct {
	Body   []byte
	Events []mailtrapwebhook.Event

	contentType, signature string
}

// NewBatches returns batches of events that no other batch has. Every other one is in JSON Lines.
func NewBatches(t *testing.T, batches, events int) []Batch {
	t.Helper()
	var all []Batch
	for i := range batches {
		name := crand.Text()
		var objects []string
		for j := range events {
			objects = append(objects, fmt.Sprintf(
				`{"event":"delivery","message_id":"%s","event_id":"%s-%d","email":"a@example.com","timestamp":1728669700}`,
				name, name, j))
		}
		b := Batch{Body: []byte(`{"events":[` + strings.Join(objects, ",") + `]}`), contentType: "application/json"}
		if i%2 == 1 {
			b = Batch{Body: []byte(strings.Join(objects, "\n") + "\n"), contentType: "application/jsonl"}
		}
		var err error
		b.Events, err = mailtrapwebhook.Parse(b.Body)
		require.NoError(t, err)
		require.Len(t, b.Events, events)
		b.signature = mailtrapwebhook.Sign(b.Body, Secret)
		all = append(all, b)
	}
	return all
}

// Post makes one attempt and returns the status, or 0 if no answer came.
func (b Batch) Post(ctx context.Context, url string) int {
	return b.post(ctx, url, b.signature)
}

// Forge is Post by somebody who does not know the secret.
func (b Batch) Forge(ctx context.Context, url string) int {
	return b.post(ctx, url, mailtrapwebhook.Sign(b.Body, "another secret"))
}

func (b Batch) post(ctx context.Context, url, signature string) int {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // Mailtrap waits no longer
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(b.Body))
	if err != nil {
		return 0
	}
	r.GetBody = nil // the client must not make attempts of its own
	r.Header.Set("Content-Type", b.contentType)
	r.Header.Set(mailtrapwebhook.SignatureHeader, signature)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

// Deliver makes the deliveries, the same bytes again and again until each is answered 200, and returns how many attempts
// that took. Of first attempts it makes some at a time, and of others each in its own time.
func Deliver(t *testing.T, url string, batches []Batch) (attempts int) {
	t.Helper()
	const (
		atATime = 6
		pause   = 50 * time.Millisecond // where Mailtrap makes one of five minutes
	)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var made, acknowledged atomic.Int64
	post := func(b Batch) bool {
		made.Add(1)
		ok := b.Post(ctx, url) == http.StatusOK
		if ok {
			acknowledged.Add(1)
		}
		return ok
	}
	retry := func(b Batch) {
		for ctx.Err() == nil {
			time.Sleep(pause)
			if post(b) {
				return
			}
		}
	}
	first := make(chan Batch)
	var senders sync.WaitGroup
	for range atATime {
		senders.Go(func() {
			for b := range first {
				if !post(b) {
					senders.Go(func() { retry(b) })
				}
			}
		})
	}
	for _, b := range batches {
		first <- b
	}
	close(first)
	senders.Wait()
	require.Len(t, batches, int(acknowledged.Load()), "some batches are not acknowledged")
	return int(made.Load())
}
