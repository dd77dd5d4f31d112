package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/internal/servers"
)

// aWhile is how long a test waits for something that comes at once.
const aWhile = 20 * time.Second

// A kind is one of the proxies.
type kind struct {
	name    string
	file    string // its configuration
	log     string // its access log, if it has one, among the files of a test
	buffers bool   // it passes on only whole bodies

	// edit returns old texts of the configuration, and new ones for a test.
	edit func(s setup, port, dir string) []string

	// args returns the arguments that start the proxy with a configuration.
	args func(t *testing.T, dir, config string) []string
}

var kinds = []kind{
	{"nginx", "nginx.conf", "access", true, editNginx, nginxArgs},
	{"haproxy", "haproxy.cfg", output, false, editHAProxy, func(_ *testing.T, _, config string) []string {
		return []string{"-db", "-f", config}
	}},
	{"caddy", "Caddyfile", "", false, editCaddy, func(_ *testing.T, _, config string) []string {
		return []string{"run", "--adapter", "caddyfile", "--config", config}
	}},
}

// A setup is what a test changes in a configuration.
type setup struct {
	upstream string   // host:port, or unix:/path
	trusted  []string // the proxies in front; nil removes what names them
	plain    bool     // HTTP without TLS
	unprobed bool     // the upstream has no /readyz, or the probes would be hurried
	hurried  bool     // all times are divided by hurry
}

func editNginx(s setup, port, dir string) []string {
	edits := []string{
		"listen 443", "listen 127.0.0.1:" + port,
		"listen [::]:443", "listen [::1]:" + port,
		"/etc/ssl/certs/webhooks.example.com.pem", dir + "/pem",
		"/etc/ssl/private/webhooks.example.com.key", dir + "/pem",
		"/var/log/nginx/webhook.log", dir + "/access",
	}
	var trusted string
	for _, prefix := range s.trusted {
		trusted += "\t" + prefix + " 1;\n"
	}
	edits = append(edits, "\t192.0.2.0/24 1;\n\t2001:db8::/32 1;\n", trusted)
	if s.plain {
		edits = append(edits, " ssl http2;", ";")
	}
	return edits
}

// nginxArgs puts the site into the block http of a configuration that needs no
// privileges.
func nginxArgs(t *testing.T, dir, site string) []string {
	var temp strings.Builder
	for _, module := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "%s_temp_path %s/%s;\n", module, dir, module)
	}
	config := filepath.Join(dir, "whole.conf")
	writeFile(t, config, fmt.Sprintf("daemon off;\nmaster_process off;\nerror_log stderr warn;\npid %s/pid;\n"+
		"events {}\nhttp {\n%sinclude %s;\n}\n", dir, &temp, site))
	return []string{"-e", "stderr", "-c", config}
}

func editHAProxy(s setup, port, dir string) []string {
	edits := []string{
		"bind :443", "bind 127.0.0.1:" + port,
		"bind [::]:443", "bind [::1]:" + port,
		"\ttimeout client", "\tlog stdout format raw local0\n\ttimeout client",
	}
	const condition = " unless { src 192.0.2.0/24 2001:db8::/32 }"
	if s.trusted == nil {
		edits = append(edits, condition, "")
	} else {
		edits = append(edits, condition, " unless { src "+strings.Join(s.trusted, " ")+" }")
	}
	if s.plain {
		edits = append(edits, " ssl crt /etc/haproxy/certs alpn h2,http/1.1", "")
	} else {
		edits = append(edits, "/etc/haproxy/certs", dir+"/pem")
	}
	if s.unprobed {
		edits = append(edits, "default-server check", "default-server no-check")
	}
	return edits
}

func editCaddy(s setup, port, dir string) []string {
	site := fmt.Sprintf("webhooks.example.com:%s {\n\ttls %s/pem %[2]s/pem\n", port, dir)
	if s.plain {
		site = "http://webhooks.example.com:" + port + " {\n"
	}
	trusted := ""
	if s.trusted != nil {
		trusted = "trusted_proxies " + strings.Join(s.trusted, " ")
	}
	return []string{
		"webhooks.example.com {", site,
		"trusted_proxies 192.0.2.0/24 2001:db8::/32", trusted,
		"\tservers {", "\tadmin off\n\tauto_https disable_redirects\n\tdefault_bind 127.0.0.1 [::1]\n\tservers {",
	}
}

