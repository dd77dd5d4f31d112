package servers

import (
	"io"
	"os/exec"
)

// A Guarded command is killed when the tests end, also after a panic or a
// timeout.
type Guarded struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

// script runs a command. When stdin has the name of a signal, script sends the
// signal to the command. When stdin is closed, script kills the command.
const script = `exec 3<&0
"$@" &
command=$!
{ read -r signal <&3; kill -"${signal:-KILL}" $command; } >/dev/null 2>&1 &
guard=$!
wait $command
status=$?
kill $guard
exit $status`

// Guard starts cmd as a guarded command.
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

// Signal sends the command a signal, named as for kill(1). A second call does
// nothing.
func (g *Guarded) Signal(name string) {
	_, _ = io.WriteString(g.stdin, name+"\n")
	_ = g.stdin.Close()
}

// Wait waits for the end of the command and returns its error, as exec.Cmd
// does.
func (g *Guarded) Wait() error { return g.cmd.Wait() }
