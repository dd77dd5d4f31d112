package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
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
		"":       func() { os.Exit(m.Run()) },
		"queue":  main,
		"node":   runNode,
		"worker": runWorkerThatHangs,
	}[os.Getenv(roleVariable)]
	if os.Getenv(roleVariable) != "" {
		go func() { // ends with the test that started it, even after a panic
			io.Copy(io.Discard, os.Stdin)
			os.Exit(exitFailure)
		}()
	}
	role()
}

func TestEventsAreQueuedOnce(t *testing.T) {
	events := []string{
		`{"event":"soft bounce","message_id":"m-1","event_id":"e-1","email":"a@example.com","timestamp":1728669700}`,
		`{"event":"activity_log.user.login","description":"b@example.com logged in","actor":{"id":1,"name":"Ann"}}`,
		`{"event":"activity_log.user.login","description":"b@example.com logged in","actor":{"id":1,"name":"Ann"}}`,
		`{"event":"inbound.message_received","inbox_id":11,"message_id":"22","from":"c@example.com"}`,
		`{"event":"brand new.* > kind","email":"d@example.com"}`,
	}
	for name, body := range map[string]string{"JSON": envelope(events...), "JSON Lines": lines(events...)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			program := startProgram(t, "-dir", dir)
			require.Equal(t, http.StatusBadRequest, post(t, program.address, body, "another secret"))
			require.Equal(t, http.StatusOK, post(t, program.address, body, testSecret))
			program.waitForEvents(t, len(events))
			require.Equal(t, http.StatusOK, post(t, program.address, body, testSecret), "the retry")
			require.Equal(t, http.StatusOK, post(t, program.address, lines(events[0]), testSecret), "in another delivery")
			require.Equal(t, exitOK, program.end(t), program.logs.String())

			type stored struct{ Subject, Text string }
			var got []stored
			for _, msg := range storedIn(t, dir) {
				got = append(got, stored{msg.Subject, string(msg.Data)})
			}
			require.Empty(t, cmp.Diff([]stored{
				{"mailtrap.sending.soft_bounce", events[0]},
				{"mailtrap.activity_log.user_login", events[1]},
				{"mailtrap.activity_log.user_login", events[2]},
				{"mailtrap.inbound.message_received", events[3]},
				{"mailtrap.unknown.brand_new_____kind", events[4]},
			}, got))
			require.Equal(t, 5, strings.Count(program.logs.String(), eventLine), program.logs.String())
			require.NotContains(t, program.logs.String(), "example.com")
		})
	}
}

func TestForgedDeliveryIsNotQueued(t *testing.T) {
	dir := t.TempDir()
	program := startProgram(t, "-dir", dir)
	body := envelope(bounce("m-1"))
	require.Equal(t, http.StatusBadRequest, post(t, program.address, body, "another secret"))
	require.Equal(t, http.StatusBadRequest, post(t, program.address, lines(bounce("m-1")), "another secret"))
	require.Equal(t, exitOK, program.end(t))
	require.Empty(t, storedIn(t, dir))
	require.NotContains(t, program.logs.String(), eventLine)
}

// The stream must remember a handled event, also after a restart.
func TestHandledEventIsNotQueuedAgainAfterARestart(t *testing.T) {
	dir := t.TempDir()
	body := envelope(bounce("m-1"), bounce("m-2"))
	for attempt := range 3 {
		program := startProgram(t, "-dir", dir)
		require.Equal(t, http.StatusOK, post(t, program.address, body, testSecret))
		if attempt == 0 {
			program.waitForEvents(t, 2)
		}
		require.Equal(t, exitOK, program.end(t))
	}
	var sequences []uint64
	for _, msg := range storedIn(t, dir) {
		sequences = append(sequences, msg.Sequence)
	}
	require.Equal(t, []uint64{1, 2}, sequences)
}

func TestLargestEventFits(t *testing.T) {
	dir := t.TempDir()
	program := startProgram(t, "-dir", dir)
	frame := `{"event":"bounce","message_id":"m-1","response":""}`
	event := strings.Replace(frame, `""`, `"`+strings.Repeat("x", maxPayload-headerRoom-len(frame))+`"`, 1)
	require.Equal(t, http.StatusOK, post(t, program.address, event, testSecret))
	require.Equal(t, http.StatusRequestEntityTooLarge, post(t, program.address, event+" ", testSecret))
	require.Equal(t, exitOK, program.end(t), program.logs)
	stored := storedIn(t, dir)
	require.Len(t, stored, 1)
	require.True(t, event == string(stored[0].Data), "the text differs")
}

