package servers

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// A Proxy forwards connections to a server. It counts round trips and can hold
// up all bytes.
type Proxy struct {
	server  *Server
	address string
	trips   atomic.Int64
	lose    atomic.Bool
	holding sync.RWMutex // held for reading while bytes are forwarded
}

// NewProxy starts a proxy on loopback. It stops when the test ends.
func NewProxy(t *testing.T, server *Server) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{server: server, address: listener.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.connect(client) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		all.Wait() // clients are made after the proxy, and so close before it
	})
	return p
}

// Address returns the proxy's host and port.
func (p *Proxy) Address() string { return p.address }

// RoundTrips returns how often a client sent bytes and waited for an answer. A
// round trip begins with a connection's first bytes, and with bytes from a
// client after bytes from the server.
func (p *Proxy) RoundTrips() int { return int(p.trips.Load()) }

// Hold holds up all bytes in both directions until resume is called.
func (p *Proxy) Hold() (resume func()) {
	p.holding.Lock()
	return p.holding.Unlock
}

// LoseAnswer makes the proxy cut the next connection on which the server answers,
// in place of its answer.
func (p *Proxy) LoseAnswer() { p.lose.Store(true) }

func (p *Proxy) connect(client net.Conn) {
	defer client.Close()
	server, err := net.Dial(p.server.Network, p.server.Address)
	if err != nil {
		return
	}
	var serverSpoke atomic.Bool
	serverSpoke.Store(true)
	var ways sync.WaitGroup
	ways.Go(func() {
		p.pass(server, client, func() bool {
			if serverSpoke.Swap(false) {
				p.trips.Add(1)
			}
			return true
		})
	})
	ways.Go(func() {
		p.pass(client, server, func() bool {
			serverSpoke.Store(true)
			return !p.lose.Swap(false)
		})
	})
	ways.Wait()
}

// pass forwards bytes from one side until either side is closed, or came returns
// false. It then closes both.
func (p *Proxy) pass(to, from net.Conn, came func() bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !came() {
				return
			}
			p.holding.RLock()
			_, writeErr := to.Write(buffer[:n])
			p.holding.RUnlock()
			if writeErr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
