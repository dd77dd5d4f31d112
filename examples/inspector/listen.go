package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

const listenUsage = `Usage: inspector listen [flags]

Receives deliveries at /webhooks/mailtrap and shows them on a page.

  -addr address   where to listen; 127.0.0.1:8080 if it is not given
  -secret text    the webhook's signing secret; may be given several times.
                  Prefer ` + secretVariable + `, with commas between
                  several: other users of the machine see a command line
  -forward URL    pass each delivery on to this URL, and its answer back
  -dir folder     keep each delivery as a file in this folder

Without a secret, deliveries are received and not verified.
`

const webhookPath = "/webhooks/mailtrap"

// shutdownTimeout bounds the wait for open deliveries at the end. An app that
// deliveries are forwarded to has 30 seconds.
const shutdownTimeout = forwardTimeout + time.Second

//go:embed page
var pageFiles embed.FS

type listenOptions struct {
	addr    string
	secrets []string
	forward *url.URL // nil without -forward
	dir     string
}

func parseListen(args []string, env environment) (opts listenOptions, err error) {
	var secrets secretList
	flags := newFlags("listen")
	flags.StringVar(&opts.addr, "addr", "127.0.0.1:8080", "")
	flags.StringVar(&opts.dir, "dir", "", "")
	forward := flags.String("forward", "", "")
	secrets.addTo(flags)
	if err := parseFlags(flags, args); err != nil {
		return opts, err
	}
	if flags.NArg() > 0 {
		return opts, misused("unexpected argument %q", flags.Arg(0))
	}
	if _, _, err := net.SplitHostPort(opts.addr); err != nil {
		return opts, misused("-addr must be a host and a port, such as 127.0.0.1:8080")
	}
	if *forward != "" {
		if opts.forward, err = parseTarget(*forward); err != nil {
			return opts, misused("-forward %v", err)
		}
	}
	opts.secrets, err = secrets.secrets(env.getenv)
	return opts, err
}

// parseTarget reads a URL that is sent to. Its errors do not quote the URL,
// which may hold a password.
func parseTarget(text string) (*url.URL, error) {
	target, err := url.Parse(text)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return nil, errors.New("must be an http or https URL, such as http://127.0.0.1:3000/webhooks/mailtrap")
	}
	target.Fragment = ""
	return target, nil
}

// An inspector receives deliveries and shows them.
type inspector struct {
	secrets []string
	store   *store
	dir     *captureDir // nil without -dir
	forward *forwarder  // nil without -forward
	bodies  *bodies
	runs    *runs
	info    info
	lines   *printer      // of deliveries
	notes   *printer      // of everything else
	done    chan struct{} // closed when the streams must end
}

func listen(ctx context.Context, args []string, env environment) error {
	opts, err := parseListen(args, env)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", opts.addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("another program listens on %s: end it, or choose another address with -addr", opts.addr)
	case err != nil:
		return fmt.Errorf("cannot listen: choose another address with -addr (%w)", err)
	}
	if isOwn(opts.forward, listener.Addr()) {
		return errors.Join(errors.New("-forward leads to the inspector itself: name the URL of your program"), listener.Close())
	}
	in, err := newInspector(opts, listener.Addr(), env)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	in.greet(listener.Addr())
	return in.serve(ctx, listener, opts.addr)
}

// isOwn reports whether deliveries would go on to the inspector for ever.
func isOwn(target *url.URL, addr net.Addr) bool {
	if target == nil || target.Path != webhookPath {
		return false
	}
	own := strings.TrimPrefix(baseURL(addr), "http://")
	host := strings.ToLower(target.Host)
	return host == own || strings.Replace(host, "localhost", "127.0.0.1", 1) == own
}

// newInspector returns an inspector that has the captures of its folder.
func newInspector(opts listenOptions, addr net.Addr, env environment) (*inspector, error) {
	in := &inspector{
		secrets: opts.secrets,
		store:   newStore(),
		bodies:  newBodies(),
		info:    newInfo(opts, addr),
		lines:   &printer{w: env.stdout},
		notes:   &printer{w: env.stderr},
		done:    make(chan struct{}),
	}
	in.runs = newRuns(in)
	if opts.forward != nil {
		in.forward = newForwarder(opts.forward)
	}
	if opts.dir == "" {
		return in, nil
	}
	var err error
	if in.dir, err = openDir(opts.dir); err != nil {
		return nil, err
	}
	return in, in.load()
}

// load shows the captures of the folder again.
func (in *inspector) load() error {
	captures, err := in.dir.load(in.store.max, in.notes)
	for _, c := range captures {
		in.store.add(inspect(c, in.secrets))
	}
	return err
}

// greet prints where to go.
func (in *inspector) greet(addr net.Addr) {
	base := baseURL(addr)
	in.lines.linef("the page             %s/", base)
	in.lines.linef("the webhook's URL    %s%s", base, webhookPath)
	in.lines.linef("                     give Mailtrap this path behind your tunnel's address")
	if in.forward != nil {
		in.lines.linef("deliveries go on to  %s", in.info.Forward)
	}
	if len(in.secrets) == 0 {
		in.notes.linef("inspector: there is no secret, so deliveries are not verified: set %s", secretVariable)
	}
	if tcp, ok := addr.(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		in.notes.linef("inspector: warning: other machines can reach %s and see every delivery:"+
			" leave -addr out unless you want that", addr)
	}
}

// baseURL returns the URL of the server for a browser on this machine.
func baseURL(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "http://" + addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// serve serves until ctx ends. It then answers the deliveries that have begun.
func (in *inspector) serve(ctx context.Context, listener net.Listener, addr string) error {
	server := &http.Server{
		Handler:           in.handler(addr),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(logWriter{in.notes}, "", 0),
	}
	server.RegisterOnShutdown(func() { close(in.done) })
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	in.notes.linef("inspector: stopping; open deliveries are answered first")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	in.runs.stop()
	if err := server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("deliveries are still open: %w", err), server.Close())
	}
	return nil
}

// A logWriter takes the lines of the server's log.
type logWriter struct{ notes *printer }

func (w logWriter) Write(line []byte) (int, error) {
	w.notes.linef("inspector: %s", line[:max(0, len(line)-len("\n"))])
	return len(line), nil
}

// handler returns the handler of everything. The webhook takes any Host, since
// tunnels change it. The rest shows people's mail and is guarded.
func (in *inspector) handler(addr string) http.Handler {
	page, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // the name is fixed
	}
	guarded := http.NewServeMux()
	guarded.Handle("/", in.readOnly(http.FileServerFS(page)))
	in.addAPI(guarded)

	all := http.NewServeMux()
	all.HandleFunc(webhookPath, in.receive)
	all.Handle("/", newGuard(addr, in.notes).protect(guarded))
	return all
}

// readOnly refuses what is not GET or HEAD. A file server answers 200 to a POST,
// which would acknowledge a delivery to the wrong path.
func (in *inspector) readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		err := &refusal{http.StatusMethodNotAllowed, "the page only answers GET: deliveries go to " + webhookPath}
		in.notes.linef("inspector: refused a %s: %v", r.Method, err)
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, err)
	})
}

// version returns the version of the module that the program was built from.
func version() string {
	if build, ok := debug.ReadBuildInfo(); ok && build.Main.Version != "" {
		return build.Main.Version
	}
	return "(devel)"
}
