package servers

import (
	"io"
	"os/exec"
)

// A Guarded command is killed when the tests end, however they do: after a panic or a timeout too.
type Guarded struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

// script runs a command until it ends, or until stdin has the name of a signal for it or is closed.
const script = `exec 3<&0
"$@" &
command=$!
{ read -r signal <&3; kill -"${signal:-KILL}" $command; } >/dev/null 2>&1 &
guard=$!
wait $command
status=$?
kill $guard
exit $status`

// Guard makes a command that has not been started a guarded one, and starts it.
func Guard(cmd *exec.Cmd) (*Guarded, error) {
	cmd.Args = append([]string{"sh", "-c", script, "sh", cmd.Path}, cmd.Args[1:]...)
	path, err := exec.LookPath("sh")
	if err != nil {
		return nil, err
	}
	cmd.Path = path
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &Guarded{cmd, stdin}, cmd.Start()
}

// Signal sends the command a signal, which is named as for kill(1). It does nothing if it has sent one before.
func (g *Guarded) Signal(name string) {
	_, _ = io.WriteString(g.stdin, name+"\n")
	_ = g.stdin.Close()
}

// Wait waits for the command, and returns how it ended.
func (g *Guarded) Wait() error { return g.cmd.Wait() }
