// Package webhooktest plays Mailtrap in the tests of the functions of all
// platforms.
package webhooktest

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/webhook"
)

// Secret is the signing secret of all tests.
const Secret = "0123456789abcdef0123456789abcdef"

// A Request is sent to a function. The names of its header keep their case.
type Request struct {
	Method string
	Header map[string][]string
	Body   string
}

// An Answer is a function's answer to a Request.
type Answer struct {
	Status int
	Header http.Header
}

// A Send lets a platform pass a request to the function.
type Send func(t *testing.T, r Request) Answer

// A format is one of Mailtrap's two payload formats.
type format struct {
	contentType string
	pack        func(events ...string) string
}

var formats = map[string]format{
	"JSON": {"application/json", func(events ...string) string {
		return `{"events":[` + strings.Join(events, ",") + `]}`
	}},
	"JSON Lines": {"application/jsonl", func(events ...string) string {
		return strings.Join(events, "\n") + "\n"
	}},
}

// events are three events of one mail. Encoders change texts like these.
var events = []string{
	`{"event":"delivery","timestamp":1728669700,"category":"Grüße <&> 日本\u2028 \/","message_id":"m-1",` +
		`"email":"receiver@example.com","event_id":"e-1"}`,
	`{"event":"open","timestamp":1728669701,"message_id":"m-1","email":"receiver@example.com","event_id":"e-2"}`,
	`{"event":"click","timestamp":1728669702,"message_id":"m-1","email":"receiver@example.com","event_id":"e-3"}`,
}

// Signed returns a request that is signed as Mailtrap's are.
func Signed(contentType, body string) Request {
	return Request{
		Method: http.MethodPost,
		Header: map[string][]string{
			"Content-Type":                  {contentType},
			mailtrapwebhook.SignatureHeader: {mailtrapwebhook.Sign([]byte(body), Secret)},
		},
		Body: body,
	}
}

func (r Request) with(name string, values ...string) Request {
	header := make(map[string][]string)
	for old, values := range r.Header {
		if !strings.EqualFold(old, name) {
			header[old] = values
		}
	}
	if len(values) > 0 {
		header[name] = values
	}
	r.Header = header
	return r
}

// A receiver has the program's handler and a callback that remembers its calls.
type receiver struct {
	handler *mailtrapwebhook.Handler
	log     logBuffer

	mu      sync.Mutex
	failFor string
	called  []string
}

func newReceiver(t *testing.T, store mailtrapwebhook.Deduplicator) *receiver {
	t.Helper()
	handler, err := webhook.New(Secret)
	require.NoError(t, err)
	r := &receiver{handler: handler}
	handler.Dedup = store
	handler.OnEvent = r.onEvent
	handler.Logger = slog.New(slog.NewTextHandler(&r.log, nil))
	return r
}

var errOnPurpose = errors.New("the callback fails on purpose")

func (r *receiver) onEvent(_ context.Context, ev mailtrapwebhook.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.called = append(r.called, ev.Name())
	if ev.Name() == r.failFor {
		return errOnPurpose
	}
	return nil
}

// takeCalled returns the names of the events that the callback was called for
// since the last takeCalled.
func (r *receiver) takeCalled() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	called := r.called
	r.called = nil
	return called
}

// A logBuffer keeps a log. It is safe for concurrent use.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Test checks a function. serve starts an instance of the function that passes
// its requests to handler.
func Test(t *testing.T, serve func(t *testing.T, handler *mailtrapwebhook.Handler) Send) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			body := f.pack(events...)
			t.Run("answers", func(t *testing.T) { testAnswers(t, serve, Signed(f.contentType, body)) })
			t.Run("handles a retry once", func(t *testing.T) { testRetry(t, serve, Signed(f.contentType, body)) })
			t.Run("has Mailtrap repeat failures", func(t *testing.T) { testFailure(t, serve, Signed(f.contentType, body)) })
		})
	}
}

func testAnswers(t *testing.T, serve func(*testing.T, *mailtrapwebhook.Handler) Send, good Request) {
	all := []string{"delivery", "open", "click"}
	const name = mailtrapwebhook.SignatureHeader
	signature := good.Header[name][0]
	altered := good
	altered.Body = strings.Replace(good.Body, "receiver@", "somebody@", 1)
	get := good
	get.Method = http.MethodGet

	for title, test := range map[string]struct {
		request Request
		status  int
		called  []string
	}{
		"signed":                      {good, 200, all},
		"names in lower case":         {good.with(name).with(strings.ToLower(name), signature), 200, all},
		"names in upper case":         {good.with(name).with(strings.ToUpper(name), signature), 200, all},
		"another type":                {good.with("Content-Type", "application/octet-stream"), 200, all},
		"no type":                     {good.with("Content-Type"), 200, all},
		"forged":                      {good.with(name, mailtrapwebhook.Sign([]byte(good.Body), "guessed")), 400, nil},
		"altered":                     {altered, 400, nil},
		"no signature":                {good.with(name), 400, nil},
		"empty signature":             {good.with(name, ""), 400, nil},
		"two signatures":              {good.with(name, strings.Repeat("0", 64), signature), 400, nil},
		"two signatures, right first": {good.with(name, signature, strings.Repeat("0", 64)), 400, nil},
		"empty":                       {Signed("application/json", ""), 400, nil},
		"broken JSON":                 {Signed("application/json", `{"events":[`), 422, nil},
		"not POST":                    {get, 405, nil},
	} {
		t.Run(title, func(t *testing.T) {
			r := newReceiver(t, nil)
			answer := serve(t, r.handler)(t, test.request)
			require.Equal(t, test.status, answer.Status, &r.log)
			require.Empty(t, cmp.Diff(test.called, r.takeCalled()))
			if test.status == http.StatusMethodNotAllowed {
				require.Equal(t, "POST", answer.Header.Get("Allow"))
			}
			if test.status == http.StatusOK {
				require.Empty(t, r.log.String())
			} else {
				require.Contains(t, r.log.String(), fmt.Sprintf("status=%d", test.status))
			}
			RequireNothingPersonal(t, r.log.String(), test.request)
		})
	}
}

