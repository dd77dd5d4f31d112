package replicas

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A Fault is something that goes wrong with a request.
type Fault int

const (
	None    Fault = iota
	Busy          // the request is answered 503 and reaches no process
	Lost          // the request is handled, but nobody gets the answer
	Cut           // the connection is cut while the request is handled
	Kill          // the process that handles the request is killed
	Restart       // the store restarts
)

// A Cluster has the processes of one receiver behind one address.
type Cluster struct {
	URL string

	t       *testing.T
	command func() *exec.Cmd
	restart func() error // of the store
	next    atomic.Int64
	behind  sync.WaitGroup // goes on after its request is answered

	restarting sync.Mutex

	mu        sync.Mutex
	faults    []Fault
	processes []*Process // nil while a killed process is replaced
	killed    []*Process
}

// NewCluster starts n processes and a server that hands them requests in turn.
func NewCluster(t *testing.T, n int, command func() *exec.Cmd, restart func() error) *Cluster {
	c := &Cluster{t: t, command: command, restart: restart}
	t.Cleanup(c.remove)
	for range n {
		p, err := start(command())
		if err != nil {
			t.Fatal(err)
		}
		c.processes = append(c.processes, p)
	}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

// Plan makes that many of the next requests suffer each fault, in random order.
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

// ServeHTTP hands a request to a process and makes the planned fault happen.
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
		time.Sleep(rand.N(30 * time.Millisecond)) // the process dies at a random point
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

// transport keeps no idle connections, because a server that ends waits for
// them.
var transport = &http.Transport{DisableKeepAlives: true}

// pass forwards a request to a process.
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

// kill kills a process and starts another one in its place. It tries again
// until the new process runs: without the store, a process ends at once.
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

// remove kills the processes that run.
func (c *Cluster) remove() {
	c.behind.Wait()
	for _, p := range c.processes {
		if p != nil {
			p.remove()
		}
	}
}

// End ends all processes and returns them, with the killed ones.
func (c *Cluster) End() []*Process {
	c.behind.Wait()
	for _, p := range c.processes {
		if p == nil {
			c.t.Fatal("a killed process was not replaced")
		}
		p.End(c.t)
	}
	if len(c.faults) > 0 {
		c.t.Fatalf("%d planned faults did not happen", len(c.faults))
	}
	return append(c.killed, c.processes...)
}
