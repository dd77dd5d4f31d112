package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/serve"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

const (
	testSecret   = "0123456789abcdef0123456789abcdef"
	testMaxBytes = 1 << 30

	// patience bounds the wait for something that must come. Only a failing
	// test waits for so long.
	patience = time.Minute
	tick     = 5 * time.Millisecond
)

// roleVariable makes the test binary run another program, which a test can
// kill.
const roleVariable = "QUEUE_TEST_ROLE"

func TestMain(m *testing.M) {
	role := map[string]func(){
		"": func() {
			flag.Set("test.parallel", "8") // the parallel tests mostly wait for elections and timeouts
			os.Exit(m.Run())
		},
		"queue":  main,
		"node":   runNode,
		"worker": runWorkerThatHangs,
		"flaky":  runFlakyWorker,
	}[os.Getenv(roleVariable)]
	if os.Getenv(roleVariable) != "" {
		go func() { // ends with the test that started it, even after a panic
			io.Copy(io.Discard, os.Stdin)
			os.Exit(exitFailure)
		}()
	}
	role()
}

func environment(secret string) func(string) string {
	return func(name string) string { return map[string]string{serve.SecretVariable: secret}[name] }
}

// bounce returns the text of an event with this message id.
func bounce(id string) string {
	return fmt.Sprintf(`{"event":"bounce","message_id":%q,"event_id":"e","email":"a@example.com","response":"no such user"}`, id)
}

func envelope(events ...string) string { return `{"events":[` + strings.Join(events, ",") + `]}` }
func lines(events ...string) string    { return strings.Join(events, "\n") + "\n" }

// post sends a delivery once and returns the status of the answer.
func post(t testing.TB, address, body, secret string) int {
	t.Helper()
	mailtrap := webhooktest.Mailtrap{URL: "http://" + address, Secret: secret, Retries: -1}
	result, err := mailtrap.Deliver(t.Context(), []byte(body))
	require.NoError(t, err)
	require.NoError(t, result.Attempts[0].Err)
	return result.Attempts[0].Status
}

// fetch returns the status and body of an answer.
func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

// openTestQueue opens a queue until the test ends.
func openTestQueue(t testing.TB, opts options) *queue {
	t.Helper()
	q, err := openQueue(t.Context(), opts, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(q.close)
	return q
}

// storedIn returns the messages of the stream in dir. No program may have it
// open.
func storedIn(t *testing.T, dir string) []*jetstream.RawStreamMsg {
	t.Helper()
	q, err := openQueue(t.Context(), options{dir: dir, replicas: 1, maxBytes: testMaxBytes}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer q.close()
	return stored(t, q.stream)
}

// stored returns the messages of the stream. It waits while the servers of a
// cluster elect a leader.
func stored(t *testing.T, stream jetstream.Stream) (msgs []*jetstream.RawStreamMsg) {
	t.Helper()
	var info *jetstream.StreamInfo
	eventually(t, func() (err error) {
		info, err = stream.Info(t.Context())
		return err
	})
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && info.State.Msgs > 0; seq++ {
		eventually(t, func() error {
			msg, err := stream.GetMsg(t.Context(), seq)
			if err == nil {
				msgs = append(msgs, msg)
			}
			return err
		})
	}
	require.EqualValues(t, info.State.Msgs, len(msgs))
	return msgs
}

// eventually waits until f returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	err := f()
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); err = f() {
		time.Sleep(tick)
	}
	require.NoError(t, err)
}

// counted returns how often each message_id occurs.
func counted(t *testing.T, msgs []*jetstream.RawStreamMsg) map[string]int {
	t.Helper()
	count := make(map[string]int)
	for _, msg := range msgs {
		var event struct {
			MessageID string `json:"message_id"`
		}
		require.NoError(t, json.Unmarshal(msg.Data, &event))
		count[event.MessageID]++
	}
	return count
}

// A program is the program, running in this process until end is called.
type program struct {
	address string
	metrics string // an address too
	logs    *syncBuffer
	cancel  context.CancelFunc
	status  chan int
}

// onFreePorts are the arguments of a program that begins and ends at once.
var onFreePorts = []string{"-listen", "127.0.0.1:0", "-metrics", "127.0.0.1:0", "-unready", "0"}

func startProgram(t *testing.T, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	args = append(slices.Clone(onFreePorts), args...)
	p := &program{logs: new(syncBuffer), cancel: cancel, status: make(chan int, 1)}
	go func() { p.status <- run(ctx, args, environment(testSecret), io.Discard, p.logs) }()
	require.Eventually(t, func() bool { return listeningLine.MatchString(p.logs.String()) || len(p.status) > 0 }, patience, tick)
	require.Empty(t, p.status, "the program ended: %s", p.logs)
	line := listeningLine.FindStringSubmatch(p.logs.String())
	p.address, p.metrics = line[1], line[2]
	return p
}

// waitForEvents waits until the program's worker has had this many events.
func (p *program) waitForEvents(t *testing.T, want int) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Count(p.logs.String(), eventLine) >= want }, patience, tick, p.logs)
}

const eventLine = "msg=event id="

var listeningLine = regexp.MustCompile(`msg=listening address=(\S+) metrics=(\S+)`)

func (p *program) end(t *testing.T) int {
	t.Helper()
	p.cancel()
	select {
	case status := <-p.status:
		return status
	case <-time.After(patience):
		t.Fatal("the program does not end")
		return 0
	}
}

// A syncBuffer is a [bytes.Buffer] that is safe for concurrent use.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(text)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A process is the test binary in another role.
type process struct {
	cmd   *exec.Cmd
	logs  syncBuffer
	ready chan string // the first submatch of readyLine
	ended chan struct{}
}

// startProcess starts a process and waits for a line that matches readyLine.
func startProcess(t testing.TB, role string, readyLine *regexp.Regexp, args ...string) (_ *process, ready string) {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], args...), ready: make(chan string, 1), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+role, serve.SecretVariable+"="+testSecret)
	_, err := p.cmd.StdinPipe() // closes when this process ends
	require.NoError(t, err)
	output, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { p.kill() })
	go func() {
		defer close(p.ended)
		scanner := bufio.NewScanner(output)
		for scanner.Scan() {
			fmt.Fprintln(&p.logs, scanner.Text())
			if match := readyLine.FindStringSubmatch(scanner.Text()); match != nil && len(p.ready) == 0 {
				p.ready <- match[1]
			}
		}
		p.cmd.Wait()
	}()
	select {
	case ready = <-p.ready:
	case <-p.ended:
		t.Fatalf("the %s ended: %s", role, p.logs.String())
	case <-time.After(patience):
		t.Fatalf("the %s does not get ready: %s", role, p.logs.String())
	}
	return p, ready
}

// kill sends SIGKILL to the process, if it runs, and waits for its end.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// stop suspends the process.
func (p *process) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	_, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil) // the signal takes a moment
	require.NoError(t, err)
	require.True(t, status.Stopped(), p.logs.String())
}