// A full stream keeps acknowledged events and acknowledges no event that it
// does not store.
func TestFullStreamRefusesDeliveries(t *testing.T) {
	dir := t.TempDir()
	program := startProgram(t, "-dir", dir, "-max-bytes", "4000")
	acknowledged := make(map[string]int)
	refused := 0
	for i := 0; refused < 3; i++ {
		id := fmt.Sprint("m-", i)
		switch status := post(t, program.address, envelope(bounce(id)), testSecret); status {
		case http.StatusOK:
			acknowledged[id] = 1
		default:
			require.Equal(t, http.StatusInternalServerError, status)
			refused++
		}
		require.Less(t, i, 100, "the stream is never full")
	}
	require.Equal(t, exitOK, program.end(t))
	require.Contains(t, program.logs.String(), "maximum bytes exceeded")
	require.NotEmpty(t, acknowledged)
	require.Equal(t, acknowledged, counted(t, storedIn(t, dir)))
}

func TestDeliveryIsRefusedIfOneOfItsEventsIsNotStored(t *testing.T) {
	dir := t.TempDir()
	program := startProgram(t, "-dir", dir, "-max-bytes", "4000")
	var events []string
	for i := range 100 {
		events = append(events, bounce(fmt.Sprint("m-", i)))
	}
	for range 2 {
		require.Equal(t, http.StatusInternalServerError, post(t, program.address, lines(events...), testSecret))
	}
	require.Equal(t, exitOK, program.end(t))
	for id, times := range counted(t, storedIn(t, dir)) {
		require.Equal(t, 1, times, id)
	}
}

func TestStreamIsSetUpToKeepEvents(t *testing.T) {
	q := openTestQueue(t, options{dir: t.TempDir(), replicas: 1, maxBytes: testMaxBytes})
	require.True(t, q.server.JetStreamConfig().SyncAlways, "a loss of power would lose acknowledged events")

	info, err := q.stream.Info(t.Context())
	require.NoError(t, err)
	got := info.Config
	require.GreaterOrEqual(t, got.Duplicates, 24*time.Hour, "Mailtrap repeats an inbound event for 24 hours")
	require.GreaterOrEqual(t, got.MaxAge, got.Duplicates)
	require.Equal(t, jetstream.FileStorage, got.Storage)
	require.Equal(t, jetstream.LimitsPolicy, got.Retention)
	require.Equal(t, jetstream.DiscardNew, got.Discard)
	require.EqualValues(t, testMaxBytes, got.MaxBytes)
	require.EqualValues(t, -1, got.MaxMsgs)
	require.EqualValues(t, -1, got.MaxMsgsPerSubject)

	consumer, err := q.consumer(t.Context(), ackWait)
	require.NoError(t, err)
	require.Equal(t, -1, consumer.CachedInfo().Config.MaxDeliver)
	require.Equal(t, jetstream.AckExplicitPolicy, consumer.CachedInfo().Config.AckPolicy)
	require.Greater(t, ackWait, prefetch*handleTimeout, "slow events would make the stream hand out others twice")
}

func TestToken(t *testing.T) {
	for name, test := range map[string]struct{ name, family, want string }{
		"as it is":           {"bounce", familySending, "bounce"},
		"space":              {"soft bounce", familySending, "soft_bounce"},
		"dots":               {"activity_log.user.updated", familyActivityLog, "user_updated"},
		"prefix alone":       {"activity_log.", familyActivityLog, "_"},
		"empty":              {"", familyUnknown, "_"},
		"wildcards":          {"a.*.>", familyUnknown, "a____"},
		"line ends":          {"a\r\nNats-Msg-Id: b", familyUnknown, "a__Nats-Msg-Id__b"},
		"not ASCII":          {"äöü", familyUnknown, "___"},
		"not UTF-8":          {"\xff\x00", familyUnknown, "__"},
		"longer than needed": {strings.Repeat("x", 1<<20), familyUnknown, strings.Repeat("x", 64)},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, token(test.name, test.family))
		})
	}
}