// A proxy is a running server.
type proxy struct {
	kind
	port  string
	plain bool
	dir   string
}

// output is the file with what a proxy prints.
const output = "output"

// startProxy starts a proxy with its configuration. It stops when the test
// ends.
func startProxy(t *testing.T, k kind, s setup) *proxy {
	t.Helper()
	program, err := exec.LookPath(k.name)
	if err != nil { // Debian has two of them in sbin
		program, err = exec.LookPath("/usr/sbin/" + k.name)
	}
	require.NoError(t, err, "install it: apt-get install -y --no-install-recommends %s", k.name)
	dir := shortDir(t)
	p := &proxy{kind: k, port: freePort(t), plain: s.plain, dir: dir}
	text, err := os.ReadFile(k.file)
	require.NoError(t, err)
	config := string(text)
	edits := k.edit(s, p.port, dir)
	for i := 0; i < len(edits); i += 2 {
		require.Contains(t, config, edits[i])
		config = strings.ReplaceAll(config, edits[i], edits[i+1])
	}
	config = withUpstream(t, config, s.upstream)
	if s.hurried {
		config = hurried(config)
	}
	writeFile(t, filepath.Join(dir, "config"), config)
	writeFile(t, filepath.Join(dir, "pem"), certificate(t))

	said, err := os.Create(filepath.Join(dir, output))
	require.NoError(t, err)
	defer said.Close()
	ctx, cancel := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, program, k.args(t, dir, filepath.Join(dir, "config"))...)
	command.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir) // for Caddy's state
	command.Stdout, command.Stderr = said, said
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also after a timeout of the tests
	require.NoError(t, command.Start())
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", k.name, p.read(t, output))
		}
	})
	require.Eventually(t, func() bool {
		for _, host := range []string{"127.0.0.1", "::1"} { // a proxy may listen on one a little later
			conn, err := net.Dial("tcp", net.JoinHostPort(host, p.port))
			if err != nil {
				return len(ended) > 0
			}
			conn.Close()
		}
		return true
	}, aWhile, 10*time.Millisecond)
	require.Empty(t, ended, "%s has ended: %s", k.name, p.read(t, output))
	return p
}

// read returns the text of one of its files.
func (p *proxy) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, name))
	require.NoError(t, err)
	return string(text)
}

// withUpstream changes the upstream of a configuration. The line for a Unix
// socket stands below that for TCP, as a comment.
func withUpstream(t *testing.T, config, upstream string) string {
	t.Helper()
	require.Equal(t, 1, strings.Count(config, "127.0.0.1:8080"))
	path, isUnix := strings.CutPrefix(upstream, "unix:")
	if !isUnix {
		return strings.Replace(config, "127.0.0.1:8080", upstream, 1)
	}
	comment := regexp.MustCompile(`.*127\.0\.0\.1:8080.*\n(\s*)# (.*)/run/mailtrap/webhook\.sock`)
	require.Regexp(t, comment, config)
	return comment.ReplaceAllString(config, "${1}${2}"+path)
}

// hurry is how many times faster than in production the tests of times go.
var hurry = func() time.Duration {
	if os.Getenv("MAILTRAPWEBHOOK_FULL") != "" {
		return 1
	}
	return 8
}()

// hurried divides the times of a configuration.
func hurried(config string) string {
	return regexp.MustCompile(`\b\d+s\b`).ReplaceAllStringFunc(config, func(text string) string {
		limit, _ := time.ParseDuration(text)
		return strconv.FormatInt((limit/hurry).Milliseconds(), 10) + "ms"
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	port, err := servers.FreePort()
	require.NoError(t, err)
	return port
}

// shortDir returns a directory for sockets, whose paths have at most 107 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "proxies")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
}

// certificate returns the certificate and the key of testServer.
func certificate(t *testing.T) string {
	t.Helper()
	of := testServer.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(of.PrivateKey)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: of.Certificate[0]})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
}
