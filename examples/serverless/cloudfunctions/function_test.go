package cloudfunctions

import (
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/programtest"
	"github.com/mailtrapwebhook/mailtrapwebhook/webhooktest"
)

var errSecret = programtest.SetSecret()

// The test binary can also be the program that Google Cloud makes.
func TestMain(m *testing.M) {
	if errSecret != nil {
		log.Fatal(errSecret)
	}
	programtest.Main(m, func() { log.Fatal(funcframework.StartHostPort("127.0.0.1", os.Getenv("PORT"))) })
}

// deliver delivers the samples to a program and lets a fault happen.
func deliver(t *testing.T, program *programtest.Program, url string, format mailtrapwebhook.Format, fault webhooktest.Fault) {
	t.Helper()
	m := webhooktest.Mailtrap{URL: url, Secret: programtest.Secret, Retries: -1, Fault: fault}
	result, err := m.Deliver(t.Context(), webhooktest.Body(format, webhooktest.Samples()...))
	require.NoError(t, err)
	require.NoError(t, result.Err(), program.Printed(t))
}

// The framework may do something before it calls the function, such as reading
// the body.
func TestFunction(t *testing.T) {
	programtest.RequireNeedsSecret(t, programtest.Self(t))
	for path, target := range map[string]string{"/MailtrapWebhook": "", "/": "MailtrapWebhook"} {
		port := programtest.FreePort(t)
		cmd := programtest.Command(t, programtest.Self(t))
		cmd.Env = append(cmd.Env, "PORT="+port, "FUNCTION_TARGET="+target)
		program := programtest.Start(t, cmd)
		program.AwaitPort(t, port)
		for _, format := range []mailtrapwebhook.Format{mailtrapwebhook.FormatJSON, mailtrapwebhook.FormatJSONLines} {
			deliver(t, program, "http://127.0.0.1:"+port+path, format, webhooktest.FaultForged)
			deliver(t, program, "http://127.0.0.1:"+port+path, format, webhooktest.FaultRepeated)
		}
		printed := program.Printed(t)
		require.Equal(t, 2*len(webhooktest.Samples()), strings.Count(printed, "event received"), printed)
		require.Equal(t, 2, strings.Count(printed, "status=400"), printed)
		programtest.RequireNothingPersonal(t, printed)
	}
}

func get(t *testing.T, url string) (status int) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	return resp.StatusCode
}

func TestCmd(t *testing.T) {
	_, err := os.Stat("cmd/main.go") // or "go test" would not notice that it has changed
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "cmd")
	out, err := exec.Command("go", "build", "-o", file, "./cmd").CombinedOutput()
	require.NoError(t, err, "%s", out)

	t.Run("needs a secret", func(t *testing.T) { programtest.RequireNeedsSecret(t, file) })
	t.Run("refuses wrong arguments", func(t *testing.T) { testCmdRefusesWrongArguments(t, file) })
	t.Run("needs its port", func(t *testing.T) { testCmdNeedsItsPort(t, file) })
	t.Run("is ready while its store answers", func(t *testing.T) { testCmdIsReady(t, file) })
	t.Run("ends at TERM", func(t *testing.T) { testCmdEndsAtTERM(t, file) })
}

func testCmdRefusesWrongArguments(t *testing.T, file string) {
	for want, args := range map[string][]string{
		"unexpected argument": {"-listen", "nowhere", "extra"}, // a program that starts cannot listen there
		"make it 0s to 10s":   {"-listen", "nowhere", "-drain", "-5s"},
	} {
		out, err := programtest.Command(t, file, args...).CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%s", out)
		require.Equal(t, 2, exit.ExitCode(), "%s", out)
		require.Contains(t, string(out), want)
	}
}

func testCmdNeedsItsPort(t *testing.T, file string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	out, err := programtest.Command(t, file, "-listen", listener.Addr().String()).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "address already in use")
}

// startCmd starts cmd and returns its URL.
func startCmd(t *testing.T, file string, env ...string) (program *programtest.Program, base string) {
	t.Helper()
	port := programtest.FreePort(t)
	cmd := programtest.Command(t, file, "-drain", "2s")
	cmd.Env = append(append(cmd.Env, "PORT="+port), env...)
	program = programtest.Start(t, cmd)
	program.AwaitPort(t, port)
	return program, "http://127.0.0.1:" + port
}

func testCmdIsReady(t *testing.T, file string) {
	store := programtest.StartServer(t, servers.Redis)
	_, base := startCmd(t, file, "REDIS_URL=unix://"+store.Address)
	require.Equal(t, 200, get(t, base+"/readyz"))
	require.NoError(t, store.Kill())
	require.Equal(t, 503, get(t, base+"/readyz"))
	require.Equal(t, 200, get(t, base+"/healthz"))
}

func testCmdEndsAtTERM(t *testing.T, file string) {
	program, base := startCmd(t, file)
	require.Eventually(t, func() bool {
		return strings.Contains(program.Printed(t), "listening url="+base+"/MailtrapWebhook")
	}, time.Minute, 10*time.Millisecond)
	deliver(t, program, base+"/MailtrapWebhook", mailtrapwebhook.FormatJSON, "")

	began := time.Now()
	require.NoError(t, program.Process.Signal(syscall.SIGTERM))
	unready := func() bool { return get(t, base+"/readyz") == 503 }
	require.Eventually(t, unready, time.Second, 10*time.Millisecond)
	require.Equal(t, 200, get(t, base+"/healthz"))
	deliver(t, program, base+"/MailtrapWebhook", mailtrapwebhook.FormatJSON, "") // deliveries still come in
	require.NoError(t, <-program.Ended, program.Printed(t))                      // the status is 0
	require.Less(t, time.Since(began), 20*time.Second)
}
