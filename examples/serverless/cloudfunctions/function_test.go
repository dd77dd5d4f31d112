package cloudfunctions

import (
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/webhooktest"
)

var errSecret = webhooktest.SetSecret()

// The framework's server cannot be stopped and serves only functions that were
// registered before it started. All tests therefore share a server and a
// function, which passes its requests to the current test's handler.
var (
	base    string
	current atomic.Pointer[mailtrapwebhook.Handler]
)

func TestMain(m *testing.M) {
	if errSecret != nil {
		log.Fatal(errSecret)
	}
	functions.HTTP("Test", func(w http.ResponseWriter, r *http.Request) { current.Load().ServeHTTP(w, r) })
	port, err := webhooktest.FreePort()
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- funcframework.StartHostPort("127.0.0.1", port) }()
	if err := webhooktest.Listens(port, ended); err != nil {
		log.Fatal(err)
	}
	base = "http://127.0.0.1:" + port
	os.Exit(m.Run())
}

// The framework may do something before it calls the function, such as reading
// the body.
func TestFramework(t *testing.T) {
	webhooktest.Test(t, func(t *testing.T, handler *mailtrapwebhook.Handler) webhooktest.Send {
		current.Store(handler)
		return webhooktest.SendTo(base + "/Test")
	})
}

func TestFunction(t *testing.T) {
	webhooktest.TestLive(t, webhooktest.SendTo(base+"/MailtrapWebhook"))
}

func TestProgram(t *testing.T) {
	_, err := os.Stat("cmd/main.go") // or "go test" would not notice that it has changed
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "program")
	out, err := exec.Command("go", "build", "-o", program, "./cmd").CombinedOutput()
	require.NoError(t, err, "%s", out)
	webhooktest.RequireNeedsSecret(t, program)

	for name, test := range map[string]struct{ path, target string }{
		"on your machine":   {"/MailtrapWebhook", "FUNCTION_TARGET="},
		"as it is deployed": {"/", "FUNCTION_TARGET=MailtrapWebhook"},
	} {
		t.Run(name, func(t *testing.T) {
			port, err := webhooktest.FreePort()
			require.NoError(t, err)
			printed, ended := webhooktest.Start(t, program, "PORT="+port, test.target)
			require.NoError(t, webhooktest.Listens(port, ended), printed())
			requests := webhooktest.TestLive(t, webhooktest.SendTo("http://127.0.0.1:"+port+test.path))
			require.Equal(t, 6, strings.Count(printed(), "event received"), printed())
			require.Equal(t, 2, strings.Count(printed(), "status=400"), printed())
			webhooktest.RequireNothingPersonal(t, printed(), requests...)
		})
	}
}