// testRetry sends the retry to another instance. The instances share the store
// and nothing else.
func testRetry(t *testing.T, serve func(*testing.T, *mailtrapwebhook.Handler) Send, request Request) {
	store := new(mailtrapwebhook.MemoryDeduplicator)
	for _, want := range [][]string{{"delivery", "open", "click"}, nil} {
		r := newReceiver(t, store)
		require.Equal(t, 200, serve(t, r.handler)(t, request).Status, &r.log)
		require.Empty(t, cmp.Diff(want, r.takeCalled()))
	}
}

func testFailure(t *testing.T, serve func(*testing.T, *mailtrapwebhook.Handler) Send, request Request) {
	r := newReceiver(t, new(mailtrapwebhook.MemoryDeduplicator))
	send := serve(t, r.handler)

	r.failFor = "open"
	require.Equal(t, 500, send(t, request).Status)
	require.Equal(t, []string{"delivery", "open", "click"}, r.takeCalled())
	require.Contains(t, r.log.String(), errOnPurpose.Error())
	RequireNothingPersonal(t, r.log.String(), request)

	r.failFor = ""
	require.Equal(t, 200, send(t, request).Status)
	require.Equal(t, []string{"open"}, r.takeCalled())
}

// TestLive checks the program itself. It sends a delivery in each format,
// signed and forged, and returns the requests. The formats have different
// messages, or the program would skip the second as a duplicate.
func TestLive(t *testing.T, send Send) (sent []Request) {
	t.Helper()
	for _, f := range formats {
		body := strings.ReplaceAll(f.pack(events...), "m-1", crand.Text())
		good := Signed(f.contentType, body)
		forged := good.with(mailtrapwebhook.SignatureHeader, mailtrapwebhook.Sign([]byte(good.Body), "guessed"))
		require.Equal(t, 200, send(t, good).Status)
		require.Equal(t, 400, send(t, forged).Status)
		sent = append(sent, good, forged)
	}
	return sent
}

// RequireNothingPersonal fails the test if the log has a secret, an address or
// a signature of the requests.
func RequireNothingPersonal(t *testing.T, log string, requests ...Request) {
	t.Helper()
	require.NotContains(t, log, Secret)
	require.NotContains(t, log, "@example.com")
	for _, r := range requests {
		for _, signature := range r.Header[mailtrapwebhook.SignatureHeader] {
			if signature != "" {
				require.NotContains(t, log, signature)
			}
		}
	}
}

// programVariable makes the test binary run the program in place of the tests.
const programVariable = "WEBHOOKTEST_PROGRAM"

// Main runs the tests, or main if the test binary has to be the program. Call
// it in TestMain.
func Main(m *testing.M, main func()) {
	if os.Getenv(programVariable) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// SetSecret sets the secret for packages that read it in an init function.
// Assign its result to a variable of the test's package: Go initializes
// variables before it calls init. If the test binary has to be the program,
// SetSecret sets nothing.
func SetSecret() (err error) {
	if os.Getenv(programVariable) == "" {
		err = os.Setenv(webhook.SecretVariable, Secret)
	}
	return err
}

// Self returns the file of the test binary, which can also be the program.
func Self(t *testing.T) (file string) {
	t.Helper()
	file, err := os.Executable()
	require.NoError(t, err)
	return file
}

// command returns a command for the program in file. Its environment has env
// and no secret.
func command(ctx context.Context, t *testing.T, file string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, file)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, webhook.SecretVariable+"=")
	})
	// Without this variable the program prints a warning under "go test
	// -cover".
	coverage := "GOCOVERDIR=" + t.TempDir()
	cmd.Env = append(append(cmd.Env, programVariable+"=1", coverage), env...)
	return cmd
}

// RequireNeedsSecret fails the test unless the program ends without a secret
// and prints the reason.
func RequireNeedsSecret(t *testing.T, file string, env ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, secret := range []string{"", " \n"} {
		out, err := command(ctx, t, file, append(env, webhook.SecretVariable+"="+secret)...).CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%s", out)
		require.Equal(t, 1, exit.ExitCode(), "%s", out)
		require.Contains(t, string(out), "set MAILTRAP_SIGNING_SECRET to the webhook's signing secret")
		require.Equal(t, 1, strings.Count(string(out), "\n"), "%s", out)
	}
}

// Start starts the program with the secret and kills it when the test ends. The
// program prints to a file, so printed returns all of its output so far.
func Start(t *testing.T, file string, env ...string) (printed func() string, ended <-chan error) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "output"))
	require.NoError(t, err)
	cmd := command(t.Context(), t, file, append(env, webhook.SecretVariable+"="+Secret+"\n")...)
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	waited := make(chan error, 1)
	gone := make(chan struct{})
	go func() {
		waited <- fmt.Errorf("the program ended: %v", cmd.Wait())
		close(gone)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // as platforms do
		<-gone
		require.NoError(t, out.Close())
	})
	return func() string {
		text, err := os.ReadFile(out.Name())
		require.NoError(t, err)
		return string(text)
	}, waited
}
