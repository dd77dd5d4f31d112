package servers

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
)

// The ports from firstPort on are below those that systems give out, so that no
// connection takes one before the server that is to listen there.
const (
	firstPort = 10_000
	ports     = 20_000
)

// nextPort begins anywhere, for tests that run at the same time.
var nextPort atomic.Int32

func init() { nextPort.Store(rand.Int32N(ports)) }

// FreePort returns a port that nobody listens on and that no other call
// returns. It is for servers that cannot choose one and say which.
func FreePort() (string, error) {
	for range 100 {
		port := strconv.Itoa(firstPort + int(nextPort.Add(1))%ports)
		listener, err := net.Listen("tcp", ":"+port)
		if err == nil {
			return port, listener.Close()
		}
	}
	return "", errors.New("a hundred ports are taken")
}
