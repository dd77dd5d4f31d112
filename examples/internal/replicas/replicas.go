// Package replicas runs processes of a receiver behind one address. It plays
// Mailtrap and makes everything go wrong that can.
package replicas

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
)

// Secret is the signing secret.
const Secret = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"

// patience bounds the wait for anything on a busy machine.
const patience = 90 * time.Second

// A Process is a process of the receiver.
type Process struct {
	Killed bool     // by Kill, not ended by End
	Lines  []string // its output; read it after Kill or End

	guarded *servers.Guarded
	address string
	stderr  []string      // its lines on stderr; read them after over
	over    chan struct{} // closed when stdout and stderr are closed
}

// Start starts a process and returns it with the address that it listens on.
func Start(t *testing.T, cmd *exec.Cmd) (p *Process, address string) {
	t.Helper()
	p, err := start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.remove)
	return p, p.address
}

// start starts a process and waits until it prints "listening on" and an
// address to stderr.
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
			p.stderr = append(p.stderr, lines.Text())
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
		return nil, fmt.Errorf("the process does not listen: %q", p.stderr)
	}
	return p, nil
}

// Kill kills the process, as a crash does.
func (p *Process) Kill() {
	p.Killed = true
	p.remove()
}

// remove kills the process if it runs.
func (p *Process) remove() {
	p.guarded.Signal("KILL")
	<-p.over
	_ = p.guarded.Wait()
}

// End tells the process to end and waits for its end.
func (p *Process) End(t *testing.T) {
	t.Helper()
	p.guarded.Signal("TERM")
	<-p.over
	if err := p.guarded.Wait(); err != nil {
		t.Fatalf("the process ended with %v: %q", err, p.stderr)
	}
}