func TestCommandLine(t *testing.T) {
	for name, test := range map[string]struct {
		args   []string
		secret string
		status int
		want   string
	}{
		"unknown flag":    {[]string{"-lisen", ":0"}, testSecret, exitUsage, "not defined: -lisen"},
		"stray argument":  {[]string{"x"}, testSecret, exitUsage, `unexpected argument "x"`},
		"no secret":       {nil, "", exitUsage, secretVariable},
		"blank secret":    {nil, " \n", exitUsage, secretVariable},
		"replicas of one": {[]string{"-replicas", "3"}, testSecret, exitUsage, "-nats"},
		"no replicas":     {[]string{"-replicas", "0"}, testSecret, exitUsage, "at least 1"},
		"no room":         {[]string{"-max-bytes", "0"}, testSecret, exitUsage, "at least 1"},
		"no such address": {[]string{"-listen", "localhost"}, testSecret, exitFailure, "missing port"},
		"no directory":    {[]string{"-listen", "127.0.0.1:0", "-dir", os.Args[0]}, testSecret, exitFailure, "-dir is no directory"},
		"malformed URL":   {[]string{"-listen", "127.0.0.1:0", "-nats", "nats://u:pass/@h"}, testSecret, exitFailure, "-nats"},
		"nobody is there": {[]string{"-listen", "127.0.0.1:0", "-nats", "nats://127.0.0.1:1"}, testSecret, exitFailure, "no servers"},
		"help":            {[]string{"-h"}, "", exitOK, "-max-bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			require.Equal(t, test.status, run(t.Context(), test.args, environment(test.secret), &stderr), &stderr)
			require.Contains(t, stderr.String(), test.want)
			require.NotContains(t, stderr.String(), testSecret)
			require.NotContains(t, stderr.String(), "pass")
		})
	}
}

// A second program on the same address must end before it opens the directory.
func TestProgramWithoutItsAddressOpensNoDirectory(t *testing.T) {
	program := startProgram(t, "-dir", t.TempDir())
	dir := filepath.Join(t.TempDir(), "queue-data")
	args := []string{"-listen", program.address, "-dir", dir}
	require.Equal(t, exitFailure, run(t.Context(), args, environment(testSecret), io.Discard))
	require.NoDirExists(t, dir)
	require.Equal(t, exitOK, program.end(t))
}

func environment(secret string) func(string) string {
	return func(name string) string { return map[string]string{secretVariable: secret}[name] }
}

// bounce returns the text of an event with this message id.
func bounce(id string) string {
	return fmt.Sprintf(`{"event":"bounce","message_id":%q,"event_id":"e","email":"a@example.com","response":"no such user"}`, id)
}

func envelope(events ...string) string { return `{"events":[` + strings.Join(events, ",") + `]}` }
func lines(events ...string) string    { return strings.Join(events, "\n") + "\n" }

// post sends a delivery and returns the status of the answer.
func post(t *testing.T, address, body, secret string) int {
	t.Helper()
	status, err := postTo(t.Context(), http.DefaultClient, address, body, secret)
	require.NoError(t, err)
	return status
}

func postTo(ctx context.Context, client *http.Client, address, body, secret string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // Mailtrap waits no longer
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set(mailtrapwebhook.SignatureHeader, mailtrapwebhook.Sign([]byte(body), secret))
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// openTestQueue opens a queue until the test ends.
func openTestQueue(t *testing.T, opts options) *queue {
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
	logs    *syncBuffer
	cancel  context.CancelFunc
	status  chan int
}

func startProgram(t *testing.T, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	p := &program{logs: new(syncBuffer), cancel: cancel, status: make(chan int, 1)}
	go func() { p.status <- run(ctx, append(args, "-listen", "127.0.0.1:0"), environment(testSecret), p.logs) }()
	require.Eventually(t, func() bool { return listeningLine.MatchString(p.logs.String()) || len(p.status) > 0 }, patience, tick)
	require.Empty(t, p.status, "the program ended: %s", p.logs)
	p.address = listeningLine.FindStringSubmatch(p.logs.String())[1]
	return p
}

// waitForEvents waits until the program's worker has had this many events.
func (p *program) waitForEvents(t *testing.T, want int) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Count(p.logs.String(), eventLine) >= want }, patience, tick, p.logs)
}

const eventLine = "msg=event id="

var listeningLine = regexp.MustCompile(`msg=listening address=(\S+)`)

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
func startProcess(t *testing.T, role string, readyLine *regexp.Regexp, args ...string) (_ *process, ready string) {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], args...), ready: make(chan string, 1), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+role, secretVariable+"="+testSecret)
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

func TestDirectoryServesOneProgramAtATime(t *testing.T) {
	dir := t.TempDir()
	first := openTestQueue(t, options{dir: dir, replicas: 1, maxBytes: 1 << 20})
	_, err := openQueue(t.Context(), options{dir: dir, replicas: 1, maxBytes: 1 << 20}, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "another process uses "+dir)
	first.close()
	openTestQueue(t, options{dir: dir, replicas: 1, maxBytes: 1 << 20})
}
